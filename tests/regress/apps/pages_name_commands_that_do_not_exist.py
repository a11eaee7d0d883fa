"""Seen: pages named flags and subcommands that the program does not have.
Right: every `engram ...` in README.md and docs/, in code blocks and between backquotes, and every example of a help
text, has subcommands and flags of the command's own help. Placeholders (CKPT, NAME, [--flag N], a|b) are allowed.
(Files that pages name are checked in tests/structure.)

    pages_name_commands_that_do_not_exist.py PROGRAM SOURCE_DIR
"""

import re
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "apps"))
from help_grammar import read_grammar  # noqa: E402

PROGRAM, SOURCE_DIR = "", Path()
# At the start of a line or behind what starts a command there may be variables and a path; two blanks stand between
# the commands of one line.
START = re.compile(r"(?:(?:^|[|;&(])\s*(?:\$ )?(?:\w+=\S+ )*(?:[\w./-]*/)?|\s{2,})engram (?=[a-z\[-]|[A-Z]{2})")


def commands_of_page(text):
    """(line number, command line) of every command on a page."""
    found, in_block = [], False
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            in_block = not in_block
        elif in_block:
            line = re.sub(r"(?<!\S)#.*", "", line)
            if found and found[-1][0] == number - 1 - found[-1][2] and (
                    found[-1][1].rstrip().endswith("\\") or re.match(r"\s+(\[?--|\.\.\.)", line)):
                found[-1] = (found[-1][0], found[-1][1].rstrip().rstrip("\\") + " " + line.strip(), found[-1][2] + 1)
            elif START.search(line):
                found.append((number, line, 0))
        else:
            found += [(number, span, 0) for span in re.findall(r"`([^`]+)`", line) if re.match(START, span)]
    return [(number, line) for number, line, _ in found]


def split_commands(line):
    """The words behind `engram` of every command in a line, up to what ends a command."""
    for part in START.split(line)[1:]:
        part = re.split(r"(?<!\S)(?:&&|;|\||>|<|&)(?!\S)|[;)]\s", part)[0]
        yield re.findall(r"\"[^\"]*\"|'[^']*'|\S+", part)


def plain(word):
    return word.strip("[](),.`:")


def complaints_of(words, root):
    """What is wrong with one command line, as a list of sentences."""
    commands, at = [root], 0
    while at < len(words) and not words[at].startswith(("-", "[-")):
        names = plain(words[at]).split("|")
        below = [command.subcommands[name] for command in commands for name in names if name in command.subcommands]
        if not below:
            break
        unknown = [name for name in names
                   if not any(name in command.subcommands or name in command.missing for command in commands)]
        if unknown:
            return [f"no subcommand {unknown[0]}"]
        commands, at = below, at + 1
    if at < len(words) and commands[0].subcommands and not words[at].startswith(("-", "[")):
        name = plain(words[at])
        if any(name in command.missing for command in commands):
            return []  # this build has no libtorch
        if re.fullmatch(r"[A-Z]+", name):  # a placeholder for any of them
            commands = [sub for command in commands for sub in command.all()]
        elif not commands[0].positionals and name:
            return [f"no subcommand {name}"]
    known = {flag for command in commands for flag in command.flags}
    flags = [flag for word in words if word[:1] not in "\"'" for flag in re.findall(r"(?:^|(?<=[\[|]))--[a-z][a-z-]*", word)]
    return [f"no flag {flag}" for flag in flags if flag not in known]


def page_complaints(text, root):
    return [f"{number}: `engram {' '.join(words)}`: {complaint}"
            for number, line in commands_of_page(text)
            for words in split_commands(line)
            for complaint in complaints_of(words, root)]


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = read_grammar(PROGRAM)

    def test_pages(self):
        complaints, seen = [], 0
        for path in [*SOURCE_DIR.glob("*.md"), *SOURCE_DIR.glob("docs/**/*.md"), *SOURCE_DIR.glob("recipes/**/*.md")]:
            text = path.read_text(encoding="utf-8")
            seen += len(commands_of_page(text))
            complaints += [f"{path.relative_to(SOURCE_DIR)}:{complaint}" for complaint in page_complaints(text, self.root)]
        self.assertGreater(seen, 50, "the pages' commands were not found")
        self.assertEqual([], complaints, "\n" + "\n".join(complaints))

    def test_examples_of_help_texts(self):
        complaints = []
        for command in self.root.all():
            for line in command.footer.splitlines()[1:]:
                for words in split_commands(line):
                    complaints += [f"engram {' '.join(command.path)}: {line.strip()}: {complaint}"
                                   for complaint in complaints_of(words, self.root)]
        self.assertEqual([], complaints, "\n" + "\n".join(complaints))

    def test_every_command_shows_an_example(self):
        without = [" ".join(command.path) for command in self.root.all() if "engram " not in command.footer]
        self.assertEqual([], without)

    def test_faults_are_seen(self):
        page = """Text with `engram tokenizer encode --text S`, `engram tokenizer encoode`, `engram-bundle`.
```sh
engram table inspect t.rows --jason            # --no such flag in a comment
engram plan --table t.rows --corpus c \\
            --ramm 2GiB
engram hash --ids "1 --two"
           [--xylophone N]
X=1 build/release/engram tokenizer encode|dekode --tokenizer FILE
engram table create --synthetic --size N FILE   engram table konvert SRC DST
echo x | engram tokenizer encode --tokens FILE | cat --show
engram NAME --help
engram table inspect|verify PATH --json
```
"""
        self.assertEqual(["no subcommand encoode", "no flag --jason", "no flag --ramm", "no flag --xylophone",
                          "no subcommand dekode", "no subcommand konvert", "no flag --tokens"],
                         [complaint.split("`: ")[1] for complaint in page_complaints(page, self.root)])


if __name__ == "__main__":
    PROGRAM, SOURCE_DIR = sys.argv[1], Path(sys.argv[2]).resolve()
    del sys.argv[1:3]
    unittest.main(verbosity=2)
