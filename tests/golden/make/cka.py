"""Writes tests/parity/cka.safetensors: unbiased HSIC and mini-batch CKA in plain numpy, the oracle of lab/alignment.

HSIC is written out as sums over distinct indices (Song et al. 2012, equation 5's U-statistic) for the small case, which
shares no formula with the closed form that the program uses, and in the closed form for the large one.
Run from the repository root: .venv-oracles/bin/python tests/golden/make/cka.py
"""
import itertools
import math

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(7)


def u_statistic(K, L):
    """1/(n)_4 sum over distinct i, j, q, r of K_ij (L_ij + L_qr - 2 L_iq)."""
    n = len(K)
    total = 0.0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def closed_form(K, L):
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones(n)
    return (np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))


def gram(states):
    return states @ states.T


def cka(a, b, batch):
    rows = []
    for x in a:
        row = []
        for y in b:
            sums = np.zeros(3)
            for begin in range(0, len(x) - batch + 1, batch):
                K, L = gram(x[begin:begin + batch]), gram(y[begin:begin + batch])
                sums += [closed_form(K, L), closed_form(K, K), closed_form(L, L)]
            row.append(sums[0] / math.sqrt(sums[1] * sums[2]))
        rows.append(row)
    return np.array(rows)


def soft_index(similarity):
    out = []
    for column in similarity.T:
        top = np.argsort(-column)[:5]
        weight = np.clip(column[top], 0, None)
        out.append((weight * (top + 1)).sum() / weight.sum())
    return np.array(out)


small_x, small_y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2)) + 1.0
small = u_statistic(gram(small_x), gram(small_y))
assert math.isclose(small, closed_form(gram(small_x), gram(small_y)), rel_tol=1e-9)

# Blocks that drift: each is a mix of the one before and of noise, so that the map has a diagonal.
blocks = [rng.normal(size=(200, 8)) + 0.5]
for _ in range(6):
    blocks.append(0.8 * blocks[-1] + 0.6 * rng.normal(size=(200, 8)))
other = [block @ rng.normal(size=(8, 5)) + 0.3 * rng.normal(size=(200, 5)) for block in blocks[1::2]]
similarity = cka(blocks, other, 48)
tensors = {"small.x": small_x, "small.y": small_y, "small.hsic": np.array([small]), "similarity": similarity,
           "soft_index": soft_index(similarity)}
tensors |= {f"a.{i}": block for i, block in enumerate(blocks)} | {f"b.{i}": block for i, block in enumerate(other)}
save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, "tests/parity/cka.safetensors")
