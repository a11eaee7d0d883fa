"""docs/findings.md and README.md say what the studies' data say; the studies' summaries are made from them.

    findings_test.py ENGRAM SOURCE_DIR
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM = SOURCE_DIR = None


def load_script():
    spec = importlib.util.spec_from_file_location("findings", SOURCE_DIR / "scripts/findings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Findings(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="engram_findings_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def test_documents(self):
        self.assertEqual([], load_script().complaints(ENGRAM, SOURCE_DIR))

    def test_documents_sees_faults(self):
        script = load_script()
        for name in (script.FINDINGS, script.README):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE_DIR / name, self.folder / name)
        (self.folder / "results").symlink_to(SOURCE_DIR / "results")
        page = self.folder / script.FINDINGS
        page.write_text(page.read_text().replace("| seed 1 | 4.1279 |", "| seed 1 | 4.1270 |")
                        .replace("is the same: -.050", "is the same: -.051"))
        found = script.complaints(ENGRAM, self.folder)
        self.assertEqual(2, len(found), found)
        self.assertIn("table allocation-12 differs", found[0])
        self.assertIn("not found: OverEncoding's slope", found[1])
        self.assertEqual(1, len(script.complaints(ENGRAM, self.folder, write=True)), "a table is put right, a sentence is not")

    def test_pages(self):
        for study in sorted(SOURCE_DIR.glob("results/*-cpu-small-*")):
            copy = self.folder / study.name
            copy.mkdir()
            shutil.copy(study / "data.json", copy)
            subprocess.run([ENGRAM, "lab", "report", str(copy)], check=True, capture_output=True)
            self.assertEqual((study / "summary.md").read_text(), (copy / "summary.md").read_text(),
                             f"{study}: engram lab report makes it anew")


if __name__ == "__main__":
    ENGRAM, SOURCE_DIR = sys.argv.pop(1), Path(sys.argv.pop(1)).resolve()
    unittest.main()
