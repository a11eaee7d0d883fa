"""Parity vectors of gate, value and convolution from transformers' qwen4_exp (its per-layer embedding, PLE).

PLE is the Engram module with other constants: one eps for all three norms, norm weights stored as w - 1, raw token ids
in the hash. In the first cases given embeddings replace the hash; the last one is the package's layer from token ids on,
with its table, texts that end, padding at the left, and the same tokens once more in chunks over a cache.
Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/qwen4_exp.py
"""
import types

import torch
import transformers
from parity_common import random, randomize, save, wide
from transformers.cache_utils import DynamicCache
from transformers.models.qwen4_exp import modeling_qwen4_exp as q4
from transformers.models.qwen4_exp.configuration_qwen4_exp import Qwen4ExpTextConfig

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


def in_chunks(module, config, hidden, tokens, lengths):
    cache, outputs, begin = DynamicCache(config=config), [], 0
    for length in lengths:
        part = slice(begin, begin + length)
        outputs.append(module(hidden[:, part], tokens[:, part], cache))
        begin += length
    return torch.cat(outputs, 1)


def from_tokens(name, vocab_size, eos, seed):
    config = Qwen4ExpTextConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2,
        moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts_per_tok=1, num_experts=2,
        eos_token_id=eos, hc_count=4, hc_lowrank=4, ple_layer_ids=[2, 4], ple_embed_dim=24, ngram_size=3,
        heads_per_ngram=2, ngram_vocab_size_base=40, make_ngram_vocab_size_divisible_by=16, seed=1234,
        rms_norm_eps=1e-6, layer_types=["linear_attention"] * 4)  # fmt: skip
    module = q4.Qwen4ExpTextPLELayer(config, 3, 1)  # the second of two: primes and multipliers go on
    constants = {key: value.clone() for key, value in module.named_buffers()}
    randomize(module, seed, std=0.4)
    with torch.no_grad():
        for key, value in module.named_buffers():
            value.copy_(constants[key])
        for key, value in module.named_parameters():
            if "norm" in key:
                value.sub_(1.0)  # around zero: the package stores w - 1
    module.double()
    length = 21
    tokens = torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(seed))
    tokens[0, [4, 5, 11, 20]] = eos
    tokens[1, [9, 15]] = eos
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    hidden = random((2, length, 64), seed + 1).requires_grad_()
    padded = tokens.masked_fill(mask == 0, eos)  # as the package's model hands them down
    with wide():
        output = module(hidden, padded, None, conv_mask=mask)
        with torch.no_grad():
            open_ = module(hidden, tokens, None)
            for lengths in ([1] * length, [2, 7, 1, 1, 10]):
                chunks = in_chunks(module, config, hidden, tokens, lengths)
                assert (chunks - open_).abs().max() < 1e-12, lengths
    save(name, module, {"hidden": hidden, "tokens": tokens.masked_fill(mask == 0, -1), "open_tokens": tokens},
         {"output": output}, VERSION | {"unmasked": "open_output, in chunks"}, {"open_output": chunks})


case("qwen4_exp_ple", 16, 4, 4, 3, 24, 1e-6, 10)
case("qwen4_exp_ple_one_stream", 12, 1, 3, 2, 8, 1e-5, 20)
from_tokens("qwen4_exp_memory", 50, 7, 30)
