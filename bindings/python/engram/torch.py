"""Rows of a table as tensors of PyTorch, and a module with the table behind it.

    table = engram.Table("nvme:table.rows?cache=2GiB")
    embedding = engram.torch.EngramEmbedding(table, layer=0, dtype=torch.bfloat16, device="cuda")
    values = embedding(row_ids)                            # bfloat16 [*row_ids.shape, columns], on the device

Rows are read and decoded in memory of the host; for a device it is pinned, and the copy there does not block.
"""

import torch

from . import Table

__all__ = ["EngramEmbedding", "decode", "host_memory"]

_DECODED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def host_memory(shape, dtype, device):
    """Memory of the host for what goes to `device`: pinned where that is a CUDA device."""
    return torch.empty(shape, dtype=dtype, pin_memory=torch.device(device).type == "cuda")


def decode(table, rows, layer=0, dtype=torch.bfloat16, device="cpu"):
    """Rows as read, uint8 [..., row_bytes], as values [..., row_dim] on a device."""
    exact = dtype if dtype in _DECODED else torch.float32
    values = host_memory((*rows.shape[:-1], table.layers[layer].row_dim), exact, device)
    # numpy has no bfloat16, and takes its bits.
    target = values.view(torch.int16) if exact == torch.bfloat16 else values
    table.decode(rows.numpy() if isinstance(rows, torch.Tensor) else rows, layer, _DECODED[exact], target.numpy())
    return values.to(device=device, dtype=dtype, non_blocking=True)


class EngramEmbedding(torch.nn.Module):
    """Row ids [...] to values [..., row_dim] of one layer of a table: an nn.Embedding whose weight is elsewhere. It has
    no parameters and no gradient; dtype and device are those that .to() gives it. `table`: an engram.Table or a URI."""

    def __init__(self, table, layer=0, dtype=torch.bfloat16, device="cpu"):
        super().__init__()
        self.table = table if isinstance(table, Table) else Table(table)
        self.layer = layer
        self.num_embeddings, self.embedding_dim = self.table.layers[layer].num_rows, self.table.layers[layer].row_dim
        self.register_buffer("_target", torch.empty(0, dtype=dtype, device=device), persistent=False)

    def start(self, row_ids):
        """Starts a read; finish() takes what this gives. For rows whose ids are known before they are needed."""
        ids = row_ids.cpu().numpy()
        rows = host_memory((*ids.shape, self.table.layers[self.layer].row_bytes), torch.uint8, self._target.device)
        return self.table.read(ids, self.layer, rows.numpy())

    def finish(self, pending):
        return decode(self.table, pending.wait(), self.layer, self._target.dtype, self._target.device)

    @torch.compiler.disable
    def forward(self, row_ids):
        return self.finish(self.start(row_ids))

    def extra_repr(self):
        return f"{self.num_embeddings}, {self.embedding_dim}, layer={self.layer}"
