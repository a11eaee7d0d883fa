"""Writes tests/parity/python.safetensors with the Python package `safetensors`: the oracle of core/safetensors.

Every dtype that PyTorch can store, a scalar, an empty tensor and a name outside ASCII. Byte i of a tensor is
(37 * i + 11) mod 256 (i mod 2 for BOOL), which tests/formats/safetensors_test.cc computes again. One metadata key only:
the package writes several in random order.
Run from the repository root: .venv-oracles/bin/python tests/golden/make/safetensors_vectors.py
"""
import math

import torch
from safetensors.torch import save_file

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


def pattern(shape, dtype):
    size = math.prod(shape) * dtype.itemsize
    if dtype == torch.bool:
        values = [i % 2 for i in range(size)]
    else:
        values = [(37 * i + 11) % 256 for i in range(size)]
    return torch.tensor(values, dtype=torch.uint8).view(dtype).reshape(shape)


tensors = {f"matrix.{name}": pattern((2, 3), dtype) for name, dtype in DTYPES.items()}
tensors["scalar"] = pattern((), torch.float32)
tensors["empty"] = pattern((0, 5), torch.int64)
tensors["gr\u00f6\u00dfe \u8bb0\u5fc6"] = pattern((1, 2, 1), torch.bfloat16)
save_file(tensors, "tests/parity/python.safetensors", metadata={"made by": "safetensors \"Python\" \u8bb0\n"})
