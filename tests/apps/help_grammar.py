"""The grammar of the command line as its own help states it: subcommands, flags, positional arguments.

Read once from `engram ... --help` of every command. What documents say and what the attack on the command line tries
both come from here, so a new command or flag needs no second list.
"""

import re
import subprocess


class Flag:
    def __init__(self, name, kind, required):
        self.name, self.kind, self.required = name, kind, required  # kind: "" for a flag without a value


class Command:
    """One command: `path` without the program, flags by name, positional arguments, subcommands by name."""

    def __init__(self, path):
        self.path = path
        self.flags, self.positionals, self.subcommands = {}, [], {}
        self.footer = ""

    def all(self):
        yield self
        for command in self.subcommands.values():
            yield from command.all()


def parse_help(text, command):
    """Fills `command` from its help; returns the names of its subcommands."""
    section, names = "", []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\S.*:$", line) and not line.startswith("Usage"):
            section = line.rstrip(":")
            if section.startswith("Example"):
                command.footer = "\n".join(lines[number:])
                break
            continue
        entry = re.match(r" {2,6}(\S.*?)(?:  +.*)?$", line)  # what an option group holds stands deeper
        if not entry or not section:
            continue
        words = entry[1].split(" ")
        if section == "Positionals":
            command.positionals.append(Flag(words[0], " ".join(words[1:]), "REQUIRED" in words))
        elif section == "Subcommands":
            names.append(words[0])
        else:  # "Options", or a group of them
            for name in words[0].split(","):
                if name.startswith("-"):
                    kind = " ".join(words[1:])
                    command.flags[name.split("{")[0]] = Flag(name.split("{")[0], kind, "REQUIRED" in words)
    return names


def read_grammar(program, path=()):
    """The command at `path` with everything below it."""
    done = subprocess.run([program, *path, "--help"], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(path)} --help: exit code {done.returncode}: {done.stderr}")
    command = Command(path)
    for name in parse_help(done.stdout, command):
        try:
            command.subcommands[name] = read_grammar(program, (*path, name))
        except RuntimeError as error:
            if "needs the program" not in str(error):  # a build without libtorch knows these by name only
                raise
            command.subcommands[name] = None
    command.subcommands = {name: sub for name, sub in command.subcommands.items() if sub}
    command.missing = [name for name in parse_help(done.stdout, Command(path)) if name not in command.subcommands]
    return command
