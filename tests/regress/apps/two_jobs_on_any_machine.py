"""Seen: the scripts compiled with two jobs on any machine. scripts/demo.sh called scripts/setup.sh without the
--no-packages that it was given. Right: jobs come from cores and free memory; the flag is passed on.

    two_jobs_on_any_machine.py SOURCE_DIR
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parents[3]


class Scripts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def executable(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    def jobs(self, cores, free_kilobytes, limit="max", **environment):
        self.executable(self.folder / "bin/nproc", f"echo {cores}\n")
        (self.folder / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {free_kilobytes} kB\n")
        (self.folder / "limit").write_text(f"{limit}\n")
        inherited = {key: value for key, value in os.environ.items() if key != "ENGRAM_JOBS"}
        done = subprocess.run(
            ["bash", "-c", f"source {SOURCE_DIR}/scripts/common.sh; echo $JOBS"], capture_output=True, text=True,
            env={**inherited, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "MEMINFO": str(self.folder / "meminfo"),
                 "CGROUP_LIMIT": str(self.folder / "limit"), **environment})
        self.assertEqual(0, done.returncode, done.stderr)
        return int(done.stdout)

    def test_jobs(self):
        self.assertEqual(16, self.jobs(16, 64_000_000))
        self.assertEqual(7, self.jobs(16, 15_000_000))
        self.assertEqual(2, self.jobs(2, 64_000_000))
        self.assertEqual(1, self.jobs(8, 1_000_000))
        self.assertEqual(1, self.jobs(1, 64_000_000))
        self.assertEqual(3, self.jobs(16, 64_000_000, limit=6_500_000_000), "the limit of a container")
        self.assertEqual(5, self.jobs(16, 64_000_000, ENGRAM_JOBS="5"))

    def test_no_packages_is_passed_on(self):
        """The scripts of a copy of the tree, where the ones that work are replaced by ones that write their arguments."""
        for name in ("common.sh", "demo.sh", "test.sh", "test_summary.py"):
            (self.folder / "scripts").mkdir(exist_ok=True)
            shutil.copy(SOURCE_DIR / "scripts" / name, self.folder / "scripts" / name)
        for name in ("setup", "build", "corpus", "format"):
            self.executable(self.folder / f"scripts/{name}.sh", f'echo {name} "$@" >>"{self.folder}/calls"; exit 0\n')
        self.executable(self.folder / "build/release/engram", f'echo engram "$@" >>"{self.folder}/calls"\n')
        subprocess.run([self.folder / "scripts/demo.sh", "--set", "train.steps=2", "--no-packages"], check=True,
                       capture_output=True)
        calls = (self.folder / "calls").read_text().splitlines()
        self.assertEqual("setup --no-packages", calls[0])
        self.assertEqual(["engram demo --set train.steps=2", "build release programs"], calls[-2:])
        (self.folder / "calls").unlink()
        self.executable(self.folder / "bin/ctest", "exit 0\n")
        subprocess.run([self.folder / "scripts/test.sh", "--no-packages"], capture_output=True,
                       env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"})
        first = (self.folder / "calls").read_text().splitlines()[0]
        self.assertRegex(first, "^setup --clients --no-packages( --arm64)?$")  # where a cross compiler is installed


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SOURCE_DIR = Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
