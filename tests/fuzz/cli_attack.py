"""Attacks the command line: any arguments whatever end with exit code 0, 1 or 2, in bounded time and memory, with at
most one `error:` line, never by a signal, and change no file that they do not name.

    cli_attack.py PROGRAM [--seed N] [--cases N] [--show]

Arguments come from the grammar of the program's own help (tests/apps/help_grammar.py): plausible values that let a
command go far, hostile values, flags misspelled, doubled and cut off. Case N of a seed is always the same; a failure
prints its number and arguments. ENGRAM_ATTACK_SECONDS runs cases for that long, instead of a fixed number of them.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "apps"))
from help_grammar import read_grammar  # noqa: E402

SECONDS_PER_CASE = 40
FILE_LIMIT = 64 << 20  # a larger file is an error of writing, so that no case fills a drive
NEED_TORCH = {"demo", "eval", "export", "generate", "import", "lab", "score", "serve", "train"}

NUMBERS = ["0", "1", "-1", "2", "3", "64", "2147483647", "2147483648", "4294967296", "9223372036854775807",
           "9223372036854775808", "-9223372036854775808", "18446744073709551616", "1e3", "1e309", "-0", "0x10", "007",
           "nan", "inf", "-inf", "0.5", "1,2", "1,", ",", "1 2", " 1", "1 ", "1KiB", "1EiB", "-1GiB", "", "one", "\u0661"]
TEXTS = ["", " ", "\n", "a\nerror: b", "x" * 70_000, "%s%n%d", "\x1b[2J", b"\xff\xfe", b"a\xc3", "-", "--", "-x", "--x=",
         "=", "a=b", "a.b=c", "{", "[1", '"', "'", "\\", "\U0001F642", "*", "~", "$HOME", "on", "off", "none", "auto"]


def byte_level_tokenizer():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": 256, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                              "rstrip": False, "normalized": False, "special": True}],
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []}}


def make_inputs(program, folder):
    """Small files that the commands take, and ones that they should refuse."""
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()), encoding="utf-8")
    (folder / "text.txt").write_text("Some text.\n<|endoftext|>\nMore of it.\n" * 40)
    (folder / "recipe.toml").write_text("[train]\nsteps = 1\n")
    (folder / "noise").write_bytes(random.Random(0).randbytes(5000))
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    for device in ("null", "zero", "full"):  # links: a fault that replaces its output then replaces no device
        (folder / device).symlink_to(f"/dev/{device}")
    (folder / "mem").symlink_to("/proc/self/mem")
    os.mkfifo(folder / "fifo")

    def run(*arguments):
        subprocess.run([program, *map(str, arguments)], check=True, capture_output=True, timeout=60)

    run("table", "create", "--synthetic", "--size", "2MiB", folder / "t.rows")
    run("data", "prepare", "--tokenizer", folder / "tokenizer.json", "--output", folder / "data",
        "--validation-fraction", "0.3", folder / "text.txt")


def snapshot(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        found[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns, state.st_ino)
    return found


class Attack:
    def __init__(self, program, scratch, seed):
        self.program, self.scratch, self.seed = program, scratch, seed
        self.root = read_grammar(program)
        self.groups = [command for command in self.root.all() if command.subcommands]
        leaves = [command for command in self.root.all() if not command.subcommands]
        self.torch_free = [command for command in leaves if command.path[0] not in NEED_TORCH | {"bench"}]
        self.others = [command for command in leaves if command not in self.torch_free]
        self.inputs = scratch / "inputs"
        self.home = scratch / "home"
        self.home.mkdir()
        make_inputs(program, self.inputs)
        self.paths = [str(path) for path in sorted(self.inputs.rglob("*"))] + [
            "none", "none/none", "out", "out2", ".", "a" * 300]
        self.before = snapshot(self.inputs)
        self.failures, self.cases, self.peak = 0, 0, 0

    # What a value of this flag might be, by its name.
    def plausible(self, name, source):
        inputs = self.inputs
        known = {
            "tokenizer": [inputs / "tokenizer.json"], "table": [inputs / "t.rows"], "path": [inputs / "t.rows"],
            "source": [inputs / "t.rows"], "file": [inputs / "text.txt", inputs / "data/train.tokens", "out"],
            "files": [inputs / "text.txt", inputs], "corpus": [inputs / "text.txt", inputs / "data/train.tokens"],
            "output": ["out"], "destination": ["out"], "profile": ["out"], "plot": ["out"],
            "recipe": [inputs / "recipe.toml"], "checkpoint": [inputs / "data"], "tokens": [inputs / "data/train.tokens", "5"],
            "ids": ["0 1 2", "0"], "layer": ["1"], "layer-ids": ["1,14"], "vocab-size": ["97,97", "300"], "size": ["2MiB"],
            "ram": ["1MiB"], "text": ["some text", "1 2"], "set": ["train.steps=1"], "n-heads": ["2"],
            "max-ngram-size": ["3"], "pad-id": ["0"], "dtype": ["int8", "fp32"], "length": ["64"], "documents": ["3"],
            "compressed-vocab-size": ["50"], "starts": ["0"],
        }
        return source.choice(known.get(name.strip("-"), NUMBERS[:6]))

    def value(self, flag, source):
        if flag.name in ("--length", "--documents"):  # work and text of the asked size: few kinds of either
            return source.choice(["1", "3", "64", "500", "-1", "0", "x", ""])
        kind = source.random()
        if kind < 0.75:
            if "{" in flag.kind and source.random() < 0.9:
                return source.choice(flag.kind.split("{")[1].split("}")[0].split(","))
            return str(self.plausible(flag.name, source))
        if kind < 0.85:
            return source.choice(self.paths)
        return source.choice(NUMBERS if "INT" in flag.kind or "FLOAT" in flag.kind and source.random() < 0.8 else TEXTS)

    def arguments(self, number):
        """The arguments of a case."""
        source = random.Random(f"{self.seed} {number}")
        kind = source.random()
        command = source.choice(self.torch_free if kind < 0.88 else self.groups if kind < 0.93 else self.others)
        words = list(command.path)
        pieces = []
        for flag in command.flags.values():
            if flag.name in ("-h", "--help", "--version") and source.random() < 0.98:
                continue
            if source.random() > (0.98 if flag.required else 0.25):
                continue
            if not flag.kind:
                pieces.append([flag.name])
                continue
            value = self.value(flag, source)
            joined = source.random() < 0.2 and isinstance(value, str)
            pieces.append([f"{flag.name}={value}"] if joined else [flag.name, value])
        for positional in command.positionals:
            if source.random() < (0.97 if positional.required else 0.4):
                pieces.append([self.value(positional, source)])
        if source.random() < 0.15:
            pieces = self.spoilt(pieces, command, source)
        source.shuffle(pieces)
        words += [word for piece in pieces for word in piece]
        if command.path[:1] == ("bench",) and len(command.path) > 1:
            words.append("--no-such-flag")  # what is measured takes as long as was asked for
        return [word if isinstance(word, bytes) else word.replace("\0", "").encode() for word in words]

    @staticmethod
    def spoilt(pieces, command, source):
        kind = source.randrange(6)
        if kind == 0 and pieces:
            pieces.append(list(source.choice(pieces)))  # twice
        elif kind == 1 and pieces:
            pieces[-1] = pieces[-1][:1]  # without its value
        elif kind == 2:
            pieces.append([source.choice(TEXTS)])
        elif kind == 3 and command.flags:
            name = source.choice(list(command.flags))
            at = source.randrange(len(name))
            pieces.append([name[:at] + name[at + 1:], "1"])  # misspelled
        elif kind == 4:
            pieces.insert(0, ["--"])
        else:
            word = source.choice(TEXTS)
            pieces.append([word] * source.randrange(1, 10 if len(word) > 1000 else 300))
        return pieces

    def run_case(self, number, show=False):
        arguments = self.arguments(number)
        folder = self.scratch / "case"
        folder.mkdir()
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # inherited: a write beyond the limit is an error
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        child = subprocess.Popen([self.program.encode(), *arguments], cwd=folder, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit,
                                 env={**os.environ, "HOME": str(self.home), "OMP_NUM_THREADS": "1"})
        try:
            output, errors = child.communicate(timeout=SECONDS_PER_CASE)
            problem = self.judge(arguments, child.returncode, errors)
        except subprocess.TimeoutExpired:
            child.kill()
            output, errors = child.communicate()
            problem = f"still running after {SECONDS_PER_CASE} s"
        if show:
            print(number, child.returncode, arguments, errors[:300])
        self.peak = max(self.peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, before)
        self.cases += 1
        problem = problem or self.changed_files(arguments)
        if problem:
            self.failures += 1
            print(f"case {number} of seed {self.seed}: {problem}\n  engram {shown(arguments)}\n  {errors[-600:]!r}",
                  flush=True)
        shutil.rmtree(folder)

    @staticmethod
    def judge(arguments, code, errors):
        lines = [line for line in errors.split(b"\n") if line.startswith(b"error:")]
        if code not in (0, 1, 2):
            return f"exit code {code}"
        if len(lines) != (1 if code else 0):
            return f"exit code {code} with {len(lines)} error lines"
        for word in (b"terminate called", b"Sanitizer", b"runtime error", b"Exception raised from"):
            if word in errors:
                return f"stderr holds '{word.decode()}'"
        return ""

    def changed_files(self, arguments):
        """Inputs that an argument names may be outputs too; everything else stays what it was."""
        if any(self.home.iterdir()):
            shutil.rmtree(self.home)
            self.home.mkdir()
            return "wrote into the home folder"
        strangers = {path.name for path in self.scratch.iterdir()} - {"inputs", "home", "case"}
        now = snapshot(self.inputs)
        if now == self.before and not strangers:
            return ""
        changed = [path for path in {*now, *self.before} if now.get(path) != self.before.get(path)]
        shutil.rmtree(self.inputs)
        make_inputs(self.program, self.inputs)
        self.before = snapshot(self.inputs)
        for name in strangers:
            path = self.scratch / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        named = b"\0".join(arguments)
        unnamed = [path for path in changed if not any(
            str(folder).encode() in named for folder in (Path(path), *Path(path).parents) if self.scratch in folder.parents)]
        return f"changed {unnamed + sorted(strangers)}" if unnamed or strangers else ""


def shown(arguments):
    return " ".join(repr(word.decode(errors="backslashreplace"))[:200] for word in arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--show", action="store_true", help="print every case")
    options = parser.parse_args()
    seconds = float(os.environ.get("ENGRAM_ATTACK_SECONDS", 0))
    with tempfile.TemporaryDirectory() as folder:
        attack = Attack(str(Path(options.program).resolve()), Path(folder).resolve(), options.seed)
        end, number = time.monotonic() + seconds, options.first
        while time.monotonic() < end if seconds else number < options.first + options.cases:
            attack.run_case(number, options.show)
            number += 1
    print(f"attack: cli, {attack.cases} cases, {attack.failures} failures, peak {attack.peak // 1024} MiB")
    return 1 if attack.failures else 0


if __name__ == "__main__":
    sys.exit(main())
