"""Writes tests/parity/numpy_random.json: draws of numpy.random.default_rng, the oracle of core/numpy_random.

Each case is one generator and the calls made on it in order, because 32-bit draws leave half a word behind that a
later 32-bit draw takes. The ranges walk every branch of numpy's bounded integers.
Run from the repository root: .venv-oracles/bin/python tests/golden/make/numpy_random_vectors.py
"""
import json

import numpy as np

SEEDS = [0, 1, 2, 42, 10007, 140098, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**64 - 1]
RANGES = [
    (0, 46540443439143), (0, 10), (5, 6), (0, 2**32 - 1), (0, 2**32), (0, 2**32 + 1), (-7, 8), (0, 3 * 2**30),
    (-(2**63), 2**63 - 1), (0, 2**63 - 1), (0, 3 * 2**61), (-(2**31), 2**31 - 5), (0, 1), (0, 2),
]  # fmt: skip


def case(seed):
    rng = np.random.default_rng(seed)
    calls = [{"call": "uint64", "values": [int(rng.bit_generator.random_raw()) for _ in range(3)]}]
    for low, high in RANGES:
        values = rng.integers(low, high, size=5, dtype=np.int64)
        calls.append({"call": "integers", "low": low, "high": high, "values": [int(v) for v in values]})
    calls.append({"call": "random", "values": [float(v) for v in rng.random(4)]})
    return {"seed": seed, "calls": calls}


with open("tests/parity/numpy_random.json", "w") as file:
    json.dump({"numpy": np.__version__, "generators": [case(seed) for seed in SEEDS]}, file)
    file.write("\n")
