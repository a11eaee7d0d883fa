"""What the parity scripts share: a module in true float64, its gradients, one safetensors file.

transformers casts to float32 inside norms, routers and softmaxes whatever the module's dtype. wide() turns those
casts into float64 for a while, so that the vectors are exact to 1e-12 and not to 1e-6. Rotary angles stay float32,
because that is part of the function: see narrow().
"""
import contextlib
import pathlib

import torch
from safetensors.torch import save_file

PARITY = pathlib.Path(__file__).resolve().parents[2] / "parity"
FLOAT32, FLOAT = torch.float32, torch.Tensor.float


@contextlib.contextmanager
def wide():
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = FLOAT32, FLOAT


def narrow(forward):
    """Runs `forward` with float32 casts as written, inside wide()."""
    def run(*args, **kwargs):
        torch.float32, torch.Tensor.float = FLOAT32, FLOAT
        try:
            return forward(*args, **kwargs)
        finally:
            torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    return run


def randomize(module, seed, std=0.2):
    """Weights that are float32 numbers in float64 tensors; norm weights around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in list(module.named_parameters()) + list(module.named_buffers()):
            if name.endswith("inv_freq"):
                continue
            noise = torch.randn(p.shape, generator=generator) * std
            if "norm" in name:
                noise += 1.0
            p.copy_(noise)


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def save(name, module, inputs, outputs, metadata, others=None):
    """inputs, outputs, others: name -> tensor. The loss is sum(output * loss_weight); gradients of all parameters and of
    every input that requires one are saved as grad.*."""
    tensors, loss = dict(others or {}), 0
    for i, (key, value) in enumerate(outputs.items()):
        weight = random(value.shape, 1000 + i)
        tensors[key], tensors[f"loss_weight.{key}"] = value.detach(), weight
        loss = loss + (value * weight).sum()
    with wide():
        loss.backward()
    for key, value in inputs.items():
        tensors[key] = value.detach()
        if value.requires_grad:
            tensors[f"grad.{key}"] = value.grad
    for key, value in module.named_parameters():
        tensors[f"param.{key}"], tensors[f"grad.{key}"] = value.detach(), value.grad
    for key, value in module.named_buffers():
        if not key.endswith("inv_freq"):
            tensors[f"param.{key}"] = value
    # Inputs and parameters are float32 numbers; outputs and gradients keep float64.
    for key in list(tensors):
        if key.startswith(("param.", "loss_weight.")) or key in inputs:
            if tensors[key].dtype == torch.float64:
                tensors[key] = tensors[key].float()
    path = PARITY / f"{name}.safetensors"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, metadata=metadata)
    path.chmod(0o644)
    print(path.name, path.stat().st_size)
