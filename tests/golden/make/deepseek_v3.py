"""Parity vectors of MLA, the MoE block and a two-block decoder from transformers' deepseek_v3.

Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/deepseek_v3.py
"""
import torch
import transformers
from parity_common import narrow, random, randomize, save, wide
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config

VERSION = {"oracle": f"transformers {transformers.__version__} deepseek_v3"}


def config(**changes):
    keys = dict(vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=12, num_hidden_layers=2,
                num_attention_heads=3, num_key_value_heads=3, n_shared_experts=2, n_routed_experts=7,
                num_experts_per_tok=3, n_group=1, topk_group=1, routed_scaling_factor=1.0, first_k_dense_replace=1,
                q_lora_rank=None, kv_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=8,
                max_position_embeddings=64, rms_norm_eps=1e-5, norm_topk_prob=True, num_nextn_predict_layers=0,
                rope_interleave=True, attention_bias=False, tie_word_embeddings=False,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    keys.update(changes)
    made = DeepseekV3Config(**keys)
    made._attn_implementation = "eager"
    made._experts_implementation = "eager"
    return made


def causal_mask(length):
    return torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)[None, None]


def attention(name, q_lora_rank, length=9, **changes):
    c = config(q_lora_rank=q_lora_rank, **changes)
    module = v3.DeepseekV3Attention(c, 0)
    randomize(module, 1)
    module.double()
    hidden = random((2, length, c.hidden_size), 2).requires_grad_()
    cos, sin = v3.DeepseekV3RotaryEmbedding(c)(hidden, torch.arange(length)[None])
    with wide():
        output, _ = module(hidden, (cos, sin), causal_mask(length))
    save(name, module, {"hidden": hidden}, {"output": output}, VERSION)


def mixture():
    c = config()
    module = v3.DeepseekV3MoE(c)
    randomize(module, 3)
    module.double()
    hidden = random((2, 9, c.hidden_size), 4).requires_grad_()
    with wide():
        output = module(hidden)
        _, weights, index = module.gate(hidden)
    save("deepseek_v3_moe", module, {"hidden": hidden, "topk_index": index, "topk_weight": weights.detach()},
         {"output": output}, VERSION)


def decoder(name, q_lora_rank):
    c = config(q_lora_rank=q_lora_rank, hidden_size=24, vocab_size=64, intermediate_size=32, n_routed_experts=5)
    module = v3.DeepseekV3ForCausalLM(c)
    randomize(module, 5, std=0.15)
    module.double()
    module.model.rotary_emb.forward = narrow(module.model.rotary_emb.forward)
    tokens = torch.randint(0, c.vocab_size, (2, 11), generator=torch.Generator().manual_seed(6))
    with wide():
        logits = module(tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, c.vocab_size), tokens[:, 1:].reshape(-1))
    save(name, module, {"tokens": tokens}, {"logits": logits, "loss": loss}, VERSION)


attention("deepseek_v3_mla", None)
attention("deepseek_v3_mla_q_lora", 14)
attention("deepseek_v3_mla_yarn", None, length=40, qk_rope_head_dim=12, max_position_embeddings=8000,
          rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                           "original_max_position_embeddings": 2000, "mscale": 1.0, "mscale_all_dim": 0.707})
mixture()
decoder("deepseek_v3_decoder", None)
