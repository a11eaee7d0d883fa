"""Seen: `engram trian` said "A subcommand is required", `engram --version` was unknown, `engram` alone was an error.
Right: the nearest word and exit code 2; the version with the commit; the help.

    a_mistyped_word_gets_no_answer.py PROGRAM
"""

import subprocess
import sys
import unittest

PROGRAM = ""


class MistypedWord(unittest.TestCase):
    def engram(self, *arguments, code):
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60)
        self.assertEqual(code, done.returncode, done.stderr)
        return done

    def error(self, *arguments):
        done = self.engram(*arguments, code=2)
        self.assertEqual("", done.stdout)
        self.assertRegex(done.stderr, r"\Aerror: [^\n]+\n\Z")
        return done.stderr

    def test_version(self):
        self.assertRegex(self.engram("--version", code=0).stdout,
                         r"\Aengram \d+\.\d+\.\d+ \(([0-9a-f]{40}(-dirty)?|unknown)\)\n\Z")

    def test_alone(self):
        alone, asked = self.engram(code=0), self.engram("--help", code=0)
        self.assertEqual(asked.stdout, alone.stdout)
        for name in ("train", "tokenizer", "serve"):
            self.assertIn(f"\n  {name} ", alone.stdout)

    def test_subcommands(self):
        for arguments, wanted in {
            ("trian",): "did you mean 'train'?",
            ("tokeniser", "encode"): "did you mean 'tokenizer'?",
            ("gen",): "did you mean 'generate'?",
            ("tokenizer", "encod"): "did you mean 'encode'?",
            ("table", "verfy", "x"): "did you mean 'verify'?",
            ("bench", "trian"): "did you mean 'train'?",
        }.items():
            self.assertIn(wanted, self.error(*arguments))
        self.assertNotIn("did you mean", self.error("xylophone"))
        self.assertIn("create, convert, inspect", self.error("table"))

    def test_flags(self):
        for arguments, wanted in {
            ("--vresion",): "did you mean '--version'?",
            ("tokenizer", "encode", "--tokeniser", "x"): "did you mean '--tokenizer'?",
            ("table", "inspect", "x", "--jsn"): "did you mean '--json'?",
            ("table", "inspect", "x", "--jsn=1"): "did you mean '--json'?",
            ("plan", "--tabel", "x"): "did you mean '--table'?",
        }.items():
            self.assertIn(wanted, self.error(*arguments))
        self.assertNotIn("did you mean", self.error("hash", "--xylophone"))

    def test_one_line_whatever_the_word(self):
        for word in ("a\nb", "\x1b[31m", "--a\nerror: b", "x" * 100_000, "", " ", "-", "--", "-x", "--=", "\udcff"):
            self.error("table", word)
            self.error("hash", word)
            self.error("hash", "--seed", word)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
