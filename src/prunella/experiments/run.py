"""One run: data, model, training under a pruner, evaluation, and a folder with all that is left."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from prunella import tasks
from prunella.errors import UsageError
from prunella.experiments import models
from prunella.experiments.config import RunConfig
from prunella.experiments.environment import environment
from prunella.experiments.progress import ProgressBar
from prunella.hf import PruningCallback, Trainer
from prunella.masks import SCOPES, Scopes, embedding_names, find_prunable
from prunella.tasks import Task

SCHEMA = 1
WEIGHTS = "model.safetensors"


def run(config: RunConfig, console: Console) -> tuple[Path, dict[str, Any]]:
    """Carry out one run; return the folder that holds its result, and the result.

    The folder appears at the end, whole: a Transformers checkpoint, ``result.json``,
    ``prunella.yaml`` (the settings) and ``predictions.jsonl`` (dev, row by row; the dense twin's
    too, where one was run). Until then all is in ``<folder>.partial``, where a run that broke off
    leaves its last checkpoint.

    Raises:
        UsageError: bad settings or data; nothing is left behind.
        Diverged: the loss or a score is no longer finite.
    """
    output = _free_output(config)
    study = Study.of(config, console)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        figures, predictions = study.fit(config.criterion, partial)
    except UsageError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    result = {"schema": SCHEMA, "config": asdict(config), **figures}
    if config.runs_baseline:
        result["baseline"], dense = study.fit("dense", partial / "dense")
        shutil.rmtree(partial / "dense")
        predictions = [*predictions, *dense]
    result |= {"dev_used_for_selection": False, "environment": environment()}

    with (partial / "predictions.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in predictions)
    (partial / "prunella.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (partial / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _replace(partial, output)
    return output, result


@dataclass(frozen=True)
class Study:
    """What a pruned run and its dense twin share: settings, task and encoded rows."""

    config: RunConfig
    task: Task
    train: Dataset
    holdout: Dataset  # cut from train
    dev: dict[str, Dataset]
    console: Console

    @classmethod
    def of(cls, config: RunConfig, console: Console) -> Study:
        """Read and encode the data, and say what is going to happen."""
        task = tasks.get(config.task)
        models.locate(config.model)
        splits = task.load(None if config.data is None else Path(config.data).expanduser())
        train, holdout = tasks.cut_holdout(splits.train, task, config.seed)
        model, tokenizer = models.load(config.model, task)
        console.print(_announcement(config, model, len(train), len(holdout), splits.dev))
        train, holdout, *dev = (
            tasks.encode(rows, tokenizer, task, config.max_length)
            for rows in (train, holdout, *splits.dev.values())
        )
        return cls(config, task, train, holdout, dict(zip(splits.dev, dev, strict=True)), console)

    def fit(self, criterion: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Train from scratch, save into ``folder``, evaluate; figures and dev's predictions."""
        started = time.perf_counter()
        set_seed(self.config.seed)
        model, tokenizer = models.load(self.config.model, self.task)
        _freeze(model, self.config)
        bar = ProgressBar(self.console, criterion)
        trainer = Trainer(
            model,
            _arguments(self.config, folder, len(self.train)),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=self.train,
            processing_class=tokenizer,
            callbacks=[*_pruning(self.config, criterion), bar],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            steps = trainer.train().global_step
        finally:
            bar.close()
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

        # The Trainer's grouping by length shuffles what it predicts as well.
        trainer.args.train_sampling_strategy = "sequential"
        # Train is judged on as many of its rows as the holdout has: enough to see over-fitting.
        sample = self.train.select(range(min(len(self.train), len(self.holdout))))
        splits = {"train": sample, "holdout": self.holdout, **self.dev}
        logits = {name: _predict(trainer, rows) for name, rows in splits.items()}
        saved = type(model).from_pretrained(folder)
        prunable, _ = find_prunable(saved, include_biases=self.config.include_biases)
        counts = Scopes.of(saved, prunable).count(dict(saved.named_parameters()))
        figures = {
            "metrics": {
                name: self.task.evaluate(logits[name], np.asarray(rows["labels"]))
                for name, rows in splits.items()
            },
            "sparsity": {scope: counts[scope].sparsity for scope in SCOPES},
            "parameters": {scope: asdict(counts[scope]) for scope in SCOPES},
            "size_bytes": (folder / WEIGHTS).stat().st_size,
            "seconds": time.perf_counter() - started,
            "steps": steps,
        }
        return figures, [
            {"criterion": criterion, "split": name, "row": row, "label": label, "logits": values}
            for name, rows in self.dev.items()
            for row, (label, values) in enumerate(
                zip(rows["labels"], logits[name].tolist(), strict=True)
            )
        ]


def _announcement(
    config: RunConfig, model: PreTrainedModel, train: int, holdout: int, dev: dict[str, Dataset]
) -> str:
    """What will be trained, frozen, pruned and held out."""
    _freeze(model, config)
    prunable, _ = find_prunable(model, include_biases=config.include_biases)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    matrices = sum(p.parameter.numel() for p in prunable.values())
    goal = (
        "prunes nothing"
        if config.criterion == "dense"
        else f"prunes {matrices / 1e6:.1f} M in {len(prunable)} parameters to "
        f"{config.sparsity:.0%} by {config.criterion}"
    )
    budget = f"{config.max_steps} steps" if config.max_steps else f"{config.epochs:g} epochs"
    devs = " + ".join(f"{len(rows):,}" for rows in dev.values())
    return (
        f"{config.model} on {config.task}: trains {trained / 1e6:.1f} M of {total / 1e6:.1f} M "
        f"parameters ({(total - trained) / 1e6:.1f} M frozen), {goal}; {budget} of "
        f"{config.batch_size} on {train:,} rows; {holdout:,} rows of train held out; dev ({devs} "
        "rows) is used once, at the end"
    )


def _freeze(model: PreTrainedModel, config: RunConfig) -> None:
    if config.freeze_embeddings:
        for name in embedding_names(model):
            model.get_parameter(name).requires_grad_(False)


def _pruning(config: RunConfig, criterion: str) -> Iterator[TrainerCallback]:
    """The pruner, unless the run is dense."""
    if criterion != "dense":
        yield PruningCallback(
            config.build_criterion(),
            config.build_schedule(),
            config.build_allocation(),
            include_biases=config.include_biases,
            hold=config.hold,
        )


def _arguments(config: RunConfig, folder: Path, rows: int) -> TrainingArguments:
    steps = config.max_steps or round(config.epochs * rows / config.batch_size)
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=4 * config.batch_size,
        learning_rate=config.lr,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        bf16=config.precision == "bf16",
        train_sampling_strategy="group_by_length",
        seed=config.seed,
        # Weights alone, to have something left should the loss diverge.
        save_strategy="steps",
        save_steps=max(1, steps // 5),
        save_total_limit=1,
        save_only_model=True,
        logging_steps=max(1, steps // 100),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
    )


def _predict(trainer: Trainer, rows: Dataset) -> np.ndarray:
    """Logits in the rows' order, computed in batches of like length."""
    order = np.argsort(rows["length"], kind="stable")
    logits = trainer.predict(rows.select(order)).predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    in_order = np.empty_like(logits)
    in_order[order] = logits
    return in_order


def _free_output(config: RunConfig) -> Path:
    """The folder for the result.

    Raises:
        UsageError: it holds something that may not be replaced.
    """
    if config.output is None:
        stem = f"{config.task}-{config.criterion}-{config.sparsity:g}-seed{config.seed}"
        names = (stem.replace("/", "-") + (f"-{n}" if n else "") for n in range(10**6))
        return next(path for path in (Path("runs", name) for name in names) if not path.exists())
    output = Path(config.output).expanduser().absolute()
    if output.exists() and not output.is_dir():
        raise UsageError(f"the output {config.output} is a file; name a folder")
    if (output / "result.json").exists():
        if not config.overwrite:
            raise UsageError(
                f"the output folder {config.output} already holds a result; name another with "
                "--output, or replace it with --overwrite"
            )
    elif output.exists() and any(output.iterdir()):
        raise UsageError(
            f"the output folder {config.output} holds files that are no result of a run; name "
            "another with --output"
        )
    return output


def _replace(new: Path, folder: Path) -> None:
    """Put a whole folder in the place of another, which is gone only once the new one is there."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
