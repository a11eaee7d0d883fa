"""Writes tests/parity/tables: models' tables in the layouts of DeepSeek-V4.1, Qwen4Exp, GGUF and our own checkpoints,
small, with the Python packages `safetensors` and `gguf`, and expected.json: the SHA-256 of every layer's rows as float32.

The oracle of engram/store/import/table_source.h. Tokenizer, token map, primes, offsets and multipliers are made here from
`tokenizers` and numpy by their definitions. Decoding is torch's for fp8 and gguf's for its quantisations.
Run from the repository root: .venv-oracles/bin/python tests/golden/make/table_sources.py
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
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

OUT = Path("tests/parity/tables")
LAYERS, MAX_NGRAM, HEADS, WIDTH, START, PAD = [1, 14], 3, 2, 256, 11, 2
expected = {}
random = np.random.default_rng(7)


def expect(source, layer, rows):
    data = np.ascontiguousarray(rows, dtype=np.float32)
    expected.setdefault(source, {})[str(layer)] = {
        "rows": data.shape[0], "width": data.shape[1], "sha256": hashlib.sha256(data.tobytes()).hexdigest()}


# --- what the hash needs ---


def make_tokenizer():
    vocab = {token: i for i, token in enumerate(["<bos>", "<eos>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    return tokenizer


def token_map(tokenizer):
    normalizer = normalizers.Sequence([
        normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[ \t\r\n]+"), " "), normalizers.Replace(Regex(r"^ $"), "\ue000"),
        normalizers.Strip(), normalizers.Replace("\ue000", " ")])  # fmt: skip
    seen, ids = {}, []
    for i in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([i], skip_special_tokens=False)
        key = tokenizer.id_to_token(i) if "\ufffd" in text else normalizer.normalize_str(text) or text
        ids.append(seen.setdefault(key, len(seen)))
    return ids


def find_primes(layers, orders, heads, start):
    used, primes = set(), []
    for _ in range(layers * orders):
        n = start - 1
        for _ in range(heads):
            n += 1
            while n in used or any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
                n += 1
            used.add(n)
            primes.append(n)
    return primes


def offsets_of(primes):
    return [0, *np.cumsum(primes)[:-1].tolist()]


tokenizer = make_tokenizer()
MAP = token_map(tokenizer)
COMPRESSED = max(MAP) + 1
PER_LAYER = (MAX_NGRAM - 1) * HEADS
PRIMES = find_primes(len(LAYERS), MAX_NGRAM - 1, HEADS, START)
ROWS = [sum(PRIMES[i * PER_LAYER : (i + 1) * PER_LAYER]) for i in range(len(LAYERS))]
OFFSETS = sum((offsets_of(PRIMES[i * PER_LAYER : (i + 1) * PER_LAYER]) for i in range(len(LAYERS))), [])
BOUND = max(1, (2**63 - 1) // COMPRESSED // 2)
MULTIPLIERS = sum(
    ((np.random.default_rng(10007 * layer).integers(0, BOUND, size=MAX_NGRAM, dtype=np.int64) * 2 + 1).tolist()
     for layer in LAYERS), [])  # fmt: skip


def fp8_rows(rows, width):
    """Codes without NaN and scales 2^-10 .. 2^-7, and their values."""
    codes = random.integers(0, 256, size=(rows, width), dtype=np.uint8)
    codes[(codes & 0x7F) == 0x7F] ^= 1
    scales = random.integers(117, 121, size=(rows, width // 32), dtype=np.uint8)
    c, s = torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scales).view(torch.float8_e8m0fnu)
    values = c.float() * s.float().repeat_interleave(32, dim=1)
    return c, s, values.numpy()


# --- safetensors ---


def save_shard(tensors, path):
    """The package wants no two tensors to share memory."""
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)


def deepseek():
    folder = OUT / "deepseek_v41"
    (folder / "inference").mkdir(parents=True)
    shared = {"engram_layer_ids": LAYERS, "engram_num_embeddings": ROWS, "engram_max_ngram_size": MAX_NGRAM,
              "engram_vocab_size": START, "engram_n_heads": HEADS, "engram_head_dim": WIDTH,
              "engram_compressed_vocab_size": COMPRESSED}  # fmt: skip
    nested = {"model_type": "deepseek_v41", "architectures": ["DeepseekV41ForCausalLM"],
              "text_config": {"model_type": "deepseek_v41_text", "hidden_size": 8, **shared, "engram_pad_token_id": PAD},
              "quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(nested, indent=1))
    (folder / "inference/config.json").write_text(json.dumps({"dim": 8, **shared, "engram_pad_id": PAD}, indent=1))
    tokenizer.save(str(folder / "tokenizer.json"))
    weight_map = {}
    for i, layer in enumerate(LAYERS):
        codes, scales, values = fp8_rows(ROWS[i], WIDTH)
        prefix = f"layers.{layer}.engram."
        tensors = {f"{prefix}embed.weight": codes, f"{prefix}embed.scale": scales if i == 0 else scales.view(torch.uint8),
                   f"{prefix}q_weight": torch.ones(4, 8, dtype=torch.bfloat16)}  # fmt: skip
        name = f"model-{i + 1:05}-of-00002.safetensors"
        save_shard(tensors, folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
        expect("deepseek_v41", layer, values)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1))


def splitmix64(x):
    mask = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def ple(name, is_fp8):
    folder = OUT / name
    folder.mkdir(parents=True)
    heads, width, parts, divisor, vocab = 2, 160, 4, 16, 300
    primes = find_primes(1, MAX_NGRAM - 1, heads, 20)
    rows = -(-sum(primes) // divisor) * divisor
    text = {"model_type": "qwen4_exp_text", "ple_layer_ids": [2], "ngram_size": MAX_NGRAM, "heads_per_ngram": heads,
            "ple_embed_dim": width * len(primes), "ngram_vocab_size_base": 20,
            "make_ngram_vocab_size_divisible_by": divisor, "split_ngram_parts": parts, "seed": 1234,
            "vocab_size": vocab}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen4_exp", "text_config": text}, indent=1))
    half = (2**63 - 1) // vocab // 2
    multipliers = [2 * (splitmix64((1234 + 0x9E3779B97F4A7C15 * (i + 1)) & (2**64 - 1)) % half) + 1
                   for i in range(MAX_NGRAM)]  # fmt: skip
    prefix = "model.language_model.layers.1.ple.ple_embedding."
    tensors = {prefix + "layer_multipliers": torch.tensor(multipliers),
               prefix + "ngram_heads_vocab_sizes": torch.tensor(primes),
               prefix + "ngram_heads_offsets": torch.tensor(offsets_of(primes))}  # fmt: skip
    if is_fp8:
        scale = torch.tensor(0.000199, dtype=torch.float32)
        table = fp8_rows(rows, width)[0]
        tensors[prefix + "ngram_embedding.weight_scale"] = scale
        values = table.float() * scale
    else:
        table = torch.from_numpy(random.normal(size=(rows, width))).to(torch.bfloat16)
        values = table.float()
    for part in range(parts):
        tensors[f"{prefix}ngram_embedding.shard_{part}"] = table[part * rows // parts : (part + 1) * rows // parts]
    save_shard(tensors, folder / "model.safetensors")
    expect(name, 1, values.numpy())


def checkpoint():
    folder = OUT / "checkpoint"
    folder.mkdir(parents=True)
    engram = {"layer_ids": LAYERS, "max_ngram_size": MAX_NGRAM, "n_heads": HEADS, "head_dim": 24,
              "vocab_size": [START] * (MAX_NGRAM - 1), "seed": 0, "pad_token_id": PAD,
              "compressed_vocab_size": COMPRESSED, "compression": True}  # fmt: skip
    config = {"model_type": "engram", "memory": "engram", "hidden_size": 8, "engram": engram}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer.save(str(folder / "tokenizer.json"))
    tensors = {}
    for i, (layer, dtype) in enumerate(zip(LAYERS, (torch.float32, torch.bfloat16))):
        table = torch.from_numpy(random.normal(size=(ROWS[i], 24))).to(dtype)
        tensors[f"layers.{layer}.engram.embed.weight"] = table
        tensors[f"layers.{layer}.engram.q_weight"] = torch.ones(1, 8)
        expect("checkpoint", layer, table.float().numpy())
    save_shard(tensors, folder / "engram.safetensors")


# --- GGUF ---

# Bytes of one block of 256 columns, and where its f16 scales are: random bytes there would be no sensible numbers.
K_BLOCKS = {Q.Q2_K: (84, (80, 82)), Q.Q3_K: (110, (108,)), Q.Q4_K: (144, (0, 2)), Q.Q5_K: (176, (0, 2)),
            Q.Q6_K: (210, (208,))}  # fmt: skip


def quantised(rows, qtype):
    """Bytes [rows, row bytes] or values for F32/F16, and the decoded values."""
    values = random.normal(size=(rows, WIDTH)).astype(np.float32)
    if qtype in K_BLOCKS:
        size, scales = K_BLOCKS[qtype]
        data = random.integers(0, 256, size=(rows, size), dtype=np.uint8)
        for at in scales:
            data[:, at : at + 2] = random.normal(size=(rows, 1)).astype(np.float16).view(np.uint8)
    else:
        data = gguf.quants.quantize(values, qtype)
    return data, gguf.quants.dequantize(data, qtype)


def array(writer, key, values, sub_type):
    writer.add_key_value(key, values, V.ARRAY, sub_type=sub_type)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(name, qtypes):
    writer = gguf.GGUFWriter(OUT / name, "deepseek41")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b\n", ""])
    array(writer, "deepseek41.engram.layer_ids", LAYERS, V.INT32)
    writer.add_uint32("deepseek41.engram.head_count", HEADS)
    writer.add_uint32("deepseek41.engram.key_length", WIDTH)
    writer.add_uint32("deepseek41.engram.max_ngram_size", MAX_NGRAM)
    array(writer, "deepseek41.engram.multipliers", MULTIPLIERS, V.UINT64)
    array(writer, "deepseek41.engram.primes", PRIMES, V.UINT64)
    array(writer, "deepseek41.engram.offsets", OFFSETS, V.UINT64)
    array(writer, "deepseek41.engram.token_map", MAP, V.INT32)
    writer.add_uint32("deepseek41.engram.pad_id", MAP[PAD])
    writer.add_tensor("output_norm.weight", np.ones(8, dtype=np.float32))
    for i, (layer, qtype) in enumerate(zip(LAYERS, qtypes)):
        data, values = quantised(ROWS[i], qtype)
        writer.add_tensor(f"blk.{layer}.engram_embd.weight", data, raw_dtype=qtype)
        expect(name, layer, values)
    finish(writer)


LLOYD = np.array([0.0, 0.095, 0.1901, 0.2944, 0.4126, 0.5586, 0.7484, 1.0], dtype=np.float32)


def lloyd_rows(rows):
    packed = random.integers(0, 256, size=(rows, WIDTH // 2 + WIDTH // 32), dtype=np.uint8)
    codes = np.stack([packed[:, : WIDTH // 2] & 15, packed[:, : WIDTH // 2] >> 4], axis=2).reshape(rows, WIDTH)
    byte = packed[:, WIDTH // 2 :].astype(np.int32)
    scale = ((8 + (byte & 7)) / 16.0 * np.exp2((byte >> 3) - 16.0)).astype(np.float32)
    values = LLOYD[codes & 7] * np.repeat(scale, 32, axis=1)
    return packed, np.where(codes & 8, -values, values)


def antirez(name, encoding, external=False):
    writer = gguf.GGUFWriter(OUT / name, "deepseek41")
    writer.add_string("deepseek41.engram.encoding", encoding)
    array(writer, "deepseek41.engram.layer_ids", LAYERS, V.UINT32)
    array(writer, "deepseek41.engram.rows", ROWS, V.UINT32)
    writer.add_uint32("deepseek41.engram.compressed_vocab_size", COMPRESSED)
    writer.add_uint32("deepseek41.engram.pad_id", MAP[PAD])
    array(writer, "deepseek41.engram.token_map", MAP, V.UINT32)
    array(writer, "deepseek41.engram.primes", PRIMES, V.UINT32)
    array(writer, "deepseek41.engram.multipliers", MULTIPLIERS, V.UINT64)
    if external:
        writer.add_string("deepseek41.engram.storage", "external")
        array(writer, "deepseek41.engram.external_paths", [name + ".rows", name + ".rows"], V.STRING)
        array(writer, "deepseek41.engram.external_offsets", [64, 64 + ROWS[0] * 144], V.UINT64)
        sidecar = b"\0" * 64
    for i, layer in enumerate(LAYERS):
        if external:
            data, values = quantised(ROWS[i], Q.Q4_K)
            sidecar += data.tobytes()
        elif encoding.startswith("e4m3"):
            codes, scales, values = fp8_rows(ROWS[i], WIDTH)
            data = np.concatenate([codes.view(torch.uint8).numpy(), scales.view(torch.uint8).numpy()], axis=1)
        else:
            data, values = lloyd_rows(ROWS[i])
        if not external:
            writer.add_tensor(f"blk.{layer}.engram_embd.weight", data.view(np.int8))
        expect(name, layer, values)
    if external:
        (OUT / (name + ".rows")).write_bytes(sidecar)
        writer.add_tensor("output_norm.weight", np.ones(8, dtype=np.float32))
    finish(writer)


def qwen4exp(name):
    primes = find_primes(1, MAX_NGRAM - 1, 2, 20)
    rows = sum(primes) + 7
    writer = gguf.GGUFWriter(OUT / name, "qwen4exp")
    array(writer, "qwen4exp.ple.layers", [1], V.INT32)
    writer.add_uint32("qwen4exp.ple.ngram_size", MAX_NGRAM)
    writer.add_uint32("qwen4exp.ple.heads_per_ngram", 2)
    writer.add_uint32("qwen4exp.embedding_length_per_layer_input", 160)
    array(writer, "qwen4exp.ple.head_offsets", offsets_of(primes), V.UINT64)
    array(writer, "qwen4exp.ple.head_vocab_sizes", primes, V.UINT64)
    values = random.normal(size=(rows, 160)).astype(np.float32)
    data = gguf.quants.quantize(values, Q.Q8_0)
    writer.add_tensor("per_layer_token_embd.weight", data, raw_dtype=Q.Q8_0)
    expect(name, 1, gguf.quants.dequantize(data, Q.Q8_0))
    finish(writer)


shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
deepseek()
ple("ple_bf16", False)
ple("ple_fp8", True)
checkpoint()
llama_cpp("llama_q8_0_q4_k.gguf", (Q.Q8_0, Q.Q4_K))
llama_cpp("llama_q3_k_q2_k.gguf", (Q.Q3_K, Q.Q2_K))
llama_cpp("llama_q6_k_q5_k.gguf", (Q.Q6_K, Q.Q5_K))
llama_cpp("llama_f16_q4_0.gguf", (Q.F16, Q.Q4_0))
llama_cpp("llama_f32_bf16.gguf", (Q.F32, Q.BF16))
antirez("ds4_row264.gguf", "e4m3_e8m0_32_row264")
antirez("ds4_row136.gguf", "lloyd4_e5m3_32_r136")
antirez("ds4_external.gguf", "q4_k_row144", external=True)
qwen4exp("qwen4exp_q8_0.gguf")
facts = {"layer_ids": LAYERS, "primes": PRIMES, "offsets": OFFSETS, "multipliers": MULTIPLIERS, "rows": ROWS,
         "token_map_sha256": hashlib.sha256(np.array(MAP, dtype="<i4").tobytes()).hexdigest(),
         "compressed_vocab_size": COMPRESSED}  # fmt: skip
(OUT / "expected.json").write_text(json.dumps({"hash": facts, "sources": expected}, indent=1) + "\n")
