"""Structure of the repository: include arrows, orphaned tests, labels.

    structure_test.py SOURCE_DIR [BUILD_DIR]     labels are checked only when BUILD_DIR is given

The rules are docs/architecture.md's. Every checker is a function from a folder to a list of complaints; each is run
over the repository and over a planted fault, so a checker that stops seeing anything fails too.
"""

import json
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE_DIR = Path(__file__).resolve().parents[2]
BUILD_DIR = None

# Room -> the rooms whose headers it may include (itself always).
ARROWS = {
    "port": set(),
    "core": {"port"},
    "text": {"core"},
    "hash": {"core", "text"},
    "formats": {"core"},
    "kernels": {"port", "core"},
    "store": {"port", "core", "text", "hash", "formats", "kernels"},
    "data": {"core", "text", "hash"},
    "dist": {"port", "core"},
    "model": {"core", "text", "hash", "formats", "kernels", "store", "dist"},
    "train": {"core", "text", "hash", "formats", "kernels", "store", "data", "dist", "model"},
    "serve": {"core", "text", "hash", "formats", "kernels", "store", "model"},
    "lab": {"core", "text", "hash", "formats", "kernels", "store", "data", "dist", "model", "train", "serve"},
}
ENGRAM_ROOMS = set(ARROWS)
TORCH_ROOMS = {"dist", "model", "train", "serve", "lab", "bench", "apps"}
TORCH_HEADER = re.compile(r"^(torch|ATen|c10|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCE_SUFFIXES = {".h", ".cc", ".cu", ".c", ".cpp", ".cuh"}
TOP_FOLDERS = ["include", "engram", "apps", "bench", "reference", "tests", "bindings", "examples"]


def sources(root):
    for top in TOP_FOLDERS:
        for path in sorted((root / top).rglob("*")):
            if path.suffix in SOURCE_SUFFIXES and path.is_file():
                yield path, path.relative_to(root)


def room_of(relative):
    """engram/core/x.cc -> core; apps/x.cc -> apps; tests/core/x_test.cc -> tests:core; tests/x.h -> tests."""
    parts = relative.parts
    if parts[0] == "engram":
        return parts[1]
    if parts[0] == "tests" and len(parts) > 2:
        return "tests:" + parts[1]
    return parts[0]


def allowed_rooms(room):
    """The engram/ rooms that a file of `room` may include, None for no limit."""
    if room in ARROWS:
        return ARROWS[room] | {room}
    if room == "reference":
        return set()
    if room.startswith("tests:") and room[len("tests:"):] in ARROWS:
        return allowed_rooms(room[len("tests:"):]) | {"formats"}  # golden vectors are safetensors
    return None


def include_complaints(root):
    complaints = []
    for path, relative in sources(root):
        room = room_of(relative)
        allowed = allowed_rooms(room)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            target = match[2]
            where = f"{relative}:{number}: includes {target}"
            base = room.removeprefix("tests:")
            if TORCH_HEADER.match(target) and base in ARROWS and base not in TORCH_ROOMS:
                complaints.append(f"{where}; {base} must build without torch")
            parts = Path(target).parts
            if parts[0] == "engram" and len(parts) > 2:
                if allowed is not None and parts[1] not in allowed:
                    complaints.append(f"{where}; {room} may include {', '.join(sorted(allowed)) or 'nothing of engram/'}")
            elif parts[0] == "apps" and room not in ("apps", "tests:apps"):
                complaints.append(f"{where}; only apps may include apps")
            elif parts[0] == "bench" and room not in ("bench", "apps", "tests:bench"):
                complaints.append(f"{where}; only bench and apps may include bench")
            elif parts[0] == "tests" and not room.startswith("tests"):
                complaints.append(f"{where}; only tests may include tests")
            if match[1] == '"' and not (root / target).is_file() and not (root / "include" / target).is_file():
                complaints.append(f"{where}; no such file (quoted includes are paths from the repository's root)")
    return complaints


def cycle_complaints(root):
    """No file (a header with its .cc) includes one that leads back to it."""
    includes = {}
    for path, relative in sources(root):
        if relative.parts[0] != "engram":
            continue
        file = str(relative.with_suffix(""))
        found = re.findall(r'^\s*#\s*include\s*"(engram/[^"]+)\.h"', path.read_text(encoding="utf-8"), re.MULTILINE)
        includes.setdefault(file, set()).update(name for name in found if name != file)
    complaints, done = [], set()

    def visit(file, trail):
        if file in trail:
            complaints.append(f"{file}: a circle of includes: {' -> '.join(trail[trail.index(file):] + [file])}")
        elif file not in done:
            done.add(file)
            for name in sorted(includes.get(file, ())):
                visit(name, trail + [file])

    for file in sorted(includes):
        visit(file, [])
    return complaints


def room_list_complaints(root):
    """docs/architecture.md has every room and every folder of a room in its tree, and no other; its arrows are ARROWS."""
    page = (root / "docs/architecture.md").read_text(encoding="utf-8")
    tree = page.split("```")[1]
    named = set(re.findall(r"^engram/([a-z]+)/", tree, re.MULTILINE))
    there = {path.name for path in (root / "engram").iterdir() if path.is_dir()}
    complaints = [f"docs/architecture.md: room {room} is not in the tree" for room in sorted(there - named)]
    complaints += [f"docs/architecture.md: there is no room {room}" for room in sorted(named - there)]
    for room in sorted(there & named):
        described = re.search(rf"^engram/{room}/(.*?)(?=^\S|\Z)", tree, re.MULTILINE | re.DOTALL)[1]
        folders = {path.name for path in (root / "engram" / room).iterdir() if path.is_dir() and path.name != "assets"}
        complaints += [f"docs/architecture.md: {room}/{folder} is not in the tree" for folder in sorted(folders)
                       if not re.search(rf"\b{folder}/", described)]
    return complaints


def link_complaints(root):
    """CMake links of a room obey the same arrows as its includes."""
    complaints = []
    for room in sorted(ENGRAM_ROOMS):
        lists = root / "engram" / room / "CMakeLists.txt"
        if not lists.is_file():
            continue
        for linked in re.findall(r"\bengram(?:::|_)(\w+)", lists.read_text()):
            if linked in ENGRAM_ROOMS and linked not in allowed_rooms(room):
                complaints.append(f"engram/{room}/CMakeLists.txt: names engram::{linked}, which stands above {room}")
    return complaints


def link_file_complaints(root):
    """No symbolic link is committed: it would name a path of one machine (and hide a folder that scripts make)."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-s"], capture_output=True, text=True)
    return [f"{line.split(None, 3)[3]}: a symbolic link is committed"
            for line in listed.stdout.splitlines() if line.startswith("120000 ")]


def orphan_complaints(root):
    """Every source is named by the CMakeLists.txt of its folder or of one above it, or by its path in any of them."""
    lists = {path.parent: path.read_text() for path in [root / "CMakeLists.txt", *(
        found for top in TOP_FOLDERS for found in (root / top).rglob("CMakeLists.txt"))] if path.is_file()}
    everything = "\n".join(lists.values())
    complaints = []
    for path, relative in sources(root):
        if path.suffix in {".h", ".cuh"} or re.search(rf"(?<![\w.-]){re.escape(str(relative))}(?![\w.-])", everything):
            continue
        named = re.compile(rf"(?<![\w.-]){re.escape(path.name)}(?![\w.-])")
        if not any(named.search(lists.get(root / folder, "")) for folder in relative.parents):
            complaints.append(f"{relative}: no CMakeLists.txt names it, so it is never built")
    return complaints


def text_complaints(root):
    """Lines of at most 120 columns, no tabs, one #pragma once per header."""
    complaints = []
    for path, relative in sources(root):
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > 120:
                complaints.append(f"{relative}:{number}: {len(line)} columns, at most 120")
            if "\t" in line:
                complaints.append(f"{relative}:{number}: a tab")
        guarded = "#pragma once" in text or path.name.endswith("-inl.h")  # Highway includes these once per target
        if path.suffix == ".h" and not guarded and relative.parts[0] != "include":
            complaints.append(f"{relative}: no #pragma once")
    return complaints


def document_complaints(root):
    """Links and paths in Markdown files name something that exists."""
    complaints = []
    documents = [*root.glob("*.md"), *root.glob("*/*.md"), *root.glob("docs/**/*.md"), *root.glob("results/**/*.md")]
    for path in sorted(set(documents)):
        relative = path.relative_to(root)
        if relative.parts[0] in ("build", "demo", "dist", "runs", "corpora") or relative.parts[0].startswith("."):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", line):
                if "://" not in target and not (path.parent / target).exists():
                    complaints.append(f"{relative}:{number}: link to {target}, which does not exist")
            for target in re.findall(r"(?<![\w./-])(?:scripts|docs|tests|engram|apps|reference|bench|recipes|cmake|results)"
                                     r"/[\w./-]*\.(?:sh|md|cc|cpp|h|py|toml|json|cmake|html)\b", line):
                if not (root / target).exists():
                    complaints.append(f"{relative}:{number}: names {target}, which does not exist")
            for target in re.findall(r"(?<![\w./-])results/[\w.-]*\d{4}-\d\d-\d\d[\w-]*", line):
                if not (root / target).exists():
                    complaints.append(f"{relative}:{number}: names {target}, which does not exist")
    return complaints


def recipe_key_complaints(root):
    """docs/recipes.md has every key that a recipe may have."""
    page = (root / "docs/recipes.md").read_text(encoding="utf-8")
    named = {word.rsplit(".", 1)[-1] for word in re.findall(r"`([a-z_0-9.]+)`", page)}
    complaints = []
    for source in ("engram/model/model_config.cc", "engram/train/recipe.cc"):
        text = (root / source).read_text(encoding="utf-8")
        for key in re.findall(r'\bvisit(?:\.\w+)?\("(\w+)"', text):
            if key not in named and not re.search(rf'section\("{key}"\)', text):
                complaints.append(f"docs/recipes.md: no key {key} ({source})")
    return complaints


def flag_complaints(root):
    """Messages of the library name fields, not flags of one program. A literal that is only a flag starts a child."""
    other_programs = re.compile(r"scripts/corpus\.sh --study|gguf-split --merge")
    complaints = []
    for path, relative in sources(root):
        if relative.parts[0] != "engram":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', re.sub(r"(^|\s)//.*", "", line)):
                named = re.search(r"(^|[ (])--[a-z]", other_programs.sub("", literal))
                if named and not re.fullmatch(r"--[a-z-]+", literal):
                    complaints.append(f"{relative}:{number}: names a flag: {literal}")
    return complaints


# What only Linux or one processor has. (ENGRAM_CRC32C_FUNCTION and the like are port/instructions.h's own words.)
OF_ONE_SYSTEM = re.compile(
    r"#\s*include\s*<(linux/|asm/|sys/(syscall|prctl|eventfd|epoll|auxv|sysinfo)\.h|liburing|malloc\.h|sched\.h|arm_\w+\.h|\w*intrin\.h)"
    r"|\b__(linux__|x86_64__|aarch64__|GLIBC__|APPLE__|builtin_cpu_supports)\b|\b(O_DIRECT|RWF_NOWAIT|mincore|preadv2)\b"
    r"|\bMADV_|\bMAP_NORESERVE\b|\"/(proc|sys)/")


def system_complaints(root):
    """What only one system or processor has is in engram/port, or in a source that CMake takes for that processor."""
    complaints = []
    for path, relative in sources(root):
        if relative.parts[0] not in ("engram", "apps", "bindings", "include") or relative.parts[1] == "port":
            continue
        if path.stem.endswith("_x86"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = re.sub(r"(^|\s)//.*", "", line)
            found = OF_ONE_SYSTEM.search(re.sub(r'"(?!/)(\\.|[^"\\])*"', '""', code))
            if found:
                complaints.append(f"{relative}:{number}: {found[0]} belongs into engram/port")
    return complaints


def label_complaints(listing):
    """listing: what `ctest --show-only=json-v1` prints, parsed."""
    complaints = []
    for test in listing["tests"]:
        properties = {p["name"]: p["value"] for p in test.get("properties", [])}
        if not properties.get("LABELS"):
            complaints.append(f"ctest entry {test['name']} has no label")
        if not properties.get("TIMEOUT"):
            complaints.append(f"ctest entry {test['name']} has no time limit")
    return complaints


class Structure(unittest.TestCase):
    def check(self, complaints):
        self.assertEqual([], complaints, "\n" + "\n".join(complaints))

    def planted(self, files):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for name, text in files.items():
            path = Path(folder.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Path(folder.name)

    def test_include_arrows(self):
        self.check(include_complaints(SOURCE_DIR))

    def test_include_arrows_sees_faults(self):
        root = self.planted({
            "engram/core/a.cc": '#include "engram/model/b.h"\n#include <torch/torch.h>\n',
            "engram/model/b.h": '#include "engram/train/none.h"\n#include "engram/core/a.h"\n#include <torch/torch.h>\n',
            "engram/core/a.h": "#include <vector>\n",
            "engram/data/d.cc": '#include "apps/commands.h"\n#include "tests/util.h"\n#include "engram/core/a.h"\n',
            "reference/engram.cpp": '#include "engram/core/a.h"\n',
            "tests/core/a_test.cc": '#include "engram/lab/x.h"\n',
            "apps/commands.h": '#include "engram/core/a.h"\n',
        })
        places = [complaint.split(": ")[0] for complaint in include_complaints(root)]
        self.assertEqual(
            ["engram/core/a.cc:1", "engram/core/a.cc:2", "engram/data/d.cc:1", "engram/data/d.cc:2",
             "engram/data/d.cc:2", "engram/model/b.h:1", "engram/model/b.h:1", "reference/engram.cpp:1",
             "tests/core/a_test.cc:1", "tests/core/a_test.cc:1"], places)

    def test_no_circles(self):
        self.check(cycle_complaints(SOURCE_DIR))

    def test_no_circles_sees_faults(self):
        root = self.planted({"engram/core/a.h": "", "engram/core/a.cc": '#include "engram/core/a.h"\n#include "engram/core/b.h"\n',
                             "engram/core/b.h": '#include "engram/core/c.h"\n', "engram/core/c.h": '#include "engram/core/a.h"\n'})
        self.assertEqual(["engram/core/a: a circle of includes: "
                          "engram/core/a -> engram/core/b -> engram/core/c -> engram/core/a"], cycle_complaints(root))

    def test_rooms_in_documents(self):
        self.check(room_list_complaints(SOURCE_DIR))

    def test_rooms_in_documents_sees_faults(self):
        root = self.planted({"engram/core/a.h": "", "engram/lab/study/a.h": "", "engram/lab/suite/a.h": "",
                             "docs/architecture.md": "```\nengram/lab/   study/: runs\nengram/old/   gone\n```\n"})
        self.assertEqual(["docs/architecture.md: room core is not in the tree", "docs/architecture.md: there is no room old",
                          "docs/architecture.md: lab/suite is not in the tree"], room_list_complaints(root))

    def test_link_arrows(self):
        self.check(link_complaints(SOURCE_DIR))

    def test_link_arrows_sees_faults(self):
        root = self.planted({"engram/core/CMakeLists.txt": "engram_add_room(core SOURCES a.cc LINKS engram::model)\n"})
        self.assertEqual(1, len(link_complaints(root)))

    def test_no_orphans(self):
        self.check(orphan_complaints(SOURCE_DIR))

    def test_no_orphans_sees_faults(self):
        root = self.planted({"tests/core/a_test.cc": "", "tests/core/aa_test.cc": "",
                             "tests/core/CMakeLists.txt": "engram_add_test(x SOURCES aa_test.cc)"})
        self.assertEqual(["tests/core/a_test.cc: no CMakeLists.txt names it, so it is never built"],
                         orphan_complaints(root))

    def test_no_committed_links(self):
        self.check(link_file_complaints(SOURCE_DIR))

    def test_no_committed_links_sees_faults(self):
        root = self.planted({"README.md": "x\n"})
        (root / "corpora").symlink_to("/nowhere")
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", "-C", str(root), *command], check=True)
        self.assertEqual(["corpora: a symbolic link is committed"], link_file_complaints(root))

    def test_text(self):
        self.check(text_complaints(SOURCE_DIR))

    def test_text_sees_faults(self):
        root = self.planted({"apps/a.h": "#pragma once\n" + "x" * 121 + "\n\ty\n", "apps/b.h": "int x;\n"})
        self.assertEqual(3, len(text_complaints(root)))

    def test_documents(self):
        self.check(document_complaints(SOURCE_DIR))

    def test_documents_sees_faults(self):
        root = self.planted({"README.md": "[a](docs/a.md) [b](docs/none.md#x) `scripts/none.sh` https://x.org/docs/y.md\n"
                                          "results/PROBE-DATE results/store-2026-01-02\n",
                             "docs/a.md": "[up](../README.md), [out](https://x.org/z.md)\n"})
        self.assertEqual(["README.md:1: link to docs/none.md, which does not exist",
                          "README.md:1: names docs/none.md, which does not exist",
                          "README.md:1: names scripts/none.sh, which does not exist",
                          "README.md:2: names results/store-2026-01-02, which does not exist"], document_complaints(root))

    def test_recipe_keys(self):
        self.check(recipe_key_complaints(SOURCE_DIR))

    def test_recipe_keys_sees_faults(self):
        root = self.planted({"engram/model/model_config.cc": 'visit("a", c.a);\nvisit("b", c.b);\n',
                             "engram/train/recipe.cc": 'visit.text("c", d.c);\nvisit.section("e");\nvisit.number("d", 0);\n',
                             "docs/recipes.md": "| `a` | 1 |\n| `x.c` | 2 |\n"})
        self.assertEqual(["docs/recipes.md: no key b (engram/model/model_config.cc)",
                          "docs/recipes.md: no key d (engram/train/recipe.cc)"], recipe_key_complaints(root))

    def test_flags(self):
        self.check(flag_complaints(SOURCE_DIR))

    def test_flags_sees_faults(self):
        root = self.planted({"engram/core/a.cc": '// "no --flag"\nrun({"--resume"});\nf("name another --output");\n'
                                                 'f("--suite: got {}");\nf("scripts/corpus.sh --study makes it");\n'})
        self.assertEqual(["engram/core/a.cc:3: names a flag: name another --output",
                          "engram/core/a.cc:4: names a flag: --suite: got {}"], flag_complaints(root))

    def test_systems(self):
        self.check(system_complaints(SOURCE_DIR))

    def test_systems_sees_faults(self):
        root = self.planted({"engram/core/a.cc": '#include <sys/prctl.h>\n// O_DIRECT\nf("past it (O_DIRECT)");\nO_DIRECT;\n'
                                                 'f("/proc/self/exe");\n#ifdef __x86_64__\n',
                             "engram/port/linux/a.cc": "O_DIRECT;\n", "engram/kernels/a_x86.cc": "#include <immintrin.h>\n"})
        self.assertEqual([f"engram/core/a.cc:{line}" for line in (1, 4, 5, 6)],
                         [complaint.split(": ")[0] for complaint in system_complaints(root)])

    def test_labels(self):
        if BUILD_DIR is None:
            self.skipTest("no build folder given")
        listing = subprocess.run(["ctest", "--test-dir", BUILD_DIR, "--show-only=json-v1"], check=True,
                                 capture_output=True, text=True).stdout
        listing = json.loads(listing)
        self.assertTrue(listing["tests"], "ctest lists no test")
        self.check(label_complaints(listing))

    def test_labels_sees_faults(self):
        listing = {"tests": [{"name": "a", "properties": [{"name": "TIMEOUT", "value": 3.0}]}, {"name": "b"}]}
        self.assertEqual(3, len(label_complaints(listing)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SOURCE_DIR = Path(sys.argv.pop(1)).resolve()
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        BUILD_DIR = sys.argv.pop(1)
    unittest.main(verbosity=2)
