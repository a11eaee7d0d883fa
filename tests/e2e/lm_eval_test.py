"""The evaluation harness (PyPI lm_eval) against `engram serve`: its scores are those of `engram eval`.

    lm_eval_test.py ENGRAM SOURCE_DIR [CHECKPOINT TEXT FOLDER]

Three tasks over items of ours: multiple choice, cloze, rolling perplexity. Without more arguments a tiny model is
trained and reads invented sentences; with them the model is CHECKPOINT, the sentences are those of TEXT (one in a
line), and the files stay in FOLDER, for results/. The harness runs unchanged: its tasks are YAML files, and it finds
the server's tokenizer by itself.
"""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "serve"))
from serving import need

ENGRAM, SOURCE_DIR = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
need("lm_eval", SOURCE_DIR, "harness")

WORDS = ("the a one day water house cat dog king time then of in and was had little red old man went home to see "
         "what there long river some bread over").split()
COMMON = {"dataset_path": "json", "test_split": "test", "target_delimiter": "", "metadata": {"version": 1}}
TASKS = {
    "ours_choice": {"output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}",
                    "doc_to_target": "{{answer}}", "metric_list": [{"metric": "acc_norm"}]},
    "ours_cloze": {"output_type": "loglikelihood", "doc_to_text": "{{prompt}}", "doc_to_target": "{{targets[0]}}",
                   "metric_list": [{"metric": "acc"}]},
    "ours_rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
                     "metric_list": [{"metric": "bits_per_byte"}]},
}


def run(*command, **environment):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=SOURCE_DIR,
                          env={**os.environ, **environment})
    if done.returncode:
        raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def invented_sentences(draw):
    """Which of them a model likes is not the point, but whether both programs say the same."""
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 12))) for _ in range(400)]


def ask(url, path, body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def whole_windows(url, text, window):
    """A text's beginning that fills whole windows: the harness gives a last short one more context than ours has."""
    ids = ask(url, "/tokenize", {"prompt": text})["tokens"]
    for count in range(len(ids) // window * window, 0, -window):
        part = ask(url, "/detokenize", {"tokens": ids[:count]})["prompt"]
        if ask(url, "/tokenize", {"prompt": part})["count"] == count:
            return part
    return text


def make_items(folder, sentences, letters, url, window):
    """letters: a cloze asks for so many of a sentence's last ones; None: for its last word."""
    draw = random.Random(7)
    items = {"ours_choice": [], "ours_cloze": [], "ours_rolling": []}
    for i in range(80):
        words = draw.choice(sentences).split()
        half = len(words) // 2
        answer = draw.randrange(3)
        choices = [" " + " ".join(draw.choice(sentences).split()[-len(words) + half:]) for _ in range(3)]
        choices[answer] = " " + " ".join(words[half:])
        items["ours_choice"].append({"task": "ours_choice", "id": str(i), "prompt": " ".join(words[:half]),
                                     "choices": choices, "answer": answer})
        text = " ".join(words)
        target = text[-letters:] if letters else " " + words[-1]
        items["ours_cloze"].append({"task": "ours_cloze", "id": str(i), "prompt": text[:-len(target)].rstrip(),
                                    "targets": [target]})
    for count in (1, 4, 20, 50):  # the longer ones need several windows
        items["ours_rolling"].append({"text": whole_windows(url, ". ".join(draw.sample(sentences, count)), window)})
    for name, docs in items.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        task = {"task": name, **COMMON, "dataset_kwargs": {"data_files": {"test": str(folder / f"{name}.jsonl")}},
                **TASKS[name]}
        (folder / f"{name}.yaml").write_text(json.dumps(task, indent=1) + "\n")  # JSON is YAML
    return items


def ask_harness(folder, url, model, context):
    run(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
        f"model={model},base_url={url}/v1/completions,max_length={context},num_concurrent=4",
        "--batch_size", 16,
        "--tasks", ",".join(TASKS), "--include_path", folder, "--output_path", folder / "harness", "--log_samples",
        HF_HOME=str(folder / "cache"), HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1")
    samples = {}
    for name in TASKS:
        (file,) = (folder / "harness").rglob(f"samples_{name}_*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        samples[name] = sorted(lines, key=lambda line: line["doc_id"])
    return samples


def serve(checkpoint):
    # fp32, as eval computes.
    command = [str(ENGRAM), "serve", str(checkpoint), "--port", "0", "--model-name", "ours", "--dtype", "fp32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if " at http" not in line:
        raise AssertionError(f"no address: {line}")
    return process, line.split(" at ")[1].split()[0]


def eval_items(folder, checkpoint, name):
    run(ENGRAM, "eval", checkpoint, "--suite", folder / f"{name}.jsonl", "--train-text", "none", "--output",
        folder / f"eval-{name}")
    return [json.loads(line)["right"] for line in (folder / f"eval-{name}" / "items.jsonl").read_text().splitlines()]


def eval_nats(folder, checkpoint, text, bos):
    """Of a text behind the bos token, as the harness reads it."""
    file = folder / "text.txt"
    file.write_text(bos + text)
    told = json.loads(run(ENGRAM, "eval", checkpoint, "--file", file, "--json"))
    return told["loss"] * told["tokens"]


def main(folder, checkpoint=None, text=None):
    sentences = text.read_text().splitlines() if text else invented_sentences(random.Random(1))
    if checkpoint is None:
        run(ENGRAM, "train", SOURCE_DIR / "recipes/smoke.toml", "--set", f"train.output={folder / 'model'}", "--set",
            "train.steps=20")
        checkpoint = (folder / "model" / "latest").resolve()
    config = json.loads((checkpoint / "config.json").read_text())
    context = config["max_position_embeddings"]
    process, url = serve(checkpoint)
    try:
        bos = ask(url, "/tokenizer_info")["bos_token"]
        # The harness keeps one position for a token that it asks for and does not read, and one for the bos token.
        items = make_items(folder, sentences, None if text else 1, url, context - 2)
        samples = ask_harness(folder, url, "ours", context)
    finally:
        process.terminate()
        process.wait(timeout=60)

    shorter = folder / "shorter"
    shutil.copytree(checkpoint, shorter)
    config["max_position_embeddings"] = context - 2
    (shorter / "config.json").write_text(json.dumps(config))
    summary = {"checkpoint": checkpoint.name, "context": context, "tasks": {}}
    for name, metric in (("ours_choice", "acc_norm"), ("ours_cloze", "acc")):
        theirs = [bool(sample[metric]) for sample in samples[name]]
        ours = eval_items(folder, checkpoint, name)
        assert theirs == ours, f"{name}: {theirs} and {ours}"
        assert 0 < sum(ours) < len(ours), f"{name}: all alike, which compares nothing"
        summary["tasks"][name] = {"items": len(ours), "harness": sum(theirs) / len(ours), "eval": sum(ours) / len(ours)}
    theirs, ours, size = 0.0, 0.0, 0
    for sample, item in zip(samples["ours_rolling"], items["ours_rolling"], strict=True):
        mine, their = eval_nats(folder, shorter, item["text"], bos), -float(sample["filtered_resps"][0])
        assert abs(mine - their) < 1e-4 * mine, f"{mine} and {their} nats"
        theirs, ours, size = theirs + their, ours + mine, size + len(item["text"].encode())
    bits = [nats / (math.log(2) * size) for nats in (theirs, ours)]
    assert abs(bits[0] - bits[1]) < 5e-5, bits
    summary["tasks"]["ours_rolling"] = {"bytes": size, "harness": bits[0], "eval": bits[1]}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if len(sys.argv) > 3:
    CHECKPOINT, TEXT, FOLDER = (Path(argument).resolve() for argument in sys.argv[3:6])
    FOLDER.mkdir(parents=True, exist_ok=True)
    main(FOLDER, CHECKPOINT, TEXT)
else:
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
