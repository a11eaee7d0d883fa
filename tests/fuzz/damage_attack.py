#!/usr/bin/env python3
"""Damages every file that the program reads, one at a time, and runs the commands that read it.

    damage_attack.py ENGRAM SOURCE_DIR

Files: a checkpoint, its run (metrics, token shards, link), a row file, a tokenizer, a text. Damage: cut, flipped, zeroed,
filled, lengthened, emptied, huge lengths and numbers in headers, another file in its place, a folder, a pipe, a link to
/dev/zero, to nothing or to itself. Wanted each time: exit code 1 with exactly one `error:` line and nothing changed on
disk, or exit code 0 where the damage does not matter; no signal, no hang, bounded memory.

Without ENGRAM_ATTACK_SECONDS a short list of cases, the same each time. With it, further cases until the time is over.
ENGRAM_ATTACK_ONLY=N runs case N alone, with its damage described, and keeps its folder.
"""
import hashlib
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENGRAM, SOURCE_DIR = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
SHORT_CASES = 80
TORCH_EVERY = 12  # of the cases of the short form, one in so many runs a command that loads libtorch
MOST_SECONDS, MOST_MIB = 60, 2048
RECIPE = SOURCE_DIR / "recipes" / "smoke.toml"
SETTINGS = ["model.engram.vocab_size=[97, 193]", "model.hidden_size=32", "model.n_routed_experts=4",
            "model.num_hidden_layers=2", "model.engram.layer_ids=[1]", "data.synthetic.documents=40",
            "data.sequence_length=32", "data.batch_size=2", "train.validation_batches=1", "train.validate_every=2",
            "train.checkpoint_every=2"]


def train_command(run: Path, steps: int) -> list:
    command = ["train", RECIPE]
    for setting in [*SETTINGS, "train.steps=4", f"train.stop_at={steps}", f"train.output={run}"]:
        command += ["--set", setting]
    return command


def run_good(*arguments):
    done = subprocess.run([ENGRAM, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")


def make_base(base: Path):
    """What is damaged later: everything small."""
    base.mkdir()
    run_good(*train_command(base / "run", 2))
    checkpoint = (base / "run" / "latest").resolve()
    run_good("table", "convert", checkpoint, base / "t.rows")
    (base / "text.txt").write_text("The town of Orrin lies by the river Vess. " * 60, encoding="utf-8")


class Case:
    """A file, a damage and a command, all drawn from the case's number."""

    def __init__(self, number: int, folder: Path, light: bool):
        self.random = random.Random(f"damage {number}")
        self.folder, run = folder, folder / "run"
        checkpoint = "run/" + os.readlink(run / "latest")
        heavy = {
            "eval": (["eval", run, "--file", folder / "text.txt", "--json"],
                     [f"{checkpoint}/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors",
                                                          "engram.safetensors")] + ["run/latest", "text.txt"]),
            "resume": ([*train_command(run, 4), "--resume"],
                       [f"{checkpoint}/{name}" for name in ("config.json", "state.json", "optimizer.safetensors",
                                                            "recipe.toml", "model.safetensors", "engram.safetensors")]
                       + ["run/metrics.jsonl", "run/latest"]),
        }
        tokens = sorted(str(path.relative_to(folder)) for path in run.rglob("*.tokens"))
        tokenizer = folder / checkpoint / "tokenizer.json"
        files = [f"{checkpoint}/{name}" for name in ("config.json", "tokenizer.json", "engram.safetensors")]
        quick = {
            "inspect": (["table", "inspect", folder / checkpoint, "--json"], files),
            "verify": (["table", "verify", folder / "t.rows"], ["t.rows"]),
            "lookup": (["table", "lookup", folder / "t.rows", "--layer", "1", "--ids", "0 5 7", "--json"], ["t.rows"]),
            "convert": (["table", "convert", folder / checkpoint, folder / "new.rows", "--dtype", "fp8"], files),
            "tokens": (["data", "inspect", folder / tokens[0], "--json"], [tokens[0]]),
            "encode": (["tokenizer", "encode", "--tokenizer", tokenizer, "--file", folder / "text.txt", "--json"],
                       [f"{checkpoint}/tokenizer.json", "text.txt"]),
            "prepare": (["data", "prepare", "--tokenizer", tokenizer, "--output", folder / "prepared",
                         folder / "text.txt"], [f"{checkpoint}/tokenizer.json", "text.txt"]),
            "plan": (["plan", "--table", folder / "t.rows", "--tokenizer", tokenizer, "--corpus", folder / "text.txt",
                      "--ram", "1MiB"], ["t.rows", f"{checkpoint}/tokenizer.json", "text.txt"]),
        }
        name = self.random.choice(sorted(quick if light else heavy))
        self.command, targets = (quick if light else heavy)[name]
        self.target = self.random.choice(targets)
        self.damage = self.random.choice([self.cut, self.flip, self.zero, self.fill, self.lengthen, self.huge_field,
                                          self.huge_number, self.replace, self.become])

    def __str__(self):
        words = " ".join(str(word).replace(f"{self.folder}/", "") for word in self.command)
        return f"{self.target}: {self.what}; engram {words}"

    @property
    def path(self) -> Path:
        return self.folder / self.target

    def bytes(self) -> bytearray:
        return bytearray(self.path.read_bytes() if self.path.is_file() else b"")

    def write(self, data: bytes):
        self.path.unlink()
        self.path.write_bytes(data)

    # Damages: each says what it did.

    def cut(self):
        data = self.bytes()
        size = self.random.choice([0, 1, 7, 8, 4095, 4096, len(data) // 2, max(0, len(data) - 1),
                                   self.random.randrange(len(data) + 1)])
        self.what = f"cut to {min(size, len(data))} of {len(data)} bytes"
        self.write(data[:size])

    def near_start(self, data: bytearray) -> int:
        return self.random.randrange(max(1, min(len(data), self.random.choice([16, 256, 4096, len(data) or 1]))))

    def flip(self):
        data, count = self.bytes(), self.random.choice([1, 1, 3, 50])
        places = sorted(self.near_start(data) for _ in range(count)) if data else []
        for place in places:
            data[place] ^= 1 << self.random.randrange(8)
        self.what = f"bits flipped in bytes {places[:5]}"
        self.write(data)

    def zero(self):
        data = self.bytes()
        begin = self.near_start(data)
        size = self.random.choice([1, 8, 64, 4096])
        data[begin:begin + size] = bytes(len(data[begin:begin + size]))
        self.what = f"{size} bytes from {begin} on zeroed"
        self.write(data)

    def fill(self):
        data = self.bytes()
        begin = self.near_start(data)
        part = self.random.randbytes(self.random.choice([1, 8, 64, 4096]))[:len(data) - begin]
        data[begin:begin + len(part)] = part
        self.what = f"{len(part)} random bytes from {begin} on"
        self.write(data)

    def lengthen(self):
        data, size = self.bytes(), self.random.choice([1, 8, 4095, 4096, 100000])
        self.what = f"lengthened by {size} bytes"
        self.write(data + self.random.choice([bytes(size), b" " * size, b"\n" * size, self.random.randbytes(size)]))

    def huge_field(self):
        """A length, a count or an offset that no file has."""
        data, width = self.bytes(), self.random.choice([4, 8])
        place = self.random.randrange(0, max(1, min(len(data), 256)), 4)
        value = self.random.choice([2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
        data[place:place + width] = (value % 2**(8 * width)).to_bytes(width, "little")
        self.what = f"{value} as {width} bytes at {place}"
        self.write(data)

    def huge_number(self):
        """A number in a JSON or TOML text, or in a safetensors header, becomes another of any size."""
        data = self.bytes()
        digits = [i for i in range(min(len(data), 20000)) if 48 <= data[i] <= 57]
        if not digits:
            return self.flip()
        begin = end = self.random.choice(digits)
        while end < len(data) and 48 <= data[end] <= 57:
            end += 1
        number = self.random.choice([b"-1", b"0", b"1e999", b"1e18", b"9223372036854775807", b"18446744073709551616",
                                     b"4611686018427387904", b"2147483648", b"null", b"[]", b'""', b"true", b"0.5",
                                     b"1" * 4000])
        self.what = f"{number[:30].decode()} for the number at {begin}"
        self.write(data[:begin] + number + data[end:])

    def replace(self):
        others = [path for path in sorted(self.folder.rglob("*"))
                  if path.is_file() and not path.is_symlink() and path != self.path]
        other = self.random.choice(others)
        self.what = f"replaced by {other.relative_to(self.folder)}"
        self.write(other.read_bytes())

    def become(self):
        kind = self.random.choice(["empty", "folder", "pipe", "zero", "nothing", "itself", "missing", "sparse", "pointer"])
        self.what = f"became {kind}"
        self.path.unlink()
        if kind == "empty":
            self.path.touch()
        elif kind == "folder":
            self.path.mkdir()
        elif kind == "pipe":
            os.mkfifo(self.path)
        elif kind == "sparse":
            self.path.touch()
            os.truncate(self.path, 2**40)
        elif kind == "pointer":
            self.path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        elif kind != "missing":
            self.path.symlink_to({"zero": "/dev/zero", "nothing": "nowhere", "itself": self.path.name}[kind])


def snapshot(folder: Path) -> dict:
    entries = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        content = (info.st_mode, info.st_size)
        if stat.S_ISREG(info.st_mode) and info.st_size < 2**30:
            content += (hashlib.sha1(path.read_bytes()).hexdigest(),)
        elif stat.S_ISLNK(info.st_mode):
            content += (os.readlink(path),)
        elif stat.S_ISDIR(info.st_mode):
            content = (info.st_mode,)
        entries[str(path.relative_to(folder))] = content
    return entries


def limits():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))


def attack(case: Case, log: Path):
    """What went wrong, or "", and the program's peak memory in MiB."""
    case.damage()
    before = snapshot(case.folder)
    with open(log, "wb") as errors:
        process = subprocess.Popen([ENGRAM, *map(str, case.command)], stdin=subprocess.DEVNULL, stderr=errors,
                                   stdout=subprocess.DEVNULL, preexec_fn=limits, start_new_session=True)
        end = time.monotonic() + MOST_SECONDS
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid != 0:
                break
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)
                os.wait4(process.pid, 0)
                process.returncode = -9
                return f"still running after {MOST_SECONDS} s", 0
            time.sleep(0.002)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss // 1024
    text = log.read_bytes().decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if code not in (0, 1):
        return f"exit code {code}: {text[-500:]}", peak
    if len(lines) != code:
        return f"exit code {code} with {len(lines)} error lines: {text[-500:]}", peak
    if peak > MOST_MIB:
        return f"took {peak} MiB", peak
    if code == 1 and (after := snapshot(case.folder)) != before:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        return f"failed ({lines[0]}) and changed {changed}", peak
    return "", peak


def main() -> int:
    seconds = float(os.environ.get("ENGRAM_ATTACK_SECONDS", "0"))
    only = os.environ.get("ENGRAM_ATTACK_ONLY")
    scratch = Path(tempfile.mkdtemp(prefix="engram_damage_"))
    end, cases, failures, peak = time.monotonic() + seconds, 0, 0, 0
    try:
        make_base(scratch / "base")
        number = int(only) if only else 0
        while only is None or number == int(only):
            if only is None and number >= SHORT_CASES and time.monotonic() > end:
                break
            folder = scratch / "case"
            shutil.copytree(scratch / "base", folder, symlinks=True)
            light = number % TORCH_EVERY != 0 if seconds == 0 or number < SHORT_CASES else number % 3 != 0
            case = Case(number, folder, light)
            wrong, used = attack(case, scratch / "stderr")
            cases, peak = cases + 1, max(peak, used)
            if wrong:
                failures += 1
                print(f"case {number}: {case}\n  {wrong}", flush=True)
            if only is not None:
                print(f"{case}\n{(scratch / 'stderr').read_text(errors='replace')}\nkept: {folder}")
                break
            shutil.rmtree(folder)
            number += 1
    finally:
        if only is None:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"attack: damage, {cases} cases, {failures} failures, peak {peak} MiB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
