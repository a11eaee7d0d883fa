"""Writes tests/text/data/unicode_digests.json: what the package `tokenizers` does with every scalar value, as digests.

usage: unicode_digests.py > tests/text/data/unicode_digests.json

"normalizers": {name: {block: first 16 hex digits of the SHA-256 over the outputs, one line each}}; a block is 0x1000 code
points, and each code point stands alone, between letters and among combining marks. Blocks outside planes 0-3 and 14 must
be left alone and are not listed.
"patterns": {pattern: SHA-256 over the matched code points as little-endian uint32}, over all scalar values.
"""
import hashlib
import json
import struct

from tokenizers import Regex, normalizers, pre_tokenizers

NORMALIZERS = {"NFC": normalizers.NFC(), "NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(), "NFKD": normalizers.NFKD(),
               "StripAccents": normalizers.StripAccents(), "Lowercase": normalizers.Lowercase(), "Strip": normalizers.Strip()}
PATTERNS = [rf"\p{{{name}}}" for name in
            "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs C Cc Cf Co Cn Han Hiragana Katakana Hangul".split()]
PATTERNS += [r"\P{L}", r"\s", r"\S", r"\w", r"\W", r"[\w]", r"[\W]", r"\d", r"\D", r"\h", r".", r"[^\r\n\p{L}\p{P}\p{S}]", r"[\P{N}\p{Nd}]", r"[^\s\p{L}\p{N}]",
             r"(?i:s)", r"(?i:k)", r"(?i:[a-z])", r"\R"]
PATTERNS += [f"[[:{name}:]]" for name in "alnum alpha blank cntrl digit graph lower print punct ^punct space upper word xdigit".split()]
PATTERNS += [rf"\p{{{name}}}" for name in "Armenian Greek Hebrew Inherited Tamil Thai Letter Alphabetic White_Space Punct ^Thai".split()]
PATTERNS += [r"[\p{L}&&[^\p{Han}]]", r"[^[:punct:]]", r"(?i:\p{Lu})", r"(?i:\p{Greek})"]


def context(c):
    return f"{c}|a{c}\u0327|a\u0301{c}|{c}\u0301|a\u0327\u0301{c}\u0328|{c}{c}"


def scalars(first, end):
    return [chr(c) for c in range(first, end) if not 0xD800 <= c < 0xE000]


def normalizer_blocks(normalizer):
    blocks = {}
    for first in list(range(0, 0x40000, 0x1000)) + [0xE0000]:
        lines = "".join(normalizer.normalize_str(context(c)) + "\n" for c in scalars(first, first + 0x1000))
        blocks[f"{first:x}"] = hashlib.sha256(lines.encode()).hexdigest()[:16]
    for first in [f for f in range(0x40000, 0x110000, 0x1000) if f != 0xE0000]:
        text = "".join(scalars(first, first + 0x1000))
        assert normalizer.normalize_str(text) == text
    return blocks


def pattern_digest(pattern):
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    sha = hashlib.sha256()
    every = scalars(0, 0x110000)
    for i in range(0, len(every), 4096):
        found = sorted({ord(c) for piece, _ in splitter.pre_tokenize_str("".join(every[i:i + 4096])) for c in piece})
        sha.update(struct.pack(f"<{len(found)}I", *found))
    return sha.hexdigest()


def main():
    print(json.dumps({"normalizers": {name: normalizer_blocks(n) for name, n in NORMALIZERS.items()},
                      "patterns": {pattern: pattern_digest(pattern) for pattern in PATTERNS}}, indent=0))


main()
