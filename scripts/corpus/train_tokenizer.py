#!/usr/bin/env python3
"""Trains a byte-level BPE tokenizer.json on text files.

    train_tokenizer.py --output tokenizer.json [--vocab-size 8192] FILE...

Pre-tokenizer: the split patterns of DeepSeek's tokenizers (digits by up to three, runs of Chinese and kana, words
with one leading space or mark, punctuation, line breaks, white space), then bytes. Ids 0 and 1 are <|endoftext|> and
<|pad|>. The same files in the same order give the same tokenizer.json. Needs the package `tokenizers`.
"""
import argparse
import os
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = ["<|endoftext|>", "<|pad|>"]
SEPARATOR = SPECIAL_TOKENS[0]
PATTERNS = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]


def documents(paths: list):
    for path in paths:
        for document in path.read_bytes().decode("utf-8").split(f"\n{SEPARATOR}\n"):
            yield document


def train(paths: list, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents(paths), trainer)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=8192, help="ids, special tokens included (default 8192)")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    smallest = len(SPECIAL_TOKENS) + 256
    if arguments.vocab_size < smallest:
        raise ValueError(f"--vocab-size is {arguments.vocab_size}, wanted at least {smallest}")
    tokenizer = train(arguments.files, arguments.vocab_size)
    if tokenizer.get_vocab_size() != arguments.vocab_size:
        raise ValueError(f"the text gives {tokenizer.get_vocab_size()} tokens, wanted {arguments.vocab_size}: "
                         "give more text or a smaller --vocab-size")
    temporary = arguments.output.with_suffix(".tmp")
    tokenizer.save(str(temporary))
    os.replace(temporary, arguments.output)
    print(f"{arguments.output}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as e:
        sys.exit(f"error: {e}")
