"""What a run shows while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import (
    TensorBoardCallback,
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)

from prunella.errors import UsageError
from prunella.experiments.whereabouts import Phase, during, say
from prunella.figures import percent


class ProgressBar(TrainerCallback):
    """Steps, loss, sparsity and time left; where there is no terminal, a line each tenth.

    Minutes without a line are left to ``Whereabouts``.
    """

    def __init__(self, console: Console, title: str):
        self.console = console
        self.title = title
        self.phase = Phase(title)
        self.lasting = ExitStack()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("left", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.start()
        self.row = self.bar.add_task(self.title, total=state.max_steps, numbers="")
        self.phase = self.lasting.enter_context(during(self.title, state.max_steps))
        self.phase.starts(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update(self.row, completed=state.global_step)
        self.phase.at(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        numbers = f"loss {float(logs['loss']):.3f}"
        if "sparsity" in logs:
            numbers += f"  sparsity {percent(logs['sparsity'], 1)}"
        self.bar.update(self.row, numbers=numbers)
        self.phase.at(state.global_step, numbers)
        tenth = max(1, state.max_steps // 10)
        if not self.console.is_terminal and state.global_step % tenth < args.logging_steps:
            say(self.phase, self.console)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back, also where training was broken off."""
        self.bar.stop()
        self.lasting.close()


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError where Transformers does not know a tracker, or it is not installed."""
    known = get_available_reporting_integrations()
    for name in names:
        if name not in known:
            raise UsageError(
                f"--report-to {name} is no tracker that is installed (those are "
                f"{', '.join(known) or 'none'}); install it with pip, or leave it out"
            )


def trackers(names: Sequence[str], training: Path) -> list[TrainerCallback]:
    """Transformers' callbacks that show a training in trackers by name.

    Args:
        training: its folder, in the folder of a run in progress. TensorBoard's files must not
            vanish with it, and lie beside the run.
    """
    made: list[TrainerCallback] = []
    for name, callback in zip(names, get_reporting_integration_callbacks(names), strict=True):
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            run = training.parent
            logs = run.with_name("tensorboard") / run.name.removesuffix(".partial") / training.name
            made.append(TensorBoardCallback(SummaryWriter(str(logs))))
        else:
            made.append(callback())
    return made
