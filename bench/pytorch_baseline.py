#!/usr/bin/env python3
"""The training step of a recipe, written plainly in PyTorch: what `engram bench train` compares with.

Reads one JSON object on standard input:
  {"model": <config.json>, "num_rows": [rows of each table], "batch_size", "sequence_length", "threads",
   "dtype": "fp32" | "bf16", "mode": "eager" | "compile", "part": "train" | "engram", "moe": "loop" | "grouped",
   "warmup", "steps", "optimizer": {...}}
and prints one: {"tokens_per_second", "seconds_per_step", "torch", "loss"}.

The same shapes and the same arithmetic as engram/model: MLA, DeepSeekMoE, Engram at its layers, cross-entropy over the
whole vocabulary; Muon for matrices (batched over equal shapes), fused AdamW for the rest, SparseAdam over sparse
embedding gradients for the tables. Row ids come ready with the batch, as they do from our loader. Data is random:
time does not depend on it beyond the share of repeated rows, which follows a Zipf law here and there.
"""
import json
import math
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, *shape, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape))
        self.eps = eps

    def forward(self, x):
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * h).to(x.dtype)


def rotate(x, cos, sin):  # interleaved pairs, x [B, T, H, r]
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[None, :, None, :], sin[None, :, None, :]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Attention(nn.Module):  # MLA without query compression
    def __init__(self, c):
        super().__init__()
        d, self.h = c["hidden_size"], c["num_attention_heads"]
        self.nope, self.rope, self.v, self.rank = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"], c["kv_lora_rank"]
        self.q_proj = nn.Linear(d, self.h * (self.nope + self.rope), bias=False)
        self.kv_a_proj = nn.Linear(d, self.rank + self.rope, bias=False)
        self.kv_a_norm = RMSNorm(self.rank, eps=c["rms_norm_eps"])
        self.kv_b_proj = nn.Linear(self.rank, self.h * (self.nope + self.v), bias=False)
        self.o_proj = nn.Linear(self.h * self.v, d, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.h, -1)
        q = torch.cat((q[..., :self.nope], rotate(q[..., self.nope:], cos, sin)), -1)
        latent, k_rope = self.kv_a_proj(x).split((self.rank, self.rope), -1)
        k_rope = rotate(k_rope[:, :, None, :], cos, sin).expand(B, T, self.h, self.rope)
        k_nope, v = self.kv_b_proj(self.kv_a_norm(latent)).view(B, T, self.h, -1).split((self.nope, self.v), -1)
        k = torch.cat((k_nope, k_rope), -1)
        out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2).to(q.dtype), v.transpose(1, 2).to(q.dtype), is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, -1))


class DenseFfn(nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Moe(nn.Module):
    def __init__(self, c, style):
        super().__init__()
        d, f, self.E, self.k, self.style = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"], c["num_experts_per_tok"], style
        self.gate = nn.Linear(d, self.E, bias=False)
        self.register_buffer("bias", torch.zeros(self.E))
        self.gate_up = nn.Parameter(torch.randn(self.E, 2 * f, d) * c["initializer_range"])
        self.down = nn.Parameter(torch.randn(self.E, d, f) * c["initializer_range"])
        self.shared = DenseFfn(d, c["shared_expert_intermediate_size"]) if c["shared_expert_intermediate_size"] else None

    def forward(self, x):
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        scores = torch.sigmoid(self.gate(x).float())
        chosen = torch.topk(scores + self.bias, self.k, sorted=False).indices
        weight = scores.gather(1, chosen)
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        y = self.experts(x, chosen, weight)
        if self.shared is not None:
            y = y + self.shared(x)
        return y.view(shape)

    # Group sizes depend on the data, and _grouped_mm traces in bf16 only: torch.compile works around the experts.
    @torch.compiler.disable
    def experts(self, x, chosen, weight):
        return (self.grouped if self.style == "grouped" else self.loop)(x, chosen, weight)

    def loop(self, x, chosen, weight):  # expert by expert over its own tokens, as in transformers
        y = torch.zeros_like(x, dtype=torch.float32)
        for e in range(self.E):
            token, slot = torch.where(chosen == e)
            g, u = F.linear(x[token], self.gate_up[e]).chunk(2, -1)
            out = F.linear(F.silu(g) * u, self.down[e]) * weight[token, slot, None]
            y.index_add_(0, token, out.float())
        return y.to(x.dtype)

    def grouped(self, x, chosen, weight):  # sorted by expert, one grouped product each
        flat = chosen.flatten()
        order = torch.argsort(flat, stable=True)
        token = order // self.k
        ends = torch.cumsum(torch.bincount(flat, minlength=self.E), 0).to(torch.int32)
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        h = torch._grouped_mm(x[token].to(dtype), self.gate_up.to(dtype).transpose(1, 2), offs=ends)
        g, u = h.chunk(2, -1)
        out = torch._grouped_mm((F.silu(g) * u).contiguous(), self.down.to(dtype).transpose(1, 2), offs=ends)
        out = out.float() * weight.flatten()[order, None]
        return torch.zeros_like(x, dtype=torch.float32).index_add(0, token, out).to(x.dtype)


class Engram(nn.Module):
    def __init__(self, c):
        super().__init__()
        e = c["engram"]
        self.d, self.M, self.w = c["hidden_size"], max(1, c["hc_mult"]), e["kernel_size"]
        self.dilation = e["max_ngram_size"]
        rows = (e["max_ngram_size"] - 1) * e["n_heads"]
        self.wkv = nn.Linear(rows * e["head_dim"], (self.M + 1) * self.d, bias=False)
        eps = 1.1920928955078125e-07
        self.key_norm, self.query_norm = RMSNorm(self.M, self.d, eps=eps), RMSNorm(self.M, self.d, eps=eps)
        self.conv_norm = RMSNorm(self.M, self.d, eps=1e-5)
        self.conv = nn.Conv1d(self.M * self.d, self.M * self.d, self.w, groups=self.M * self.d, dilation=self.dilation, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, hidden, rows):  # hidden [B, T, M, d], rows [B, T, R, r]
        B, T = rows.shape[:2]
        kv = self.wkv(rows.flatten(2)).view(B, T, self.M + 1, self.d)
        key, value = kv[:, :, :-1], kv[:, :, -1:]
        s = (self.key_norm(key).float() * self.query_norm(hidden).float()).sum(-1) / math.sqrt(self.d)
        s = s.sign() * s.abs().clamp_min(1e-6).sqrt()
        v = torch.sigmoid(s).unsqueeze(-1) * value
        x = self.conv_norm(v).flatten(2).transpose(1, 2)
        x = self.conv(F.pad(x, ((self.w - 1) * self.dilation, 0)))
        return v + F.silu(x.transpose(1, 2)).view(B, T, self.M, self.d)


class Block(nn.Module):
    def __init__(self, c, block, style):
        super().__init__()
        d = c["hidden_size"]
        self.engram = Engram(c) if c["memory"] == "engram" and block in c["engram"]["layer_ids"] else None
        self.attention_norm, self.ffn_norm = RMSNorm(d, eps=c["rms_norm_eps"]), RMSNorm(d, eps=c["rms_norm_eps"])
        self.attention = Attention(c)
        moe = c["ffn"] == "moe" and block >= c["first_k_dense_replace"]
        self.ffn = Moe(c, style) if moe else DenseFfn(d, c["intermediate_size"])

    def forward(self, x, rows, cos, sin):
        if self.engram is not None:
            x = x + self.engram(x.unsqueeze(2), rows).squeeze(2)
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.ffn(self.ffn_norm(x))


class Model(nn.Module):
    def __init__(self, c, style):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList(Block(c, i, style) for i in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], eps=c["rms_norm_eps"])
        self.head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=c["initializer_range"])
        r = c["qk_rope_head_dim"]
        angles = torch.outer(torch.arange(c["max_position_embeddings"]).float(), c["rope_theta"] ** (-torch.arange(0, r, 2).float() / r))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens, targets, rows):
        x = self.embed(tokens)
        T = tokens.shape[1]
        layer = 0
        for block in self.blocks:
            mine = None
            if block.engram is not None:
                mine, layer = rows[layer], layer + 1
            x = block(x, mine, self.cos[:T], self.sin[:T])
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Muon:
    """Batched over matrices of equal shape; 3-D parameters are stacks of matrices."""

    def __init__(self, params, lr, momentum=0.95, decay=0.1, steps=5):
        self.lr, self.momentum, self.decay, self.steps = lr, momentum, decay, steps
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape[-2:]), []).append((p, torch.zeros_like(p)))

    @torch.no_grad()
    def step(self):
        for shape, group in self.groups.items():
            stack = []
            for p, m in group:
                m.lerp_(p.grad, 1 - self.momentum)
                stack.append(p.grad.lerp(m, self.momentum).reshape(-1, *shape))
            x = torch.cat(stack)
            tall = shape[0] > shape[1]
            if tall:
                x = x.mT
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(self.steps):
                a = x @ x.mT
                b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
                x = torch.baddbmm(x, b, x, beta=3.4445)
            if tall:
                x = x.mT
            at, scale = 0, 0.2 * math.sqrt(max(shape))
            for p, _ in group:
                n = p.numel() // (shape[0] * shape[1])
                p.mul_(1 - self.lr * self.decay).add_(x[at:at + n].reshape(p.shape), alpha=-self.lr * scale)
                at += n
            for p, _ in group:
                p.grad = None


def zipf_ids(rng, n, high):
    """Row ids in which few are frequent, as n-grams are."""
    return (rng.zipf(1.2, size=n) * 2654435761 % high).astype(np.int64)


def median_step(step, warmup, steps):
    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def bench_train(job, autocast):
    c, o = job["model"], job["optimizer"]
    B, T = job["batch_size"], job["sequence_length"]
    rng = np.random.default_rng(0)
    model = Model(c, job["moe"])
    tables, R = [], 0
    if c["memory"] == "engram":
        e = c["engram"]
        R = (e["max_ngram_size"] - 1) * e["n_heads"]
        tables = [nn.Embedding(n, e["head_dim"], sparse=True) for n in job["num_rows"]]
    matrices = [p for n, p in model.named_parameters() if p.dim() >= 2 and n.startswith("blocks") and "norm" not in n and "conv" not in n and ".gate.weight" not in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = Muon(matrices, o["muon_lr"])
    adamw = torch.optim.AdamW(rest, lr=o["adamw_lr"], betas=(0.9, 0.95), fused=True)
    sparse = torch.optim.SparseAdam([t.weight for t in tables], lr=o["adamw_lr"] * 5) if tables else None
    forward = torch.compile(model) if job["mode"] == "compile" else model
    everything = list(model.parameters())

    def batch():
        tokens = torch.from_numpy(zipf_ids(rng, B * (T + 1), c["vocab_size"])).view(B, T + 1)
        ids = [torch.from_numpy(zipf_ids(rng, B * T * R, n)).view(B, T, R) for n in job["num_rows"]] if tables else []
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), ids

    batches = [batch() for _ in range(8)]
    state = {"i": 0, "loss": 0.0}

    def step():
        tokens, targets, ids = batches[state["i"] % len(batches)]
        state["i"] += 1
        with autocast():
            rows = [table(i) for table, i in zip(tables, ids)]
            loss = forward(tokens, targets, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(everything, 1.0)
        muon.step()
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        if sparse is not None:
            sparse.step()
            sparse.zero_grad(set_to_none=True)
        state["loss"] = loss.item()

    seconds = median_step(step, job["warmup"], job["steps"])
    return {"tokens_per_second": B * T / seconds, "seconds_per_step": seconds, "loss": state["loss"]}


def bench_engram(job, autocast):
    """The module alone, forward and backward: row gather, projection, gates, convolution."""
    c = job["model"]
    B, T, e, d, M = job["batch_size"], job["sequence_length"], c["engram"], c["hidden_size"], max(1, c["hc_mult"])
    R = (e["max_ngram_size"] - 1) * e["n_heads"]
    rng = np.random.default_rng(0)
    module = Engram(c)
    table = nn.Embedding(job["num_rows"][0], e["head_dim"], sparse=True)
    ids = torch.from_numpy(zipf_ids(rng, B * T * R, job["num_rows"][0])).view(B, T, R)
    hidden = torch.randn(B, T, M, d, requires_grad=True)
    grad = torch.randn(B, T, M, d)
    forward = torch.compile(module) if job["mode"] == "compile" else module

    def step():
        with autocast():
            y = forward(hidden, table(ids))
        y.backward(grad.to(y.dtype))
        hidden.grad = None
        table.zero_grad(set_to_none=True)
        module.zero_grad(set_to_none=True)

    seconds = median_step(step, job["warmup"], job["steps"])
    return {"tokens_per_second": B * T / seconds, "seconds_per_step": seconds, "loss": 0.0}


def main():
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    torch.set_flush_denormal(True)
    torch.manual_seed(0)

    def autocast():
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=job["dtype"] == "bf16")

    result = (bench_engram if job["part"] == "engram" else bench_train)(job, autocast)
    result["torch"] = torch.__version__
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
