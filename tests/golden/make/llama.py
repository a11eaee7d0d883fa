"""Parity vectors of grouped-query attention from transformers' llama.

Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/llama.py
"""
import torch
import transformers
from parity_common import random, randomize, save, wide
from transformers.models.llama import modeling_llama as llama
from transformers.models.llama.configuration_llama import LlamaConfig

c = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
                num_key_value_heads=2, head_dim=10, max_position_embeddings=64, rms_norm_eps=1e-5,
                attention_bias=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
c._attn_implementation = "eager"
module = llama.LlamaAttention(c, 0)
randomize(module, 1)
module.double()
hidden = random((2, 9, c.hidden_size), 2).requires_grad_()
cos, sin = llama.LlamaRotaryEmbedding(c)(hidden, torch.arange(9)[None])
mask = torch.full((9, 9), float("-inf"), dtype=torch.float64).triu(1)[None, None]
with wide():
    output, _ = module(hidden, (cos, sin), mask)
save("llama_gqa", module, {"hidden": hidden}, {"output": output},
     {"oracle": f"transformers {transformers.__version__} llama"})
