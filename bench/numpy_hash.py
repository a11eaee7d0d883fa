"""Multi-head n-gram hashing in plain vectorised numpy: what `engram bench hash` is compared with.

The algorithm of the public Engram demo, written from docs/engram.md section 2: compress the ids, shift them, multiply
and XOR, then one modulo per head, stacked. Two layers (1 and 14), N = 3, K = 8, 2,262,400 rows per head. The rules
qwen4exp and longcat (docs/embedding.md) in the same style, in the sizes of Qwen3.8-Flash-Next and LongCat-2.0.

    numpy_hash.py --rule RULE --map FILE --ids FILE --batch B --sequence T --seconds S

Both files hold little-endian int32: the canonical id of every raw id, and raw ids [..., B, T]. Prints one
JSON object: tokens per second (median over rounds) and, outside the timing, a checksum over all row ids.
"""

import argparse
import json
import statistics
import time

import numpy as np

LAYER_IDS = [1, 14]
MAX_NGRAM_SIZE = 3
N_HEADS = 8
VOCAB_SIZE = [2262400, 2262400]
SEED = 0
PAD_ID = 2


def is_prime(n):
    return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))


class NgramHash:
    def __init__(self, token_map):
        self.token_map = token_map.astype(np.int64)
        self.pad_id = int(self.token_map[PAD_ID])
        compressed_vocab_size = int(token_map.max()) + 1
        half = max(1, (np.iinfo(np.int64).max // compressed_vocab_size) // 2)
        self.multipliers, self.primes = {}, {}
        seen = set()
        for layer_id in LAYER_IDS:
            rng = np.random.default_rng(SEED + 10007 * layer_id)
            self.multipliers[layer_id] = rng.integers(0, half, size=MAX_NGRAM_SIZE, dtype=np.int64) * 2 + 1
            self.primes[layer_id] = []
            for start in VOCAB_SIZE:
                candidate = start - 1
                for _ in range(N_HEADS):
                    candidate += 1
                    while candidate in seen or not is_prime(candidate):
                        candidate += 1
                    seen.add(candidate)
                    self.primes[layer_id].append(candidate)

    def hash_layer(self, ids, layer_id):
        """ids [B, T] canonical -> head values [B, T, R], offsets not added."""
        length = ids.shape[1]
        shifted = [
            np.pad(ids, ((0, 0), (k, 0)), constant_values=self.pad_id)[:, :length] for k in range(MAX_NGRAM_SIZE)
        ]
        multipliers = self.multipliers[layer_id]
        heads = []
        for n in range(2, MAX_NGRAM_SIZE + 1):
            mix = shifted[0] * multipliers[0]
            for k in range(1, n):
                mix = np.bitwise_xor(mix, shifted[k] * multipliers[k])
            for head in range(N_HEADS):
                heads.append(mix % self.primes[layer_id][(n - 2) * N_HEADS + head])
        return np.stack(heads, axis=2)

    def hash(self, raw_ids):
        ids = self.token_map[raw_ids]
        return {layer_id: self.hash_layer(ids, layer_id) for layer_id in LAYER_IDS}

    def rows(self, raw_ids):
        """All layers' row ids of one batch, offsets of the heads' tables added, in one line."""
        layers = []
        for layer_id, values in self.hash(raw_ids).items():
            offsets = np.concatenate([[0], np.cumsum(self.primes[layer_id])[:-1]])
            layers.append((values + offsets).reshape(-1))
        return np.concatenate(layers).astype(np.uint64)


class RawHash:
    """Rules of raw ids: what lies behind the last eos reads as eos, or as nothing."""

    def __init__(self, rule):
        self.is_sum = rule == "longcat"
        self.ngrams, self.heads, self.vocab, self.eos = (5, 4, 163840, 2) if self.is_sum else (3, 8, 248320, 248044)
        count = (self.ngrams - 1) * self.heads
        if self.is_sum:
            self.sizes = [int(100.567 * self.vocab + 2 * i + 1) for i in range(count)]
        else:
            self.sizes, candidate = [], 20000000
            while len(self.sizes) < count:
                if is_prime(candidate):
                    self.sizes.append(candidate)
                candidate += 1
            half = max(1, np.iinfo(np.int64).max // self.vocab // 2)
            draws = [splitmix64(1234 + 0x9E3779B97F4A7C15 * (i + 1)) for i in range(self.ngrams)]
            self.multipliers = [2 * (draw % half) + 1 for draw in draws]
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def shift(self, ids, k, in_text):
        behind = 0 if self.is_sum else self.eos
        shifted = np.pad(ids, ((0, 0), (k, 0)))[:, : ids.shape[1]]
        return np.where(in_text >= k, shifted, behind)

    def hash(self, raw_ids):
        ids = raw_ids.astype(np.int64)
        places = np.arange(ids.shape[1])
        begins = np.maximum.accumulate(np.where(ids == self.eos, places + 1, 0), axis=1)
        begins = np.pad(begins, ((0, 0), (1, 0)))[:, : ids.shape[1]]  # an eos belongs to the text before it
        in_text = places - begins
        shifted = [ids] + [self.shift(ids, k, in_text) for k in range(1, self.ngrams)]
        values = []
        for head, size in enumerate(self.sizes):
            n = head // self.heads + 2
            if self.is_sum:
                mix, power = ids, 1
                for k in range(1, n):
                    power = power * self.vocab % size
                    mix = mix + shifted[k] * power
            elif head % self.heads == 0:
                mix = ids * self.multipliers[0]
                for k in range(1, n):
                    mix = np.bitwise_xor(mix, shifted[k] * self.multipliers[k])
            values.append(mix % size)
        return np.stack(values, axis=2)

    def rows(self, raw_ids):
        return (self.hash(raw_ids) + self.offsets).reshape(-1).astype(np.uint64)


def splitmix64(x):
    mask = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def checksum(hasher, batches):
    """Sum of (index + 1) * row id over all batches, modulo 2^64."""
    total, index = 0, 1
    for batch in batches:
        rows = hasher.rows(batch)
        weights = np.arange(index, index + rows.size, dtype=np.uint64)
        total += int((rows * weights).sum(dtype=np.uint64))
        index += rows.size
    return total % 2**64


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rule", default="engram")
    parser.add_argument("--map", required=True)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--sequence", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()

    hasher = NgramHash(np.fromfile(args.map, dtype="<i4")) if args.rule == "engram" else RawHash(args.rule)
    batches = np.fromfile(args.ids, dtype="<i4").reshape(-1, args.batch, args.sequence)
    hasher.hash(batches[0])  # warm-up
    rates, began = [], time.perf_counter()
    while len(rates) < 3 or time.perf_counter() - began < args.seconds:
        part = batches[len(rates) % len(batches)]
        start = time.perf_counter()
        hasher.hash(part)
        rates.append(part.size / (time.perf_counter() - start))
    print(
        json.dumps(
            {
                "tokens_per_second": statistics.median(rates),
                "checksum": str(checksum(hasher, batches)),
                "numpy": np.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
