"""`engram tokenizer train` against the package `tokenizers`: the same file, byte for byte.

    tokenizer_train_test.py PROGRAM [--print-digests]

The package's files are known by their SHA-256 (--print-digests makes them anew, with a Python that has the package);
where the package is installed, it is asked as well.
"""

import hashlib
import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/golden/make"))
try:
    import train_tokenizer
except ImportError:
    train_tokenizer = None

PROGRAM = ""
CASES = {  # name: (seed, words, vocabulary)
    "small": (1, 300, 300),
    "larger": (2, 20_000, 2_000),
    "exhausted": (3, 40, 100_000),
}
DIGESTS = {
    "small": "82a0f24625203e43b7e050233bfef622c70fc07104f7375781637b9c635c337b",
    "larger": "5f6c7cd46dafc27c044cb1ff6a1510bad3c74ed7cd31f5a59ec17f76c910b770",
    "exhausted": "1ffef4fc65882ffdbb40c15c831de0e2c12526f577f913b6d639697b28031ae6",
}


def made_text(seed, words):
    """Words of syllables, some far more often than others; digits, Chinese, kana, marks, line breaks, long runs."""
    source = random.Random(seed)
    syllables = ["ka", "to", "mi", "ra", "the", "in", "é", "ß", "st", "ing", "a", "aa", "я", "ло", "x"]
    lexicon = ["".join(source.choice(syllables) for _ in range(source.randint(1, 4))) for _ in range(words // 8 + 2)]
    parts = []
    for _ in range(words):
        kind = source.random()
        if kind < 0.8:
            parts.append(" " + lexicon[min(int(source.expovariate(8 / len(lexicon))), len(lexicon) - 1)])
        elif kind < 0.85:
            parts.append(str(source.randrange(10 ** source.randint(1, 9))))
        elif kind < 0.9:
            parts.append("".join(source.choice("的一是不了人我在有他かなカナ") for _ in range(source.randint(1, 6))))
        elif kind < 0.95:
            parts.append(source.choice([", ", ".\n", "\r\n\r\n", "  ", "!?", "(x)", "🙂", "\t", "'s", "``"]))
        else:
            parts.append(source.choice("abA=-") * source.randint(1, 30))
    return "x" + "".join(parts) + "x\n<|endoftext|>\n;;\n"


class TokenizerTrain(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_train(self, *arguments, code=0):
        done = subprocess.run([PROGRAM, "tokenizer", "train", *map(str, arguments)], capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(code, done.returncode, done.stderr)
        if code:
            self.assertEqual(1, done.stderr.count("error: "), done.stderr)
        return done.stderr if code else done.stdout

    def test_equals_the_package(self):
        for name, (seed, words, vocabulary) in CASES.items():
            with self.subTest(name):
                text, mine = self.folder / f"{name}.txt", self.folder / f"{name}.json"
                text.write_text(made_text(seed, words), encoding="utf-8", newline="")
                said = self.run_train("--vocab-size", vocabulary, "--output", mine, text)
                self.assertEqual(name == "exhausted", "the text gives no more" in said, said)
                if train_tokenizer:
                    theirs = self.folder / f"{name}.theirs.json"
                    train_tokenizer.train(text, vocabulary).save(str(theirs))
                    self.assertEqual(theirs.read_text(encoding="utf-8"), mine.read_text(encoding="utf-8"))
                self.assertEqual(DIGESTS[name], hashlib.sha256(mine.read_bytes()).hexdigest())

    def test_folders_are_their_files(self):
        for name in ("b/2.txt", "a/1.txt", ".hidden/3.txt"):
            path = self.folder / "text" / name
            path.parent.mkdir(parents=True)
            path.write_text(f"text of {name} " * 9)
        self.run_train("--vocab-size", 300, "--output", self.folder / "new/1.json", self.folder / "text")
        self.run_train("--vocab-size", 300, "--output", self.folder / "2.json", self.folder / "text/a/1.txt",
                       self.folder / "text/b/2.txt")
        self.assertEqual((self.folder / "new/1.json").read_bytes(), (self.folder / "2.json").read_bytes())
        prepared = subprocess.run(
            [PROGRAM, "data", "prepare", "--tokenizer", self.folder / "2.json", "--output", self.folder / "data",
             "--validation-fraction", "0", "--json", self.folder / "text/a/1.txt"], capture_output=True, text=True, timeout=60)
        self.assertEqual(0, prepared.returncode, prepared.stderr)
        self.assertEqual(0, json.loads(prepared.stdout)["end_of_text_id"], prepared.stdout)

    def test_errors(self):
        output = self.folder / "t.json"
        latin = self.folder / "latin.txt"
        latin.write_bytes(b"na\xefve")
        (self.folder / "empty").mkdir()
        self.assertIn("not UTF-8 at byte 2 (0xef)", self.run_train("--output", output, latin, code=1))
        pointer = self.folder / "pointer.txt"
        pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "a" + "\nsize 12345\n")
        self.assertIn("a Git LFS pointer", self.run_train("--output", output, pointer, code=1))  # was learned as text
        self.assertIn("no such file or folder", self.run_train("--output", output, self.folder / "none", code=1))
        self.assertIn("empty: ", self.run_train("--output", output, self.folder / "empty", code=1))
        self.run_train("--output", output, "--vocab-size", 257, latin, code=2)
        self.run_train("--output", output, code=2)
        self.run_train(latin, code=2)
        self.assertFalse(output.exists())


def print_digests():
    for name, (seed, words, vocabulary) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            text, file = Path(folder) / "t.txt", Path(folder) / "t.json"
            text.write_text(made_text(seed, words), encoding="utf-8", newline="")
            train_tokenizer.train(text, vocabulary).save(str(file))
            print(f'    "{name}": "{hashlib.sha256(file.read_bytes()).hexdigest()}",')


if __name__ == "__main__":
    if sys.argv[2:] == ["--print-digests"]:
        print_digests()
        sys.exit()
    PROGRAM = sys.argv.pop(1)
    unittest.main(verbosity=2)
