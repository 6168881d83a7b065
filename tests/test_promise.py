"""How sparse can it get: limits that are none, what is said on dev, climbs too short."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from folders import result_of

from prunella.cli import main
from prunella.errors import UsageError
from prunella.experiments import data, promise
from prunella.experiments.callbacks import Levels
from prunella.experiments.config import RunConfig


def accuracy(records: Any) -> float:
    return float(np.mean(records))


def test_the_interval_holds_whichever_level_is_chosen() -> None:
    """Of four models the one that looks best on dev itself, the worst case, is looked at."""
    rng = np.random.default_rng(0)
    held = alone = 0
    for _ in range(400):
        hard = rng.random(300)  # rows are hard or easy for all models
        dense = (hard + 0.2 * rng.random(300) < 0.95).tolist()
        models = [(hard + 0.2 * rng.random(300) < 0.92).tolist() for _ in range(4)]
        truth = _share(0.92) - _share(0.95)
        best = max(models, key=accuracy)
        low, high = promise.interval(accuracy, dense, best, choices=4)
        held += low <= truth <= high
        low, high = promise.interval(accuracy, dense, best, choices=1)
        alone += low <= truth <= high
    assert held / 400 >= 0.94
    assert alone < held  # what taking the choice into account is for


def _share(limit: float) -> float:
    """P(U + 0.2 V < limit), limit in [0.2, 1]."""
    return limit - 0.1


def test_the_interval_is_not_far_too_wide() -> None:
    rng = np.random.default_rng(1)
    right = (rng.random((2, 1000)) < [[0.9], [0.85]]).astype(float)
    low, high = promise.interval(accuracy, right[0].tolist(), right[1].tolist(), choices=1)
    error = np.sqrt(np.var(right[1] - right[0]) / 1000)
    assert (high - low) / 2 == pytest.approx(2.06 * error, rel=0.5)
    assert (high + low) / 2 == pytest.approx(right[1].mean() - right[0].mean())


def test_rows_on_one_text_count_as_one() -> None:
    rng = np.random.default_rng(2)
    right = np.repeat(rng.random((2, 50)) < [[0.9], [0.8]], 10, axis=1).tolist()
    many = promise.interval(accuracy, *right, choices=1)
    one = promise.interval(accuracy, *(part[::10] for part in right), choices=1)
    assert many[1] - many[0] == pytest.approx(one[1] - one[0], rel=0.01)


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 24, 2.064), (0.99375, 24, 2.6994), (0.975, 9, 2.262)],
)
def test_students_t(probability: float, freedom: int, quantile: float) -> None:
    assert promise._student(probability, freedom) == pytest.approx(quantile, abs=2e-3)


TOO_LARGE = {
    "accuracy": ("glue/sst2", None, 2.0, ["--max-drop 2", "accuracy", "runs to 1", "give 0.02"]),
    "a correlation": ("glue/stsb", None, 1.0, ["--max-drop 1 ", "pearson", "less than 1"]),
    "another metric": ("glue/mrpc", "f1", 50.0, ["f1", "give 0.5"]),
    "bleu": ("d2t/e2e", None, 100.0, ["bleu", "runs to 100", "less than 100"]),
    "tags": ("ner/conll2003", None, 3.0, ["--max-drop 3", "f1", "give 0.03"]),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_limit_that_any_model_keeps_is_refused(name: str) -> None:
    task, metric, drop, said = TOO_LARGE[name]
    with pytest.raises(UsageError) as caught:
        data.task(RunConfig(task=task, metric=metric, max_drop=drop))
    assert all(part in str(caught.value) for part in said)


def test_limits_in_the_metrics_own_units_are_taken(tmp_path: Path) -> None:
    assert data.task(RunConfig(task="d2t/e2e", max_drop=2.0)).top == 100
    (tmp_path / "a.txt").write_text("a word or two\n" * 40)
    config = RunConfig(task="lm/causal", data=str(tmp_path / "a.txt"), max_drop=300.0)
    assert data.task(config).name == "lm/causal"


def climb(*points: tuple[float, int, float]) -> list[dict[str, Any]]:
    return [{"level": level, "step": step, "holdout": value} for level, step, value in points]


FALLING = [{"step": step, "loss": 2 - step / 100} for step in range(1, 101)]
FLAT = [{"step": step, "loss": 0.5} for step in range(1, 101)]


def test_what_says_that_training_was_too_short() -> None:
    worse = climb((0.5, 50, 0.8), (0.9, 100, 0.7))
    better = climb((0.5, 50, 0.7), (0.9, 100, 0.8))
    assert promise.unfinished(worse, FLAT, False) is None
    assert "90% did no worse on the holdout than 50%" in str(
        promise.unfinished(better, FLAT, False)
    )
    assert promise.unfinished(better, FLAT, True) is None
    assert "90% did no worse on the holdout than 50%" in str(promise.unfinished(worse, FLAT, True))
    assert "loss of the dense model fell from 1.5" in str(promise.unfinished(worse, FALLING, False))
    assert promise.unfinished(climb((0.5, 100, 0.7)), FALLING, False) is None


def test_only_the_first_process_writes_levels(tmp_path: Path, bert: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(bert)
    callback = Levels({0.5: 3}, tmp_path / "levels", AutoTokenizer.from_pretrained(bert))
    for first in (False, True):
        state: Any = SimpleNamespace(global_step=3, is_world_process_zero=first)
        callback.on_step_end(None, state, None, model=model)  # type: ignore[arg-type]
        assert (tmp_path / "levels" / "0.5").is_dir() is first


@pytest.fixture(scope="module")
def run(bert: Path, sst2: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    def carried_out(*flags: str) -> Path:
        output = tmp_path_factory.mktemp("promise") / "out"
        where = ["--model", str(bert), "--task", "glue/sst2", "--data", str(sst2)]
        short = "--batch-size 8 --max-steps 24 --begin 3 --every 2 --levels 0.3 --levels 0.6"
        assert main(["prune", *where, *short.split(), *flags, "--output", str(output)]) == 0
        return output

    return carried_out


def test_the_promise_is_looked_at_on_dev(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    result = result_of(run("--criterion", "magnitude", "--max-drop", "0.9"))
    worth = result["max_drop"]["worth"]["dev"]
    ours, dense = (r["metrics"]["dev"]["accuracy"] for r in (result, result["baseline"]))
    assert worth["drop"] == pytest.approx(dense - ours)
    low, high = worth["interval"]
    assert low <= worth["drop"] <= high < 0.9
    out = " ".join(capfd.readouterr().out.split())
    assert f"On dev, which had no part in the choice, it lost {worth['drop']:.4f}" in out
    assert "at all 2 levels at once), so the limit is kept" in out


def test_a_climb_that_was_too_short_says_so(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run("--criterion", "random", "--max-drop", "0", "--lr", "3e-3", "--seed", "3")
    found = result_of(folder)["max_drop"]
    out = " ".join(capfd.readouterr().out.split())
    assert found["delivered"] is None and found["longer"] == "--max-steps 48"
    assert "--max-steps 48" in out and "No model lost 0 or less" in out
    assert json.dumps(found["unfinished"])
