"""The smoke recipe through the command line: train, stop and resume, evaluate, generate.

    smoke_test.py ENGRAM SOURCE_DIR

Everything goes into a temporary folder. The recipe makes its own text, so nothing else is needed.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ENGRAM, SOURCE_DIR = Path(sys.argv.pop(1)).resolve(), Path(sys.argv.pop(1)).resolve()
RECIPE = SOURCE_DIR / "recipes" / "smoke.toml"


def run(*arguments, code=0):
    """Runs engram; fails with its messages when the exit code is not `code`."""
    command = [str(ENGRAM), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SOURCE_DIR)
    if done.returncode != code:
        raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}, wanted {code}\n{done.stderr[-4000:]}")
    return done


def train(output, *settings, resume=False):
    arguments = [RECIPE]
    for setting in (f"train.output={output}", *settings):
        arguments += ["--set", setting]
    run("train", *arguments, *(["--resume"] if resume else []))
    return [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]


class Smoke(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.output = Path(cls.folder.name) / "smoke"
        cls.metrics = train(cls.output)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_the_loss_falls(self):
        losses = [line["loss"] for line in self.metrics if "loss" in line]
        self.assertGreater(len(losses), 20)
        self.assertLess(sum(losses[-5:]) / 5, 0.8 * sum(losses[:5]) / 5)

    def test_stop_and_resume_leaves_the_same_bytes(self):
        whole, halves = Path(self.folder.name) / "whole", Path(self.folder.name) / "halves"
        train(whole, "train.steps=20")
        train(halves, "train.steps=20", "train.stop_at=10")
        train(halves, "train.steps=20", resume=True)
        names = sorted(path.name for path in (whole / "latest").iterdir())
        self.assertIn("model.safetensors", names)
        self.assertEqual(names, sorted(path.name for path in (halves / "latest").iterdir()))
        for name in names:
            same = (whole / "latest" / name).read_bytes() == (halves / "latest" / name).read_bytes()
            self.assertTrue(same, f"{name} differs between 20 steps and 10 + 10")

    def test_generate_is_repeatable(self):
        arguments = ("generate", self.output, "--prompt", "the ", "--max-tokens", "16", "--seed", "1")
        first = run(*arguments).stdout
        self.assertTrue(first.strip())
        self.assertEqual(first, run(*arguments).stdout)

    def test_audit_finds_what_is_wrong(self):
        """A run as it is has no fault; each planted one is found, and named."""
        def lines(output, code=0):
            done = run("audit", output, "--json", code=code)
            report = json.loads(done.stdout)
            self.assertEqual(report["faults"], sum(line["verdict"] == "fault" for line in report["lines"]))
            return report["lines"], done.stderr

        def plant(name, change):
            copy = Path(self.folder.name) / "planted"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.output, copy, symlinks=True)
            target = copy / name if (copy / name).exists() else copy / "latest" / name
            target.write_bytes(change(target.read_bytes()))
            found, errors = lines(copy, code=1)
            self.assertRegex(errors, r"error: .*: \d+ faults?, printed above")
            return [f"{line['subject']}: {line['text']}" for line in found if line["verdict"] == "fault"]

        def zeroed_expert(data):
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8:8 + size])
            name = next(name for name in header if name.startswith("muon.momentum.") and ".experts." in name)
            begin, end = header[name]["data_offsets"]
            each = (end - begin) // header[name]["shape"][0]
            at = 8 + size + begin + each  # the second expert
            return data[:at] + bytes(each) + data[at + each:]

        whole, _ = lines(self.output)
        self.assertEqual([line for line in whole if line["verdict"] == "fault"], [])
        subjects = {line["subject"] for line in whole}
        self.assertLessEqual({"model", "parameters", "numbers", "recipe", "state", "data", "experts", "metrics",
                              "rows of memory layer 0"}, subjects)
        self.assertIn("no window twice", next(line["text"] for line in whole if line["subject"] == "data"))
        nan = b"\x00\x00\xc0\x7f"
        for name, change, words in (
                ("model.safetensors", lambda data: data[:-4] + nan, "numbers: not finite in 1 tensors; model.safetensors: "),
                ("optimizer.safetensors", zeroed_expert, "no token has reached 1 of "),
                ("metrics.jsonl", lambda data: data[data.index(b"\n") + 1:], "metrics.jsonl:1: got another step, wanted 1"),
                ("metrics.jsonl", lambda data: b"".join(data.splitlines(True)[:5]), "ends at step 5"),
                ("recipe.toml", lambda data: data.replace(b"hidden_size = ", b"hidden_size = 1", 1), "recipe: config.json differs: "),
                ("state.json", lambda data: data.replace(b'"next_batch": ', b'"next_batch": 1', 1), "state: step "),
                ("state.json", lambda data: data.replace(b'"train_tokens": ', b'"train_tokens": "x", "was": ', 1), "train_tokens"),
                ("metrics.jsonl", lambda data: data.replace(b'"step":1,', b'"step":"1",', 1), "metrics.jsonl:1: step"),
                ("data/train.tokens", lambda data: data[:-1], "data: "),
                ("tokenizer.json", lambda data: data.replace(b'"!"', b'"!!"', 1), "model: ")):
            with self.subTest(name=name, words=words):
                faults = plant(name, change)
                self.assertTrue(any(words in fault for fault in faults), faults)

    def test_eval_prints_json(self):
        text = Path(self.folder.name) / "text.txt"
        text.write_text("A short text to evaluate.\n" * 20)
        result = json.loads(run("eval", self.output, "--file", text, "--json").stdout)
        self.assertTrue(any(isinstance(value, float) and value > 0 for value in result.values()), result)

    def test_eval_compares_row_types(self):
        text = Path(self.folder.name) / "rows.txt"
        text.write_text("the cat was born in the town. " * 40)
        flags = ("eval", self.output, "--file", text, "--json")
        rows = json.loads(run(*flags, "--rows", "fp32,bf16,fp8,int4").stdout)["rows"]
        self.assertEqual(["fp32", "bf16", "fp8", "int4"], [row["rows"] for row in rows])
        self.assertAlmostEqual(json.loads(run(*flags).stdout)["loss"], rows[0]["loss"], places=5)
        self.assertEqual(0, rows[0]["change"])
        self.assertEqual(sorted((row["row_bytes"] for row in rows), reverse=True), [row["row_bytes"] for row in rows])
        self.assertNotEqual(rows[0]["loss"], rows[3]["loss"])
        self.assertLess(abs(rows[1]["change"]), 0.01)

    def test_every_probe_answers(self):
        """Its text is the validation text of the checkpoint's own recipe."""
        folder = Path(self.folder.name) / "probes"
        help_text = run("lab", "--help").stdout
        for probe in ("logit-lens", "cka", "patchscope", "knock-out", "gates", "collisions", "edit"):
            self.assertIn(probe, help_text)
            extra = ("--ngram", " was born", "--target", " in") if probe == "edit" else ()
            extra += () if probe in ("knock-out", "patchscope") else ("--max-tokens", "8000")
            if probe == "patchscope":  # its examples are longer than this model's 128 bytes of context
                error = run("lab", probe, self.output, "--output", folder / probe, code=1).stderr
                self.assertIn("error: prompt: got", error)
                continue
            result = json.loads(run("lab", probe, self.output, "--output", folder / probe, "--json", *extra).stdout)
            self.assertEqual(probe, result["probe"])
            for name in ("data.json", "report.html", "summary.md"):
                self.assertGreater((folder / probe / name).stat().st_size, 200)

    def test_the_suite_answers(self):
        items = Path(self.folder.name) / "items.jsonl"
        items.write_text("".join(json.dumps({"task": "t", "id": str(i), "prompt": f"{i} and", "targets": [" the"]}) + "\n"
                                 for i in range(20)))
        output = Path(self.folder.name) / "suite"
        result = json.loads(run("eval", self.output, "--suite", items, "--output", output, "--json").stdout)
        self.assertEqual(20, result["tasks"][0]["items"])
        self.assertEqual(20, len((output / "items.jsonl").read_text().splitlines()))

    def test_an_unknown_key_is_one_error_line(self):
        done = run("train", RECIPE, "--set", "train.stepz=5", "--set", f"train.output={self.folder.name}/none", code=1)
        self.assertRegex(done.stderr.splitlines()[-1], r"^error: .*stepz")
        self.assertFalse((Path(self.folder.name) / "none").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
