"""What a run shows while it trains."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ProgressBar(TrainerCallback):
    """Steps, loss, sparsity and time left; where there is no terminal, a line each tenth."""

    def __init__(self, console: Console, title: str):
        self.console = console
        self.title = title
        self.numbers = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.start()
        self.row = self.bar.add_task(self.title, total=state.max_steps, numbers="")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.update(self.row, completed=state.global_step)

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
            numbers += f"  sparsity {logs['sparsity']:.1%}"
        self.bar.update(self.row, numbers=numbers)
        tenth = max(1, state.max_steps // 10)
        if not self.console.is_terminal and state.global_step % tenth < args.logging_steps:
            self.console.print(f"{self.title}  {state.global_step}/{state.max_steps}  {numbers}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back, also where training was broken off."""
        self.bar.stop()
