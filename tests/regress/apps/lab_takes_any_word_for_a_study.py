"""Seen: `engram lab gate runs/mytext` said "cannot read 'runs/mytext': Is a directory"; a mistyped study of a right file
was called wanted; `engram lab --help` named no study; a study given to `train` was "unknown key 'study'"; a checkpoint
that is not there was "neither config.json nor latest/config.json". Right: what there is, the nearest word, the command.

    lab_takes_any_word_for_a_study.py PROGRAM SOURCE_DIR
"""

import re
import subprocess
import sys
import unittest
from pathlib import Path

PROGRAM, SOURCE_DIR = "", Path()
STUDY, RECIPE = "recipes/studies/allocation_cpu_small.toml", "recipes/smoke.toml"


class LabWords(unittest.TestCase):
    def engram(self, *arguments, code):
        done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=120, cwd=SOURCE_DIR)
        self.assertEqual(code, done.returncode, done.stderr)
        if code:
            self.assertRegex(done.stderr, r"\Aerror: [^\n]+\n\Z")
        return done.stderr if code else done.stdout

    def studies(self):
        return {re.search(r'(?m)^study = "(.*)"', path.read_text())[1] for path in SOURCE_DIR.glob("recipes/studies/*")}

    def test_no_such_probe_or_study(self):
        for arguments, nearest in {("gate", "recipes"): "gates", ("gate",): "gates", ("logit-len", "a", "b"): "logit-lens",
                                   ("alocation", "none.toml"): "allocation", ("xylophone", "recipes"): None}.items():
            error = self.engram("lab", *arguments, code=2)
            self.assertIn(f"engram lab has no probe or study '{arguments[0]}'", error)
            self.assertEqual(nearest, (re.search("did you mean '(.*?)'", error) or [None, None])[1])
            for word in ("knock-out", *self.studies()):
                self.assertIn(word, error)

    def test_other_mistakes_are_named_as_before(self):
        self.assertIn("no flag '--bogus'", self.engram("lab", "allocation", STUDY, "--bogus", code=2))
        self.assertIn("'more'", self.engram("lab", "allocation", STUDY, "more", code=2))
        self.assertIn("required", self.engram("lab", code=2))
        self.assertIn("none.toml", self.engram("lab", "allocation", "none.toml", code=1))

    def test_name_of_another_study(self):
        self.assertIn("got study 'alocation', wanted 'allocation'", self.engram("lab", "alocation", STUDY, code=1))

    def test_help_lists_the_studies(self):
        listed = re.search(r"(?m)^Studies, in recipes/studies: (.*)$", self.engram("lab", "--help", code=0))[1]
        self.assertEqual(self.studies(), set(listed.split(", ")))

    def test_study_and_recipe_in_each_others_place(self):
        self.assertIn("got a study, wanted a recipe; `engram lab`", self.engram("train", STUDY, code=1))
        self.assertIn("got a recipe, wanted a study; `engram train`", self.engram("lab", "allocation", RECIPE, code=1))

    def test_no_such_checkpoint(self):
        for command in (["serve", "none"], ["generate", "none", "--prompt", "x"], ["lab", "gates", "none"]):
            self.assertIn("none: no such folder; wanted a checkpoint or a training output",
                          self.engram(*command, code=1))


if __name__ == "__main__":
    PROGRAM, SOURCE_DIR = sys.argv.pop(1), Path(sys.argv.pop(1)).resolve()
    unittest.main(verbosity=2)
