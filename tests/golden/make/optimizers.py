"""Makes tests/parity/optimizers.safetensors: PyTorch's own Muon, AdamW and Adam on fixed gradients.

    .venv-oracles/bin/python tests/golden/make/optimizers.py [OUTPUT]

Muon runs twice: as it is (Newton-Schulz in bf16) and with the cast to bf16 taken out, which checks every digit.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

OUTPUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "parity" / "optimizers.safetensors"
STEPS = 3
MUON = dict(lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True, ns_steps=5, adjust_lr_fn="match_rms_adamw")
ADAMW = dict(lr=0.004, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
SHAPES = {"wide": (16, 40), "tall": (40, 16), "square": (24, 24)}


def run(optimizer, parameters, gradients):
    for step in range(STEPS):
        for name, parameter in parameters.items():
            parameter.grad = gradients[f"{name}.grad.{step}"].clone()
        optimizer.step()


def parameters_of(tensors, names):
    return {name: torch.nn.Parameter(tensors[f"{name}.start"].clone()) for name in names}


def muon(tensors, suffix):
    parameters = parameters_of(tensors, SHAPES)
    run(torch.optim.Muon(list(parameters.values()), **MUON), parameters, tensors)
    for name, parameter in parameters.items():
        tensors[f"{name}.{suffix}"] = parameter.detach().clone()


def main():
    torch.manual_seed(7)
    tensors = {}
    for name, shape in {**SHAPES, "vector": (37,), "table": (12, 8)}.items():
        tensors[f"{name}.start"] = torch.randn(shape) * 0.1
        for step in range(STEPS):
            tensors[f"{name}.grad.{step}"] = torch.randn(shape) * 0.01

    muon(tensors, "muon_bf16")
    to_bfloat16 = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.clone
    try:
        muon(tensors, "muon_fp32")
    finally:
        torch.Tensor.bfloat16 = to_bfloat16

    names = ["wide", "vector"]
    parameters = parameters_of(tensors, names)
    run(torch.optim.AdamW(list(parameters.values()), **ADAMW), parameters, tensors)
    for name in names:
        tensors[f"{name}.adamw"] = parameters[name].detach().clone()

    # Row-sparse Adam with every row in every step is Adam without decay.
    parameters = parameters_of(tensors, ["table"])
    run(torch.optim.Adam(list(parameters.values()), **{**ADAMW, "weight_decay": 0.0, "lr": 0.02}), parameters, tensors)
    tensors["table.adam"] = parameters["table"].detach().clone()

    # Global-norm clipping.
    parameters = parameters_of(tensors, SHAPES)
    for name, parameter in parameters.items():
        parameter.grad = tensors[f"{name}.grad.0"].clone()
    tensors["clip.norm"] = torch.nn.utils.clip_grad_norm_(list(parameters.values()), 0.05).clone()
    tensors["clip.wide"] = parameters["wide"].grad.clone()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, OUTPUT)


if __name__ == "__main__":
    main()
