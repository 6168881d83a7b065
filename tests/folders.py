"""What a run of the command leaves, read without the library; and what it says when it refuses."""

import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from prunella import cli
from prunella.experiments.asking import Evaluation, Prediction
from prunella.experiments.config import RunConfig


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    with safe_open(folder / "sparse.safetensors", "np") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["tensors"])
    return {
        name: _decoded(stored[f"{name}.bits"], stored[f"{name}.values"], tensor["shape"])
        if tensor["coded"]
        else stored[name]
        for name, tensor in about.items()
    }


def _decoded(bits: np.ndarray, values: np.ndarray, shape: list[int]) -> np.ndarray:
    weights = np.zeros(shape, values.dtype)
    kept = np.unpackbits(bits, bitorder="little")[: weights.size].astype(bool)
    weights.reshape(-1)[kept] = values
    return weights


def matrices_of(folder: Path) -> dict[str, np.ndarray]:
    """What the command may prune: the matrices inside the repeated layers."""
    weights = weights_of(folder).items()
    return {n: w for n, w in weights if w.ndim == 2 and (".layer." in n or ".h." in n)}


def zeros_of(folder: Path) -> int:
    return sum(int((w == 0).sum()) for w in matrices_of(folder).values())


def predictions_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = weights_of(one), weights_of(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[n], theirs[n]) for n in ours)


def assert_refused(capfd: pytest.CaptureFixture[str], words: list[str]) -> str:
    """One line on the error stream, with these words in it, and no flags but those that exist."""
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("prunella: ")
    assert [word for word in words if word not in line] == []
    assert flags_in(line) <= _flags()
    return line


def flags_in(line: str) -> set[str]:
    return {*re.findall(r"(?<![\w-])--([a-z][a-z-]*)", line)}


@cache
def _flags() -> set[str]:
    """Flags of the commands, without their dashes."""
    known = (
        RunConfig,
        cli.Sweep,
        cli.Report,
        cli.Info,
        cli.Bench,
        cli.Export,
        Evaluation,
        Prediction,
    )
    names = {field.name.replace("_", "-") for kind in known for field in fields(kind)}
    return names | {f"no-{name}" for name in names} | {"config"}
