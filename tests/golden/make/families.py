"""Small random models of the families that `engram import` reads, as transformers saves them, and their logits.

Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/families.py
Writes tests/parity/families/NAME/ (config.json, generation_config.json, weights) and NAME_logits.safetensors. FAMILIES
is what tests/model/families_test.py takes too. llama.gguf has a tensor of every simple quantised type;
llama_gguf_logits.safetensors holds its weights as the package `gguf` decodes them, and the logits of transformers.
"""
import copy
import pathlib
import shutil

import gguf
import torch
from safetensors.torch import save_file
from transformers import (DeepseekV3Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config,
                          AutoModelForCausalLM)

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "parity" / "families"
COMMON = dict(vocab_size=264, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
DEEPSEEK = dict(COMMON, num_key_value_heads=4, num_hidden_layers=3, first_k_dense_replace=1, moe_intermediate_size=8,
                n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=2, kv_lora_rank=12, qk_nope_head_dim=6,
                qk_rope_head_dim=4, v_head_dim=5, routed_scaling_factor=2.5, num_mtp_layers=0)

# name -> configuration, dtype, largest shard
FAMILIES = {
    "llama": (LlamaConfig(**COMMON, rms_norm_eps=1e-5), torch.float32, "5GB"),
    "llama_31": (LlamaConfig(**COMMON, tie_word_embeddings=True, head_dim=8, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}), torch.float32, "5GB"),
    "llama_linear": (LlamaConfig(**dict(COMMON, eos_token_id=[2, 3]), rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}), torch.float32, "5GB"),
    "qwen2": (Qwen2Config(**COMMON, tie_word_embeddings=True), torch.float32, "5GB"),
    "qwen2_yarn": (Qwen2Config(**COMMON, rope_parameters=dict(YARN)), torch.float32, "5GB"),
    "qwen3": (Qwen3Config(**COMMON, head_dim=8), torch.bfloat16, "5GB"),
    "mistral": (MistralConfig(**COMMON, sliding_window=None), torch.float16, "20KB"),
    "deepseek_v3": (DeepseekV3Config(**DEEPSEEK, q_lora_rank=8, n_group=4, topk_group=2, rope_parameters=dict(
        YARN, mscale=1.0, mscale_all_dim=0.707)), torch.float32, "5GB"),
    "deepseek_v3_no_groups": (DeepseekV3Config(**DEEPSEEK, q_lora_rank=None, n_group=1, topk_group=1),
                              torch.bfloat16, "30KB"),
}


def make_model(name):
    """The model with random weights that its dtype can hold, computing in fp32."""
    config, dtype, shard = FAMILIES[name]
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for key, value in list(model.named_parameters()) + list(model.named_buffers()):
            if key.endswith("inv_freq"):
                continue
            value.copy_((torch.randn(value.shape) * 0.2 + ("norm" in key)).to(dtype).float())
    return model, dtype, shard


def save_model(name, folder):
    model, dtype, shard = make_model(name)
    copy.deepcopy(model).to(dtype).save_pretrained(folder, max_shard_size=shard)  # to() rounds the rotary angles too
    return model


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens).logits


Q = gguf.GGMLQuantizationType
GGUF_TYPES = {"attn_q": Q.Q4_0, "attn_k": Q.Q4_1, "attn_v": Q.Q5_0, "attn_output": Q.Q5_1, "ffn_gate": Q.Q8_0,
              "ffn_up": Q.BF16, "ffn_down": Q.F16, "token_embd": Q.Q8_0}
GGUF_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.layers": "blk",
              "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
              "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def permute(weight, heads, back=False):
    """llama.cpp's order of the rows of queries and keys: the halves of each rotary pair side by side."""
    shape = (heads, -1, 2) if back else (heads, 2, weight.shape[0] // heads // 2)
    return weight.reshape(*shape, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path):
    config = LlamaConfig(**dict(COMMON, hidden_size=32, intermediate_size=64, tie_word_embeddings=True),
                         rope_parameters={"rope_type": "default", "rope_theta": 50000.0})
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).eval().float()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|endoftext|>", "<s>", "</s>"] + letters + ["he"])
    writer.add_token_types([3, 3, 3] + [1] * 257)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    expected = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = (torch.randn(parameter.shape) * 0.2 + ("norm" in name)).numpy()
            theirs = name
            for ours, other in GGUF_NAMES.items():
                theirs = theirs.replace(ours, other)
            part = theirs.split(".")[-2]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
            kind = GGUF_TYPES.get(part, Q.F32)
            data = gguf.quants.quantize(value if heads is None else permute(value, heads), kind)
            writer.add_tensor(theirs, data, raw_dtype=kind)
            decoded = gguf.quants.dequantize(data, kind)
            parameter.copy_(torch.from_numpy(decoded if heads is None else permute(decoded, heads, back=True)))
            expected[name] = parameter.clone()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, expected


def main():
    for name in FAMILIES:
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        model = save_model(name, FOLDER / name)
        tokens = torch.randint(0, 256, (1, 48), generator=torch.Generator().manual_seed(5))
        save_file({"tokens": tokens, "logits": logits_of(model, tokens)}, FOLDER / f"{name}_logits.safetensors")
    model, expected = write_gguf(FOLDER / "llama.gguf")
    save_file(expected | {"tokens": tokens, "logits": logits_of(model, tokens)}, FOLDER / "llama_gguf_logits.safetensors")
    for path in FOLDER.rglob("*.*"):
        path.chmod(0o644)


if __name__ == "__main__":
    main()
