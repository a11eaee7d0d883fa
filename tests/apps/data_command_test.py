#!/usr/bin/env python3
"""engram data prepare | inspect as a user meets them: exit codes, one error line, JSON.

    data_command_test.py ENGRAM
"""
import json
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM = sys.argv[1]


def byte_alphabet() -> list:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters, extra = {}, 0
    for byte in range(256):
        if byte in printable:
            characters[byte] = chr(byte)
        else:
            characters[byte] = chr(256 + extra)
            extra += 1
    return [characters[byte] for byte in range(256)]


def tokenizer_json() -> str:
    vocabulary = {character: byte for byte, character in enumerate(byte_alphabet())}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": 256, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": []}})


class DataCommand(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name)
        (self.folder / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
        (self.folder / "text.txt").write_text("one\n<|endoftext|>\nzw\u00f6lf\n", encoding="utf-8")

    def tearDown(self):
        self.scratch.cleanup()

    def run_engram(self, *arguments):
        return subprocess.run([ENGRAM, "data", *map(str, arguments)], capture_output=True, text=True, timeout=60)

    def prepare(self, *arguments):
        return self.run_engram("prepare", "--tokenizer", self.folder / "tokenizer.json", *arguments)

    def assert_error(self, result, *parts):
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual((result.returncode, len(errors)), (1, 1), result.stderr)
        for part in parts:
            self.assertIn(part, errors[0])

    def test_prepare_then_inspect(self):
        out = self.folder / "out"
        result = self.prepare("--output", out, "--validation-fraction", 0, "--json", self.folder / "text.txt")
        self.assertEqual(result.returncode, 0, result.stderr)
        summary = json.loads(result.stdout)
        self.assertEqual(summary["train"], {"documents": 2, "tokens": 11, "raw_bytes": 9})
        self.assertEqual(summary["validation"], {"documents": 0, "tokens": 0, "raw_bytes": 0})
        self.assertEqual(json.loads((out / "prepare.json").read_text()), summary)

        result = self.run_engram("inspect", out / "train.tokens", "--tokenizer", self.folder / "tokenizer.json", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        shard = json.loads(result.stdout)
        self.assertEqual(shard["first_tokens"], [*b"one", 256, *"zw\u00f6lf".encode(), 256])
        self.assertEqual(shard["text"], "one<|endoftext|>zw\u00f6lf<|endoftext|>")
        self.assertEqual((shard["tokens"], shard["documents"], shard["vocab_size"]), (11, 2, 257))

    def test_answers_of_json_lines(self):
        out, lines = self.folder / "out", self.folder / "lines" / "a.jsonl"
        lines.parent.mkdir()
        lines.write_text('{"prompt": "one ", "answer": "two", "id": 1}\n{"body": "three"}\n', encoding="utf-8")
        wanted = ("--output", out, "--validation-fraction", 0, "--text-field", "body", "--json")
        result = self.prepare(*wanted, lines.parent)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout)["train"],
                         {"documents": 2, "tokens": 14, "raw_bytes": 12, "counted_tokens": 10, "counted_bytes": 8})
        inspected = self.run_engram("inspect", out / "train.tokens")
        self.assertIn("; 10 tokens and 8 bytes count", inspected.stdout)
        lines.write_text('{"body": "three"}\n{"prompt": "one"}\n', encoding="utf-8")
        before = (out / "train.tokens").read_bytes()
        self.assert_error(self.prepare(*wanted, lines), "a.jsonl:2: answer: missing")
        self.assertEqual((out / "train.tokens").read_bytes(), before)

    def test_export_as_other_trainers_write(self):
        """Read here as llm.c's and Megatron's own readers do, and prepared again: the same shard."""
        out, tokenizer = self.folder / "out", self.folder / "tokenizer.json"
        self.prepare("--output", out, "--validation-fraction", 0, self.folder / "text.txt")
        documents = [[*b"one"], [*"zw\u00f6lf".encode()]]
        for name, arguments in {"l.bin": ("llm.c", "l.bin"), "m.idx": ("megatron", "m")}.items():
            result = self.run_engram("export", "--format", arguments[0], "--tokenizer", tokenizer, out / "train.tokens",
                                     self.folder / arguments[1])
            self.assertEqual(result.returncode, 0, result.stderr)
            again = self.folder / f"again-{name}"
            self.assertEqual(self.prepare("--output", again, "--validation-fraction", 0, self.folder / name).returncode, 0)
            self.assertEqual((again / "train.tokens").read_bytes(), (out / "train.tokens").read_bytes())
        llm = (self.folder / "l.bin").read_bytes()
        self.assertEqual(struct.unpack_from("<3i", llm), (20240520, 1, 11))
        self.assertEqual(list(struct.unpack("<11H", llm[1024:])), [256, *documents[0], 256, *documents[1]])
        index, ids = (self.folder / "m.idx").read_bytes(), (self.folder / "m.bin").read_bytes()
        self.assertEqual(index[:9], b"MMIDIDX\0\0")
        version, kind, sequences, ends = struct.unpack_from("<QBQQ", index, 9)
        self.assertEqual((version, kind, sequences, ends), (1, 8, 2, 3))
        self.assertEqual(struct.unpack_from("<2i5q", index, 34), (4, 7, 0, 8, 0, 1, 2))
        self.assertEqual(list(struct.unpack("<11H", ids)), [*documents[0], 256, *documents[1], 256])

    def test_repeated_documents_are_told(self):
        text = self.folder / "text.txt"
        text.write_text("one\n<|endoftext|>\ntwo\n<|endoftext|>\none\n")
        told = self.prepare("--output", self.folder / "out", "--validation-fraction", 0, text).stdout
        self.assertIn("repeated    1 documents (3 bytes of text), each equal to an earlier one; --deduplicate", told)
        once = self.prepare("--output", self.folder / "out", "--validation-fraction", 0, "--deduplicate", "--json", text)
        summary = json.loads(once.stdout)
        self.assertEqual(summary["train"]["documents"], 2)
        self.assertEqual(summary["repeated"], {"documents": 1, "bytes": 3, "left_out": True})

    def test_bad_input(self):
        out, text = self.folder / "out", self.folder / "text.txt"
        self.assert_error(self.prepare("--output", out, self.folder / "none.txt"), "none.txt")
        text.write_bytes(b"good\n\xc3(")
        self.assert_error(self.prepare("--output", out, text), "text.txt: not UTF-8 at byte 5")
        text.write_bytes(b"\n")
        self.assert_error(self.prepare("--output", out, text), "no text")
        text.write_bytes(b"some text")
        self.assert_error(self.prepare("--output", text / "out", "--validation-fraction", 0, text), "text.txt/out")
        self.assert_error(self.run_engram("inspect", text), "text.txt: not a token shard")
        self.assertFalse(out.exists())

    def test_usage(self):
        self.assertEqual(self.run_engram("prepare").returncode, 2)
        self.assertEqual(self.run_engram().returncode, 2)
        self.assertEqual(self.run_engram("inspect", "a", "--tokens", "-1").returncode, 2)
        self.assertEqual(self.run_engram("--help").returncode, 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
