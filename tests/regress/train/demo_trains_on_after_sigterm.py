#!/usr/bin/env python3
"""`kill -TERM` of `engram demo` (docker stop, systemd) was noted, and both runs trained on for hours.

Right: the children are told, each leaves a checkpoint, and the demo is gone within seconds with exit code 1 and one error
line. Killed with -9 its children end, too; the next demo goes on.

    demo_trains_on_after_sigterm.py ENGRAM SOURCE_DIR
"""
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ENGRAM, SOURCE_DIR = sys.argv[1], Path(sys.argv[2])


class DemoStops(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.output = Path(self.scratch.name) / "demo"

    def tearDown(self):
        self.scratch.cleanup()

    def start(self):
        recipe = SOURCE_DIR / "recipes/smoke.toml"
        settings = ["train.steps=100000", "train.checkpoint_every=5", "train.validation_batches=1",
                    "data.synthetic.documents=100", "data.batch_size=4", "train.validate_every=0", "train.threads=1"]
        return subprocess.Popen([ENGRAM, "demo", "--output", self.output, "--moe", recipe, "--engram", recipe,
                                 *(part for setting in settings for part in ("--set", setting))],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def children(self):
        """Processes that train under our output, however they came to be."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if f"train.output={self.output}/".encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    pass
        return found

    def wait_until(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)

    def wait_for_checkpoints(self, process):
        def both():
            self.assertIsNone(process.poll(), "the demo ended too early")
            return all((self.output / name / "latest").exists() for name in ("moe", "engram"))
        self.wait_until(both)

    def lock(self):
        try:
            return (self.output / ".lock").read_text()
        except FileNotFoundError:
            return ""

    def check_stop(self, process, sent):
        process.send_signal(sent)
        error = process.communicate(timeout=60)[1]
        errors = [line for line in error.splitlines() if line.startswith("error: ")]
        self.assertEqual((process.returncode, errors),
                         (1, ["error: interrupted: run the demo again to continue"]), error)
        self.assertEqual(self.children(), [])
        for name in ("moe", "engram"):
            log = (self.output / f"{name}.log").read_text()
            self.assertIn("error: interrupted after step", log)
            checkpoint = (self.output / name / "latest").resolve()
            self.assertIn(f"checkpoint {self.output / name / checkpoint.name}", log.splitlines()[-1])

    def test_every_way_to_stop(self):
        demo = self.start()
        self.wait_for_checkpoints(demo)
        self.assertEqual(len(self.children()), 2)
        self.check_stop(demo, signal.SIGTERM)

        demo = self.start()  # goes on
        self.wait_until(lambda: len(self.children()) == 2)
        demo.kill()
        demo.communicate()
        again = self.start()  # waits for the children that still write
        # Until it has the folder: the children of the killed demo are there at first, and so are its checkpoints.
        self.wait_until(lambda: again.poll() is not None or f'"pid":{again.pid},' in self.lock())
        self.wait_for_checkpoints(again)
        second = self.start()
        self.assertIn(f"error: {self.output}: in use by process {again.pid} on", second.communicate(timeout=60)[1])
        self.assertEqual(second.returncode, 1)
        self.wait_until(lambda: "tokens:" in (self.output / "moe.log").read_text())
        self.check_stop(again, signal.SIGINT)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
