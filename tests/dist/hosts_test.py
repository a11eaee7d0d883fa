#!/usr/bin/env python3
"""Two hosts train one model: network namespaces of this machine, joined by a veth pair of limited speed.

    hosts_test.py ENGRAM SOURCE_DIR

Skipped without root, `ip`, `tc`, or a kernel that has what it takes.
"""

import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from ranks_of_training import Ranks, checkpoint, metrics

TIMEOUT = 4
SETTINGS = ["train.steps=12", "train.validation_batches=2", "data.synthetic.documents=100", "data.batch_size=2",
            "train.accumulation=2", "train.threads=1", "train.log_every=1000000", f"train.exchange_timeout={TIMEOUT}"]
ADDRESSES = ["10.213.1.1", "10.213.1.2"]


class Hosts(unittest.TestCase):
    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("network namespaces need root")
        self.names = [f"engram-test-{os.getpid()}-{host}" for host in (0, 1)]
        self.addCleanup(self.remove)
        self.remove()
        a, b = self.names
        commands = [f"ip netns add {a}", f"ip netns add {b}",
                    f"ip link add veth0 netns {a} type veth peer name veth0 netns {b}"]
        for name, address in zip(self.names, ADDRESSES):
            commands += [f"ip -n {name} addr add {address}/24 dev veth0", f"ip -n {name} link set lo up",
                         f"ip -n {name} link set veth0 up",
                         f"tc -n {name} qdisc add dev veth0 root tbf rate 1gbit burst 1mb latency 400ms"]
        for command in commands:
            done = subprocess.run(command, shell=True, capture_output=True, text=True)
            if done.returncode != 0:
                self.skipTest(f"{command}: {done.stderr.strip()}")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def remove(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def train(self, output, settings=()):
        command = [ENGRAM, "train", str(SOURCE / "recipes/smoke.toml"), "--set", f"train.output={self.folder / output}"]
        for setting in [*SETTINGS, *settings]:
            command += ["--set", setting]
        return command

    def on_hosts(self, command):
        variables = ["WORLD_SIZE=2", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1", f"MASTER_ADDR={ADDRESSES[0]}",
                     "MASTER_PORT=29500"]

        def on_host(rank):
            return ["ip", "netns", "exec", self.names[rank], "env", f"RANK={rank}", *variables, *command]

        return Ranks(on_host, 2)

    def test_two_hosts_give_one_process_s_bytes(self):
        codes, errors = Ranks(self.train("one"), 1).finish()
        self.assertEqual([0], codes, errors)
        codes, errors = self.on_hosts(self.train("two")).finish()
        self.assertEqual([0, 0], codes, errors)
        self.assertEqual(metrics(self.folder / "one"), metrics(self.folder / "two"))
        self.assertEqual(checkpoint(self.folder / "one"), checkpoint(self.folder / "two"))

    def test_a_cut_link_ends_both(self):
        ranks = self.on_hosts(self.train("cut", ("train.steps=100000", "train.validate_every=0")))
        self.addCleanup(lambda: [process.kill() for process in ranks.processes if process.poll() is None])
        log = self.folder / "cut/metrics.jsonl"
        deadline = time.monotonic() + 60
        while not log.exists() or len(log.read_text().splitlines()) < 5:
            self.assertLess(time.monotonic(), deadline)
            self.assertTrue(all(process.poll() is None for process in ranks.processes), "a rank has ended")
            time.sleep(0.05)
        subprocess.run(["ip", "-n", self.names[1], "link", "set", "veth0", "down"], check=True)
        begin = time.monotonic()
        codes, errors = ranks.finish(timeout=2 * TIMEOUT + 30)
        self.assertLess(time.monotonic() - begin, TIMEOUT + 15)
        self.assertEqual([1, 1], codes, errors)
        for rank, text in enumerate(errors):
            lines = [line for line in text.splitlines() if line.startswith("error: ")]
            self.assertEqual(1, len(lines), text)
            self.assertIn(f"rank {1 - rank} ", lines[0])


if __name__ == "__main__":
    ENGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    unittest.main(verbosity=2)
