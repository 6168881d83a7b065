"""One run: data, model, training under a pruner, evaluation, and a folder with all that is left."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainingArguments,
    set_seed,
)

from prunella import tasks
from prunella.errors import Diverged, UsageError
from prunella.experiments import models
from prunella.experiments.config import RunConfig
from prunella.experiments.environment import environment
from prunella.experiments.progress import ProgressBar
from prunella.hf import PruningCallback, Trainer
from prunella.prunable import SCOPES, Scopes, embedding_names, find_prunable
from prunella.pruner import Pruner
from prunella.tasks import Task

SCHEMA = 1
WEIGHTS = "model.safetensors"


def run(config: RunConfig, console: Console) -> tuple[Path, dict[str, Any]]:
    """Carry out one run; return the folder that holds its result, and the result.

    The folder appears at the end, whole: a Transformers checkpoint, ``result.json``,
    ``prunella.yaml`` (the settings) and ``predictions.jsonl`` (dev, row by row; the dense twin's
    too, where one was run). Until then all is in ``<folder>.partial``, where a run that broke off
    leaves its last good checkpoint; a note on the exception says where.

    Raises:
        UsageError: bad settings or data; nothing is left behind.
        Diverged: the loss, a score or the result is no longer finite.
    """
    config.check()
    output = _free_output(config)
    study = Study.of(config, console)
    with _unfinished(output) as partial:
        figures, predictions = study.fit(config.criterion, partial)
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
        _freeze(model, config)
        _rehearse(config, model, config.steps(len(train)))
        # Broken between words, unlike the paths and commands that are to be copied.
        about = _announcement(config, model, len(train), len(holdout), splits.dev)
        console.print(about, soft_wrap=False)
        with console.status("reading the texts"):
            train, holdout, *dev = (
                tasks.encode(rows, tokenizer, task, config.max_length)
                for rows in (train, holdout, *splits.dev.values())
            )
        longest = max(max(rows["length"]) for rows in (train, holdout, *dev))
        _check_length(config, model, tokenizer, task, longest)
        return cls(config, task, train, holdout, dict(zip(splits.dev, dev, strict=True)), console)

    def fit(self, criterion: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Train from scratch, save into ``folder``, evaluate; figures and dev's predictions."""
        started = time.perf_counter()
        set_seed(self.config.seed)
        model, tokenizer = models.load(self.config.model, self.task)
        _freeze(model, self.config)
        bar = ProgressBar(self.console, criterion)
        pruning = None if criterion == "dense" else PruningCallback(**self.config.pruning())
        trainer = Trainer(
            model,
            _arguments(self.config, folder, self.config.steps(len(self.train))),
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=self.train,
            processing_class=tokenizer,
            callbacks=[bar] if pruning is None else [pruning, bar],
        )
        trainer.remove_callback(PrinterCallback)
        # Train is judged on as many of its rows as the holdout has: enough to see over-fitting.
        sample = self.train.select(range(min(len(self.train), len(self.holdout))))
        splits = {"train": sample, "holdout": self.holdout, **self.dev}
        try:
            logits = _train(trainer, folder, splits, self.console)
        finally:
            bar.close()
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

        saved = type(model).from_pretrained(folder)
        prunable, _ = find_prunable(saved, include_biases=self.config.include_biases)
        counts = Scopes.of(saved, prunable).count(dict(saved.named_parameters()))
        figures = {
            "metrics": {
                name: self.task.evaluate(logits[name], np.asarray(rows["labels"]))
                for name, rows in splits.items()
            },
            "sparsity": {scope: counts[scope].sparsity for scope in SCOPES},
            "sparsity_is": "outcome" if _is_outcome(pruning) else "asked",
            "parameters": {scope: asdict(counts[scope]) for scope in SCOPES},
            "size_bytes": (folder / WEIGHTS).stat().st_size,
            "seconds": time.perf_counter() - started,
            "steps": trainer.state.global_step,
        }
        return figures, [
            {"criterion": criterion, "split": name, "row": row, "label": label, "logits": values}
            for name, rows in self.dev.items()
            for row, (label, values) in enumerate(
                zip(rows["labels"], logits[name].tolist(), strict=True)
            )
        ]


def _is_outcome(pruning: PruningCallback | None) -> bool:
    return pruning is not None and pruning.pruner is not None and pruning.pruner.is_outcome


def _announcement(
    config: RunConfig, model: PreTrainedModel, train: int, holdout: int, dev: dict[str, Dataset]
) -> str:
    """What will be trained, frozen, pruned and held out."""
    prunable, _ = find_prunable(model, include_biases=config.include_biases)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    matrices = sum(p.parameter.numel() for p in prunable.values())
    goal = (
        "prunes nothing"
        if config.criterion == "dense"
        else f"prunes {_short(matrices)} of them, in {len(prunable)} tensors, "
        + (f"to {100 * config.sparsity:g}% " if config.target else "as it comes out ")
        + f"by {config.criterion}"
    )
    devs = " + ".join(f"{len(rows):,}" for rows in dev.values())
    return (
        f"{config.model} on {config.task}: trains {_short(trained)} of {_short(total)} parameters "
        f"({_short(total - trained)} frozen), {goal}; {config.steps(train):,} steps of "
        f"{config.batch_size} on {train:,} rows; {holdout:,} rows of train held out; dev ({devs} "
        "rows) is used once, at the end"
    )


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def _rehearse(config: RunConfig, model: PreTrainedModel, steps: int) -> None:
    """Raise UsageError where pruning does not fit model or budget, before any time is spent."""
    if config.criterion != "dense":
        optimizer = torch.optim.SGD(model.parameters())
        Pruner(model, optimizer, **config.pruning(), total_steps=steps).detach()


def _check_length(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    longest: int,
) -> None:
    """Raise UsageError where texts are longer than the model can read, or cut down to nothing."""
    special = tokenizer.num_special_tokens_to_add(task.pair)
    if config.max_length <= special:
        raise UsageError(
            f"max_length={config.max_length} leaves no room for text beside {special} special "
            "tokens; give a higher --max-length"
        )
    positions = getattr(model.config, "max_position_embeddings", None) or longest
    limit = min(tokenizer.model_max_length, positions)
    if longest > limit:
        raise UsageError(
            f"max_length={config.max_length} lets through texts of {longest} tokens, but "
            f"{config.model} reads {limit} at most; give --max-length {limit}"
        )


def _freeze(model: PreTrainedModel, config: RunConfig) -> None:
    if config.freeze_embeddings:
        for name in embedding_names(model):
            model.get_parameter(name).requires_grad_(False)


def _arguments(config: RunConfig, folder: Path, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=4 * config.batch_size,
        learning_rate=config.lr,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        bf16=config.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),  # bf16 wants to be told
        train_sampling_strategy="group_by_length",
        seed=config.seed,
        # Weights alone, to have something left should the loss diverge: two, for the last of them
        # is not known to be good.
        save_strategy="steps",
        save_steps=max(1, steps // 5),
        save_total_limit=2,
        save_only_model=True,
        logging_steps=max(1, steps // 100),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
    )


def _train(
    trainer: Trainer, folder: Path, splits: dict[str, Dataset], console: Console
) -> dict[str, np.ndarray]:
    """Train, then predict. Where that breaks off, the checkpoints left in the folder are good."""
    trainer.save_model(str(folder / "checkpoint-0"))  # there is one from the start
    try:
        trainer.train()
        # The Trainer's grouping by length shuffles what it predicts as well.
        trainer.args.train_sampling_strategy = "sequential"
        with console.status("evaluating"):
            return {name: _predict(trainer, rows) for name, rows in splits.items()}
    except Diverged:
        # Saved before anything was computed with it, so it may be what went wrong.
        shutil.rmtree(folder / f"checkpoint-{trainer.state.global_step}", ignore_errors=True)
        raise


def _predict(trainer: Trainer, rows: Dataset) -> np.ndarray:
    """Logits in the rows' order, computed in batches of like length.

    Raises:
        Diverged: one of them is not finite.
    """
    order = np.argsort(rows["length"], kind="stable")
    logits = trainer.predict(rows.select(order)).predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    if not np.isfinite(logits).all():
        raise Diverged(f"the model's outputs hold NaN after step {trainer.state.global_step - 1}")
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
    output = Path(config.output).expanduser().resolve()
    for name in filter(None, (config.model, config.data)):
        source = Path(name).expanduser().resolve()
        if source.exists() and source.is_relative_to(output):
            raise UsageError(
                f"the output folder {config.output} holds the input {name}, which the result "
                "would replace; name another with --output"
            )
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


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """A fresh folder to work in. Where the work breaks off, the exception notes what is left."""
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"the output folder {output} cannot be made ({error.strerror}); name another with "
            "--output"
        ) from error
    try:
        yield partial
    except BaseException as error:
        left = sorted(partial.rglob(WEIGHTS), key=lambda path: path.stat().st_mtime)
        if left and not isinstance(error, UsageError):
            error.add_note(f"the last good checkpoint is {left[-1].parent}")
        else:
            shutil.rmtree(partial)
        raise


def _replace(new: Path, folder: Path) -> None:
    """Put a whole folder in the place of another, which is gone only once the new one is there."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
