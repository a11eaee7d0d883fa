"""scripts/test_summary.py against a JUnit file as ctest 3.25 writes it.   summary_test.py SOURCE_DIR"""

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = Path(sys.argv.pop(1)) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE_DIR / "scripts"))
sys.dont_write_bytecode = True
import test_summary  # noqa: E402

JUNIT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="(empty)" tests="6" failures="3" disabled="0" skipped="2">
  <testcase name="cases" classname="cases" time="0.03" status="run"><system-out>[ RUN      ] A.a
[       OK ] A.a (0 ms)
[ RUN      ] A.b
a_test.cc:3: Skipped
no text file
here

[  SKIPPED ] A.b (0 ms)
[  PASSED  ] 1 test.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] A.b
</system-out></testcase>
  <testcase name="bad" classname="bad" time="0.03" status="fail"><failure message=""/><system-out>[ RUN      ] B.a
[  FAILED  ] B.a (0 ms)
[  PASSED  ] 3 tests.
[  FAILED  ] 2 tests, listed below:
[  FAILED  ] B.a
[  FAILED  ] B.b
</system-out></testcase>
  <testcase name="crash" classname="crash" time="0.01" status="fail"><failure message=""/><system-out>[ RUN      ] C.a
</system-out></testcase>
  <testcase name="golden" classname="golden" time="0.04" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/>
    <system-out>golden: no module file</system-out></testcase>
  <testcase name="missing" classname="missing" time="0" status="notrun">
    <skipped message="Unable to find executable"/><system-out>Unable to find executable: nothere</system-out></testcase>
  <testcase name="plain" classname="plain" time="0.04" status="run"><system-out></system-out></testcase>
</testsuite>
"""


class Summary(unittest.TestCase):
    def summary(self, files):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as output:
            for name, text in files.items():
                (Path(folder) / name).write_text(text)
            code = test_summary.main(folder)
        return code, output.getvalue().splitlines()

    def test_counts_and_reasons(self):
        code, lines = self.summary({"ctest-a.xml": JUNIT, "failed-steps.txt": "ctest-a\nbuild-asan\n"})
        self.assertEqual(1, code)
        self.assertEqual("5 passed, 5 failed, 2 skipped", lines[-1])
        self.assertIn("skipped: ctest-a: cases/A.b: no text file here", lines)
        self.assertIn("skipped: ctest-a: golden: golden: no module file", lines)
        for failure in ("ctest-a: bad", "ctest-a: crash", "ctest-a: missing (did not run)", "step build-asan"):
            self.assertIn("FAILED: " + failure, lines)

    def test_nothing_run_is_a_failure(self):
        self.assertEqual((1, ["0 passed, 0 failed, 0 skipped"]), self.summary({}))

    def test_success(self):
        start, end = JUNIT.index("  <testcase name=\"plain\""), JUNIT.index("</testsuite>")
        code, lines = self.summary({"ctest-a.xml": "<testsuite>" + JUNIT[start:end] + "</testsuite>"})
        self.assertEqual((0, "1 passed, 0 failed, 0 skipped"), (code, lines[-1]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
