"""Which runs are the same method, what it is called, which setting is chosen, and the stamps."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run, write_study

from prunella.report.budgets import flags
from prunella.report.cells import Cell
from prunella.report.evidence import Evidence
from prunella.report.settings import label


def cells(folder: Path) -> dict[str, Cell]:
    """The cells of a folder by label; more than one of a label are an error."""
    found = Evidence.read([folder]).cells
    assert len({cell.label for cell in found}) == len(found)
    return {cell.label: cell for cell in found}


def edit(folder: Path, changes: Mapping[str, Any]) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_runs_that_differ_in_the_seed_are_a_cell(tmp_path: Path) -> None:
    write_study(tmp_path, criteria=("dense", "pins"), sparsities=(0.8, 0.9), seeds=(2, 0, 1))
    found = Evidence.read([tmp_path]).cells
    assert [(c.method, c.sparsity, c.n, c.seeds) for c in found] == [
        ("dense", 0.0, 3, (0, 1, 2)),
        ("PINS", 0.8, 3, (0, 1, 2)),
        ("PINS", 0.9, 3, (0, 1, 2)),
    ]
    cell = found[1]
    assert cell.mean == pytest.approx(sum(cell.values) / 3)
    assert cell.sd == pytest.approx(
        (sum((v - cell.mean) ** 2 for v in cell.values) / 2) ** 0.5  # of the sample
    )
    assert cell.holdout_mean == pytest.approx(cell.mean + 0.03)
    assert cell.nonzero("prunable") == 2_000
    assert cell.stamps == ()


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    assert cells(tmp_path)["PINS"].sd is None


def test_methods_are_named_by_what_differs(tmp_path: Path) -> None:
    """Defaults go without saying, or what most runs have; hyper-parameters are no part of it."""
    for seed in (0, 1):
        write_run(tmp_path / f"plain{seed}", seed=seed)
        write_run(tmp_path / f"magnitude{seed}", "magnitude", seed=seed)
        write_run(tmp_path / f"lr{seed}", "magnitude", seed=seed, lr=2e-4)
        write_run(tmp_path / f"self{seed}", seed=seed, regularize=("self",))
        write_run(tmp_path / f"free{seed}", seed=seed, hold=False)
        write_run(tmp_path / f"local{seed}", seed=seed, scope="matrix")
        write_run(tmp_path / f"long{seed}", seed=seed, max_steps=1_000)
    write_run(
        tmp_path / "all",
        regularize=("self", "smoothing"),
        score_gradient="task",
        lr_schedule="constant",
        hold=False,
    )
    found = cells(tmp_path)
    assert set(found) == {
        "PINS",
        "PINS + self",
        "PINS + self + smoothing, free, constant lr, scored by the task's gradient",
        "PINS, 1000 steps",
        "PINS, free",
        "PINS, local",
        "magnitude",
        "magnitude, lr 2e-4",
    }
    assert found["magnitude, lr 2e-4"].method == "magnitude"
    assert found["magnitude, lr 2e-4"].settings["lr"] == 2e-4
    assert found["PINS, free"].variant == ("free",)
    assert found["PINS + self"].variant == ("self",)


def test_settings_without_effect_make_no_other_method(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "dense", seed=0)
    write_run(tmp_path / "b", "dense", 0.9, seed=1, scope="matrix", hold=True, begin=0.2)
    write_run(tmp_path / "c", "dense", seed=2, output="elsewhere", save="sparse", epochs=7.0)
    write_run(tmp_path / "d", "magnitude", seed=0, check_every=0.5, smoothing=0.1)
    write_run(tmp_path / "e", "magnitude", seed=1, data="other/place", regularize=())
    assert {name: cell.n for name, cell in cells(tmp_path).items()} == {"dense": 3, "magnitude": 2}


def test_teachers_are_told_by_what_they_are_not_where(tmp_path: Path) -> None:
    for seed in (0, 1):
        about = {"config": {"criterion": "dense", "model": None}, "same_holdout": seed == 0}
        folder = write_run(
            tmp_path / f"{seed}", seed=seed, regularize=("distill",), teacher=f"dense-seed{seed}"
        )
        edit(folder, {"teacher": about})
    (cell,) = cells(tmp_path).values()
    assert (cell.label, cell.n) == ("PINS + distill", 2)
    assert cell.stamps == ("the teacher was trained on rows of the holdout",)


def test_other_data_makes_other_cells(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, rows=100)
    write_run(tmp_path / "b", seed=1, rows=90)
    found = Evidence.read([tmp_path])
    assert [cell.n for cell in found.cells] == [1, 1]
    assert found.comparisons == ()
    assert "2 different dev sets" in found.flags[0]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lr", 8e-5, "lr 8e-5"),
        ("lr", 0.0002, "lr 2e-4"),
        ("lr", 0.01, "lr 0.01"),
        ("steps", 400, "400 steps"),
        ("pattern", "2:4", "pattern 2:4"),
        ("target", False, "without target"),
        ("streaming", True, "streaming"),
        ("truncate", False, "no truncate"),
        ("freeze_embeddings", True, "embeddings frozen"),
        ("levels", [0.5, 0.7], "levels 0.5, 0.7"),
        ("begin", 200, "begin 200"),
        ("hold", None, "hold by default"),
        ("smoothing", 0.0, "smoothing 0"),
    ],
)
def test_settings_are_said_in_few_words(name: str, value: Any, words: str) -> None:
    assert label(name, value) == words


# --- once, and chosen ------------------------------------------------------------------------


def test_a_seed_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0)
    edit(write_run(tmp_path / "b", seed=0), {"seconds": 401.5})
    write_run(tmp_path / "c", seed=1)
    found = Evidence.read([tmp_path])
    (cell,) = found.cells
    assert [run.name for run in cell.runs] == ["a", "c"]
    assert "1 run with settings and seed of another left aside: b repeats a" in found.flags


def test_a_copy_is_called_one_and_a_run_made_anew_is_not(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "run", twin=1.4)
    edit(write_run(tmp_path / "b" / "run", twin=1.4), {"seconds": 401.5})
    shutil.copytree(tmp_path / "a" / "run", tmp_path / "exported")
    first, *others = (flag for flag in Evidence.read([tmp_path]).flags)
    assert f"{tmp_path / 'b' / 'run'} repeats {tmp_path / 'a' / 'run'}" in first
    assert "counted once: exported is a copy of run" in others
    assert "exported" not in first


def test_repeated_twins_are_counted_not_listed(tmp_path: Path) -> None:
    for criterion in ("pins", "magnitude", "platon"):
        write_run(tmp_path / criterion, criterion, twin=1.4)
    found = Evidence.read([tmp_path])
    assert [cell.n for cell in found.cells if cell.dense] == [1]
    assert any(flag.startswith("2 dense twins left aside") for flag in found.flags)


def test_the_same_run_with_another_outcome_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0)
    folder = write_run(tmp_path / "b", seed=0)
    edit(folder, {"metrics": {"dev": {"accuracy": 0.5}}})
    found = Evidence.read([tmp_path])
    assert found.cells[0].n == 1
    assert any("came to" in flag and "0.5 in b" in flag for flag in found.flags)


def test_of_two_runs_with_a_seed_the_one_of_the_usual_code_with_predictions_is_used(
    tmp_path: Path,
) -> None:
    other = {"environment": {"commit": "b" * 40}}
    write_run(tmp_path / "a", seed=0, changes=other)
    write_run(tmp_path / "b", seed=0)
    write_run(tmp_path / "c", seed=1)
    (tmp_path / "c" / "predictions.jsonl.gz").unlink()
    write_run(tmp_path / "d", seed=1, changes=other)
    write_run(tmp_path / "e", seed=2)
    (cell,) = cells(tmp_path).values()
    assert [run.name for run in cell.runs] == ["b", "d", "e"]
    assert "mixed commits" in cell.stamps


def searched(folder: Path, lr: float, seed: int, dev: float, holdout: float) -> None:
    run = write_run(folder / f"{lr}-{seed}", seed=seed, lr=lr)
    edit(run, {"metrics": {"holdout": {"accuracy": holdout}, "dev": {"accuracy": dev}}})


def test_the_setting_that_is_best_on_the_holdout_is_chosen(tmp_path: Path) -> None:
    searched(tmp_path, 8e-5, 0, dev=0.9, holdout=0.80)
    searched(tmp_path, 2e-4, 0, dev=0.7, holdout=0.82)
    searched(tmp_path, 4e-4, 0, dev=0.8, holdout=0.81)
    found = cells(tmp_path)
    assert {name for name, cell in found.items() if cell.chosen} == {"PINS, lr 2e-4"}
    assert found["PINS, lr 2e-4"].stamps == ("best of 3 by holdout",)
    assert found["PINS"].stamps == ("not the best of 3 by holdout",)
    assert {cell.searched for cell in found.values()} == {3}


def test_settings_are_held_against_each_other_on_the_seeds_that_all_have(tmp_path: Path) -> None:
    """A setting is searched for with one seed and then run with more, on which it is worse."""
    searched(tmp_path, 8e-5, 0, dev=0.8, holdout=0.82)
    searched(tmp_path, 8e-5, 1, dev=0.8, holdout=0.70)
    searched(tmp_path, 2e-4, 0, dev=0.8, holdout=0.81)
    assert cells(tmp_path)["PINS"].chosen


def test_without_a_holdout_the_setting_with_more_seeds_stands(tmp_path: Path) -> None:
    for lr, seeds in ((8e-5, (0,)), (2e-4, (0, 1))):
        for seed in seeds:
            run = write_run(tmp_path / f"{lr}-{seed}", seed=seed, lr=lr)
            edit(run, {"metrics": {"dev": {"accuracy": 0.8}}})
    chosen = [cell for cell in cells(tmp_path).values() if cell.chosen]
    assert [cell.n for cell in chosen] == [2]


# --- stamps and flags ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "changes", "config", "stamp"),
    [
        ("pins", {"dev_used_for_selection": True}, {}, "chosen on dev"),
        ("movement", {}, {}, "not converged: learned scores after 400 steps"),
        ("l0", {"steps": 4_999}, {}, "not converged: learned scores after 4,999 steps"),
        ("pins", {"sparsity_is": "outcome"}, {}, "sparsity is an outcome"),
        (
            "pins",
            {"sparsity": {"prunable": 0.7}},
            {},
            "70.00% measured where 80.00% was asked for",
        ),
    ],
)
def test_a_cell_carries_its_stamps(
    tmp_path: Path, criterion: str, changes: dict[str, Any], config: dict[str, Any], stamp: str
) -> None:
    write_run(tmp_path / "run", criterion, changes=changes, **config)
    (cell,) = cells(tmp_path).values()
    assert cell.stamps == (stamp,)


def test_enough_steps_carry_no_stamp(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "movement", changes={"steps": 5_000})
    (cell,) = cells(tmp_path).values()
    assert cell.stamps == ()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"environment": {"commit": "b" * 40}}, "commits"),
        ({"environment": {"packages": {"torch": "1"}}}, "packages"),
        ({"environment": {"gpus": ["NVIDIA H100"]}}, "hardware"),
        ({"data": {"train": {"rows": 5, "sha256": "b"}, "dev": {"sha256": "glue/sst2100"}}},
         "training rows"),
    ],
)  # fmt: skip
def test_a_cell_of_unlike_runs_says_so(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=1, changes=changes)
    (cell,) = cells(tmp_path).values()
    assert f"mixed {what}" in cell.stamps


def test_unequal_means_are_flagged(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"pins{seed}", seed=seed)
        write_run(tmp_path / f"lr{seed}", seed=seed, lr=2e-4)
    write_run(tmp_path / "long", "magnitude", max_steps=1_000)
    write_run(tmp_path / "batch", "fisher", batch_size=16)
    write_run(tmp_path / "dev", "platon", select_on="dev", keep="best")
    folder = write_run(tmp_path / "taught", "random", regularize=("distill",), teacher="t")
    edit(folder, {"environment": {"commit": "b" * 40, "cpu": "i9"}})
    found = flags(Evidence.read([tmp_path]).cells)
    for words in (
        "steps not equal: 1000 (magnitude, 1000 steps); 400 (",
        "batch size not equal: ",
        "seeds not equal: ",
        "settings tried not equal: ",
        "teacher not equal: ",
        "dev not equal: looked at (PLATON, ",
        "commit not equal: ",
        "hardware not equal: ",
    ):
        flag = [f for f in found if words.partition(":")[0] in f]
        assert len(flag) == 1 and flag[0].startswith("glue/sst2, demo: "), words
        parts = words.partition(": ")[2].split("; ")
        assert all(part in flag[0] for part in parts), flag


def test_a_fair_study_has_no_flag(tmp_path: Path) -> None:
    write_study(tmp_path, sparsities=(0.8,), seeds=(0, 1))
    assert Evidence.read([tmp_path]).flags == ()


def test_dense_cells_take_the_time_that_pruned_ones_took_densely(tmp_path: Path) -> None:
    write_run(tmp_path / "dense", "dense")
    write_run(tmp_path / "pins")
    found = cells(tmp_path)
    assert found["dense"].latency_ms == 24.0
    assert found["PINS"].latency_ms == 8.0
