"""Folders of runs: found at any depth, and whatever is wrong with one is told and left out."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import accuracy, records, trace, write_run, write_study

from prunella.errors import UsageError
from prunella.report.contents import tables
from prunella.report.evidence import Evidence
from prunella.report.reading import read
from prunella.report.runs import Problem, Run

RESULTS = Path(__file__).parents[1] / "results"


def problem(path: Path) -> Problem:
    """The one problem of a folder that holds one run."""
    _, (found,) = read([path])
    return found


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Rewrite a run's result."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    edit(result)
    path.write_text(json.dumps(result))
    return folder


# --- what is found ---------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_and_each_once(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a" / "b" / "one", seed=0)
    write_run(tmp_path / "a" / "two", seed=1)
    (tmp_path / "link").symlink_to(one)
    runs, problems = read([tmp_path, one, one / "result.json", tmp_path / "link"])
    assert sorted(run.name for run in runs) == ["one", "two"]
    assert problems == []


def test_a_run_is_read_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "pins", 0.9, 3, traced=True, regularize=("self",))
    (run,), _ = read([folder])
    made = records(100, 1.0, 3, "pins0.9[('regularize', ('self',))]")
    assert run.value == accuracy(made)
    assert (run.task, run.model, run.criterion, run.seed) == ("glue/sst2", "demo", "pins", 3)
    assert (run.sparsity, run.measured, run.regularizers) == (0.9, 0.9, ("self",))
    assert (run.metric, run.lower_is_better, run.used_dev) == ("accuracy", False, False)
    assert run.holdout == pytest.approx(run.value + 0.03)
    assert (run.nonzero("prunable"), run.total("prunable")) == (1_000, 10_000)
    assert run.flops is not None and run.dense_flops is not None and run.flops < run.dense_flops
    assert (run.latency_ms, run.dense_latency_ms, run.speedup) == (6.0, 24.0, 4.0)
    assert run.speed_setting == "87 tokens, 1 thread"
    assert run.hardware == "AMD EPYC, 2 cores, 1 in use"
    assert run.trace is not None
    assert run.summands is not None and run.summands.value == run.value


@pytest.mark.parametrize("zipped", [True, False])
def test_a_dense_twin_is_a_run_of_its_own(tmp_path: Path, zipped: bool) -> None:
    folder = write_run(tmp_path / "run", twin=1.4, zipped=zipped)
    twin, run = sorted(read([folder])[0], key=lambda run: not run.twin)
    assert (twin.criterion, twin.sparsity, twin.name) == ("dense", 0.0, "run (dense twin)")
    assert twin.value > run.value
    assert twin.latency_ms == 24.0 and twin.speedup == 1.0
    assert twin.summands is not None and run.summands is not None
    assert twin.trace is None


def test_the_repositorys_own_results_are_read() -> None:
    runs, problems = read([RESULTS / "healing", RESULTS / "tasks", RESULTS / "healing"])
    assert problems == []
    assert len([run for run in runs if run.folder.parent.name == "healing"]) == 30
    assert {run.task for run in runs if run.twin} >= {"glue/stsb", "qa/squad", "d2t/e2e"}
    assert all(run.summands is None for run in runs)


def test_a_ladder_is_shown_at_the_level_it_delivered(tmp_path: Path) -> None:
    ladder = {"delivered": 0.7, "metric": "accuracy", "curve": []}
    folder = write_run(tmp_path / "run", twin=1.4, max_drop=0.01, changes={"max_drop": ladder})
    run = next(run for run in read([folder])[0] if not run.twin)
    assert run.sparsity == 0.7


def test_a_ladder_that_delivered_nothing_leaves_its_twin(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", twin=1.4, changes={"max_drop": {"delivered": None}})
    change(folder, lambda result: result.pop("metrics"))
    runs, problems = read([folder])
    assert [run.twin for run in runs] == [True]
    assert "no model lost as little" in problems[0].reason


# --- what is left out ------------------------------------------------------------------------


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*nowhere"):
        read([tmp_path / "nowhere"])


def test_no_run_at_all_is_refused_and_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UsageError, match=r"no run that can be read.*no sound JSON"):
        Evidence.read([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no run that can be read"):
        Evidence.read([tmp_path / "empty"])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1, 2]", "null", "7", '{"schema": 1}', "\ufeff{}", '"result"', "[" * 100_000],
)
def test_a_file_that_is_no_result_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(text)
    assert problem(tmp_path).path == tmp_path / "run" / "result.json"
    assert problem(tmp_path).left_out


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    assert "no sound JSON" in problem(tmp_path).reason


def set_to(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(result: dict[str, Any]) -> None:
        for key in path[:-1]:
            result = result[key]
        result[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_to("schema", value=2), "schema 2 is newer"),
        (set_to("schema", value="1"), "no schema that is known"),
        (set_to("config", value=[]), "no result of a run"),
        (set_to("config", "seed", value="0"), "setting seed is '0'"),
        (set_to("config", "seed", value=True), "setting seed is True"),
        (set_to("config", "sparsity", value=1.5), "setting sparsity is 1.5"),
        (set_to("config", "sparsity", value=float("nan")), "setting sparsity is nan"),
        (set_to("config", "regularize", value=[{}]), "setting regularize"),
        (set_to("config", "task", value=None), "setting task is None"),
        (set_to("metrics", value={}), "no metrics on dev"),
        (set_to("metrics", "dev", value=[0.8]), "no metrics on dev"),
        (set_to("metrics", "dev", "accuracy", value=float("nan")), "accuracy on dev is nan"),
        (set_to("metrics", "dev", "accuracy", value="0.8"), "accuracy on dev is '0.8'"),
        (set_to("metrics", "dev", "accuracy", value=10**400), "accuracy on dev is 1000"),
        (set_to("steps", value=None), "steps are None"),
        (set_to("steps", value=-1), "steps are -1"),
        (set_to("baseline", value=7), "dense twin is no set"),
    ],
)
def test_a_result_without_what_it_takes_is_told(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], words: str
) -> None:
    folder = change(write_run(tmp_path / "run"), edit)
    assert words in problem(folder).reason


@pytest.mark.parametrize(
    "key",
    [
        *("sparsity", "parameters", "size_bytes", "flops", "held", "speed", "seconds"),
        *("environment", "data", "task", "teacher", "dev_used_for_selection", "sparsity_is"),
    ],
)
@pytest.mark.parametrize("value", [None, 7, "text", [1], {"a": {}}, float("nan"), True])
def test_other_figures_may_be_missing_or_nonsense(tmp_path: Path, key: str, value: Any) -> None:
    """Nothing that reads them may fail on them."""
    write_run(tmp_path / "other", "magnitude")
    folder = write_run(tmp_path / "run")
    change(folder, lambda result: result.update({key: value}))
    found = Evidence.read([tmp_path])
    run = next(run for run in found.runs if run.folder == folder)
    for name, member in vars(Run).items():
        if isinstance(member, property):
            getattr(run, name)
    assert tables(found)
    assert all(run.nonzero(scope) in (None, 2_000, 2_500, 17_000) for scope in ("model",))


@pytest.mark.parametrize("value", [None, 7, "text", [1, {}], {"a": {}}, float("nan"), True])
@pytest.mark.parametrize("key", ["lr", "regularize", "teacher", "keep", "levels", "new_setting"])
def test_other_settings_may_be_nonsense(tmp_path: Path, key: str, value: Any) -> None:
    write_run(tmp_path / "other", "magnitude")
    folder = change(
        write_run(tmp_path / "run"), lambda result: result["config"].update({key: value})
    )
    found = Evidence.read([tmp_path])
    assert len(found.runs) + len(found.problems) == 2
    assert folder not in {problem.path for problem in found.problems} or key == "regularize"
    assert tables(found)


def test_a_missing_key_is_as_good(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    keys = ("config", "metrics", "steps", "schema")
    change(folder, lambda result: [result.pop(key) for key in [*result] if key not in keys])
    change(folder, lambda result: result["metrics"].pop("holdout"))
    (run,) = Evidence.read([folder]).runs
    assert (run.holdout, run.held, run.commit, run.metric) == (None, None, "unknown", "accuracy")


def test_runs_in_progress_and_leftovers_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "done")
    write_run(tmp_path / "half.partial" / "result")
    write_run(tmp_path / "gone.removed")
    runs, problems = read([tmp_path])
    assert [run.name for run in runs] == ["done"]
    assert {p.path.name: p.reason for p in problems} == {
        "half.partial": "a run that is in progress, or was broken off",
        "gone.removed": "what is left of a run that was discarded",
    }


def test_foreign_files_are_told_and_results_by_other_names_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "aside" / "run")
    shutil.move(folder / "result.json", tmp_path / "mine.json")
    shutil.rmtree(folder)
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "dangling.json").symlink_to(tmp_path / "nothing")
    runs, problems = read([tmp_path])
    assert [run.name for run in runs] == ["mine"]
    assert sorted(p.reason.split(":")[0] for p in problems) == [
        "it cannot be read",
        "it is no sound JSON",
        "no results of runs",
    ]


def test_a_sweeps_failures_and_what_it_has_left_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    (tmp_path / "two.error.json").write_text('{"error": "the loss is not finite"}')
    runs = [{"name": "one", "status": "done", "commits": ["a" * 40, "b" * 40]}]
    runs += [{"name": "two", "status": "failed"}, {"name": "three", "status": "left"}]
    (tmp_path / "sweep.json").write_text(json.dumps({"schema": 1, "runs": runs}))
    found = {p.path.name: (p.reason, p.left_out) for p in read([tmp_path])[1]}
    assert found["two"] == ("the run failed: the loss is not finite", True)
    assert found["sweep.json"][0].endswith("some are not done: 1 left")
    assert found["one"] == ("the code changed in mid-run (aaaaaaaaaa and bbbbbbbbbb); it stands by "
                            "the last", False)  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "result.json").chmod(0)
    assert "cannot be read" in problem(folder).reason


# --- predictions and traces ------------------------------------------------------------------


def lines_of(folder: Path) -> list[str]:
    return (folder / "predictions.jsonl").read_text().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lines: [], "no predictions"),
        (lambda lines: lines[:50], "50 of 100 rows"),
        (lambda lines: [*lines[:-1], lines[-1][:20]], "line 100 is no sound JSON"),
        (lambda lines: [*lines[1:], lines[0]], "out of order"),
        (lambda lines: [lines[0], *lines[:-1]], "twice there"),
        (lambda lines: ["7\n", *lines], "'7' where a record"),
        (lambda lines: [line.replace('"dev"', '"test"') for line in lines], "no predictions"),
        (lambda lines: [line.replace('"label": 1', '"label": 0') for line in lines], "make up"),
        (lambda lines: [line.replace('"label": 1', '"label": "x"') for line in lines], "a record"),
        (lambda lines: [line.replace('"logits"', '"texts"') for line in lines[:1]] + lines[1:], ""),
    ],
)
def test_predictions_that_do_not_fit_are_not_used(
    tmp_path: Path, spoil: Callable[[list[str]], list[str]], words: str
) -> None:
    folder = write_run(tmp_path / "run", zipped=False)
    (folder / "predictions.jsonl").write_text("".join(spoil(lines_of(folder))))
    (run,), problems = read([folder])
    assert run.summands is None
    if words:
        (found,) = problems
        assert words in found.reason and not found.left_out


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b"{}\n" * 9, mtime=0)[:15]],
    ids=["empty", "another format", "cut short"],
)
def test_a_damaged_archive_of_predictions_is_told(tmp_path: Path, data: bytes) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "predictions.jsonl.gz").write_bytes(data)
    (run,), (found,) = read([folder])
    assert run.summands is None and not found.left_out


def test_a_run_without_predictions_is_none_the_worse(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "predictions.jsonl.gz").unlink()
    (run,), problems = read([folder])
    assert run.summands is None and problems == []


@pytest.mark.parametrize(
    "edit",
    [
        set_to("schema", value=2),
        set_to("log", value=[{"step": 1}]),
        set_to("log", value={"a": 1}),
        set_to("selections", value=[{"step": 1, "sparsity": None, "pruned": 0, "regrown": 0}]),
        set_to("matrices", value=[{"name": "a", "shape": [1, 2], "nonzero": 3, "total": 2}]),
        set_to("matrices", value=7),
        set_to("weights", value={"edges": [0.0, 1.0], "counts": [1, 2]}),
        set_to("weights", value={"edges": [0.0, "1"], "counts": [1]}),
        set_to("sample", value={"size": 3}),
        set_to("sample", "kept", value="!"),
        set_to("sample", "kept", value=""),
        set_to("sample", "before", value="AAAA"),
        set_to("sample", "key", value=None),
    ],
)
def test_a_trace_that_does_not_fit_is_not_used(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    folder = write_run(tmp_path / "run", traced=True)
    about = trace(0.8, 400, 0, "pins")
    edit(about)
    (folder / "trace.json").write_text(json.dumps(about))
    (run,), (found,) = read([folder])
    assert run.trace is None
    assert found.path.name == "trace.json" and not found.left_out


@pytest.mark.parametrize("key", ["log", "selections", "matrices", "weights", "sample"])
def test_a_trace_may_lack_a_part(tmp_path: Path, key: str) -> None:
    folder = write_run(tmp_path / "run", traced=True)
    about = trace(0.8, 400, 0, "pins")
    del about[key]
    (folder / "trace.json").write_text(json.dumps(about))
    (run,), problems = read([folder])
    assert run.trace is not None and problems == []


def test_one_bad_run_does_not_spoil_the_others(tmp_path: Path) -> None:
    write_study(tmp_path, sparsities=(0.8,), seeds=(0, 1))
    spoilt = next(tmp_path.glob("*magnitude*seed1"))
    (spoilt / "result.json").write_text("{")
    found = Evidence.read([tmp_path])
    assert len(found.runs) == 7
    assert len(found.problems) == 1
    assert all(each.n in (1, 2) and each.p is not None for each in found.comparisons)
