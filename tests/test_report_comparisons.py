"""What is held against what, what comes of it, and in which words."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run, write_study

from prunella.errors import UsageError
from prunella.report.comparisons import verdict
from prunella.report.evidence import Evidence
from prunella.report.statistics import Comparison

Pairs = set[tuple[str, str, str]]


def pairs(found: Iterable[Comparison]) -> Pairs:
    return {(each.a, each.b, each.kind) for each in found}


def study(folder: Path, *runs: tuple[str, dict[str, Any]], seeds: int = 2) -> Path:
    """Runs of criteria with settings and skills, some seeds each."""
    for number, (criterion, how) in enumerate(runs):
        for seed in range(seeds):
            write_run(folder / f"{number}-{seed}", criterion, seed=seed, **how)
    return folder


# --- which -----------------------------------------------------------------------------------


def test_every_method_is_held_against_the_baseline_and_the_best(tmp_path: Path) -> None:
    runs = {"dense": 1.4, "magnitude": 0.6, "fisher": 0.9, "platon": 1.0, "pins": 1.2}
    study(tmp_path, *((criterion, {"skill": skill}) for criterion, skill in runs.items()))
    assert pairs(Evidence.read([tmp_path]).comparisons) == {
        ("Fisher", "magnitude", "baseline"),
        ("PLATON", "magnitude", "baseline"),
        ("PINS", "magnitude", "baseline"),
        ("PINS", "Fisher", "best"),
        ("PINS", "PLATON", "best"),
        ("PINS", "dense", "dense"),
    }


def test_the_best_is_so_on_the_holdout_not_on_dev(tmp_path: Path) -> None:
    study(tmp_path, ("pins", {"skill": 1.2}), ("platon", {"skill": 0.8}), ("magnitude", {}))
    for path in tmp_path.glob("1-*/result.json"):
        result = json.loads(path.read_text())
        result["metrics"]["holdout"]["accuracy"] = 0.99
        path.write_text(json.dumps(result))
    found = pairs(Evidence.read([tmp_path]).comparisons)
    assert ("PLATON", "PINS", "best") in found


def test_without_a_holdout_nothing_is_best(tmp_path: Path) -> None:
    study(tmp_path, ("pins", {}), ("platon", {}), ("magnitude", {}))
    for path in tmp_path.glob("*/result.json"):
        result = json.loads(path.read_text())
        del result["metrics"]["holdout"]
        path.write_text(json.dumps(result))
    assert pairs(Evidence.read([tmp_path]).comparisons) == {
        ("PINS", "magnitude", "baseline"),
        ("PLATON", "magnitude", "baseline"),
    }


def test_like_is_held_against_like(tmp_path: Path) -> None:
    """A regularizer or another change: against the same without it, criteria at equal ones."""
    terms: dict[str, Any] = {"regularize": ("self",)}
    study(
        tmp_path,
        ("magnitude", {"skill": 0.6}),
        ("pins", {"skill": 1.2}),
        ("magnitude", terms | {"skill": 0.6}),
        ("pins", terms | {"skill": 1.1}),
        ("pins", terms | {"skill": 1.0, "score_gradient": "task"}),
        ("pins", {"skill": 1.0, "hold": False}),
        ("movement", {"skill": 0.5, "max_steps": 5_000}),
    )
    assert pairs(Evidence.read([tmp_path]).comparisons) == {
        ("PINS", "magnitude", "baseline"),
        ("PINS + self", "magnitude + self", "baseline"),
        ("movement, 5000 steps", "magnitude", "baseline"),  # it has no plain form
        ("magnitude + self", "magnitude", "ablation"),
        ("PINS + self", "PINS", "ablation"),
        ("PINS + self, scored by the task's gradient", "PINS + self", "ablation"),
        ("PINS, free", "PINS", "ablation"),
    }


def test_a_snapshot_is_held_against_what_its_memory_would_buy(tmp_path: Path) -> None:
    for sparsity in (0.8, 0.9):
        for criterion in ("magnitude", "platon", "pins"):
            write_run(
                tmp_path / f"{criterion}{sparsity}", criterion, sparsity, skill=len(criterion)
            )
    write_run(tmp_path / "self", "pins", 0.9, regularize=("self",))
    found = Evidence.read([tmp_path]).comparisons
    (memory,) = (each for each in found if each.kind == "memory")
    assert (memory.a, memory.sparsity, memory.b, memory.sparsity_b) == (
        *("PINS + self", 0.9),
        *("magnitude", 0.8),  # the longest name had the most skill
    )
    assert memory.verdict.startswith("PINS + self at 90 % over magnitude at 80 %: ")


def test_tasks_and_models_are_not_mixed(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=(0,), sparsities=(0.8,), tasks=("glue/sst2", "glue/rte"))
    write_run(tmp_path / "other", "pins", model="bert-base-uncased")
    found = Evidence.read([tmp_path])
    assert {each.model for each in found.comparisons} == {"demo"}
    assert {each.task for each in found.comparisons} == {"glue/sst2", "glue/rte"}


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("platon", "PLATON", {("PINS", "PLATON"), ("magnitude", "PLATON")}),
        ("PLATON", "PLATON", {("PINS", "PLATON"), ("magnitude", "PLATON")}),
        ("dense", "dense", {("PINS", "dense"), ("magnitude", "dense"), ("PLATON", "dense")}),
        (
            "pins + SELF",
            "PINS + self",
            {(name, "PINS + self") for name in ("PINS", "magnitude", "PLATON")},
        ),
    ],
)
def test_the_baseline_can_be_named(
    tmp_path: Path, name: str, method: str, expected: set[tuple[str, str]]
) -> None:
    study(
        tmp_path,
        *((criterion, {}) for criterion in ("dense", "magnitude", "platon", "pins")),
        ("pins", {"regularize": ("self",)}),
        seeds=1,
    )
    found = Evidence.read([tmp_path], name)
    assert found.baseline == method
    against = {(each.a, each.b) for each in found.comparisons if each.kind == "baseline"}
    assert against >= expected


def test_an_unknown_baseline_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    study(tmp_path, ("magnitude", {}), seeds=1)
    with pytest.raises(UsageError, match="unknown method 'magnitud': did you mean magnitude"):
        Evidence.read([tmp_path], "magnitud")


def test_without_magnitude_the_first_method_is_the_baseline(tmp_path: Path) -> None:
    study(tmp_path, ("dense", {}), ("pins", {}), ("platon", {}), seeds=1)
    assert Evidence.read([tmp_path]).baseline == "PLATON"
    study(tmp_path / "dense", ("dense", {}), seeds=1)
    assert Evidence.read([tmp_path / "dense"]).baseline is None


# --- what comes of it ------------------------------------------------------------------------


def test_a_large_difference_is_significant_and_none_is_not(tmp_path: Path) -> None:
    study(
        tmp_path,
        ("magnitude", {"skill": 0.3, "rows": 400}),
        ("pins", {"skill": 1.2, "rows": 400}),
        ("platon", {"skill": 0.32, "rows": 400}),
        seeds=3,
    )
    found = {(each.a, each.b): each for each in Evidence.read([tmp_path]).comparisons}
    large, small = found["PINS", "magnitude"], found["PLATON", "magnitude"]
    assert (large.n, large.rows) == (3, 400)
    assert large.significant and large.low is not None and large.low > 0
    assert large.difference == pytest.approx(0.2, abs=0.08)
    assert not small.significant
    assert small.p is not None and small.p_adjusted is not None and small.p_adjusted >= small.p
    assert small.smallest is not None and small.error is not None
    assert small.smallest == pytest.approx(2.8 * small.error)


def test_the_same_predictions_show_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "pins")
    text = (tmp_path / "a" / "result.json").read_text()
    for name in ("magnitude", "platon"):
        folder = write_run(tmp_path / name, name, zipped=False)
        (folder / "result.json").write_text(text.replace('"pins"', f'"{name}"'))
        lines = write_run(tmp_path / "aside" / name, "pins", zipped=False) / "predictions.jsonl"
        own = lines.read_text().replace('"criterion": "pins"', f'"criterion": "{name}"')
        (folder / "predictions.jsonl").write_text(own)
    found = Evidence.read([tmp_path / name for name in ("a", "magnitude", "platon")])
    assert len(found.comparisons) == 2
    for each in found.comparisons:
        assert (each.difference, each.low, each.high, each.p) == (0.0, 0.0, 0.0, 1.0)
        assert "+0.0 ± 0.0 points" in each.verdict


def test_seeds_are_paired_and_those_of_one_alone_left_out(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_run(tmp_path / f"magnitude{seed}", "magnitude", seed=seed)
    for seed in (1, 2, 3):
        write_run(tmp_path / f"pins{seed}", "pins", seed=seed)
    found = Evidence.read([tmp_path])
    (each,) = found.comparisons
    values = {cell.method: dict(zip(cell.seeds, cell.values, strict=True)) for cell in found.cells}
    differences = [values["PINS"][seed] - values["magnitude"][seed] for seed in (1, 2)]
    assert each.n == 2
    assert each.difference == pytest.approx(sum(differences) / 2)


def untested(folder: Path) -> Comparison:
    (found,) = Evidence.read([folder]).comparisons
    assert (found.low, found.high, found.p, found.p_adjusted, found.smallest) == (None,) * 5
    assert not found.significant
    return found


def test_what_cannot_be_tested_says_why(tmp_path: Path) -> None:
    study(tmp_path / "kept", ("magnitude", {}), ("pins", {}))
    (tmp_path / "kept" / "0-0" / "predictions.jsonl.gz").unlink()
    found = untested(tmp_path / "kept")
    assert found.verdict.endswith("n = 2, not tested: predictions were not kept by all runs")

    study(tmp_path / "few", ("magnitude", {"rows": 9}), ("pins", {"rows": 9}))
    assert untested(tmp_path / "few").verdict.endswith("not tested: dev has fewer than 10 rows")

    write_run(tmp_path / "seeds" / "a", "magnitude", seed=0)
    write_run(tmp_path / "seeds" / "b", "pins", seed=1)
    found = untested(tmp_path / "seeds")
    assert found.verdict.endswith("n = 0, not tested: no seed in common")
    assert found.difference != 0


def test_blocks_of_text_have_to_be_the_same(tmp_path: Path) -> None:
    for name, length in (("magnitude", 50), ("pins", 60)):
        task = {"name": "lm/causal", "metric": "perplexity", "lower_is_better": True}
        changes = {"task": task, "metrics": {"dev": {"perplexity": 2.718281828459045}}}
        folder = write_run(
            tmp_path / name, name, task="lm/causal", data="t", changes=changes, rows=20
        )
        rows = [
            {"criterion": name, "split": "dev", "row": n, "nll": float(length), "tokens": length}
            for n in range(20)
        ]
        (folder / "predictions.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    found = untested(tmp_path)
    assert found.verdict.endswith("not tested: the runs read dev in other pieces")
    assert "perplexity (lower is better)" in found.verdict


def test_the_correction_counts_all_comparisons_of_the_report(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=(0, 1), tasks=("glue/sst2", "glue/rte"))
    found = Evidence.read([tmp_path]).comparisons
    smallest = min(found, key=lambda each: each.p or 0)
    assert smallest.p is not None
    assert smallest.p_adjusted == pytest.approx(min(1, len(found) * smallest.p))


def test_what_was_not_equal_goes_with_the_comparison(tmp_path: Path) -> None:
    study(tmp_path, ("magnitude", {}), ("pins", {"batch_size": 16}), seeds=1)
    (found,) = Evidence.read([tmp_path]).comparisons
    assert found.unequal == ("batch size: 16 and 32",)


# --- words -----------------------------------------------------------------------------------

PLAIN = Comparison(
    task="glue/sst2",
    model="demo",
    metric="accuracy",
    lower_is_better=False,
    sparsity=0.9,
    sparsity_b=0.9,
    a="PINS",
    b="PLATON",
    kind="best",
    n=5,
    rows=872,
    difference=0.008,
    low=0.008 - 1.96 * 0.005,
    high=0.008 + 1.96 * 0.005,
    p=0.11,
    p_adjusted=0.12,
    smallest=0.014,
    unequal=(),
    verdict="",
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "PINS over PLATON at 90 %: +0.8 ± 0.5 points, n = 5, not significant (p = 0.12 after "
            "correction; 1.4 points would have been seen)",
        ),
        (
            {"p_adjusted": 0.0123, "difference": -0.03},
            "PINS over PLATON at 90 %: -3.0 ± 0.5 points, n = 5, significant (p = 0.012 after "
            "correction)",
        ),
        (
            {"p_adjusted": 1e-7, "n": 1},
            "PINS over PLATON at 90 %: +0.8 ± 0.5 points, n = 1, significant (p < 0.001 after "
            "correction); one seed says nothing of others",
        ),
        (
            {"n": 3, "by_seeds": 0.8},
            "PINS over PLATON at 90 %: +0.8 ± 0.5 points, n = 3, not significant (p = 0.12 after "
            "correction; 1.4 points would have been seen); seeds differ more than rows explain, "
            "and are too few to say how much",
        ),
        (
            {"b": "dense", "sparsity_b": 0.0, "sparsity": 0.975, "p_adjusted": 0.04},
            "PINS over dense at 97.5 %: +0.8 ± 0.5 points, n = 5, significant (p = 0.04 after "
            "correction)",
        ),
        (
            {"metric": "bleu", "difference": 1.234, "low": 0.234, "high": 2.234, "smallest": 1.43},
            "PINS over PLATON at 90 %: +1.23 ± 0.51 BLEU, n = 5, not significant (p = 0.12 after "
            "correction; 1.43 BLEU would have been seen)",
        ),
    ],
)
def test_a_verdict_says_all_of_it(changes: dict[str, Any], words: str) -> None:
    assert verdict(replace(PLAIN, **changes)) == words
