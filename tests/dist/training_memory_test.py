#!/usr/bin/env python3
"""A table, or experts, that exceed the memory of one rank train with several: no rank ever holds them all, saving and
resuming included.

    training_memory_test.py ENGRAM SOURCE_DIR

A limit on each process's data stands in for a small machine.
"""

import resource
import sys
import tempfile
import unittest
from pathlib import Path

from ranks_of_training import Ranks, checkpoint, metrics

MEBIBYTE = 1 << 20
LIMIT = 480 * MEBIBYTE  # rows and their Adam state take 460 MiB; the program, its reserves and a small model about 200
SETTINGS = ["train.steps=4", "train.validation_batches=1", "data.synthetic.documents=100", "data.batch_size=2",
            "train.accumulation=2", "train.threads=1", "model.engram.vocab_size=[300000, 300000]"]
# 94 MB of experts: weights, gradients and momentum take three times as much, and what is sent or added more.
EXPERTS = ["train.steps=4", "train.validation_batches=1", "data.synthetic.documents=100", "data.batch_size=1",
           "train.accumulation=4", "train.threads=1", "model.memory=none", "model.hidden_size=32",
           "model.n_routed_experts=320", "model.moe_intermediate_size=256", "optimizer.muon_ns_steps=1"]


class Memory(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def train(self, name, size, limit, *settings, base=SETTINGS):
        command = [ENGRAM, "train", str(SOURCE / "recipes/smoke.toml"), "--set", f"train.output={self.folder / name}"]
        for setting in [*base, *settings]:
            command += ["--set", setting] if "=" in setting else [setting]

        def prepare(_):
            if limit:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
                resource.setrlimit(resource.RLIMIT_STACK, (MEBIBYTE, MEBIBYTE))

        # The limit counts what is reserved, too: 8 MiB of stack for each thread, 64 MiB of arena.
        return Ranks(command, size, prepare, {"MALLOC_ARENA_MAX": "1"}).finish()

    def assert_equal_losses(self, *names):
        self.assertEqual(*[[step["loss"] for step in metrics(self.folder / name)] for name in names])

    def test_a_table_beyond_one_rank(self):
        codes, errors = self.train("alone", 1, LIMIT)
        self.assertEqual([1], codes, errors)
        self.assertRegex(errors[0], r"error: .*can't allocate memory")
        self.assertNotIn("frame #", errors[0])  # seen: the addresses of libtorch's frames in the message

        codes, errors = self.train("two", 2, LIMIT, "train.stop_at=2")
        self.assertEqual([0, 0], codes, errors)
        codes, errors = self.train("two", 2, LIMIT, "--resume")
        self.assertEqual([0, 0], codes, errors)

        codes, errors = self.train("whole", 1, None)
        self.assertEqual([0], codes, errors)
        self.assert_equal_losses("whole", "two")
        self.assertEqual(checkpoint(self.folder / "whole"), checkpoint(self.folder / "two"))

    def test_experts_beyond_one_rank(self):
        codes, errors = self.train("replicated", 4, LIMIT, base=EXPERTS)
        self.assertEqual([1] * 4, codes, errors)
        self.assertIn("can't allocate memory", "".join(errors))
        for settings in (["train.stop_at=2"], ["--resume"]):
            codes, errors = self.train("shares", 4, LIMIT, "train.shard_experts=true", *settings, base=EXPERTS)
            self.assertEqual([0] * 4, codes, errors)
        codes, errors = self.train("whole", 1, None, base=EXPERTS)
        self.assertEqual([0], codes, errors)
        self.assert_equal_losses("whole", "shares")
        mine, theirs = checkpoint(self.folder / "whole"), checkpoint(self.folder / "shares")
        self.assertEqual([name for name in mine if mine[name] != theirs.get(name)], ["recipe.toml"])


if __name__ == "__main__":
    ENGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    unittest.main(verbosity=2)
