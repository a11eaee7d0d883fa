"""`engram plan` as people call it: a table, a text, a budget; JSON, profile, plot, exit codes.

    plan_command_test.py PROGRAM
"""

import json
import random
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PROGRAM = ""
TOKENIZER = Path(__file__).resolve().parents[1] / "parity/tables/deepseek_v41/tokenizer.json"


class PlanCommand(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.folder = Path(cls.scratch.name)
        cls.table, cls.text = cls.folder / "t.rows", cls.folder / "text.txt"
        done = subprocess.run([PROGRAM, "table", "create", "--synthetic", "--size", "16MiB", "--tokenizer", TOKENIZER,
                               cls.table], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words, generator = "the of and a memory table row token reads drive cache page hot".split(), random.Random(1)
        cls.text.write_text("\n<|endoftext|>\n".join(
            " ".join(generator.choices(words, weights=[1 / (i + 1) for i in range(len(words))], k=100)) for _ in range(12)))

    def plan(self, *arguments, code=0, ram="1MiB", corpus=None):
        done = subprocess.run([PROGRAM, "plan", "--table", self.table, "--corpus", corpus or self.text, "--ram", ram,
                               *map(str, arguments)], capture_output=True, text=True)
        self.assertEqual(code, done.returncode, done.stderr)
        if code == 1:
            self.assertEqual(1, done.stderr.count("error: "), done.stderr)
        return done.stderr if code else done.stdout

    def test_plan(self):
        profile, plot = self.folder / "p.profile", self.folder / "p.svg"
        plan = json.loads(self.plan("--tokenizer", TOKENIZER, "--drive-iops", 10000, "--tokens-per-second", 100,
                                    "--profile", profile, "--plot", plot, "--json"))
        self.assertEqual(48, plan["rows_per_token"])
        self.assertGreater(plan["tokens"], 4000)
        self.assertEqual(48, plan["distinct_rows_per_token"][0]["rows"])
        self.assertLess(plan["distinct_rows_per_token"][-1]["rows"], 10)
        self.assertEqual(5, len(plan["tiers"]))
        self.assertFalse(plan["tiers"][0]["fits"])
        self.assertIn(plan["recommended"], [tier["uri"] for tier in plan["tiers"]])
        for point in plan["hit_rates"]:
            for policy in ("hot", "lru", "s3_fifo", "mixed"):
                self.assertTrue(0 <= point[policy] <= 1, point)
        best = next(tier for tier in plan["tiers"] if tier["uri"] == plan["recommended"])
        self.assertAlmostEqual(100 * best["reads_per_token"], best["reads_per_second"])
        self.assertEqual("{http://www.w3.org/2000/svg}svg", ElementTree.parse(plot).getroot().tag)
        header = profile.read_bytes()[8:]
        names = json.loads(header[: int.from_bytes(profile.read_bytes()[:8], "little")])
        self.assertEqual("I64", names["layers.1.row_ids"]["dtype"])
        self.assertIn("recommended: ", self.plan("--tokenizer", TOKENIZER))

    def test_all_in_memory(self):
        plan = json.loads(self.plan("--tokenizer", TOKENIZER, "--json", ram="1GiB"))
        self.assertEqual((f"dram:{self.table}", True), (plan["recommended"], plan["fits"]))

    def test_a_shard_gives_the_same_counts(self):
        done = subprocess.run([PROGRAM, "data", "prepare", "--tokenizer", TOKENIZER, "--output", self.folder / "shards",
                               "--validation-fraction", "0", self.text], capture_output=True, text=True)
        self.assertEqual(0, done.returncode, done.stderr)
        plan = json.loads(self.plan("--tokenizer", TOKENIZER, "--json", corpus=self.folder / "shards/train.tokens"))
        self.assertEqual(48, plan["rows_per_token"])
        text = json.loads(self.plan("--tokenizer", TOKENIZER, "--json"))
        # The shard has an end-of-text token behind each document.
        self.assertAlmostEqual(text["tokens"], plan["tokens"], delta=20)

    def test_refusals(self):
        self.assertIn("name it with --tokenizer", self.plan(code=1))
        self.assertIn("one page", self.plan("--tokenizer", TOKENIZER, code=1, ram="1KiB"))
        self.assertIn("No such file", self.plan("--tokenizer", TOKENIZER, code=1, corpus=self.folder / "none"))
        self.plan("--drive-iops", -1, code=2)
        self.plan(code=2, ram="much")
        empty = self.folder / "empty.txt"
        empty.write_text("")
        self.assertIn("at least 2", self.plan("--tokenizer", TOKENIZER, code=1, corpus=empty))


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
