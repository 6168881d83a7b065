"""Reports of few, odd, empty and foreign runs: every chart is drawn, and every doubt is a line."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from synthetic import SIZE, write_run, write_study

from prunella.cli import main
from prunella.report import page as page_module
from prunella.report.charts import AXES, svg
from prunella.report.contents import tables
from prunella.report.evidence import Evidence
from prunella.report.findings import bests, verdicts
from prunella.report.looks import LIGHT, VERSION, Spec, config
from prunella.report.page import main_picture, page
from prunella.report.tables import to_markdown

Result = dict[str, Any]


@pytest.fixture(autouse=True)
def _small_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_vega", lambda: "/* Vega */")


def edit(folder: Path, change: Callable[[Result], Any], name: str = "result.json") -> Path:
    path = folder / name
    result = json.loads(path.read_text())
    change(result)
    path.write_text(json.dumps(result))
    return folder


def charts(html: str) -> dict[str, Spec]:
    found = re.search(r'<script type="application/json" id="charts">(.*?)</script>', html)
    assert found is not None
    return json.loads(found[1])


def assert_drawn(evidence: Evidence) -> str:
    """Draw all of a page; return it."""
    found = page(evidence)
    for key, spec in charts(found).items():
        image = vl_convert.vegalite_to_svg(
            spec | {"width": 340, "config": config(LIGHT)}, vl_version=VERSION
        )
        assert "NaN" not in image and "Infinity" not in image, key
        assert re.search(r'aria-roledescription="(point|rect mark|tick)', image) or (
            re.search(r'aria-roledescription="line mark"[^>]* d="M[^"]*L', image)
        ), key
    explorer = main_picture(evidence)
    for axis in AXES if explorer.drawn else ():
        assert axis.key in explorer.data()["specs"]
        image = svg(explorer.spec(axis))
        assert "NaN" not in image and "Infinity" not in image, axis.key
        points = r'label: ([^;]*); method: [^;]*; sparsity: ([^;]*);[^>]*transform="translate'
        seen = {*re.findall(points, image)}
        labels = {(row["label"], row["sparsity"]) for row in explorer.rows}
        assert len(seen) == len(labels), axis.key
    return found


# --- at the ends of axes ---------------------------------------------------------------------


def nothing_left(folder: Path) -> None:
    """As of a model in which no prunable weight remains."""

    def empty(result: Result) -> None:
        result["sparsity"]["prunable"] = 1.0
        result["parameters"]["prunable"]["nonzero"] = 0

    def bare(trace: Result) -> None:
        for matrix in trace["matrices"]:
            matrix["nonzero"] = 0
        trace["weights"]["counts"] = [0] * len(trace["weights"]["counts"])
        trace["sample"]["kept"] = base64.b64encode(bytes(SIZE // 8)).decode()

    edit(folder, empty)
    edit(folder, bare, "trace.json")


@pytest.mark.parametrize("dense", [True, False])
def test_runs_of_which_nothing_remains_are_drawn(tmp_path: Path, dense: bool) -> None:
    criteria = ("dense", "magnitude", "pins") if dense else ("magnitude", "fisher", "pins")
    write_study(tmp_path, criteria=criteria, sparsities=(0.9999,), seeds=(0, 1), rows=40,
                traced=True)  # fmt: skip
    for folder in tmp_path.iterdir():
        if "dense" not in folder.name:
            nothing_left(folder)
    found = assert_drawn(Evidence.read([tmp_path]))
    assert "Half of the remaining weights are larger than" in found or not dense
    assert "99.99 %" in found


def test_nothing_left_stands_beside_what_is_left(tmp_path: Path) -> None:
    write_study(tmp_path, sparsities=(0.5, 0.9, 0.9999), seeds=(0,), rows=40, traced=True)
    for folder in tmp_path.glob("*0.9999*"):
        nothing_left(folder)
    evidence = Evidence.read([tmp_path])
    assert_drawn(evidence)
    scaled = json.dumps(main_picture(evidence).spec(AXES[0]))
    assert '"type": "symlog", "constant": 10.0' in scaled


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("criteria", [("dense", "magnitude", "pins"), ("fisher", "pins", "platon")])
def test_runs_at_one_sparsity_are_drawn(
    tmp_path: Path, sparsity: float, criteria: tuple[str, ...]
) -> None:
    write_study(tmp_path, criteria=criteria, sparsities=(sparsity,), seeds=(0,), traced=True)
    evidence = Evidence.read([tmp_path])
    assert_drawn(evidence)
    assert [best.cell.sparsity for best in bests(evidence)] == [sparsity]
    (best,) = bests(evidence)
    assert not best.cell.dense and (best.dense is None) == ("dense" not in criteria)


def test_pruned_to_nothing_is_not_dense(tmp_path: Path) -> None:
    """A pruned run at 0 % is a method of its own, with a line and a loss against dense."""
    write_study(tmp_path, criteria=("dense", "pins"), sparsities=(0.0, 0.5), seeds=(0, 1))
    evidence = Evidence.read([tmp_path])
    assert [b.cell.sparsity for b in bests(evidence)] == [0.0, 0.5]
    assert {c.sparsity for c in evidence.comparisons if c.kind == "dense"} == {0.0, 0.5}
    rows = main_picture(evidence).rows
    assert [row["dense"] for row in rows] == [True, False, False]


@pytest.mark.parametrize("twin", [None, 1.4])
def test_a_single_run_is_drawn(tmp_path: Path, twin: float | None) -> None:
    write_run(tmp_path / "run", twin=twin, traced=True)
    assert_drawn(Evidence.read([tmp_path]))


def test_a_line_of_one_point_is_seen(tmp_path: Path) -> None:
    def one_selection(trace: Result) -> None:
        trace["log"], trace["selections"] = trace["log"][-1:], trace["selections"][-1:]

    edit(write_run(tmp_path / "run", traced=True), one_selection, "trace.json")
    found = charts(assert_drawn(Evidence.read([tmp_path])))
    assert {"loss", "ramp", "threshold", "changes-pruned", "changes-regrown"} <= found.keys()


def test_scores_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    def infinite(trace: Result) -> None:
        points = trace["sample"]["points"]
        scores = np.full(points, -np.inf, np.float32).tobytes()
        trace["sample"]["score"] = base64.b64encode(scores).decode()

    edit(write_run(tmp_path / "run", traced=True), infinite, "trace.json")
    assert "scores-0" not in charts(assert_drawn(Evidence.read([tmp_path])))


def test_a_sparsity_reads_as_all_only_where_it_is(tmp_path: Path) -> None:
    write_study(tmp_path, criteria=("dense", "pins"), sparsities=(0.9999,), seeds=(0,))
    evidence = Evidence.read([tmp_path])
    assert all(" at 99.99 %" in c.verdict for c in evidence.comparisons)
    assert "| 99.99 % |" in to_markdown(tables(evidence))


# --- ladders ---------------------------------------------------------------------------------


def ladder(delivered: float | None, **more: Any) -> Result:
    curve = [
        {"level": level, "step": 100 * n, "holdout": 0.9 - 0.01 * n, "drop": 0.01 * n}
        | {"inside": delivered is not None and level <= delivered, "size_bytes": 1000}
        | {"parameters": {"prunable": {"nonzero": 100, "total": 1000}}}
        for n, level in enumerate((0.5, 0.7, 0.9), start=1)
    ]
    about = {"limit": 0.02, "metric": "accuracy", "dense": 0.9, "delivered": delivered}
    return about | {"curve": curve} | more


def test_a_ladder_is_drawn_and_in_a_table(tmp_path: Path) -> None:
    write_run(tmp_path / "run", twin=1.4, max_drop=0.02, changes={"max_drop": ladder(0.7)})
    evidence = Evidence.read([tmp_path])
    found = assert_drawn(evidence)
    (each,) = evidence.ladders
    assert each.verdict == (
        "Delivered: 70 %, the sparsest that lost 2.00 points or less on the holdout (2.00 points)."
    )
    assert each.verdict in found and "How sparse it could get" in found
    (table,) = (t for t in tables(evidence) if t.key == "ladders")
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    assert [row["sparsity"] for row in rows] == [0.5, 0.7, 0.9]
    assert [row["delivered"] for row in rows] == [False, True, False]
    assert {(row["dense"], row["limit"], row["metric"]) for row in rows} == {
        (0.9, 0.02, "accuracy")
    }
    image = svg(charts(found)["ladder-0"])
    assert image.count('aria-roledescription="point"') == 4  # three levels and a ring
    assert "what: dense" in image and "what: limit" in image


def test_a_ladder_that_delivered_nothing_is_in_the_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", twin=1.4, max_drop=0.005,
                       changes={"max_drop": ladder(None, still_improving=True)})  # fmt: skip
    edit(folder, lambda result: [result.pop(k) for k in ("metrics", "steps", "sparsity", "speed")])
    evidence = Evidence.read([tmp_path])
    (problem,) = evidence.problems
    assert not problem.left_out and "levels that were tried are in the report" in problem.reason
    found = assert_drawn(evidence)
    assert (
        "No model lost 2.00 points or less on the holdout, so none was delivered: the nearest"
        in (found)
    )
    assert "at 50 %, lost 1.00 points. still improving True." in found
    assert "ladder-0" in charts(found)


@pytest.mark.parametrize(
    "about",
    [
        {"delivered": 0.5},
        {"delivered": 0.5, "curve": 7},
        {"delivered": 0.5, "curve": [None, {"level": "x"}]},
        {"delivered": "much", "curve": [{"level": 0.5, "holdout": 0.8}]},
        {"delivered": 0.5, "curve": [{"level": 0.5, "holdout": 0.8}], "dense": "?", "limit": {}},
        {
            "delivered": 0.5,
            "curve": [{"level": 0.5, "holdout": 0.8}],
            "worth": {"dev": {"drop": 1}},
        },
        {"delivered": 0.5, "curve": [{"level": 0.5, "holdout": 0.8}], "worth": [1]},
    ],
)
def test_a_ladder_may_be_nonsense(tmp_path: Path, about: Result) -> None:
    write_run(tmp_path / "run", twin=1.4, max_drop=0.02, changes={"max_drop": about})
    evidence = Evidence.read([tmp_path])
    assert len(evidence.ladders) <= 1
    assert_drawn(evidence)


def test_what_else_a_ladder_says_is_told(tmp_path: Path) -> None:
    worth = {"dev": {"drop": 0.0312, "interval": [0.021, 0.052]}}
    changes = {"max_drop": ladder(0.7, worth=worth, later={"on": [1, 2.5]})}
    write_run(tmp_path / "run", twin=1.4, max_drop=0.02, changes=changes)
    (each,) = Evidence.read([tmp_path]).ladders
    assert each.verdict.endswith(
        "On dev, which had no part in the choice, it lost 3.12 points (95 % interval 2.10 points "
        "to 5.20 points), so the limit is not kept. later on 1 to 2.5."
    )


# --- metrics and splits that are new ---------------------------------------------------------


def judged(metric: str, **metrics: float) -> Callable[[Result], None]:
    def change(result: Result) -> None:
        value = result["metrics"]["dev"]["accuracy"]
        result["task"]["metric"] = metric
        for split in ("holdout", "dev", "test"):
            result["metrics"][split] = {metric: value, **metrics}

    return change


@pytest.mark.parametrize("metric", ["micro_f1", "average_precision", "hamming_loss", "chrf"])
def test_a_metric_without_a_rule_is_shown_and_not_tested(tmp_path: Path, metric: str) -> None:
    for criterion in ("dense", "magnitude", "pins"):
        edit(write_run(tmp_path / criterion, criterion), judged(metric, macro_f1=0.5))
    evidence = Evidence.read([tmp_path])
    found = assert_drawn(evidence)
    assert evidence.problems == () and len(evidence.comparisons) == 2
    assert all("not tested: no paired test is made of" in c.verdict for c in evidence.comparisons)
    assert "no paired test is made of" in found
    (every,) = (t for t in tables(evidence) if t.key == "metrics")
    names = [column.name for column in every.columns]
    rows = [dict(zip(names, row, strict=True)) for row in every.rows]
    assert {(row["split"], row["measure"]) for row in rows} == {
        (split, name) for split in ("holdout", "dev", "test") for name in (metric, "macro_f1")
    }
    (results,) = (t for t in tables(evidence) if t.key == "results")
    test = [column.name for column in results.columns].index("test")
    assert all(row[test] is not None for row in results.rows)


def test_several_labels_a_row_break_nothing(tmp_path: Path) -> None:
    for criterion in ("magnitude", "pins"):
        folder = write_run(tmp_path / criterion, criterion, rows=20, zipped=False)
        edit(folder, judged("accuracy"))
        lines = [
            {"criterion": criterion, "split": "dev", "row": n, "label": [1, 0], "logits": [0.5, 2]}
            for n in range(20)
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / "predictions.jsonl").write_text(text)
    evidence = Evidence.read([tmp_path])
    assert len(evidence.runs) == 2 and len(evidence.comparisons) == 1
    assert all("not as the metric accuracy needs it" in p.reason for p in evidence.problems)
    assert_drawn(evidence)


def test_figures_within_figures_are_in_the_table(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    edit(folder, lambda r: r["metrics"]["dev"].update(classes={"a": {"f1": 0.25}}, note="text"))
    (every,) = (t for t in tables(Evidence.read([folder])) if t.key == "metrics")
    assert ("dev", "classes a f1", 1, 0.25) in {row[5:9] for row in every.rows}


def test_what_was_left_dense_is_told(tmp_path: Path) -> None:
    about = {
        "form": "h.*.rnn",
        "kind": "LSTM",
        "weights": 7,
        "share": 0.25,
        "reason": "<recurrent>",
    }
    found = page(Evidence.read([write_run(tmp_path / "run", changes={"left_dense": [about]})]))
    words = "25.0 % in h.*.rnn (LSTM: &lt;recurrent&gt;)"
    assert f"<dt>Left dense</dt><dd>{words} (1 run)</dd>" in found
    for nonsense in (7, "text", None, [None, 7], {"a": "b"}, [{"form": "a"}], [{"share": 1}]):
        folder = write_run(tmp_path / f"{nonsense}", changes={"left_dense": nonsense})
        assert "Left dense" not in page(Evidence.read([folder]))


# --- odd input -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), -1, "</script>", [], {}])
@pytest.mark.parametrize("name", ["lr", "seed", "max_steps", "temperature", "batch_size"])
def test_odd_settings_make_a_page(tmp_path: Path, name: str, value: Any) -> None:
    write_run(tmp_path / "a", lr=2e-5, regularize=("self",))
    folder = write_run(tmp_path / "b", regularize=("self",))
    edit(folder, lambda result: result["config"].update({name: value}))
    assert "</script></" not in page(Evidence.read([tmp_path])).replace("</script></body>", "")


def test_old_and_new_results_stand_beside_each_other(tmp_path: Path) -> None:
    write_run(tmp_path / "now")
    old = write_run(tmp_path / "old", "magnitude")
    keys = ("config", "metrics", "steps", "schema")
    edit(old, lambda result: [result.pop(key) for key in [*result] if key not in keys])
    edit(old, lambda r: r.update(config={k: r["config"][k] for k in
                                         ("task", "criterion", "sparsity", "seed")}))  # fmt: skip
    newer = edit(write_run(tmp_path / "newer"), lambda result: result.update(schema=2))
    evidence = Evidence.read([tmp_path])
    assert len(evidence.runs) == 2
    assert [p.reason for p in evidence.problems] == [
        "its schema 2 is newer than this program, which knows 1"
    ]
    assert newer in evidence.problems[0].path.parents
    page(evidence)


def test_empty_folders_and_namesakes_are_a_line_each(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "a" / "run")
    two = edit(write_run(tmp_path / "b" / "run"), lambda result: result.update(seconds=1.0))
    (tmp_path / "empty").mkdir()
    arguments = [*map(str, (one, two, tmp_path / "empty")), "-o", str(tmp_path / "r.html")]
    assert main(["report", *arguments]) == 0
    printed = capfd.readouterr().out
    assert printed.count(f"{two} repeats {one}") == 1
    assert printed.count("empty: it holds no result of a run") == 1


def test_verdicts_of_many_places_are_told_apart(tmp_path: Path) -> None:
    write_study(tmp_path, tasks=("glue/sst2", "glue/rte"), sparsities=(0.8,), seeds=(0,))
    told = [words for _, group, _ in verdicts(Evidence.read([tmp_path])) for words, _ in group]
    assert told and all(words.startswith(("glue/sst2: ", "glue/rte: ")) for words in told)
