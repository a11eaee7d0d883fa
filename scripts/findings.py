#!/usr/bin/env python3
"""The numbers of docs/findings.md and README.md, made from the data.json of every study.

    scripts/findings.py [--check] [--engram build/release/engram]

A table between `<!-- table NAME -->` and `<!-- end -->` is written from the data. A sentence with numbers of a study
is made here too (sentences()) and must be in its document word for word, whatever its line breaks are. --check
changes nothing. What differs is printed, and the exit code is 1.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FINDINGS, README, ROWS_PAGE = "docs/findings.md", "README.md", "results/2026-11-30-rows/README.md"
ALLOCATION = "results/allocation-cpu-small-2026-11-26"
ABLATION = "results/ablation-cpu-small-2026-11-26"
MEMORY = "results/memory-cpu-small-2026-11-26"
PLACEMENT = "results/placement-cpu-small-2026-11-26"
TRAINING = "results/training-curve-cpu-small-2026-11-26"
TUNING = "results/tune-cpu-small-2026-11-25"
LONG = "results/long-context-cpu-small-2026-11-27"
REPEATS = "results/2026-11-30-repeats"
DEMO_PROBES = "results/2026-11-26-probes"
SHORT, LONG_RUN = 4718592, 18874368  # training tokens: 3 and 12 a parameter


def number(value, digits=3, sign=False):
    """.044, -.007; with `sign` +.044."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def interval(low, high, digits=3):
    return f"[{number(low, digits)}, {number(high, digits)}]"


def chance(p):
    return "p < .001" if p < 0.001 else f"p = {number(p, 3 if p < 0.01 else 2)}"


class Study:
    """What `engram lab report FOLDER --json` says, and data.json itself."""

    def __init__(self, engram, root, folder):
        said = subprocess.run([engram, "lab", "report", str(root / folder), "--json"], check=True, capture_output=True,
                              text=True)
        self.numbers = json.loads(said.stdout)
        self.data = json.loads((root / folder / "data.json").read_text())

    def point(self, group, budget=None, x=None, label=None):
        found = [p for p in self.numbers["points"] if p["group"] == group and budget in (None, p["budget"])
                 and x in (None, p.get("x")) and label in (None, p["label"])]
        assert len(found) == 1, (group, budget, x, label, len(found))
        return found[0]

    def fit(self, kind, group, budget=None):
        found = [f for f in self.numbers[kind] if f["group"] == group and budget in (None, f["budget"])
                 and f["targets"] == "all"]
        assert len(found) == 1, (kind, group, budget, len(found))
        return found[0]

    def losses(self, point):
        return {seed: loss for seed, loss in point["seeds"]}

    def gain(self, *place, negative=False, **more):
        point = self.point(*place, **more)
        low, high, sign = *point["gain_interval"], 1
        if negative:
            low, high, sign = -high, -low, -1
        return f"{number(sign * point['gain'])} {interval(low, high)}"


def table(header, rows):
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def share(rho):
    return number(rho, 2) if rho < 1 else "1"


# E1

def window_gains(study, begin, end):
    """Gain in training loss over rho = 1 between two shares of the run, mean over seeds, by rho."""
    curves = {}
    for run in study.data["runs"]:
        if run["group"] == "allocation" and run["budget"] == LONG_RUN:
            curves.setdefault(run["rho"], {})[run["seed"]] = statistics.mean(
                loss for tokens, loss in run["train_curve"] if begin * LONG_RUN < tokens <= end * LONG_RUN + 1)
    return {rho: statistics.mean(curves[1.0][seed] - loss for seed, loss in seeds.items())
            for rho, seeds in curves.items() if rho != 1}, curves


def window_noise(study, begin, end):
    """What is left of one run's training loss after model and seed."""
    _, curves = window_gains(study, begin, end)
    rhos, seeds = sorted(curves), sorted(curves[1.0])
    mean = statistics.mean(curves[r][s] for r in rhos for s in seeds)
    of_rho = {r: statistics.mean(curves[r].values()) for r in rhos}
    of_seed = {s: statistics.mean(curves[r][s] for r in rhos) for s in seeds}
    squares = sum((curves[r][s] - of_rho[r] - of_seed[s] + mean) ** 2 for r in rhos for s in seeds)
    return (squares / ((len(rhos) - 1) * (len(seeds) - 1))) ** 0.5


def paired_chance(study, budget):
    """p of pure experts against the mean of the mixes, by t over three seeds (two degrees of freedom)."""
    points = {p["x"]: study.losses(p) for p in study.numbers["points"] if p["group"] == "allocation" and p["budget"] == budget}
    pure = points.pop(1.0)
    differences = [loss - statistics.mean(p[seed] for p in points.values()) for seed, loss in pure.items()]
    t = statistics.mean(differences) / (statistics.stdev(differences) / len(differences) ** 0.5)
    assert len(differences) == 3
    return 1 - abs(t) / (t * t + 2) ** 0.5  # Student's t with two degrees of freedom has this closed form


def allocation_table(study, budget):
    points = [p for p in study.numbers["points"] if p["group"] == "allocation" and p["budget"] == budget]
    rows = [[f"seed {seed}"] + [number(study.losses(p)[seed], 4) for p in points] for seed in (0, 1, 2)]
    rows.append(["gain over rho = 1"] + ["-"] + [number(p["gain"]) for p in points[1:]])
    rows.append(["its 95 % interval"] + ["-"] + [interval(*p["gain_interval"]) for p in points[1:]])
    return table(["rho"] + [share(p["x"]) for p in points], rows)


def schedule_table(study):
    rows = []
    for words, begin, end in (("70 to 80 %, before the rate drops", 0.7, 0.8), ("80 to 90 %", 0.8, 0.9),
                              ("the last 5 %", 0.95, 1)):
        gains, _ = window_gains(study, begin, end)
        rows.append([words] + [number(gains[rho]) for rho in (0.9, 0.75, 0.5, 0.2)])
    return table(["part of the run", ".90", ".75", ".50", ".20"], rows)


def controls_table(study):
    reference = study.point("allocation", LONG_RUN, 0.75)
    rows = []
    for name, words in (("capacity-1", "capacity-1: the module on top of all experts, one row a head"),
                        ("shuffled hash", "shuffled hash: rho = .75, rows permuted over the batch"),
                        ("dense", "dense: the same active parameters, nothing sparse")):
        point = study.point(name, LONG_RUN)
        losses, base = study.losses(point), study.losses(study.point("allocation", LONG_RUN, 1.0))
        other = study.losses(reference)
        rows.append([words] + [", ".join(text) for text in (
            [number(loss, 4) for loss in losses.values()],
            [number(loss - base[seed], 3, True) for seed, loss in losses.items()],
            [number(loss - other[seed], 3, True) for seed, loss in losses.items()])])
    return table(["", "loss, seeds 0 and 1", "against rho = 1", "against rho = .75"], rows)


# E2, E4, E8, E9

def memory_table(study):
    columns = [[p for p in study.numbers["points"] if p["group"] == group] for group in ("engram", "over-encoding")]
    def row(name, points):
        return [name] + [", ".join(number(loss, 4) for loss in study.losses(p).values()) for p in points]
    return table(["rows"] + ["2,000", "6,300", "20,000", "63,000", "200,000"],
                 [row("Engram", columns[0]), row("OverEncoding", columns[1])])


def ruler(root, seed):
    data = json.loads((root / LONG / f"ruler-equal-loss-s{seed}" / "data.json").read_text())
    values = {}
    for block in data["page"]["blocks"]:
        if block["kind"] == "lines":
            for line in block["series"]:
                values[block["title"], line["label"]] = line["y"]
    return values, data["samples"]


def ruler_table(root):
    seeds = [ruler(root, seed)[0] for seed in (0, 1)]
    rows = []
    for task in ("single", "multi-key", "multi-value", "multi-query"):
        rows.append([task] + [", ".join(f"{number(v[task, 'no memory'][i], 2)}/{number(v[task, 'Engram'][i], 2)}"
                                        for v in seeds) for i in range(4)])
    return table(["tokens", "256", "512", "1,024", "2,048"], rows)


def long_table(study):
    def row(words, *groups):
        return [words] + [", ".join(number(loss, 4) for loss in study.losses(study.point(g)).values()) for g in groups]
    return table(["", "mixture", "memory, equal steps", "memory, equal loss"],
                 [row("at 256 tokens", "moe", "engram", "engram early"),
                  row("at 2,048 tokens", "moe, long", "engram, long", "engram early, long")])


def placement_table(study):
    points = [p for p in study.numbers["points"] if p["group"] == "one block"]
    blocks = [str(int(re.search(r"\[(\d+)\]", p["label"])[1]) + 1) for p in points]
    return table(["block"] + blocks, [["gain"] + [number(p["gain"]) for p in points],
                                      ["95 %"] + [interval(*p["gain_interval"]) for p in points]])


def ablation_table(study):
    rows = []
    for name, words in (("full", "full"), ("no gate", "no gate"), ("no compression", "no compression"),
                        ("with 4-grams", "with 4-grams"), ("no convolution", "no convolution"),
                        ("no memory", "no memory"), ("four streams", "four streams, a gate each"),
                        ("four streams, one gate", "four streams, one gate for all"),
                        ("four streams, no memory", "four streams, no memory")):
        point = study.point(name)
        width = next(run["ffn_width"] for run in study.data["runs"] if run["group"] == name)
        loss = ", ".join(number(value, 4) for value in study.losses(point).values())
        change = "-"
        if "gain" in point:
            low, high = point["gain_interval"]
            change = f"{number(-point['gain'], 3, True)} {interval(-high, -low)}"
        rows.append([words, str(width), loss, change])
    return table(["", "shared width", "loss, seeds 0 and 1", "against the first of its kind"], rows)


# Bits per row

def rows_runs(root):
    """{row format: {rho: run}} and the losses without rounding, {rho: {part: loss}}."""
    found = {}
    for run in json.loads((root / ROWS_PAGE).with_name("data.json").read_text())["runs"]:
        found.setdefault(run["rows"], {})[run["rho"]] = run
    exact = {rho: run["loss"] for rho, run in found["bf16"].items()}
    return {name: runs for name, runs in found.items() if len(runs) == len(exact)}, exact


def rows_table(root, parts):
    """Change of the loss against bf16 rows: a column for each rho and part."""
    found, exact = rows_runs(root)
    columns = [(rho, part) for rho in sorted(exact, reverse=True) for part in parts]
    rows = [[name, str(runs[columns[0][0]]["row_bytes"]), str(runs[columns[0][0]]["token_bytes"])]
            + [number(exact[rho][part] if name == "bf16" else runs[rho]["loss"][part] - exact[rho][part], 4,
                      name != "bf16") for rho, part in columns]
            for name, runs in sorted(found.items(), key=lambda item: -item[1][columns[0][0]]["token_bytes"])]
    return table(["rows", "bytes a row", "a token"] + [f"{share(rho)}, {part}" for rho, part in columns], rows)


def load(engram, root):
    return {folder: Study(engram, root, folder)
            for folder in (ALLOCATION, ABLATION, MEMORY, PLACEMENT, TRAINING, TUNING, LONG)}


def tables(studies, root):
    return {"allocation-3": allocation_table(studies[ALLOCATION], SHORT),
            "allocation-12": allocation_table(studies[ALLOCATION], LONG_RUN),
            "schedule": schedule_table(studies[ALLOCATION]),
            "controls": controls_table(studies[ALLOCATION]),
            "memory": memory_table(studies[MEMORY]),
            "long": long_table(studies[LONG]),
            "ruler": ruler_table(root),
            "placement": placement_table(studies[PLACEMENT]),
            "ablation": ablation_table(studies[ABLATION]),
            "rows": rows_table(root, ["rest"]),
            "rows-parts": rows_table(root, ["all", "repeats", "rest"])}


def sentences(studies, root):
    """(document, sentence) for every number of a study that stands outside a table."""
    e1, e2, e8, e9 = (studies[name] for name in (ALLOCATION, MEMORY, PLACEMENT, ABLATION))
    out = []
    findings = lambda text: out.append((FINDINGS, text))
    readme = lambda text: out.append((README, text))

    split, early = e1.fit("lines", "allocation", LONG_RUN), e1.fit("lines", "allocation", SHORT)
    worse = split["first_minus_rest"]
    worse_text = f"{number(worse['value'])} {interval(worse['low'], worse['high'])}"
    low = e1.fit("minima", "allocation", LONG_RUN)
    assert low["bounded"] == [False, True] and e1.fit("minima", "allocation", SHORT)["bounded"] == [False, True]
    findings(f"pure experts worse by {worse_text}; mixes alike, {chance(split['rest_p_value'])}")
    findings(f"Pure experts are {worse_text} nats worse than the mean of the four mixes ({chance(worse['p_value'])}).")
    findings(f"Among the mixes nothing is resolved ({chance(split['rest_p_value'])}).")
    arms = e1.losses(e1.point("allocation", LONG_RUN, 0.2)), e1.losses(e1.point("allocation", LONG_RUN, 0.5))
    difference = statistics.mean(arms[0][seed] - arms[1][seed] for seed in arms[0])
    gain = e1.point("allocation", LONG_RUN, 0.5)
    half = (gain["gain_interval"][1] - gain["gain_interval"][0]) / 2
    findings(f"rho = .20 is {number(difference)} {interval(difference - half, difference + half)} above rho = .50")
    difference = e1.point("allocation", LONG_RUN, 0.75)["val_loss"] - e1.point("allocation", LONG_RUN, 0.5)["val_loss"]
    findings(f"the losses of .75 and .50 themselves differ by {number(difference)} "
             f"{interval(difference - half, difference + half)}")
    alone = paired_chance(e1, LONG_RUN)
    findings(f"a paired t over the three seeds alone, without that assumption, leaves even the first statement open "
             f"({chance(alone)})")
    short = [e1.point("allocation", SHORT, rho) for rho in (0.5, 0.2)]
    difference = short[0]["val_loss"] - short[1]["val_loss"]
    half = (short[0]["gain_interval"][1] - short[0]["gain_interval"][0]) / 2
    findings(f".20 and .50 differ by {number(difference)} {interval(difference - half, difference + half)}")
    findings(f"A parabola is lowest at {number(low['rho'], 2)}. Its 95 % interval (Fieller) ends at "
             f"{number(low['interval'][1], 2)} above and is not bounded below within the measured range.")
    low3 = e1.fit("minima", "allocation", SHORT)
    findings(f"At 3 tokens per parameter the parabola is lowest at {number(low3['rho'], 2)}; the interval ends at "
             f"{number(low3['interval'][1], 2)} above and is not bounded below either.")
    findings(f"One run's noise is {number(early['noise'], 4)} nats at 3 tokens per parameter and "
             f"{number(split['noise'], 4)} at 12.")
    findings(f"In training loss it is {number(window_noise(e1, .1, .2))} in the second tenth of the long run and "
             f"{number(window_noise(e1, .9, 1))} in the last.")
    readme(f"pure experts are {worse_text} nats worse than the mixes")
    readme(f"the mixes with 90 to 20 % of the sparse parameters in experts do not differ measurably "
           f"({chance(split['rest_p_value'])})")
    parts = {run["rho"]: run["parts"]
             for run in json.loads((root / REPEATS / "data.json").read_text())["runs"]}
    part_gain = lambda rho, part: parts[1.0][part]["loss"] - parts[rho][part]["loss"]
    tokens = {part: parts[1.0][part]["tokens"] for part in parts[1.0]}
    repeated = 100 * tokens["repeats"] / (tokens["repeats"] + tokens["rest"])
    findings(f"on the targets that repeat a bigram of their window ({repeated:.0f} %) rho = .50 is "
             f"{number(-part_gain(0.5, 'repeats'))} nats worse than rho = 1, and on the rest {number(part_gain(0.5, 'rest'))} better")
    findings(f"rho = .75 is {number(-part_gain(0.75, 'repeats'))} worse and {number(part_gain(0.75, 'rest'))} better")
    overlapping = 100 * tokens["overlap"] / (tokens["overlap"] + tokens["no overlap"])
    findings(f"{overlapping:.0f} % of the validation targets are in runs of 13 tokens that the training text has too")
    findings(f"On the rest outside them the gain is {number(part_gain(0.75, 'rest, no overlap'))} at rho = .75 and "
             f"{number(part_gain(0.5, 'rest, no overlap'))} at .50")
    widths = {r["rho"]: r["ffn_width"] for r in e1.data["runs"] if r["group"] == "allocation"}
    findings("its width is " + ", ".join(str(widths[rho]) for rho in (1.0, 0.9, 0.75, 0.5)) + f" and {widths[0.2]}")
    for name in ("capacity-1", "shuffled hash"):
        point = e1.point(name, LONG_RUN)
        words = {"capacity-1": "One row a head", "shuffled hash": "Shuffled rows"}[name]
        findings(f"{words}: {number(-point['gain'], 3, True)} "
                 f"{interval(-point['gain_interval'][1], -point['gain_interval'][0])} against rho = 1.")

    slope, other = e2.fit("slopes", "engram"), e2.fit("slopes", "over-encoding")
    findings(f"{number(slope['coefficients'][1])} {interval(*slope['interval'])} nats per decade of rows")
    findings(f"The misfit of a straight line has {chance(slope['misfit_p_value'])}")
    findings(f"OverEncoding's slope is the same: {number(other['coefficients'][1])} {interval(*other['interval'])}.")
    handicap = [-e2.point("over-encoding", x=x)["gain"] for x in sorted(
        p["x"] for p in e2.numbers["points"] if p["group"] == "over-encoding")[:3]]
    findings(f"worse than no memory by {', '.join(number(h) for h in handicap)} with 2,000, 6,300 and 20,000 rows")

    e3 = studies[TRAINING]
    findings(f"{e3.gain('engram')} nats below the mixture, {e3.gain('engram, 3x table')} with three times the rows")
    findings(f"Dense {number(e3.point('dense')['val_loss'])}, mixture {number(e3.point('moe')['val_loss'])}, Engram "
             f"{number(e3.point('engram')['val_loss'])}, with three times the rows "
             f"{number(e3.point('engram, 3x table')['val_loss'])}.")

    place = e8.fit("lines", "one block")
    first = place["first_minus_rest"]
    findings(f"The first block is {number(first['value'])} {interval(first['low'], first['high'])} worse than the mean "
             f"of the others; the others differ with {chance(place['rest_p_value'])}.")
    two = [e8.point("two blocks", label=f"layer_ids [{text}]")["gain"] for text in ("1,3", "1,5")]
    findings(f"Two places of half the width gain {number(two[0])} (blocks 2 and 4) and {number(two[1])} (2 and 6)")

    findings(f"The gate carries {e9.gain('no gate', negative=True)} nats ({chance(e9.point('no gate')['gain_p_value'])})")
    findings(f"compression {e9.gain('no compression', negative=True)}")
    findings(f"Without the convolution the loss is lower by {e9.gain('no convolution')}")
    findings(f"One gate for four streams is lower by {e9.gain('four streams, one gate')}")

    for seed in (0, 1):
        values, samples = ruler(root, seed)
        old, new = values["multi-key", "no memory"][0], values["multi-key", "Engram"][0]
        error = ((old * (1 - old) + new * (1 - new)) / samples) ** 0.5
        findings(f"seed {seed}: {number(new - old, 2, True)} +- {number(error, 2)} at 256 tokens")

    tune = studies[TUNING]
    rates = {tuple(p["label"].split(", ")): p["val_loss"] for p in tune.numbers["points"]}
    former, best = rates["adamw_lr 0.004", "muon_lr 0.008"], min(rates.values())
    assert best == rates["adamw_lr 0.008", "muon_lr 0.004"]
    findings(f"gains {number(rates['adamw_lr 0.002', 'muon_lr 0.004'] - best)} nats at 2.4M tokens")
    findings(f"The demo's former pair was {number(former - best)} above the best")

    lens = json.loads((root / PLACEMENT / "logit-lens" / "data.json").read_text())["difference"]
    findings(f"block 1, which stands before the memory, is nearer by {number(-lens[0]['mean'])}; blocks 3 to 6 by "
             + ", ".join(number(-lens[block]["mean"]) for block in (2, 3, 4, 5)))
    lens = json.loads((root / ALLOCATION / "logit-lens" / "data.json").read_text())["difference"]
    findings("blocks 1, 2, 3 of 4 nearer by " + ", ".join(number(-lens[block]["mean"]) for block in (0, 1, 2)))
    lens = json.loads((root / DEMO_PROBES / "logit-lens" / "data.json").read_text())["difference"]
    findings(f"In the demo block 1 is nearer by {number(-lens[0]['mean'])} and block 2 further by "
             f"{number(lens[1]['mean'])}.")
    alignments = json.loads((root / PLACEMENT / "cka" / "data.json").read_text())["alignments"]
    cka = {a["second"]: a["soft_index"] for a in alignments}
    findings("; ".join(f"block {block} looks like {number(cka['Engram'][block - 1], 2)} "
                       f"({number(cka['no memory'][block - 1], 2)})" for block in (4, 6, 7, 8)))
    columns = list(zip(*next(a["similarity"] for a in alignments if a["second"] == "Engram")))
    best = [max(range(len(column)), key=column.__getitem__) for column in columns]
    ahead = [b - block for block, b in enumerate(best)]
    most = max(columns[block][b] - columns[block][block] for block, b in enumerate(best))
    findings(f"the most alike block of the mixture is the same one for {ahead.count(0)} of {len(best)} blocks and the "
             f"next for {ahead.count(1)} ("
             + ", ".join(f"{i + 1} looks like {b + 1}" for i, b in enumerate(best) if b - i not in (0, 1))
             + f"). It is more alike than the same one by at most {number(most)}.")
    areas = []
    for folder in (PLACEMENT, ALLOCATION, DEMO_PROBES):
        views = json.loads((root / folder / "gates" / "data.json").read_text())["views"]
        areas.append([f"{number(v['word_ends']['auc'])} {interval(*v['word_ends']['auc_interval'].values())}"
                      for v in views])
    findings(f"twelve blocks {areas[0][0]}; cpu-small {areas[1][0]} and {areas[1][1]}; demo {areas[2][0]} and "
             f"{areas[2][1]}")
    knock = json.loads((root / ALLOCATION / "knock-out" / "data.json").read_text())["comparisons"]
    findings("without rows the answer's log-likelihood falls by " + " and by ".join(
        f"{number(-c['log_likelihood_change']['value'], 2)} "
        f"{interval(*(-v for v in reversed(c['log_likelihood_change']['interval'].values())), 2)}" for c in knock))
    rounded, exact = rows_runs(root)
    def lost(name, digits=3):
        return " and ".join(number(rounded[name][rho]["loss"]["rest"] - exact[rho]["rest"], digits) for rho in (0.75, 0.5))
    assert all(abs(run["loss"]["rest"] - exact[rho]["rest"]) < 1.5e-4 for name, runs in rounded.items()
               if name.startswith(("fp8", "int8")) for rho, run in runs.items())
    findings(f"int4 with one scale for a whole table loses {lost('int4, one scale')} when the largest value sets it, and "
             f"{lost('int4, one scale, fitted')} when it is fitted, of the {number(part_gain(0.75, 'rest'))} and "
             f"{number(part_gain(0.5, 'rest'))} that the memory gains on the rest")
    findings("One byte more, a power of two in each row, brings that to "
             f"{lost('int4, a power of two a row, fitted')}")
    findings(f"2 bits lose {lost('2 bits, a float a row, fitted')} with a fitted float in each row and "
             f"{lost('2 bits, one scale, fitted')} with one fitted scale; the sign alone loses "
             f"{lost('sign, a power of two a row, fitted')}, more than the gain")
    edit = json.loads((root / ALLOCATION / "edit" / "data.json").read_text())
    kl = [place["divergence"]["mean"] for place in edit["locality"]]
    findings(f"KL is {number(kl[0], 2)} behind the n-gram, {number(kl[1])} behind others that share a row, "
             f"{number(kl[2], 4)} later in such windows and {number(kl[3], 0)} elsewhere")
    return out


def plain(text):
    return re.sub(r"\s+", " ", text)


BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.S)


def complaints(engram, root, write=False):
    """What differs between the documents and the data; with `write` tables are put right first."""
    studies, found = load(engram, root), []
    made = tables(studies, root)
    used = set()
    for name in (FINDINGS, README, ROWS_PAGE):
        path = root / name
        text = path.read_text()

        def replace(match):
            used.add(match[2])
            if match[2] not in made:
                found.append(f"{name}: table {match[2]}: no such table")
                return match[0]
            right = made[match[2]] + "\n"
            if match[3] != right and not write:
                found.append(f"{name}: table {match[2]} differs from its study; scripts/findings.py writes it")
            return match[1] + right + match[4]

        new = BLOCK.sub(replace, text)
        if write and new != text:
            path.write_text(new)
        for document, sentence in sentences(studies, root):
            if document == name and plain(sentence) not in plain(new):
                found.append(f"{name}: not found: {sentence}")
    found += [f"{FINDINGS}: table {name} is not used" for name in made if name not in used]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--engram", default=str(ROOT / "build/release/engram"))
    options = parser.parse_args()
    found = complaints(options.engram, ROOT, write=not options.check)
    for complaint in found:
        print(complaint, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
