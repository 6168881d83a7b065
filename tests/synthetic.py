"""Folders as runs leave them, made up: rows of a task that methods of given skill get right."""

import base64
import gzip
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prunella.experiments.config import RunConfig

PRUNABLE, MODEL = 10_000, 25_000
SIZE, POINTS = 16_384, 2_048  # of the sample of weights
LAYERS = ("attention.query", "attention.output", "intermediate", "output")


def records(
    rows: int, skill: float, seed: int, method: str, luck: float = 0.0
) -> list[dict[str, Any]]:
    """Records of two classes. What makes a row hard is the same for all; the rest is chance.

    Args:
        skill: about 1 gives an accuracy of 0.8.
        luck: standard deviation of a seed's skill.
    """
    hard = np.random.default_rng(0).normal(size=rows)
    labels = np.random.default_rng(1).integers(2, size=rows)
    own = np.random.default_rng([seed, *method.encode()])
    margin = skill + luck * own.normal() - hard + 0.5 * own.normal(size=rows)
    signs = np.where(labels == 1, 1, -1) * margin
    logits = np.stack([-signs, signs], axis=1)
    return [
        {"label": label, "logits": pair}
        for label, pair in zip(labels.tolist(), logits.tolist(), strict=True)
    ]


def accuracy(made: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([np.argmax(r["logits"]) == r["label"] for r in made]))


def result(
    made: Sequence[Mapping[str, Any]], *, criterion: str, sparsity: float, seed: int, **config: Any
) -> dict[str, Any]:
    """A result with figures that fit together; `config` are settings other than the defaults."""
    # As of a small study, so that steps need not be given.
    given = {"task": "glue/sst2", "data": "SST-2", "max_steps": 400} | config
    settings = RunConfig(criterion=criterion, sparsity=sparsity, seed=seed, **given)
    value = accuracy(made)
    return {
        "schema": 1,
        "config": settings.settings(),
        **figures(value, 0.0 if criterion == "dense" else sparsity, settings.max_steps or 400),
        **({} if criterion == "dense" else {"speed": speed(sparsity)}),
        "dev_used_for_selection": settings.uses_dev,
        "task": {"name": settings.task, "metric": "accuracy", "lower_is_better": False}
        | {"max_length": 128},
        "data": {
            "train": {"rows": 66_349, "sha256": f"train{settings.holdout_seed}"},
            "holdout": {"rows": 1_000, "sha256": f"holdout{settings.holdout_seed}"},
            "dev": {"rows": len(made), "sha256": f"{settings.task}{len(made)}"},
        },
        "teacher": None,
        "environment": {
            "python": "3.11.7",
            "packages": {"prunella": "0.1.0", "torch": "2.13.0+cpu"},
            "commit": "a" * 40,
            "platform": "Linux",
            "cpu": "AMD EPYC",
            "cores": 2,
            "threads": 1,
            "gpus": [],
        },
    }


def figures(value: float, sparsity: float, steps: int) -> dict[str, Any]:
    """What is measured of a model."""
    zeros = round(sparsity * PRUNABLE)
    totals = {"prunable": PRUNABLE, "backbone": PRUNABLE + 500, "model": MODEL}
    return {
        "metrics": {"holdout": {"accuracy": value + 0.03}, "dev": {"accuracy": value}},
        "sparsity": {scope: zeros / total for scope, total in totals.items()},
        "parameters": {
            scope: {"nonzero": total - zeros, "total": total} for scope, total in totals.items()
        },
        "size_bytes": 4 * (MODEL - zeros),
        "sparsity_is": "asked",
        "steps": steps,
        "kept_step": steps,
        "seconds": 400.0,
        "flops": {"length": 87, "dense": 2 * 87 * MODEL, "sparse": 2 * 87 * (MODEL - zeros)},
        "held": {"model": MODEL, "snapshot": 0, "teacher": 0},
    }


def speed(sparsity: float) -> dict[str, Any]:
    times = {"dense": 24.0, "sparse": 24.0 - 20 * sparsity}
    speedup = times["dense"] / times["sparse"]
    return {"length": 87, "threads": 1, "latency_ms": times, "speedup": speedup}


def trace(sparsity: float, steps: int, seed: int, method: str) -> dict[str, Any]:
    """How a run may have gone; masks of like methods are alike."""
    draw = np.random.default_rng([seed, *method.encode()])
    before = np.random.default_rng(0).normal(scale=0.05, size=SIZE)
    score = np.abs(before) * np.exp(0.3 * draw.normal(size=SIZE))
    kept = score >= np.quantile(score, sparsity)
    after = (before + 0.005 * draw.normal(size=SIZE)) * kept
    levels = np.linspace(0, sparsity, 31)[1:]
    names = [f"encoder.layer.{n}.{part}.weight" for n in range(6) for part in LAYERS]
    counts, edges = np.histogram(after[kept], bins=64)
    return {
        "schema": 1,
        "log": [
            {"step": s, "loss": 0.7 * (1 - s / steps) + 0.2, "lr": 1e-4, "sparsity": sparsity}
            for s in range(0, steps, max(1, steps // 100))
        ],
        "selections": [
            {"step": n * steps // 30, "sparsity": float(level), "threshold": 0.01 * n}
            | {"pruned": 500, "regrown": 20}
            for n, level in enumerate(levels)
        ],
        "matrices": [
            {"name": name, "shape": [20, 20], "nonzero": 400 - round(400 * sparsity), "total": 400}
            for name in names
        ],
        "weights": {"edges": edges.tolist(), "counts": counts.tolist()},
        "sample": {
            "size": SIZE,
            "points": POINTS,
            "key": "made-up",
            "kept": packed(np.packbits(kept)),
            "before": packed(before[:POINTS].astype(np.float16)),
            "after": packed(after[:POINTS].astype(np.float16)),
            "score": packed(score[:POINTS].astype(np.float32)),
        },
    }


def packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def write_run(
    folder: Path,
    criterion: str = "pins",
    sparsity: float = 0.8,
    seed: int = 0,
    *,
    rows: int = 100,
    skill: float = 1.0,
    luck: float = 0.0,
    twin: float | None = None,
    traced: bool = False,
    zipped: bool = True,
    changes: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write the folder of a run.

    Args:
        skill: see `records`.
        twin: the skill of its dense twin, where it has one.
        traced: whether it has a trace.
        zipped: whether its predictions are compressed.
        changes: of the result, at the top level.
        config: settings other than the defaults.
    """
    own = f"{criterion}{sparsity}{sorted(config.items())}"
    made = records(rows, skill, seed, own, luck)
    about = result(made, criterion=criterion, sparsity=sparsity, seed=seed, **config)
    lines = [{"criterion": criterion, "split": "dev", "row": n} | r for n, r in enumerate(made)]
    if twin is not None:
        dense = records(rows, twin, seed, "dense")
        about["baseline"] = figures(accuracy(dense), 0.0, about["steps"])
        lines += [{"criterion": "dense", "split": "dev", "row": n} | r for n, r in enumerate(dense)]
    about |= changes or {}
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(about, indent=2))
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    if zipped:
        (folder / "predictions.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (folder / "predictions.jsonl").write_text(text)
    if traced:
        (folder / "trace.json").write_text(json.dumps(trace(sparsity, about["steps"], seed, own)))
    return folder


SKILLS = {"dense": 1.4, "random": 0.5, "magnitude": 0.8, "fisher": 1.0, "platon": 1.0}
SKILLS |= {"pins": 1.05, "pins-released": 1.0, "movement": 0.2, "sensitivity": 0.95}


def write_study(
    folder: Path,
    *,
    criteria: Sequence[str] = ("dense", "magnitude", "platon", "pins"),
    sparsities: Sequence[float] = (0.5, 0.8, 0.9),
    seeds: Sequence[int] = (0, 1, 2),
    tasks: Sequence[str] = ("glue/sst2",),
    variants: Sequence[Mapping[str, Any]] = ({},),
    rows: int = 100,
    **how: Any,
) -> Path:
    """Write a grid of runs; `variants` are settings, and only plain runs are dense."""
    for task, criterion, seed in itertools.product(tasks, criteria, seeds):
        own = (0.8,) if criterion == "dense" else sparsities
        for sparsity, variant in itertools.product(own, variants):
            if criterion == "dense" and variant:
                continue
            name = "-".join([task.replace("/", "-"), criterion, f"{sparsity}", f"seed{seed}"])
            tail = "".join(f"-{key}{value}" for key, value in variant.items())
            skill = SKILLS[criterion] - (0 if criterion == "dense" else sparsity**3)
            given = {"task": task, "skill": skill, "rows": rows, **how, **variant}
            write_run(folder / (name + tail), criterion, sparsity, seed, **given)
    return folder


def settings(**given: Any) -> dict[str, Any]:
    """All settings of a run, as JSON has them."""
    return {
        n: list(v) if isinstance(v, tuple) else v for n, v in asdict(RunConfig(**given)).items()
    }
