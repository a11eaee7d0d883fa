"""scripts/row_bits.py: rounding by hand, and that a checkpoint's copy holds what was rounded.

    row_bits_test.py SOURCE_DIR
"""

import array
import importlib.util
import json
import struct
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = None
CHECKPOINT = "results/allocation-cpu-small-2026-11-26/weights/allocation-rho0.75-18.9m-s0"


def load_script():
    spec = importlib.util.spec_from_file_location("row_bits", SOURCE_DIR / "scripts/row_bits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_tables(path):
    blob = path.read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8:8 + size])
    header.pop("__metadata__")
    return {name: (t["dtype"], t["shape"], blob[8 + size:][slice(*t["data_offsets"])]) for name, t in header.items()}


class RowBits(unittest.TestCase):
    def check(self, values, variant, wanted, width=4):
        found = load_script().round_table(array.array("f", values), width, *variant)
        self.assertEqual(wanted, [round(x, 6) for x in found])

    def test_rounding(self):
        row = [7.0, -3.4, 2.5, 0.2]
        self.check(row, (16, None, None), row)
        self.check(row, (4, "float", "largest"), [7.0, -3.0, 2.0, 0.0])  # the step is 1, ties to even
        self.check(row + [14.0, 0, 0, 0], (4, "table", "largest"), [8.0, -4.0, 2.0, 0.0, 14.0, 0, 0, 0])
        self.check([3.0, -3.0, 1.0, -1.0], (2, "float", "largest"), [3.0, -3.0, 1.0, -1.0])
        self.check([3.0, -2.0, 1.0, -2.0], (1, "table", "fitted"), [2.0, -2.0, 2.0, -2.0])
        self.check([1.9, -1.9, 2.1, -2.1], (1, "power of two", "fitted"), [2.0, -2.0, 2.0, -2.0])
        self.check([448.0, 1.0, 0.001, 17.0], (8, "fp8", "largest"), [448.0, 1.0, 0.001953, 16.0])  # 17 is a tie
        self.check([0.0] * 4, (4, "float", "fitted"), [0.0] * 4)

    def test_a_fit_is_no_worse_than_the_largest_value(self):
        script = load_script()
        values = array.array("f", [((7919 * i) % 1000 - 500) / 250 + (2 if i % 31 == 0 else 0) for i in range(512)])
        for bits in (2, 4):
            error = {how: sum((a - b) ** 2 for a, b in zip(values, script.round_table(values, 8, bits, "float", how)))
                     for how in ("largest", "fitted")}
            self.assertLess(error["fitted"], error["largest"])

    def test_the_copy_holds_the_rounded_rows(self):
        script = load_script()
        with tempfile.TemporaryDirectory() as folder:
            script.write_rounded(SOURCE_DIR / CHECKPOINT, Path(folder), (1, "table", "fitted"))
            before = read_tables(SOURCE_DIR / CHECKPOINT / "engram.safetensors")
            after = read_tables(Path(folder) / "engram.safetensors")
            self.assertTrue((Path(folder) / "model.safetensors").exists())
        self.assertEqual(before.keys(), after.keys())
        for name, (dtype, shape, data) in after.items():
            self.assertEqual(shape, before[name][1])
            if name.endswith("embed.weight"):
                self.assertEqual("F32", dtype)
                self.assertEqual(1, len({abs(x) for x in array.array("f", data)}), "one bit: two values")
            else:
                self.assertEqual(before[name], (dtype, shape, data))


if __name__ == "__main__":
    SOURCE_DIR = Path(sys.argv.pop(1)).resolve()
    unittest.main()
