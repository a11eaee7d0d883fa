"""Seen: `engram tokenizer train` made a tokenizer of single bytes from an empty file, and counted "1 files".
Right: text without any word is an error, and nothing is written.

    tokenizer_of_text_without_words.py PROGRAM
"""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = ""


class NoWords(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.output = self.folder / "made/tokenizer.json"

    def train(self, texts, code):
        text = self.folder / "text"
        text.mkdir()
        for name, content in texts.items():
            (text / name).write_text(content)
        done = subprocess.run([PROGRAM, "tokenizer", "train", "--output", self.output, text], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(code, done.returncode, done.stderr)
        self.assertEqual(code == 0, self.output.exists())
        return done

    def test_empty_file(self):
        self.assertIn("a.txt: got no word, wanted text", self.train({"a.txt": ""}, 1).stderr)

    def test_white_space(self):
        self.assertIn("a.txt and 1 more: got no word", self.train({"a.txt": " \n\t\n", "b.txt": "\n"}, 1).stderr)

    def test_a_word_in_one_of_them(self):
        done = self.train({"a.txt": "", "b.txt": "word", "c.bin": "left out"}, 0)
        self.assertIn("from 2 files", done.stdout)
        self.assertRegex(done.stderr, r"note: 1 file was left out for the name, \S*c\.bin for one\n")


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
