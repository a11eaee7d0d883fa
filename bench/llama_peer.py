"""llama.cpp on a dense model of the shape that `engram bench serve --part peer` names: prefill and decode, tokens/s.

    llama_peer.py JOB        JOB is JSON: model (config.json's keys), weights (F32, BF16 or Q8_0), folder, prompt,
                             decode, sequences, threads

The GGUF file holds random weights of the llama architecture and is made anew when the shape has changed.
Prints {"prefill", "decode", "decode_all" (of `sequences` at once), "version"}.
"""

import json
import sys
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np


def write_gguf(path, model, weights):
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
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType[weights]

    def add(name, *shape):
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
            return
        values = random.standard_normal(shape, np.float32) * 0.02
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", model["vocab_size"], d)
    add("output_norm.weight", d)
    if not model["tie_word_embeddings"]:
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


class Context:
    def __init__(self, path, job):
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = job["sequences"] * (job["prompt"] + job["decode"])
        params.n_batch = params.n_ubatch = job["prompt"]
        params.n_seq_max = job["sequences"]
        params.n_threads = params.n_threads_batch = job["threads"]
        self.context = llama_cpp.llama_init_from_model(model, params)
        self.batch = llama_cpp.llama_batch_init(job["prompt"], 0, 1)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def step(self, tokens, positions, sequences, wanted):
        """Computes the tokens; logits of those that `wanted` says."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, positions[i], 1
            batch.seq_id[i][0], batch.logits[i] = sequences[i], wanted[i]
        assert llama_cpp.llama_decode(self.context, batch) == 0
        llama_cpp.llama_synchronize(self.context)


def rate(count, work):
    start = time.monotonic()
    work()
    return count / (time.monotonic() - start)


def main():
    job = json.loads(sys.argv[1])
    path = Path(job["folder"]) / f"peer_{job['weights']}.gguf"
    shape = path.with_suffix(".json")
    if not path.exists() or not shape.exists() or json.loads(shape.read_text()) != job["model"]:
        write_gguf(path, job["model"], job["weights"])
        shape.write_text(json.dumps(job["model"]))
    llama, prompt, decode, sequences = Context(path, job), job["prompt"], job["decode"], job["sequences"]
    tokens = np.random.default_rng(1).integers(0, job["model"]["vocab_size"], prompt).tolist()

    def prefill():
        llama.clear()
        llama.step(tokens, range(prompt), [0] * prompt, [False] * (prompt - 1) + [True])

    def generate(count):
        llama.clear()
        for i in range(decode):
            llama.step(tokens[i:i + 1] * count, [i] * count, range(count), [True] * count)

    prefill()  # warm
    print(json.dumps({"prefill": rate(prompt, prefill), "decode": rate(decode, lambda: generate(1)),
                      "decode_all": rate(decode * sequences, lambda: generate(sequences)),
                      "version": llama_cpp.__version__}))


if __name__ == "__main__":
    main()
