"""Installs libengram into an empty folder and builds examples/ against it as a stranger would.

    install_test.py BUILD_DIR ENGRAM
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD_DIR, ENGRAM = "", ""
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*arguments, **options):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done.stdout


class Install(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        # Installed in one place, used in another: nothing may hold the prefix.
        run("cmake", "--install", BUILD_DIR, "--prefix", self.folder / "staging")
        self.prefix = self.folder / "prefix"
        shutil.move(self.folder / "staging", self.prefix)
        self.library = next(self.prefix.rglob("libengram.so")).parent
        self.table = self.folder / "t.rows"
        run(ENGRAM, "table", "create", "--synthetic", "--size", "2MiB", self.table)

    def example(self, program, *arguments):
        return run(program, f"dram:{self.table}", "-", *arguments, env={**os.environ, "LD_LIBRARY_PATH": self.library})

    def check_lookup(self, program):
        self.assertIn("72 rows read in 1 calls", self.example(program, 0, 1, 2, 3))

    def test_cmake_package(self):
        build = self.folder / "build"
        run("cmake", "-S", EXAMPLES, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        run("cmake", "--build", build)
        self.check_lookup(build / "lookup")
        self.assertIn("sequence 1: ", self.example(build / "decode_loop", 1000, 2, 3))

    def test_pkg_config(self):
        environment = {**os.environ, "PKG_CONFIG_PATH": str(self.library / "pkgconfig")}
        flags = run("pkg-config", "--cflags", "--libs", "engram", env=environment).split()
        run(os.environ.get("CC", "cc"), EXAMPLES / "lookup.c", "-o", self.folder / "lookup", *flags)
        self.check_lookup(self.folder / "lookup")

    def test_only_the_abi_is_visible(self):
        symbols = run("nm", "-D", "--defined-only", self.library / "libengram.so").split("\n")
        names = {line.split()[-1].split("@")[0] for line in symbols if line}
        self.assertIn("engram_read", names)
        self.assertEqual([], sorted(name for name in names if not name.startswith("engram_")))


if __name__ == "__main__":
    BUILD_DIR, ENGRAM = sys.argv[1:3]
    del sys.argv[1:3]
    unittest.main()
