"""The embedded default means something: what a run loses depends on what it prunes.

Real training of the real encoder, so the longest test there is. The task was fixed on dense runs
alone, before any pruned one.
"""

from pathlib import Path
from statistics import mean

import pytest
from rich.console import Console

from prunella.experiments.config import RunConfig
from prunella.experiments.run import run

SEEDS = (0, 1)


def accuracies(
    criterion: str, folder: Path, *, seeds: tuple[int, ...] = SEEDS, steps: int = 80, rows: int = 16
) -> list[float]:
    """Dev accuracy of short runs, one a seed."""
    found = []
    for seed in seeds:
        config = RunConfig(
            criterion=criterion,
            max_steps=steps,
            batch_size=rows,
            lr=2e-4,
            seed=seed,
            check_every=1.0,
            baseline=False,
            output=str(folder / f"{criterion}-{seed}"),
        )
        _, result = run(config, Console(quiet=True))
        found.append(result["metrics"]["dev"]["accuracy"])
    return found


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return accuracies("pins", tmp_path_factory.mktemp("pins"))


def test_dense_does_well_without_saturating(tmp_path: Path) -> None:
    (dense,) = accuracies("dense", tmp_path, seeds=SEEDS[:1], steps=120, rows=32)
    assert 0.8 < dense < 0.97


def test_random_pruning_is_clearly_worse(pins: list[float], tmp_path: Path) -> None:
    random = accuracies("random", tmp_path)
    assert max(random) < min(pins)
    assert mean(pins) - mean(random) > 0.05
