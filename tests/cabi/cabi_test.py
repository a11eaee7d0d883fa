"""The C programs of this folder over tables that `engram table` makes, against what the command says.

    cabi_test.py ENGRAM CABI_TEST LOOKUP DECODE_LOOP
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM, CABI_TEST, LOOKUP, DECODE_LOOP = "", "", "", ""
TABLES = Path(__file__).resolve().parents[1] / "parity/tables"


def run(*arguments):
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True)


def parse(output):
    """What lookup.c prints: {layer id: [(row id, first column)]}."""
    layers, rows = {}, None
    for line in output.splitlines():
        words = line.split()
        if words[0] == "layer":
            rows = layers.setdefault(int(words[1].rstrip(":")), [])
        elif words[0] == "row":
            rows.append((int(words[1]), float(words[2])))
    return layers


class CAbi(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def engram(self, *arguments):
        done = run(ENGRAM, *arguments)
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def test_promises(self):
        file = self.folder / "t.rows"
        self.engram("table", "create", "--synthetic", "--size", "4MiB", file)
        done = run(CABI_TEST, file)
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual("ok\n", done.stdout)

    def test_lookup_equals_the_command(self):
        file = self.folder / "t.rows"
        model = TABLES / "deepseek_v41"
        self.engram("table", "convert", model, file)
        facts = json.loads(self.engram("table", "inspect", file, "--json"))["hash"]
        ids = [70, 71, 5, 100, 2, 70, 71]
        hashed = json.loads(self.engram(
            "hash", "--tokenizer", model / "tokenizer.json", "--layer-ids", "1,14", "--max-ngram-size", 3, "--n-heads", 2,
            "--vocab-size", ",".join(map(str, facts["vocab_size"])), "--ids", " ".join(map(str, ids)), "--json"))
        for tier in ("dram", "mapped", "pagecache", "nvme"):
            for lookback in (0, 2):
                done = run(LOOKUP, f"{tier}:{file}", model / "tokenizer.json", lookback, *ids)
                self.assertEqual(0, done.returncode, done.stderr)
                layers = parse(done.stdout)
                self.assertEqual([1, 14], sorted(layers))
                for layer, rows in layers.items():
                    wanted = sum(hashed["row_ids"][str(layer)][lookback:], [])
                    self.assertEqual(wanted, [row for row, _ in rows])
                    looked_up = json.loads(self.engram("table", "lookup", model, "--layer", layer, "--ids",
                                                       " ".join(map(str, wanted)), "--json"))["rows"]
                    self.assertEqual([row[0] for row in looked_up], [value for _, value in rows])

    def test_a_planned_hot_set(self):
        """`engram plan` writes the profile that a store opens its hot set from."""
        file, text, profile = self.folder / "t.rows", self.folder / "text.txt", self.folder / "p.profile"
        tokenizer = TABLES / "deepseek_v41/tokenizer.json"
        self.engram("table", "create", "--synthetic", "--size", "4MiB", "--tokenizer", tokenizer, file)
        text.write_text("the table reads the rows that the text asks for\n" * 20)
        self.engram("plan", "--table", file, "--corpus", text, "--tokenizer", tokenizer, "--ram", "64KiB", "--profile",
                    profile)
        ids = [70, 71, 5, 100, 2, 70, 71]
        outputs = set()
        for uri in (f"dram:{file}", f"nvme:{file}?hot={profile}", f"nvme:{file}?cache=1MiB&hot={profile}&hot_size=1MiB"):
            done = run(LOOKUP, uri, tokenizer, 0, *ids)
            self.assertEqual(0, done.returncode, done.stderr)
            outputs.add(done.stdout)
        self.assertEqual(1, len(outputs))

    def test_a_decode_loop_that_reads_ahead(self):
        """The same tokens as when every row is waited for where it is needed, whatever the tier."""
        file = self.folder / "t.rows"
        self.engram("table", "convert", TABLES / "deepseek_v41", file)
        arguments = (TABLES / "deepseek_v41/tokenizer.json", 128, 3, 20)
        outputs = set()
        for tier in ("dram", "pagecache", "nvme"):
            for mode in ((), ("one-by-one",)):
                done = run(DECODE_LOOP, f"{tier}:{file}", *arguments, *mode)
                self.assertEqual(0, done.returncode, done.stderr)
                self.assertRegex(done.stderr, r"us a step, .* waiting for rows\n\Z")
                outputs.add(done.stdout)
        self.assertEqual(1, len(outputs))
        texts = outputs.pop().splitlines()
        self.assertEqual([3, 20], [len(texts), len(texts[2].split(":")[1].split())])
        self.assertGreater(len(set(texts[2].split())), 10)

    def test_lookup_fails_in_one_line(self):
        file = self.folder / "t.rows"
        self.engram("table", "convert", TABLES / "deepseek_v41", file)
        for arguments, part in (((f"dram:{file}", "-", 0, 1), "tokenizer"), ((f"dram:{file}x", "-", 0), "t.rowsx"),
                                ((f"dram:{file}", TABLES / "deepseek_v41/tokenizer.json", 0, 9999), "9999")):
            done = run(LOOKUP, *arguments)
            self.assertEqual(1, done.returncode)
            self.assertRegex(done.stderr, r"\Aerror: [^\n]*\n\Z")
            self.assertIn(part, done.stderr)


if __name__ == "__main__":
    ENGRAM, CABI_TEST, LOOKUP, DECODE_LOOP = sys.argv[1:5]
    del sys.argv[1:5]
    unittest.main()
