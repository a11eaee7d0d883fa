#!/usr/bin/env python3
"""TensorBoard's own reader finds in a run's event file what metrics.jsonl says.

    tensorboard_test.py ENGRAM SOURCE_DIR

Needs the package tensorboard: scripts/setup.sh --oracles. Skipped without it.
"""

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ENGRAM, SOURCE = sys.argv[1], Path(sys.argv[2])
ORACLES = SOURCE / ".venv-oracles/bin/python"


def single(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def numbers(value, name=""):
    if isinstance(value, (int, float)):
        yield name, value
    elif isinstance(value, (list, dict)):
        for key, element in value.items() if isinstance(value, dict) else enumerate(value):
            if name or key not in ("step", "samples", "histograms"):
                yield from numbers(element, f"{name}/{key}" if name else key)


def train(output, *settings):
    command = [ENGRAM, "train", str(SOURCE / "recipes/smoke.toml"), "--resume"]
    for setting in [f"train.output={output}", 'metrics.sinks=["tensorboard"]', "train.steps=8", "train.threads=1",
                    "train.validate_every=4", "train.validation_batches=2", "data.synthetic.documents=100",
                    *settings]:
        command += ["--set", setting]
    subprocess.run(command, check=True, capture_output=True)


def main():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        train(output, "train.stop_at=5")
        train(output)
        events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
        events.Reload()
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        wanted = {}
        for line in lines:
            for name, number in numbers(line):
                wanted.setdefault(name, []).append((line["step"], single(number)))
        tags = events.Tags()
        assert sorted(tags["scalars"]) == sorted(wanted), (tags["scalars"], sorted(wanted))
        for name, points in wanted.items():
            got = [(event.step, event.value) for event in events.Scalars(name)]
            assert got == points, (name, got, points)
        assert len(lines) == 8 and len(wanted["loss"]) == 8 and len(wanted["validation_loss"]) == 3  # after 4, 5 and 8 steps
        print(f"tensorboard: {len(wanted)} scalars of {len(lines)} steps are those of metrics.jsonl")


if __name__ == "__main__":
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        if Path(sys.prefix).resolve() != ORACLES.parents[1].resolve() and ORACLES.exists():
            sys.exit(subprocess.run([str(ORACLES), *sys.argv]).returncode)
        print("skipped: the package tensorboard is not there; scripts/setup.sh --oracles installs it")
        sys.exit(77)
    main()
