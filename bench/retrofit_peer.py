#!/usr/bin/env python3
"""A memory for a model that exists, trained as one would with transformers: what bench/retrofit_bench.py compares with.

Reads a job as JSON from stdin and prints one JSON object. The base is frozen (requires_grad = False), products run
under bf16 autocast, tables are nn.Embedding with sparse gradients for SparseAdam, the module's own weights have a fused
AdamW. Batches come from a file: tokens, targets, and row ids of each memory layer as int64.
"""

import json
import resource
import sys
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers

from pytorch_baseline import Engram


def batches_of(job):
    """(tokens, targets, [row ids of a layer]) of each step."""
    B, T, layers = job["batch_size"], job["sequence_length"], len(job["num_rows"])
    R = job["model"]["engram"]["n_heads"] * (job["model"]["engram"]["max_ngram_size"] - 1)
    words = np.fromfile(job["batches"], np.int64).reshape(-1, B * T * (2 + layers * R))
    for step in words:
        parts = torch.from_numpy(step).split([B * T, B * T] + [B * T * R] * layers)
        yield parts[0].view(B, T), parts[1], [ids.view(B, T, R) for ids in parts[2:]]


def attach(model, c, num_rows):
    """Adds a memory before each of its blocks. Returns the modules, the tables and where a step puts its row ids."""
    row_ids = {}
    modules, tables = nn.ModuleList(), nn.ModuleList()
    for layer, block in enumerate(c["engram"]["layer_ids"]):
        module, table = Engram(c), nn.Embedding(num_rows[layer], c["engram"]["head_dim"], sparse=True)
        nn.init.normal_(table.weight, std=c["initializer_range"])
        nn.init.normal_(module.wkv.weight, std=c["initializer_range"])
        nn.init.zeros_(module.wkv.weight[-c["hidden_size"]:].data)  # the value: nothing is added at first
        modules.append(module)
        tables.append(table)

        def before(_, args, layer=layer, module=module, table=table):
            hidden = args[0]
            return (hidden + module(hidden.unsqueeze(2), table(row_ids[layer])).squeeze(2), *args[1:])

        model.model.layers[block].register_forward_pre_hook(before)
    return modules, tables, row_ids


def main():
    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    c = job["model"]
    model = transformers.AutoModelForCausalLM.from_pretrained(job["folder"], dtype=getattr(torch, job["weights"]))
    model.requires_grad_(False)
    model.config.use_cache = False
    modules, tables, row_ids = attach(model, c, job["num_rows"])
    dense = torch.optim.AdamW(modules.parameters(), lr=job["adamw_lr"], betas=(0.9, 0.95), fused=True)
    sparse = torch.optim.SparseAdam(tables.parameters(), lr=job["adamw_lr"] * 5)
    losses, seconds, cpu = [], [], []
    for tokens, targets, ids in batches_of(job):
        start, start_cpu = time.perf_counter(), time.process_time()
        row_ids.update(enumerate(ids))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=tokens).logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        for optimizer in (dense, sparse):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    print(json.dumps({"losses": losses, "seconds": seconds, "cpu_seconds": cpu,
                      "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "version": f"transformers {transformers.__version__}, PyTorch {torch.__version__}"}))


if __name__ == "__main__":
    main()
