"""llama.cpp on a dense model of the shape that `engram bench serve --part peer` names: prefill and decode, tokens/s.

    llama_peer.py JOB        JOB is JSON: model (config.json's keys), weights (F32, BF16 or Q8_0), folder, prompt,
                             decode, sequences, threads

The GGUF file holds random weights of the llama architecture and is made anew when the shape has changed.
Prints {"prefill", "decode", "decode_all" (of `sequences` at once), "version"}.
"""

import concurrent.futures
import json
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import xllamacpp


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
    writer.add_tokenizer_model("gpt2")  # the server wants some tokenizer; prompts are token ids
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"t{i}" for i in range(model["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * model["vocab_size"])
    writer.add_token_merges(["t 0"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
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


class Llama:
    """llama.cpp's server inside this process. Its timings are those of llama_decode() and of taking the likeliest token."""

    def __init__(self, path, job):
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = job["sequences"]
        params.n_ctx = job["sequences"] * (job["prompt"] + job["decode"])
        params.n_batch = params.n_ubatch = job["prompt"]
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
        params.fit_params, params.cache_ram_mib, params.verbosity = False, 0, -1
        self.server = xllamacpp.Server(params)

    def ask(self, prompt, count):
        """Generates `count` tokens greedily behind token ids; the server's timings."""
        done = self.server.handle_completions({"prompt": prompt, "max_tokens": count, "temperature": 0, "top_k": 1,
                                               "samplers": ["top_k"], "ignore_eos": True, "cache_prompt": False})
        assert done["usage"]["completion_tokens"] == count, done
        return done["timings"]


def main():
    job = json.loads(sys.argv[1])
    path = Path(job["folder"]) / f"peer_{job['weights']}.gguf"
    shape = path.with_suffix(".json")
    if not path.exists() or not shape.exists() or json.loads(shape.read_text()) != job["model"]:
        write_gguf(path, job["model"], job["weights"])
        shape.write_text(json.dumps(job["model"]))
    llama, prompt, decode, sequences = Llama(path, job), job["prompt"], job["decode"], job["sequences"]
    tokens = np.random.default_rng(1).integers(0, job["model"]["vocab_size"], prompt).tolist()

    llama.ask(tokens, 1)  # warm
    prefill = llama.ask(tokens, 1)["prompt_per_second"]
    one = llama.ask(tokens[:1], decode)["predicted_per_second"]
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(sequences) as pool:
        list(pool.map(lambda i: llama.ask(tokens[i:i + 1], decode), range(sequences)))
    every = sequences * decode / (time.monotonic() - start)
    print(json.dumps({"prefill": prefill, "decode": one, "decode_all": every,
                      "version": f"xllamacpp {xllamacpp.__version__}: {xllamacpp.get_system_info().strip()}"}))


if __name__ == "__main__":
    main()
