"""From a name to a model with a head and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.bitmask import Coded
from prunella.errors import UsageError
from prunella.experiments import build, places
from prunella.experiments.config import AFRESH, RunConfig
from prunella.given import shown
from prunella.hf import class_columns
from prunella.prunable import embedding_names, find_prunable
from prunella.runtime import masks_from
from prunella.runtime.checkpoint import from_pretrained
from prunella.runtime.folder import opened
from prunella.runtime.forms import CONFIG
from prunella.tasks import Reader, Task
from prunella.tasks.base import is_decoder, positions


def locate(name: str, flag: str = "--model") -> str:
    """The checkpoint folder of the demo model, else the name as given, once it is plausible.

    Raises:
        UsageError: as of ``places.locate``.
    """
    return places.locate(name, flag)


def load(
    name: str, task: Task, trusted: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained model with a new head for the task, and its tokenizer.

    Args:
        trusted: whether code that comes with it may be run.

    Raises:
        UsageError: the model cannot be loaded, or only a part of it.
    """
    where = locate(name)
    try:
        read = AutoTokenizer.from_pretrained(where, trust_remote_code=trusted)
        known = AutoConfig.from_pretrained(where, trust_remote_code=trusted)
        auto = task.architecture(known)
        ends = task.ends(read)
        model, report = from_pretrained(
            auto,
            where,
            dtype="float32",
            key_mapping=_renamed(known, auto),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=trusted,
            **task.head(),
        )
    except UsageError:
        raise
    except Exception as error:  # broken files make the loaders raise almost anything
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the model {name} cannot be loaded ({reason}); give a folder that save_pretrained "
            "wrote, or a hub name and a network, by --model"
        ) from error
    _check_whole(name, model, known, report)
    _check_tokens(f"the model {name}", model, read)
    _fill_padding(model, read)
    if task.pads and read.pad_token is None:
        raise UsageError(
            f"the tokenizer of the model {name} has no token to pad with, and none that ends a "
            "text; set its pad_token and save it again (tokenizer.save_pretrained)"
        )
    _end_by(model, ends)
    return model, read


def _renamed(config: PreTrainedConfig, auto: Any) -> dict[str, str] | None:
    """Where a backbone's name differs between the checkpoint's class and the one to be loaded.

    As it does for question answering with Llama, whose backbone Transformers would make up.
    """
    if type(config) not in auto._model_mapping:  # it brings its own code
        return None
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    theirs = getattr(kind, "base_model_prefix", "")
    ours = auto._model_mapping[type(config)].base_model_prefix
    return {f"^{theirs}\\.": f"{ours}."} if theirs and ours and theirs != ours else None


def tokenizer(
    folder: Path, model: PreTrainedModel, trusted: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved beside a model.

    Raises:
        UsageError: it has tokens that the model does not know.
    """
    read = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    _check_tokens(f"the model {folder}", model, read)
    _fill_padding(model, read)
    return read


def _fill_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is None:  # GPT-2's family has none
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    table = _table(model)
    if isinstance(table, nn.Embedding) and tokenizer.pad_token_id == tokenizer.eos_token_id:
        table.padding_idx = None  # it would get no gradient, and is read where a text ends


def _table(model: PreTrainedModel) -> nn.Module | None:
    """What words are looked up in; None where code that came with a model does not say."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def _end_by(model: PreTrainedModel, ends: list[int]) -> None:
    """Have what the model writes end by these tokens, too, of which its checkpoint may not know."""
    config: Any = getattr(model, "generation_config", None)
    if config is not None and ends:
        known = config.eos_token_id
        known = known if isinstance(known, list) else [] if known is None else [known]
        config.eos_token_id = list(dict.fromkeys([*ends, *known]))


def freeze(model: PreTrainedModel, config: RunConfig) -> None:
    """Leave look-up tables as they are, if so wished."""
    wished = config.freeze_embeddings
    if wished is None:
        wished = not config.include_embeddings and model.get_output_embeddings() is None
    if wished:
        pruned = find_prunable(model, **build.chosen(config))[0]
        for name in set(embedding_names(model)) - pruned.keys():
            model.get_parameter(name).requires_grad_(False)


def limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that a model reads at most."""
    found = positions(model)
    if found is None:
        return int(tokenizer.model_max_length)
    return int(min(tokenizer.model_max_length, found))


def reader(
    config: RunConfig, task: Task, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Reader:
    """How a run reads texts.

    Raises:
        UsageError: inputs have no room for text.
    """
    length = config.max_length or min(task.length, limit(model, tokenizer))
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if length <= special:
        raise UsageError(
            f"max_length={length} leaves no room for text beside {special} special tokens; give a "
            "higher --max-length"
        )
    return Reader(tokenizer, length, config.truncate, is_decoder(model.config), positions(model))


def load_teacher(
    name: str,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    trusted: bool = False,
) -> tuple[PreTrainedModel, list[int] | None]:
    """A fine-tuned model to distil from, and its columns in the order of the student's classes.

    Raises:
        UsageError: it cannot be loaded, its head is not trained, or it reads other tokens or
            names other classes than the student.
    """
    where = locate(name, "--teacher")
    try:
        theirs = AutoTokenizer.from_pretrained(where, trust_remote_code=trusted)
        auto = task.architecture(AutoConfig.from_pretrained(where, trust_remote_code=trusted))
        model, report = from_pretrained(
            auto, where, dtype="float32", output_loading_info=True, trust_remote_code=trusted
        )
    except UsageError:
        raise
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise UsageError(
            f"the teacher {name} cannot be loaded ({reason}); give a folder that prunella prune or "
            "save_pretrained wrote"
        ) from error
    if made_up := _made_up(report):
        raise UsageError(
            f"the teacher {name} lacks {min(made_up)}, so it was not fine-tuned; make one with "
            "prunella prune --criterion dense"
        )
    if theirs.get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            f"the teacher {name} has another vocabulary than the model, and would read other "
            "words; give one with the same tokenizer"
        )
    _check_tokens(f"the teacher {name}", model, theirs)
    _fill_padding(model, tokenizer)
    if task.classes is None and (not task.numeric or model.config.num_labels == 1):
        return model, None
    return model, class_columns(model.config, student.config)


def teacher(
    config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task
) -> dict[str, Any] | None:
    """What ``Distillation`` is to be given; None where nothing is distilled."""
    if config.teacher is None:
        return None
    loaded, columns = load_teacher(config.teacher, model, tokenizer, task, config.trust_remote_code)
    if config.distill_attention:
        for each in (model, loaded):
            each.set_attn_implementation("eager")  # others do not give their probabilities
    return {"teacher": loaded, "columns": columns}


def teacher_size(config: RunConfig, task: Task) -> int:
    """Parameters of the teacher; 0 where there is none."""
    if config.teacher is None:
        return 0
    trusted = config.trust_remote_code
    where = locate(config.teacher, "--teacher")
    described = AutoConfig.from_pretrained(where, trust_remote_code=trusted)
    with torch.device("meta"):
        model = task.architecture(described).from_config(described, trust_remote_code=trusted)
        return int(model.num_parameters())


def masks(config: RunConfig, model: PreTrainedModel) -> dict[str, Tensor]:
    """What is pruned at the start: by ``--masks-from``, or as the model shows.

    Raises:
        UsageError: there is no such model, or it is of another kind.
    """
    if config.masks_from == AFRESH:
        return {}
    if config.masks_from is None:
        return shown(find_prunable(model, **build.chosen(config))[0])
    return masks_from(locate(config.masks_from, "--masks-from"), model, **build.chosen(config))


def stored_dtype(name: str, trusted: bool = False) -> torch.dtype | None:
    """The dtype of a checkpoint's weights, as its config says, else its files; None where neither.

    Args:
        name, trusted: of a model, as for ``load``.
    """
    where = locate(name)
    known = AutoConfig.from_pretrained(where, trust_remote_code=trusted)
    said = getattr(known, "dtype", None)
    if isinstance(said, torch.dtype) or not Path(where).is_dir():
        return said if isinstance(said, torch.dtype) else None
    try:
        tensors = (t.values if isinstance(t, Coded) else t for _, t in opened(Path(where))[1])
        return next((t.dtype for t in tensors if t.is_floating_point()), None)
    except UsageError:  # pickled
        return None


def _made_up(report: dict[str, Any]) -> set[str]:
    """What Transformers filled with random numbers, which it does quietly."""
    return {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}


def _check_whole(
    name: str, model: PreTrainedModel, config: PreTrainedConfig, report: dict[str, Any]
) -> None:
    """Raise UsageError where anything but the task's head was made up.

    Of the backbone only that may be new which the class that the checkpoint was saved from has not
    got, such as a pooler after masked language modelling; matrices to prune and look-up tables
    never.

    Args:
        config: the checkpoint's own.
    """
    backbone = model.base_model
    place = next(f"{name}." if name else "" for name, m in model.named_modules() if m is backbone)
    theirs = _backbone_of(config, model)
    matrices = find_prunable(model)[0]
    needed = {*matrices, *embedding_names(model)}
    shapes = {key: shapes for key, *shapes in report["mismatched_keys"]}

    def is_lost(key: str) -> bool:
        known = key in shapes or theirs is None or key.removeprefix(place) in theirs
        return key in needed or (key.startswith(place) and known)

    lost = sorted(filter(is_lost, _made_up(report)), key=lambda key: (key not in matrices, key))
    if not lost:
        return
    more = f" and {len(lost) - 1} more weights" if lost[1:] else ""
    remedy = "give a whole checkpoint"
    if lost[0] in shapes:
        found, wanted = map(tuple, shapes[lost[0]])
        more += f" (which is there as {found}, not {wanted})"
        remedy = "give the config that it was saved with"
    elif theirs is None:
        remedy += f", or name the class it was saved from as architectures in {CONFIG}"
    raise UsageError(
        f"the checkpoint {name} lacks {lost[0]}{more} of the {type(model).__name__} that its "
        f"config.json describes; {remedy}"
    )


def _backbone_of(config: PreTrainedConfig, model: PreTrainedModel) -> set[str] | None:
    """Names in the backbone of the class that a config names; None where it names none we know."""
    name = (config.architectures or [""])[0]
    if name == type(model).__name__:  # which may be of code that came with it
        return set(model.base_model.state_dict())
    kind = getattr(transformers, name, None)
    if kind is None:
        return None
    with torch.device("meta"):
        return set(kind(config).base_model.state_dict())


def _check_tokens(what: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UsageError where a tokenizer is missing, or has tokens that the model does not know.

    Fewer are well: vocabularies are padded to round numbers.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UsageError(
            f"{what} comes without a tokenizer; save the one it was trained with beside it "
            "(tokenizer.save_pretrained)"
        )
    table = _table(model)
    if not isinstance(table, nn.Embedding):
        return
    rows = table.num_embeddings
    token, last = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if last >= rows:
        raise UsageError(
            f"{what} has embeddings for {rows:,} tokens, and its tokenizer numbers them to "
            f"{last:,} ({token!r}); give the tokenizer that it was trained with, or make room by "
            f"model.resize_token_embeddings({last + 1}) and save it"
        )
