"""What the Python tests of the server share: the server itself, and how to leave with a reason.

Every test is called as NAME_test.py SERVE_FAKE SOURCE_DIR. Packages of other people come from .venv-clients or, where
they are large, .venv-harness (scripts/setup.sh --clients, --harness), or from ENGRAM_CLIENTS and ENGRAM_HARNESS, Python
interpreters that have them; where they are missing the test is skipped with exit code 77.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def need(module, source_dir, environment="clients"):
    """Goes on in the interpreter that has `module`; skips where there is none."""
    if importlib.util.find_spec(module):
        return importlib.import_module(module)
    python = os.environ.get(f"ENGRAM_{environment.upper()}", str(Path(source_dir) / f".venv-{environment}/bin/python"))
    if os.environ.get("ENGRAM_IN_CLIENTS") or not Path(python).exists():
        skip(f"the Python package {module} is not installed: run scripts/setup.sh --{environment}")
    os.execve(python, [python, *sys.argv], {**os.environ, "ENGRAM_IN_CLIENTS": "1"})


class Server:
    """with Server(PROGRAM, key=KEY) as server: server.url"""

    def __init__(self, program, key=None, step_us=1000):
        self.command = [program, str(step_us), *([key] if key else [])]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"{self.command}: no address")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        if code:
            raise RuntimeError(f"{self.command}: exit code {code}")
