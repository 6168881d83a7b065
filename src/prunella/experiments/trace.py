"""How a run went: its loss, its selections, and a sample of its weights that runs can share."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunella.allocation import Element, Global
from prunella.hf import PruningCallback
from prunella.prunable import Prunable
from prunella.pruner import Pruner

SCHEMA = 1
SIZE = 16_384  # weights whose masks are compared: an overlap is then known to half a percent
POINTS = 2_048  # of them, those whose values are kept
BINS = 64
SELECTION, SAMPLE = "selection", "sample"  # entries in the Trainer's log


@dataclass(frozen=True)
class Sample:
    """Some weights, drawn by the names and shapes of the prunable parameters alone.

    So every run on the same model looks at the same ones, whatever its seed and method.

    Attributes:
        key: tells whether two samples are of the same weights.
    """

    key: str
    _names: tuple[str, ...]
    _matrix: np.ndarray  # [SIZE] index into names
    _place: np.ndarray  # [SIZE] index into the flat parameter

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Sample:
        """Drawn with replacement from all weights of parameters by name."""
        names = tuple(sorted(shapes))
        digest = sha256(repr([(name, tuple(shapes[name])) for name in names]).encode())
        ends = np.cumsum([int(np.prod(shapes[name])) for name in names])
        seed = int.from_bytes(digest.digest()[:8], "little")
        drawn = np.random.default_rng(seed).integers(ends[-1], size=SIZE)
        matrix = np.searchsorted(ends, drawn, side="right")
        return cls(digest.hexdigest()[:16], names, matrix, drawn - np.r_[0, ends][matrix])

    def values(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        """Those of parameters by name, [SIZE] float32."""
        found = np.empty(SIZE, np.float32)
        for name, tensor in tensors.items():
            self.take(name, tensor, found)
        return found

    def take(self, name: str, tensor: Tensor, found: np.ndarray) -> None:
        """Put those of one parameter in their places of ``found``, [SIZE]."""
        here = self._matrix == self._names.index(name)
        flat = tensor.detach().reshape(-1)
        places = torch.from_numpy(self._place[here]).to(flat.device)
        found[here] = flat[places].float().cpu().numpy()


class Tracer(TrainerCallback):
    """Notes each selection of masks, and a sample of weights and scores, in the Trainer's log.

    The log is part of every checkpoint, so a resumed run has all of it.
    """

    def __init__(self, pruning: PruningCallback):
        self._pruning = pruning

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        pruner = self._pruner
        shapes = {name: prunable.parameter.shape for name, prunable in pruner.prunable.items()}
        self._sample = Sample.of(shapes)
        self._log: list[Any] = state.log_history
        if _entry(self._log) is None:
            weights = {name: prunable.parameter for name, prunable in pruner.prunable.items()}
            before = _packed(self._sample.values(weights)[:POINTS], np.float16)
            entry: dict[str, Any] = {"step": 0, SAMPLE: {"before": before, "score": None}}
            self._log.append(entry)
        pruner.on_selection = self._note

    @property
    def _pruner(self) -> Pruner:
        assert self._pruning.pruner is not None
        return self._pruning.pruner

    def _note(self, scores: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
        """A selection: how many weights went and came back, and the lowest score that was kept."""
        pruner = self._pruner
        if pruner.step % pruner.schedule.every and pruner.step != pruner.schedule.final_update():
            return  # where masks are selected at every step, a few are enough
        masks, lowest, found = pruner.masks, torch.inf, np.empty(SIZE, np.float32)
        for name, prunable in pruner.prunable.items():
            score = prunable.stored(scores[name])
            self._sample.take(name, score, found)
            lowest = min(lowest, float(score.masked_fill(~masks[name], torch.inf).min()))
        one_cut = type(pruner.allocation) is Global and type(pruner.allocation.pattern) is Element
        entry = {
            "sparsity": pruner.sparsity,
            "threshold": lowest if one_cut else None,
            "pruned": sum(int((before[n] & ~mask).count_nonzero()) for n, mask in masks.items()),
            "regrown": sum(int((mask & ~before[n]).count_nonzero()) for n, mask in masks.items()),
        }
        self._log.append({"step": pruner.step, SELECTION: entry})
        sample = _entry(self._log)
        assert sample is not None
        sample["score"] = _packed(found[:POINTS], np.float32)


def of_training(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a Trainer's log says of a training: losses, selections and, if it pruned, a sample."""
    return {
        "log": [
            {"step": entry["step"], "loss": entry["loss"], "lr": entry["learning_rate"]}
            | {name: entry[name] for name in ("sparsity",) if name in entry}
            for entry in log
            if "loss" in entry
        ],
        "selections": [{"step": e["step"]} | e[SELECTION] for e in log if SELECTION in e],
        "sample": _entry(log),
    }


def of_model(training: Mapping[str, Any], prunable: Mapping[str, Prunable]) -> dict[str, Any]:
    """What ``trace.json`` holds: how a training went, and what the saved model is made of.

    Args:
        training: what ``of_training`` found.
        prunable: the parameters of the saved model.
    """
    weights = {name: part.parameter.detach() for name, part in prunable.items()}
    sample = Sample.of({name: weight.shape for name, weight in weights.items()})
    after = sample.values(weights)
    about = {
        "size": SIZE,
        "points": POINTS,
        "key": sample.key,
        "kept": base64.b64encode(np.packbits(after != 0).tobytes()).decode(),
        "after": _packed(after[:POINTS], np.float16),
    }
    return {
        "schema": SCHEMA,
        "log": training["log"],
        "selections": training["selections"],
        "matrices": [
            {
                "name": name,
                "shape": list(part.shape),
                "nonzero": int(weights[name].count_nonzero()),
                "total": weights[name].numel(),
            }
            for name, part in prunable.items()
        ],
        "weights": _histogram(weights.values(), after),
        "sample": about | (training["sample"] or {"before": None, "score": None}),
    }


def _histogram(weights: Iterable[Tensor], sample: np.ndarray) -> dict[str, Any]:
    """Of the non-zero weights; the outermost bins hold what lies beyond them, one in a thousand."""
    kept = np.abs(sample[sample != 0])
    limit = float(np.quantile(kept, 0.999)) if kept.size else 1.0
    edges = np.linspace(-limit, limit, BINS + 1)
    counts = torch.zeros(BINS)
    for weight in weights:
        values = weight[weight != 0].float().clamp(-limit, limit)
        counts += torch.histc(values.cpu(), BINS, -limit, limit)
    return {"edges": edges.tolist(), "counts": counts.long().tolist()}


def _entry(log: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    return next((entry[SAMPLE] for entry in log if SAMPLE in entry), None)


def _packed(values: np.ndarray, kind: type[np.floating[Any]]) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()
