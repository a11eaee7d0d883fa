#!/usr/bin/env python3
"""Turns packages and the demo's own text into evaluation items (docs/formats/evaluation.md).

    evaluation_data.py --output DIR [--bigbench bigbench-1.0.0.tar.gz] [--evals evals-3.0.1.post1.whl]
                       [--text demo/data/text] [--glosses 500] [--limit 2000]

Writes DIR/in-domain.jsonl from the text (facts of documents that the demo trains on, and of documents it holds out),
DIR/bigbench.jsonl and DIR/evals.jsonl from the archives, which are read in place. DIR/knock-out has facts.jsonl and
reading.jsonl for `engram lab knock-out`. At most --limit items of a task, drawn with a fixed seed. The same input gives
the same bytes. Needs only the standard library.
"""
import argparse
import hashlib
import json
import os
import random
import re
import sys
import tarfile
import zipfile
from pathlib import Path

VALIDATION_FRACTION = 0.02  # scripts/corpus.sh

# Knowledge, BIG-Bench Hard's sources, and reading (natural_instructions). Other folders of the package are not read.
BIGBENCH = """qa_wikidata general_knowledge hindu_knowledge known_unknowns strategyqa misconceptions physics social_iqa
date_understanding causal_judgment disambiguation_qa dyck_languages formal_fallacies_syllogisms_negation
geometric_shapes hyperbaton logical_deduction/three_objects logical_deduction/five_objects
logical_deduction/seven_objects movie_recommendation navigate object_counting penguins_in_a_table
reasoning_about_colored_objects ruin_names salient_translation_error_detection snarks sports_understanding
temporal_sequences tracking_shuffled_objects/three_objects tracking_shuffled_objects/five_objects
tracking_shuffled_objects/seven_objects word_sorting
natural_instructions/subtask028_drop_answer_generation
natural_instructions/subtask033_winogrande_answer_generation""".split()


def draw(items: list, limit: int, seed: str) -> list:
    if limit <= 0 or len(items) <= limit:
        return items
    kept = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[i] for i in kept]


def write(path: Path, items: list) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    os.replace(temporary, path)
    counts = {}
    for item in items:
        counts[item["task"]] = counts.get(item["task"], 0) + 1
    print(f"{path}: {len(items)} items of {len(counts)} tasks")


def held_out(document: str) -> bool:
    """The rule of `engram data prepare`."""
    digest = hashlib.sha256(document.encode("utf-8")).hexdigest()
    return (int(digest[:16], 16) >> 11) * 2.0**-53 < VALIDATION_FRACTION


def documents_of(path: Path) -> list:
    return [document.strip("\n") for document in path.read_text(encoding="utf-8").split("\n<|endoftext|>\n")]


def choice_item(task: str, identity: str, split: str, prompt: str, right: str, others: list, rng) -> dict:
    wrong = rng.sample([other for other in dict.fromkeys(others) if other != right], 3)
    answer = rng.randrange(4)
    wrong.insert(answer, right)
    return {"task": task, "id": identity, "split": split, "prompt": prompt, "choices": [" " + c for c in wrong],
            "answer": answer}


def capitals(text: Path, rng) -> list:
    found = []
    for document in documents_of(text / "factbook.txt"):
        match = re.search(r"^Capital, name: ([^;(,\n]{3,40})", document, re.MULTILINE)
        if match:
            found.append((document.split("\n", 1)[0], match[1].strip(), held_out(document)))
    items = []
    for country, capital, held in found:
        split = "held-out" if held else "train"
        prompt = f"{country}\n\nGovernment\nCapital, name:"
        items.append(choice_item("factbook-capital", country, split, prompt, capital, [c for _, c, _ in found], rng))
        items.append({"task": "factbook-capital-cloze", "id": country, "split": split, "prompt": prompt,
                      "targets": [" " + capital]})
    return items


def glosses(text: Path, rng, limit: int) -> list:
    """A word of WordNet and four glosses, as its lines have them; what follows a semicolon is left out."""
    by_split = {"train": [], "held-out": []}
    for document in documents_of(text / "wordnet.txt"):
        split = "held-out" if held_out(document) else "train"
        for line in document.split("\n"):
            words, _, gloss = line.partition(": ")
            gloss = gloss.split(";", 1)[0].strip()
            if 20 <= len(gloss) <= 90 and len(words) <= 40:
                by_split[split].append((words, gloss))
    everything = [gloss for entries in by_split.values() for _, gloss in entries]
    items = []
    for split, entries in by_split.items():
        unique = list({words: (words, gloss) for words, gloss in entries}.values())
        for words, gloss in draw(unique, limit, split):
            items.append(choice_item("wordnet-gloss", f"{split}: {words}", split, f"{words}:", gloss,
                                     rng.sample(everything, 8), rng))
    return items


def in_domain(text: Path, gloss_limit: int) -> list:
    rng = random.Random(0)
    return capitals(text, rng) + glosses(text, rng, gloss_limit)


def bigbench_items(name: str, task: dict) -> list:
    reading = name.startswith("natural_instructions/")
    before = task.get("example_input_prefix", "\nQ: ")
    after = task.get("example_output_prefix", "\nA: ").rstrip(" ")
    bullet = task.get("choice_prefix", "\n  choice: ")
    items = []
    for number, example in enumerate(task["examples"]):
        scores, target = example.get("target_scores"), example.get("target")
        prompt = (before + example["input"].strip()).lstrip("\n")
        if not reading and task.get("task_prefix"):
            prompt = task["task_prefix"].strip() + "\n" + prompt
        item = {"task": name.split("/")[-1] if reading else name, "id": str(number)}
        if scores:
            choices = list(scores)
            best = max(scores.values())
            if len(choices) < 2 or list(scores.values()).count(best) != 1 or "" in choices:
                continue  # no single right choice
            if task.get("append_choices_to_input", True):
                prompt += "".join(bullet + choice for choice in choices)
            item |= {"prompt": prompt + after, "choices": [" " + choice for choice in choices],
                     "answer": choices.index(max(scores, key=scores.get))}
        else:
            targets = [t.strip().rstrip(".") for t in ([target] if isinstance(target, str) else target or [])]
            targets = [" " + t for t in dict.fromkeys(targets) if t]
            if not targets:
                continue
            item |= {"prompt": prompt + after, "targets": targets}
        items.append(item)
    return items


def bigbench(archive: Path, limit: int) -> list:
    wanted = set(BIGBENCH)
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            match = re.search(r"/benchmark_tasks/(.+)/task\.json$", member.name)
            if match and match[1] in wanted:
                task = json.load(tar.extractfile(member))
                found[match[1]] = draw(bigbench_items(match[1], task), limit, match[1])
    if missing := wanted - set(found):
        raise ValueError(f"{archive}: no task.json of {', '.join(sorted(missing))}")
    return [item for name in BIGBENCH for item in found[name]]


def wikidata_facts(examples: list) -> list:
    """Facts with one answer and three others of the same relation, the text's first three words."""
    known = [(" ".join(e["input"].split(" ")[:3]), e["input"], e["target"]) for e in examples
             if isinstance(e["target"], str)]
    answers = {}
    for relation, _, target in known:
        answers.setdefault(relation, []).append(target)
    rng = random.Random("wikidata")
    return [choice_item("wikidata", str(number), "", prompt, target, answers[relation], rng)
            for number, (relation, prompt, target) in enumerate(known) if len(set(answers[relation])) >= 8]


def substituted_answers(examples: list) -> tuple:
    """Questions of NaturalQuestions and contexts in which another name stands for the answer: asked without the context
    the true name is right, asked with it the other one."""
    facts, reading = [], []
    rng = random.Random("substituted")
    for number, example in enumerate(examples):
        question, _, context = example["input"].strip().partition("\nContext: ")
        choices = sorted(example["target_scores"])
        if len(choices) != 2 or not 0 < len(context) <= 1000 or sum(example["target_scores"].values()) != 1:
            continue
        rng.shuffle(choices)
        told = choices.index(max(example["target_scores"], key=example["target_scores"].get))
        item = {"id": str(number), "choices": [" " + choice for choice in choices]}
        facts.append({"task": "questions", "prompt": f"{question}\nAnswer:", "answer": 1 - told} | item)
        reading.append({"task": "questions, read", "prompt": f"Context: {context}\n{question}\nAnswer:",
                        "answer": told} | item)
    return facts, reading


def knock_out(archive: Path, limit: int) -> tuple:
    """(facts, reading) for `engram lab knock-out`."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            match = re.search(r"/benchmark_tasks/(qa_wikidata|contextual_parametric_knowledge_conflicts)/task\.json$",
                              member.name)
            if match:
                found[match[1]] = json.load(tar.extractfile(member))["examples"]
    facts, reading = substituted_answers(found["contextual_parametric_knowledge_conflicts"])
    wikidata = [{k: v for k, v in item.items() if k != "split"} for item in wikidata_facts(found["qa_wikidata"])]
    return (draw(wikidata, limit, "wikidata") + draw(facts, limit, "questions"), draw(reading, limit, "questions"))


def chat_prompt(messages) -> str:
    return "\n".join(message["content"].strip() for message in messages if message["role"] != "system")


def evals_samples(wheel: zipfile.ZipFile, name: str) -> list:
    lines = wheel.read(f"evals/registry/data/{name}").decode("utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def evals(archive: Path, limit: int) -> list:
    items = []
    with zipfile.ZipFile(archive) as wheel:
        for number, sample in enumerate(evals_samples(wheel, "logiqa/logiqa.jsonl")):
            items.append({"task": "logiqa", "id": str(number), "prompt": chat_prompt(sample["input"]),
                          "choices": [" A", " B", " C", " D"], "answer": "ABCD".index(sample["ideal"])})
        for number, sample in enumerate(evals_samples(wheel, "medmcqa/samples.jsonl")):
            prompt = chat_prompt(sample["input"])
            choices = [c.strip() for c in re.findall(r"^[a-d]\) (.+)$", prompt, re.MULTILINE)]
            right = re.sub(r"^[a-d]\) ", "", sample["ideal"]).strip()
            if len(set(choices)) == len(choices) >= 2 and right in choices:
                items.append({"task": "medmcqa", "id": str(number), "prompt": prompt + "\nAnswer:",
                              "choices": [" " + c for c in choices], "answer": choices.index(right)})
        for number, sample in enumerate(evals_samples(wheel, "born_first/born_first.jsonl")):
            items.append({"task": "born_first", "id": str(number), "prompt": chat_prompt(sample["input"]),
                          "choices": [" Y", " N"], "answer": "YN".index(sample["ideal"])})
    tasks = dict.fromkeys(item["task"] for item in items)
    return [item for task in tasks for item in draw([i for i in items if i["task"] == task], limit, task)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--bigbench", type=Path)
    parser.add_argument("--evals", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--glosses", type=int, default=500, help="of WordNet, of each split; 0: all")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.text:
        write(arguments.output / "in-domain.jsonl", in_domain(arguments.text, arguments.glosses))
    if arguments.bigbench:
        write(arguments.output / "bigbench.jsonl", bigbench(arguments.bigbench, arguments.limit))
        (arguments.output / "knock-out").mkdir(exist_ok=True)
        facts, reading = knock_out(arguments.bigbench, arguments.limit)
        write(arguments.output / "knock-out/facts.jsonl", facts)
        write(arguments.output / "knock-out/reading.jsonl", reading)
    if arguments.evals:
        write(arguments.output / "evals.jsonl", evals(arguments.evals, arguments.limit))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        sys.exit(f"error: {error}")
