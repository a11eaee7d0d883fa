"""Writes tests/text/data/tokenizer_variants.json: small tokenizer files in every supported shape and what the package
`tokenizers` makes of some hard texts.

usage: tokenizer_variants.py > tests/text/data/tokenizer_variants.json

{"base": tokenizer.json, "texts": [...], "variants": [{"name", "patch": {...}, "ids": [per text], "special_ids": [per
text, with add_special_tokens, only when other], "decoded": [of each ids, skipping special tokens, only when it differs
from the text]}]}
A patch replaces top-level keys of the base; its "model" is merged field by field, null vocabulary entries are removed.
"""
import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TRAINING = [
    "the quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's 1234567 o'clock",
    "International organisations' tokens: hello world, hello there, 3.14159, naive cafe",
    "四大发明包括：造纸术、指南针、火药和印刷术。中国的四大发明。",
    "def encode(self, text):\n    return [self.ids[t] for t in text.split()]\n\n\n",
    "ééé café résumé ﬁne Straße Привет мир Привет",
] * 3

TEXTS = [
    "", " ", "   ", "a", "Hello, world!", " hello  there ", "don't CAN'T I'll we'VE 'ſ 'K\u212a", "1234567 12 3.14159 ½ Ⅷ ² ٣٤",
    "\n", "\r\n", "a\r\n\r\nb \n c\t\td", "trailing   ", "   leading", "x\u00a0y\u3000z\u180ew\u2028v\u0085u",
    "四大发明包括：造纸术。カタカナ ひらがな 한국어", "café cafe\u0301 e\u0301\u0327 ﬁ ﬂ Å Å", "İstanbul STRASSE Straße ΣΑΣ",
    "👩\u200d👩\u200d👧 🇫🇷 😀", "a\u0000b\u0001\u007f", "\ufeff\ufffd\uffff", "aaaaaaaaaaaaaaaaaaaaaaaa", "abababab ab",
    "<s>hello</s>", " <s>  </s> ", "<mask>", "a<mask>b", "  <mask>  x", "<MASK> [DAY] [day] day today", "word words word-word _word",
    "\U0001e030\U0001e030 \U00011f02\U00011f50 \U0001cc00\u1c89 \ua7cb\ua7da \U00031350中", "\U00010d40\U00010d50\u0897\u0cf3\U0001171e",
    "foo_bar fooBar FOO foo", "if(x==1){y[i++]*=0xFF;} // c", "line one\nline two\n\nend", "a-b--c---d", "ab1cd22ef333", "x" * 60 + " y",
    "\u24b6\u24d0 \u00b2\u00bc \u203f \u0e33\u0e4d", "\ue000 \ue000", "क्षि नमस्ते ไทย", "ss ſs Ss fi",
]

PATTERNS = {
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
             r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek-llm": r"\s?\p{L}+|\s?\p{N}+|[一-龥ࠀ-一가-퟿]+|\s?[^\s\p{L}\p{N}一-龥]+",
    "possessive": r"\p{L}++|\p{N}{1,3}+|[^\p{L}\p{N}]?+", "not possessive": r"(?:a{1,3}+)b|.", "lazy": r"a+?|b*?c|\w{2,3}?",
    "fixed lazy": r"a{2}?b?|x{,2}", "lines": r"^\w+|\w+$", "dot": r".+", "dotall": r"(?m:.+)", "dotall off": r"(?m)l(?-m:.)|\n.",
    "hex": r"\h+|\H", "word": r"\w+|\W", "boundary": r"\bword\b|\B.", "lookbehind": r"(?<=a)b|(?<!a)b|(?<= ).",
    "han": r"\p{Han}+|[\p{Hiragana}\p{Katakana}]+|\p{Hangul}|[^\p{Han}\s]+", "isolated option": r"a(?i)b|c|(?-i)D",
    "isolated in a group": r"(?:x(?i)y|z)q|f(?i)oo", "newline": r"\R", "escapes": r"\x41|\u4e2d|\x{1F600}|\t|\v|\e|\.|\-|\/|\é",
    "class dash": r"[\w-]+|[+\-*/]|[a-c\-e]", "class escapes": r"[\r\n\t\x20\x{3000}\u00e9]+|[^\S\n]+|[^\W\d]+", "class b": r"[\b\]\[]",
    "empty matches": r"x*", "lookahead only": r"(?=a)", "end": r"$", "start": r"^", "negated property": r"\P{L}+|\p{^N}|[\P{L}\d]+",
    "complement in class": r"[^\P{L}a-m]+|[\P{M}]", "unassigned": r"\p{Cn}+|\p{C}", "marks": r"\p{Mn}+|\p{Mc}|\p{Me}", "digit": r"\d+|\D+",
    "comment": r"a(?#nothing)b|c", "atomic": r"(?>a+|ab)b|(?>\s+)x", "braces": r"a{|{b|{1,x}|}|]", "nested": r"((a|b)+(c|d)?)+|(e(f(g)?)?)",
    "punctuation": r"[\p{P}\p{S}]+|\p{Pc}|\p{Sm}", "anchors": r"\A.|.\z|.\Z", "caseless class": r"(?i:[a-f]+|k)|(?i:\p{L})x",
}


def base_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TRAINING, trainer)
    return json.loads(tokenizer.to_str())


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(parts)}}


def added(token_id, content, **flags):
    token = {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {**token, **flags}


def template(single, **specials):
    tokens = {name: {"id": name, "ids": ids, "tokens": [name] * len(ids)} for name, ids in specials.items()}
    pieces = [{"Sequence": {"id": "A", "type_id": 0}} if p == "A" else {"SpecialToken": {"id": p, "type_id": 0}} for p in single]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": tokens}


def variants(base):
    for prefix in (False, True):
        for regex in (False, True):
            yield f"byte level {prefix} {regex}", {"pre_tokenizer": byte_level(prefix, regex)}
    for behavior in ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        for invert in (False, True):
            yield f"{behavior} {invert} string", sequence(split(" ", behavior, invert, "String"), byte_level())
            yield f"{behavior} {invert} regex", sequence(split(r"\p{L}|\s+", behavior, invert), byte_level(True))
            yield f"{behavior} {invert} empty", sequence(split(r"x*|(?=b)", behavior, invert), byte_level())
    yield "string pattern", sequence(split("a.b|-+[", kind="String"), split("--", "MergedWithNext", False, "String"), byte_level())
    for name, pattern in PATTERNS.items():
        yield name, sequence(split(pattern), byte_level())
    yield "deepseek", sequence(
        split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"),
        split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
        byte_level())
    for individual in (False, True):
        yield f"digits {individual}", sequence({"type": "Digits", "individual_digits": individual}, byte_level(False, True))
        yield f"digits prefix {individual}", sequence({"type": "Digits", "individual_digits": individual}, byte_level(True, True))
    yield "nested sequence", sequence({"type": "Sequence", "pretokenizers": [split(r"\d")]}, {"type": "Sequence", "pretokenizers": [byte_level()]})
    normalizers = {name: {"type": name} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")}
    for left in (False, True):
        for right in (False, True):
            normalizers[f"Strip {left} {right}"] = {"type": "Strip", "strip_left": left, "strip_right": right}
    normalizers["Prepend"] = {"type": "Prepend", "prepend": "_ "}
    normalizers["Replace"] = {"type": "Replace", "pattern": {"String": "aa"}, "content": "é!"}
    normalizers["all"] = {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Sequence", "normalizers": []}]}
    for name, normalizer in normalizers.items():
        yield name, {"normalizer": normalizer, "added_tokens": base["added_tokens"]}
    n = len(base["model"]["vocab"])
    flags = [dict(), dict(lstrip=True), dict(rstrip=True), dict(lstrip=True, rstrip=True), dict(single_word=True), dict(normalized=True), dict(special=True)]
    for i, flag in enumerate(flags):
        tokens = [added(n, "<mask>", **flag), added(n + 1, "word", **flag), added(n + 2, "[DAY]", **flag), added(n + 3, "ab", **flag),
                  added(n + 4, "abab", **flag), added(n + 5, " ", **{**flag, "single_word": False})]
        yield f"added {flag}", {"added_tokens": base["added_tokens"] + tokens}
        yield f"added lower-cased {flag}", {"added_tokens": base["added_tokens"] + tokens[:5], "normalizer": {"type": "Lowercase"}}
    yield "added in the alphabet", {"added_tokens": base["added_tokens"] + [added(n, "Ġ x"), added(n + 1, "Ġ\u010a", special=True), added(n + 2, "中Ġ")]}
    yield "template", {"post_processor": template(["<s>", "A", "</s>"], **{"<s>": [0], "</s>": [1, 1]})}
    yield "processors", {"post_processor": {"type": "Sequence", "processors": [byte_level(), template(["<s>", "A"], **{"<s>": [0]})]}}
    yield "roberta", {"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}}
    yield "bert", {"post_processor": {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]}}
    yield "byte level processor", {"post_processor": byte_level(True, True)}
    yield "ignore merges", {"model": {"ignore_merges": True, "merges": base["model"]["merges"][:40]}}
    yield "legacy merges", {"model": {"merges": ["#version: 0.2"] + [" ".join(m) for m in base["model"]["merges"]]}}
    yield "a merge twice", {"model": {"merges": base["model"]["merges"] + base["model"]["merges"][:20]}}
    yield "affixes and dropout", {"model": {"continuing_subword_prefix": "", "end_of_word_suffix": "", "dropout": 0.0}}
    # Tokens at the vocabulary's end are no merge's parts, so the alphabet can lose some bytes: ids must stay dense.
    spare = [t for t, i in sorted(base["model"]["vocab"].items(), key=lambda e: -e[1])][:3]
    holes = {**{b: None for b in ("!", "x", "Ċ")}, **{t: base["model"]["vocab"][b] for t, b in zip(spare, ("!", "x", "Ċ"))}}
    left = [m for m in base["model"]["merges"] if not {"x", "!", "Ċ"} & set("".join(m))]
    for fuse in (False, True):
        for unk in (None, "<unk>"):
            yield f"missing bytes {fuse} {unk}", {"model": {"vocab": holes, "merges": left, "unk_token": unk, "fuse_unk": fuse}}


def patched(base, patch):
    out = json.loads(json.dumps({**base, **{k: v for k, v in patch.items() if k != "model"}}))
    for key, value in patch.get("model", {}).items():
        if key != "vocab":
            out["model"][key] = value
            continue
        vocab = out["model"]["vocab"]
        for token, token_id in value.items():
            if token_id is None:
                del vocab[token]
            else:
                vocab[token] = token_id
    return out


def main():
    base = base_tokenizer()
    rows = []
    for name, patch in variants(base):
        tokenizer = Tokenizer.from_str(json.dumps(patched(base, patch)))
        ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS]
        special = [tokenizer.encode(t, add_special_tokens=True).ids for t in TEXTS]
        row = {"name": name, "patch": patch, "ids": ids}
        if special != ids:
            row["special_ids"] = special
        row["decoded"] = [None if tokenizer.decode(i) == t else tokenizer.decode(i) for i, t in zip(ids, TEXTS)]
        row["decoded_raw"] = [None if tokenizer.decode(i, skip_special_tokens=False) == t else tokenizer.decode(i, skip_special_tokens=False)
                              for i, t in zip(ids, TEXTS)]
        rows.append(row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    print('{"base":' + json.dumps(base, ensure_ascii=False, separators=(",", ":")) + ',\n"texts":' + json.dumps(TEXTS) + ',\n"variants":[\n' + lines + "\n]}")


main()
