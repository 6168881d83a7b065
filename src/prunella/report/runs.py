"""One run as its folder tells it, and the words for what is wrong with a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunella.report.summands import Summands

SCOPES = ("prunable", "backbone", "model")
DENSE = "dense"
NOT_KEPT = "predictions were not kept by all runs"
_LARGEST = 1e300  # JSON knows longer numbers than floats do


@dataclass(frozen=True)
class Problem:
    """Something that was left out of the report, or is in it with a doubt.

    Attributes:
        path: The folder or file.
        reason: What is wrong with it, in a sentence without a full stop.
        left_out: Whether the run is not in the report; otherwise only a part of it is not.
    """

    path: Path
    reason: str
    left_out: bool = True


@dataclass(frozen=True, order=True)
class Place:
    """What figures have to share before one is held against another.

    Attributes:
        task, model, metric: As runs have them.
        data: Hash of dev's rows; where it is not known, how many there are; or "".
        pieces: In which pieces dev is read, where the metric depends on that; or "".
    """

    task: str
    model: str
    metric: str
    data: str = ""
    pieces: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: Where its ``result.json`` is; or the file itself, where it goes by another name.
        result: As that file has it. For the dense twin of a pruned run, the run's with the twin's
            figures in place of its own, ``dense`` for the criterion in ``config``, and that of the
            run under ``twin_of``.
        trace: How training went, as ``trace.json`` has it; None where there is none.
        twin: Whether it is the dense twin of a run, out of that run's folder.
        summands: What its predictions on dev add to the headline metric, row by row; None where
            no predictions were kept, or they do not make up the metric.
        unpaired: Why there are no summands, where there are none.
    """

    folder: Path
    result: Mapping[str, Any]
    trace: Mapping[str, Any] | None = None
    twin: bool = False
    summands: Summands | None = None
    unpaired: str = NOT_KEPT

    # --- what was asked ----------------------------------------------------------------------

    @property
    def config(self) -> Mapping[str, Any]:
        return self.result["config"]

    @property
    def name(self) -> str:
        """The folder's name, with "(dense twin)" where it is one."""
        return self.folder.name.removesuffix(".json") + (" (dense twin)" if self.twin else "")

    @property
    def task(self) -> str:
        return str(self.config["task"])

    @property
    def model(self) -> str:
        """What training began with, as it was named; "demo" where nothing was."""
        return str(self.config.get("model") or self.config.get("masks_from") or "demo")

    @property
    def criterion(self) -> str:
        return str(self.config["criterion"])

    @property
    def regularizers(self) -> tuple[str, ...]:
        """In order of name, for their order changes nothing."""
        return tuple(sorted(self.config.get("regularize") or ()))

    @property
    def dense(self) -> bool:
        return self.criterion == DENSE

    @property
    def sparsity(self) -> float:
        """What was asked for: of dense runs 0, of a ladder's the level that was delivered."""
        if self.dense:
            return 0.0
        delivered = number(self.result.get("max_drop"), "delivered")
        return float(self.config["sparsity"]) if delivered is None else delivered

    @property
    def ladder(self) -> Mapping[str, Any] | None:
        """How sparse it could get, where that was asked; a twin has it of a run without a model."""
        found = self.result.get("max_drop")
        return found if isinstance(found, Mapping) and not self.twin else self.undelivered

    @property
    def undelivered(self) -> Mapping[str, Any] | None:
        """Of the twin of a run that delivered no model: the levels that were tried."""
        found = self.result.get("undelivered")
        return found if self.twin and isinstance(found, Mapping) else None

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    # --- what came of it ---------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """Where its figures stand."""
        rows, known = self.data("dev")
        data = known or ("" if rows is None else f"{rows} rows")
        return Place(self.task, self.model, self.metric, data, self._pieces)

    @property
    def _pieces(self) -> str:
        """A perplexity is of tokens that are read in blocks, and depends on their length."""
        length = part(self.result.get("task"), "max_length") or self.config.get("max_length")
        if self.metric != "perplexity" or length is None:
            return ""
        stride = part(self.result.get("task"), "stride") or self.config.get("stride")
        return f"blocks of {length} tokens" + (f", {stride} of them again" if stride else "")

    @property
    def metric(self) -> str:
        """The name of the headline metric."""
        named = part(self.result.get("task"), "metric")
        return str(named or next(iter(self.result["metrics"]["dev"])))

    @property
    def lower_is_better(self) -> bool:
        said = part(self.result.get("task"), "lower_is_better")
        return self.metric == "perplexity" if said is None else bool(said)

    @property
    def value(self) -> float:
        """The headline metric on dev, in its own unit."""
        return float(self.result["metrics"]["dev"][self.metric])

    @property
    def holdout(self) -> float | None:
        """The headline metric on the holdout."""
        return number(self.result["metrics"].get("holdout"), self.metric)

    @property
    def test(self) -> float | None:
        """The headline metric on the test set, where there is one."""
        return number(self.result["metrics"].get("test"), self.metric)

    def figures(self) -> Iterator[tuple[str, str, float]]:
        """Split, name and value of all metrics, those within others named by the way there."""
        for split, found in self.result["metrics"].items():
            yield from ((str(split), name, value) for name, value in _numbers(found))

    @property
    def measured(self) -> float | None:
        """Fraction of zeros among the prunable weights of the saved file."""
        return number(self.result.get("sparsity"), "prunable")

    @property
    def steps(self) -> int:
        return int(self.result["steps"])

    @property
    def seconds(self) -> float | None:
        return number(self.result, "seconds")

    def nonzero(self, scope: str) -> int | None:
        """Non-zero parameters of a scope: ``prunable``, ``backbone`` or ``model``."""
        return count(part(self.result.get("parameters"), scope), "nonzero")

    def total(self, scope: str) -> int | None:
        """Parameters of a scope, zeros included."""
        return count(part(self.result.get("parameters"), scope), "total")

    @property
    def flops(self) -> int | None:
        """Floating-point operations of a pass over one input, zero weights skipped."""
        return count(self.result.get("flops"), "sparse")

    @property
    def dense_flops(self) -> int | None:
        """The same with no weight skipped."""
        return count(self.result.get("flops"), "dense")

    @property
    def held(self) -> int | None:
        """Parameters held while training: of the model, its snapshot and its teacher."""
        parts = self.result.get("held")
        if count(parts, "model") is None:
            return None
        return sum(count(parts, name) or 0 for name in ("model", "snapshot", "teacher"))

    @property
    def size_bytes(self) -> int | None:
        """Weights on disk."""
        return count(self.result, "size_bytes")

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds for one input: of a dense run computed densely, of others sparsely."""
        return number(self._latencies, "dense" if self.dense else "sparse")

    @property
    def dense_latency_ms(self) -> float | None:
        """Milliseconds for the same input with the same weights computed densely."""
        return number(self._latencies, "dense")

    @property
    def _latencies(self) -> Any:
        return part(self.result.get("speed"), "latency_ms")

    @property
    def speedup(self) -> float | None:
        """How many times as fast as dense; 1 for dense runs that were measured."""
        if self.dense:
            return None if self.latency_ms is None else 1.0
        return number(self.result.get("speed"), "speedup")

    @property
    def speed_setting(self) -> str:
        """What the latency is of, such as "87 tokens, 1 thread"; "" where it was not measured."""
        speed = self.result.get("speed")
        length, threads = count(speed, "length"), count(speed, "threads")
        if self.latency_ms is None or length is None or threads is None:
            return ""
        return f"{length} tokens, {threads} thread{'s' if threads != 1 else ''}"

    # --- what it was made with ---------------------------------------------------------------

    def data(self, split: str) -> tuple[int | None, str]:
        """Rows of a split, and the hash of its data; an empty one where it is not known."""
        about = part(self.result.get("data"), split)
        return count(about, "rows"), str(part(about, "sha256") or "")

    @property
    def environment(self) -> Mapping[str, Any]:
        about = self.result.get("environment")
        return about if isinstance(about, Mapping) else {}

    @property
    def commit(self) -> str:
        """Of the code; "unknown" outside a checkout, with a plus sign where it was changed."""
        return str(self.environment.get("commit") or "unknown")

    @property
    def packages(self) -> Mapping[str, Any]:
        packages = self.environment.get("packages")
        return packages if isinstance(packages, Mapping) else {}

    @property
    def hardware(self) -> str:
        """Such as "1 × NVIDIA H100" or "AMD EPYC, 2 cores, 1 in use"."""
        gpus = self.environment.get("gpus")
        if isinstance(gpus, list) and gpus:
            names = [str(gpu) for gpu in gpus]
            return ", ".join(f"{names.count(name)} × {name}" for name in sorted(set(names)))
        cpu, cores, threads = map(self.environment.get, ("cpu", "cores", "threads"))
        return f"{cpu}, {cores} cores, {threads} in use" if cpu else "unknown"

    @property
    def used_dev(self) -> bool:
        """Whether dev was looked at in making the model, or its teacher."""
        return bool(self.result.get("dev_used_for_selection"))


def _numbers(found: Any, before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in found.items() if isinstance(found, Mapping) else ():
        if is_number(value):
            yield f"{before}{name}", float(value)
        else:
            yield from _numbers(value, f"{before}{name} ")


def part(mapping: Any, key: str) -> Any:
    """What a mapping has under a key; None where it has nothing, or is none."""
    return mapping.get(key) if isinstance(mapping, Mapping) else None


def number(mapping: Any, key: str) -> float | None:
    """Likewise a finite number; None where it is anything else."""
    value = part(mapping, key)
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    # Of NaN and of no other, comparisons are false.
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= _LARGEST


def count(mapping: Any, key: str) -> int | None:
    """Likewise a whole number from 0 on."""
    value = number(mapping, key)
    return int(value) if value is not None and value >= 0 and value.is_integer() else None
