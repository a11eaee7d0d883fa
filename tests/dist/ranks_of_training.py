"""Starts the ranks of a training run as a launcher would, on this machine, and reads what they leave."""

import json
import os
import socket
import subprocess
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ranks:
    """All ranks of one run: processes with RANK, WORLD_SIZE, .. set, whose stderr is kept."""

    def __init__(self, command, size, prepare=None, environment=None):
        port = str(free_port())
        self.processes = []
        for rank in range(size):
            variables = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
            variables.update(OMP_WAIT_POLICY="passive", **(environment or {}))
            if size > 1:
                variables.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
                                 MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            self.processes.append(subprocess.Popen(
                command(rank) if callable(command) else command, env=variables, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, start_new_session=True,
                preexec_fn=(lambda rank=rank: prepare(rank)) if prepare else None))

    def finish(self, timeout=120):
        """Exit codes, and what each wrote to stderr."""
        errors, outputs = [], []
        for process in self.processes:
            try:
                output, error = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                for other in self.processes:
                    other.kill()
                raise
            outputs.append(output)
            errors.append(error)
        self.outputs = outputs
        return [process.returncode for process in self.processes], errors


def checkpoint(folder):
    """Bytes of every file of a run's last checkpoint."""
    latest = (Path(folder) / "latest").resolve()
    return {str(path.relative_to(latest)): path.read_bytes() for path in latest.rglob("*") if path.is_file()}


TIMES = ("seconds", "tokens_per_second", "exchange", "mfu", "step_seconds", "peak_rss_bytes")


def metrics(folder):
    """What a run recorded at each step, without its times."""
    lines = []
    for line in (Path(folder) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name in TIMES:
            record.pop(name, None)
        lines.append(record)
    return lines
