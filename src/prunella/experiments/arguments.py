"""Settings of Transformers' Trainer that the user gives, ``--training name=value``."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from prunella.errors import UsageError, unknown

# What a run decides itself: the flags that do it, or nothing.
OURS: dict[str, str] = {
    "output_dir": "--output",
    "run_name": "--output",
    "max_steps": "--max-steps",
    "num_train_epochs": "--epochs",
    "per_device_train_batch_size": "--batch-size",
    "auto_find_batch_size": "--batch-size",
    "learning_rate": "--lr",
    "warmup_steps": "--warmup",
    "weight_decay": "--weight-decay",
    "label_smoothing_factor": "--regularize smoothing",
    "bf16": "--precision",
    "fp16": "--precision",
    "seed": "--seed",
    "data_seed": "--seed",
    "report_to": "--report-to",
    "resume_from_checkpoint": "--resume",
    "save_strategy": "--check-every",
    "save_steps": "--check-every",
    "eval_strategy": "--check-every",
    "eval_steps": "--check-every",
    "save_total_limit": "--keep",
    "load_best_model_at_end": "--keep",
    "metric_for_best_model": "--metric",
    "greater_is_better": "--metric",
} | dict.fromkeys(
    (
        # Evaluation and predictions are not the Trainer's here.
        *("do_train", "do_eval", "do_predict", "eval_delay", "eval_on_start", "bf16_full_eval"),
        *("fp16_full_eval", "per_device_eval_batch_size", "eval_accumulation_steps"),
        *("eval_do_concat_batches", "eval_use_gather_object", "include_for_metrics"),
        *("batch_eval_metrics", "prediction_loss_only"),
        # Traces, checkpoints and resuming rest on these.
        *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter"),
        *("disable_tqdm", "save_only_model", "save_on_each_node", "enable_jit_checkpoint"),
        *("restore_callback_states_from_checkpoint", "ignore_data_skip", "push_to_hub"),
        *("hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
        *("hub_revision", "remove_unused_columns", "length_column_name", "label_names"),
        # How processes share the work: a pruner needs whole checkpoints.
        *("use_cpu", "local_rank", "fsdp", "fsdp_config", "deepspeed", "parallelism_config"),
        "accelerator_config",
    ),
    "",
)


# What newer versions of Transformers call otherwise, with a warning.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


def pairs(given: Sequence[str]) -> dict[str, str]:
    """Names and values of ``name=value``.

    Raises:
        UsageError: a text has no such form, a name is given twice, or what it sets is ours.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier():
            raise UsageError(
                f"--training {text!r} has not the form name=value; write it such as "
                "--training gradient_checkpointing=true"
            )
        if name in found:
            raise UsageError(f"--training {name} is given twice; once is enough")
        if name in OURS:
            remedy = f"is set by {OURS[name]}; give that" if OURS[name] else "is the run's own"
            raise UsageError(f"--training {text}: {name} {remedy}, and leave this out")
        found[name] = value
    return found


def texts(mapping: Mapping[str, Any]) -> list[str]:
    """A mapping of YAML, all of it text, as ``name=value``."""
    plain = {name: _plain(value) for name, value in mapping.items()}
    return [f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in plain.items()]


def _plain(value: Any, inside: bool = False) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part, True) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part, True) for part in value]
    return yaml.safe_load(value) if inside else value


def values(given: Sequence[str]) -> dict[str, Any]:
    """The settings with their values, as TrainingArguments takes them.

    Raises:
        UsageError: TrainingArguments has no such field, or it takes no such value.
    """
    if not given:
        return {}
    from transformers import HfArgumentParser, TrainingArguments

    parser = HfArgumentParser(TrainingArguments, exit_on_error=False)  # type: ignore[arg-type]
    known = [name for name in TrainingArguments.__dataclass_fields__ if name not in OURS]
    found = {}
    for name, value in pairs(given).items():
        if name not in known:
            raise UsageError(f"--training: {unknown('setting of the Trainer', name, known)}")
        try:
            parsed, _ = parser.parse_known_args([f"--{name}={value}"])
        except argparse.ArgumentError as error:
            raise UsageError(f"--training {name}={value}: {error.message}") from None
        typed = getattr(parsed, name)
        if isinstance(typed, float) and not math.isfinite(typed):
            raise UsageError(f"--training {name}={value} must be a finite number")
        newer = _RENAMED.get(name, name)
        found[newer if newer in known else name] = typed
    accumulated = found.get("gradient_accumulation_steps", 1)
    if accumulated < 1:
        raise UsageError(f"--training gradient_accumulation_steps={accumulated} must be 1 or more")
    return found
