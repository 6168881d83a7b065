"""Whether a model can learn from another, judged by their configs before anything is computed.

Configs are read where there are any, by the names that Transformers gives to all of them.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from prunella.errors import UsageError

# Embedding tables and output layers are padded to multiples of 64 or 128 a device.
PADDING = 1024  # columns, at most
SHARE = 0.1  # of the wider of the two, at most

_SHAPES = {
    "hidden": ("hidden_size", "num_hidden_layers"),
    "attention": ("num_attention_heads", "num_hidden_layers"),
}


def check_fit(
    student: nn.Module, teacher: nn.Module, *, hidden: bool, attention: bool, mapped: bool
) -> None:
    """Raise UsageError where what the two compute cannot be compared.

    Args:
        student, teacher: of Transformers' kind; of others nothing is known, and nothing said.
        hidden: whether their hidden states are compared.
        attention: whether their attention is.
        mapped: whether the teacher's classes are given in the student's order.
    """
    ours, theirs = _config(student), _config(teacher)
    if ours is None or theirs is None:
        return
    if _get(ours, "is_encoder_decoder") != _get(theirs, "is_encoder_decoder"):
        kinds = [
            "an encoder-decoder" if _get(each, "is_encoder_decoder") else "none"
            for each in (theirs, ours)
        ]
        raise UsageError(
            f"the teacher is {kinds[0]} and the model is {kinds[1]}, one where the other is not an "
            "encoder-decoder; give a teacher of the same kind"
        )
    widths = [_vocabulary(each) for each in (student, teacher)]
    if None not in widths:
        check_widths(*widths)  # type: ignore[arg-type]
    elif not mapped and widths == [None, None]:
        _check_same(
            ours, theirs, ("num_labels",), "give a teacher of the same task, or its columns"
        )
    for kind, wanted in (("hidden", hidden), ("attention", attention)):
        if not wanted:
            continue
        if _get(ours, "is_encoder_decoder"):
            raise UsageError(
                f"the {kind} states of encoder-decoders are not compared; leave out "
                f"--distill-{kind} ({kind}=0)"
            )
        remedy = f"give a teacher of the same depth and width, or leave out --distill-{kind}"
        _check_same(ours, theirs, _SHAPES[kind], f"{remedy} ({kind}=0)")
        how = [_get(each, "_attn_implementation") for each in (ours, theirs)]
        if kind == "attention" and {*how} - {"eager", None}:
            raise UsageError(
                "attention is compared where both models compute it openly, and these have "
                f"{how[0]} and {how[1]}; call set_attn_implementation('eager') on both, or set "
                "attention=0"
            )


def check_widths(ours: int, theirs: int) -> None:
    """Raise UsageError unless two vocabularies can be one that was padded to two widths."""
    surplus = abs(ours - theirs)
    if surplus > min(PADDING, SHARE * max(ours, theirs)):
        raise UsageError(
            f"the teacher's logits are over {theirs:,} tokens and the model's over {ours:,}, which "
            "is no padding of one vocabulary; give a teacher with the same tokenizer"
        )


def is_vocabulary(model: nn.Module, width: int) -> bool:
    """Whether so many logits a token are over the model's vocabulary."""
    return _vocabulary(model) == width


def _config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    find = getattr(config, "get_text_config", None)
    return config if find is None else find()


def _get(config: Any, name: str) -> Any:
    return getattr(config, name, None)


def _vocabulary(model: nn.Module) -> int | None:
    """Columns of the output layer over a vocabulary; None where there is none."""
    find: Any = getattr(model, "get_output_embeddings", None)
    layer = None if find is None else find()
    weight = getattr(layer, "weight", None)
    return None if weight is None else int(weight.shape[0])


def _check_same(ours: Any, theirs: Any, names: tuple[str, ...], remedy: str) -> None:
    for name in names:
        values = [_get(each, name) for each in (ours, theirs)]
        if None not in values and values[0] != values[1]:
            raise UsageError(
                f"the teacher's {name} is {values[1]} and the model's {values[0]}; {remedy}"
            )
