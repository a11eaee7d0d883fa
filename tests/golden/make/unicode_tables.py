"""Writes engram/text/unicode_tables.h: where utf8proc and PCRE2 differ from the `tokenizers` package.

usage: unicode_tables.py | clang-format --assume-filename=x.h > engram/text/unicode_tables.h

Every table is measured, not copied: the package's normalizers and patterns run over all scalar values, and utf8proc
(through ctypes) and PCRE2's Unicode 14 (Python 3.11's unicodedata holds the same version) are compared with them.
Needs the oracle environment (scripts/setup.sh --oracles) and libutf8proc.
"""
import ctypes
import ctypes.util
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn").split()
UTF8PROC_CATEGORIES = ("Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co").split()
SCRIPTS = ("Han", "Hiragana", "Katakana", "Hangul")


FIND_ROW = """// The row that holds the code point, or nullptr. Rows are sorted.
template <typename Row, size_t n>
const Row* find_row(const Row (&rows)[n], char32_t code_point) {
  const Row* row = std::upper_bound(std::begin(rows), std::end(rows), code_point,
                                    [](char32_t value, const Row& r) { return value < r.first; });
  return row != std::begin(rows) && code_point <= (row - 1)->last ? row - 1 : nullptr;
}
"""


def kept(splitter, text):
    return {ord(c) for piece, _ in splitter.pre_tokenize_str(text) for c in piece}


def matched(pattern):
    """The scalar values that Oniguruma, as `tokenizers` runs it, matches."""
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = set()
    for i in range(0, len(SCALARS), 4096):
        found |= kept(splitter, "".join(map(chr, SCALARS[i:i + 4096])))
    return found


def ranges(points, may_bridge=lambda c: False):
    out = []
    for c in sorted(points):
        if out and all(may_bridge(gap) for gap in range(out[-1][1] + 1, c)):
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def load_utf8proc():
    lib = ctypes.CDLL(ctypes.util.find_library("utf8proc"))
    lib.utf8proc_category.argtypes = [ctypes.c_int32]

    class Property(ctypes.Structure):
        _fields_ = [("category", ctypes.c_int16), ("combining_class", ctypes.c_int16),
                    ("bidi_class", ctypes.c_int16), ("decomp_type", ctypes.c_int16),
                    ("decomp_seqindex", ctypes.c_uint16)]

    lib.utf8proc_get_property.restype = ctypes.POINTER(Property)
    lib.utf8proc_get_property.argtypes = [ctypes.c_int32]
    lib.utf8proc_tolower.argtypes = [ctypes.c_int32]
    lib.utf8proc_unicode_version.restype = ctypes.c_char_p
    return lib


def is_starter(c):
    """Whether the package's normal forms treat c as having combining class 0 (a mark would move)."""
    for other in ("\u0327", "\u0301", "\u0315", "\u0338", "\u093c", "\u3099", "\u094d", "\u05b0", "\u0345"):
        for text in ("a" + other + chr(c), "a" + chr(c) + other):
            if normalizers.NFD().normalize_str(text) != text:
                return False
    return True


def opaque_points(lib):
    """What utf8proc decomposes, reorders or calls a mark and the package leaves alone."""
    nfkd, strip = normalizers.NFKD(), normalizers.StripAccents()
    opaque, matter, marks = set(), set(), set()
    for c in SCALARS:
        prop = lib.utf8proc_get_property(c).contents
        hangul = 0xAC00 <= c <= 0xD7A3
        mapped = prop.decomp_seqindex != 0xFFFF or hangul
        mark = UTF8PROC_CATEGORIES[lib.utf8proc_category(c)][0] == "M"
        package_mark = strip.normalize_str(chr(c)) == ""
        if package_mark and not mark:
            marks.add(c)
        if not (mapped or mark or prop.combining_class):
            continue
        left_alone = (not mapped or nfkd.normalize_str(chr(c)) == chr(c)) and (not mark or not package_mark) and (
            not prop.combining_class or is_starter(c))
        (opaque if left_alone else matter).add(c)
    return ranges(opaque, lambda c: c not in matter), sorted(marks)


def lower_pairs(lib):
    lower = normalizers.Lowercase()
    pairs = [(c, ord(lower.normalize_str(chr(c)))) for c in SCALARS
             if len(lower.normalize_str(chr(c))) == 1 and ord(lower.normalize_str(chr(c))) != lib.utf8proc_tolower(c)]
    rows = []
    for c, to in pairs:  # runs with one distance
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == to - c:
            rows[-1][1] = c
        else:
            rows.append([c, c, to - c])
    return rows


def print_ranges(comment, name, rows, kind="CodePointRange"):
    print(f"// {comment}\ninline constexpr {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        cell = " {" + ", ".join(f"0x{v:X}" if i < 2 else str(v) for i, v in enumerate(row)) + "},"
        if len(line) + len(cell) > 116:
            print(line)
            line = "   "
        line += cell
    print(line + "\n};\n")


def main():
    lib = load_utf8proc()
    category_of = {}
    for category in CATEGORIES:
        category_of.update(dict.fromkeys(matched(rf"\p{{{category}}}"), category))
    changed = {c for c in SCALARS if unicodedata.category(chr(c)) != category_of[c]}
    later = []
    for category in CATEGORIES:
        number = UTF8PROC_CATEGORIES.index(category)
        later += [[a, b, number] for a, b in ranges(c for c in changed if category_of[c] == category)]
    word = matched(r"\w")
    words = [c for c in SCALARS if category_of[c][0] in "LM" or category_of[c] in ("Nd", "Nl", "Pc")]
    assert not set(words) - word
    digits = pre_tokenizers.Digits(individual_digits=True)
    numeric_text = "".join(chr(c) for c in SCALARS if category_of[c][0] == "N" or category_of[c] == "Cn")
    numeric = set()
    for i in range(0, len(numeric_text), 4096):  # a digit stands alone between letters
        for piece, _ in digits.pre_tokenize_str("a".join(numeric_text[i:i + 4096])):
            numeric |= {ord(piece)} if len(piece) == 1 and piece != "a" else set()
    opaque, extra_marks = opaque_points(lib)

    print("// Where utf8proc and PCRE2 differ from the Python package `tokenizers`, whose parts follow other Unicode")
    print(f"// versions. Generated by tests/golden/make/unicode_tables.py from tokenizers {tokenizers.__version__},")
    print(f"// utf8proc's Unicode {lib.utf8proc_unicode_version().decode()} and Unicode {unicodedata.unidata_version} (PCRE2 10.42). Do not edit.")
    print("#pragma once\n#include <algorithm>\n#include <cstddef>\n#include <iterator>\n\nnamespace engram {\n")
    print("struct CodePointRange {\n  char32_t first, last;\n};")
    print("struct MappedRange {\n  char32_t first, last;\n  int value;\n};\n")
    print(FIND_ROW)
    print_ranges("Code points the package's normal forms and StripAccents leave alone although utf8proc knows a mapping,\n"
                 "// a combining class or the category of a mark (the package's data is of Unicode 9).", "kOpaque", opaque)
    print_ranges("Marks to the package, not to utf8proc.", "kExtraMarks", ranges(extra_marks))
    print_ranges("Lower-casing newer than utf8proc: value is added.", "kLowerLater", lower_pairs(lib), "MappedRange")
    print_ranges("General categories (utf8proc's numbers) where Oniguruma's Unicode 16 differs from Unicode 14.",
                 "kCategoryLater", sorted(later), "MappedRange")
    print_ranges("Word characters of Oniguruma beyond the categories L, M, Nd, Nl and Pc.", "kExtraWord",
                 ranges(word - set(words)))
    print_ranges("Numeric to Rust, hence to the Digits pre-tokenizer, beyond Unicode 16's category N.", "kExtraNumeric",
                 ranges(c for c in numeric if category_of[c][0] != "N"))
    for script in SCRIPTS:
        print_ranges(f"The script {script}.", f"kScript{script}", ranges(matched(rf"\p{{{script}}}")))
    print("}  // namespace engram")


main()
