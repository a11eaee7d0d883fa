#!/usr/bin/env python3
"""Two `engram train` on one output removed each other's temporary files and mixed their metrics; afterwards --resume
refused for ever. `engram demo` likewise.

Right: the second leaves with one error that names the first's process, and changes nothing; after a kill -9 the output is
free, and --resume goes on.

    two_trainings_in_one_output.py ENGRAM SOURCE_DIR
"""
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ENGRAM, SOURCE_DIR = sys.argv[1], Path(sys.argv[2])
SMALL = ["train.steps=5000", "train.checkpoint_every=5", "train.validation_batches=1", "data.synthetic.documents=100",
         "data.batch_size=4", "train.threads=1", "train.validate_every=0"]


class OneOutput(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.output = Path(self.scratch.name) / "run"

    def tearDown(self):
        self.scratch.cleanup()

    def command(self, *arguments):
        settings = [f"train.output={self.output}", *SMALL]
        return [ENGRAM, "train", SOURCE_DIR / "recipes/smoke.toml",
                *(part for setting in settings for part in ("--set", setting)), *arguments]

    def wait_for(self, process, condition):
        end = time.monotonic() + 120
        while not condition():
            self.assertIsNone(process.poll(), "it ended too early")
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def test_the_second_names_the_first(self):
        first = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self.wait_for(first, (self.output / "latest").exists)
            for arguments in ([], ["--resume"]):
                second = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=60)
                errors = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
                self.assertEqual((second.returncode, len(errors)), (1, 1), second.stderr)
                self.assertIn(f"{self.output}: in use by process {first.pid} on ", errors[0])
                self.assertIn("smoke.toml", errors[0])
            self.assertIsNone(first.poll())  # it is not disturbed
        finally:
            first.send_signal(signal.SIGKILL)
            first.communicate()
        step = (self.output / "latest").resolve().name
        last = subprocess.run(self.command("--resume", "--set", f"train.stop_at={int(step[5:]) + 3}"),
                              capture_output=True, text=True, timeout=120)
        self.assertEqual(last.returncode, 0, last.stderr)
        self.assertFalse((self.output / ".lock").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
