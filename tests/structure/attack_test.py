"""scripts/attack.py: attacks are found by their label, get their share of the time, and a finding fails the whole.

    attack_test.py SOURCE_DIR
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parents[2]


class Attack(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_attacks(self, commands, *names):
        """commands: {name: (labels, shell command)}, listed by a ctest of our own."""
        tests = [{"name": name, "command": ["sh", "-c", command],
                  "properties": [{"name": "LABELS", "value": labels}]} for name, (labels, command) in commands.items()]
        (self.folder / "listing").write_text(json.dumps({"tests": tests}))
        (self.folder / "ctest").write_text(f"#!/bin/sh\ncat {self.folder}/listing\n")
        (self.folder / "ctest").chmod(0o755)
        return subprocess.run(
            [sys.executable, SOURCE_DIR / "scripts/attack.py", "--minutes", "0.5", "--output", self.folder / "out",
             self.folder, "--", *names], capture_output=True, text=True,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"})

    GOOD = (["attack"], "echo $ENGRAM_ATTACK_SECONDS; echo 'attack: good, 12 cases, 0 failures, peak 34 MiB'")
    FUZZ = (["fuzz", "attack"], "echo stat::number_of_executed_units: 77; echo stat::peak_rss_mb: 88")

    def test_nothing_found(self):
        done = self.run_attacks({"good": self.GOOD, "fuzz": self.FUZZ, "other": (["unit"], "exit 1")})
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual("15\n", (self.folder / "out/good.log").read_text()[:3], "half of half a minute")
        rows = (self.folder / "out/attacks.md").read_text().splitlines()[2:]
        self.assertEqual(["| fuzz | 77 | 0 | 88 |  |", "| good | 12 | 0 | 34 |  |"], rows)

    def test_findings(self):
        done = self.run_attacks({"good": self.GOOD, "crash": (["attack"], "exit 77"),
                                 "found": (["attack"], "echo 'attack: found, 5 cases, 2 failures, peak 1 MiB'; exit 1")})
        self.assertEqual(1, done.returncode)
        self.assertIn("| crash | - | 1 | - | exit code 77 |", done.stdout)
        self.assertIn("| found | 5 | 2 | 1 | exit code 1 |", done.stdout)

    def test_names(self):
        self.assertEqual(0, self.run_attacks({"good": self.GOOD, "crash": (["attack"], "exit 77")}, "good").returncode)
        done = self.run_attacks({"good": self.GOOD}, "none")
        self.assertEqual(2, done.returncode)
        self.assertRegex(done.stderr, r"\Aerror: no attack none .*there are: good\n\Z")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SOURCE_DIR = Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
