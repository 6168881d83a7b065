"""What a Transformers checkpoint folder holds: its matrices one by one, and three scopes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from prunella.bitmask import Coded
from prunella.errors import UsageError
from prunella.prunable import SCOPES, Count, Scopes, find_prunable, named_parameters
from prunella.runtime.files import FILE, Sizes, sizes
from prunella.runtime.folder import CONFIG, opened


@dataclass(frozen=True)
class Held:
    """One tensor of floating numbers in a checkpoint.

    Attributes:
        name: its name in the file.
        shape: its sides.
        dtype: of its values, as torch names it.
        count: how many values it has, and how many are not zero.
        bytes: what it takes in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    count: Count
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        return told | _told(self.count) | {"bytes": self.bytes}


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint folder holds.

    Attributes:
        folder: where.
        form: ``sparse``, of Prunella, or ``dense``.
        architecture: the model's class in Transformers; None where it cannot be built.
        bytes: of all files with weights.
        matrices: its floating tensors of two sides and more.
        scopes: counts in ``prunable``, ``backbone`` and ``model`` (see ``Scopes``), every
            parameter once; where the model cannot be built only ``model``, everything in the file.
        coded: what the coded matrices of the sparse form take together; None in a dense one.
        note: what the counts leave out, and why; empty where nothing.
    """

    folder: Path
    form: str
    architecture: str | None
    bytes: int
    matrices: tuple[Held, ...]
    scopes: dict[str, Count]
    coded: Sizes | None
    note: str

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
            "matrices": [matrix.as_dict() for matrix in self.matrices],
        }


def inspect(folder: Path) -> Inspection:
    """Count what is in a checkpoint folder, reading one tensor at a time.

    Raises:
        UsageError: there is no such folder, no config or no weights in it, or they are damaged or
            pickled.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give that of a saved model")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"the folder {folder} has no {CONFIG}, so it is no checkpoint of Transformers; give "
            "one that save_pretrained or Prunella wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder / CONFIG} cannot be read ({error}); save it again") from error
    paths, tensors = opened(folder)
    held = {}
    for name, tensor in tensors:
        told = _look(name, tensor)
        if told is not None:
            held[name] = told
    architecture = None
    try:
        model = _build(folder, config)
        architecture = type(model).__name__
        scopes, note = _count(model, held)
    except UsageError as error:
        scopes = {"model": _sum(tensor.count for tensor in held.values())}
        note = f"only the whole is counted: {str(error).partition('; ')[0]}"
    sparse = paths == [folder / FILE]
    return Inspection(
        folder=folder,
        form="sparse" if sparse else "dense",
        architecture=architecture,
        bytes=sum(path.stat().st_size for path in paths),
        matrices=tuple(
            held[name] for name in sorted(held, key=_natural) if len(held[name].shape) > 1
        ),
        scopes=scopes,
        coded=_total(paths[0]) if sparse else None,
        note=note,
    )


def table(inspection: Inspection) -> Table:
    """The matrices, the scopes, and below them what it takes on disk."""
    result = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    result.add_column("matrix", overflow="fold")
    for column in ("shape", "dtype", "non-zero", "of", "sparsity", "bytes"):
        result.add_column(column, justify="right")
    for held in inspection.matrices:
        shape = " × ".join(map(str, held.shape))
        result.add_row(held.name, shape, held.dtype, *_cells(held.count), f"{held.bytes:,}")
    result.add_section()
    for scope, count in inspection.scopes.items():
        result.add_row(scope, "", "", *_cells(count), "")
    lines = [f"{inspection.bytes / 1e6:.2f} MB of weights, {inspection.form}"]
    if (coded := inspection.coded) is not None:
        lines.append(
            f"coded matrices: {coded.bytes / 1e6:.2f} MB; ideal bitmask {coded.ideal / 1e6:.2f}, "
            f"entropy bound {coded.bound / 1e6:.2f}"
        )
    result.caption = "\n".join(filter(None, [*lines, inspection.note]))
    return result


def _cells(count: Count) -> tuple[str, str, str]:
    return f"{count.nonzero:,}", f"{count.total:,}", f"{count.sparsity:.2%}"


def _told(count: Count) -> dict[str, Any]:
    return {"total": count.total, "nonzero": count.nonzero, "sparsity": count.sparsity}


def _natural(name: str) -> str:
    """What to sort by, so that layer 10 comes after layer 2."""
    return re.sub("[0-9]+", lambda number: number[0].zfill(9), name)


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


def _total(path: Path) -> Sizes:
    """What the coded matrices of a file take together."""
    each = sizes(path).values()
    return Sizes(
        count=sum(size.count for size in each),
        kept=sum(size.kept for size in each),
        bytes=sum(size.bytes for size in each),
        ideal=sum(size.ideal for size in each),
        bound=sum(size.bound for size in each),
    )


def _build(folder: Path, config: Any) -> nn.Module:
    """The model that a config describes, without values.

    Raises:
        UsageError: Transformers does not know it.
    """
    # Imported here, so that a wrong folder need not wait for it.
    import transformers

    try:
        names = config.get("architectures")
        if not names:
            raise LookupError(f"{CONFIG} names no architecture")
        kind = getattr(transformers, names[0])
        if not issubclass(kind, transformers.PreTrainedModel):
            raise TypeError(f"{names[0]} is no model")
        # Code that comes with a checkpoint is never run.
        known = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            return kind(known)
    except Exception as error:  # whatever may stand in a config
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise UsageError(f"Transformers cannot build the model ({reason})") from error


def _count(model: nn.Module, held: Mapping[str, Held]) -> tuple[dict[str, Count], str]:
    """Counts in the three scopes, and what they leave out.

    Raises:
        UsageError: nothing is prunable, or it is not in the file under the names it has.
    """
    scopes = Scopes.of(model, find_prunable(model)[0])
    counts = _matched(model, held)
    missing = sorted(scopes.model - counts.keys(), key=_natural)
    lost = [name for name in missing if name in scopes.prunable]
    if lost:
        raise UsageError(f"{type(model).__name__} has {lost[0]}, which is not in the file")
    note = f"not in the file, nor counted: {', '.join(missing)}" if missing else ""
    return {
        scope: _sum(counts[name] for name in getattr(scopes, scope) if name in counts)
        for scope in SCOPES
    }, note


def _matched(model: nn.Module, held: Mapping[str, Held]) -> dict[str, Count]:
    """Counts of the model's parameters, each once, by the names they have in the model.

    A checkpoint may name a tied parameter by any of its names, have or lack the prefix of the model
    without its head, and call the parameters of a layer norm gamma and beta.
    """
    first = {id(parameter): name for name, parameter in named_parameters(model)}
    every = dict(named_parameters(model, remove_duplicate=False))
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, Count] = {}
    for name, tensor in held.items():
        new = re.sub("LayerNorm.beta$", "LayerNorm.bias", name)
        new = re.sub("LayerNorm.gamma$", "LayerNorm.weight", new)
        for alias in (name, new, f"{prefix}{new}", new.removeprefix(prefix)):
            if alias in every and tuple(every[alias].shape) == tensor.shape:
                found.setdefault(first[id(every[alias])], tensor.count)
                break
    return found


def _sum(counts: Iterable[Count]) -> Count:
    counts = list(counts)
    return Count(sum(count.nonzero for count in counts), sum(count.total for count in counts))
