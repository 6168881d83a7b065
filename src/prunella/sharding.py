"""Tensors of which every process holds some rows: what ``fully_shard`` makes of parameters.

Everything that goes weight by weight works on the process's own part, a plain tensor; only a
selection and a checkpoint need to know the whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunella.errors import UsageError


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; asked without importing ``torch.distributed.tensor``."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """This process's part, which shares its memory; a plain tensor is its own part."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every process."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that every process holds, cut up as another one is."""
    if not is_sharded(like):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    mesh: Any = like.device_mesh  # type: ignore[attr-defined]
    copies = DTensor.from_local(full, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return copies.redistribute(mesh, like.placements).to_local()  # type: ignore[attr-defined]


def spread(part: Tensor, like: Tensor) -> Tensor:
    """The tensor of which each process gives its part, laid out as another one is."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def put_away(model: nn.Module) -> None:
    """Have ``fully_shard`` free the gathered weights that a forward may have left in modules."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def nonzeros(tensor: Tensor) -> int:
    """How many entries are not zero, over all processes."""
    if not is_sharded(tensor):
        return int(tensor.count_nonzero())
    group = shard_group(tensor)
    count = local(tensor).count_nonzero()
    torch.distributed.all_reduce(count, group=group)
    return int(count)


def shard_group(tensor: Tensor) -> Any:
    """The processes that together hold one copy of a sharded tensor.

    Raises:
        UsageError: it is not cut along its rows alone.
    """
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    placements: Any = tensor.placements  # type: ignore[attr-defined]
    rows = [d for d, p in enumerate(placements) if type(p).__name__ == "Shard" and p.dim == 0]
    if len(rows) != 1 or not all(
        p.is_replicate() for d, p in enumerate(placements) if d != rows[0]
    ):
        raise UsageError(
            f"a parameter of shape {tuple(tensor.shape)} is laid out as {placements}; Prunella "
            "prunes parameters that fully_shard cut along dimension 0, without tensor parallelism"
        )
    return mesh.get_group(rows[0])


def gathered(values: Tensor, group: Any) -> list[Tensor]:
    """The vectors that the processes of a group hold, in their order; lengths may differ."""
    count = torch.tensor([values.numel()], device=values.device)
    counts = [torch.empty_like(count) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(counts, count, group=group)
    lengths = [int(c) for c in counts]
    padded = values.new_zeros(max(lengths))
    padded[: values.numel()] = values
    vectors = [torch.empty_like(padded) for _ in lengths]
    torch.distributed.all_gather(vectors, padded, group=group)
    return [vector[:length] for vector, length in zip(vectors, lengths, strict=True)]
