"""Writes tests/parity/row_codec.safetensors with PyTorch's float8 types: the oracle of engram/kernels/row_codec.h.

  e4m3 [256], e8m0 [256]   every code as float32
  values [n]               floats: random over the range of e4m3, midpoints between its codes, bf16 midpoints, extremes
  values_e4m3, values_bf16 [n]  their nearest codes (values are clamped to +-448 for e4m3, which PyTorch does not do)
  metadata products_sha256, products_bf16_sha256: e4m3 code x e8m0 code in float32, [256 scales, 256 codes], and its
      bf16 rounding; a NaN is 0x7FC00000 or 0x7FC0
Run from the repository root: .venv-oracles/bin/python tests/golden/make/row_codec_vectors.py
"""
import hashlib
import json

import torch
from safetensors.torch import save_file

codes = torch.arange(256, dtype=torch.uint8)
e4m3 = codes.view(torch.float8_e4m3fn).to(torch.float32)
e8m0 = codes.view(torch.float8_e8m0fnu).to(torch.float32)


def canonical(x):
    nan = torch.tensor(0x7FC00000, dtype=torch.int32).view(torch.float32)
    return torch.where(x.isnan(), nan, x).contiguous()


def digest(x):
    return hashlib.sha256(x.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


products = canonical(e8m0[:, None] * e4m3[None, :])
products_bf16 = products.to(torch.bfloat16).view(torch.int16)
products_bf16[products.isnan()] = 0x7FC0

generator = torch.Generator().manual_seed(1)
finite = e4m3[~e4m3.isnan()].sort().values
middles = (finite[1:] + finite[:-1]) / 2
spread = torch.randn(2000, generator=generator) * torch.exp2(torch.randint(-12, 9, (2000,), generator=generator).float())
bits = torch.randint(0, 2**16, (500,), generator=generator, dtype=torch.int32) << 16
bf16_middles = (bits | 0x8000).view(torch.float32)
bf16_middles = bf16_middles[bf16_middles.isfinite()]
extremes = torch.tensor([0.0, -0.0, 448.0, 449.0, 464.0, 465.0, 1e9, -1e9, 2**-10, 1.5 * 2**-10, 2**-9, 3.4e38, 1e-45])
values = torch.cat([spread, middles, middles * (1 + 2**-23), middles * (1 - 2**-23), bf16_middles, extremes])

tensors = {
    "e4m3": canonical(e4m3),
    "e8m0": canonical(e8m0),
    "values": values,
    "values_e4m3": values.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8),
    "values_bf16": values.to(torch.bfloat16),
}
# One key, since the package writes several in random order.
digests = {"products_sha256": digest(products), "products_bf16_sha256": digest(products_bf16)}
save_file(tensors, "tests/parity/row_codec.safetensors", metadata={"digests": json.dumps(digests)})
