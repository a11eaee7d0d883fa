"""Parity vectors of gate, value and convolution from transformers' qwen4_exp (its per-layer embedding, PLE).

PLE is the Engram module with other constants: one eps for all three norms, norm weights stored as w - 1, raw token ids
in the hash. The hash is replaced by given embeddings here; everything after it is the package's own code.
Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/qwen4_exp.py
"""
import types

import torch
import transformers
from parity_common import random, randomize, save, wide
from transformers.models.qwen4_exp import modeling_qwen4_exp as q4

B, T = 2, 13
VERSION = {"oracle": f"transformers {transformers.__version__} qwen4_exp"}


class GivenEmbeddings(torch.nn.Module):
    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, input_ids, cache):
        return self.embeddings


def case(name, hidden_size, streams, kernel_size, ngram_size, embed_dim, eps, seed):
    c = types.SimpleNamespace(hidden_size=hidden_size, hc_count=streams, ple_embed_dim=embed_dim,
                              ple_conv_kernel_size=kernel_size, ngram_size=ngram_size, heads_per_ngram=2, vocab_size=50,
                              ngram_vocab_size_base=11, seed=1234, eos_token_id=1, rms_norm_eps=eps,
                              make_ngram_vocab_size_divisible_by=8)
    module = q4.Qwen4ExpTextPLELayer(c, 1, 0)
    hidden = random((B, T, streams * hidden_size), seed + 1).requires_grad_()
    embeddings = random((B, T, embed_dim), seed + 2).requires_grad_()
    module.ple_embedding = GivenEmbeddings(embeddings)
    randomize(module, seed, std=0.4)
    module.double()
    with wide():
        output = module(hidden, None, None)
    metadata = VERSION | {"streams": str(streams), "dilation": str(ngram_size), "eps": repr(eps)}
    save(name, module, {"hidden": hidden, "embeddings": embeddings}, {"output": output}, metadata)


case("qwen4_exp_ple", 16, 4, 4, 3, 24, 1e-6, 10)
case("qwen4_exp_ple_one_stream", 12, 1, 3, 2, 8, 1e-5, 20)
