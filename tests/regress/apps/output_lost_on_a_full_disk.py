#!/usr/bin/env python3
"""`engram hash ... > /dev/full` printed nothing and left with exit code 0: output was lost without a word.

Right: exit code 1 and one error line from every command that prints. A closed stdout is the same fault.

    output_lost_on_a_full_disk.py ENGRAM
"""
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM = sys.argv[1]


def tokenizer_json() -> str:
    vocabulary = {chr(letter): letter - 97 for letter in range(97, 123)}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": 26, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": []}})


class FullDisk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        folder = cls.folder = Path(cls.scratch.name)
        (folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
        (folder / "text.txt").write_text("some\n<|endoftext|>\ntext\n", encoding="utf-8")
        cls.table, cls.tokenizer = folder / "t.rows", folder / "tokenizer.json"
        cls.run_good("table", "create", "--synthetic", "--size", "2MiB", cls.table)
        cls.run_good("data", "prepare", "--tokenizer", cls.tokenizer, "--output", folder / "data",
                     "--validation-fraction", 0, folder / "text.txt")

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    @staticmethod
    def run_good(*arguments):
        subprocess.run([ENGRAM, *map(str, arguments)], check=True, capture_output=True, timeout=60)

    def commands(self):
        layer = json.loads(subprocess.run([ENGRAM, "table", "inspect", self.table, "--json"], check=True,
                                          capture_output=True, timeout=60).stdout)["layers"][0]["layer"]
        hash_flags = ["hash", "--tokenizer", self.tokenizer, "--layer-ids", "1", "--max-ngram-size", "3", "--n-heads",
                      "2", "--vocab-size", "97,97", "--seed", "0", "--pad-id", "0", "--ids", "1 2 3"]
        yield hash_flags
        yield [*hash_flags, "--json"]
        yield ["table", "inspect", self.table]
        yield ["table", "inspect", self.table, "--json"]
        yield ["table", "verify", self.table]
        yield ["table", "lookup", self.table, "--layer", str(layer), "--ids", "0 1", "--json"]
        yield ["data", "inspect", self.folder / "data" / "train.tokens"]
        yield ["tokenizer", "encode", "--tokenizer", self.tokenizer, "--text", "abc", "--json"]
        yield ["tokenizer", "compress", "--tokenizer", self.tokenizer, "--json", "--full"]
        yield ["--help"]

    def assert_lost(self, result, command):
        errors = [line for line in result.stderr.decode().splitlines() if line.startswith("error: ")]
        self.assertEqual((result.returncode, len(errors)), (1, 1), (command, result.stderr))

    def test_full_disk(self):
        for command in self.commands():
            with open("/dev/full", "wb") as full:
                self.assert_lost(subprocess.run([ENGRAM, *map(str, command)], stdout=full, stderr=subprocess.PIPE,
                                                timeout=60), command)

    def test_closed_stdout(self):
        before = self.table.read_bytes()
        for command in self.commands():
            line = ["sh", "-c", 'exec "$@" >&-', "sh", ENGRAM, *map(str, command)]
            self.assert_lost(subprocess.run(line, stderr=subprocess.PIPE, timeout=60), command)
        self.assertEqual(self.table.read_bytes(), before)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
