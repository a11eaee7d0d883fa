"""What the Python tests of the server share: the server itself, and how to leave with a reason.

Every test is called as NAME_test.py SERVE_FAKE SOURCE_DIR. Packages of other people come from .venv-clients
(scripts/setup.sh --clients) or from ENGRAM_CLIENTS, a Python interpreter that has them; where they are missing the test
is skipped with exit code 77.
"""

import os
import subprocess
import sys
from pathlib import Path


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


def need(module, source_dir):
    """Goes on in the interpreter that has `module`; skips where there is none."""
    try:
        return __import__(module)
    except ImportError:
        pass
    python = os.environ.get("ENGRAM_CLIENTS", str(Path(source_dir) / ".venv-clients/bin/python"))
    if os.environ.get("ENGRAM_IN_CLIENTS") or not Path(python).exists():
        skip(f"the Python package {module} is not installed: run scripts/setup.sh --clients")
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
