"""Seen: every command, `engram --version` and `engram tokenizer` too, loaded libtorch: half a second of processor time.
Right: only the commands that compute with it do; they live in engram-train and engram-torch, which `engram`
becomes.

    small_commands_load_libtorch.py PROGRAM yes|no      was this build made with libtorch?
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = ""
WITH_TORCH = True
NEED_TORCH = ["demo", "eval", "generate", "lab", "serve", "train", "bench ops", "bench serve", "bench train"]


def run(program, *arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120)


class SmallCommands(unittest.TestCase):
    def test_the_program_needs_no_libtorch(self):
        listed = subprocess.run([PROGRAM], env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True,
                                text=True, timeout=60).stdout
        self.assertIn("libc.so", listed)
        self.assertNotIn("torch", listed)
        self.assertNotIn("libc10", listed)

    def test_every_command_is_listed(self):
        top, bench = run(PROGRAM, "--help").stdout, run(PROGRAM, "bench", "--help").stdout
        for name in NEED_TORCH:
            self.assertRegex(bench if " " in name else top, rf"\n  {name.split()[-1]} ")

    def test_commands_with_libtorch(self):
        if not WITH_TORCH:
            self.skipTest("built without libtorch")
        for name in NEED_TORCH:
            with self.subTest(name):
                done = run(PROGRAM, *name.split(), "--help")
                self.assertEqual(0, done.returncode, done.stderr)
                self.assertRegex(done.stdout, rf"\nUsage: engram {name} ")
                done = run(PROGRAM, *name.split(), "--xylophone")
                self.assertEqual(2, done.returncode)
                self.assertRegex(done.stderr, rf"\Aerror: engram {name} has no flag '--xylophone'")

    def test_both_programs_list_the_same_words(self):
        if not WITH_TORCH:
            self.skipTest("built without libtorch")
        mine = run(PROGRAM, "--help").stdout
        for suffix in ("-train", "-torch"):
            listed = re.findall(r"\n  (?:demo|eval|generate|lab|serve|train) .*", run(PROGRAM + suffix, "--help").stdout)
            self.assertLess(1, len(listed))
            for line in listed:
                self.assertIn(line, mine)

    def test_a_missing_program_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            alone = Path(folder) / "engram"
            shutil.copy(PROGRAM, alone)
            self.assertEqual(0, run(alone, "--version").returncode)
            for name in NEED_TORCH:
                done = run(alone, *name.split(), "--help")
                self.assertEqual(1, done.returncode)
                program = "engram-train" if name in ("demo", "train") else "engram-torch"
                self.assertEqual(f"error: engram {name}: needs the program {Path(folder).resolve()}/{program}, which "
                                 "is not there; scripts/build.sh makes it\n", done.stderr)


if __name__ == "__main__":
    PROGRAM, WITH_TORCH = sys.argv[1], sys.argv[2] == "yes"
    del sys.argv[1:3]
    unittest.main(verbosity=2)
