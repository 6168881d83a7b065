"""Data, training and measurement that a pruned run and its dense twin share."""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from prunella import tasks
from prunella.errors import Diverged, UsageError
from prunella.experiments import build, models
from prunella.experiments.callbacks import Clock, Levels, SnapshotOfBest, Stop, keep
from prunella.experiments.config import RunConfig
from prunella.experiments.folder import read_json, write_json
from prunella.experiments.progress import ProgressBar
from prunella.experiments.rehearsal import announce, check_length, rehearse
from prunella.hf import PruningCallback, Trainer
from prunella.hf.checkpoints import check, latest
from prunella.prunable import SCOPES, Scopes, find_prunable
from prunella.regularizers import SelfRegularization
from prunella.runtime import bench, checkpoint, engine
from prunella.schedules import Ladder
from prunella.tasks import Task

MODEL = "model"  # in a folder of a training that has ended
LEVELS = "levels"
TRAINING = "training.json"
SPEED_SECONDS = 5.0


@dataclass(frozen=True)
class Study:
    """Settings, task and encoded rows; trains, and measures what was saved.

    Attributes:
        data: rows and SHA-256 of each split, before it is encoded.
    """

    config: RunConfig
    task: Task
    train: Dataset
    holdout: Dataset  # cut from train
    dev: dict[str, Dataset]
    unlabelled: Dataset | None
    data: dict[str, dict[str, Any]]
    console: Console

    @classmethod
    def of(cls, config: RunConfig, console: Console) -> Study:
        """Read and encode the data, and say what is going to happen."""
        task = _task(config)
        models.locate(config.model)
        splits = task.load(None if config.data is None else Path(config.data).expanduser())
        train, holdout = tasks.cut_holdout(splits.train, task, config.holdout_seed)
        parts = {"train": train, "holdout": holdout, **splits.dev}
        if config.distill_data is not None:
            columns = [config.text_column] + ([config.pair_column or "pair"] if task.pair else [])
            parts["unlabelled"] = tasks.texts(Path(config.distill_data).expanduser(), columns)
        model, tokenizer = models.load(config.model, task)
        models.freeze(model, config.freeze_embeddings)
        rehearse(config, model, tokenizer, task, config.steps(len(train)))
        # Broken between words, unlike the paths and commands that are to be copied.
        console.print(announce(config, model, parts), soft_wrap=False)
        with console.status("reading the texts"):
            encoded = {
                name: tasks.encode(rows, tokenizer, task, config.max_length)
                for name, rows in parts.items()
            }
        longest = max(max(rows["length"]) for rows in encoded.values())
        check_length(config, model, tokenizer, task, longest)
        return cls(
            config,
            task,
            train=encoded["train"],
            holdout=encoded["holdout"],
            dev={name: encoded[name] for name in splits.dev},
            unlabelled=encoded.get("unlabelled"),
            data={name: _fingerprint(rows) for name, rows in parts.items()},
            console=console,
        )

    @property
    def steps(self) -> int:
        return self.config.steps(len(self.train))

    def step_of(self, level: float) -> int:
        """Steps after which the model of a ladder's level was kept."""
        schedule = build.schedule(self.config).resolve(self.steps)
        assert isinstance(schedule, Ladder)
        return schedule.rests().get(level, self.steps)

    @property
    def headline(self) -> str:
        """The metric that choices are made by."""
        return self.task.metrics[0]

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
            },
        )
        model = AutoModelForSequenceClassification.from_pretrained(chosen)
        keep(model, AutoTokenizer.from_pretrained(chosen), folder / MODEL)
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)

    def _train(self, criterion: str, folder: Path, checkpoint: Path | None) -> Path:
        config = self.config
        set_seed(config.seed)
        model, tokenizer = models.load(config.model, self.task)
        models.freeze(model, config.freeze_embeddings)
        terms = build.terms(config, model, models.teacher(config, model, tokenizer), self.steps)
        stop, bar = Stop(self.console), ProgressBar(self.console, criterion)
        callbacks: list[TrainerCallback] = [bar, stop, Clock()]
        if criterion != "dense":
            callbacks.insert(0, PruningCallback(**build.pruning(config)))
            schedule = build.schedule(config).resolve(self.steps)
            if isinstance(schedule, Ladder):
                callbacks.append(Levels(schedule.rests(), folder / LEVELS, tokenizer))
        # The twin has the whole budget, for its checks count from the start.
        if config.patience is not None and criterion == config.criterion:
            callbacks.append(EarlyStoppingCallback(config.patience))
        if config.snapshot != "every":
            split = config.snapshot.removeprefix("best-")
            (term,) = (term for term in terms if isinstance(term, SelfRegularization))
            callbacks.append(SnapshotOfBest(term, f"eval_{split}_{self.headline}"))
        splits = {"holdout": self.holdout, "dev": next(iter(self.dev.values()))}
        checked = {name: splits[name] for name in _checked(config)}
        trainer = Trainer(
            model,
            _arguments(config, folder, self.steps, self.headline),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=self.train,
            eval_dataset=checked or None,
            compute_metrics=self._metrics,
            processing_class=tokenizer,
            callbacks=callbacks,
            regularizers=terms,
            score_gradient=config.score_gradient,
            unlabelled=self.unlabelled,
        )
        trainer.remove_callback(PrinterCallback)
        resumed = None if checkpoint is None else str(checkpoint)
        try:
            with stop.listening():
                trainer.train(resume_from_checkpoint=resumed)
        except Diverged:
            # Saved before anything was computed with it, so it may be what went wrong.
            suspect = folder / f"checkpoint-{trainer.state.global_step}"
            shutil.rmtree(suspect, ignore_errors=True)
            raise
        finally:
            bar.close()
        final = latest(folder)
        assert final is not None
        return final

    def _metrics(self, predicted: EvalPrediction) -> dict[str, float]:
        logits = _finite(
            predicted.predictions,
            "a check found NaN in the outputs; a lower learning rate may help",
        )
        return self.task.evaluate(logits, np.asarray(predicted.label_ids))

    # --- measuring ---------------------------------------------------------------------------

    def measure(
        self, criterion: str, training: Path, saved: Path
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Figures of a saved model, read from its files, and its predictions on dev.

        Raises:
            Diverged: its outputs are not finite.
        """
        started = time.perf_counter()
        known = read_json(training / TRAINING)
        # Train is judged on as many of its rows as the holdout has: enough to see over-fitting.
        sample = self.train.select(range(min(len(self.train), len(self.holdout))))
        splits = {"train": sample, "holdout": self.holdout, **self.dev}
        model = checkpoint.load(saved, "dense")
        logits = self._predict(model, saved, splits, training)
        figures = {
            "metrics": {
                name: self.task.evaluate(logits[name], np.asarray(rows["labels"]))
                for name, rows in splits.items()
            },
            **self._count(model, saved),
            "sparsity_is": "asked" if self.config.target else "outcome",
            "steps": known["steps"],
            "kept_step": known["kept_step"],
            "seconds": known["seconds"] + time.perf_counter() - started,
        }
        return figures, [
            {"criterion": criterion, "split": name, "row": row, "label": label, "logits": values}
            for name, rows in self.dev.items()
            for row, (label, values) in enumerate(
                zip(rows["labels"], logits[name].tolist(), strict=True)
            )
        ]

    def judge(self, saved: Path, folder: Path) -> tuple[float, dict[str, Any]]:
        """The headline metric of a saved model on the holdout; sparsity, parameters and bytes."""
        model = checkpoint.load(saved, "dense")
        logits = self._predict(model, saved, {"holdout": self.holdout}, folder)["holdout"]
        metrics = self.task.evaluate(logits, np.asarray(self.holdout["labels"]))
        return metrics[self.headline], self._count(model, saved)

    def speed(self, saved: Path) -> dict[str, Any] | None:
        """How fast a saved model runs sparse, beside dense, on a text as long as dev's longest.

        None without an engine.
        """
        if engine.variant() is None:
            return None
        longest = max(max(rows["length"]) for rows in self.dev.values())
        try:
            measured = bench.bench(saved, length=longest, seconds=SPEED_SECONDS)
        except UsageError as error:
            self.console.print(f"the speed was not measured: {error}")
            return None
        return {name: value for name, value in measured.items() if name != "model"}

    def _count(self, model: PreTrainedModel, saved: Path) -> dict[str, Any]:
        prunable, _ = find_prunable(model, include_biases=self.config.include_biases)
        counts = Scopes.of(model, prunable).count(dict(model.named_parameters()))
        return {
            "sparsity": {scope: counts[scope].sparsity for scope in SCOPES},
            "parameters": {scope: asdict(counts[scope]) for scope in SCOPES},
            "size_bytes": checkpoint.size(saved),
        }

    def _predict(
        self, model: PreTrainedModel, saved: Path, splits: dict[str, Dataset], folder: Path
    ) -> dict[str, np.ndarray]:
        """Logits of a saved model in the rows' order, computed in batches of like length."""
        arguments = _arguments(self.config, folder, self.steps)
        # The Trainer's grouping by length would shuffle what it predicts as well.
        arguments.train_sampling_strategy = "sequential"
        tokenizer = AutoTokenizer.from_pretrained(saved)
        trainer = Trainer(
            model,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        found = {}
        with self.console.status("evaluating"):
            for name, rows in splits.items():
                order = np.argsort(rows["length"], kind="stable")
                logits = _finite(
                    trainer.predict(rows.select(order)).predictions,
                    f"the outputs of the trained model {saved} hold NaN",
                )
                found[name] = np.empty_like(logits)
                found[name][order] = logits
        return found


def _finite(predictions: Any, message: str) -> np.ndarray:
    """The logits among a model's outputs; Diverged with the message where some are not finite."""
    logits: np.ndarray = predictions[0] if isinstance(predictions, tuple) else predictions
    if not np.isfinite(logits).all():
        raise Diverged(message)
    return logits


def _has_ended(checkpoint: Path) -> bool:
    """Whether training ended with this checkpoint, by its length or for want of progress."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])


def _task(config: RunConfig) -> Task:
    """The task that is named, or that the user's table makes."""
    if config.task not in ("classification", "regression"):
        return tasks.get(config.task)
    if config.data is None:
        raise UsageError(
            f"the task {config.task} needs a table; give a CSV, TSV, JSON lines or Parquet file, "
            "or a folder of such, by --data"
        )
    return tasks.table(
        "classification" if config.task == "classification" else "regression",
        Path(config.data).expanduser(),
        text=config.text_column,
        pair=config.pair_column,
        label=config.label_column,
    )


def _fingerprint(rows: Dataset) -> dict[str, Any]:
    known = hashlib.sha256()
    for row in rows:
        known.update(repr(sorted(row.items())).encode())
    return {"rows": len(rows), "sha256": known.hexdigest()}


def _checked(config: RunConfig) -> list[str]:
    """The splits that something is chosen by."""
    names = {config.snapshot.removeprefix("best-")} if config.snapshot != "every" else set()
    if _chooses(config):
        names.add(config.select_on)
    return sorted(names)


def _chooses(config: RunConfig) -> bool:
    """Whether the model that is kept, or the end, depends on checks."""
    return config.keep == "best" or config.patience is not None


def _arguments(
    config: RunConfig, folder: Path, steps: int, headline: str | None = None
) -> TrainingArguments:
    every = build.in_steps(config.check_every, steps)
    restarts = {"num_cycles": len(config.ladder)} if config.max_drop is not None else None
    warmup = config.warmup
    if restarts:
        warmup = build.schedule(config).resolve(steps).begin  # from where the levels are counted
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=4 * config.batch_size,
        learning_rate=config.lr,
        # Every level of a ladder is trained to its end, with a learning rate that falls to zero.
        lr_scheduler_type="cosine_with_restarts" if restarts else "linear",
        lr_scheduler_kwargs=restarts,
        warmup_steps=warmup,
        weight_decay=config.weight_decay,
        bf16=config.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),  # bf16 wants to be told
        train_sampling_strategy="group_by_length",
        seed=config.seed,
        eval_strategy="steps" if headline and _checked(config) else "no",
        eval_steps=every,
        metric_for_best_model=f"{config.select_on}_{headline}" if _chooses(config) else None,
        greater_is_better=True,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,  # the last and the best, or the one before the last
        restore_callback_states_from_checkpoint=True,
        logging_steps=max(1, steps // 100),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
    )
