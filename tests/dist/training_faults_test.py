#!/usr/bin/env python3
"""What goes wrong with one of several ranks: each is one line, and nothing is lost.

    training_faults_test.py ENGRAM SOURCE_DIR
"""

import os
import random
import resource
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

from ranks_of_training import Ranks, checkpoint, metrics

TIMEOUT = 3
SETTINGS = ["train.steps=40", "train.validation_batches=1", "data.synthetic.documents=100", "data.batch_size=2",
            "train.accumulation=2", "train.threads=1", "train.checkpoint_every=2", "train.log_every=1000000",
            f"train.exchange_timeout={TIMEOUT}"]


class Faults(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def command(self, output, settings=(), *arguments):
        command = [ENGRAM, "train", str(SOURCE / "recipes/smoke.toml"), *arguments, "--set",
                   f"train.output={self.folder / output}"]
        for setting in [*SETTINGS, *settings]:
            command += ["--set", setting]
        return command

    def errors(self, texts):
        return [line for text in texts for line in text.splitlines() if line.startswith("error: ")]

    def steps_of(self, output):
        try:
            return len((self.folder / output / "metrics.jsonl").read_text().splitlines())
        except FileNotFoundError:
            return 0

    def wait_for_steps(self, output, steps, ranks):
        deadline = time.monotonic() + 60
        while self.steps_of(output) < steps:
            self.assertLess(time.monotonic(), deadline)
            self.assertTrue(all(process.poll() is None for process in ranks.processes), "a rank has ended")
            time.sleep(0.01)

    def test_a_rank_that_is_killed_or_frozen(self):
        whole = self.folder / "whole"
        codes, errors = Ranks(self.command("whole"), 1).finish()
        self.assertEqual([0], codes, errors)
        generator = random.Random(5)
        cases = [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)]
        for number, (number_of_signal, victim) in enumerate(cases):
            with self.subTest(signal=number_of_signal.name, rank=victim):
                output = f"run-{number}"
                settings = (f"train.shard_experts={'true' if number % 2 else 'false'}",)
                ranks = Ranks(self.command(output, settings), 2)
                self.wait_for_steps(output, generator.randrange(4, 20), ranks)
                ranks.processes[victim].send_signal(number_of_signal)
                survivor = ranks.processes[1 - victim]
                begin = time.monotonic()
                error = survivor.communicate(timeout=TIMEOUT + 30)[1]
                self.assertLess(time.monotonic() - begin, TIMEOUT + 10)
                self.assertEqual(1, survivor.returncode, error)
                self.assertEqual(1, len(self.errors([error])), error)
                self.assertIn(f"rank {victim} ", self.errors([error])[0])
                ranks.processes[victim].kill()
                ranks.processes[victim].communicate()
                codes, errors = Ranks(self.command(output, settings, "--resume"), 2).finish()
                self.assertEqual([0, 0], codes, errors)
                self.assertEqual(metrics(whole), metrics(self.folder / output))
                mine, theirs = checkpoint(whole), checkpoint(self.folder / output)
                self.assertEqual({**mine, "recipe.toml": None}, {**theirs, "recipe.toml": None})

    def test_a_signal_to_every_rank_leaves_a_checkpoint(self):
        ranks = Ranks(self.command("stopped"), 2)
        self.wait_for_steps("stopped", 3, ranks)
        for process in ranks.processes:
            process.send_signal(signal.SIGTERM)
        codes, errors = ranks.finish()
        self.assertEqual([1, 1], codes, errors)
        self.assertRegex("\n".join(self.errors(errors)), r"\Aerror: interrupted after step \d+ of 40; checkpoint ")
        codes, errors = Ranks(self.command("stopped", (), "--resume"), 2).finish()
        self.assertEqual([0, 0], codes, errors)
        self.assertEqual(40, len(metrics(self.folder / "stopped")))

    def test_a_full_disk_at_rank_0(self):
        def prepare(rank):
            if rank == 0:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

        codes, errors = Ranks(self.command("full", ("data.synthetic.documents=40",)), 2, prepare).finish()
        self.assertEqual([1, 1], codes, errors)
        self.assertEqual(1, len(self.errors(errors)), errors)
        self.assertIn("File too large", self.errors(errors)[0])

    def test_ranks_that_differ(self):
        def command(rank):
            return self.command("differ", (f"train.seed={rank}",))

        codes, errors = Ranks(command, 2).finish()
        self.assertEqual([1, 1], codes, errors)
        self.assertIn("recipe", "\n".join(self.errors(errors)))
        self.assertFalse((self.folder / "differ" / "latest").exists())

    def test_ranks_that_do_not_divide_the_micro_batches(self):
        codes, errors = Ranks(self.command("odd", ("train.accumulation=1",)), 2).finish()
        self.assertEqual([1, 1], codes, errors)
        self.assertIn("2 ranks cannot share train.accumulation = 1; the same 2 sequences a step: data.batch_size = 1 and "
                      "train.accumulation = 2", errors[0])

    def test_a_loss_that_is_not_finite(self):
        codes, errors = Ranks(self.command("huge", ("optimizer.adamw_lr=900", "optimizer.muon_lr=900")), 2).finish()
        self.assertEqual([1, 1], codes, errors)
        self.assertEqual(1, len(self.errors(errors)), errors)
        self.assertIn("wanted finite numbers", self.errors(errors)[0])

    def test_an_environment_that_is_half_set(self):
        for variables, named in (({"RANK": "0"}, "WORLD_SIZE"), ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK"),
                                 ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK")):
            with self.subTest(variables):
                codes, errors = Ranks(self.command("half"), 1, environment=variables).finish()
                self.assertEqual([1], codes)
                self.assertEqual(1, len(self.errors(errors)), errors)
                self.assertIn(named, errors[0])


if __name__ == "__main__":
    ENGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:3]
    unittest.main(verbosity=2)
