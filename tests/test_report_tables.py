"""The tables: what is in them, and that programs and people read the same."""

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import packed, trace, write_run, write_study

from prunella.experiments.config import RunConfig, parse
from prunella.report.contents import tables
from prunella.report.evidence import Evidence
from prunella.report.provenance import command
from prunella.report.published import published
from prunella.report.reading import read
from prunella.report.tables import Column, Table, shown, to_csv, to_markdown


def made(folder: Path) -> dict[str, Table]:
    return {table.key: table for table in tables(Evidence.read([folder]))}


def rows(table: Table) -> list[dict[str, Any]]:
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows]


# --- written ---------------------------------------------------------------------------------

EXAMPLE = Table(
    "example",
    "An example",
    "A note.",
    (
        Column("name", "name"),
        Column("count", "count", "whole"),
        Column("part", "part", "percent"),
        Column("value", "value", "metric"),
        Column("raw", "raw", "list"),
        Column("both", "both", "spread"),
        Column("good", "good", "mark"),
        Column("size", "size", "number"),
    ),
    (
        ('a|b <i>\n"c", \\', 2_123_366.4, 0.125, 1 / 3, (0.1, 1 / 3), (0.5, None, 1), True, 1234.5),
        (None,) * 8,
    ),
)


def test_csv_holds_full_precision() -> None:
    header, first, empty = csv.reader(io.StringIO(to_csv(EXAMPLE)))
    assert header == [column.name for column in EXAMPLE.columns]
    assert first == [
        *('a|b <i>\n"c", \\', "2123366.4", "0.125", repr(1 / 3)),
        *(f"0.1 {1 / 3!r}", "0.5000 (1)", "yes", "1234.5"),
    ]
    assert empty == [""] * 8


def test_markdown_keeps_its_columns_whatever_the_text() -> None:
    lines = to_markdown([EXAMPLE, Table("none", "Not shown", "", EXAMPLE.columns, ())]).split("\n")
    assert lines[0] == "## An example"
    assert "A note." in lines
    assert lines[-3] == (
        '| a\\|b &lt;i> "c", \\\\ | 2,123,366 | 12.5 % | 0.3333 | 0.1000 0.3333 | 0.5000 (1) | yes '
        "| 1,234 |"
    )
    assert not any("Not shown" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (0.00012345, "number", "0.000123"),
        (12.3456, "number", "12.3"),
        (0.9751, "percent", "97.5 %"),
    ],
)
def test_numbers_are_short(value: float, kind: Any, words: str) -> None:
    assert shown(value, kind) == words


# --- what is in them -------------------------------------------------------------------------


def test_results_and_sizes_are_those_of_the_cells(tmp_path: Path) -> None:
    write_study(tmp_path, criteria=("dense", "pins"), sparsities=(0.8,), seeds=(0, 1))
    write_run(tmp_path / "lr", lr=2e-4, skill=0.0)
    found = made(tmp_path)
    cells = Evidence.read([tmp_path]).cells
    assert [row["mean"] for row in rows(found["results"])] == [cell.mean for cell in cells]
    assert rows(found["results"])[1]["seeds"] == "0 1"
    sizes = rows(found["sizes"])
    assert [row["method"] for row in sizes] == ["dense", "PINS"]
    assert [row["nonzero_prunable"] for row in sizes] == [10_000, 2_000]
    assert [row["total_model"] for row in sizes] == [25_000, 25_000]
    assert [row["held"] for row in sizes] == [25_000, 25_000]
    assert [(row["latency_dense_ms"], row["latency_ms"]) for row in sizes] == [(24, 24), (24, 8)]
    assert [row["latency_of"] for row in sizes] == ["", "87 tokens, 1 thread"]
    search = rows(found["search"])
    assert [(row["lr"], row["n"], row["chosen"]) for row in search] == [
        (8e-5, 2, True),
        (2e-4, 1, False),
    ]


def test_the_grid_of_criteria_and_regularizers(tmp_path: Path) -> None:
    for criterion in ("magnitude", "pins"):
        for number, terms in enumerate(((), ("self",), ("self", "smoothing"))):
            if (criterion, number) != ("magnitude", 2):
                write_run(tmp_path / f"{criterion}{number}", criterion, regularize=terms)
    write_run(tmp_path / "other", "pins", regularize=("self",), hold=False)
    table = made(tmp_path)["regularizers"]
    assert [column.name for column in table.columns[3:]] == [
        *("criterion", "none", "self", "self + smoothing")
    ]
    magnitude, pins = rows(table)
    assert (magnitude["criterion"], magnitude["self + smoothing"]) == ("magnitude", None)
    assert all(pins[name][2] == 1 for name in ("none", "self", "self + smoothing"))


def test_a_choice_of_method_has_a_table_of_its_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        for criterion in ("magnitude", "pins"):
            write_run(tmp_path / f"{criterion}{seed}", criterion, seed=seed)
            write_run(tmp_path / f"{criterion}l{seed}", criterion, seed=seed, scope="matrix")
        write_run(tmp_path / f"f{seed}", "pins", seed=seed, scope="matrix", hold=False)
    found = made(tmp_path)
    table = found["effect-scope"]
    assert {column.name for column in table.columns[4:]} == {"global", "local"}
    assert [row["method"] for row in rows(table)] == ["magnitude", "PINS"]
    (row,) = rows(found["effect-hold"])
    assert row["method"] == "PINS, local"
    assert row["free"][2] == 2


def test_every_matrix_has_its_sparsity(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"{seed}", seed=seed, traced=True)
    found = rows(made(tmp_path)["matrices"])
    assert len(found) == 24
    assert found[0] == {
        **{"task": "glue/sst2", "model": "demo", "method": "PINS", "sparsity": 0.8},
        **{"matrix": "encoder.layer.0.attention.query.weight", "shape": "20 × 20"},
        **{"mean": pytest.approx(0.8), "sd": 0.0, "n": 2},
    }


def masked(folder: Path, criterion: str, seed: int, kept: list[int], key: str = "k") -> None:
    """A run with a mask on 16 weights."""
    bits = np.zeros(16, bool)
    bits[kept] = True
    about = trace(0.8, 400, 0, "pins")
    sample = {"size": 16, "points": 0, "key": key, "kept": packed(np.packbits(bits))}
    run = write_run(folder / f"{criterion}{seed}{key}", criterion, seed=seed)
    (run / "trace.json").write_text(json.dumps(about | {"sample": sample}))


def test_masks_are_compared_between_seeds_and_between_methods(tmp_path: Path) -> None:
    masked(tmp_path, "pins", 0, [0, 1, 2, 3])
    masked(tmp_path, "pins", 1, [0, 1, 8, 9])
    masked(tmp_path, "platon", 0, [0, 1, 2, 8])
    masked(tmp_path, "platon", 2, [0])  # no seed of the other method
    masked(tmp_path, "random", 0, [0, 1], key="other weights")
    found = {(row["a"], row["b"]): row for row in rows(made(tmp_path)["masks"])}
    assert set(found) == {("PINS", "PINS"), ("PLATON", "PINS"), ("PLATON", "PLATON")}
    seeds = found["PINS", "PINS"]
    assert (seeds["pairs"], seeds["overlap"]) == (1, pytest.approx(2 / 6))
    # Of 16 weights independent masks of four have one in common, of seven that one of them has.
    assert seeds["by_chance"] == pytest.approx(1 / 7)
    methods = found["PLATON", "PINS"]
    assert (methods["pairs"], methods["overlap"]) == (1, pytest.approx(3 / 5))


def test_what_was_run_can_be_run_again(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "regularize": ("self", "smoothing"),
        "lr": 2e-4,
        "baseline": True,
        "hold": False,
        "data": "my data",
        "prune": ("encoder.*attention*",),
        "include_biases": True,
        "truncate": False,
    }
    write_run(tmp_path / "run", "platon", 0.9, 3, twin=1.4, **given)
    runs, _ = read([tmp_path])
    expected = RunConfig(
        **{"task": "glue/sst2", "max_steps": 400, "criterion": "platon", "sparsity": 0.9, "seed": 3}
        | given
    )
    for run in runs:  # the dense twin came of the same command
        program, name, *flags = shlex.split(command(run))
        assert (program, name) == ("prunella", "prune")
        assert parse(flags) == expected
    table = made(tmp_path)["runs"]
    assert table.note.startswith("2 trainings, 0.2 hours")
    assert {row["packages"] for row in rows(table)} == {"prunella 0.1.0, torch 2.13.0+cpu"}


def test_what_was_left_out_is_a_table(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    write_run(tmp_path / "half.partial")
    (row,) = rows(made(tmp_path)["problems"])
    assert row["left_out"] and "in progress" in row["reason"]


def test_published_figures_are_those_of_the_task_and_stay_apart(tmp_path: Path) -> None:
    assert len(list(published({("glue/mnli", "accuracy")}))) == 15
    assert list(published({("glue/mnli", "f1"), ("glue/sst2", "accuracy")})) == []
    squad = {(p.method, p.sparsity): p.value for p in published({("qa/squad", "f1")})}
    assert squad["movement + KD", 0.97] == 0.78
    assert squad["dense", 0.0] == 0.881
    write_run(tmp_path / "run", task="glue/mnli")
    found = made(tmp_path)
    assert len(rows(found["published"])) == 15
    assert all(row["source"] for row in rows(found["published"]))
    assert len(rows(found["results"])) == 1
