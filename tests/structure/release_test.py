"""scripts/release.sh refuses what must not be released, in one line; the SPDX document has all that cmake finds.

    release_test.py SOURCE_DIR
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parents[2]


class Release(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.tree = Path(folder.name)
        for name in ("scripts/release.sh", "scripts/common.sh", "CMakeLists.txt", "bindings/python/pyproject.toml"):
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE_DIR / name, self.tree / name)
        self.version = re.search(r"project\(engram VERSION ([0-9.]+)", (self.tree / "CMakeLists.txt").read_text())[1]
        self.changelog("unreleased")

    def changelog(self, day):
        (self.tree / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{self.version}] - {day}\n")

    def git(self, *arguments):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=self.tree, check=True,
                       capture_output=True)

    def check_refusal(self, pattern, *arguments, code=1):
        done = subprocess.run([self.tree / "scripts/release.sh", *arguments], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PYTHON": "false"})
        self.assertEqual((code, ""), (done.returncode, done.stdout))
        self.assertRegex(done.stderr, rf"\Aerror: [^\n]*{pattern}[^\n]*\n\Z")
        self.assertFalse((self.tree / "dist").exists())

    def test_versions_that_contradict(self):
        self.check_refusal("VERSION is '1.0'", "1.0", code=2)
        self.check_refusal(f"CMakeLists.txt has version {self.version}, wanted 9.9.9", "9.9.9")
        self.check_refusal("give it the day of the release", self.version)
        self.version, version = "7.7.7", self.version
        self.changelog("2026-12-01")
        self.check_refusal(re.escape("CHANGELOG.md begins with '## [7.7.7]"), version)
        pyproject = self.tree / "bindings/python/pyproject.toml"
        pyproject.write_text(re.sub(r'(?m)^version = .*', 'version = "7.7.7"', pyproject.read_text()))
        self.check_refusal("pyproject.toml has version 7.7.7", version)

    def test_a_tree_that_is_not_clean(self):
        self.git("init", "-q")
        self.check_refusal("the tree is not clean", self.version, "--trial")
        self.git("add", ".")
        self.git("commit", "-qm", "all")
        self.check_refusal("wanted 3.12 or later", self.version, "--trial")  # the next check: PYTHON is no Python

    def test_the_document_has_every_library(self):
        sys.path.insert(0, str(SOURCE_DIR / "scripts"))
        import sbom
        cmake = (SOURCE_DIR / "cmake/EngramDependencies.cmake").read_text()
        found = set(re.findall(r"(?m)^\s*find_package\((\w+)", cmake)) | set(re.findall(r"(?m)^\s*engram_pkg\((\w+)", cmake))
        self.assertEqual(found - {"Threads", "PkgConfig", "GTest"}, set(sbom.LINKED) - {"libstdc++", "nanobind"})
        page = (SOURCE_DIR / "docs/dependencies.md").read_text()
        for package, _, _ in sbom.LINKED.values():
            if package and package != "libstdc++6":
                self.assertIn(package, page)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SOURCE_DIR = Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
