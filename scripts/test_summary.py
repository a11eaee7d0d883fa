"""Sums the JUnit files that scripts/test.sh left in a folder; the last line is "N passed, N failed, N skipped".

    test_summary.py FOLDER      exit code 1 when anything failed or nothing ran

A GoogleTest program reports its own cases, and those are counted; any other ctest entry counts as one. A step that
failed outside ctest (a build, say) counts as one failure.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path



def gtest_counts(output):
    """(passed, failed, skipped) of a GoogleTest program's output, or None when it is not one."""
    passed = re.search(r"^\[  PASSED  \] (\d+) tests?\.", output, re.MULTILINE)
    if not passed:
        return None
    failed = re.search(r"^\[  FAILED  \] (\d+) tests?, listed below", output, re.MULTILINE)
    skipped = re.search(r"^\[  SKIPPED \] (\d+) tests?, listed below", output, re.MULTILINE)
    return int(passed[1]), int(failed[1]) if failed else 0, int(skipped[1]) if skipped else 0


def gtest_skip_reasons(output):
    """A skipped case prints its reason ("file:line: Skipped", then the text) just above its SKIPPED line."""
    reasons = []
    block = []
    for line in output.splitlines():
        if line.startswith("[ RUN      ]"):
            block = []
        elif match := re.match(r"^\[  SKIPPED \] (\S+) \(\d+ ms\)$", line):
            text = " ".join(part.strip() for part in block if part.strip() and not part.endswith(": Skipped"))
            reasons.append(f"{match[1]}: {text or 'no reason given'}")
        else:
            block.append(line)
    return reasons


def last_line(output):
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def skip_message(case):
    """Why ctest did not run an entry; an entry that asked to be skipped names its SKIP_ property."""
    skipped = case.find("skipped")
    return "" if skipped is None else skipped.get("message", "")


def read_run(path):
    """One JUnit file -> {"passed", "failed", "skipped", "failures": [...], "reasons": [...]}."""
    run = {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "reasons": []}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name, status = case.get("name"), case.get("status")
        output = case.findtext("system-out") or ""
        counts = gtest_counts(output)
        if status == "run":
            passed, failed, skipped = counts or (1, 0, 0)
            run["reasons"] += [f"{name}/{reason}" for reason in gtest_skip_reasons(output)]
        elif status == "fail":
            passed, failed, skipped = counts or (0, 1, 0)
            failed = max(failed, 1)
            run["failures"].append(name)
        elif "SKIP_" not in skip_message(case):
            passed, failed, skipped = 0, 1, 0  # ctest could not run it: no such program, a missing file
            run["failures"].append(f"{name} (did not run)")
        else:
            passed, failed, skipped = 0, 0, 1
            run["reasons"].append(f"{name}: {last_line(output)}")
        run["passed"] += passed
        run["failed"] += failed
        run["skipped"] += skipped
    return run


def main(folder):
    total = {"passed": 0, "failed": 0, "skipped": 0}
    failures, reasons = [], []
    for path in sorted(Path(folder).glob("*.xml")):
        run = read_run(path)
        print(f"{path.stem:16} {run['passed']:6} passed {run['failed']:4} failed {run['skipped']:4} skipped")
        for key in total:
            total[key] += run[key]
        failures += [f"{path.stem}: {name}" for name in run["failures"]]
        reasons += [f"{path.stem}: {reason}" for reason in run["reasons"]]
    steps = Path(folder) / "failed-steps.txt"
    for step in steps.read_text().split() if steps.exists() else []:
        if not (Path(folder) / f"{step}.xml").exists():  # a ctest run reports its failures itself
            failures.append(f"step {step}")
            total["failed"] += 1
    for reason in reasons:
        print(f"skipped: {reason}")
    for failure in failures:
        print(f"FAILED: {failure}")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 1 if failures or total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
