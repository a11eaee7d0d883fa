#!/usr/bin/env python3
"""Names of people, places and things for `engram lab cka` and `gates`: one a line, sorted.

    scripts/entities.py [--wordnet FILE] [--factbook FILE] [--output FILE]

From WordNet's data.noun come the words of every synset that is an instance of something (pointer @i): "Paris",
"Thomas Jefferson". From the factbook's text (scripts/corpus.sh) come the countries' names. Names shorter than four
letters or without a capital are left out, since they are mostly other words too. Needs only the standard library;
--wordnet defaults to the .deb that scripts/corpus.sh downloads, or to an installed wordnet-base.
"""
import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = Path("/usr/share/wordnet/data.noun")


def noun_lines(path: Path) -> list:
    if path.suffix == ".deb":
        archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            return tar.extractfile("./usr/share/wordnet/data.noun").read().decode("ascii").splitlines()
    return path.read_text(encoding="ascii").splitlines()


def wordnet_instances(lines: list) -> set:
    names = set()
    for line in lines:
        if not line[:1].isdigit():
            continue  # the licence stands before the first entry
        fields = line.split(" | ", 1)[0].split(" ")
        words = int(fields[3], 16)
        after = 4 + 2 * words
        pointers = fields[after + 1:after + 1 + 4 * int(fields[after]):4]
        if "@i" in pointers:
            names.update(word.replace("_", " ") for word in fields[4:after:2])
    return names


def countries(text: str) -> set:
    return {document.strip("\n").split("\n", 1)[0] for document in text.split("<|endoftext|>")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    debs = sorted((ROOT / ".cache/packages/corpus").glob("wordnet-base_*.deb"))
    parser.add_argument("--wordnet", type=Path, default=debs[0] if debs else INSTALLED)
    parser.add_argument("--factbook", type=Path, default=ROOT / "demo/data/text/factbook.txt")
    parser.add_argument("--output", type=Path, default=ROOT / "demo/data/entities.txt")
    arguments = parser.parse_args()
    names = wordnet_instances(noun_lines(arguments.wordnet))
    if arguments.factbook.exists():
        names |= countries(arguments.factbook.read_text(encoding="utf-8"))
    names = {name for name in names if len(name) >= 4 and re.search(r"[A-Z]", name) and "\n" not in name}
    temporary = arguments.output.with_suffix(".tmp")
    temporary.write_text("".join(name + "\n" for name in sorted(names)), encoding="utf-8")
    os.replace(temporary, arguments.output)
    print(f"{arguments.output}: {len(names)} names")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, tarfile.TarError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
