"""Writes small tokenizer files in every supported shape and what the package `tokenizers` makes of some hard texts:
byte-level ones, or ones of SentencePiece's kind.

usage: tokenizer_variants.py bytes > tests/text/data/tokenizer_variants.json
       tokenizer_variants.py pieces > tests/text/data/tokenizer_pieces.json

{"base": tokenizer.json, "texts": [...], "variants": [{"name", "patch": {...}, "ids": [per text], "special_ids": [per
text, with add_special_tokens, only when other], "decoded": [of each ids, skipping special tokens, only when it differs
from the text]}]}
A patch replaces top-level keys of the base; its "model" is merged field by field, null vocabulary entries are removed.
"""
import json
import sys

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

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
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+", "cohere": r"\d{1,3}(?=(?:\d{3})*\b)", "thousands": r"(?<=\d)(?=(?:\d{3})+\b)",
    "scripts": r"\p{Thai}+|\p{Cyrillic}+|\p{Devanagari}+|\p{Greek}+|\p{Latin}+|\p{^Han}", "posix": r"[[:punct:]]+|[[:alpha:]]+|[[:space:][:digit:]]",
    "posix complement": r"[[:^punct:]]+", "posix words": r"[[:upper:]]?[[:lower:]]+|[^[:word:]]", "long names": r"\p{Letter}+|\p{Punctuation}|\p{Number}|\p{Space_Separator}",
    "named group": r"(?<twice>\w)\k<twice>|(?<x>a)", "back reference": r"(.)\1", "caseless letters": r"(?i:привет|é+|straße|ss|fi)", "caseless property": r"(?i:\p{Lu}+)",
    "intersection": r"[a-z&&[^aeiou]]+", "nested class": r"[a[bc]d[^e-z]]+", "extended": "(?x: a \\w  # a letter\n)", "condition": r"(a)?(?(1)b|c)", "absent": r"(?~ab)",
    "keep": r"a\Kb|\Kx", "search start": r"\G.", "any": r"\O|\N", "binary property": r"\p{Alphabetic}+|\p{White_Space}", "repeat": r"a**|(?:b+)?", "lazy interval": r"\w{2,}?",
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
    punctuation = {"type": "Punctuation", "behavior": "Contiguous"}
    yield "falcon", sequence(punctuation, byte_level(False, True), {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"))
    for i, part in enumerate([split("\u0120+|.\u00b2", "Contiguous"), split("\u0120", "MergedWithNext", False, "String"), {"type": "Punctuation", "behavior": "Isolated"},
                              {"type": "WhitespaceSplit"}, {"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}]):
        yield f"behind byte level {i}", sequence(byte_level(False, True), part)
        yield f"behind byte level with a prefix {i}", sequence(part, byte_level(True, False), part)
    yield "metaspace and bytes", sequence({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}, byte_level())
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


BLANK = "\u2581"
PIECE_TEXTS = [
    "", " ", "   ", "a", "Hello, world!", " hello  there ", "don't CAN'T", "1234567 3.14 ½ ²", "\n", "a\r\n\r\nb \n c\t\td", "trailing   ", "   leading",
    "x\u00a0y\u3000z\u2028v", "四大发明：カタカナ 한국어", "café cafe\u0301 ﬁ", "İSTANBUL Straße", "👩\u200d👧 🇫🇷", "a\u0000b\u007f", "aaaaaaa ab abab",
    "<s>hello</s> you", " <s>  </s> ", "<s>", "a<s> b", f"{BLANK}a {BLANK}{BLANK} b{BLANK}", "foo_bar-baz--qux", "if(x==1){y[i++]*=0xFF;} // c", "\U0001e030 \U00011f02 中",
]


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def pieces_base():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=560, special_tokens=specials + [f"<0x{i:02X}>" for i in range(256)], show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(BLANK, "merged_with_next")
    tokenizer.train_from_iterator(TRAINING, trainer)
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = file["added_tokens"][:3]
    file["pre_tokenizer"] = None
    file["decoder"] = decoder(replace(BLANK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    file["post_processor"] = template(["<s>", "A"], **{"<s>": [1]})
    return file


def decoder(*parts):
    return {"type": "Sequence", "decoders": list(parts)}


def metaspace(scheme="always", do_split=True, **more):
    return {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": scheme, "split": do_split, **more}


def pieces_variants(base):
    yield "llama 2", {}
    for scheme in ("always", "first", "never"):
        for do_split in (False, True):
            yield f"metaspace {scheme} {do_split}", {"normalizer": None, "pre_tokenizer": metaspace(scheme, do_split), "decoder": metaspace(scheme, do_split)}
    yield "metaspace legacy", {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": BLANK, "add_prefix_space": True},
                               "decoder": {"type": "Metaspace", "replacement": BLANK, "add_prefix_space": True}}
    yield "metaspace legacy never", {"normalizer": None, "pre_tokenizer": metaspace("never", add_prefix_space=False), "decoder": metaspace("never", add_prefix_space=False)}
    yield "mistral v3", {"normalizer": None, "pre_tokenizer": metaspace("first", False)}
    yield "first behind forms", {"normalizer": {"type": "NFKC"}, "pre_tokenizer": metaspace("first")}
    yield "gemma", {"normalizer": replace(" ", BLANK), "pre_tokenizer": split(" ", "MergedWithPrevious", False, "String"),
                    "decoder": decoder(replace(BLANK, " "), {"type": "ByteFallback"}, {"type": "Fuse"})}
    yield "forms and marks", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace(" ", BLANK)]}, "pre_tokenizer": metaspace("never")}
    for pattern, content in ((r"\s+", BLANK), (r" {2,}", BLANK), (r"(?i)[aeiou]", "e"), (r"x*", "-"), (r"(?=b)", "|"), (r"[^\x20-\x7e]", ""), (r"^|$", "_")):
        yield f"replace {pattern}", {"normalizer": replace(pattern, content, "Regex")}
    yield "strip and metaspace", {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}, "pre_tokenizer": metaspace()}
    cuts = {"WhitespaceSplit": {}, "Whitespace": {}, "CharDelimiterSplit": {"delimiter": "-"}}
    for name, fields in cuts.items():
        yield name, {"normalizer": None, "pre_tokenizer": {"type": name, **fields}}
        yield f"{name} and metaspace", {"normalizer": None, **sequence({"type": name, **fields}, metaspace())}
        yield f"{name} and metaspace first", {"normalizer": None, **sequence({"type": name, **fields}, metaspace("first"))}
    for behavior in ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        yield f"punctuation {behavior}", {"pre_tokenizer": {"type": "Punctuation", "behavior": behavior}}
    yield "punctuation and digits", sequence({"type": "Punctuation"}, {"type": "Digits", "individual_digits": True}, split(rf"{BLANK}?\w+|\S"))
    yield "strip three", {"decoder": decoder(replace(BLANK, " "), {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 3, "stop": 0})}
    yield "strip each", {"decoder": decoder({"type": "Strip", "content": BLANK, "start": 1, "stop": 0})}
    yield "strip ends", {"decoder": decoder({"type": "Strip", "content": "o", "start": 0, "stop": 1})}
    decoders_alone = [None, {"type": "ByteFallback"}, {"type": "Fuse"}, replace(BLANK, " "), replace(r"[a-e]+", "<>", "Regex"), {"type": "BPEDecoder", "suffix": BLANK},
                      {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, decoder(), decoder({"type": "ByteFallback"}, metaspace())]
    for i, alone in enumerate(decoders_alone):
        yield f"decoder {i}", {"decoder": alone}
    for name, lost in (("some", ("<0xE5>", "<0xF0>")), ("all", tuple(f"<0x{i:02X}>" for i in range(256)))):
        for fuse in (False, True):
            for unk in (None, "<unk>"):
                yield f"fallback without {name} bytes {fuse} {unk}", {"model": {"vocab": {byte: None for byte in lost}, "fuse_unk": fuse, "unk_token": unk}}
    yield "no fallback", {"model": {"byte_fallback": False}}
    yield "ignore merges", {"model": {"ignore_merges": True, "merges": base["model"]["merges"][:100]}, "pre_tokenizer": metaspace()}
    n = len(base["model"]["vocab"])
    yield "ids with holes", {"model": {"vocab": {base["model"]["merges"][-1][0] + base["model"]["merges"][-1][1]: n + 7}}}
    yield "added with other ids", {"added_tokens": base["added_tokens"] + [added(n + 5, "hello"), added(n + 9, "you", special=True)]}
    yield "added twice", {"added_tokens": base["added_tokens"] + [added(n, "hello"), added(n + 1, "hello"), added(n + 1, "you")]}
    yield "added without text", {"added_tokens": base["added_tokens"] + [added(n, ""), added(n, "you", special=True)]}
    flags = [dict(lstrip=True), dict(rstrip=True), dict(lstrip=True, rstrip=True), dict(single_word=True), dict(normalized=True)]
    for flag in flags:
        tokens = base["added_tokens"] + [added(n, "there", **flag), added(n + 1, "ab", **flag)]
        yield f"added {flag}", {"added_tokens": tokens}
        yield f"added before metaspace {flag}", {"added_tokens": tokens, "normalizer": None, "pre_tokenizer": metaspace("first")}
    yield "truncation and padding", {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
                                     "padding": {"strategy": {"Fixed": 6}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}}


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
    pieces = sys.argv[1] == "pieces"
    base, texts = (pieces_base(), PIECE_TEXTS) if pieces else (base_tokenizer(), TEXTS)
    rows = []
    for name, patch in (pieces_variants if pieces else variants)(base):
        tokenizer = Tokenizer.from_str(json.dumps(patched(base, patch)))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ids = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        special = [tokenizer.encode(t, add_special_tokens=True).ids for t in texts]
        row = {"name": name, "patch": patch, "ids": ids}
        if special != ids and not pieces:
            row["special_ids"] = special
        for key, skip in (("decoded", True), ("decoded_raw", False)):
            decoded = [tokenizer.decode(i, skip_special_tokens=skip) for i in ids]
            row[key] = [None if d == t else d for d, t in zip(decoded, texts)]
        rows.append(row)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    print('{"base":' + json.dumps(base, ensure_ascii=False, separators=(",", ":")) + ',\n"texts":' + json.dumps(texts) + ',\n"variants":[\n' + lines + "\n]}")


main()
