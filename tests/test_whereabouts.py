"""A run whose output goes to a file says where it is at least once a minute."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from prunella.experiments import encoding, evaluation, overview, whereabouts
from prunella.experiments.config import RunConfig
from prunella.experiments.overview import Overview
from prunella.experiments.progress import ProgressBar
from prunella.experiments.run import run
from prunella.experiments.whereabouts import Phase, Whereabouts, during


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class File(io.StringIO):
    """Knows what would be on disk."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file() -> File:
    return File()


@pytest.fixture
def listener(clock: Clock, file: File) -> Whereabouts:
    return Whereabouts(Console(file=file, width=140), clock)


def test_a_line_a_minute_with_time_left(clock: Clock, file: File, listener: Whereabouts) -> None:
    with listener, during("reading the data"), during("tokenising train", 1000) as phase:
        for second in range(1, 181):
            clock.now += 1
            phase.at(2 * second)
            listener.look()
            assert file.flushed == file.getvalue()
    lines = file.getvalue().splitlines()
    assert lines == [
        "tokenising train  120/1000  7 min left",
        "tokenising train  240/1000  6 min left",
        "tokenising train  360/1000  5 min left",
    ]


def test_what_has_no_count_says_how_long(clock: Clock, file: File, listener: Whereabouts) -> None:
    with listener, during("reading the data"):
        with during("evaluating dev", 10):
            clock.now += 61
            listener.look()
        clock.now += 59
        listener.look()
        clock.now += 1
        listener.look()
    listener.look()
    assert file.getvalue().splitlines() == [
        "evaluating dev  0/10  1 min so far",
        "reading the data  2 min so far",
    ]


def test_training_says_steps_loss_sparsity_and_time_left(
    clock: Clock, file: File, listener: Whereabouts, tmp_path: Path
) -> None:
    """Also where a tenth of the run takes hours, and one step more than a minute."""
    bar = ProgressBar(listener.console, "pins")
    state = TrainerState(max_steps=10_000, global_step=2000)  # resumed: what was before is no pace
    args, control = TrainingArguments(str(tmp_path), use_cpu=True), TrainerControl()
    with listener:
        bar.on_train_begin(args, state, control)
        clock.now += 3600
        state.global_step = 2100
        bar.on_step_end(args, state, control)
        bar.on_log(args, state, control, logs={"loss": 0.5, "sparsity": 0.12})
        listener.look()
        for _ in range(2):
            clock.now += 59
            listener.look()
        clock.now += 2
        listener.look()
        state.global_step = 10_000
        bar.on_step_end(args, state, control)
        bar.on_log(args, state, control, logs={"loss": 0.25, "sparsity": 0.8})
        bar.on_train_end(args, state, control)
        assert listener.phases == []
    assert file.getvalue().splitlines() == [
        "pins  2100/10000  loss 0.500  sparsity 12.0%  79 h 00 min left",
        "pins  2100/10000  loss 0.500  sparsity 12.0%  81 h 35 min left",
        "pins  10000/10000  loss 0.250  sparsity 80.0%",
    ]


def test_a_terminal_has_bars_instead(clock: Clock) -> None:
    screen = Whereabouts(Console(file=io.StringIO(), force_terminal=True), clock)
    with screen:
        assert not screen._thread.is_alive()
    aside = Whereabouts(Console(file=io.StringIO()), clock)
    with aside:
        assert aside._thread.is_alive()
    assert not aside._thread.is_alive()


def test_all_that_takes_long_is_told(
    bert: Path, sst2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, tuple[int, int]] = {}
    at = Phase.at

    def noted(self: Phase, done: int, numbers: str = "") -> None:
        told[self.title] = (done, self.total)
        at(self, done, numbers)

    begun: list[str] = []
    began = Phase.__post_init__

    def noticed(self: Phase) -> None:
        begun.append(self.title)
        began(self)

    monkeypatch.setattr(Phase, "at", noted)
    monkeypatch.setattr(Phase, "__post_init__", noticed)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding.datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    settings: dict[str, Any] = {"max_steps": 12, "keep": "best", "output": str(tmp_path / "out")}
    config = RunConfig(model=str(bert), task="glue/sst2", data=str(sst2), **settings)
    run(config, Console(file=io.StringIO()))
    assert told["pins"] == (12, 12) and told["evaluating holdout"] == (12, 12)
    assert told["evaluating dev"] == told["tokenising dev"] == (40, 40)
    assert told["tokenising train"][0] == told["tokenising train"][1] > 0
    assert {"loading the model", "reading the data", "writing the sparse model"} <= {*begun}
    assert "measuring the speed" in begun


def test_a_sweep_says_a_line_a_minute(
    clock: Clock, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ledger:
        standings = dict.fromkeys("abc")

        def count(self, *_: str) -> int:
            return 1

    monkeypatch.setattr(overview.time, "monotonic", clock)
    monkeypatch.setattr(Overview, "time_left", lambda self: 600.0)
    monkeypatch.setattr(Overview, "step", lambda self, name: "3/40")
    with Overview(Ledger(), Console(file=file, width=140), {"b", "c"}) as shown:  # type: ignore[arg-type]
        shown.started["b"] = clock.now
        for _ in range(130):
            clock.now += 1
            shown.tick()
    lines = [line[10:] for line in file.flushed.splitlines()]
    assert lines == ["1 of 3 done, about 10 min left; running: b 3/40"] * 2


def test_evaluating_tells_nobody_where_nobody_asks() -> None:
    assert evaluation.records.__kwdefaults__["seen"](3) is None
    assert whereabouts.duration(7805) == "2 h 10 min"
