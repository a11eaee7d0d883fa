"""Eight large posts at once, and sampling beside greedy decoding, over HTTP. usage: measure.py PORT"""

import http.client
import json
import statistics
import sys
import threading
import time
import urllib.request

PORT = int(sys.argv[1])
ROOT = f"http://127.0.0.1:{PORT}"


def post(body):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    start = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    return reply.status, (time.perf_counter() - start) * 1e3, text


def post_together(bodies):
    """Replies of all bodies, sent at once, and the milliseconds until the last."""
    replies = [None] * len(bodies)

    def work(i):
        replies[i] = post(bodies[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(bodies))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies, (time.perf_counter() - start) * 1e3


model = json.load(urllib.request.urlopen(f"{ROOT}/v1/models"))["data"][0]["id"]

large = json.dumps({"model": model, "prompt": "word " * 200000, "max_tokens": 4}).encode()
print("a body has", len(large), "bytes")
for _ in range(5):
    health, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            start = time.perf_counter()
            urllib.request.urlopen(f"{ROOT}/health").read()
            health.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.002)

    asker = threading.Thread(target=ask)
    asker.start()
    replies, _ = post_together([large] * 8)
    stop.set()
    asker.join()
    print("status and ms:", [(status, round(ms)) for status, ms, _ in replies],
          f"/health: {len(health)} asked, slowest {max(health):.0f} ms")

CASES = {"greedy": {"temperature": 0}, "temperature 1": {"temperature": 1},
         "temperature 1, top_p .9": {"temperature": 1, "top_p": 0.9},
         "temperature .7, top_k 40, top_p .95": {"temperature": 0.7, "top_p": 0.95, "top_k": 40}}


def request(i, options):
    return json.dumps({"model": model, "prompt": f"The President of the country number {i} was", "max_tokens": 128,
                       "seed": i, "ignore_eos": True, **options}).encode()


post(request(0, CASES["greedy"]))  # warm-up
times = {name: [] for name in CASES}
for _ in range(9):  # the cases take turns
    for name, options in CASES.items():
        replies, ms = post_together([request(i, options) for i in range(8)])
        times[name].append(ms / sum(json.loads(text)["usage"]["completion_tokens"] for _, _, text in replies))
for name, values in times.items():
    ratios = [a / b for a, b in zip(values, times["greedy"])]
    print(f"{name}: {statistics.median(values):.4f} ms a token, {statistics.median(ratios):.3f} of greedy")
