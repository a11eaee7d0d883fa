#!/usr/bin/env python3
"""Kills training at random moments and checks that nothing is lost.

    kill_test.py ENGRAM SOURCE_DIR [--kills N] [--seed S]

One undisturbed run, then one that is killed (SIGKILL) N times, resumed after each and left to finish: both must end
with the same bytes. Also: SIGINT and SIGTERM finish the step and leave a checkpoint; a full disk and a folder that
cannot be written are one error line.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path

SETTINGS = ["train.steps=60", "train.checkpoint_every=3", "train.validation_batches=1", "data.synthetic.documents=100",
            "data.batch_size=4", "train.threads=1", "train.log_every=1000000"]


class Trainer:
    def __init__(self, engram, source, folder):
        self.engram, self.recipe, self.folder = engram, source / "recipes" / "smoke.toml", folder

    def start(self, output, *arguments, **options):
        command = [self.engram, "train", self.recipe, "--set", f"train.output={self.folder / output}"]
        for setting in SETTINGS:
            command += ["--set", setting]
        return subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                **options)

    def finish(self, process, code):
        error = process.communicate(timeout=300)[1]
        assert process.returncode == code, f"exit code {process.returncode}, wanted {code}: {error[-2000:]}"
        return error

    def check_latest(self, output):
        """`latest`, when there is one, is a whole checkpoint."""
        latest = self.folder / output / "latest"
        if not latest.is_symlink():
            return 0
        names = {path.name for path in latest.iterdir()}
        wanted = {"config.json", "tokenizer.json", "model.safetensors", "engram.safetensors", "optimizer.safetensors",
                  "state.json", "recipe.toml"}
        assert names == wanted, f"{latest.resolve()}: {sorted(names)}"
        return json.loads((latest / "state.json").read_text())["step"]

    def checkpoint(self, output):
        return {path.name: path.read_bytes() for path in (self.folder / output / "latest").iterdir()}


def wait_for_kill(trainer, process, generator):
    """Until some random moment: every third time while starting, else a few steps on, where checkpoints are written."""
    if generator.randrange(3) == 0:
        time.sleep(generator.uniform(0.0, 0.3))
        return
    metrics = trainer.folder / "killed" / "metrics.jsonl"
    wanted = trainer.check_latest("killed") + generator.randint(1, 9)
    while process.poll() is None and not (metrics.exists() and len(metrics.read_bytes().splitlines()) >= wanted):
        time.sleep(0.002)
    time.sleep(generator.uniform(0.0, 0.05))


def test_kills(trainer, kills, generator):
    trainer.finish(trainer.start("whole"), 0)
    step = 0
    for kill in range(kills):
        process = trainer.start("killed", "--resume")
        wait_for_kill(trainer, process, generator)
        process.kill()
        error = process.communicate()[1]
        assert process.returncode in (-signal.SIGKILL, 0), error[-2000:]  # 0: it was done before
        now = trainer.check_latest("killed")
        assert now >= step, f"step {now} after {step}"
        print(f"kill {kill + 1} of {kills}: latest checkpoint at step {now}", flush=True)
        step = now
    trainer.finish(trainer.start("killed", "--resume"), 0)
    assert trainer.checkpoint("whole") == trainer.checkpoint("killed"), "the killed run ends with other bytes"
    steps = [json.loads(line)["step"] for line in (trainer.folder / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 61)), steps


def test_signals(trainer):
    for number in (signal.SIGINT, signal.SIGTERM):
        output = f"signal{number.value}"
        process = trainer.start(output)
        metrics = trainer.folder / output / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size > 0):
            time.sleep(0.01)
        process.send_signal(number)
        error = trainer.finish(process, 1)
        last = error.strip().splitlines()[-1]
        assert last.startswith("error: interrupted after step "), last
        step = trainer.check_latest(output)
        assert step > 0 and len(metrics.read_text().splitlines()) == step, step
        trainer.finish(trainer.start(output, "--resume"), 0)
        assert trainer.checkpoint("whole") == trainer.checkpoint(output), "the interrupted run ends with other bytes"


def test_bad_disks(trainer):
    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    error = trainer.finish(trainer.start("full", preexec_fn=small_files), 1)
    assert error.strip().splitlines()[-1].startswith("error: "), error
    assert not list((trainer.folder / "full").glob("step-*")), "a half-written checkpoint"
    (trainer.folder / "file").write_text("in the way")
    error = trainer.finish(trainer.start("file/output"), 1)
    assert "Not a directory" in error.strip().splitlines()[-1], error
    if os.geteuid() != 0:  # root writes everywhere
        locked = trainer.folder / "locked"
        locked.mkdir(mode=0o500)
        error = trainer.finish(trainer.start("locked/output"), 1)
        assert "Permission denied" in error.strip().splitlines()[-1], error


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engram", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(options.engram.resolve(), options.source.resolve(), Path(folder))
        test_kills(trainer, options.kills, random.Random(options.seed))
        test_signals(trainer)
        test_bad_disks(trainer)
    print("kill_test: ok")


if __name__ == "__main__":
    main()
