"""Decode steps of transformers' Qwen4Exp: untouched, and with its n-gram table behind libengram.

    PYTHONPATH=build/wheel-oracles .venv-oracles/bin/python bench/transformers_attach.py ENGRAM [TIER...]

A random model of the published shape in small, in bf16, one thread. The two take turns, step by step, over the same ids;
logits are compared bit for bit. The ratio of processor time tells on a busy machine too. TIER is a URI with {} for the row file (default dram:{} and two more). The package comes
from scripts/wheel.sh --oracles.
"""

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from transformers.models.qwen4_exp import modeling_qwen4_exp as qwen4exp

import engram.transformers

STEPS, WARM_UP = 120, 10
TIERS = ["dram:{}", "pagecache:{}", "nvme:{}?cache=64MiB"]


def model_of():
    torch.manual_seed(0)
    config = qwen4exp.Qwen4ExpTextConfig(
        vocab_size=32000, hidden_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        linear_key_head_dim=32, linear_value_head_dim=32, linear_num_key_heads=4, linear_num_value_heads=8,
        moe_intermediate_size=128, shared_expert_intermediate_size=128, num_experts_per_tok=4, num_experts=16,
        eos_token_id=7, hc_count=4, hc_lowrank=32, ple_layer_ids=[2], ple_embed_dim=2048, ngram_size=3, heads_per_ngram=8,
        ngram_vocab_size_base=100_000, split_ngram_parts=4, indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=64,
        indexer_budget=64, indexer_compress_ratio=4)  # fmt: skip
    return qwen4exp.Qwen4ExpForCausalLM(config).to(torch.bfloat16).eval()


def measure(models, batch):
    """Of a decode step of each model, the median: (seconds, seconds of the processor)."""
    ids = torch.randint(32000, (batch, 32 + WARM_UP + STEPS), generator=torch.Generator().manual_seed(1))
    caches = [model(ids[:, :32], use_cache=True).cache for model in models]
    times = [[] for _ in models]
    for step in range(32, ids.shape[1]):
        logits = {}
        for at in ((0, 1) if step % 2 else (1, 0)):
            begin, begin_busy = time.perf_counter(), time.process_time()
            logits[at] = models[at](ids[:, step : step + 1], cache=caches[at]).logits
            times[at].append((time.perf_counter() - begin, time.process_time() - begin_busy))
        assert torch.equal(logits[0], logits[1])
    return [[statistics.median(kind) for kind in zip(*one[WARM_UP:])] for one in times]


def main():
    command, tiers = sys.argv[1], sys.argv[2:] or TIERS
    torch.set_num_threads(1)
    plain = model_of()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        plain.save_pretrained(f"{folder}/model")
        subprocess.run([command, "table", "convert", f"{folder}/model", f"{folder}/t.rows"], check=True)
        attached = copy.deepcopy(plain)
        for tier in tiers:
            engram.transformers.attach(attached, tier.format(f"{folder}/t.rows"))
            for batch in (1, 8):
                (untouched, untouched_busy), (ours, ours_busy) = measure([plain, attached], batch)
                print(json.dumps({
                    "tier": tier, "batch": batch, "untouched_ms": round(1e3 * untouched, 3),
                    "attached_ms": round(1e3 * ours, 3), "ratio": round(ours / untouched, 4),
                    "ratio_of_processor_time": round(ours_busy / untouched_busy, 4)}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
