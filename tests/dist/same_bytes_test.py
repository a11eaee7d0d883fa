#!/usr/bin/env python3
"""The recipe decides the numbers, the number of ranks does not.

    same_bytes_test.py ENGRAM SOURCE_DIR

A model with latent attention, experts and a memory trains in 1, 2 and 4 processes, in fp32 and bf16, with rows and
moments of bf16, and without a memory: every recorded number and every byte of the checkpoint must be equal, also where
the ranks share out the experts. Then a run of two ranks is stopped and continued by one, by four and by two.
"""

import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from ranks_of_training import Ranks, checkpoint, metrics

SHARES = "train.shard_experts=true"
SETTINGS = ["train.steps=12", "train.validation_batches=6", "train.validate_every=6", "data.synthetic.documents=100",
            "data.batch_size=2", "train.accumulation=4", "train.threads=1", "train.checkpoint_every=6",
            "optimizer.warmup_steps=2", "train.log_every=1000000", "model.engram.vocab_size=[700, 1300]"]


class SameBytes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def train(self, name, size, settings=(), *arguments, recipe=None):
        command = [ENGRAM, "train", str(recipe or SOURCE / "recipes/smoke.toml"), *arguments, "--set",
                   f"train.output={self.folder / name}"]
        for setting in [*SETTINGS, *settings]:
            if recipe and setting.startswith(("data.synthetic", "model.engram.vocab_size")):
                continue
            command += ["--set", setting]
        codes, errors = Ranks(command, size).finish()
        self.assertEqual([0] * size, codes, "\n".join(errors)[-3000:])
        return self.folder / name

    def assert_equal_runs(self, one, other, but=()):
        self.assertEqual(metrics(one), metrics(other))
        mine, theirs = checkpoint(one), checkpoint(other)
        self.assertEqual(sorted(mine), sorted(theirs))
        for name in mine:
            self.assertTrue(mine[name] == theirs[name] or name in but, f"{name} differs")

    def test_equal_for_1_2_and_4_ranks(self):
        rounded = "train.table_dtype=bf16"
        for name, settings in {"fp32": (), "bf16": ("train.dtype=bf16", "optimizer.table_state=row"),
                               "bf16-rows": (rounded, "optimizer.table_momentum=bf16"),
                               "small-rows": (rounded, "optimizer.table_momentum=none", "optimizer.table_state=row"),
                               "frozen": ('train.freeze=["attention","ffn"]', "optimizer.lr_factor.norm=0.5"),
                               "no-memory": ("model.memory=none",),
                               "qwen4exp": ("model.engram.rule=qwen4exp",), "longcat": ("model.engram.rule=longcat",)
                               }.items():
            recipe = SOURCE / "recipes/rules_smoke.toml" if any("rule=" in key for key in settings) else None
            with self.subTest(name):
                one = self.train(f"{name}-1", 1, settings, recipe=recipe)
                self.assertEqual(12, len(metrics(one)))
                self.assertIn("validation_loss", metrics(one)[5])
                for size in (2, 4):
                    self.assert_equal_runs(one, self.train(f"{name}-{size}", size, settings, recipe=recipe))

    def test_answers_of_two_sources(self):
        """Masks, packed documents, a mixture and named sets: micro-batches differ in what counts."""
        data = self.train("text", 1, ("train.steps=1",)) / "data"
        lines = [json.dumps({"prompt": f"{i} and ", "answer": "a" * (1 + i * i % 60)}) for i in range(200)]
        (self.folder / "a.jsonl").write_text("\n".join(lines))
        subprocess.run([ENGRAM, "data", "prepare", "--tokenizer", data / "tokenizer.json", "--output",
                        self.folder / "answers", self.folder / "a.jsonl"], check=True, capture_output=True)
        recipe = (SOURCE / "recipes/smoke.toml").read_text()
        (self.folder / "answers.toml").write_text(re.sub(r"\[data\.synthetic\]\n([^\[]*)", "", recipe))
        sources = ", ".join(f'{{files=["{folder}/train.tokens"], share={share}}}'
                            for folder, share in ((self.folder / "answers", 0.6), (data, 0.4)))
        settings = (f'data.tokenizer="{data}/tokenizer.json"', f"data.source=[{sources}]", "data.packing=documents",
                    f'data.validation_set=[{{name="a", files=["{self.folder}/answers/validation.tokens"]}}]')
        runs = [self.train(f"answers-{size}", size, settings, recipe=self.folder / "answers.toml") for size in (1, 2, 4)]
        self.assertGreater(metrics(runs[0])[-1]["validation_sets"]["a"]["documents"], 0)
        for run in runs[1:]:
            self.assert_equal_runs(runs[0], run)

    def test_shared_out_experts_change_nothing(self):
        # Of three experts a rank of four has none. All of the validation text: its last windows are few and short.
        for name, settings in {"fp32": ("model.n_routed_experts=3", "train.validation_batches=0"),
                               "bf16": ("train.dtype=bf16", "train.accumulation=8")}.items():
            with self.subTest(name):
                whole = self.train(f"{name}-whole", 1, settings)
                for size in (2, 4):
                    shares = self.train(f"{name}-{size}", size, (*settings, SHARES))
                    self.assert_equal_runs(whole, shares, but=["recipe.toml"])
                    costs = json.loads((shares / "metrics.jsonl").read_text().splitlines()[-1])["exchange"]
                    self.assertGreater(costs["expert_bytes"], 0)
                again = self.train(f"{name}-again", 2, (*settings, SHARES, "train.recompute=blocks"))
                self.assert_equal_runs(whole, again, but=["recipe.toml"])
        self.assert_equal_runs(self.folder / "fp32-2", self.folder / "fp32-4")

    def test_shared_out_experts_resume_elsewhere(self):
        whole = self.train("whole", 1)
        for size, settings in ((4, (SHARES,)), (2, ()), (1, (SHARES,))):
            with self.subTest(size=size):
                name = f"to-{size}"
                self.train(name, 2, ("train.stop_at=6", SHARES))
                self.assert_equal_runs(whole, self.train(name, size, settings, "--resume"), but=["recipe.toml"])

    def test_averages_samples_and_histograms(self):
        keys = ("train.average=ema", "train.average_decay=0.8", "train.average_from=2", 'train.sample_prompts=["the "]',
                "train.samples_every=6", "train.sample_tokens=4", "metrics.histograms_every=6")
        one = self.train("one", 1, keys)
        self.assertIn("average/model.safetensors", checkpoint(one))
        for field in ("average", "samples", "histograms"):
            self.assertIn(field, metrics(one)[5])
        self.assert_equal_runs(one, self.train("four", 4, keys))
        self.assert_equal_runs(one, self.train("shares", 2, (*keys, SHARES)), but=["recipe.toml"])
        self.train("to-four", 2, (*keys, "train.stop_at=6", SHARES))
        self.assert_equal_runs(one, self.train("to-four", 4, keys, "--resume"), but=["recipe.toml"])

    def test_three_ranks_with_six_micro_batches_are_one_another(self):
        # A third of 6 is no power of two: another order of sums, so equality is to rounding, for the first step.
        six = ("train.accumulation=6", "train.steps=1", "train.validate_every=0")
        one, two = metrics(self.train("a", 1, six))[0], metrics(self.train("b", 2, six))[0]
        self.assertAlmostEqual(one["loss"], two["loss"], delta=1e-7 * one["loss"])
        self.assertAlmostEqual(one["grad_norm"], two["grad_norm"], delta=1e-5 * one["grad_norm"])
        self.assertEqual(one["touched_rows"], two["touched_rows"])
        self.assert_equal_runs(self.train("c", 1, six), self.train("d", 3, six))  # blocks of two are subtrees

    def test_resume_at_another_size(self):
        whole = self.train("whole", 1)
        for size in (1, 4, 2):
            with self.subTest(size=size):
                name = f"to-{size}"
                self.train(name, 2, ("train.stop_at=6",))
                self.assertEqual(6, len(metrics(self.folder / name)))
                self.assert_equal_runs(whole, self.train(name, size, (), "--resume"))

    def test_weights_larger_than_a_share_are_divided(self):
        # Experts that are more than half of the model, and an embedding that is more than a quarter.
        experts = ("model.num_hidden_layers=2", "model.n_routed_experts=64", "model.engram.layer_ids=[1]")
        embedding = ("model.num_hidden_layers=1", "model.memory=none", "model.ffn=dense", "model.intermediate_size=16",
                     "model.first_k_dense_replace=0")
        for name, settings in {"experts": experts, "embedding": embedding}.items():
            with self.subTest(name):
                one = self.train(f"{name}-1", 1, settings)
                self.assert_equal_runs(one, self.train(f"{name}-2", 2, settings))
                self.train(f"{name}-4", 4, (*settings, "train.stop_at=6"))
                self.assert_equal_runs(one, self.train(f"{name}-4", 2, settings, "--resume"))
                self.train(f"{name}-2-4", 2, (*settings, "train.stop_at=6"))
                self.assert_equal_runs(one, self.train(f"{name}-2-4", 4, settings, "--resume"))

    def test_the_end_says_what_the_ranks_cost(self):
        command = [ENGRAM, "train", str(SOURCE / "recipes/smoke.toml"), "--json", "--set",
                   f"train.output={self.folder / 'told'}"]
        for setting in [*SETTINGS, "train.steps=4", "train.validate_every=0"]:
            command += ["--set", setting]
        ranks = Ranks(command, 2)
        codes, errors = ranks.finish()
        self.assertEqual([0, 0], codes, errors)
        number = r"[\d.]+[kM]?"
        self.assertRegex(errors[0], rf"exchange: {number} % of the time waited \(control {number} %, dense {number} %, "
                                    rf"table {number} %\), {number} bytes sent a step\n")
        self.assertRegex(errors[0], rf"rows of a step: {number} looked up, {number} asked for, {number} distinct; "
                                    rf"busiest owner {number} of the mean\n")
        self.assertNotIn("exchange:", errors[1])
        means = json.loads(ranks.outputs[0])["exchange"]
        self.assertGreaterEqual(means["looked_up_rows"], means["asked_rows"])
        self.assertGreaterEqual(means["asked_rows"], means["touched_rows"])
        steps = [json.loads(line)["exchange"] for line in
                 (self.folder / "told/metrics.jsonl").read_text().splitlines()]
        for name, value in steps[0].items():
            self.assertAlmostEqual(means[name], sum(step[name] for step in steps) / 4, msg=name)

    def test_start_from_another_run(self):
        self.train("first", 2, ("train.steps=3",))
        start = (f"train.start_from={self.folder / 'first'}", "train.steps=4")
        self.assert_equal_runs(self.train("alone", 1, start), self.train("together", 2, start))
        half = (*start, 'train.freeze=["backbone"]', "train.dtype=bf16", "train.frozen_dtype=bf16")
        self.assert_equal_runs(self.train("half-alone", 1, half), self.train("half-together", 2, half))


if __name__ == "__main__":
    ENGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    unittest.main(verbosity=2)
