"""llama.cpp on a dense model of the shape that `engram bench serve --part peer` names: prefill and decode, tokens/s.

    llama_peer.py JOB        JOB is JSON: model (config.json's keys), gguf (file to make), prompt, decode, threads

The GGUF file holds random F32 weights of the llama architecture and is made anew when the shape has changed.
Prints {"prefill_tokens_per_second", "decode_tokens_per_second", "version"}.
"""

import json
import sys
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np


def write_gguf(path, model):
    d, heads, kv, width = model["hidden_size"], model["num_attention_heads"], model["num_key_value_heads"], model["head_dim"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(model["vocab_size"])
    writer.add_context_length(model["max_position_embeddings"])
    writer.add_embedding_length(d)
    writer.add_block_count(model["num_hidden_layers"])
    writer.add_feed_forward_length(model["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(model["rope_theta"])
    writer.add_layer_norm_rms_eps(model["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(0)

    def add(name, *shape):
        ones = len(shape) == 1
        writer.add_tensor(name, np.ones(shape, np.float32) if ones else random.standard_normal(shape, np.float32) * 0.02)

    add("token_embd.weight", model["vocab_size"], d)
    add("output_norm.weight", d)
    add("output.weight", model["vocab_size"], d)
    for block in range(model["num_hidden_layers"]):
        name = f"blk.{block}."
        add(name + "attn_norm.weight", d)
        add(name + "attn_q.weight", heads * width, d)
        add(name + "attn_k.weight", kv * width, d)
        add(name + "attn_v.weight", kv * width, d)
        add(name + "attn_output.weight", d, heads * width)
        add(name + "ffn_norm.weight", d)
        add(name + "ffn_gate.weight", model["intermediate_size"], d)
        add(name + "ffn_up.weight", model["intermediate_size"], d)
        add(name + "ffn_down.weight", d, model["intermediate_size"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rate(count, work):
    start = time.monotonic()
    work()
    return count / (time.monotonic() - start)


def main():
    job = json.loads(sys.argv[1])
    path, shape = Path(job["gguf"]), Path(job["gguf"] + ".json")
    if not path.exists() or not shape.exists() or json.loads(shape.read_text()) != job["model"]:
        write_gguf(path, job["model"])
        shape.write_text(json.dumps(job["model"]))
    llama = llama_cpp.Llama(str(path), n_ctx=job["model"]["max_position_embeddings"], n_batch=job["prompt"],
                            n_ubatch=job["prompt"], n_threads=job["threads"], n_threads_batch=job["threads"],
                            verbose=False)
    tokens = np.random.default_rng(1).integers(0, job["model"]["vocab_size"], job["prompt"]).tolist()

    def decode():
        for token in tokens[:job["decode"]]:
            llama.eval([token])

    llama.eval(tokens)  # warm
    llama.reset()
    prefill = rate(job["prompt"], lambda: llama.eval(tokens))
    llama.reset()
    llama.eval(tokens[:1])
    print(json.dumps({"prefill_tokens_per_second": prefill, "decode_tokens_per_second": rate(job["decode"], decode),
                      "version": llama_cpp.__version__}))


if __name__ == "__main__":
    main()
