"""`engram tokenizer` as a user runs it: the contract of its JSON, stdin, errors and exit codes.

    tokenizer_command_test.py ENGRAM
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM = None
VARIANTS = Path(__file__).resolve().parents[1] / "text" / "data" / "tokenizer_variants.json"


class TokenizerCommand(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cases = json.loads(VARIANTS.read_text(encoding="utf-8"))
        variant = next(v for v in cases["variants"] if v["name"] == "template")
        cls.folder = tempfile.TemporaryDirectory()
        cls.tokenizer = Path(cls.folder.name) / "tokenizer.json"
        cls.tokenizer.write_text(json.dumps({**cases["base"], **variant["patch"]}), encoding="utf-8")
        cls.cases = [(t, i, s) for t, i, s in zip(cases["texts"], variant["ids"], variant["special_ids"])]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_engram(self, command, *arguments, stdin=b"", tokenizer=None):
        return subprocess.run([ENGRAM, "tokenizer", command, "--tokenizer", str(tokenizer or self.tokenizer), *arguments],
                              input=stdin, capture_output=True, timeout=60)

    def output_of(self, *arguments, **options):
        result = self.run_engram(*arguments, **options)
        self.assertEqual((result.returncode, result.stderr), (0, b""), arguments)
        return result.stdout.decode("utf-8")

    def lines_of(self, *arguments, **options):
        return self.output_of(*arguments, **options).split("\n")[:-1]

    def error_of(self, *arguments, **options):
        result = self.run_engram(*arguments, **options)
        self.assertEqual(result.returncode, 1, result)
        error = result.stderr.decode("utf-8")
        self.assertTrue(error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error)
        return error

    def test_text_and_file_are_one_text(self):
        path = Path(self.folder.name) / "text"
        for text, ids, special in self.cases:
            path.write_bytes(text.encode("utf-8"))
            self.assertEqual(json.loads(self.output_of("encode", "--json", "--file", str(path))), ids)
            self.assertEqual(json.loads(self.output_of("encode", "--json", "--add-special", "--file", str(path))), special)
            if "\0" not in text:
                self.assertEqual(json.loads(self.output_of("encode", "--json", "--text", text)), ids)

    def test_stdin_is_one_text_per_line(self):
        cases = [(t, i) for t, i, _ in self.cases if "\n" not in t]
        stdin = "\n".join(t for t, _ in cases).encode("utf-8")
        lines = self.lines_of("encode", "--json", stdin=stdin + b"\n")
        self.assertEqual([json.loads(line) for line in lines], [i for _, i in cases])
        self.assertEqual(self.lines_of("encode", "--json", stdin=stdin), lines)
        self.assertEqual(self.output_of("encode", "--json", stdin=b"\n\na\r\n"), "[]\n[]\n[67,204]\n")
        self.assertEqual(self.output_of("encode", "--json", stdin=b""), "")
        self.assertEqual(self.output_of("encode", stdin=b"a\r\n\n"), "67 204\n\n")

    def test_decode_reads_what_encode_prints(self):
        cases = [(t, i) for t, i, _ in self.cases if not t.startswith(("<s>", " <s>"))]
        for separator in (",", ", "):
            arrays = "".join(f"[{separator.join(map(str, i))}]\n" for _, i in cases).encode()
            lines = self.lines_of("decode", "--json", stdin=arrays)
            self.assertEqual([json.loads(line) for line in lines], [t for t, _ in cases])
        plain = "".join(" ".join(map(str, i)) + "\n" for _, i in cases).encode()
        self.assertEqual(self.output_of("decode", stdin=plain), "".join(t + "\n" for t, _ in cases))
        self.assertEqual(self.output_of("decode", "--text", "[0, 67, 1]"), "<s>a</s>\n")
        self.assertEqual(self.output_of("decode", "--skip-special", "--text", "0 67 1"), "a\n")

    def test_compress(self):
        report = json.loads(self.output_of("compress", "--json"))
        self.assertEqual(list(report), ["vocab_size", "compressed_vocab_size", "sha256"])
        full = json.loads(self.output_of("compress", "--json", "--full"))
        self.assertEqual(len(full["map"]), full["vocab_size"])
        self.assertEqual(len(set(full["map"])), full["compressed_vocab_size"])
        self.assertEqual({k: full[k] for k in report}, report)
        self.assertIn(report["sha256"], self.output_of("compress"))

    def test_errors_are_one_line(self):
        missing = Path(self.folder.name) / "missing.json"
        self.assertIn("missing.json", self.error_of("encode", "--text", "a", tokenizer=missing))
        self.assertIn("missing.json", self.error_of("encode", "--file", str(missing)))
        broken = Path(self.folder.name) / "broken.json"
        broken.write_bytes(self.tokenizer.read_bytes()[:1000])
        self.assertIn("broken.json: not JSON at byte 1001", self.error_of("compress", tokenizer=broken))
        self.assertIn("stdin: line 2: text is not valid UTF-8 at byte 1", self.error_of("encode", stdin=b"a\nb\xff\n"))
        self.assertIn("wanted 0 .. 419", self.error_of("decode", "--text", "[420]"))
        for bad in ("[1,]", "[1 2]", "1,2", "[1", "x", "[1.5]", "[99999999999]", "[1],[2]", "[[1]]"):
            self.assertIn("--text: line 1: got", self.error_of("decode", "--text", bad))
        with open("/dev/full", "wb") as full:
            result = subprocess.run([ENGRAM, "tokenizer", "compress", "--tokenizer", str(self.tokenizer)], stdout=full,
                                    stderr=subprocess.PIPE, timeout=60)
        self.assertEqual((result.returncode, result.stderr), (1, b"error: stdout: cannot be written\n"))

    def test_wrong_usage_is_2(self):
        for arguments in ([], ["encode"], ["nothing"], ["encode", "--tokenizer", "t", "--text", "a", "--file", "b"],
                          ["compress", "--tokenizer", "t", "--text", "a"]):
            result = subprocess.run([ENGRAM, "tokenizer", *arguments], capture_output=True, timeout=60)
            self.assertEqual(result.returncode, 2, arguments)


if __name__ == "__main__":
    ENGRAM = sys.argv.pop(1)
    unittest.main()
