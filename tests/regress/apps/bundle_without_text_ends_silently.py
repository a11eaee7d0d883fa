"""Seen: in a bundle without the folder `demo` every call of run.sh ended with exit code 1 and no message, because
`find demo` failed. Right: the program runs; text that is there is unpacked first.

    bundle_without_text_ends_silently.py SOURCE_DIR
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = ""


class Bundle(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.bundle = Path(folder.name)
        for name in ("bin", "torch/lib"):
            (self.bundle / name).mkdir(parents=True)
        shutil.copy(Path(SOURCE_DIR) / "scripts/bundle/run.sh", self.bundle)
        shutil.copy(shutil.which("true"), self.bundle / "bin/engram-torch")
        for name, text in {"engram": 'echo "ran $*"', "zstd": 'cp "$4" "$6"'}.items():
            (self.bundle / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.bundle / "bin" / name).chmod(0o755)
        (self.bundle / "torch/lib/libtorch_cpu.so").touch()
        (self.bundle / "torch/version.py").write_text("__version__ = '2.11.0'\n")
        (self.bundle / "BUILD").write_text("engram\n")

    def run_bundle(self):
        done = subprocess.run(["bash", self.bundle / "run.sh", "train", "x"], capture_output=True, text=True,
                              env={**os.environ, "TORCH_ROOT": str(self.bundle)}, timeout=60)
        self.assertEqual((0, "ran train x\n", ""), (done.returncode, done.stdout, done.stderr))

    def test_without_text(self):
        self.run_bundle()

    def test_text_is_unpacked(self):
        (self.bundle / "demo/data").mkdir(parents=True)
        self.run_bundle()
        (self.bundle / "demo/data/a.txt.zst").write_text("text")
        self.run_bundle()
        self.assertEqual("text", (self.bundle / "demo/data/a.txt").read_text())


if __name__ == "__main__":
    SOURCE_DIR = sys.argv.pop(1)
    unittest.main(verbosity=2)
