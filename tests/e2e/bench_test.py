"""`engram bench serve` at its smallest scale: what its JSON promises to machines, what it leaves behind, bad flags.

    bench_test.py ENGRAM SOURCE_DIR

Speeds are only numbers above zero here: no test depends on time.
"""

import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM, SOURCE_DIR = Path(sys.argv.pop(1)).resolve(), Path(sys.argv.pop(1)).resolve()
TOKENIZER = SOURCE_DIR / "tests" / "parity" / "tables" / "checkpoint" / "tokenizer.json"
VARIANTS = ["bare", "no-memory", "resident", "dram-prefetched", "dram-synchronous", "drive-prefetched",
            "drive-synchronous", "drive-cached"]


class BenchServe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        words, draw = (SOURCE_DIR / "README.md").read_text().split(), random.Random(0)
        text = cls.folder / "text.txt"
        text.write_text("\n\n".join(" ".join(draw.choices(words, k=300)) for _ in range(60)))
        subprocess.run([ENGRAM, "data", "prepare", "--tokenizer", TOKENIZER, "--output", cls.folder / "data",
                        "--validation-fraction", "0", text],
                       check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def bench(self, *flags, scale="smoke", code=0):
        command = [ENGRAM, "bench", "serve", "--scale", scale, "--rounds", "1", "--json", "--tokenizer", TOKENIZER,
                   "--tokens", self.folder / "data" / "train.tokens", "--folder", self.folder / "table", *flags]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        self.assertEqual(code, done.returncode, done.stderr[-4000:])
        left = [path.name for path in (self.folder / "table").iterdir()] if (self.folder / "table").exists() else []
        self.assertEqual([], left)
        return done

    def test_every_tier_on_both_texts(self):
        result = json.loads(self.bench("--part", "table").stdout)
        self.assertEqual(2, len(result["backbones"]))
        self.assertEqual(result["variants"], result["backbones"][0]["variants"])
        for backbone in result["backbones"]:
            rows = {row["name"]: row for row in backbone["variants"]}
            self.assertEqual(VARIANTS + [name + "-real-text" for name in VARIANTS], list(rows))
            for name, row in rows.items():
                self.assertGreater(row["tokens_per_second"], 0, name)
                self.assertTrue(0 <= row["stall_share"] < 1, name)
                off_device = name.startswith(("dram", "drive"))
                self.assertEqual(off_device, row["bytes_per_token"] > 0, name)
            for name in ("no-memory", "no-memory-real-text"):
                self.assertEqual(1, rows[name]["ratio_to_no_memory"])
            self.assertGreater(rows["drive-cached-real-text"]["hit_rate"], rows["drive-cached"]["hit_rate"])
            self.assertEqual(0, rows["drive-prefetched-real-text"]["hit_rate"])

    def test_one_tier_brings_its_reference(self):
        result = json.loads(self.bench("--part", "table", "--variant", "dram-prefetched", "--text", "real").stdout)
        self.assertEqual(["no-memory-real-text", "dram-prefetched-real-text"], [v["name"] for v in result["variants"]])

    def test_clients_and_drafts(self):
        result = json.loads(self.bench("--part", "clients,drafts").stdout)
        batching = result["continuous_batching"]
        self.assertEqual([1, 32], [row["clients"] for row in batching["clients"]])
        self.assertGreater(batching["decode_over_weight_read"], 0)
        drafts = {row["draft_tokens"]: row for row in result["drafts"]["rows"]}
        self.assertEqual([0, 2, 4, 8], list(drafts))
        self.assertEqual((1, 0), (drafts[0]["ratio"], drafts[0]["accepted"]))

        self.assertGreater(batching["moe"]["decode_over_weight_read"], 0)

    def test_sampling_beside_greedy(self):
        sampling = json.loads(self.bench("--part", "sampling").stdout)["sampling"]
        rows = {row["name"]: row for row in sampling["rows"]}
        self.assertEqual(["greedy", "temperature 1", "top-p 0.9"], list(rows))
        self.assertEqual(1, rows["greedy"]["time_over_greedy"])
        self.assertTrue(all(row["time_over_greedy"] > 0 for row in rows.values()))

    def test_bad_input_is_one_line(self):
        for flags, scale, word in (((), "huge", "cpu-small"),
                                   (("--variant", "tape"), "smoke", "drive-cached"),
                                   (("--table-bytes", "1"), "smoke", "bytes")):
            error = self.bench("--part", "table", *flags, scale=scale, code=1).stderr
            lines = [line for line in error.splitlines() if line.startswith("error: ")]
            self.assertEqual(1, len(lines), error)
            self.assertIn(word, lines[0])
            self.assertNotIn("table:", error)  # nothing was made before it was known


if __name__ == "__main__":
    unittest.main()
