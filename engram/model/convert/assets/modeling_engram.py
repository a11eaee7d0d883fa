"""Engram models for transformers: what `engram export hf` writes where no family of transformers computes the model.

The whole configuration space of Engram (docs/architecture.md there): attention mla | gqa, ffn dense | moe, residual plain
| hyper, memory none | engram | over_encoding. Plain PyTorch, for reading and for checks: every token is computed anew,
without a cache. A text begins at its first token; padding is refused, since it would change the n-grams.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class EngramConfig(PretrainedConfig):
    """config.json of an Engram checkpoint; `rope` and `memory_layout` are its rope_scaling and engram."""
    model_type = "engram"

    def __init__(self, rope=None, memory_layout=None, **kwargs):
        self.rope, self.memory_layout = rope or {}, memory_layout or {}
        kwargs.setdefault("use_cache", False)
        super().__init__(**kwargs)


class Norm(nn.Module):
    def __init__(self, *shape, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(shape)), eps

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight.float()).to(x.dtype)


def normalized(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def linear(inputs, outputs, bias=False):
    return nn.Linear(inputs, outputs, bias=bias)


class Rotary:
    """cos and sin of every position, and the factor on scores."""

    def __init__(self, c):
        columns = c.qk_rope_head_dim if c.attention == "mla" else c.head_dim
        frequency = 1.0 / c.rope_theta ** (torch.arange(0, columns, 2).float() / columns)
        amplitude = self.score_factor = 1.0
        r = c.rope
        factor = r.get("factor", 1.0)
        if factor != 1.0:
            before = r["original_max_position_embeddings"] or c.max_position_embeddings / factor
            if r["rope_type"] == "linear":
                frequency = frequency / factor
            elif r["rope_type"] == "llama3":
                low, high = r["low_freq_factor"], r["high_freq_factor"]
                turns = before * frequency / (2 * math.pi)
                kept = ((turns - low) / (high - low)).clamp(0, 1)
                frequency = (1 - kept) * frequency / factor + kept * frequency
            else:
                def column_of(turns):
                    return columns * math.log(before / (turns * 2 * math.pi)) / (2 * math.log(c.rope_theta))

                low = max(math.floor(column_of(r["beta_fast"])), 0)
                high = min(math.ceil(column_of(r["beta_slow"])), columns - 1)
                high += 0.001 if high == low else 0
                stretched = ((torch.arange(columns // 2).float() - low) / (high - low)).clamp(0, 1)
                frequency = frequency / factor * stretched + frequency * (1 - stretched)
                sharp = [0.1 * r[key] * math.log(factor) + 1 for key in ("mscale", "mscale_all_dim")]
                amplitude, self.score_factor = sharp[0] / sharp[1], sharp[1] ** 2
        angle = torch.arange(c.max_position_embeddings).float()[:, None] * frequency
        self.cos, self.sin = angle.cos() * amplitude, angle.sin() * amplitude

    def turn(self, x, interleaved):
        """x [B, T, H, r]."""
        length, half = x.shape[1], x.shape[-1] // 2
        cos, sin = self.cos[:length, None].to(x), self.sin[:length, None].to(x)
        pairs = x.unflatten(-1, (half, 2) if interleaved else (2, half))
        dim = -1 if interleaved else -2
        first, second = pairs.unbind(dim)
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim).flatten(-2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, heads = c.hidden_size, c.num_attention_heads
        self.mla, self.heads = c.attention == "mla", heads
        if self.mla:
            self.nope, self.rope, self.value = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
            self.rank, query = c.kv_lora_rank, heads * (self.nope + self.rope)
            self.has_query_rank = c.q_lora_rank > 0
            if self.has_query_rank:
                self.q_a_proj, self.q_b_proj = linear(d, c.q_lora_rank), linear(c.q_lora_rank, query)
                self.q_a_layernorm = Norm(c.q_lora_rank, eps=1e-6)
            else:
                self.q_proj = linear(d, query)
            self.kv_a_proj_with_mqa = linear(d, self.rank + self.rope)
            self.kv_a_layernorm = Norm(self.rank, eps=1e-6)
            self.kv_b_proj = linear(self.rank, heads * (self.nope + self.value))
            self.o_proj = linear(heads * self.value, d)
            return
        self.kv_heads, self.width = c.num_key_value_heads, c.head_dim
        self.q_proj = linear(d, heads * self.width, c.qkv_bias)
        self.k_proj = linear(d, self.kv_heads * self.width, c.qkv_bias)
        self.v_proj = linear(d, self.kv_heads * self.width, c.qkv_bias)
        self.o_proj = linear(heads * self.width, d)
        self.has_norms = c.qk_norm
        if self.has_norms:
            self.q_norm, self.k_norm = Norm(self.width, eps=c.rms_norm_eps), Norm(self.width, eps=c.rms_norm_eps)

    def project(self, x, rotary):
        """Queries, keys and values, [B, T, H, columns] each."""
        if self.mla:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.has_query_rank else self.q_proj(x)
            q_plain, q_turned = q.unflatten(-1, (self.heads, -1)).split([self.nope, self.rope], -1)
            latent, key_rope = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], -1)
            k_plain, v = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, (self.heads, -1)).split(
                [self.nope, self.value], -1)
            k_turned = rotary.turn(key_rope.unsqueeze(2), True).expand(-1, -1, self.heads, -1)
            return (torch.cat([q_plain, rotary.turn(q_turned, True)], -1), torch.cat([k_plain, k_turned], -1), v)
        q, k, v = (part(x).unflatten(-1, (-1, self.width)) for part in (self.q_proj, self.k_proj, self.v_proj))
        if self.has_norms:
            q, k = self.q_norm(q), self.k_norm(k)
        group = self.heads // self.kv_heads
        return (rotary.turn(q, False), rotary.turn(k, False).repeat_interleave(group, 2), v.repeat_interleave(group, 2))

    def forward(self, x, rotary):
        q, k, v = (part.transpose(1, 2) for part in self.project(x, rotary))
        scale = rotary.score_factor / math.sqrt(q.shape[-1])
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, d, width):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(d, width), linear(d, width), linear(width, d)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.config = c
        self.weight = nn.Parameter(torch.empty(c.n_routed_experts, c.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(c.n_routed_experts))

    def forward(self, x):
        c = self.config
        score = F.linear(x.float(), self.weight.float()).sigmoid()
        biased = score + self.e_score_correction_bias.float()
        if c.n_group > 1:
            groups = biased.unflatten(-1, (c.n_group, -1))
            best = groups.topk(2, -1)[0].sum(-1).topk(c.topk_group, -1)[1]
            open_ = torch.zeros(groups.shape[:-1], dtype=torch.bool, device=x.device).scatter_(-1, best, True)
            biased = groups.masked_fill(~open_.unsqueeze(-1), float("-inf")).flatten(-2)
        index = biased.topk(c.num_experts_per_tok, -1)[1]
        weight = score.gather(-1, index)
        if c.norm_topk_prob:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return index, weight * c.routed_scaling_factor


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate = Router(c)
        self.experts = nn.ModuleList(Mlp(c.hidden_size, c.moe_intermediate_size) for _ in range(c.n_routed_experts))
        shared = c.shared_expert_intermediate_size
        self.shared_experts = Mlp(c.hidden_size, shared) if shared > 0 else None

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        index, weight = self.gate(rows)
        out = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            row, place = (index == number).nonzero(as_tuple=True)
            if len(row) > 0:
                out.index_add_(0, row, expert(rows[row]) * weight[row, place, None].to(rows.dtype))
        return out.view_as(x) + (self.shared_experts(x) if self.shared_experts is not None else 0)


def mixed_streams(streams, fn, eps):
    u = streams.flatten(2).float()
    return F.linear(u, fn.float()) * torch.rsqrt(u.square().mean(-1, keepdim=True) + eps)


class HyperConnection(nn.Module):
    """The residual streams [B, T, M, d] around one sub-layer."""

    def __init__(self, c):
        super().__init__()
        n = c.hc_mult
        self.n, self.iterations, self.eps, self.norm_eps = n, c.hc_sinkhorn_iters, c.hc_eps, c.rms_norm_eps
        self.fn = nn.Parameter(torch.empty((2 + n) * n, n * c.hidden_size))
        self.base, self.scale = nn.Parameter(torch.empty((2 + n) * n)), nn.Parameter(torch.empty(3))

    def forward(self, streams, layer):
        n, sizes = self.n, [self.n, self.n, self.n * self.n]
        mixes = mixed_streams(streams, self.fn, self.norm_eps).split(sizes, -1)
        pre, post, comb = (mix * scale + base for mix, scale, base in
                           zip(mixes, self.scale.float(), self.base.float().split(sizes)))
        pre, post = pre.sigmoid() + self.eps, post.sigmoid() * 2
        comb = comb.unflatten(-1, (n, n)).softmax(-1) + self.eps
        comb = comb / (comb.sum(-2, keepdim=True) + self.eps)
        for _ in range(1, self.iterations):
            comb = comb / (comb.sum(-1, keepdim=True) + self.eps)
            comb = comb / (comb.sum(-2, keepdim=True) + self.eps)
        x = (pre.unsqueeze(-1) * streams).sum(2).to(streams.dtype)
        kept = torch.einsum("btij,btid->btjd", comb.to(streams.dtype), streams)
        return post.unsqueeze(-1).to(streams.dtype) * layer(x).unsqueeze(2) + kept


class HyperHead(nn.Module):
    def __init__(self, c):
        super().__init__()
        n, self.eps, self.norm_eps = c.hc_mult, c.hc_eps, c.rms_norm_eps
        self.hc_fn = nn.Parameter(torch.empty(n, n * c.hidden_size))
        self.hc_base, self.hc_scale = nn.Parameter(torch.empty(n)), nn.Parameter(torch.empty(1))

    def forward(self, streams):
        gate = (mixed_streams(streams, self.hc_fn, self.norm_eps) * self.hc_scale + self.hc_base).sigmoid() + self.eps
        return (gate.unsqueeze(-1) * streams).sum(2).to(streams.dtype)


class Table(nn.Module):
    """One layer's rows and the constants of its hash."""

    def __init__(self, c, layer):
        super().__init__()
        m = c.memory_layout
        self.orders, self.heads, self.is_sum = m["max_ngram_size"] - 1, m["n_heads"], m["rule"] == "longcat"
        self.boundary, self.cut = m["boundary_id"], m["cut_id"]  # read behind a boundary; what ends a text, or -1
        rows = self.orders * self.heads
        self.embed = nn.Embedding(m["num_rows"][layer], m["head_dim"])
        factors = self.orders * rows if self.is_sum else self.orders + 1
        self.register_buffer("multipliers", torch.zeros(factors, dtype=torch.long))
        self.register_buffer("primes", torch.ones(rows, dtype=torch.long))
        self.register_buffer("offsets", torch.zeros(rows, dtype=torch.long))

    def forward(self, ids):
        """Canonical ids [B, T] to rows [B, T, R * columns]."""
        mix, parts, behind = ids * self.multipliers[0], [], torch.zeros_like(ids, dtype=torch.bool)
        total, rows = ids.unsqueeze(-1) % self.primes, len(self.primes)
        for k in range(1, self.orders + 1):
            older = F.pad(ids, (k, 0), value=self.boundary)[:, :ids.shape[1]]
            behind = behind | (older == self.cut)
            older = older.masked_fill(behind, self.boundary)
            if self.is_sum:  # the powers of shorter orders are 0
                total = (total + older.unsqueeze(-1) * self.multipliers[(k - 1) * rows:k * rows]) % self.primes
                continue
            mix = mix ^ (older * self.multipliers[k])
            place = slice((k - 1) * self.heads, k * self.heads)
            parts.append(mix.unsqueeze(-1) % self.primes[place])
        return self.embed((total if self.is_sum else torch.cat(parts, -1)) + self.offsets).flatten(2)


class Engram(Table):
    def __init__(self, c, layer):
        super().__init__(c, layer)
        m, d = c.memory_layout, c.hidden_size
        self.streams = c.hc_mult if m["branch_gates"] else 1
        self.has_gate, self.dilation = m["gate"], m["max_ngram_size"]
        self.less = 1.0 if m["rule"] == "qwen4exp" else 0.0  # norm weights are w - less
        self.eps, conv_eps = (c.rms_norm_eps, c.rms_norm_eps) if self.less else (1.1920928955078125e-07, 1e-5)
        self.wkv = linear(self.orders * self.heads * m["head_dim"], (self.streams + 1) * d, m["proj_bias"])
        self.q_weight = nn.Parameter(torch.ones(self.streams, d))
        self.k_weight = nn.Parameter(torch.ones(self.streams, d))
        self.has_conv = m["conv"]
        if self.has_conv:
            self.conv_norm = Norm(self.streams, d, eps=conv_eps)
            self.conv = nn.Module()
            self.conv.weight = nn.Parameter(torch.zeros(self.streams * d, m["kernel_size"]))

    def forward(self, hidden, ids):
        """hidden [B, T, G, d] to what is added to it."""
        d = hidden.shape[-1]
        memory = self.wkv(super().forward(ids)).float().unflatten(-1, (self.streams + 1, d))
        key, value = memory[:, :, :-1], memory[:, :, -1:]
        gate = torch.ones(*hidden.shape[:3], 1, device=hidden.device)
        if self.has_gate:
            query = normalized(hidden.float(), self.q_weight + self.less, self.eps)
            score = (normalized(key, self.k_weight + self.less, self.eps) * query).sum(-1, keepdim=True) / math.sqrt(d)
            gate = (score.sign() * score.abs().clamp_min(1e-6).sqrt()).sigmoid()
        y = v = gate * value
        if self.has_conv:
            inputs = normalized(v, self.conv_norm.weight + self.less, self.conv_norm.eps)
            weight = self.conv.weight.float().view(self.streams, d, -1)
            taps, length, total = weight.shape[-1], v.shape[1], 0
            for tap in range(taps):
                offset = (taps - 1 - tap) * self.dilation
                older = F.pad(inputs, (0, 0, 0, 0, offset, 0))[:, :length]
                total = total + older * weight[..., tap]
            y = v + F.silu(total)
        return y.to(hidden.dtype)


class OverEncoding(Table):
    def __init__(self, c):
        super().__init__(c, 0)
        self.proj = linear(self.orders * self.heads * c.memory_layout["head_dim"], c.hidden_size)
        self.averages_word = c.memory_layout.get("average_word", True)

    def forward(self, x, ids):
        parts = 1 + self.orders * self.heads
        memory = self.proj(super().forward(ids))
        return (x + memory) / parts if self.averages_word else x + memory / parts


def at_input(c):
    return c.memory == "over_encoding" or (c.memory == "engram" and c.memory_layout["rule"] == "longcat")


class Block(nn.Module):
    def __init__(self, c, number):
        super().__init__()
        layers = c.memory_layout.get("layer_ids", [])
        self.engram = Engram(c, layers.index(number)) if not at_input(c) and number in layers else None
        self.input_layernorm = Norm(c.hidden_size, eps=c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c.hidden_size, eps=c.rms_norm_eps)
        moe = c.ffn == "moe" and number >= c.first_k_dense_replace
        self.mlp = Moe(c) if moe else Mlp(c.hidden_size, c.intermediate_size)
        self.hyper = c.residual == "hyper" and c.hc_mult > 1
        if self.hyper:
            self.attn_hc, self.ffn_hc = HyperConnection(c), HyperConnection(c)

    def forward(self, x, rotary, ids):
        def attention(inputs):
            return self.self_attn(self.input_layernorm(inputs), rotary)

        def remembering(inputs):  # one gate for all streams: the memory joins the stream that attention reads
            y = self.engram(inputs.unsqueeze(2), ids).squeeze(2)
            return y + attention(inputs + y)

        def ffn(inputs):
            return self.mlp(self.post_attention_layernorm(inputs))

        if self.engram is not None and self.hyper and self.engram.streams == 1:
            attention_layer = remembering
        else:
            attention_layer = attention
            if self.engram is not None:
                x = x + (self.engram(x, ids) if self.hyper else self.engram(x.unsqueeze(2), ids).squeeze(2))
        if self.hyper:
            return self.ffn_hc(self.attn_hc(x, attention_layer), ffn)
        x = x + attention_layer(x)
        return x + ffn(x)


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.over_encoding = OverEncoding(c) if at_input(c) else None
        self.layers = nn.ModuleList(Block(c, number) for number in range(c.num_hidden_layers))
        self.streams = c.hc_mult if c.residual == "hyper" and c.hc_mult > 1 else 0
        if self.streams:
            self.hc_head = HyperHead(c)
        self.norm = Norm(c.hidden_size, eps=c.rms_norm_eps)
        if c.memory != "none":
            self.register_buffer("token_map", torch.zeros(c.vocab_size, dtype=torch.long))

    def forward(self, tokens, rotary):
        ids = self.token_map[tokens] if hasattr(self, "token_map") else None
        x = self.embed_tokens(tokens)
        if self.over_encoding is not None:
            x = self.over_encoding(x, ids)
        if self.streams:
            x = x.unsqueeze(2).expand(-1, -1, self.streams, -1)
        for layer in self.layers:
            x = layer(x, rotary, ids)
        return self.norm(self.hc_head(x) if self.streams else x)


class EngramForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = EngramConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.model = Decoder(config)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.rotary = None
        self.post_init()

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def get_output_embeddings(self):
        return self.lm_head

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("attention_mask: got padding, wanted texts of one length")
        if input_ids.shape[1] > self.config.max_position_embeddings:
            raise ValueError(f"input_ids: got {input_ids.shape[1]} tokens, wanted at most "
                             f"{self.config.max_position_embeddings}")
        self.rotary = self.rotary or Rotary(self.config)
        logits = self.lm_head(self.model(input_ids, self.rotary)).float()
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
