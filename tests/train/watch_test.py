#!/usr/bin/env python3
"""`engram watch` makes one page of several runs, which needs nothing else.

    watch_test.py ENGRAM SOURCE_DIR
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path


class Watch(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_of(self, name, lines):
        (self.folder / name).mkdir()
        (self.folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(self.folder / name)

    def data_of(self, page):
        text = Path(page).read_text()
        self.assertNotRegex(text, r'(src|href)="(?!data:)')
        return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])

    def test_several_runs_over_each_other(self):
        long = [{"step": i, "loss": 1 / i, "gate_mean": [0.5, 0.25]} for i in range(1, 1201)]
        long[9]["samples"] = [{"prompt": "</script><b>", "text": "x"}]
        long[9]["histograms"] = {"gate/0": {"low": 0, "high": 1, "counts": [1, 2]}}
        runs = [self.run_of("a", long), self.run_of("b", [{"step": 1, "loss": 3, "validation_loss": 4}])]
        done = subprocess.run([ENGRAM, "watch", *runs], capture_output=True, text=True)
        self.assertEqual((0, f"{runs[0]}/watch.html\n"), (done.returncode, done.stdout), done.stderr)
        a, b = self.data_of(f"{runs[0]}/watch.html")["runs"]
        self.assertEqual({"loss", "gate_mean/0", "gate_mean/1"}, set(a["numbers"]))
        self.assertEqual(400, len(a["numbers"]["loss"]))
        self.assertEqual([3, (1 + 1 / 2 + 1 / 3) / 3], a["numbers"]["loss"][0])
        self.assertEqual(1200, a["numbers"]["loss"][-1][0])
        self.assertEqual({"step": 10, "shown": [{"prompt": "</script><b>", "text": "x"}]}, a["samples"])
        self.assertEqual([1, 2], a["histograms"]["shown"]["gate/0"]["counts"])
        self.assertEqual([[1, 4]], b["numbers"]["validation_loss"])

    def test_follows_a_run_until_it_is_stopped(self):
        run, page = self.run_of("a", [{"step": 1, "loss": 3}]), self.folder / "page.html"
        watch = subprocess.Popen([ENGRAM, "watch", run, "--output", str(page), "--follow", "1"], stdout=subprocess.PIPE)
        watch.stdout.readline()
        self.assertEqual(1, self.data_of(page)["refresh"])
        with open(f"{run}/metrics.jsonl", "a") as log:
            log.write(json.dumps({"step": 2, "loss": 2}) + "\n" + '{"step": 3, "lo')
        watch.send_signal(signal.SIGINT)
        self.assertEqual(0, watch.wait(60))
        data = self.data_of(page)
        self.assertEqual([[1, 3], [2, 2]], data["runs"][0]["numbers"]["loss"])
        self.assertEqual(0, data["refresh"])
        watch.stdout.close()

    def test_a_folder_that_is_no_run(self):
        done = subprocess.run([ENGRAM, "watch", str(self.folder / "none")], capture_output=True, text=True)
        self.assertEqual(1, done.returncode)
        self.assertRegex(done.stderr, r"^error: .*none/metrics.jsonl.*\n$")


if __name__ == "__main__":
    ENGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    unittest.main(verbosity=2)
