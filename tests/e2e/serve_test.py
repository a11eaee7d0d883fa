"""A trained checkpoint behind HTTP, its tables on the drive: what the server says equals what `engram generate` prints.

    serve_test.py ENGRAM SOURCE_DIR

ENGRAM_LOAD_REQUESTS: how many requests the load test sends (default 300; 10000 is the full form).
"""

import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path

ENGRAM, SOURCE_DIR = Path(sys.argv.pop(1)).resolve(), Path(sys.argv.pop(1)).resolve()
RECIPE = SOURCE_DIR / "recipes" / "smoke.toml"
PROMPTS = ["the ", "a", "one day the cat", "water is", "then the", "of the", "in a house", "what"]


def run(*arguments, code=0):
    done = subprocess.run([str(ENGRAM), *map(str, arguments)], capture_output=True, text=True, cwd=SOURCE_DIR)
    if done.returncode != code:
        raise AssertionError(f"{arguments}: exit code {done.returncode}, wanted {code}\n{done.stderr[-4000:]}")
    return done


class Server:
    """with Server(checkpoint, flags...) as server: server.url, server.process"""

    def __init__(self, *arguments):
        self.command = [str(ENGRAM), "serve", *map(str, arguments), "--port", "0"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if " at http" not in line:
            raise AssertionError(f"{self.command}: {line}{self.process.stderr.read()}")
        self.url = line.split(" at ")[1].split()[0]
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.code = self.process.wait(timeout=60)
        self.process.stdout.close()
        self.process.stderr.close()


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def pages_of(rows_file, trace):
    """Pages of the row file that a trace's rows lie in (docs/formats/row_file.md)."""
    with open(rows_file, "rb") as file:
        header = file.read(4088)
    length = int.from_bytes(header[24:28], "little")
    tables = {layer["layer_id"]: layer for layer in json.loads(header[64:64 + length])["layers"]}
    return {tables[layer["layer_id"]]["first_page"] + row["id"] // tables[layer["layer_id"]]["rows_per_page"]
            for token in trace["tokens"] for layer in token["layers"] for row in layer["rows"]}


def get(url, path):
    with urllib.request.urlopen(url + path, timeout=60) as reply:
        return reply.read().decode()


class Serve(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.checkpoint = Path(cls.folder.name) / "smoke"
        cls.rows = Path(cls.folder.name) / "smoke.rows"
        run("train", RECIPE, "--set", f"train.output={cls.checkpoint}", "--set", "train.steps=20")
        run("table", "convert", cls.checkpoint, cls.rows)
        cls.server = Server(cls.checkpoint, "--table", f"nvme:{cls.rows}?cache=1MiB", "--model-name", "smoke").__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        cls.folder.cleanup()

    def complete(self, prompt, **fields):
        return post(self.server.url, "/v1/completions",
                    {"model": "smoke", "prompt": prompt, "temperature": 0, "max_tokens": 12, **fields})

    def test_answers_equal_generate(self):
        flags = ("--max-tokens", 12, "--temperature", 0, "--json")
        for memory in ("on", "off"):
            wanted = [json.loads(run("generate", self.checkpoint, "--prompt", p, *flags, "--memory", memory).stdout)["text"]
                      for p in PROMPTS]
            with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
                got = list(pool.map(lambda p: self.complete(p, memory=memory)["choices"][0]["text"], PROMPTS))
            self.assertEqual(wanted, got, f"memory {memory}")

    def test_drafts_change_nothing_but_the_steps(self):
        with Server(self.checkpoint, "--table", f"nvme:{self.rows}?cache=1MiB", "--draft-tokens", 4) as drafting:
            for prompt in PROMPTS:
                body = {"prompt": prompt, "temperature": 0, "max_tokens": 40}
                self.assertEqual(self.complete(prompt, max_tokens=40)["choices"][0]["text"],
                                 post(drafting.url, "/v1/completions", body)["choices"][0]["text"])
            metrics = json.loads(get(drafting.url, "/metrics.json"))
            self.assertGreater(metrics["accepted_draft_tokens"], 0)
            self.assertLess(metrics["steps"], metrics["generated_tokens"])

    def test_a_stream_gives_the_same_text(self):
        whole = self.complete("the ")["choices"][0]["text"]
        body = {"model": "smoke", "prompt": "the ", "temperature": 0, "max_tokens": 12, "stream": True}
        request = urllib.request.Request(self.server.url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            lines = [line[6:] for line in reply.read().decode().splitlines() if line.startswith("data: ")]
        self.assertEqual("[DONE]", lines[-1])
        self.assertEqual(whole, "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1]))

    def test_a_chat_is_what_its_template_makes_of_it(self):
        messages = [{"role": "user", "content": "the cat"}]
        fields = {"messages": messages, "temperature": 0, "max_tokens": 12}
        answer = post(self.server.url, "/v1/chat/completions", {"model": "smoke", **fields})["choices"][0]
        same = self.complete("user: the cat\nassistant:", stop=["\nuser:", "\nassistant:", "\nsystem:", "\ntool:"])
        self.assertEqual(same["choices"][0]["text"], answer["message"]["content"])
        copy = Path(self.folder.name) / "with_template"
        shutil.copytree((self.checkpoint / "latest").resolve(), copy)
        config = json.loads((copy / "config.json").read_text())

        def serve(template):
            (copy / "config.json").write_text(json.dumps({**config, "chat_template": template}))
            return Server(copy)

        with serve("{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}") as server:
            answer = post(server.url, "/v1/chat/completions", fields)["choices"][0]["message"]["content"]
            self.assertEqual(self.complete("<|endoftext|>[user] the cat ")["choices"][0]["text"], answer)
        with serve("{% include 'x' %}") as server:
            with self.assertRaises(urllib.error.HTTPError) as error:
                post(server.url, "/v1/chat/completions", fields)
            self.assertIn("chat template: line 1: the tag 'include'", json.load(error.exception)["error"]["message"])
            error.exception.close()
            post(server.url, "/v1/completions", {"prompt": "a", "max_tokens": 1})
            server.process.send_signal(signal.SIGTERM)
            self.assertIn("no chat", server.process.stderr.read())

    def test_the_trace_names_gates_rows_and_tiers(self):
        trace = post(self.server.url, "/v1/memory/trace", {"model": "smoke", "prompt": "the cat", "max_tokens": 4})
        layers = trace["tokens"][0]["layers"]
        self.assertEqual(trace["layer_ids"], [layer["layer_id"] for layer in layers])
        for token in trace["tokens"]:
            for layer in token["layers"]:
                self.assertTrue(all(0 <= gate <= 1 for gate in layer["gates"]))
                self.assertTrue(all(row["tier"] in ("cache", "drive") for row in layer["rows"]))
        self.complete("the cat")
        again = post(self.server.url, "/v1/memory/trace", {"model": "smoke", "prompt": "the cat"})
        self.assertTrue(all(row["hit"] for token in again["tokens"] for layer in token["layers"] for row in layer["rows"]),
                        "rows read before are in the cache")

    def test_metrics_count(self):
        self.complete("the ")
        metrics = get(self.server.url, "/metrics")
        for name in ("engram_store_", "time_to_first_token", "stall"):
            self.assertIn(name, metrics)
        self.assertIn("<html", get(self.server.url, "/").lower())

    def test_what_cannot_be_served_is_a_400(self):
        for fields in ({"max_tokens": 100000}, {"prompt": 5}, {"temperature": -1}):
            with self.assertRaises(urllib.error.HTTPError) as error:
                self.complete(**{"prompt": "x", **fields})
            self.assertEqual(400, error.exception.code)
            self.assertIn("error", json.load(error.exception))
            error.exception.close()
        self.complete("still there")

    def test_a_port_in_use_is_one_line(self):
        port = self.server.url.rsplit(":", 1)[1]
        done = run("serve", self.checkpoint, "--port", port, code=1)
        self.assertRegex(done.stderr.splitlines()[-1], f"^error: .*{port}")

    def test_any_other_address_wants_a_key(self):
        done = run("serve", self.checkpoint, "--port", "0", "--host", "0.0.0.0", code=1)
        self.assertRegex(done.stderr.splitlines()[-1], "^error: .*key")

    def test_a_foreign_table_is_refused(self):
        other = Path(self.folder.name) / "other"
        run("train", RECIPE, "--set", f"train.output={other}", "--set", "train.steps=1", "--set",
            "model.engram.seed=5")
        done = run("serve", other, "--port", "0", "--table", f"dram:{self.rows}", code=1)
        self.assertRegex(done.stderr.splitlines()[-1], "^error: .*hashes tokens to other rows")

    def test_a_damaged_page_fails_those_who_need_it(self):
        pages = [pages_of(self.rows, post(self.server.url, "/v1/memory/trace",
                                          {"model": "smoke", "prompt": p, "max_tokens": 12, "temperature": 0}))
                 for p in PROMPTS]
        wanted = [self.complete(p)["choices"][0]["text"] for p in PROMPTS]
        page = next(page for page in sorted(set.union(*pages)) if 0 < sum(page in some for some in pages) < len(PROMPTS))
        damaged = Path(self.folder.name) / "damaged.rows"
        damaged.write_bytes(self.rows.read_bytes())
        with open(damaged, "r+b") as file:
            file.seek(page * 4096 + 17)
            byte = file.read(1)[0]
            file.seek(page * 4096 + 17)
            file.write(bytes([byte ^ 1]))
        with Server(self.checkpoint, "--table", f"nvme:{damaged}", "--model-name", "smoke") as server:
            def complete(prompt):
                try:
                    body = {"model": "smoke", "prompt": prompt, "temperature": 0, "max_tokens": 12}
                    return post(server.url, "/v1/completions", body)["choices"][0]["text"]
                except urllib.error.HTTPError as error:
                    with error:
                        return error.code, json.load(error)["error"]["message"]
            with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
                got = list(pool.map(complete, PROMPTS))
            for needs, right, answer in zip((page in some for some in pages), wanted, got):
                if needs:
                    self.assertEqual(500, answer[0])
                    self.assertRegex(answer[1], f"damaged.rows.*page {page}\\b")
                else:
                    self.assertEqual(right, answer)
            self.assertIn("failed_reads", get(server.url, "/metrics"))

    def test_load(self):
        count = os.environ.get("ENGRAM_LOAD_REQUESTS", "300")
        done = subprocess.run([sys.executable, SOURCE_DIR / "tests/serve/load_test.py", self.server.url, "--requests", count,
                               "--pid", str(self.server.process.pid)], capture_output=True, text=True)
        print(done.stdout.strip())
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)

    def test_sigterm_under_load_lets_requests_end(self):
        with Server(self.checkpoint) as server:
            model = json.loads(get(server.url, "/v1/models"))["data"][0]["id"]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                body = {"model": model, "prompt": "the ", "max_tokens": 100, "ignore_eos": True}
                running = [pool.submit(post, server.url, "/v1/completions", body) for _ in range(8)]
                deadline = time.monotonic() + 30
                while json.loads(get(server.url, "/metrics.json"))["running"] < 8 and time.monotonic() < deadline:
                    if all(future.done() for future in running):
                        break
                server.process.send_signal(signal.SIGTERM)
                for future in running:
                    self.assertEqual(100, future.result()["usage"]["completion_tokens"])
            self.assertEqual(0, server.process.wait(timeout=60))


if __name__ == "__main__":
    unittest.main(verbosity=2)
