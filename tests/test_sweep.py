"""Sweeps: from a file to a plan, and from a plan to finished runs, whatever happens on the way."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from folders import assert_refused, result_of
from rich.console import Console

from prunella.cli import main
from prunella.experiments import jobs, launch, scheduler
from prunella.experiments.jobs import Begun, Ended, Local, job_of
from prunella.experiments.ledger import Ledger
from prunella.experiments.overview import Overview, duration, time_left
from prunella.experiments.process import Job
from prunella.experiments.sweep import Plan, Resources

TESTS = Path(__file__).resolve().parent
COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are imitations, and the present code has a commit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "COMMAND", (str(TESTS / "imitation.py"),))
    monkeypatch.setattr(scheduler, "commit", lambda: COMMIT)
    monkeypatch.setattr(scheduler, "devices", lambda: [])
    monkeypatch.setenv("COMMIT", COMMIT)


def plan(text: str, **more: Any) -> Plan:
    Path("s.yaml").write_text(text, encoding="utf-8")
    return Plan.read(Path("s.yaml"), **more)


def names(text: str) -> list[str]:
    return [run.name for run in plan(text).runs]


def sweep(text: str, *flags: str) -> int:
    Path("s.yaml").write_text(text, encoding="utf-8")
    return main(["sweep", "s.yaml", *flags])


def calls(folder: str = "runs/s") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "calls.jsonl").read_text().splitlines()]


def statuses(folder: str = "runs/s") -> list[str]:
    return [run["status"] for run in json.loads(Path(folder, "sweep.json").read_text())["runs"]]


class Started:
    """A sweep in a process of its own, which is a fork of this one."""

    def __init__(self, text: str, *flags: str):
        Path("s.yaml").write_text(text, encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # younger Pythons warn of threads, which torch has
            self.id = os.fork()
        if self.id == 0:
            self._run(*flags)

    def _run(self, *flags: str) -> None:
        log = os.open("sweep.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
        # Tests may run as a job in the background, whose shell has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = 99
        try:
            status = main(["sweep", "s.yaml", *flags])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def signal(self, number: int) -> None:
        os.kill(self.id, number)

    def ended(self) -> tuple[int, str]:
        """Its exit status and what it said."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.id, 0)[1])
        return status, Path("sweep.out").read_text()


def count_running() -> int:
    """Runs that are at work, and listen to signals."""
    return sum("100000" in log.read_text() for log in Path("runs/s").glob("*.log"))


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.02)


# --- the file and its plan -----------------------------------------------------------------------


def test_blocks_in_order_and_the_last_axis_fastest():
    text = """
        common: {task: glue/sst2, data: SST-2, max_steps: 400}
        grid:
          - {criterion: [magnitude, pins], sparsity: [0.9, 0.5], seed: [0, 1]}
          - {criterion: [pins, random], seed: 2}
    """
    runs = plan(text).runs
    assert [(r.config.criterion, r.config.sparsity, r.config.seed) for r in runs] == [
        *(("magnitude", s, seed) for s in (0.9, 0.5) for seed in (0, 1)),
        *(("pins", s, seed) for s in (0.9, 0.5) for seed in (0, 1)),
        ("pins", 0.8, 2),
        ("random", 0.8, 2),
    ]
    assert {r.config.task for r in runs} == {"glue/sst2"} and runs[0].config.max_steps == 400
    assert runs[0].config.output == f"runs/s/{runs[0].name}"


def test_equal_runs_of_several_blocks_are_run_once():
    assert len(names("grid: [{seed: [0, 1, 1]}, {seed: [1, 2], criterion: pins, lr: 8e-5}]")) == 3


def test_dense_is_run_once_not_once_a_sparsity():
    text = "grid: [{criterion: [dense, pins], sparsity: [0.5, 0.8], pattern: [element, 4x4]}]"
    found = names(text)
    assert len(found) == 5 and found[0].startswith("dense-seed0-")


def test_what_belongs_to_a_regularizer_counts_only_with_it():
    text = "grid: [{regularize: [[], self, [self, smoothing]], self_weight: [0.5, 2]}]"
    runs = plan(text).runs
    assert [r.config.regularize for r in runs] == [
        (), ("self",), ("self",), ("self", "smoothing"), ("self", "smoothing")
    ]  # fmt: skip
    assert [r.config.self_weight for r in runs] == [1.0, 0.5, 2.0, 0.5, 2.0]


def test_names_are_readable_and_of_the_run_alone():
    text = "grid: [{criterion: pins, sparsity: 0.9, regularize: self, lr: 2e-4, hold: false}]"
    (name,) = names(text)
    assert re.fullmatch(r"pins-0.9-self-no-hold-lr2e-4-seed0-[0-9a-f]{8}", name)
    assert name in names(text.replace("2e-4", "[8e-5, 2e-4]"))
    assert names(text.replace("2e-4", "2e-4, batch_size: 32, data: ~")) == [name]
    assert names(text.replace("2e-4", "2e-4, data: other")) != [name]  # though it reads the same
    assert names(f"{text}\noutput: elsewhere") == [name]
    long = names(f"grid: [{{prefix: '{'word ' * 60}'}}]")
    assert len(long[0]) < 130 and "/" not in long[0] and long[0].isascii()


def test_values_are_read_as_flags_are():
    (run,) = plan("grid: [{pattern: 2:4, sparsity: 0.5, begin: 1, levels: ~, hold: false}]").runs
    assert (run.config.pattern, run.config.begin, run.config.hold) == ("2:4", 1, False)
    assert isinstance(run.config.begin, int)
    (run,) = plan("grid: [{max_drop: 0.01, levels: [[0.5, 0.9]], prune: '*query*'}]").runs
    assert (run.config.levels, run.config.prune) == ((0.5, 0.9), ("*query*",))
    assert run.name.startswith("pins-drop0.01-levels-0.5-0.9-prune-query-seed0")


def test_an_axis_in_common_is_one_of_every_block():
    runs = plan("common: {seed: [0, 1]}\ngrid: [{criterion: [pins, random]}, {lr: 1e-4}]").runs
    assert [(r.config.criterion, r.config.seed) for r in runs] == [
        ("pins", 0), ("random", 0), ("pins", 1), ("random", 1), ("pins", 0), ("pins", 1)
    ]  # fmt: skip


def test_the_dense_run_of_the_same_seed_as_teacher():
    text = """
        common: {seed: [0, 1], lr: 1e-4}
        grid:
          - {regularize: [[], distill, [self, distill]], teacher: "@dense", sparsity: [0.5, 0.9]}
          - {criterion: dense}
    """
    runs = plan(text).runs
    by_name = {run.name: run for run in runs}
    assert len(runs) == 2 * (3 * 2 + 1)
    for run in runs:
        if "distill" not in run.config.regularize:
            assert run.teacher is None and run.config.teacher is None
            continue
        teacher = by_name[run.teacher].config
        assert runs.index(by_name[run.teacher]) < runs.index(run)
        assert (teacher.criterion, teacher.regularize, teacher.seed) == (
            "dense",
            (),
            run.config.seed,
        )
        assert run.config.teacher == teacher.output and teacher.lr == 1e-4
    students = [run for run in runs if run.teacher]
    assert len({run.name for run in students}) == 8 and "dense" not in students[0].name


def test_the_same_teacher_elsewhere_is_the_same_run():
    text = 'grid: [{regularize: distill, teacher: "@dense"}]'
    one, other = plan(text).runs[1], plan(text, output=Path("moved")).runs[1]
    assert one.name == other.name and one.config.teacher != other.config.teacher
    assert other.differences(one.config.settings()) == []
    assert other.differences(one.config.settings() | {"teacher": "runs/s/dense-x"}) != []


def test_the_example_of_the_documentation():
    text = (TESTS.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")
    found = plan(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert (found.output, found.keep) == (Path("runs/sst2"), "evidence")
    # Dense at three seeds, two criteria at two sparsities; self and smoothing; distillation.
    assert len(found.runs) == 3 * (1 + 2 * 2 + 2 * 2 + 1)


REFUSED = {
    "grid: [{sparsitty: 0.5}]": ["block 1 of grid", "'sparsitty'", "did you mean sparsity"],
    "grid: [{seed: 0}, {lr: [1e-4, fast]}]": ["block 2 of grid", "lr is 'fast'", "takes float"],
    "grid: [{regularize: [self, selve]}]": ["regularize is 'selve'", "smoothing"],
    "grid: [{regularize: [[self, selve]]}]": ["regularize is ['self', 'selve']"],
    "grid: [{hold: perhaps}]": ["hold is 'perhaps'", "true or false"],
    "grid: [{seed: [[0, 1]]}]": ["seed is ['0', '1']", "one value"],
    "grid: [{seed: []}]": ["block 1", "seed has no values"],
    "grid: [{regularize: []}]": ["regularize has no values", "[[]]"],
    "grid: [{sparsity: [0.5, 1.5]}]": ["block 1 of grid, pins-1.5-", "1.5"],
    "grid: [{criterion: [pins, pinz]}]": ["pinz", "did you mean pins"],
    "grid: [{regularize: distill}]": ["needs a teacher"],
    "grid: [{output: x}]": ["output is set by the sweep"],
    "grid: [{snapshot_every: 5}]": ["snapshot_every=5 has no effect", "regularize: self"],
    "common: {temperature: 4}\ngrid: [{seed: 0}]": ["common: temperature=4.0 has no effect"],
    "common: {max_steps: 9}\ngrid: [{epochs: 2}]": ["epochs=2.0 has no effect"],
    'grid: [{teacher: "@dense"}]': ["teacher=@dense has no effect"],
    "grid: [{teacher: @dense}]": ["quotes"],
    'common: {masks_from: x}\ngrid: [{regularize: distill, teacher: "@dense"}]': [
        "the teacher @dense", "masks-from"
    ],
    "grid: []": ["grid must be a list of blocks"],
    "common: {seed: 0}": ["grid must be a list of blocks"],
    "grid: {seed: 0}": ["grid must be a list of blocks"],
    "grid: [pins]": ["block 1 of grid is 'pins'", "map settings"],
    "grid: [{seed: 0, seed: 1}]": ["line 1", "'seed' a second time"],
    "grid: [{seed: 0}]\ngrid: [{seed: 1}]": ["line 2", "'grid' a second time"],
    "seed: 0": ["unknown part 'seed'", "common or grid"],
    "- seed": ["must map"],
    "": ["must map"],
    "grid: [": ["cannot be read"],
    "keep: nothing\ngrid: [{seed: 0}]": ["keep is 'nothing'", "evidence"],
    "resources: {cpu: 1}\ngrid: [{seed: 0}]": ["unknown resource 'cpu'", "did you mean cpus"],
    "resources: {cpus: none}\ngrid: [{seed: 0}]": ["numbers"],
    "resources: {cpus: 0}\ngrid: [{seed: 0}]": ["at least 1"],
    "resources: {gpus: 1.5}\ngrid: [{seed: 0}]": ["gpus is 1.5", "whole number"],
    "resources: 4\ngrid: [{seed: 0}]": ["resources is '4'"],
    "output: [a]\ngrid: [{seed: 0}]": ["output is ['a']"],
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_a_file_that_is_refused(text, capfd):
    assert sweep(text) == 2
    assert_refused(capfd, ["the sweep s.yaml: ", *REFUSED[text]])
    assert not Path("runs").exists()


def test_a_file_that_is_not_there(capfd):
    assert main(["sweep", "none.yaml"]) == 2
    assert_refused(capfd, ["none.yaml", "No such file"])


def test_flags_that_are_refused(capfd):
    for flags in (["--jobs", "0"], ["--jobs", "2", "--ray", "auto"]):
        assert sweep("grid: [{seed: 0}]", *flags) == 2
        assert_refused(capfd, ["--jobs", "at least 1"])


# --- carrying it out -----------------------------------------------------------------------------

TWO = "grid: [{seed: [0, 1]}]\n"


def test_what_is_missing_is_run_and_what_is_finished_skipped(capfd):
    assert sweep("grid: [{seed: 0}]") == 0
    assert sweep(TWO, "--dry-run") == 0
    assert "2 runs: 1 done, 1 left" in capfd.readouterr().out and len(calls()) == 1
    assert sweep(TWO) == 0
    first, second = (call["name"] for call in calls())
    assert [first, second] == names(TWO)
    assert sweep(TWO) == 0 and len(calls()) == 2
    left = {path.name for path in Path("runs/s").iterdir()}
    logs = {f"{name}.log" for name in (first, second)}
    assert left == {first, second, *logs, "sweep.json", "sweep.lock", "calls.jsonl"}
    about = json.loads(Path("runs/s/sweep.json").read_text())
    assert about["command"] == "prunella sweep s.yaml" and about["commit"] == COMMIT
    assert about["runs"][1] == {
        "name": second, "settings": {"seed": 1}, "status": "done", "commit": COMMIT,
        "seconds": 100.0,
    }  # fmt: skip
    out = capfd.readouterr().out
    assert "holdout accuracy 0.5000, 2 min; 2 of 2 done" in out and "2 runs: 2 done" in out


def test_another_folder(capfd):
    assert sweep("output: a\ngrid: [{seed: 0}]") == 0
    assert sweep("output: a\ngrid: [{seed: 0}]", "--output", "b") == 0
    assert len(calls("a")) == len(calls("b")) == 1 and not Path("runs").exists()


def test_a_failing_run_is_kept_apart_and_tried_again(capfd):
    text = "grid: [{prefix: [fail, crash, ~], seed: [0, 1]}]"
    assert sweep(text.replace("crash, ", "")) == 1
    assert statuses() == ["failed", "failed", "done", "done"]
    name = names(text)[0]
    said = capfd.readouterr().out
    assert f"failed  {name}" in said and f"runs/s/{name}.log" in said
    error = json.loads(Path(f"runs/s/{name}.error.json").read_text())
    assert error.pop("when")
    assert error == {
        "status": 2, "error": "this value is bad; give a better one", "commit": COMMIT,
        "log": f"{name}.log",
    }  # fmt: skip
    Path("runs/s/mended").touch()
    assert sweep(text) == 1
    assert statuses() == ["done", "done", "failed", "failed", "done", "done"]
    assert "SIGKILL, as when memory runs out" in capfd.readouterr().out
    assert not Path(f"runs/s/{name}.error.json").exists()
    assert len(Path(f"runs/s/{name}.log").read_text().split("###")) == 3  # both attempts


def test_several_at_a_time(capfd):
    text = "resources: {cpus: 3}\ngrid: [{prefix: wait, seed: [0, 1, 2, 3]}]"
    process = Started(text, "--jobs", "3")
    eventually(lambda: count_running() == 3)
    time.sleep(0.3)
    assert len(calls()) == 3 and statuses() == ["running"] * 3 + ["left"]
    Path("runs/s/go").touch()
    assert process.ended()[0] == 0
    assert [call["OMP_NUM_THREADS"] for call in calls()] == ["3"] * 4
    assert {call["CUDA_VISIBLE_DEVICES"] for call in calls()} == {""}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_has_its_runs_stop(number, capfd):
    text = "grid: [{prefix: wait, seed: [0, 1, 2]}]"
    process = Started(text, "--jobs", "2")
    eventually(lambda: count_running() == 2)
    process.signal(number)
    status, out = process.ended()
    assert status == 130
    assert "every run writes a checkpoint" in out
    assert "3 runs: 2 broken off, 1 left; go on with: prunella sweep s.yaml --jobs 2" in out
    assert statuses() == ["broken off", "broken off", "left"]
    assert not [*Path("runs/s").glob("*.error.json")]
    Path("runs/s/go").touch()
    assert sweep(text) == 0
    resumed = [call["resumed"] for call in calls()]
    assert resumed == ["nothing", "nothing", "asked for", "asked for", "nothing"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_sweep_that_is_killed_leaves_nobody_behind(capfd):
    text = "grid: [{prefix: wait, seed: 0}]"
    process = Started(text)
    eventually(lambda: count_running() == 1)
    assert sweep(text) == 2
    assert_refused(capfd, ["another sweep is at work in runs/s (process", str(process.id)])
    process.signal(signal.SIGKILL)
    assert process.ended()[0] == -signal.SIGKILL
    (partial,) = Path("runs/s").glob("*.partial")
    eventually(lambda: "asked for" in (partial / "checkpoint").read_text())
    Path("runs/s/go").touch()
    assert sweep(text) == 0 and calls()[1]["resumed"] == "asked for"


def test_a_run_that_another_process_holds_is_waited_for(capfd):
    (name,) = names("grid: [{seed: 0}]")
    partial = Path(f"runs/s/{name}.partial")
    partial.mkdir(parents=True)
    log = Path(f"runs/s/{name}.log")

    def let_go_later() -> None:
        with lock:
            eventually(lambda: log.exists() and "waiting for another process" in log.read_text())
            assert not Path("runs/s/calls.jsonl").exists()

    lock = (partial / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(let_go_later)
        assert sweep("grid: [{seed: 0}]") == 0
        other.result()
    assert "still at work in 1 of them" in capfd.readouterr().out


def test_a_process_whose_parent_is_gone_does_not_begin(tmp_path):
    launcher = [sys.executable, launch.__file__, "1", str(tmp_path / "lock")]
    done = subprocess.run([*launcher, sys.executable, "-c", "print('begun')"], capture_output=True)
    assert done.returncode == 143 and done.stdout == b""


# --- what is in the folders ----------------------------------------------------------------------


def test_what_is_not_this_run_is_reported_and_not_touched(capfd):
    text = "grid: [{seed: [0, 1, 2, 3, 4, 5]}]"
    assert sweep(text) == 0
    runs = [Path("runs/s", name) for name in names(text)]
    config = result_of(runs[0])["config"] | {"lr": 1.0}
    (runs[0] / "result.json").write_text(json.dumps({"config": config}))
    (runs[1] / "result.json").write_text("{")
    (runs[2] / "result.json").unlink()
    partial = runs[3].with_name(f"{runs[3].name}.partial")
    partial.mkdir()
    (partial / "settings.json").write_text(json.dumps(config | {"seed": 3}))
    for path in runs[4].iterdir():
        path.unlink()
    runs[4].rmdir()
    runs[4].write_text("a file")
    before = {path: path.read_bytes() for path in Path("runs/s").rglob("*") if path.is_file()}
    capfd.readouterr()
    assert sweep(text) == 1
    said = capfd.readouterr().out
    for words in (
        "6 runs: 1 done, 5 foreign",
        f"{runs[0]} holds a run with other settings (lr=1.0, not 8e-05)",
        f"{runs[1] / 'result.json'} is damaged",
        f"{runs[2]} holds files that are no run (config.json)",
        f"{partial} holds a run with other settings (lr=1.0, not 8e-05)",
        f"{runs[4]} is a file",
    ):
        assert words in said
    kept = {path: path.read_bytes() for path in before if path.name not in OWN}
    assert kept == {path: data for path, data in before.items() if path.name not in OWN}
    assert len(calls()) == 6


OWN = ("sweep.json", "sweep.lock")


def test_a_result_of_older_code_lacks_settings_that_are_younger(capfd):
    assert sweep("grid: [{seed: 0}]") == 0
    (name,) = names("grid: [{seed: 0}]")
    result = result_of(Path("runs/s", name))
    del result["config"]["score_gradient"]
    Path("runs/s", name, "result.json").write_text(json.dumps(result))
    assert sweep("grid: [{seed: 0}]") == 0 and len(calls()) == 1


def test_other_code_is_told_of(capfd, monkeypatch):
    monkeypatch.setenv("COMMIT", "b" * 40 + "+")
    assert sweep("grid: [{seed: [0, 1]}]") == 0
    monkeypatch.setenv("COMMIT", COMMIT)
    assert sweep("grid: [{seed: [0, 1, 2]}]") == 0
    said = capfd.readouterr().out
    assert f"of 3 finished runs, not all are by the present code ({COMMIT[:10]}): 2 by " in said
    assert f"{'b' * 10}+" in said and len(calls()) == 3


def test_a_run_of_two_commits_is_told_of(capfd, monkeypatch):
    text = "grid: [{prefix: crash}]"
    monkeypatch.setattr(scheduler, "commit", lambda: "c" * 40)
    assert sweep(text) == 1
    script = Path("mended.py")
    fixed = (TESTS / "imitation.py").read_text().replace('wish == "crash"', "False")
    script.write_text(fixed)
    monkeypatch.setattr(jobs, "COMMAND", (str(script.resolve()),))
    monkeypatch.setattr(scheduler, "commit", lambda: COMMIT)
    assert sweep(text) == 0
    assert "1 begun by one commit and ended by another" in capfd.readouterr().out
    (run,) = json.loads(Path("runs/s/sweep.json").read_text())["runs"]
    assert run["commits"] == ["c" * 40, COMMIT]


def test_runs_that_are_no_more_of_the_sweep(capfd):
    assert sweep("grid: [{seed: [0, 1]}]") == 0
    assert sweep("grid: [{seed: 1}]") == 0
    assert "also holds 1 runs that are not of this sweep" in capfd.readouterr().out
    assert len([*Path("runs/s").glob("*/model.safetensors")]) == 2


def test_runs_of_a_demo_share_the_dense_run_of_their_sweep() -> None:
    runs = plan("grid: [{criterion: [dense, pins], sparsity: [0.8]}]").runs
    assert [run.config.runs_baseline for run in runs] == [False, False]
    earlier = plan("grid: [{criterion: pins, baseline: true}]").runs[0]
    assert earlier.config.runs_baseline
    # What was run before, with a twin, is not run anew; what asks for a twin is.
    assert runs[1].differences(runs[1].config.settings() | {"baseline": None}) == []
    assert runs[1].differences(runs[1].config.settings() | {"baseline": True}) == []
    assert earlier.differences(runs[1].config.settings()) == ["baseline=False, not True"]
    (ladder,) = plan("grid: [{max_drop: 0.1}]").runs
    assert ladder.config.runs_baseline


# --- teachers and evidence -----------------------------------------------------------------------

TAUGHT = """
keep: evidence
grid:
  - {regularize: distill, teacher: "@dense", seed: 0, prefix: [~, fail]}
"""


def test_evidence_alone_is_kept_once_nobody_needs_more():
    assert sweep(TAUGHT) == 1
    teacher, student, other_teacher, failing = (Path("runs/s", name) for name in names(TAUGHT))
    assert {path.name for path in student.iterdir()} == {
        "result.json", "trace.json", "predictions.jsonl"
    }  # fmt: skip
    assert not (teacher / "model.safetensors").exists()
    # The other teacher failed itself, so its student could not be begun.
    assert statuses() == ["done", "done", "failed", "blocked"]
    assert not failing.exists() and not other_teacher.exists()
    Path("runs/s/mended").touch()
    assert sweep(TAUGHT) == 0
    assert not [*Path("runs/s").glob("*/model.safetensors")]


def test_the_model_of_a_teacher_waits_for_its_last_student(capfd):
    text = """
        keep: evidence
        grid: [{criterion: [pins, nope], regularize: distill, teacher: "@dense"}]
    """.replace("nope", "random")
    teacher, one, other = names(text)
    other_fails = f"""
import sys, runpy
if {other!r} in sys.argv[2]: sys.exit('prunella: no')
runpy.run_path({str(TESTS / "imitation.py")!r}, run_name='__main__')
"""
    Path("failing.py").write_text(other_fails)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "COMMAND", (str(Path("failing.py").resolve()),))
        assert sweep(text) == 1
    assert statuses() == ["done", "done", "failed"]
    assert Path("runs/s", teacher, "model.safetensors").exists()
    assert not Path("runs/s", one, "model.safetensors").exists()
    assert sweep(text) == 0
    assert not Path("runs/s", teacher, "model.safetensors").exists()


def test_a_teacher_whose_model_was_removed_is_run_anew():
    dense = "keep: evidence\ngrid: [{criterion: dense}]"
    assert sweep(dense) == 0
    assert sweep('keep: evidence\ngrid: [{regularize: distill, teacher: "@dense"}]') == 0
    assert [call["flags"] for call in calls()] == [["--resume"], ["--overwrite"], ["--resume"]]
    assert sweep('keep: evidence\ngrid: [{regularize: distill, teacher: "@dense"}]') == 0
    assert len(calls()) == 3


# --- GPUs and what is shown ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "jobs", "expected"),
    [
        (1, 3, ["0", "1"]),
        (2, 3, ["0,1"]),
        (0.5, 3, ["0", "0", "1"]),
        (0, 2, ["", ""]),
    ],
)
def test_gpus_are_dealt_out(gpus, jobs, expected, tmp_path, monkeypatch):
    given = []

    def start(self: Job, **environment: str) -> subprocess.Popen[bytes]:
        given.append(environment["CUDA_VISIBLE_DEVICES"])
        return subprocess.Popen([sys.executable, "-S", "-c", ""])

    monkeypatch.setattr(Job, "start", start)
    local = Local(jobs, Resources(1, gpus), ["0", "1"])
    for number in range(4):
        if local.has_room():
            file = tmp_path / "f"
            local.submit(Job(str(number), (), file, file, tmp_path, True, ""))
    assert given == expected
    events: list[Begun | Ended] = []
    while len(events) != 2 * len(expected):
        events += local.wait()
    assert local.free == {"0": 1.0, "1": 1.0} and local.has_room()


def test_a_process_for_each_of_several_gpus():
    found = plan("resources: {cpus: 5, gpus: 2}\ngrid: [{seed: 0}]")
    job = job_of(found.runs[0], Ledger.read(found, COMMIT, ""), anew=False)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert job.arguments[:6] == (*launcher, *jobs.COMMAND)
    assert job.environment["OMP_NUM_THREADS"] == "2"


def test_too_few_gpus(capfd):
    assert sweep("resources: {gpus: 2}\ngrid: [{seed: 0}]") == 2
    err = capfd.readouterr().err
    assert "gpus is 2, but this machine has 0" in err and "--ray" in err


def test_without_ray(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep("grid: [{seed: 0}]", "--ray", "auto") == 2
    assert_refused(capfd, ["not installed", "pip install 'prunella[ray]'"])


def test_the_display_on_a_terminal(capfd):
    ledger = Ledger.read(plan("grid: [{seed: [0, 1, 2]}]"), COMMIT, "")
    done, running, _ = ledger.plan.runs
    console = Console(force_terminal=True, width=120, highlight=False, color_system=None)
    Path("runs/s").mkdir(parents=True)
    log = ledger.file(running.name, "log")
    log.write_text("### 2026-01-01 00:00:00, begins on x, commit y\npins  7/9\n")
    assert Overview(ledger, console).step(running.name) == "7/9"
    with log.open("a") as file:
        file.write("### 2026-01-01 00:00:01, goes on on x, commit y\nreading\n")
    with Overview(ledger, console, {run.name for run in ledger.plan.runs}) as shown:
        shown.begun(done, "")
        shown.begun(running, "node")
        ledger.standings[done.name] = Ledger.read(ledger.plan, None, "").standings[done.name]
        ledger.set(done.name, "done")
        shown.ended(done, ledger.standings[done.name])
        assert shown.step(running.name) == ""
        with log.open("a") as file:
            file.write("pins  40/400  loss 0.7\n")
        shown.tick()
    out = capfd.readouterr().out
    assert "40/400" in out and "1 done" in out and "1 running" in out and "1 left" in out


def test_time_left():
    assert time_left([], 5, [], 1) is None
    assert time_left([10, 20, 900], 0, [], 1) is None
    assert time_left([10, 20, 900], 4, [5.0, 30.0], 2) == (4 * 20 + 15) / 2
    assert time_left([10, 20, 900], 0, [5.0], 2) == 15
    assert [duration(s) for s in (40, 125, 7799)] == ["40 s", "2 min", "2 h 10 min"]


# --- real runs -----------------------------------------------------------------------------------


def test_real_runs_killed_and_finished_by_a_second_call(bert, sst2, monkeypatch, capfd):
    monkeypatch.setattr(jobs, "COMMAND", ("-m", "prunella", "prune"))
    text = f"""
        keep: evidence
        common: {{model: {bert}, data: {sst2}, task: glue/sst2, batch_size: 8, check_every: 5}}
        grid:
          - {{max_length: 2}}
          - {{criterion: magnitude, max_steps: 300}}
    """
    failing, killed = names(text)
    process = Started(text)
    partial = Path(f"runs/s/{killed}.partial")
    eventually(lambda: any(partial.glob("*/checkpoint-10*")), 120)
    (child,) = psutil.Process(process.id).children()
    child.kill()
    process.signal(signal.SIGKILL)
    assert process.ended()[0] == -signal.SIGKILL
    assert "leaves no room" in json.loads(Path(f"runs/s/{failing}.error.json").read_text())["error"]
    assert sweep("\n".join(line for line in text.splitlines() if "max_length" not in line)) == 0
    log = Path(f"runs/s/{killed}.log").read_text()
    assert "resuming magnitude after step" in log and log.count("###") == 2
    folder = Path("runs/s", killed)
    result = result_of(folder)
    assert result["steps"] == 300 and result["environment"]["threads"] == 1
    assert result["sparsity"]["prunable"] == pytest.approx(0.8, abs=1e-3)
    assert {path.name for path in folder.iterdir()} >= {"result.json", "predictions.jsonl"}
    assert not [*folder.glob("*.safetensors")] and not partial.exists()
    assert sweep(text, "--dry-run") == 0
    assert "2 runs: 1 done, 1 failed" in capfd.readouterr().out
