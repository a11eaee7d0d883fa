#!/usr/bin/env python3
"""The demo's dense model under PyTorch's DistributedDataParallel with Gloo: what `engram bench distributed --peer`
compares with.

    ddp_peer.py --ranks N --config config.json --batch-size B --sequence-length T --warmup W --steps S

Starts its ranks itself, one thread each. The model, its optimizers and its data are those of pytorch_baseline.py; every
rank takes B sequences a step, gradients are averaged while backward runs, and every rank updates all weights, as
DistributedDataParallel has it. Experts run both ways of the baseline; the faster one counts. Rank 0 prints
{"tokens_per_second" (of all ranks), "experts", "torch"}.
"""
import argparse
import json
import os
import socket
import subprocess
import sys


def start_ranks(ranks):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen([sys.executable, *sys.argv], env={
            **os.environ, "RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}) for rank in range(ranks)]
    return max(abs(process.wait()) for process in processes)


def make_step(options, config, experts):
    import numpy as np
    import torch
    from pytorch_baseline import Model, Muon, zipf_ids
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    model = Model(config, experts)
    matrices = [p for n, p in model.named_parameters()
                if p.dim() >= 2 and n.startswith("blocks") and "norm" not in n and ".gate.weight" not in n]
    chosen = {id(p) for p in matrices}
    muon = Muon(matrices, 0.004)
    adamw = torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], lr=0.008, betas=(0.9, 0.95),
                              fused=True)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    rng = np.random.default_rng(torch.distributed.get_rank())
    B, T = options.batch_size, options.sequence_length
    batches = [torch.from_numpy(zipf_ids(rng, B * (T + 1), config["vocab_size"])).view(B, T + 1) for _ in range(8)]
    state = {"i": 0}

    def step():
        tokens = batches[state["i"] % len(batches)]
        state["i"] += 1
        loss = parallel(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), [])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        return loss.item()

    return step


def work(options):
    import torch
    import torch.distributed
    from pytorch_baseline import median_step

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.distributed.init_process_group("gloo")
    with open(options.config, encoding="utf-8") as file:
        config = json.load(file)
    seconds = {experts: median_step(make_step(options, config, experts), options.warmup, options.steps)
               for experts in ("grouped", "loop")}
    if torch.distributed.get_rank() == 0:
        best = min(seconds, key=seconds.get)
        tokens = options.batch_size * options.sequence_length * torch.distributed.get_world_size()
        print(json.dumps({"tokens_per_second": tokens / seconds[best], "experts": best, "torch": torch.__version__}))
    torch.distributed.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    for name in ("ranks", "batch-size", "sequence-length", "warmup", "steps"):
        parser.add_argument("--" + name, type=int, required=True)
    options = parser.parse_args()
    if "RANK" not in os.environ:
        sys.exit(start_ranks(options.ranks))
    work(options)


if __name__ == "__main__":
    main()
