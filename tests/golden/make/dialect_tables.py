"""Writes tests/parity/dialects: small tables of the rules of raw ids, as other programs store them, and expected.json.

A Qwen4Exp model saved by transformers in several shards; LongCat folders under the names of Flash-Lite and of 2.0; GGUF
files by the package `gguf`, one of them in several parts. expected.json has for every layer the SHA-256 of its rows as
float32, and the row ids of TOKENS: transformers' for Qwen4Exp, the definition's for LongCat.
Run in the oracle environment (scripts/setup.sh --oracles): .venv-oracles/bin/python tests/golden/make/dialect_tables.py
"""
import hashlib
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as V
from safetensors.torch import save_file
from transformers.models.qwen4_exp import modeling_qwen4_exp as q4
from transformers.models.qwen4_exp.configuration_qwen4_exp import Qwen4ExpTextConfig

OUT = Path("tests/parity/dialects")
EOS, VOCAB = 7, 64
TOKENS = [3, 60, EOS, 5, 6, 8, 9, EOS, EOS, 63, 1, 2]
random = np.random.default_rng(11)
expected = {}


def expect(source, layer, rows, row_ids):
    data = np.ascontiguousarray(rows, dtype=np.float32)
    expected.setdefault(source, {})[str(layer)] = {
        "rows": data.shape[0], "width": data.shape[1], "sha256": hashlib.sha256(data.tobytes()).hexdigest(),
        "row_ids": row_ids}  # fmt: skip


def ple_row_ids(embedding):
    class Ids(torch.nn.Module):
        weight = embedding.ngram_embedding.weight

        def forward(self, ids):
            return ids.unsqueeze(-1)

    table, embedding.ngram_embedding = embedding.ngram_embedding, Ids()
    row_ids = embedding(torch.tensor([TOKENS]), None)[0].tolist()
    embedding.ngram_embedding = table
    return row_ids


def qwen4exp(name):
    config = Qwen4ExpTextConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2,
        moe_intermediate_size=8, shared_expert_intermediate_size=8, num_experts_per_tok=1, num_experts=2,
        eos_token_id=[EOS, 8], hc_count=2, hc_lowrank=4, ple_layer_ids=[1, 3], ple_embed_dim=128, ngram_size=3,
        heads_per_ngram=2, ngram_vocab_size_base=20, make_ngram_vocab_size_divisible_by=16, split_ngram_parts=4,
        layer_types=["linear_attention"] * 3)  # fmt: skip
    torch.manual_seed(0)
    model = q4.Qwen4ExpForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(OUT / name, max_shard_size="30KB")
    (OUT / name / "generation_config.json").unlink()
    embeddings = {layer: model.model.layers[layer].ple.ple_embedding for layer in (0, 2)}
    for layer, embedding in embeddings.items():
        expect(name, layer, embedding.ngram_embedding.weight.detach().float().numpy(), ple_row_ids(embedding))
    return embeddings[0]


def longcat_sizes(ratio, n, k):
    return [int(ratio * VOCAB + 2 * index + 1) for index in range((n - 1) * k)]


def longcat_row_ids(ratio, n, k):
    rows = []
    for t, token in enumerate(TOKENS):
        ids, offset = [], 0
        for index, size in enumerate(longcat_sizes(ratio, n, k)):
            total = token
            for back in range(1, index // k + 2):
                if t - back < 0 or TOKENS[t - back] == EOS:
                    break
                total += TOKENS[t - back] * pow(VOCAB, back, size)
            ids.append(total % size + offset)
            offset += size
        rows.append(ids)
    return rows


def longcat(name, keys, names, ratio, n, k, dtype):
    folder = OUT / name
    folder.mkdir(parents=True)
    config = {"model_type": name, "vocab_size": VOCAB, "eos_token_id": EOS, keys[0]: n, keys[1]: k, keys[2]: ratio}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tables = [torch.from_numpy(random.normal(size=(size, 8))).to(dtype) for size in longcat_sizes(ratio, n, k)]
    weight_map = {}
    for part in range(2):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        tensors = {names.format(i): table for i, table in enumerate(tables) if i % 2 == part}
        save_file(tensors, folder / file)
        weight_map.update(dict.fromkeys(tensors, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1))
    expect(name, 0, torch.cat(tables).float().numpy(), longcat_row_ids(ratio, n, k))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tables(writer, name, sizes):
    values = []
    for i, size in enumerate(sizes):
        data = gguf.quants.quantize(random.normal(size=(size, 32)).astype(np.float32), Q.Q8_0)
        writer.add_tensor(name.format(i), data, raw_dtype=Q.Q8_0)
        values.append(gguf.quants.dequantize(data, Q.Q8_0))
    return np.concatenate(values)


def longcat_gguf(name, ratio, n, k):
    writer = gguf.GGUFWriter(OUT / (name + ".gguf"), "longcat", split_max_tensors=3)
    writer.add_uint32("longcat.vocab_size", VOCAB)
    writer.add_uint32("longcat.ngram.neighbor_num", n)
    writer.add_uint32("longcat.ngram.split_num", k)
    writer.add_float32("longcat.ngram.vocab_size_ratio", ratio)
    writer.add_uint32("tokenizer.ggml.eos_token_id", EOS)
    writer.add_tensor("output_norm.weight", np.ones(8, dtype=np.float32))
    values = add_tables(writer, "ngram_embd.{}.weight", longcat_sizes(ratio, n, k))
    finish(writer)
    expect(name + "-00001-of-00003.gguf", 0, values, longcat_row_ids(ratio, n, k))


def qwen4exp_heads(name, embedding):
    writer = gguf.GGUFWriter(OUT / name, "qwen4exp")
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(VOCAB)])
    writer.add_key_value("qwen4exp.ple.layers", [0], V.ARRAY, sub_type=V.INT32)
    writer.add_uint32("qwen4exp.ple.ngram_size", 3)
    writer.add_uint32("qwen4exp.ple.heads_per_ngram", 2)
    writer.add_uint32("qwen4exp.ple.eos_token_id", EOS)
    for key, values in (("layer_multipliers", embedding.layer_multipliers.tolist()),
                        ("head_offsets", embedding.head_offsets), ("head_vocab_sizes", embedding.head_vocab_sizes)):  # fmt: skip
        writer.add_key_value("qwen4exp.ple." + key, values, V.ARRAY, sub_type=V.UINT64)
    values = add_tables(writer, "ple_ngram_embd.{}.weight", embedding.head_vocab_sizes)
    finish(writer)
    expect(name, 0, values, ple_row_ids(embedding))


shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
ple = qwen4exp("qwen4exp")
longcat("longcat_lite", ("emb_neighbor_num", "emb_split_num", "ngram_vocab_size_ratio"),
        "model.ngram_embeddings.embedders.{}.weight", 2, 4, 2, torch.bfloat16)  # fmt: skip
longcat("longcat_2", ("oe_neighbor_num", "oe_split_num", "oe_vocab_size_ratio"), "model.oe_embed_tokens{}.weight", 0.567,
        5, 4, torch.float32)  # fmt: skip
longcat_gguf("longcat", 1.567, 4, 2)
qwen4exp_heads("qwen4exp_heads.gguf", ple)
(OUT / "expected.json").write_text(json.dumps({"tokens": TOKENS, "sources": expected}, separators=(",", ":")) + "\n")
