"""Load on a running server: many keep-alive connections, short completions, memory of the server watched.

    load_test.py URL [--requests 10000] [--connections 64] [--max-tokens 8] [--pid PID] [--key KEY] [--model NAME]

Prints one JSON line: requests, errors, seconds, latencies (ms) and, with --pid, the server's resident memory at the half
and at the end. Exit code 1 when a request failed, or when the second half added more than 2 % + 8 MiB of memory.
"""

import argparse
import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

PROMPTS = ["The king", "A short history of the", "Water is", "In the year", "She said that", "Most of the time the"]


def resident_bytes(pid):
    for line in open(f"/proc/{pid}/status", encoding="ascii"):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def request_bytes(host, number, options):
    body = json.dumps({
        "model": options.model,
        "prompt": f"{PROMPTS[number % len(PROMPTS)]} {number % 97}",
        "max_tokens": 1 + number % options.max_tokens,
        "temperature": 0.8,
        "seed": number,
    }).encode()
    key = f"Authorization: Bearer {options.key}\r\n" if options.key else ""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{key}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def answer(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return status, await reader.readexactly(length)


class Load:
    def __init__(self, options):
        self.options, self.next, self.errors, self.milliseconds, self.half_bytes = options, 0, [], [], 0
        url = urlsplit(options.url)
        self.host, self.port = url.hostname, url.port

    async def connection(self):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        while self.next < self.options.requests:
            number, self.next = self.next, self.next + 1
            if number == self.options.requests // 2 and self.options.pid:
                self.half_bytes = resident_bytes(self.options.pid)
            start = time.monotonic()
            writer.write(request_bytes(f"{self.host}:{self.port}", number, self.options))
            status, body = await answer(reader)
            self.milliseconds.append(1000 * (time.monotonic() - start))
            if status != 200 or not json.loads(body)["choices"]:
                self.errors.append(f"request {number}: {status} {body[:200]!r}")
        writer.close()

    async def run(self):
        await asyncio.gather(*(self.connection() for _ in range(self.options.connections)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--pid", type=int)
    parser.add_argument("--key")
    parser.add_argument("--model")
    load = Load(parser.parse_args())
    if not load.options.model:
        import urllib.request
        with urllib.request.urlopen(f"{load.options.url}/v1/models") as reply:
            load.options.model = json.load(reply)["data"][0]["id"]
    start = time.monotonic()
    asyncio.run(load.run())
    seconds = time.monotonic() - start
    ordered = sorted(load.milliseconds)
    result = {
        "requests": len(ordered),
        "connections": load.options.connections,
        "errors": len(load.errors),
        "seconds": round(seconds, 2),
        "requests_per_second": round(len(ordered) / seconds, 1),
        "p50_ms": round(ordered[len(ordered) // 2], 1),
        "p99_ms": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 1),
        "max_ms": round(ordered[-1], 1),
    }
    leaked = False
    if load.options.pid:
        end = resident_bytes(load.options.pid)
        result |= {"rss_half": load.half_bytes, "rss_end": end}
        leaked = end > load.half_bytes * 1.02 + (8 << 20)
    print(json.dumps(result))
    for error in load.errors[:5]:
        print(error, file=sys.stderr)
    sys.exit(1 if load.errors or leaked else 0)


if __name__ == "__main__":
    main()
