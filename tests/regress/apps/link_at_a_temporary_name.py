#!/usr/bin/env python3
"""A link at a name that a command writes on its way (`t.rows.partial`, `train.tokens.tmp`, `metrics.jsonl`) in a folder
that others write to, and the file behind it was overwritten.

Right: whatever the command does, the file behind the link stays, and so does the folder.

    link_at_a_temporary_name.py ENGRAM SOURCE_DIR
"""
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM, SOURCE_DIR = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
CHECKPOINT = SOURCE_DIR / "tests" / "parity" / "tables" / "checkpoint"
TOKENIZER = CHECKPOINT / "tokenizer.json"
HAS_TRAIN = subprocess.run([ENGRAM, "train", "--help"], capture_output=True).returncode == 0


class Links(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name) / "shared"
        self.home = Path(self.scratch.name) / "home"
        self.folder.mkdir()
        self.home.mkdir()
        self.victim = self.home / "precious"
        self.victim.write_text("precious\n" * 1000)

    def tearDown(self):
        self.assertEqual(self.victim.read_text(), "precious\n" * 1000)
        self.assertEqual(os.listdir(self.home), ["precious"])
        self.scratch.cleanup()

    def link(self, *names, hard=False):
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if hard:
                os.link(self.victim, path)
            else:
                path.symlink_to(self.victim)

    def run_engram(self, *arguments, code=0):
        done = subprocess.run([ENGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def test_table(self):
        self.link("a.rows.partial", "b.rows.partial")
        self.link("c.rows.partial", hard=True)
        self.run_engram("table", "create", "--synthetic", "--size", "2MiB", self.folder / "a.rows")
        self.run_engram("table", "convert", CHECKPOINT, self.folder / "b.rows")
        self.run_engram("table", "convert", CHECKPOINT, self.folder / "c.rows", "--resume")
        self.run_engram("table", "verify", self.folder / "b.rows")

    def test_data(self):
        (self.folder / "text.txt").write_text("Some text. It has sentences.\n<|endoftext|>\nAnd more.\n" * 20)
        self.link("out/train.tokens.tmp", "out/validation.tokens.tmp", "out/prepare.json.tmp", "out/train.tokens")
        self.run_engram("data", "prepare", "--tokenizer", TOKENIZER, "--output", self.folder / "out",
                        "--document-separator", "<|endoftext|>", "--validation-fraction", 0.3,
                        self.folder / "text.txt")
        self.assertFalse((self.folder / "out" / "train.tokens").is_symlink())

    def train(self, code):
        command = ["train", SOURCE_DIR / "recipes" / "smoke.toml"]
        for setting in ("model.hidden_size=32", "model.num_hidden_layers=2", "model.engram.layer_ids=[1]",
                        "model.engram.vocab_size=[97, 193]", "data.synthetic.documents=40", "data.batch_size=2",
                        "train.validation_batches=1", "train.steps=2", f"train.output={self.folder / 'run'}"):
            command += ["--set", setting]
        return self.run_engram(*command, code=code)

    @unittest.skipUnless(HAS_TRAIN, "built without torch")
    def test_train(self):
        self.link("run/data/train.tokens.tmp", "run/latest.tmp")
        (self.folder / "run" / ".tmp-step-00000002").symlink_to(self.home)
        self.train(0)

    @unittest.skipUnless(HAS_TRAIN, "built without torch")
    def test_train_metrics(self):
        for hard in (False, True):
            with self.subTest(hard=hard):
                (self.folder / "run" / "metrics.jsonl").unlink(missing_ok=True)
                self.link("run/metrics.jsonl", hard=hard)
                errors = self.train(1)
                self.assertEqual(errors.count("error: "), 1, errors)
                self.assertIn("metrics.jsonl", errors)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
