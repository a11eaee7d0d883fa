"""Parity vectors of LongCat's n-gram memory: embedding, tables, projections and average, from token ids on.

No package computes it, so this is the published definition in plain loops: row ids with Python's own integers, every
table a tensor of its own with its own projection, forward and gradients in float64. Flash-Lite averages the word too,
2.0 does not. Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python
tests/golden/make/longcat.py
"""
import torch
from parity_common import random, randomize, save

N, K, VOCAB, RATIO, EOS, HIDDEN, WIDTH = 3, 2, 50, 0.93, 7, 16, 6
TABLES = (N - 1) * K
SIZES = [int(RATIO * VOCAB + 2 * i + 1) for i in range(TABLES)]


def row_id(tokens, at, table):
    """The row of `table` for the token at `at`: a sum of ids and powers of the vocabulary, cut behind an end of text."""
    size, order = SIZES[table], 2 + table // K
    total = tokens[at]
    for k in range(1, order):
        if at - k < 0 or tokens[at - k] == EOS:
            break
        total += tokens[at - k] * VOCAB**k
    return total % size


class Memory(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedders = torch.nn.ModuleList(torch.nn.Embedding(size, WIDTH) for size in SIZES)
        self.projections = torch.nn.ModuleList(torch.nn.Linear(WIDTH, HIDDEN, bias=False) for _ in SIZES)

    def forward(self, word, tokens, average_word):
        total = torch.zeros_like(word)
        for table, (embedder, projection) in enumerate(zip(self.embedders, self.projections)):
            ids = [[row_id(text, at, table) for at in range(len(text))] for text in tokens.tolist()]
            total = total + projection(embedder(torch.tensor(ids)))
        return (word + total) / (1 + TABLES) if average_word else word + total / (1 + TABLES)


for name, average_word in (("longcat_memory_lite", True), ("longcat_memory_2", False)):
    module = Memory()
    randomize(module, 40, std=0.4)
    module.double()
    tokens = torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(41))
    tokens[0, [0, 5, 6, 12]] = EOS
    tokens[1, [9, 16]] = EOS
    word = random((2, 17, HIDDEN), 42).requires_grad_()
    save(name, module, {"word": word, "tokens": tokens}, {"output": module(word, tokens, average_word)},
         {"oracle": "the definition, in Python's integers and float64"})
