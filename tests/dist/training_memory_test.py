#!/usr/bin/env python3
"""A table that exceeds the memory of one rank trains with two: no rank ever holds it, saving and resuming included.

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


class Memory(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def train(self, name, size, limit, *settings):
        command = [ENGRAM, "train", str(SOURCE / "recipes/smoke.toml"), "--set", f"train.output={self.folder / name}"]
        for setting in [*SETTINGS, *settings]:
            command += ["--set", setting] if "=" in setting else [setting]

        def prepare(_):
            if limit:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
                resource.setrlimit(resource.RLIMIT_STACK, (MEBIBYTE, MEBIBYTE))

        # The limit counts what is reserved, too: 8 MiB of stack for each thread, 64 MiB of arena.
        return Ranks(command, size, prepare, {"MALLOC_ARENA_MAX": "1"}).finish()

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
        losses = [[step["loss"] for step in metrics(self.folder / name)] for name in ("whole", "two")]
        self.assertEqual(*losses)
        self.assertEqual(checkpoint(self.folder / "whole"), checkpoint(self.folder / "two"))


if __name__ == "__main__":
    ENGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    unittest.main(verbosity=2)
