"""Training and measurement that a pruned run and its dense twin share."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from prunella import flops
from prunella.errors import Diverged, UsageError
from prunella.experiments import build, concerns, data, models, trace, training
from prunella.experiments.callbacks import Clock, Levels, SnapshotOfBest, Stop, keep
from prunella.experiments.config import RunConfig
from prunella.experiments.data import Data
from prunella.experiments.evaluation import CheckedTrainer, records, told
from prunella.experiments.folder import read_json, write_json
from prunella.experiments.progress import ProgressBar, check_trackers, trackers
from prunella.experiments.rehearsal import announce, check_length, check_teacher, rehearse
from prunella.experiments.trace import Tracer
from prunella.experiments.whereabouts import during
from prunella.hf import PruningCallback
from prunella.hf.checkpoints import check, latest
from prunella.hf.trainer import REGULARIZERS
from prunella.prunable import SCOPES, Scopes, find_prunable
from prunella.regularizers import SelfRegularization
from prunella.runtime import bench, checkpoint, engine
from prunella.schedules import Ladder
from prunella.summary import left_dense
from prunella.tasks import Record, Task

MODEL = "model"  # in a folder of a training that has ended
LEVELS = "levels"
TRAINING = "training.json"
SPEED_SECONDS, SPEED_ROUNDS = 5.0, 20


@dataclass(frozen=True)
class Study:
    """Settings, task and encoded rows; trains, and measures what was saved.

    Args:
        pruned_by: criterion, schedule and allocation in full, as fitted to the run.
    """

    config: RunConfig
    task: Task
    data: Data
    console: Console
    pruned_by: dict[str, str] | None = None

    @classmethod
    def of(cls, config: RunConfig, console: Console) -> Study:
        """Read and encode the data, and say what is going to happen."""
        check_trackers(config.report_to)
        task = data.task(config)
        models.locate(config.origin, "--model" if config.model else "--masks-from")
        with during("loading the model"):
            model, tokenizer = models.load(config.origin, task, config.trust_remote_code)
        models.freeze(model, config)
        reader = models.reader(config, task, model, tokenizer)
        check_teacher(config, model, tokenizer, task, reader)
        with during("reading the data"):
            read = Data.read(config, task, reader)
        study = cls(config, task, read, console)
        check_length(config, model, tokenizer, read.longest)
        pruned_by = rehearse(config, model, tokenizer, task, study.steps)
        # Broken between words, unlike the paths and commands that are to be copied.
        console.print(announce(config, model, task, read), soft_wrap=False)
        return replace(study, pruned_by=pruned_by)

    @property
    def steps(self) -> int:
        return self.config.steps(self.data.examples)

    def step_of(self, level: float) -> int:
        """Steps after which the model of a ladder's level was kept."""
        schedule = build.schedule(self.config).resolve(self.steps)
        assert isinstance(schedule, Ladder)
        return schedule.rests().get(level, self.steps)

    @property
    def headline(self) -> str:
        """The metric that choices are made by."""
        return data.headline(self.config, self.task)

    @property
    def minimize(self) -> bool:
        """Whether it is better when lower."""
        return self.task.minimize and self.headline == self.task.metrics[0]

    def about(self) -> dict[str, Any]:
        """The task's settings, those left open included."""
        reader = self.data.reader
        return self.task.about() | {
            "max_length": reader.max_length,
            "truncate": reader.truncate,
            "metric": self.headline,
            "lower_is_better": self.minimize,
            "class_weights": self._class_weights,
        }

    @property
    def _class_weights(self) -> list[float] | None:
        """Of the task's loss, in the order of the classes."""
        if self.config.class_weights is None:
            return None
        assert self.task.classes is not None
        return build.class_weights(list(self.data.train["labels"]), len(self.task.classes))

    # --- training ----------------------------------------------------------------------------

    def fit(self, criterion: str, folder: Path) -> None:
        """Train from scratch, or from the last checkpoint in ``folder``, unless that is done.

        Leaves ``folder/model``, ``folder/training.json`` and, on the way up a ladder,
        ``folder/levels``.

        Raises:
            Diverged: the loss is no longer finite; checkpoints left in the folder are good.
            KeyboardInterrupt: as asked; a checkpoint of the last step was written.
        """
        if (folder / MODEL).is_dir():
            return
        checkpoint = latest(folder)
        if checkpoint is not None:
            check(checkpoint)
            step = checkpoint.name.rpartition("-")[2]
            self.console.print(f"resuming {criterion} after step {step}")
        if checkpoint is None or not _has_ended(checkpoint):
            checkpoint = self._train(criterion, folder, checkpoint)
        processes = PartialState()
        processes.wait_for_everyone()  # all of them know where training ended
        if not processes.is_main_process:
            return
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        chosen = checkpoint
        if self.config.keep == "best":
            assert state.best_model_checkpoint is not None
            chosen = folder / Path(state.best_model_checkpoint).name
            check(chosen)
        write_json(
            folder / TRAINING,
            {
                "steps": state.global_step,
                "kept_step": int(chosen.name.rpartition("-")[2]),
                "seconds": state.stateful_callbacks["Clock"]["attributes"]["before"],
                "snapshot": _snapshot(checkpoint),
                "trace": trace.of_training(state.log_history),
            },
        )
        code = {"trust_remote_code": self.config.trust_remote_code}
        auto = self.task.architecture(AutoConfig.from_pretrained(chosen, **code))
        model = auto.from_pretrained(chosen, **code)
        keep(model, AutoTokenizer.from_pretrained(chosen, **code), folder / MODEL)
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)

    def _train(self, criterion: str, folder: Path, checkpoint: Path | None) -> Path:
        config = self.config
        set_seed(config.seed)
        model, tokenizer = models.load(config.origin, self.task, config.trust_remote_code)
        models.freeze(model, config)
        teacher = models.teacher(config, model, tokenizer, self.task)
        terms = build.terms(config, model, teacher, self.steps)
        stop, bar = Stop(self.console), ProgressBar(self.console, criterion)
        first = PartialState().is_main_process  # the one that writes
        shown = trackers(config.report_to if first else (), folder)
        callbacks: list[TrainerCallback] = [bar, stop, Clock(), *shown]
        if criterion != "dense":
            pruning = PruningCallback(
                **build.pruning(config, models.masks(config, model), self.steps)
            )
            callbacks = [pruning, Tracer(pruning), *callbacks]
            schedule = build.schedule(config).resolve(self.steps)
            if isinstance(schedule, Ladder):
                callbacks.append(Levels(schedule.rests(), folder / LEVELS, tokenizer))
        # The twin has the whole budget, for its checks count from the start.
        if config.patience is not None and criterion == config.criterion:
            callbacks.append(EarlyStoppingCallback(config.patience))
        if config.snapshot != "every":
            split = config.snapshot.removeprefix("best-")
            (term,) = (term for term in terms if isinstance(term, SelfRegularization))
            metric = f"eval_{split}_{self.headline}"
            callbacks.append(SnapshotOfBest(term, metric, -1 if self.minimize else 1))
        weights = self._class_weights
        trainer = CheckedTrainer(
            model,
            training.arguments(config, folder, self.steps, self.headline, self.minimize),
            check=lambda model: self._checks(model, tokenizer),
            data_collator=self.task.collator(tokenizer, model),
            train_dataset=self.data.train,
            eval_dataset=self.data.splits["holdout"].features,
            processing_class=tokenizer,
            callbacks=callbacks,
            regularizers=terms,
            score_gradient=config.score_gradient,
            unlabelled=self.data.unlabelled,
            compute_loss_func=None if weights is None else build.weighted_loss(weights),
        )
        trainer.remove_callback(PrinterCallback)
        resumed = None if checkpoint is None else str(checkpoint)
        try:
            with stop.listening():
                trainer.train(resume_from_checkpoint=resumed)
        except Diverged:
            # Saved before anything was computed with it, so it may be what went wrong.
            suspect = folder / f"checkpoint-{trainer.state.global_step}"
            if first:
                shutil.rmtree(suspect, ignore_errors=True)
            raise
        finally:
            bar.close()
        final = latest(folder)
        assert final is not None
        return final

    def _checks(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, float]:
        """The metrics of the splits that something is chosen by."""
        return {
            f"eval_{name}_{metric}": value
            for name in training.checked(self.config)
            for metric, value in self.task.score(self._records(model, tokenizer, name)).items()
        }

    def _records(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: str
    ) -> list[Record]:
        part = self.data.splits[split]
        with during(f"evaluating {split}", len(part.features)) as phase:
            return records(
                model,
                tokenizer,
                self.task,
                part,
                batch_size=4 * self.config.batch_size,
                bf16=self.config.precision == "bf16",
                seen=phase.at,
            )

    # --- measuring ---------------------------------------------------------------------------

    def measure(
        self, criterion: str, training: Path, saved: Path
    ) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        """Figures of a saved model, read from its files; its trace; and its predictions on dev and
        test.

        Raises:
            Diverged: its outputs are not finite.
        """
        started = time.perf_counter()
        known = read_json(training / TRAINING)
        model = checkpoint.load(saved, "dense", self.config.trust_remote_code)
        found = self._answers(model, saved, self.data.splits)
        prunable, _ = find_prunable(model, **build.chosen(self.config))
        metrics = {name: self.task.score(part) for name, part in found.items()}
        figures = {
            "metrics": metrics,
            "metrics_of": {name: len(self.data.splits[name].rows) for name in found},
            "by_class": {name: self.task.by_class(part) for name, part in found.items()},
            **self._concerns(criterion, model, metrics, found),
            **self._count(model, saved),
            "left_dense": [asdict(left) for left in left_dense(model, prunable)],
            "flops": self._flops(model),
            "held": {
                "model": model.num_parameters(),
                "snapshot": known["snapshot"],
                "teacher": models.teacher_size(self.config, self.task),
            },
            "sparsity_is": "asked" if self.config.target else "outcome",
            "steps": known["steps"],
            "kept_step": known["kept_step"],
            "seconds": known["seconds"] + time.perf_counter() - started,
        }
        return (
            figures,
            trace.of_model(known["trace"], prunable),
            [
                {"criterion": criterion, "split": name} | row
                for name, split in self.data.reported.items()
                for row in told(
                    split.rows if self.task.by_row else None,
                    found[name],
                    self.task.inputs if self.config.with_text else (),
                )
            ],
        )

    def _concerns(
        self,
        criterion: str,
        model: PreTrainedModel,
        metrics: dict[str, dict[str, float]],
        found: dict[str, list[Record]],
    ) -> dict[str, Any]:
        """What one and the same answer to every row reaches; what is odd, in words."""
        prunable, _ = find_prunable(model, **build.chosen(self.config))
        gone = concerns.empty({name: each.parameter for name, each in prunable.items()})
        trivial = {}
        for name, split in self.data.dev.items():
            labels = split.features["labels"] if "labels" in split.features.column_names else ()
            best = concerns.trivial(self.task, found[name], labels, self.headline)
            if best is not None:
                trivial[name] = best
        return {
            "empty": gone,
            "trivial": trivial,
            "warnings": [
                *concerns.of_matrices(prunable, gone, criterion != "dense"),
                *concerns.of_metrics(metrics, trivial, self.headline, self.minimize),
                *(
                    w
                    for n in self.data.dev
                    for w in concerns.of_predictions(self.task, found[n], n)
                ),
            ],
        }

    def judge(self, saved: Path) -> tuple[float, dict[str, Any]]:
        """The headline metric of a saved model on the holdout; sparsity, parameters and bytes."""
        model = checkpoint.load(saved, "dense", self.config.trust_remote_code)
        metrics = self.task.score(self._answers(model, saved, ["holdout"])["holdout"])
        return metrics[self.headline], self._count(model, saved)

    def _answers(
        self, model: PreTrainedModel, saved: Path, splits: Iterable[str]
    ) -> dict[str, list[Record]]:
        """Records of a saved model."""
        tokenizer = models.tokenizer(saved, model, self.config.trust_remote_code)
        if torch.accelerator.is_available():
            model.to(torch.accelerator.current_accelerator())  # type: ignore[arg-type]
        with self.console.status("evaluating"):
            return {name: self._records(model, tokenizer, name) for name in splits}

    def speed(self, saved: Path) -> dict[str, Any] | None:
        """How fast a saved model runs sparse, beside dense, on a text as long as dev's longest.

        None without an engine.
        """
        if engine.variant() is None:
            return None
        try:
            with during("measuring the speed"):
                measured = bench.bench(
                    saved, length=self._longest, seconds=SPEED_SECONDS, rounds=SPEED_ROUNDS
                )
        except UsageError as error:
            self.console.print(f"the speed was not measured: {error}")
            return None
        return {name: value for name, value in measured.items() if name != "model"}

    def _flops(self, model: PreTrainedModel) -> dict[str, int] | None:
        """Of one text as long as dev's longest; None where it cannot be counted."""
        model.set_attn_implementation("eager")
        model.set_experts_implementation("eager")
        try:
            inputs = bench.inputs_of(model, batch=1, length=self._longest)
        except UsageError:  # not a model of tokens alone, or of fewer
            return None
        on_device = {name: value.to(model.device) for name, value in inputs.items()}
        return {"length": self._longest} | flops.count(model, lambda: model(**on_device))

    @property
    def _longest(self) -> int:
        """Tokens of dev's longest input."""
        return max(max(split.features["length"]) for split in self.data.dev.values())

    def _count(self, model: PreTrainedModel, saved: Path) -> dict[str, Any]:
        prunable, _ = find_prunable(model, **build.chosen(self.config))
        counts = Scopes.of(model, prunable).count(dict(model.named_parameters()))
        return {
            "sparsity": {scope: counts[scope].sparsity for scope in SCOPES},
            "parameters": {scope: asdict(counts[scope]) for scope in SCOPES},
            "size_bytes": checkpoint.size(saved),
        }


def _snapshot(checkpoint: Path) -> int:
    """Parameters that are not zero in the snapshot a checkpoint came with; 0 without one."""
    return sum(
        int(tensor.count_nonzero()) for tensor in load_file(checkpoint / REGULARIZERS).values()
    )


def _has_ended(checkpoint: Path) -> bool:
    """Whether training ended with this checkpoint, by its length or for want of progress."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])
