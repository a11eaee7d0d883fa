"""Qwen4Exp of `transformers` with its n-gram table behind libengram.

    model = engram.transformers.from_pretrained(PATH, "nvme:ple.rows?cache=2GiB")     # the table takes no memory
    engram.transformers.attach(model, "nvme:ple.rows?cache=2GiB")                     # a model that is loaded: frees its

The table: `engram table convert PATH ple.rows`. Logits are the untouched model's, bit for bit, in prefill, in decoding
with a cache, and in batches. The rows of a step are asked for when the text model is called, and waited for by the block
that adds them. The table is frozen: no gradient goes to it.
"""

import contextlib
import threading
from unittest import mock

import torch
from transformers import AutoModelForCausalLM
from transformers.models.qwen4_exp import modeling_qwen4_exp as qwen4exp

from . import Table
from .torch import decode

__all__ = ["TableNGramEmbedding", "attach", "from_pretrained"]

_TOKENS = 2  # of a cache: the state that holds the ids before the chunk
_WEIGHT = r"ngram_embedding\.(shard_\d+\.)?weight$"


def _drop_weight(embedding):
    weight = embedding.ngram_embedding.weight
    embedding.table_shape = tuple(weight.shape)
    embedding.register_buffer("rows_as", torch.empty(0, dtype=weight.dtype), persistent=False)  # follows .to(dtype)
    embedding.ngram_embedding = None


class TableNGramEmbedding(qwen4exp.Qwen4ExpTextNGramEmbedding):
    """The n-gram embedding without its weight. attach() gives it `rows` and `layer`, its place in the table."""

    def __init__(self, *args, **kwargs):
        with torch.device("meta"):  # the weight never has memory
            super().__init__(*args, **kwargs)
        _drop_weight(self)

    @torch.compiler.disable
    def forward(self, input_ids, cache=None):
        context = cache.get_conv_state(self.layer_idx, state_idx=_TOKENS) if cache is not None else None
        pending = self.rows.take(self.layer, input_ids, context, cache)
        if cache is not None:
            seen = input_ids.long()
            missing = self.context_len - seen.shape[1]
            if context is None and missing > 0:  # the cache would fill up with 0
                seen = torch.nn.functional.pad(seen, (missing, 0), value=self.eos_token_id)
            cache.update_conv_state(seen, self.layer_idx, state_idx=_TOKENS, conv_kernel_size=self.context_len)
        values = decode(self.rows.table, pending.wait(), self.layer, self.rows_as.dtype, input_ids.device)
        return values.view(*input_ids.shape, -1)


class _Step:
    """The reads of one call of the text model, one for each layer."""

    def __init__(self, ids, cache, pending):
        self.ids, self.cache, self.pending = ids, cache, pending

    def has(self, layer, ids, context, cache):
        same_place = self.cache is cache or (self.cache is None and context is None)
        return self.pending[layer] is not None and same_place and (self.ids is ids or torch.equal(self.ids, ids))


class _Rows:
    """The rows of a table for the embeddings of one model."""

    def __init__(self, table, embeddings):
        self.table, self.hasher, self.embeddings = table, table.hasher(), embeddings
        self.steps = threading.local()  # one model may run in several threads

    def start(self, ids, context, cache):
        lookback = None if context is None else context[:, 1 - self.hasher.max_ngram_size :].cpu().numpy()
        batch, length = ids.shape
        pending = self.table.read_step(self.hasher, ids.cpu().numpy(), [length] * batch, lookback)
        self.steps.current = _Step(ids, cache, pending)

    def begin(self, _, args, kwargs):
        """Before the text model runs: its ids as the embeddings will get them. They start again where this is wrong."""
        self.steps.current = None
        ids = kwargs.get("ple_input_ids")
        if ids is None:
            ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            return
        mask = kwargs.get("attention_mask")
        mask = mask.get("linear_attention") if isinstance(mask, dict) else mask
        first = self.embeddings[0]
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and ids.shape[1] > 1 and not bool((mask == 1).all()):
            ids = torch.where(mask[:, -ids.shape[1] :].bool(), ids, first.eos_token_id)
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        self.start(ids, cache.get_conv_state(first.layer_idx, state_idx=_TOKENS) if cache is not None else None, cache)

    def take(self, layer, ids, context, cache):
        step = getattr(self.steps, "current", None)
        if step is None or not step.has(layer, ids, context, cache):
            self.start(ids, context, cache)
            step = self.steps.current
        pending, step.pending[layer] = step.pending[layer], None
        return pending


class _Ids(torch.nn.Module):
    """In the weight's place: row ids as they are."""

    weight = torch.empty(0, device="meta")

    def forward(self, row_ids):
        return row_ids.unsqueeze(-1)


def _row_ids(embedding, token_ids):
    """What the model's own code looks up: [B, T, R]."""
    with mock.patch.dict(embedding._modules, ngram_embedding=_Ids()):
        return qwen4exp.Qwen4ExpTextNGramEmbedding.forward(embedding, token_ids, None)


def _check(table, embeddings):
    """ValueError where the table is not this model's."""
    blocks = [embedding.layer_idx for embedding in embeddings]
    if [layer.layer_id for layer in table.layers] != blocks:
        raise ValueError(f"the table has blocks {[layer.layer_id for layer in table.layers]}, the model {blocks}")
    hasher = table.hasher()
    for at, (embedding, layer) in enumerate(zip(embeddings, table.layers)):
        where = f"block {layer.layer_id}"
        ids = torch.randint(embedding.unigram_vocab_size, (4, 64), generator=torch.Generator().manual_seed(0))
        ids[:, ::7] = embedding.eos_token_id
        wanted = _row_ids(embedding, ids.to(embedding.layer_multipliers.device)).cpu().numpy()
        got = hasher.hash(ids.numpy(), at, starts=range(0, ids.numel(), ids.shape[1]))
        if got.shape[1] != wanted.shape[2] or (got != wanted.reshape(got.shape)).any():
            raise ValueError(f"{where}: the table hashes otherwise than the model")
        weight = getattr(embedding.ngram_embedding, "weight", None)
        shape = embedding.table_shape if weight is None else tuple(weight.shape)
        if (layer.num_rows, layer.row_dim) != shape:
            raise ValueError(f"{where}: the table is {layer.num_rows} x {layer.row_dim}, the model's {shape}")
        if weight is not None and weight.device.type != "meta":
            some = torch.arange(0, layer.num_rows, max(1, layer.num_rows // 256))
            rows = decode(table, table.read(some.numpy(), at).wait(), at, weight.dtype)
            if not torch.equal(rows, weight.detach()[some.to(weight.device)].cpu()):
                raise ValueError(f"{where}: the table has other rows than the model")


def attach(model, table):
    """Puts a table (an engram.Table or a URI) in the place of the model's n-gram weights, which are freed, and gives it
    back. May be called again with another table. ValueError: the model has no such embedding, or the table is not its."""
    text_models = [module for module in model.modules() if isinstance(module, qwen4exp.Qwen4ExpTextModel)]
    embeddings = [module for module in model.modules() if isinstance(module, qwen4exp.Qwen4ExpTextNGramEmbedding)]
    if len(text_models) != 1 or not embeddings:
        raise ValueError(f"{type(model).__name__} has no Qwen4Exp text model with n-gram embeddings")
    table = table if isinstance(table, Table) else Table(table)
    _check(table, embeddings)
    rows = _Rows(table, embeddings)
    for layer, embedding in enumerate(embeddings):
        if embedding.ngram_embedding is not None:
            _drop_weight(embedding)
            embedding.__class__ = TableNGramEmbedding
        embedding.rows, embedding.layer = rows, layer
    if getattr(model, "_engram_hook", None) is not None:
        model._engram_hook.remove()
    model._engram_hook = text_models[0].register_forward_pre_hook(rows.begin, with_kwargs=True)
    return table


@contextlib.contextmanager
def _without_weights():
    """Models that are made meanwhile have no n-gram weights, and find none missing or left over in their files."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(qwen4exp, "Qwen4ExpTextNGramEmbedding", TableNGramEmbedding))
        for value in vars(qwen4exp).values():
            if isinstance(value, type) and "_keys_to_ignore_on_load_unexpected" in vars(value):
                known = value._keys_to_ignore_on_load_unexpected or []
                stack.enter_context(mock.patch.object(value, "_keys_to_ignore_on_load_unexpected", [*known, _WEIGHT]))
        yield


def from_pretrained(path, table, model_class=AutoModelForCausalLM, **options):
    """model_class.from_pretrained(path, **options) with a table attached, whose rows are never loaded."""
    with _without_weights():
        loaded = model_class.from_pretrained(path, **options)
    attach(loaded[0] if isinstance(loaded, tuple) else loaded, table)  # a tuple: with output_loading_info
    return loaded
