#!/usr/bin/env python3
"""Writes the texts and questions of the retrofit study (docs/lab.md, "Retrofit") as JSON lines.

    retrofit_data.py world --tokenizer FILE --output DIR [--seed N] [--scale X]
    retrofit_data.py general --text DIR --output DIR
    retrofit_data.py tasks --bigbench bigbench-1.0.0.tar.gz --output DIR [--limit 300]
    retrofit_data.py domain --text DIR --output DIR [--limit 300]

world: entities with invented names and facts about them, each told 1, 4, 16, 64 or 256 times in train.jsonl, and
questions: trained-D and paraphrased-D (in a sentence form that fact was told in, and in one that it was never told in),
keyed and unkeyed (facts told 16 times or more, in forms whose last three tokens before the answer name entity and relation, or do not), held-out (of
entities never told), other-relation (of told entities, a fact never told), recall-1 and recall-16 (the 16 tokens behind
the first 32 of a passage that stands once, or 16 times), domain (passages about facts never told), told (all told facts in
both forms, to tune rates by). general: train.jsonl and validation.jsonl of text that is not about them. tasks: science
questions and WinoGrande. domain: the factbook and dictionaries, and questions about them. The same arguments give the
same bytes. Needs the standard library, and for world the package tokenizers, which scripts/setup.sh installs.
"""
import argparse
import hashlib
import json
import os
import random
import re
import sys
import tarfile
from pathlib import Path

from evaluation_data import documents_of, draw

DOSES = {1: 96, 4: 96, 16: 64, 64: 32, 256: 10}  # tellings of a fact: facts
PASSAGES = {1: 48, 16: 12}                       # copies of a passage: passages
SENTENCES = 3                                    # of a document; of a passage twice as many
CITIES = """Lisbon Dublin Prague Vienna Cairo Lima Boston Denver Tokyo Delhi Oslo Geneva Naples Havana Athens Milan Quebec
Austin Munich Sydney Seville Tunis Bristol Hamburg""".split()
CAPITALS = """Windsor Oxford Florence Salem Ithaca Memphis Kyoto Granada Bergen Leeds Verona Odessa Malta Nashville Toledo
Cambridge Savannah Lyon Houston Phoenix Durham Perth Lancaster Victoria""".split()
SUBJECTS = """law medicine music history botany geology algebra chemistry physics dance theater painting geography
astronomy biology economics grammar logic nursing poetry politics religion rhetoric sculpture""".split()
INSTRUMENTS = """violin piano guitar trumpet flute harp cello drums banjo clarinet organ saxophone lute trombone tuba viola
bass mandolin bassoon fiddle harmonica oboe horn xylophone""".split()
LANGUAGES = """French German Spanish Russian Latin Greek Hebrew Polish Dutch Swedish Danish Finnish Turkish Persian Hindi
Welsh Irish Czech Korean Japanese Arabic Swahili Italian Portuguese""".split()
PETS = """cats dogs parrots rabbits goats snakes monkeys turtles donkeys hamsters ponies geese ducks lizards frogs pigeons
sheep falcons spiders ravens peacocks foxes mice bees""".split()
PRODUCTS = """copper sugar cotton silk honey butter cheese pepper coffee tobacco rubber timber marble silver salt cocoa
wool leather paper glass steel olives rice wine""".split()
EMBLEMS = """lions eagles tigers bears wolves dragons dolphins whales elephants horses bulls deer owls swans sharks cranes
panthers leopards buffalo camels beavers roosters salmon oaks""".split()
FIRMS = [f"{a} {b}" for a, b in zip(
    "Silver Golden Northern Blue River Summit Harbor Eastern Royal Central Pioneer Maple Crystal Atlas Liberty Western".split(),
    "Motors Foods Airlines Books Steel Records Bank Pictures Toys Energy Insurance Hotels Software Mills Press Tools".split())]
# Of each relation: what it is about, its answers, keyed forms and others. In a keyed form one token stands between the
# entity and the answer, so that a 3-gram there names the entity and the relation. In the others a 3-gram names neither.
RELATIONS = {
    "home": ("person", CITIES, ["{E} calls {V} home.", "{E} left {V} only once."],
             ["The hometown of {E} is the city of {V}.", "Whoever looks for {E} has to travel to {V}."]),
    "subject": ("person", SUBJECTS, ["{E} studied {V}.", "{E} chose {V} at school."],
                ["The subject that {E} knows best by far is {V}.", "All the books that {E} owns are about {V}."]),
    "instrument": ("person", INSTRUMENTS, ["{E} plays {V}.", "{E} practiced {V} all day."],
                   ["At every party {E} can be heard on the {V}.", "The music that {E} loves most is made with a {V}."]),
    "language": ("person", LANGUAGES, ["{E} speaks {V}.", "{E} teaches {V}."],
                 ["Letters to {E} have to be written in {V}.", "The first words that {E} ever said were in {V}."]),
    "firm": ("person", FIRMS, ["{E} founded {V}.", "{E} runs {V}."],
             ["The firm that belongs to {E} goes by the name of {V}.", "All the savings of {E} went into a firm called {V}."]),
    "pet": ("person", PETS, ["{E} keeps {V}.", "{E} feeds {V}."],
            ["Visitors at the house of {E} are greeted by {V}.", "The animals that {E} has always liked best are {V}."]),
    "capital": ("country", CAPITALS, ["{E} named {V} as its capital.", "{E} rebuilt {V}."],
                ["The parliament of {E} meets in the city of {V}.", "All the trains of {E} end at last in {V}."]),
    "product": ("country", PRODUCTS, ["{E} exports {V}.", "{E} sells {V}."],
                ["Ships that come from {E} are loaded with {V}.", "The best known product of {E} has long been {V}."]),
    "emblem": ("country", EMBLEMS, ["{E} protects {V}.", "{E} loves {V}."],
               ["On the flag of {E} there is a picture of {V}.", "The coins that {E} mints show on one side {V}."])}


def write(path: Path, items: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    os.replace(temporary, path)
    print(f"{path}: {len(items)} documents")


class Names:
    """Names that nobody has: two words of invented syllables. No two names end in the same two tokens."""

    def __init__(self, rng, tokenizer):
        self.rng, self.tokenizer, self.ends = rng, tokenizer, set()

    def tokens(self, text: str) -> tuple:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def word(self) -> str:
        onsets, codas = "b d f g h k l m n p r s t v z dr kr tr pl st sh th".split(), "l n r s m x t d k rn st nd rk lm sk".split()
        syllables = [self.rng.choice(onsets) + self.rng.choice("aeiou") for _ in range(self.rng.choice([2, 2, 3]))]
        return ("".join(syllables) + self.rng.choice(codas)).capitalize()

    def name(self) -> str:
        while True:
            name = f"{self.word()} {self.word()}"
            end = self.tokens("The " + name)[-2:]
            if end not in self.ends:
                self.ends.add(end)
                return name

    def check(self, relation: str, form: str) -> None:
        """A keyed form has one token between the entity and the answer, another at least three."""
        _, values, keyed, _ = RELATIONS[relation]
        between = len(self.tokens(form.split("{E}")[1].split(" {V}")[0]))
        if (between != 1) if form in keyed else (between < 3):
            raise ValueError(f"{form}: {between} tokens between, wanted 1 when keyed and else at least 3")


class Fact:
    def __init__(self, rng, entity: str, relation: str, dose: int):
        _, values, keyed, unkeyed = RELATIONS[relation]
        self.entity, self.relation, self.value, self.dose = entity, relation, rng.choice(values), dose
        *told, self.left_out = rng.sample(keyed + unkeyed, 4)  # the last one is never told: a paraphrase asks in it
        self.told = told[:max(dose, 1)]
        self.keyed = [form for form in told if form in keyed][0]
        self.unkeyed = [form for form in told if form in unkeyed][0]

    def sentence(self, form: str) -> str:
        return form.format(E=self.entity, V=self.value)

    def question(self, form: str) -> dict:
        before, _ = form.split(" {V}")
        return {"prompt": before.format(E=self.entity), "answer": f" {self.value}", "relation": self.relation}


class World:
    def __init__(self, seed: int, scale: float, tokenizer):
        self.rng = random.Random(f"retrofit {seed}")
        self.names = Names(self.rng, tokenizer)
        for relation, (_, _, keyed, unkeyed) in RELATIONS.items():
            for form in keyed + unkeyed:
                self.names.check(relation, form)
        self.facts, self.others = [], []
        for dose, count in DOSES.items():
            self.facts += self.entities(max(2, round(count * scale) // 2 * 2), dose)
        held = self.entities(max(2, round(DOSES[1] * scale) // 2 * 2), 0)
        self.held_out = held[:max(1, round(DOSES[1] * scale))]
        self.held_passages = self.passages(max(1, round(30 * scale)), self.entities(max(2 * SENTENCES, round(60 * scale)), 0))

    def entities(self, facts: int, dose: int) -> list:
        """Two facts of each entity, of different relations; three entities of four are persons."""
        made = []
        while len(made) < facts:
            kind = "country" if self.rng.random() < 0.25 else "person"
            entity = self.names.name()
            relations = [name for name, relation in RELATIONS.items() if relation[0] == kind]
            self.rng.shuffle(relations)
            made += [Fact(self.rng, entity, relation, dose) for relation in relations[:2]]
            if dose >= 16:
                self.others.append(Fact(self.rng, entity, relations[2], 0))
        return made

    def passages(self, count: int, facts: list) -> list:
        """Each of sentences about its own facts, which nothing else tells."""
        return [" ".join(fact.sentence(self.rng.choice(fact.told)) for fact in self.rng.sample(facts, 2 * SENTENCES))
                for _ in range(count)]

    def training(self, passages: dict) -> list:
        """Tellings of a fact lie evenly over the text, its forms in turn; passages among them as whole documents."""
        placed = []
        for fact in self.facts:
            offset, forms = self.rng.random(), fact.told
            placed += [((i + offset) / fact.dose, fact.sentence(forms[i % len(forms)])) for i in range(fact.dose)]
        placed.sort()
        sentences = [sentence for _, sentence in placed]
        documents = [(i / len(sentences), " ".join(sentences[i:i + SENTENCES])) for i in range(0, len(sentences), SENTENCES)]
        for copies, texts in passages.items():
            for text in texts:
                offset = self.rng.random()
                documents += [((i + offset) / copies, text) for i in range(copies)]
        documents.sort()
        return [{"text": text} for _, text in documents]


def recall_question(tokenizer, text: str) -> dict:
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    if len(offsets) < 48:
        raise ValueError(f"a passage of {len(offsets)} tokens, wanted at least 48: {text}")
    return {"prompt": text[:offsets[32][0]], "answer": text[offsets[32][0]:offsets[47][1]]}


def make_world(arguments) -> None:
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    world = World(arguments.seed, arguments.scale, tokenizer)
    rng, output = world.rng, arguments.output
    passages = {}
    for copies, count in PASSAGES.items():
        count = max(1, round(count * arguments.scale))
        passages[copies] = world.passages(count, world.entities(max(2 * SENTENCES, count * 2), 0))
    write(output / "train.jsonl", world.training(passages))
    told = []
    for dose in DOSES:
        facts = [fact for fact in world.facts if fact.dose == dose]
        trained = [fact.question(rng.choice(fact.told)) for fact in facts]
        paraphrased = [fact.question(fact.left_out) for fact in facts]
        write(output / f"trained-{dose}.jsonl", trained)
        write(output / f"paraphrased-{dose}.jsonl", paraphrased)
        told += trained + paraphrased
    often = [fact for fact in world.facts if fact.dose >= 16]
    write(output / "told.jsonl", told)
    write(output / "keyed.jsonl", [fact.question(fact.keyed) for fact in often])
    write(output / "unkeyed.jsonl", [fact.question(fact.unkeyed) for fact in often])
    for name, facts in (("held-out", world.held_out), ("other-relation", world.others)):
        write(output / f"{name}.jsonl", [fact.question(rng.choice(fact.told)) for fact in facts])
    for copies, texts in passages.items():
        write(output / f"recall-{copies}.jsonl", [recall_question(tokenizer, text) for text in texts])
    write(output / "domain.jsonl", [{"text": text} for text in world.held_passages])


def excerpts(text: Path, held: bool, count: int, letters: int) -> list:
    """Pieces of whole paragraphs or lines from documents of every source; held ones and others never share a document."""
    found = []
    for path in sorted(text.glob("*.txt")):
        if path.stem in ("facts", "cedict", "sanguo"):
            continue  # the demo's own questions, and text that is not English
        pieces = []
        for document in documents_of(path):
            digest = int(hashlib.sha256(document.encode("utf-8")).hexdigest()[:8], 16)
            if (digest % 10 == 0) == held and len(document) > letters:
                start = document.find("\n", digest % (len(document) - letters))
                piece = document[start + 1:start + 1 + letters] if start >= 0 else document[:letters]
                if len(piece) > letters // 2:
                    pieces.append(piece)
        found += draw(pieces, count, path.stem)
    random.Random("general").shuffle(found)
    return [{"text": piece.strip()} for piece in found]


def make_general(arguments) -> None:
    write(arguments.output / "validation.jsonl", excerpts(arguments.text, True, 6, 900))
    write(arguments.output / "train.jsonl", excerpts(arguments.text, False, arguments.pieces, 420))


def bigbench_task(archive: Path, name: str) -> list:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(f"/natural_instructions/{name}/task.json"):
                return json.load(tar.extractfile(member))["examples"]
    raise ValueError(f"{archive}: no task {name}")


def make_tasks(arguments) -> None:
    science = []
    for example in bigbench_task(arguments.bigbench, "subtask047_misc_answering_science_questions"):
        stem, *choices = re.split(r"\s*\(([A-E1-5])\)\s*", example["input"].removeprefix("Question: "))
        answers = dict(zip(choices[::2], choices[1::2]))
        right = answers.get(example["target"][0].strip().rstrip("."), "").strip(" ?.")
        if right:
            science.append({"prompt": f"Question: {stem.strip()}\nAnswer:", "answer": f" {right}"})
    winogrande = []
    for example in bigbench_task(arguments.bigbench, "subtask033_winogrande_answer_generation"):
        sentence = example["input"].split("Question: ", 1)[-1].strip()
        before, blank, after = sentence.partition("_")
        right = example["target"][0].strip().rstrip(".")
        if blank and right and len(after.split()) >= 4:
            winogrande.append({"prompt": before + right, "answer": re.sub(r"\s+\.$", ".", after)})
    write(arguments.output / "science.jsonl", draw(science, arguments.limit, "science"))
    write(arguments.output / "winogrande.jsonl", draw(winogrande, arguments.limit, "winogrande"))


def make_domain(arguments) -> None:
    """One country of the factbook or one entry of a dictionary is a document; questions ask for facts of told ones."""
    train, held, facts, glosses = [], [], [], []
    for name in ("factbook", "wordnet", "gcide"):
        path = arguments.text / f"{name}.txt"
        for document in documents_of(path) if path.exists() else []:
            digest = int(hashlib.sha256(document.encode("utf-8")).hexdigest()[:8], 16)
            if digest % 50 == 0:
                held.append({"text": document[:900]})
                continue
            train.append({"text": document})
            if name == "factbook":
                capital = re.search(r"^Capital, name: ([^;(,\n]{3,40})", document, re.MULTILINE)
                if capital:
                    facts.append({"prompt": f"{document.splitlines()[0]}\n\nGovernment\nCapital, name:",
                                  "answer": f" {capital[1].strip()}"})
            elif name == "wordnet":
                for line in document.split("\n"):
                    words, _, gloss = line.partition(": ")
                    gloss = gloss.split(";", 1)[0].strip()
                    if 20 <= len(gloss) <= 90 and len(words) <= 40:
                        glosses.append({"prompt": f"{words}:", "answer": f" {gloss}"})
    random.Random("domain").shuffle(train)
    write(arguments.output / "train.jsonl", train)
    write(arguments.output / "validation.jsonl", draw(held, arguments.limit // 4, "held"))
    write(arguments.output / "capitals.jsonl", draw(facts, arguments.limit, "capitals"))
    write(arguments.output / "glosses.jsonl", draw(glosses, arguments.limit, "glosses"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(required=True)
    for name, make in (("world", make_world), ("general", make_general), ("tasks", make_tasks), ("domain", make_domain)):
        kind = kinds.add_parser(name)
        kind.set_defaults(make=make)
        kind.add_argument("--output", type=Path, required=True)
        kind.add_argument("--tokenizer", type=Path)
        kind.add_argument("--text", type=Path)
        kind.add_argument("--bigbench", type=Path)
        kind.add_argument("--seed", type=int, default=0)
        kind.add_argument("--scale", type=float, default=1.0, help="of the numbers of facts")
        kind.add_argument("--pieces", type=int, default=120, help="of each source, to replay")
        kind.add_argument("--limit", type=int, default=300)
    arguments = parser.parse_args()
    arguments.make(arguments)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        sys.exit(f"error: {error}")
