"""Parity vectors of manifold-constrained hyper-connections from transformers' deepseek_v4.

Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/deepseek_v4.py
"""
import types

import torch
import transformers
from parity_common import random, randomize, save, wide
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as v4

VERSION = {"oracle": f"transformers {transformers.__version__} deepseek_v4"}


def config(streams, iterations):
    # The two modules read nothing else.
    return types.SimpleNamespace(hc_mult=streams, hc_sinkhorn_iters=iterations, hc_eps=1e-6, rms_norm_eps=1e-5,
                                 hidden_size=12)


def connection(name, streams, iterations):
    c = config(streams, iterations)
    module = v4.DeepseekV4HyperConnection(c)
    randomize(module, 1, std=0.7)
    module.double()
    hidden = random((2, 5, streams, c.hidden_size), 2).requires_grad_()
    sub_layer_output = random((2, 5, c.hidden_size), 3).requires_grad_()
    with wide():
        post, comb, collapsed = module(hidden)
        # DeepseekV4DecoderLayer.forward, with the sub-layer's output as an input.
        merged = post.unsqueeze(-1) * sub_layer_output.unsqueeze(-2) + torch.matmul(comb.transpose(-1, -2), hidden)
    save(name, module, {"hidden": hidden, "sub_layer_output": sub_layer_output},
         {"collapsed": collapsed, "merged": merged, "post": post, "comb": comb}, VERSION)


def head():
    c = config(4, 20)
    module = v4.DeepseekV4HyperHead(c)
    randomize(module, 4, std=0.7)
    module.double()
    hidden = random((2, 5, 4, c.hidden_size), 5).requires_grad_()
    with wide():
        output = module(hidden)
    save("deepseek_v4_hyper_head", module, {"hidden": hidden}, {"output": output}, VERSION)


connection("deepseek_v4_hyper_connection", 4, 20)
connection("deepseek_v4_hyper_connection_n2", 2, 3)
head()
