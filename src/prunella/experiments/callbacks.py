"""What a run does beside its training: keep time, stop when asked, take and save models."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from rich.console import Console
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from prunella.hf.checkpoints import put
from prunella.regularizers import SelfRegularization


class Clock(TrainerCallback, ExportableState):
    """Seconds of training, over all the processes that had a part in it."""

    def __init__(self) -> None:
        self.before = 0.0
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"before": self.seconds}}


class Stop(TrainerCallback):
    """Turns the first Ctrl-C, or a request to terminate, into a checkpoint and a clean end."""

    def __init__(self, console: Console):
        self.console = console
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, a signal waits for the step to end; the second one does not."""
        signals = (signal.SIGINT, signal.SIGTERM)
        try:
            before = [signal.signal(number, self._ask) for number in signals]
        except ValueError:  # not the main thread: whoever owns it decides
            yield
            return
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.console.print("stopping after this step; once more stops at once")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # One process may hear of it a step before another, and all of them write the checkpoint.
        self.asked = any(gather_object([self.asked]))
        if self.asked:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.asked:
            raise KeyboardInterrupt


class SnapshotOfBest(TrainerCallback):
    """Takes a snapshot whenever a check finds the model better than at every check before.

    What was found before is read off the Trainer's log, which its checkpoints hold.

    Args:
        sign: 1 where the metric is better when higher, -1 where lower.
    """

    def __init__(self, term: SelfRegularization, metric: str, sign: int):
        self.term = term
        self.metric = metric
        self.sign = sign

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if metrics is None or self.metric not in metrics:  # a check of another split
            return
        earlier = [
            self.sign * entry[self.metric]
            for entry in state.log_history
            if self.metric in entry and entry["step"] < state.global_step
        ]
        if self.sign * metrics[self.metric] > max(earlier, default=-float("inf")):
            self.term.take()


class Levels(TrainerCallback):
    """Saves the model when it has healed at a level."""

    def __init__(
        self, rests: Mapping[float, int], folder: Path, tokenizer: PreTrainedTokenizerBase
    ):
        self.levels = {step: level for level, step in rests.items()}
        self.folder = folder
        self.tokenizer = tokenizer

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if state.global_step in self.levels and state.is_world_process_zero:
            assert isinstance(model, PreTrainedModel)
            keep(model, self.tokenizer, self.folder / f"{self.levels[state.global_step]:g}")


def keep(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a model that is whole or not there."""
    aside = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    put(aside, folder)
