"""Table runtime of Engram models: token ids to row ids, rows from memory or drive, rows to numbers.

    table = engram.Table("nvme:table.rows?cache=2GiB")
    hasher = table.hasher("tokenizer.json")
    row_ids = hasher.hash(token_ids, layer=0)              # int64 [tokens, rows a token]
    rows = table.lookup(row_ids, layer=0)                  # float32 [tokens, rows a token, columns]

The calls are those of the C ABI (engram.h); `layer` is a position in the table's list of layers. Ids have any integer
type and shape. Reads release the GIL; `Table.read` starts one and gives a Pending.

Arrays are numpy's, and other libraries take them without a copy: torch.from_dlpack(rows). The other way round, `out` is
memory to be filled in: an array or a tensor of any library that speaks DLPack, pinned or not. engram.torch has tensors
and a module, engram.transformers puts a table into a model.
"""

import json
from typing import NamedTuple, Optional, Sequence

import numpy as np

from . import _engram

__version__ = "0.2.0"
__all__ = ["Hasher", "Layer", "Pending", "Table"]

_VALUES = {"float32": np.float32, "bfloat16": np.uint16}


def _flat(ids, dtype):
    """A contiguous array of ids [n] and the shape it had; TypeError for anything but integers."""
    array = np.asarray(ids)
    if array.size == 0 and array.dtype == np.float64:  # what numpy makes of an empty list
        array = array.astype(dtype)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"ids are {array.dtype}, wanted integers")
    if array.size and (array.min() < np.iinfo(dtype).min or array.max() > np.iinfo(dtype).max):
        raise ValueError(f"ids from {array.min()} to {array.max()} do not fit {np.dtype(dtype)}")
    return np.ascontiguousarray(array.reshape(-1), dtype=dtype), array.shape


class Hasher:
    """Token ids to row ids, exactly as the model was trained. From `Table.hasher`, or from a configuration."""

    def __init__(self, layer_ids: Sequence[int], max_ngram_size: int, n_heads: int, vocab_size: Sequence[int], *,
                 seed: int = 0, pad_token_id: int = 2, tokenizer: Optional[str] = None, token_map=None,
                 compressed_vocab_size: int = 0):
        if token_map is not None:
            token_map = _flat(token_map, np.int32)[0]
        self._handle = _engram.create_hasher(list(layer_ids), max_ngram_size, n_heads, list(vocab_size), seed,
                                             pad_token_id, tokenizer, token_map, compressed_vocab_size, "engram", 0.0)

    @classmethod
    def qwen4exp(cls, unigram_vocab_size: int, vocab_size: int, max_ngram_size: int, n_heads: int, ple_layers: int, *,
                 seed: int, eos_token_id: int) -> "Hasher":
        """Of Qwen4Exp's rule over raw ids; vocab_size is its ngram_vocab_size_base. Layers count by their position."""
        return cls._of(_engram.create_hasher(list(range(ple_layers)), max_ngram_size, n_heads,
                                             [vocab_size] * (max_ngram_size - 1), seed, eos_token_id, None, None,
                                             unigram_vocab_size, "qwen4exp", 0.0))

    @classmethod
    def longcat(cls, unigram_vocab_size: int, vocab_size_ratio: float, max_ngram_size: int, n_heads: int, *,
                eos_token_id: int) -> "Hasher":
        """Of LongCat's rule over raw ids."""
        return cls._of(_engram.create_hasher([0], max_ngram_size, n_heads, [], 0, eos_token_id, None, None,
                                             unigram_vocab_size, "longcat", vocab_size_ratio))

    @classmethod
    def _of(cls, handle):
        hasher = cls.__new__(cls)
        hasher._handle = handle
        return hasher

    @property
    def num_layers(self) -> int:
        return self._handle.num_layers()

    @property
    def max_ngram_size(self) -> int:
        return self._handle.max_ngram_size()

    @property
    def rows_per_token(self) -> int:
        return self._handle.rows_per_token()

    def num_rows(self, layer: int = 0) -> int:
        return self._handle.num_rows(layer)

    def hash(self, token_ids, layer: int = 0, starts=(), lookback=()) -> np.ndarray:
        """One chunk of one sequence: int64 [tokens, rows_per_token]. -1 is a masked position; `starts`: index of each
        document's first token; `lookback`: canonical ids of the tokens before the chunk, oldest first."""
        ids = _flat(token_ids, np.int32)[0]
        rows = np.empty((ids.size, self.rows_per_token), np.int64)
        self._handle.hash(layer, ids, _flat(starts, np.int32)[0], _flat(lookback, np.int32)[0], rows)
        return rows

    def canonical_ids(self, token_ids) -> np.ndarray:
        """Raw ids to canonical ids, what look-back is made of. Keeps the shape."""
        ids, shape = _flat(token_ids, np.int32)
        canonical = np.empty_like(ids)
        self._handle.canonical_ids(ids, canonical)
        return canonical.reshape(shape)


class Layer(NamedTuple):
    layer_id: int  # block id
    is_hashed: bool
    num_rows: int
    row_dim: int
    row_bytes: int
    dtype: str


class Pending:
    """A read under way; wait() gives the memory that it fills, once: uint8 [..., row_bytes], or the caller's `out`."""

    def __init__(self, handle, rows):
        self._handle, self._rows = handle, rows

    def done(self) -> bool:
        return self._handle.done()

    def wait(self):
        self._handle.wait()
        return self._rows


class Table:
    """Rows by id. uri: "dram:FILE", "pagecache:FILE", "nvme:FILE?cache=2GiB&hot=PROFILE", ..."""

    def __init__(self, uri: str):
        self._handle = _engram.open_table(uri)
        self.layers = [Layer(*self._handle.layer(i)) for i in range(self._handle.num_layers())]

    def _layer(self, layer: int) -> Layer:
        if not 0 <= layer < len(self.layers):
            raise ValueError(f"layer is {layer}, wanted 0 .. {len(self.layers) - 1}")
        return self.layers[layer]

    def hasher(self, tokenizer: Optional[str] = None) -> Hasher:
        """The hasher of this table; refused where it was made for another tokenizer."""
        return Hasher._of(self._handle.hasher(tokenizer))

    def read(self, row_ids, layer: int = 0, out=None) -> Pending:
        """Starts a read. out: memory for it, [*row_ids.shape, row_bytes] of bytes."""
        ids, shape = _flat(row_ids, np.int64)
        rows = np.empty((*shape, self._layer(layer).row_bytes), np.uint8) if out is None else out
        return Pending(self._handle.read(layer, ids, rows), rows)

    def read_step(self, hasher: Hasher, token_ids, lengths=None, lookback=None, out=None) -> "list[Pending]":
        """From the new tokens of several sequences to the rows of every layer: hashes, starts one read for each layer,
        and gives a Pending for each, of uint8 [tokens, rows_per_token, row_bytes].

        token_ids: those of the sequences one after the other; lengths: how many each has (default: one sequence);
        lookback: canonical ids before them [sequences, max_ngram_size - 1], -1 before the begin; out: one for each layer.
        """
        ids = _flat(token_ids, np.int32)[0]
        before = None if lookback is None else _flat(lookback, np.int32)[0]
        if out is None:
            out = [np.empty((ids.size, hasher.rows_per_token, one.row_bytes), np.uint8) for one in self.layers]
        lengths = [ids.size] if lengths is None else list(lengths)
        handles = self._handle.read_step(hasher._handle, ids, lengths, before, list(out))
        return [Pending(handle, rows) for handle, rows in zip(handles, out)]

    def prefetch(self, row_ids, layer: int = 0) -> None:
        """A hint for rows that may be read soon."""
        self._handle.prefetch(layer, _flat(row_ids, np.int64)[0])

    def decode(self, rows, layer: int = 0, dtype: str = "float32", out=None):
        """Rows as read to float32 [..., row_dim], or "bfloat16" as its 16 bits in uint16 (in `out`: also as bfloat16)."""
        if dtype not in _VALUES:
            raise ValueError(f"dtype is {dtype!r}, wanted float32 or bfloat16")
        info = self._layer(layer)
        if rows.shape[-1] != info.row_bytes:
            raise ValueError(f"rows: got {tuple(rows.shape)}, wanted [..., {info.row_bytes}]")
        values = np.empty((*rows.shape[:-1], info.row_dim), _VALUES[dtype]) if out is None else out
        self._handle.decode(layer, rows, dtype, values)
        return values

    def lookup(self, row_ids, layer: int = 0, dtype: str = "float32", out=None):
        """Reads and decodes: [*row_ids.shape, row_dim]."""
        return self.decode(self.read(row_ids, layer).wait(), layer, dtype, out)

    def stats(self, layer: int = 0) -> dict:
        return json.loads(self._handle.stats_text(layer, "json"))
