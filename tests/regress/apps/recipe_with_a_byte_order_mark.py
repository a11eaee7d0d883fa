#!/usr/bin/env python3
"""A recipe saved by an editor of Windows, with a byte-order mark and CRLF, was refused. Right: read.

    recipe_with_a_byte_order_mark.py ENGRAM SOURCE_DIR
"""
import subprocess
import sys
import tempfile
from pathlib import Path

ENGRAM, SOURCE_DIR = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()

with tempfile.TemporaryDirectory() as scratch:
    recipe = Path(scratch) / "recipe.toml"
    text = (SOURCE_DIR / "recipes" / "smoke.toml").read_text(encoding="utf-8")
    recipe.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    # The last word is wrong on purpose: the recipe was read when the error names it.
    done = subprocess.run([ENGRAM, "train", recipe, "--set", "train.stepz=1"], capture_output=True, text=True)
    if done.returncode != 1 or "stepz" not in done.stderr.splitlines()[-1]:
        sys.exit(f"exit code {done.returncode}: {done.stderr}")
