"""What can be said and refused of a run before any time is spent on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prunella.errors import UsageError
from prunella.experiments import build, models, training
from prunella.experiments.config import AFRESH, RunConfig
from prunella.experiments.data import Data
from prunella.experiments.evaluation import evaluating
from prunella.figures import percent
from prunella.given import Given
from prunella.prunable import Prunable, find_prunable
from prunella.pruner import Pruner
from prunella.summary import left_dense, told
from prunella.tasks import OWN, Classification, Reader, Task
from prunella.tasks.base import positions


def announce(config: RunConfig, model: PreTrainedModel, task: Task, data: Data) -> str:
    """What will be trained, frozen, pruned and held out, and what had to be cut."""
    steps = config.steps(data.examples)
    prunable, _ = find_prunable(model, **build.chosen(config))
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    matrices = sum(p.parameter.numel() for p in prunable.values())
    aim = f"to {percent(config.sparsity, 6, brief=True)} " if config.target else "as it comes out "
    if config.max_drop is not None:
        aim = f"step by step to {percent(config.ladder[-1], 6, brief=True)} "
    goal = (
        "prunes nothing"
        if config.criterion == "dense"
        else f"prunes {_short(matrices)} of them, in {len(prunable)} tensors, {aim}"
        f"by {config.criterion}"
    )
    goal += _begins(config, prunable)
    if config.regularize:
        goal += f", regularized by {' and '.join(config.regularize)}"
    goal += "".join(f"; {change}" for change in build.adjusted(config, steps))
    if config.criterion != "dense" and (left := told(left_dense(model, prunable))):
        goal += f"; {left}"
    rows = {name: len(part.rows) for name, part in data.splits.items()}
    devs = " + ".join(f"{rows[name]:,}" for name in data.dev)
    use = "chosen on, which the result will say" if config.uses_dev else "used once, at the end"
    return (
        f"{config.origin} on {config.task}{_aim(task, data)}: trains {_short(trained)} of "
        f"{_short(total)} parameters ({_short(total - trained)} frozen), {goal}; {steps:,} steps "
        f"of {config.batch_size} on {_trained_on(data)}; {rows['holdout']:,} rows of train held "
        f"out; dev ({devs} rows) is {use}{_test(data)}{_classes(config, task)}{_overlap(data)}"
        f"{_cut(data)}{_left_out(task, data)}{_spelled(data)}{_widened(config)}"
    )


def _widened(config: RunConfig) -> str:
    """Where the checkpoint's numbers are of another kind than those that come out."""
    stored = models.stored_dtype(config.origin, config.trust_remote_code)
    if stored is None or stored == torch.float32:
        return ""
    name = str(stored).removeprefix("torch.")
    return f"; the {name} weights of the checkpoint are trained and saved in float32"


def _aim(task: Task, data: Data) -> str:
    aim = task.aim(data.reader.tokenizer)
    return f" ({aim})" if aim else ""


def _begins(config: RunConfig, prunable: Mapping[str, Prunable]) -> str:
    """What becomes of the zeros of a model that was pruned before."""
    given = Given(None, prunable)
    if not given or config.masks_from not in (None, AFRESH):
        return ""
    comes_back = config.criterion == "dense" or config.masks_from == AFRESH
    return (
        f" ({100 * given.sparsity:.1f}% of the prunable weights are zero to begin with, and "
        f"{'may come back' if comes_back else 'stay so'})"
    )


def _trained_on(data: Data) -> str:
    rows = data.about["train"]["rows"]
    if rows is None:
        return "rows read as needed"
    return f"{rows:,} rows" + ("" if rows == data.examples else f" ({data.examples:,} examples)")


def _classes(config: RunConfig, task: Task) -> str:
    """What is special about the classes, where the user's data has made them."""
    said = []
    if isinstance(task, Classification) and config.task in OWN and task.positive:
        said.append(f"; F1 is of the class {task.positive}")
    if config.class_weights is not None:
        said.append("; the loss weights rows by their class, so that all classes count alike")
    return "".join(said)


def _test(data: Data) -> str:
    if "test" not in data.splits:
        return ""
    return f"; test ({len(data.splits['test'].rows):,} rows) is used once, at the end"


def _overlap(data: Data) -> str:
    """What train and the rows that the model is judged by have in common."""
    left_out, *parts = data.overlap.items()
    said = [
        f"{part['shared']:,} of {part['rows']:,} rows of {name}"
        + (f" ({part['whole']:,} of them whole)" if part["whole"] else "")
        for name, part in parts
        if part["shared"]
    ]
    of = "train" if data.about["train"]["rows"] is not None else "the first rows of train"
    line = f"; text is shared with {of} by {', '.join(said) or 'no row of the others'}"
    if left_out[1]:
        line += f"; {left_out[1]:,} rows are in neither train nor holdout, or they would be in both"
    return line


def _cut(data: Data) -> str:
    counts = [f"{cut:,} of {of:,} in {name}" for name, (cut, of) in data.cut().items()]
    return f"; too long and cut off: {', '.join(counts)}" if counts else ""


def _left_out(task: Task, data: Data) -> str:
    if task.lacking is None:
        return ""
    counts = [f"{left:,} of {of:,} in {name}" for name, (left, of) in data.left_out().items()]
    return f"; left out, without {task.lacking}: {', '.join(counts)}" if counts else ""


def _spelled(data: Data) -> str:
    counts = [f"{name} ({count:,})" for name, count in data.spelled.items() if count]
    known = "; special tokens are spelled out, and read as such, in rows of "
    return known + " and ".join(counts) if counts else ""


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"


def rehearse(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    steps: int,
) -> dict[str, str] | None:
    """What will prune, in full; None where nothing is pruned.

    Raises:
        UsageError: settings do not fit model or task, which is said before any time is spent.
    """
    if task.numeric:
        odd = [term for term in config.regularize if term in ("smoothing", "virtual-teacher")]
        if odd or config.self_weight == "adaptive":
            raise UsageError(
                f"{'--regularize ' + odd[0] if odd else '--self-weight adaptive'} is about the "
                f"probabilities of classes, and {config.task} is a regression; leave it out"
            )
    training.practise(config, model, steps)
    for term in build.terms(config, model, None, steps):
        term.begin(model)
    if config.criterion == "dense":
        return None
    optimizer = torch.optim.SGD(model.parameters())
    settings = build.pruning(config, models.masks(config, model), steps)
    pruner = Pruner(model, optimizer, **settings, total_steps=steps)
    pruner.detach()
    parts = {"criterion": pruner.criterion, "schedule": pruner.schedule}
    return {name: repr(part) for name, part in (parts | {"allocation": pruner.allocation}).items()}


def check_teacher(
    config: RunConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    reader: Reader,
) -> None:
    """Raise UsageError where a model cannot learn from its teacher, before any text is read."""
    given = models.teacher(config, model, tokenizer, task)
    if given is None:
        return
    limit = positions(given["teacher"])
    if limit is not None and limit < reader.max_length:
        raise UsageError(
            f"the teacher {config.teacher} reads {limit} tokens at most, and inputs have up to "
            f"{reader.max_length}; give --max-length {limit}, or another teacher"
        )
    known = inspect.signature(model.forward).parameters
    read = tokenizer("a b c", return_tensors="pt")
    inputs = {name: values for name, values in read.items() if name in known}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    term = build.distillation(config, given)
    term.begin(model)
    with evaluating(model):
        term(model(**inputs, **term.asks), inputs)


def check_length(
    config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, longest: int
) -> None:
    """Raise UsageError where texts are longer than the model can read."""
    limit = models.limit(model, tokenizer)
    if longest > limit:
        raise UsageError(
            f"max_length={config.max_length} lets through texts of {longest} tokens, but "
            f"{config.origin} reads {limit} at most; give --max-length {limit}"
        )
