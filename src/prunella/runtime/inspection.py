"""What a Transformers checkpoint folder holds: its matrices one by one, and three scopes."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from prunella.bitmask import Coded, decode
from prunella.errors import UsageError
from prunella.figures import percent
from prunella.prunable import SCOPES, Count, Scopes, find_prunable
from prunella.runtime.files import FILE, Sizes
from prunella.runtime.folder import (
    Names,
    check_config,
    described,
    fetched,
    first_sentence,
    opened,
)
from prunella.runtime.forms import BITMASK, CONFIG
from prunella.summary import LeftDense, left_dense, told


@dataclass(frozen=True)
class Held:
    """One tensor of floating numbers in a checkpoint.

    Attributes:
        name: its name in the file.
        shape: its sides.
        dtype: of its values, as torch names it.
        count: how many values it has, and how many are not zero.
        bytes: what it takes in the file.
        prunable: whether a pruner would prune it; None where that is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    count: Count
    bytes: int
    prunable: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        return told | _told(self.count) | {"bytes": self.bytes, "prunable": self.prunable}


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint folder holds.

    Attributes:
        folder: where.
        form: ``sparse``, of Prunella, ``sparse-bitmask of compressed-tensors``, or ``dense``.
        architecture: the model's class in Transformers; None where it cannot be built.
        bytes: of all files with weights.
        matrices: its floating tensors of two sides and more.
        scopes: counts in ``prunable``, ``backbone`` and ``model`` (see ``Scopes``), every
            parameter once; where the model cannot be built only ``model``, everything in the file.
        coded: what the coded matrices of a sparse form take together, in bits and values; None in
            a dense one.
        note: what the counts leave out, and why; empty where nothing.
        left_dense: what a pruner leaves dense; empty where the model cannot be built.
    """

    folder: Path
    form: str
    architecture: str | None
    bytes: int
    matrices: tuple[Held, ...]
    scopes: dict[str, Count]
    coded: Sizes | None
    note: str
    left_dense: tuple[LeftDense, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.folder),
            "form": self.form,
            "architecture": self.architecture,
            "bytes": self.bytes,
            "scopes": {scope: _told(count) for scope, count in self.scopes.items()},
            "coded": None if self.coded is None else asdict(self.coded),
            "note": self.note,
            "left_dense": [asdict(left) for left in self.left_dense],
            "matrices": [matrix.as_dict() for matrix in self.matrices],
        }


def inspect(
    source: str | Path,
    *,
    parameters: Sequence[str] | None = None,
    include_biases: bool = False,
    include_embeddings: bool = False,
) -> Inspection:
    """Count what is in a checkpoint, reading one tensor at a time, and tell what can be pruned.

    Args:
        source: a folder, or a name on the hub.
        parameters, include_biases, include_embeddings: what is to be pruned, as of ``Pruner``.

    Raises:
        UsageError: there is no such checkpoint, no config or no weights in it, or they are damaged
            or pickled; or a pattern matches nothing in the model.
    """
    folder = fetched(source)
    _check_config(folder)
    paths, tensors = opened(folder)
    names: Names | None = None
    left: tuple[LeftDense, ...] = ()
    coded: list[Sizes] = []
    try:
        names = Names(_build(folder))
    except UsageError as error:
        unknown = error
    held, parts = _read(_noted(tensors, coded), names)
    try:
        if names is None:
            raise unknown
        prunable, _ = find_prunable(names.model, parameters, include_biases, include_embeddings)
        held, scopes, note = _count(names, held, parts, prunable)
        left = left_dense(names.model, prunable)
    except UsageError as error:
        if parameters is not None:  # what was asked for cannot be told
            raise
        scopes = {"model": _sum(tensor.count for tensor in held.values())}
        note = f"only the whole is counted: {str(error).partition('; ')[0]}"
    ours = paths == [folder / FILE]
    return Inspection(
        folder=folder,
        form="sparse" if ours else f"{BITMASK} of compressed-tensors" if coded else "dense",
        architecture=None if names is None else type(names.model).__name__,
        bytes=sum(path.stat().st_size for path in paths),
        matrices=tuple(
            held[name] for name in sorted(held, key=_natural) if len(held[name].shape) > 1
        ),
        scopes=scopes,
        coded=_total(coded) if ours or coded else None,
        note=note,
        left_dense=left,
    )


def _check_config(folder: Path) -> None:
    """Raise UsageError where a folder has no config, or a damaged one."""
    check_config(folder)
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder / CONFIG} cannot be read ({error}); save it again") from error


def table(inspection: Inspection) -> Table:
    """The matrices, the scopes, and below them what it takes on disk."""
    result = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    result.add_column("matrix", overflow="fold")
    for column in ("prunable", "shape", "dtype", "non-zero", "of", "sparsity", "bytes"):
        result.add_column(column, justify="right")
    for held in inspection.matrices:
        what = ("yes" if held.prunable else "", " × ".join(map(str, held.shape)), held.dtype)
        result.add_row(held.name, *what, *_cells(held.count), f"{held.bytes:,}")
    result.add_section()
    for scope, count in inspection.scopes.items():
        result.add_row(scope, "", "", "", *_cells(count), "")
    lines = [f"{inspection.bytes / 1e6:.2f} MB of weights, {inspection.form}"]
    if (coded := inspection.coded) is not None:
        lines.append(
            f"coded matrices: {coded.bytes / 1e6:.2f} MB; ideal bitmask {coded.ideal / 1e6:.2f}, "
            f"entropy bound {coded.bound / 1e6:.2f}"
        )
    if gone := [held.name for held in inspection.matrices if not held.count.nonzero]:
        lines.append(f"all zero, nothing is left of: {', '.join(gone)}")
    result.caption = "\n".join(filter(None, [*lines, told(inspection.left_dense), inspection.note]))
    return result


def _cells(count: Count) -> tuple[str, str, str]:
    return f"{count.nonzero:,}", f"{count.total:,}", f"{percent(count.sparsity)}"


def _told(count: Count) -> dict[str, Any]:
    return {"total": count.total, "nonzero": count.nonzero, "sparsity": count.sparsity}


def _natural(name: str) -> str:
    """What to sort by, so that layer 10 comes after layer 2."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(9), name)


def _read(
    tensors: Iterable[tuple[str, Tensor | Coded]], names: Names | None
) -> tuple[dict[str, Held], dict[str, Tensor]]:
    """What is to be said of each tensor, and masks of those that are only parts of parameters."""
    held: dict[str, Held] = {}
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors:
        found = _look(name, tensor)
        if found is None:
            continue
        held[name] = found
        if names is not None and names.is_part(name):
            parts[name] = (decode(tensor) if isinstance(tensor, Coded) else tensor) != 0
    return held, parts


def _look(name: str, tensor: Tensor | Coded) -> Held | None:
    """What is to be said of a tensor; None where it holds no floating numbers."""
    values = tensor.values if isinstance(tensor, Coded) else tensor
    if not values.is_floating_point():
        return None
    total = tensor.count if isinstance(tensor, Coded) else tensor.numel()
    return Held(
        name=name,
        shape=tuple(tensor.shape),
        dtype=str(values.dtype).removeprefix("torch."),
        # Compared first, for torch counts no 8-bit floats. A -0.0 is kept, but is a zero.
        count=Count(int((values != 0).count_nonzero()), total),
        bytes=tensor.bytes if isinstance(tensor, Coded) else tensor.nbytes,
    )


def _noted(
    tensors: Iterable[tuple[str, Tensor | Coded]], coded: list[Sizes]
) -> Iterator[tuple[str, Tensor | Coded]]:
    """The tensors, and beside them what each coded one takes."""
    for name, tensor in tensors:
        if isinstance(tensor, Coded):
            bits = 8 * tensor.values.itemsize
            coded.append(Sizes.of(tensor.count, tensor.values.numel(), bits))
        yield name, tensor


def _total(each: Sequence[Sizes]) -> Sizes:
    """What coded matrices take together."""
    return Sizes(
        count=sum(size.count for size in each),
        kept=sum(size.kept for size in each),
        bytes=sum(size.bytes for size in each),
        ideal=sum(size.ideal for size in each),
        bound=sum(size.bound for size in each),
    )


def _build(folder: Path) -> nn.Module:
    """The model of a folder, without values.

    Raises:
        UsageError: Transformers does not know it.
    """
    config, architecture = described(folder)
    try:
        with torch.device("meta"):
            return architecture(config)
    except Exception as error:  # whatever may stand in a config
        reason = first_sentence(error)
        raise UsageError(f"Transformers cannot build the model ({reason})") from error


def _count(
    names: Names, held: Mapping[str, Held], parts: Mapping[str, Tensor], prunable: Collection[str]
) -> tuple[dict[str, Held], dict[str, Count], str]:
    """The tensors with word of which are prunable, counts in three scopes, and what these lack.

    Raises:
        UsageError: something prunable is not in the file under a name it may have.
    """
    known = {name: names.find(name, tensor.shape) for name, tensor in held.items()}
    marked = {n: replace(tensor, prunable=known[n] in prunable) for n, tensor in held.items()}
    counts: dict[str | None, Count] = {
        name: Count(int(mask.count_nonzero()), mask.numel())
        for name, mask in names.assembled(parts).items()
    }
    for name, tensor in held.items():
        if name not in parts:
            counts.setdefault(known[name], tensor.count)  # a tied one may be there twice
    scopes = Scopes.of(names.model, prunable)
    missing = sorted(scopes.model - counts.keys(), key=_natural)
    lost = [name for name in missing if name in scopes.prunable]
    if lost:
        raise UsageError(f"{type(names.model).__name__} has {lost[0]}, which is not in the file")
    note = f"not in the file, nor counted: {', '.join(missing)}" if missing else ""
    sums = {
        scope: _sum(counts[name] for name in getattr(scopes, scope) if name in counts)
        for scope in SCOPES
    }
    return marked, sums, note


def _sum(counts: Iterable[Count]) -> Count:
    counts = list(counts)
    return Count(sum(count.nonzero for count in counts), sum(count.total for count in counts))
