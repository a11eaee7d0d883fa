"""Writes engram/text/unicode_tables.h: where utf8proc, Oniguruma and PCRE2 differ from the `tokenizers` package.

usage: unicode_tables.py | clang-format --assume-filename=x.h > engram/text/unicode_tables.h

Every table is measured, not copied: the package's normalizers, pre-tokenizers and patterns run over all scalar values
and are compared with utf8proc and with the Oniguruma that is installed (both through ctypes). Takes five minutes.
Needs the oracle environment (scripts/setup.sh --oracles), libutf8proc and libonig.
"""
import ctypes
import ctypes.util

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

SCALARS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn").split()
UTF8PROC_CATEGORIES = ("Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co").split()
SCRIPTS = """
Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo Brahmi
Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common Coptic
Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic
Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul Hanifi_Rohingya Hanunoo
Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada
Katakana Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu
Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui
Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nandinagari New_Tai_Lue Newa Nko
Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian
Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician
Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo
Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai
Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square""".split()
POSIX = "alnum alpha blank cntrl digit graph lower print space upper xdigit word".split()


FIND_ROW = """// The row that holds the code point, or nullptr. Rows are sorted.
template <typename Row, size_t n>
const Row* find_row(const Row (&rows)[n], char32_t code_point) {
  const Row* row = std::upper_bound(std::begin(rows), std::end(rows), code_point,
                                    [](char32_t value, const Row& r) { return value < r.first; });
  return row != std::begin(rows) && code_point <= (row - 1)->last ? row - 1 : nullptr;
}
"""


def chunks(size=8192):
    return ("".join(map(chr, SCALARS[i:i + size])) for i in range(0, len(SCALARS), size))


def matched(pattern):
    """The scalar values that Oniguruma, as `tokenizers` runs it, matches."""
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return {ord(c) for text in chunks() for piece, _ in splitter.pre_tokenize_str(text) for c in piece}


class LocalOniguruma:
    """The installed library, over one text of all scalar values."""

    class Region(ctypes.Structure):
        _fields_ = [("allocated", ctypes.c_int), ("num_regs", ctypes.c_int), ("beg", ctypes.POINTER(ctypes.c_int)),
                    ("end", ctypes.POINTER(ctypes.c_int)), ("history", ctypes.c_void_p)]

    def __init__(self):
        self.lib = ctypes.CDLL(ctypes.util.find_library("onig"))
        self.lib.onig_region_new.restype = ctypes.POINTER(self.Region)
        self.lib.onig_version.restype = ctypes.c_char_p
        self.utf8 = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(self.lib, "OnigEncodingUTF8")))
        self.syntax = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(self.lib, "OnigSyntaxOniguruma")))
        text = "".join(map(chr, SCALARS)).encode()
        self.text, self.size, self.scalar_at, at = ctypes.create_string_buffer(text, len(text)), len(text), {}, 0
        for c in SCALARS:
            self.scalar_at[at] = c
            at += width(c)
        self.scalar_at[at] = 0x110000

    def matched(self, pattern):
        text = (pattern + "+").encode()
        buffer, code, info = ctypes.create_string_buffer(text, len(text)), ctypes.c_void_p(), (ctypes.c_char * 64)()
        begin = ctypes.addressof(buffer)
        error = self.lib.onig_new(ctypes.byref(code), ctypes.c_void_p(begin), ctypes.c_void_p(begin + len(text)), 0,
                                  self.utf8, self.syntax, info)
        assert error == 0, (pattern, error)
        region, base, at, found = self.lib.onig_region_new(), ctypes.addressof(self.text), 0, set()
        while self.lib.onig_search(code, ctypes.c_void_p(base), ctypes.c_void_p(base + self.size), ctypes.c_void_p(base + at),
                                   ctypes.c_void_p(base + self.size), region, 0) >= 0:
            at = region.contents.end[0]
            found.update(range(self.scalar_at[region.contents.beg[0]], self.scalar_at[at]))
        return {c for c in found if not 0xD800 <= c < 0xE000}


def width(c):
    return 1 if c < 0x80 else 2 if c < 0x800 else 3 if c < 0x10000 else 4


def stand_ins(onig):
    """[first, last, stand-in]: older characters of the same width that are to the installed library what these are to
    the package's, by category, POSIX class and, as far as possible, script."""
    patterns = [rf"\p{{{c}}}" for c in CATEGORIES] + [f"[[:{p}:]]" for p in POSIX] + [r"\w", r"\s"]
    exact = len(patterns)
    patterns += [rf"\p{{{s}}}" for s in SCRIPTS]
    here, there = {}, {}  # bit sets by scalar value
    for bit, pattern in enumerate(patterns):
        for sets, points in ((here, onig.matched(pattern)), (there, matched(pattern))):
            for c in points:
                sets[c] = sets.get(c, 0) | 1 << bit
    mask = (1 << exact) - 1
    new = [c for c in SCALARS if here.get(c, 0) != there.get(c, 0)]
    changed, candidates, best, rows = set(new), {}, {}, []
    for c in SCALARS:
        if c not in changed:
            candidates.setdefault((width(c), here.get(c, 0) & mask), []).append(c)
    for c in new:
        want = there.get(c, 0)
        if (want, width(c)) not in best:
            best[want, width(c)] = min(candidates[width(c), want & mask],
                                       key=lambda k: (bin(here.get(k, 0) ^ want).count("1"), abs(k - c)))
        stand_in = best[want, width(c)]
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == stand_in:
            rows[-1][1] = c
        else:
            rows.append([c, c, stand_in])
    return rows


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


def punctuation():
    splitter = pre_tokenizers.Punctuation("removed")
    return set(SCALARS) - {ord(c) for text in chunks() for piece, _ in splitter.pre_tokenize_str(text) for c in piece}


def word_characters():
    """To the Whitespace pre-tokenizer: those that stay together with a letter."""
    splitter, found = pre_tokenizers.Whitespace(), set()
    for text in chunks():
        found |= {ord(piece[1]) for piece, _ in splitter.pre_tokenize_str(" ".join("a" + c for c in text))
                  if len(piece) == 2 and piece[0] == "a"}
    return found


def main():
    lib, onig = load_utf8proc(), LocalOniguruma()
    stand_in_rows = stand_ins(onig)
    stand_in = {c: k for first, last, k in stand_in_rows for c in range(first, last + 1)}
    category = {c: UTF8PROC_CATEGORIES[lib.utf8proc_category(stand_in.get(c, c))] for c in SCALARS}
    words = {c for c in SCALARS if category[c][0] in "LM" or category[c] in ("Nd", "Nl", "Pc")}
    word = word_characters()
    assert not words - word
    digits, numeric = pre_tokenizers.Digits(individual_digits=True), set()
    numeric_text = "".join(chr(c) for c in SCALARS if category[c][0] == "N" or category[c] == "Cn")
    for i in range(0, len(numeric_text), 4096):  # a digit stands alone between letters
        for piece, _ in digits.pre_tokenize_str("a".join(numeric_text[i:i + 4096])):
            numeric |= {ord(piece)} if len(piece) == 1 and piece != "a" else set()
    opaque, extra_marks = opaque_points(lib)
    marks = {c for c in SCALARS if UTF8PROC_CATEGORIES[lib.utf8proc_category(c)][0] == "P"}
    marks |= set(map(ord, "$+<=>^`|~"))
    package_marks = punctuation()

    print("// Where utf8proc, Oniguruma and PCRE2 differ from the Python package `tokenizers`, whose parts follow other Unicode")
    print(f"// versions. Generated by tests/golden/make/unicode_tables.py from tokenizers {tokenizers.__version__},")
    print(f"// utf8proc's Unicode {lib.utf8proc_unicode_version().decode()} and Oniguruma {onig.lib.onig_version().decode()}. Do not edit.")
    print("#pragma once\n#include <algorithm>\n#include <cstddef>\n#include <iterator>\n\nnamespace engram {\n")
    print("struct CodePointRange {\n  char32_t first, last;\n};")
    print("struct MappedRange {\n  char32_t first, last;\n  int value;\n};\n")
    print(FIND_ROW)
    print_ranges("Code points the package's normal forms and StripAccents leave alone although utf8proc knows a mapping,\n"
                 "// a combining class or the category of a mark (the package's data is of Unicode 9).", "kOpaque", opaque)
    print_ranges("Marks to the package, not to utf8proc.", "kExtraMarks", ranges(extra_marks))
    print_ranges("Lower-casing newer than utf8proc: value is added.", "kLowerLater", lower_pairs(lib), "MappedRange")
    print_ranges("Characters that the package's Oniguruma (Unicode 16) and the installed one see in other ways; value is one of the\n"
                 "// same length in UTF-8 that the installed one sees so. U+180E is white space to PCRE2 only.",
                 "kStandIns", sorted(stand_in_rows + [[0x180E, 0x180E, 0x180E]]), "MappedRange")
    print_ranges("\\w of Rust beyond the categories L, M, Nd, Nl and Pc.", "kExtraWord", ranges(word - words))
    print_ranges("Numeric to Rust, hence to the Digits pre-tokenizer, beyond the category N.", "kExtraNumeric",
                 ranges(c for c in numeric if category[c][0] != "N"))
    print_ranges("Of the category P, not punctuation to the package.", "kNoPunctuation", ranges(marks - package_marks))
    print_ranges("Punctuation to the package, of another category.", "kExtraPunctuation", ranges(package_marks - marks))
    print("}  // namespace engram")


main()
