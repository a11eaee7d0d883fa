"""`engram table` as people call it: exit codes, one error line, JSON, damage.

    table_command_test.py PROGRAM
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = ""
TABLES = Path(__file__).resolve().parents[1] / "parity/tables"


class TableCommand(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def engram(self, *arguments, code=0):
        done = subprocess.run([PROGRAM, "table", *map(str, arguments)], capture_output=True, text=True)
        self.assertEqual(code, done.returncode, done.stderr)
        if code == 1:
            last = done.stderr.rstrip("\n").split("\n")[-1]
            self.assertTrue(last.startswith("error: "), done.stderr)
            self.assertEqual(1, done.stderr.count("error: "), done.stderr)
            return last
        return done.stdout

    def test_create_inspect_lookup_verify(self):
        file = self.folder / "t.rows"
        self.engram("create", "--synthetic", "--size", "8MiB", file)
        self.assertLessEqual(file.stat().st_size, 8 << 20)
        self.assertGreater(file.stat().st_size, 7.5 * (1 << 20))
        self.assertGreaterEqual(file.stat().st_blocks * 512, file.stat().st_size, "a sparse file")
        info = json.loads(self.engram("inspect", file, "--json"))
        self.assertEqual([1, 14], [layer["layer"] for layer in info["layers"]])
        self.assertEqual({"row_dim": 256, "dtype": "fp8", "row_bytes": 264},
                         {key: info["layers"][0][key] for key in ("row_dim", "dtype", "row_bytes")})
        self.assertEqual(4, info["hash"]["max_ngram_size"])
        rows = json.loads(self.engram("lookup", file, "--layer", 14, "--ids", "0 5, 7", "--json"))
        self.assertEqual([14, 256, 3, 256], [rows["layer"], rows["row_dim"], len(rows["rows"]), len(rows["rows"][2])])
        again = json.loads(self.engram("lookup", file, "--layer", 14, "--ids", "7", "--json"))
        self.assertEqual(rows["rows"][2], again["rows"][0])
        self.assertEqual({"kind": "row file", "bytes": file.stat().st_size, "checksums": True, "ok": True},
                         json.loads(self.engram("verify", file, "--json")))
        self.assertIn("already exists", self.engram("create", "--synthetic", "--size", "1MiB", file, code=1))
        self.engram("create", "--synthetic", "--size", "1MiB", "--dtype", "int4", "--force", file)
        self.assertLess(file.stat().st_size, 1 << 20)

    def test_the_same_seed_gives_the_same_file(self):
        for name in "ab":
            self.engram("create", "--synthetic", "--size", "2MB", "--seed", 5, self.folder / name)
        self.engram("create", "--synthetic", "--size", "2MB", "--seed", 6, self.folder / "c")
        a, b, c = ((self.folder / name).read_bytes() for name in "abc")
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)

    def test_damage_names_the_page(self):
        file = self.folder / "t.rows"
        self.engram("create", "--synthetic", "--size", "2MiB", file)
        data = bytearray(file.read_bytes())
        data[100 * 4096 + 17] ^= 1
        file.write_bytes(data)
        self.assertRegex(self.engram("verify", file, code=1), r"1 damaged page; the first: .*t\.rows: page 100 ")
        file.write_bytes(data[:-1])
        self.assertIn("bytes", self.engram("verify", file, code=1))

    def test_convert_every_source(self):
        expected = json.loads((TABLES / "expected.json").read_text())["sources"]
        for name, layers in expected.items():
            with self.subTest(name):
                file = self.folder / "c.rows"
                self.engram("convert", TABLES / name, file, "--force")
                for layer, facts in layers.items():
                    ids = f"0 1 {facts['rows'] - 1}"
                    rows = [json.loads(self.engram("lookup", path, "--layer", layer, "--ids", ids, "--json"))
                            for path in (TABLES / name, file)]
                    self.assertEqual(rows[0], rows[1])
                self.engram("verify", file)

    def test_convert_to_other_types(self):
        source = TABLES / "deepseek_v41"
        wanted = json.loads(self.engram("lookup", source, "--layer", 1, "--ids", "3", "--json"))["rows"][0]
        for dtype, exact in (("fp8", True), ("bf16", True), ("fp32", True), ("int8", False), ("int4", False)):
            file = self.folder / dtype
            self.engram("convert", source, file, "--dtype", dtype)
            self.assertEqual(dtype, json.loads(self.engram("inspect", file, "--json"))["layers"][0]["dtype"])
            got = json.loads(self.engram("lookup", file, "--layer", 1, "--ids", "3", "--json"))["rows"][0]
            self.assertEqual(exact, got == wanted, dtype)
            self.assertLess(max(abs(a - b) for a, b in zip(got, wanted)), 0.4, dtype)

    def test_foreign_sources(self):
        self.assertIn("DeepSeek-V4.1 GGUF", self.engram("inspect", TABLES / "ds4_row136.gguf"))
        self.assertIn("no checksums", self.engram("verify", TABLES / "ple_fp8"))
        self.assertIn("hash: none", self.engram("inspect", TABLES / "ple_bf16"))

    def test_refusals(self):
        self.assertIn("No such file", self.engram("inspect", self.folder / "none", code=1))
        self.assertIn("no table of layer 3", self.engram("lookup", TABLES / "checkpoint", "--layer", 3, "--ids", 0, code=1))
        self.assertIn("wanted 0 .. 59", self.engram("lookup", TABLES / "checkpoint", "--layer", 1, "--ids", "60", code=1))
        self.assertIn("'x'", self.engram("lookup", TABLES / "checkpoint", "--layer", 1, "--ids", "1 x", code=1))
        self.assertIn("'fp16'", self.engram("convert", TABLES / "checkpoint", self.folder / "x", "--dtype", "fp16", code=1))
        self.assertIn("too small", self.engram("create", "--synthetic", "--size", "100", self.folder / "x", code=1))
        self.engram("create", "--synthetic", self.folder / "x", code=2)
        self.engram("create", "--size", "1MB", self.folder / "x", code=2)
        self.engram("lookup", self.folder / "x", "--layer", 1, code=2)
        self.engram(code=2)
        self.assertEqual([], list(self.folder.iterdir()))


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
