"""Which settings make two runs the same method, and what people call a method."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prunella.experiments.config import RunConfig
from prunella.report.runs import Run, part

# Settings that are searched over; the others are choices of method, budget or data.
HYPER = (
    "lr",
    "score_lr",
    "weight_decay",
    "warmup",
    "begin",
    "end",
    "every",
    "snapshot_every",
    "self_weight",
    "distill_weight",
    "distill_hidden",
    "distill_attention",
    "temperature",
    "smoothing",
    "virtual_teacher",
)

# Without effect on what is computed; told by something else; or what a cell goes by anyway.
_APART = {
    *("output", "overwrite", "resume", "report_to", "save", "metric", "baseline"),
    "with_text",
    *(
        "data",
        "test_data",
        "text_column",
        "pair_column",
        "label_column",
        "source_column",
        "target_column",
    ),
    *("epochs", "max_steps"),  # steps stand for them
    *("task", "model", "criterion", "sparsity", "regularize", "seed"),
}
_OF_MASKS = ("masks_from", "prune", "include_biases", "include_embeddings")

METHODS = {
    "dense": "dense",
    "random": "random",
    "magnitude": "magnitude",
    "sensitivity": "sensitivity",
    "fisher": "Fisher",
    "platon": "PLATON",
    "platon-released": "PLATON released",
    "pins": "PINS",
    "pins-signed": "PINS signed",
    "pins-sgd": "PINS printed form",
    "pins-released": "PINS released",
    "movement": "movement",
    "soft-movement": "soft movement",
    "l0": "L0",
}

_DEFAULT = RunConfig()
_WORDS = {
    ("hold", False): "free",
    ("hold", True): "held",
    ("scope", "matrix"): "local",
    ("scope", "global"): "global",
    ("target", False): "without target",
    ("score_gradient", "task"): "scored by the task's gradient",
    ("after", "reselect"): "reselected to the end",
    ("keep", "best"): "the best kept",
    ("lr_schedule", "constant"): "constant lr",
    ("lr_schedule", "linear"): "decayed lr",
    ("freeze_embeddings", True): "embeddings frozen",
    ("freeze_embeddings", False): "embeddings trained",
}


def settings_of(run: Run) -> dict[str, Any]:
    """The settings that a run's outcome depends on besides data, model, criterion and seed.

    Settings without effect are left out, so that two runs are the same method if and only if these
    are equal. ``steps`` are those of the run; a teacher is told by what it is, for every seed may
    have its own.
    """
    config = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in run.config.items()
        if value is not None or getattr(_DEFAULT, name, None) is None
    }
    known: dict[str, Any] = {n: config[n] for n in RunConfig.__dataclass_fields__ if n in config}
    given = RunConfig(**known)
    idle = given.idle()
    if run.dense:
        idle |= {*_OF_MASKS}
    if given.keep == "last" and given.patience is None and given.snapshot == "every":
        idle.add("check_every")
    values = {
        name: value
        for name, value in (vars(_DEFAULT) | config).items()
        if name not in _APART and name not in idle
    }
    if run.dense and values.get("max_drop") is not None:
        values["max_drop"] = True  # by how much decides nothing of the dense twin
    values["max_length"] = part(run.result.get("task"), "max_length") or values["max_length"]
    if "teacher" in values:
        values["teacher"] = _teacher(run)
    # Where a run may stop early, its steps are an outcome.
    asked = (given.max_steps, given.epochs)
    values["steps"] = run.steps if given.patience is None else [*asked, given.patience]
    return values


def _teacher(run: Run) -> str | None:
    path = run.config.get("teacher")
    about = part(run.result.get("teacher"), "config")
    if not isinstance(about, Mapping):
        return None if path is None else str(path)
    sparsity = "" if about.get("criterion") == "dense" else f", {about.get('sparsity')}"
    return f"{about.get('criterion')}{sparsity}, {about.get('model') or 'demo'}"


def text(value: Any) -> str:
    """A setting as a key."""
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return json.dumps(value, sort_keys=True, default=str)


def differing(runs: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, Any]:
    """The settings that differ, each with the value that goes without saying.

    That is the default where any run has it, so that more runs do not change a method's name; or
    else the one that most runs have, and of several the first in order. Runs without a setting have
    no part in it.

    Args:
        runs: Settings, and how many runs have them.
    """
    found = {}
    for name in sorted({name for settings, _ in runs for name in settings}):
        counts: Counter[str] = Counter()
        values = {}
        for settings, count in runs:
            if name in settings:
                counts[text(settings[name])] += count
                values[text(settings[name])] = settings[name]
        if len(values) > 1:
            usual = text(getattr(_DEFAULT, name, None))
            best = min(counts, key=lambda value: (value != usual, -counts[value], value))
            found[name] = values[best]
    return found


def label(name: str, value: Any) -> str:
    """A setting and its value, as short as can be."""
    if isinstance(value, bool | str) and (name, value) in _WORDS:
        return _WORDS[name, value]
    if name == "steps" and not isinstance(value, list):
        return f"{value} steps"
    words = name.replace("_", " ")
    if value is None:
        return f"{words} by default"
    if isinstance(value, bool):
        return words if value else f"no {words}"
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else shown
    return f"{words} {_short(shown)}"


def _short(number: str) -> str:
    """2e-4 for 2e-04 and for 0.0002."""
    try:
        value = float(number)
    except ValueError:
        return number
    if value and abs(value) < 0.001:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return number


def method(criterion: str, regularizers: Iterable[str], labels: Iterable[str]) -> str:
    """What people call a method, such as "PINS + self, free"."""
    terms = (term.replace("-", " ") for term in regularizers)
    first = " + ".join([METHODS.get(criterion, criterion), *terms])
    return ", ".join([first, *labels])


def order(criterion: str) -> tuple[int, str]:
    """By which methods are sorted: as in the documentation, unknown ones last."""
    names = list(METHODS)
    return (names.index(criterion) if criterion in names else len(names), criterion)
