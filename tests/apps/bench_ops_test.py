"""`engram bench ops` has a case for every kernel, and every case runs and agrees with its rivals. No times.

    bench_ops_test.py PROGRAM
"""

import json
import subprocess
import sys
import unittest
from pathlib import Path

PROGRAM = ""
KERNELS = Path(__file__).resolve().parents[2] / "engram/kernels"
# What bench ops cannot have a case for: formats and helpers without a loop over data.
NO_KERNEL = {"bf16", "row_format"}
# Made of instructions that a processor may lack.
OPTIONAL = {"gemm_bf16"}


def kernel_names(folder):
    """Every source with a loop in it; X_plain.cc has only oracles of X, X_x86.cc and X_portable.cc its forms."""
    names = {path.stem for path in folder.iterdir() if path.suffix in (".h", ".cc")}
    return {name for name in names if not name.endswith(("-inl", "_plain", "_x86", "_portable"))} - NO_KERNEL


def bench(*arguments):
    return subprocess.run([PROGRAM, "bench", "ops", *arguments], capture_output=True, text=True)


class BenchOps(unittest.TestCase):
    def test_every_kernel_has_a_case_that_runs(self):
        done = bench("--quick", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        self.assertEqual(set(result["kernels"]), kernel_names(KERNELS))
        self.assertLessEqual(set(result["kernels"]) - {row["kernel"] for row in result["rows"]}, OPTIONAL)
        for row in result["rows"]:
            self.assertTrue(row["rivals"] and row["us"] > 0 and row["ratio"] > 0, row)

    def test_an_unknown_kernel_is_named(self):
        done = bench("--only", "warp")
        self.assertEqual(done.returncode, 1)
        self.assertIn("kernel: got 'warp', wanted one of attention, ", done.stderr)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
