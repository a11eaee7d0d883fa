"""Every script says what it does on --help, and refuses arguments that it does not know before it does anything.

    scripts_test.py SOURCE_DIR

Seen: `scripts/wheel.sh --help` deleted the wheel and built another, `scripts/demo.sh --bogus` built for half an hour
before it failed, and some helps lacked their last line.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parents[2]


class Scripts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = Path(folder.name)
        shutil.copytree(SOURCE_DIR / "scripts", self.tree / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        (self.tree / "dist").mkdir()
        (self.tree / "dist/engram_tables-0.whl").write_text("kept")
        self.scripts = sorted(set(self.tree.glob("scripts/*.sh")) - {self.tree / "scripts/common.sh"})
        self.assertGreater(len(self.scripts), 8)

    def run_script(self, script, *arguments, code):
        """Runs it in the copied tree, where nothing may have changed afterwards."""
        before = sorted(self.tree.rglob("*"))
        done = subprocess.run([script, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        self.assertEqual(code, done.returncode, f"{script.name} {arguments}: {done.stdout}{done.stderr}")
        self.assertEqual(before, sorted(self.tree.rglob("*")), f"{script.name} {arguments}")
        return done

    def test_help_is_the_whole_head_comment(self):
        for script in self.scripts:
            head = re.match(r"#!.*\n((?:#.*\n)+)", script.read_text())[1]
            for arguments in (("--help",), ("--no-such-flag", "-h")):
                done = self.run_script(script, *arguments, code=0)
                self.assertEqual(re.sub(r"(?m)^# ?", "", head), done.stdout)
                self.assertEqual("", done.stderr)
            self.assertIn(f"scripts/{script.name}", head)

    def test_unknown_arguments_are_refused_first(self):
        for script in self.scripts:
            done = self.run_script(script, "--no-such-flag", code=2)
            self.assertEqual("", done.stdout)
            self.assertRegex(done.stderr, r"\Aerror: [^\n]*--no-such-flag[^\n]*\(try --help\)\n\Z")
        for name, arguments in {"demo": ("--prompt",), "wheel": ("--build", "x"), "format": ("--check", "x"),
                                "bundle": ("--cpu", "x"), "test": ("--no-packages", "x"), "build": ("asan", "-x"),
                                "release": ("0.2", "--trial"), "try_packages": ("-x",), "static_libraries": ("arm", "x"),
                                "studies": ("--jobs", "x"), "corpus": ("--study", "-x")}.items():
            self.run_script(self.tree / f"scripts/{name}.sh", *arguments, code=2)

    def test_demo_knows_every_flag_of_the_command(self):
        flags = set(re.findall(r'add_(?:option|flag)\("(--[a-z-]+)"', (SOURCE_DIR / "apps/demo.cc").read_text()))
        self.assertGreater(len(flags), 4)
        script = (SOURCE_DIR / "scripts/demo.sh").read_text()
        self.assertEqual(set(), {flag for flag in flags if not re.search(rf"{flag}( \||\))", script)})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SOURCE_DIR = Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
