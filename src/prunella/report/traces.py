"""What a trace holds: checked once, and unpacked where it is needed."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunella.report.runs import Run, count, is_number, part

_LOG = ("step", "loss", "lr")
_SELECTION = ("step", "sparsity", "pruned", "regrown")
_ARRAYS = {"before": np.float16, "after": np.float16, "score": np.float32}


@dataclass(frozen=True, eq=False)
class Sample:
    """Some of a run's prunable weights, the same ones in all runs with the same key.

    Attributes:
        key: Of their names and shapes.
        kept: ``(size,)`` bool, whether the mask of the saved model keeps them.
        before, after: ``(points,)`` float32, values of the first ones before training and in the
            saved model; None where they were not kept.
        score: ``(points,)`` float32, at the last selection; None likewise.
    """

    key: str
    kept: np.ndarray
    before: np.ndarray | None
    after: np.ndarray | None
    score: np.ndarray | None


def sample(run: Run) -> Sample | None:
    """The sample of a run; None where it has none."""
    about = part(run.trace, "sample")
    return None if about is None else _sample(about)


def fault(trace: Mapping[str, Any]) -> str | None:
    """What is wrong with a trace; None where all that it holds is sound.

    It may lack parts, or have None for one.
    """
    for name, keys in (("log", _LOG), ("selections", _SELECTION)):
        if not _has_numbers(trace.get(name) or [], keys):
            return f"{name} does not have {', '.join(keys)} as numbers at every step"
    matrices = trace.get("matrices") or []
    if not isinstance(matrices, list) or not all(map(_is_matrix, matrices)):
        return "matrices is no list of names, shapes and counts"
    if not _is_histogram(trace.get("weights")):
        return "weights is no histogram"
    try:
        if trace.get("sample") is not None:
            _sample(trace["sample"])
    except ValueError as error:
        return f"sample cannot be unpacked: {error}"
    return None


def _has_numbers(entries: Any, keys: Sequence[str]) -> bool:
    try:
        values = [entry[key] for entry in entries for key in keys]
        # A sum is finite if, but for sums beyond all floats, each part is.
        return {*map(type, values)} <= {int, float} and math.isfinite(sum(values))
    except (LookupError, TypeError, OverflowError):
        return False


def _is_matrix(entry: Any) -> bool:
    total, left = count(entry, "total"), count(entry, "nonzero")
    shape = part(entry, "shape")
    return (
        isinstance(part(entry, "name"), str)
        and isinstance(shape, list)
        and all(isinstance(side, int) for side in shape)
        and bool(total)
        and left is not None
        and left <= (total or 0)
    )


def _is_histogram(about: Any) -> bool:
    edges, counts = part(about, "edges"), part(about, "counts")
    if edges is None and counts is None:
        return about is None or isinstance(about, Mapping)
    if not isinstance(edges, list) or not isinstance(counts, list):
        return False
    return len(edges) == len(counts) + 1 and all(map(is_number, (*edges, *counts)))


def _sample(about: Any) -> Sample:
    """Unpack a sample.

    Raises:
        ValueError: It is not as long as it says, or is no sample.
    """
    size, points, key = count(about, "size"), count(about, "points"), part(about, "key")
    if size is None or points is None or not isinstance(key, str):
        raise ValueError("it does not say its size, points and key")
    bits = np.unpackbits(_unpacked(about, "kept", np.uint8))
    if not size <= len(bits) < size + 8:
        raise ValueError(f"{len(bits)} bits for {size} weights")
    arrays: dict[str, np.ndarray | None] = {}
    for name, kind in _ARRAYS.items():
        arrays[name] = None
        if part(about, name) is not None:
            values = _unpacked(about, name, kind).astype(np.float32)
            if len(values) != points:
                raise ValueError(f"{name} has {len(values)} of {points} weights")
            arrays[name] = values
    return Sample(key, bits[:size].astype(bool), **arrays)


def _unpacked(about: Any, name: str, kind: Any) -> np.ndarray:
    text = part(about, name)
    if not isinstance(text, str):
        raise ValueError(f"{name} is not there")
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), kind)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
