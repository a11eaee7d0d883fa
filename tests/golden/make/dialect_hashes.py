"""tests/golden/dialect_oracle_vectors.json: row ids of transformers' Qwen4Exp n-gram embedding over random ids with eos.

The package's own code hashes whole sequences, chunks with a cache, single tokens, and batches padded at the left; all
must agree before anything is written. The table's lookup is replaced, so that the forward gives row ids. -1 marks the
padding in the vectors: the model turns it into eos before it hashes.
Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/dialect_hashes.py
"""
import json
import types
from unittest import mock

import numpy as np
import torch
import transformers
from transformers.models.qwen4_exp import modeling_qwen4_exp as q4

random = np.random.default_rng(22)


class Cache:
    """The one state of a cache that the embedding uses: the ids before the chunk."""

    state = None

    def get_conv_state(self, layer, state_idx):
        return self.state

    def update_conv_state(self, ids, layer, state_idx, conv_kernel_size):
        past = ids if self.state is None else torch.cat([self.state, ids], dim=-1)
        self.state = past[:, -conv_kernel_size:].clone()
        return past


class Ids(torch.nn.Embedding):  # no table: its ids
    def forward(self, ids):
        return ids.unsqueeze(-1)


def layer_of(case, index):
    config = types.SimpleNamespace(ngram_size=case["ngram_size"], heads_per_ngram=case["heads_per_ngram"],
                                   vocab_size=case["vocab_size"], seed=case["seed"], eos_token_id=[case["eos_token_id"], 0],
                                   ngram_vocab_size_base=case["ngram_vocab_size_base"],
                                   make_ngram_vocab_size_divisible_by=8)  # fmt: skip
    with mock.patch("torch.nn.Embedding", lambda rows, width: Ids(1, 1)):
        return q4.Qwen4ExpTextNGramEmbedding(config, (case["ngram_size"] - 1) * case["heads_per_ngram"], 0, index)


def chunks_of(embedding, ids, sizes):
    cache, rows, begin = Cache(), [], 0
    for size in sizes:
        rows.append(embedding(ids[:, begin : begin + size], cache))
        begin += size
    assert begin == ids.shape[1]
    return torch.cat(rows, dim=1)


def check(embedding, ids):
    """Row ids [B, T, R], the same for every way to compute them."""
    whole, length = embedding(ids, None), ids.shape[1]
    for sizes in ([length], [1] * length, [length // 2, length - length // 2], [length - 1, 1]):
        sizes = [size for size in sizes if size > 0]
        assert torch.equal(whole, chunks_of(embedding, ids, sizes)), sizes
    return whole


cases = []
for vocab, base, ngram, heads, layers, seed in ((248320, 20011137, 3, 8, 1, 1234), (50, 23, 4, 2, 2, 7),
                                                (151936, 2**31 - 40, 3, 2, 1, 99)):  # fmt: skip
    eos = int(random.integers(0, vocab))
    case = {"rule": "qwen4exp", "vocab_size": vocab, "ngram_vocab_size_base": base, "ngram_size": ngram,
            "heads_per_ngram": heads, "ple_layers": layers, "seed": seed, "eos_token_id": eos}  # fmt: skip
    embeddings = [layer_of(case, index) for index in range(layers)]
    case["head_sizes"] = [embedding.head_vocab_sizes for embedding in embeddings]
    case["multipliers"] = [embedding.layer_multipliers.tolist() for embedding in embeddings]
    lengths = (1, 2, 5, 24)
    batch = torch.full((len(lengths), max(lengths)), eos)
    for row, length in enumerate(lengths):
        ids = random.integers(0, vocab, size=length)
        ids[random.random(length) < 0.2] = eos
        batch[row, -length:] = torch.from_numpy(ids)
    rows = [check(embedding, batch) for embedding in embeddings]
    case["sequences"] = []
    for row, length in enumerate(lengths):
        alone = [check(embedding, batch[row : row + 1, -length:])[0] for embedding in embeddings]
        for padded, single in zip(rows, alone):
            assert torch.equal(padded[row, -length:], single)
        padding = min(2, max(lengths) - length)
        case["sequences"].append({
            "token_ids": [-1] * padding + batch[row, -length:].tolist(),
            "row_ids": [padded[row, max(lengths) - length - padding :].tolist() for padded in rows]})  # fmt: skip
    cases.append(case)
with open("tests/golden/dialect_oracle_vectors.json", "w") as file:
    json.dump(cases, file, separators=(",", ":"))
    file.write("\n")
print(f"transformers {transformers.__version__}: {sum(len(case['sequences']) for case in cases)} sequences")
