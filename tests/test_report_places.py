"""Figures stand beside each other only where they are of one thing: metric, dev set, blocks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run

from prunella.report import page as page_module
from prunella.report.contents import tables
from prunella.report.evidence import Evidence
from prunella.report.findings import bests, verdicts
from prunella.report.page import main_picture, page
from prunella.report.picks import pick
from prunella.report.places import qualifiers
from prunella.report.runs import Place

CRITERIA = ("dense", "magnitude", "pins")


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))


def judged_by_f1(result: dict[str, Any]) -> None:
    """As a run with --metric f1 says it: another value, and a higher one."""
    result["task"]["metric"] = result["config"]["metric"] = "f1"
    for split in result["metrics"].values():
        split["f1"] = min(1.0, split["accuracy"] + 0.1)


@pytest.fixture(scope="module")
def mrpc(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """MRPC by accuracy and by F1, each with regularizers, scopes, learning rates and traces."""
    folder = tmp_path_factory.mktemp("mrpc")
    variants: tuple[dict[str, Any], ...] = (
        {},
        {"regularize": ("self",)},
        {"scope": "matrix"},
        {"lr": 2e-4},
    )
    for metric, criterion, seed in [(m, c, s) for m in "af" for c in CRITERIA for s in (0, 1)]:
        for number, variant in enumerate(variants[:1] if criterion == "dense" else variants):
            run = folder / f"{metric}-{criterion}-{number}-{seed}"
            how: dict[str, Any] = {"task": "glue/mrpc", "rows": 30, "traced": not number}
            write_run(run, criterion, 0.8, seed, **how, **variant)
            if metric == "f":
                edit(run, judged_by_f1)
    return Evidence.read([folder])


def test_no_comparison_joins_two_metrics(mrpc: Evidence) -> None:
    chosen = [cell for cell in mrpc.cells if cell.chosen]
    by_label = {(cell.place, cell.method, cell.sparsity): cell for cell in chosen}
    assert {c.metric for c in mrpc.comparisons} == {"accuracy", "f1"}
    for c in mrpc.comparisons:
        a, b = by_label[c.place, c.a, c.sparsity], by_label[c.place, c.b, c.sparsity_b]
        assert a.metric == b.metric == c.metric
        assert c.difference == pytest.approx(a.mean - b.mean)


def test_the_best_of_a_metric_is_held_against_its_own_rivals(mrpc: Evidence) -> None:
    best = bests(mrpc)
    assert sorted(each.cell.metric for each in best) == ["accuracy", "f1"]
    for each in best:
        assert each.dense is not None and each.dense.place == each.cell.place
        rivals = [c for c in mrpc.comparisons if c.place == each.cell.place and c.p is not None]
        told = {name for c in rivals for name in (c.a, c.b)} - {each.cell.method}
        assert {*each.beaten, *each.ties} <= told


def test_tables_have_a_row_for_each_metric_and_mean_nothing_over_two(mrpc: Evidence) -> None:
    found = {table.key: table for table in tables(mrpc)}
    for key in ("regularizers", "effect-scope", "search", "masks", "sizes", "matrices"):
        names = [column.name for column in found[key].columns]
        assert names[:3] == ["task", "model", "metric"], key
        metrics = [row[2] for row in found[key].rows]
        assert metrics and metrics.count("accuracy") == metrics.count("f1"), key
    cells = {(c.metric, c.method): c for c in mrpc.cells if c.chosen}
    for row in found["regularizers"].rows:
        plain = dict(zip([c.name for c in found["regularizers"].columns], row, strict=True))
        if plain["criterion"] == "PINS":
            cell = cells[plain["metric"], "PINS"]
            assert plain["none"] == (cell.mean, cell.sd, cell.n)
    pairs = {(row[2], row[4], row[5]): row[6] for row in found["masks"].rows}
    assert pairs["f1", "PINS", "PINS"] == 1  # two seeds, not the four runs of both metrics


def test_pictures_and_words_say_which_metric(
    mrpc: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "_vega", lambda: "")
    explorer = main_picture(mrpc)
    assert [*explorer.tasks] == ["glue/mrpc (accuracy)", "glue/mrpc (f1)"]
    for name, cells in explorer.tasks.items():
        assert {f"glue/mrpc ({cell.metric})" for cell in cells} == {name}
    for _, told, _ in verdicts(mrpc):
        assert all(words.startswith(("glue/mrpc (accuracy): ", "glue/mrpc (f1): "))
                   for words, _ in told)  # fmt: skip
    assert any("judged by 2 different metrics" in flag for flag in mrpc.flags)
    chosen = pick(mrpc.cells)
    assert chosen is not None and chosen.elsewhere == ("glue/mrpc, demo (f1)",)
    found = page(mrpc)
    assert "80 %, glue/mrpc, demo (f1)" in found and "80 %, glue/mrpc, demo (accuracy)" in found


def test_dev_sets_are_told_apart_everywhere(tmp_path: Path) -> None:
    for rows in (30, 40):
        for criterion in CRITERIA:
            write_run(tmp_path / f"{criterion}{rows}", criterion, rows=rows, traced=True)
    evidence = Evidence.read([tmp_path])
    assert {c.data for c in evidence.comparisons} == {"glue/sst230", "glue/sst240"}
    assert len(bests(evidence)) == 2 and len(main_picture(evidence).tasks) == 2
    for table in tables(evidence):
        if table.rows and table.columns[0].name == "task" and table.key != "published":
            assert table.columns[2].name == "data", table.key


def test_a_dev_set_without_a_hash_is_told_by_its_rows(tmp_path: Path) -> None:
    for rows in (30, 40):
        folder = write_run(tmp_path / f"{rows}", seed=rows, rows=rows)
        edit(folder, lambda result: result["data"]["dev"].pop("sha256"))
    assert [cell.n for cell in Evidence.read([tmp_path]).cells] == [1, 1]


def test_perplexities_of_other_blocks_are_not_compared(tmp_path: Path) -> None:
    def causal(length: int) -> Callable[[dict[str, Any]], None]:
        def change(result: dict[str, Any]) -> None:
            result["task"] |= {"metric": "perplexity", "lower_is_better": True}
            result["task"] |= {"max_length": length, "stride": length // 128}
            result["metrics"] = {"dev": {"perplexity": 1000.0 / length}}

        return change

    for length in (64, 128):
        for criterion in CRITERIA:
            folder = write_run(
                tmp_path / f"{criterion}{length}", criterion, task="lm/causal", max_length=length
            )
            edit(folder, causal(length))
    evidence = Evidence.read([tmp_path])
    blocks = {each.cell.place.pieces for each in bests(evidence)}
    assert blocks == {"blocks of 64 tokens", "blocks of 128 tokens, 1 of them again"}
    assert all(c.a != c.b and "over" in c.verdict for c in evidence.comparisons)
    assert not any(row for t in tables(evidence) if t.key == "effect-max_length" for row in t.rows)


def test_nothing_is_chosen_on_two_holdouts(tmp_path: Path) -> None:
    """What was held out decides nothing where methods held out different rows."""
    for criterion in ("magnitude", "pins", "platon"):
        folder = write_run(tmp_path / criterion, criterion, rows=60)
        if criterion == "platon":
            edit(folder, lambda result: result["data"]["holdout"].update(sha256="other"))
    evidence = Evidence.read([tmp_path])
    assert {c.kind for c in evidence.comparisons} == {"baseline"}
    assert any("holdout not equal" in flag for flag in evidence.flags)
    folder = write_run(tmp_path / "lr", rows=60, lr=2e-5)
    edit(folder, lambda result: result["metrics"]["holdout"].update(accuracy=1.0))
    edit(folder, lambda result: result["data"]["holdout"].update(sha256="other"))
    chosen = [cell for cell in Evidence.read([tmp_path]).cells if cell.chosen]
    assert sorted(cell.method for cell in chosen) == ["PINS", "PLATON", "magnitude"]


def test_each_place_has_a_name_of_its_own() -> None:
    places = [
        Place("t", "m", metric, data, pieces)
        for metric in ("f1", "bleu")
        for data in ("", "a" * 40, "a" * 39 + "b")
        for pieces in ("", "blocks of 8 tokens")
    ]
    names = qualifiers(places)
    assert len({*names.values()}) == len(places)
    assert {*qualifiers(places[:1]).values()} == {""}
