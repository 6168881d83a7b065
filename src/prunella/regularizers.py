"""Terms added to the task loss: functions of logits first, thin objects second.

The same for classification, regression, token tagging, span extraction and language modelling::

    regularizer = SelfRegularization(model, every=100)
    for step, batch in enumerate(batches, start=1):
        outputs = model(**batch)
        (outputs.loss + regularizer(outputs, batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        regularizer.after_step(step)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunella.errors import UsageError
from prunella.prunable import unwrap
from prunella.snapshot import Snapshot, spare_cache
from prunella.teachers import check_fit, check_widths, is_vocabulary

IGNORED = -100  # the label of what does not count
TARGETS = ("labels", "start_positions", "end_positions")

Weight = float | Literal["adaptive"]

logger = logging.getLogger("prunella")


# --- functions of logits ------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictions:
    """What a model says of the items of a batch that count: rows, tokens, or ends of spans.

    Padding, and what carries the label -100, is not among them.

    Attributes:
        logits: [items, classes]; in regression the numbers, [items, outputs].
        targets: [items] class indices; [items, outputs] numbers, or with several labels an item
            [items, classes] probabilities; None where there are none.
        real: [items, classes] bool, the classes there are: for the ends of spans, the positions
            that are no padding. None = all.
        numeric: whether this is regression.
        several: whether an item has any number of labels: each class is a yes or no of its own,
            with the probability σ(logit).
    """

    logits: Tensor
    targets: Tensor | None
    real: Tensor | None = None
    numeric: bool = False
    several: bool = False

    @classmethod
    def of(cls, outputs: Any, inputs: Mapping[str, Any], *, several: bool = False) -> Self:
        """Read them off a model's outputs (Transformers' kind, or a tensor) and its inputs.

        A causal language model is known by its outputs' name and predicts the next token. Without
        ``labels``, every token of the attention mask counts.

        Args:
            several: as the attribute; neither outputs nor inputs show it.
        """
        if hasattr(outputs, "start_logits"):
            return cls._of_spans(outputs, inputs)
        logits = outputs if isinstance(outputs, Tensor) else outputs.logits
        labels = inputs.get("labels")
        if several:
            return cls(logits, labels, several=True)
        if logits.dim() == 2:
            if logits.shape[1] == 1 or (labels is not None and labels.is_floating_point()):
                targets = None if labels is None else labels.reshape(logits.shape)
                return cls(logits, targets, numeric=True)
            counted = None if labels is None else labels != IGNORED
        else:
            if "CausalLMOutput" in type(outputs).__name__:
                inputs = {k: inputs[k][:, 1:] for k in ("labels", "attention_mask") if k in inputs}
                logits, labels = logits[:, :-1], inputs.get("labels")
            mask = inputs.get("attention_mask") if labels is None else labels != IGNORED
            counted = None if mask is None else mask.bool()
        if counted is None:
            return cls(logits.flatten(0, -2), None)
        return cls(logits[counted], None if labels is None else labels[counted])

    @classmethod
    def _of_spans(cls, outputs: Any, inputs: Mapping[str, Any]) -> Self:
        logits = torch.cat([outputs.start_logits, outputs.end_logits])
        mask = inputs.get("attention_mask")
        real = None if mask is None else mask.bool().repeat(2, 1)
        if "start_positions" not in inputs:
            return cls(logits, None, real)
        targets = torch.cat([inputs["start_positions"], inputs["end_positions"]]).reshape(-1)
        counted = (targets >= 0) & (targets < logits.shape[1])  # others are outside this window
        return cls(logits[counted], targets[counted], None if real is None else real[counted])

    def __len__(self) -> int:
        return len(self.logits)

    def log_probabilities(self, temperature: float = 1.0) -> Tensor:
        """[items, classes] in at least float32; 0 for classes that are not real.

        With several labels [items, classes, 2]: of no and of yes.
        """
        logits = self.logits.to(torch.promote_types(self.logits.dtype, torch.float32)) / temperature
        if self.several:
            return functional.logsigmoid(torch.stack([-logits, logits], dim=-1))
        if self.real is None:
            return functional.log_softmax(logits, dim=-1)
        lowest = torch.finfo(logits.dtype).min  # of which the softmax is exactly 0
        logs = functional.log_softmax(logits.masked_fill(~self.real, lowest), dim=-1)
        return logs.masked_fill(~self.real, 0.0)

    @property
    def classes(self) -> Tensor | int:
        """How many classes there are: [items, 1] where that differs."""
        return self.logits.shape[1] if self.real is None else self.real.sum(-1, keepdim=True)


def task_loss(student: Predictions) -> Tensor:
    """[items]: cross-entropy with the targets; in regression the squared error.

    With several labels the mean over classes, as Transformers' loss has it; so elsewhere here.

    Raises:
        UsageError: there are no targets.
    """
    if student.targets is None:
        raise UsageError("the batch has no labels, which this term needs; give it labelled rows")
    if student.numeric:
        return (student.logits - student.targets).square().mean(-1)
    logs = student.log_probabilities()
    if student.several:
        yes = student.targets.to(logs.dtype)
        return -(logs * torch.stack([1 - yes, yes], dim=-1)).sum(-1).mean(-1)
    return -logs.gather(-1, student.targets[:, None].long()).squeeze(-1)


def divergence(student: Predictions, teacher: Predictions, temperature: float = 1.0) -> Tensor:
    """[items]: T² KL(teacher ‖ student) at temperature T; in regression the squared difference.

    With several labels the mean over classes of the divergences of yes and no.

    Source: Hinton, Vinyals & Dean 2015 (arXiv 1503.02531), section 2. No gradient reaches the
    teacher.

    Raises:
        UsageError: the two are not of one shape.
    """
    if student.logits.shape != teacher.logits.shape:
        raise UsageError(
            f"the teacher's logits have shape {tuple(teacher.logits.shape)} where the student's "
            f"have {tuple(student.logits.shape)}; give a teacher of the same task and vocabulary"
        )
    if student.numeric:
        return (student.logits - teacher.logits.detach()).square().mean(-1)
    ours = student.log_probabilities(temperature)
    theirs = teacher.log_probabilities(temperature).detach()
    found = temperature**2 * (theirs.exp() * (theirs - ours)).sum(-1)  # what is not real adds 0
    return found.mean(-1) if student.several else found


def smoothing(student: Predictions, amount: float) -> Tensor:
    """[items]: what smoothed targets add to the cross-entropy with hard ones.

    Targets become (1 - amount)·target + amount·uniform; with several labels uniform is 1/2 for yes
    and no each. Source: Szegedy et al. 2016 (arXiv 1512.00567), section 7.
    """
    logs = student.log_probabilities()
    if student.several:
        return amount * (-logs.mean(dim=(-1, -2)) - task_loss(student))
    uniform = -logs.sum(-1) / torch.as_tensor(student.classes, device=logs.device).reshape(-1)
    return amount * (uniform - task_loss(student))


def virtual_teacher(student: Predictions, right: float) -> Predictions:
    """A teacher made by hand: probability ``right`` for the target, the rest uniform.

    Source: Yuan et al., CVPR 2020 (arXiv 1909.11723), equation 9.
    """
    if student.targets is None:
        raise UsageError("a virtual teacher needs labels; give it labelled rows")
    like = student.logits
    classes = torch.as_tensor(student.classes, dtype=like.dtype, device=like.device)
    wrong = torch.log((1 - right) / (classes - 1))
    logits = wrong.expand(student.logits.shape).scatter(
        -1, student.targets[:, None].long(), math.log(right)
    )
    return replace(student, logits=logits)


def confidence(student: Predictions) -> Tensor:
    """[items]: 1 - H/log C, from 0 (uniform) to 1 (certain); no gradient.

    With several labels the mean over classes, C = 2. The weight of self-regularization as PINS was
    released.
    """
    logs = student.log_probabilities().detach()
    entropy = -(logs.exp() * logs).sum(-1)
    if student.several:
        return (1 - entropy / math.log(2)).mean(-1)
    classes = torch.as_tensor(student.classes, dtype=logs.dtype, device=logs.device)
    return 1 - entropy / classes.reshape(-1).log()


# --- objects ------------------------------------------------------------------------------------


class Regularizer:
    """A term to add to the task loss of a batch: the mean over the items that count.

    Attributes:
        asks: what the model's forward must be asked for besides, such as hidden states.
        needs_labels: whether it has nothing to say of rows without labels.
    """

    asks: Mapping[str, bool] = {}
    needs_labels: ClassVar[bool] = True

    def __call__(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """The term, a scalar.

        Args:
            outputs: the model's, of a forward in training mode.
            inputs: what it was given, labels included.
        """
        raise NotImplementedError

    def begin(self, model: nn.Module) -> None:
        """Training of this model begins, or goes on."""

    def after_step(self, step: int) -> None:
        """``step`` optimizer steps have been made."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved state."""


@dataclass(frozen=True)
class Smoothing(Regularizer):
    """Label smoothing: part of every target is spread over all classes.

    Args:
        amount: the part, in [0, 1).
        several: whether rows have any number of labels; then it is spread over yes and no of each.
    """

    amount: float = 0.1
    several: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise UsageError(f"smoothing amount={self.amount} is outside [0, 1); 0.1 is usual")

    def __call__(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        student = _classes("label smoothing", outputs, inputs, self.several)
        return _mean(smoothing(student, self.amount))

    def begin(self, model: nn.Module) -> None:
        if _has_several(model) != self.several:
            kind = "any number of labels" if _has_several(model) else "one label"
            raise UsageError(
                f"Smoothing(several={self.several}) does not fit a model whose rows have {kind}; "
                f"give several={not self.several}"
            )


@dataclass(frozen=True)
class VirtualTeacher(Regularizer):
    """Teacher-free distillation: from a teacher that is always right and never quite sure.

    Args:
        right: its probability for the right class, in (0, 1).
        weight: of the term.
        temperature: of its probabilities and the model's.
    """

    right: float = 0.9
    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.right < 1:
            raise UsageError(
                f"the virtual teacher's right={self.right} is outside (0, 1); 0.9 is usual"
            )
        _check_scale(self.weight, self.temperature)

    def begin(self, model: nn.Module) -> None:
        if _has_several(model):
            raise UsageError(
                "a virtual teacher is sure of one class and spreads the rest over the others; "
                "where each label is a yes or no of its own that is label smoothing, so take that"
            )

    def __call__(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        student = _classes("a virtual teacher", outputs, inputs)
        teacher = virtual_teacher(student, self.right)
        return self.weight * _mean(divergence(student, teacher, self.temperature))


class SelfRegularization(Regularizer):
    """The model is held to what an earlier snapshot of itself predicts.

    Source: PINS (arXiv 2305.12394), section 3.3. The snapshot evaluates the pruned model as it was
    then. Until there is one, the term is 0.

    Args:
        model: the model that is trained.
        weight: a constant, or ``"adaptive"`` as released: each item moves the part ``confidence``
            of its weight from the task loss to this term. Not for regression.
        temperature: of both predictions' probabilities.
        every: steps between two snapshots; None = whenever ``take`` is called.
    """

    needs_labels = False

    def __init__(
        self,
        model: nn.Module,
        weight: Weight = 1.0,
        temperature: float = 2.0,
        every: int | None = None,
    ):
        _check_scale(1.0 if weight == "adaptive" else weight, temperature)
        if every is not None and every < 1:
            raise UsageError(f"every={every} must be a whole number of steps, at least 1")
        self.weight = weight
        self.temperature = temperature
        self.every = every
        self.snapshot = Snapshot(model)

    def take(self) -> None:
        """Let the model as it is now be the teacher from here on."""
        self.snapshot.take()

    def begin(self, model: nn.Module) -> None:
        if self.snapshot.original is not unwrap(model):
            raise UsageError(
                "SelfRegularization was made for another model than the one that is trained; make "
                "it for this one (model_init makes a new one at every training)"
            )

    def after_step(self, step: int) -> None:
        if self.every is not None and step % self.every == 0:
            self.take()

    def __call__(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        several = _has_several(self.snapshot.original)
        student = Predictions.of(outputs, inputs, several=several)
        if self.snapshot.model is None:
            return student.logits.new_zeros(())
        teacher = Predictions.of(_ask(self.snapshot.model, inputs), inputs, several=several)
        term = divergence(student, teacher, self.temperature)
        if self.weight != "adaptive":
            return self.weight * _mean(term)
        if student.numeric:
            raise UsageError(
                "weight='adaptive' is measured by the entropy of classes, and regression has none; "
                "give a number"
            )
        if student.targets is not None:
            term = term - task_loss(student)
        return _mean(confidence(student) * term)

    def state_dict(self) -> dict[str, Tensor]:
        return self.snapshot.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.snapshot.load_state_dict(state)


class Distillation(Regularizer):
    """The model is held to what another one predicts.

    Of two vocabularies that were padded to different widths, the columns that both have are
    compared, and the log says so; whether they stand for the same tokens is for the caller to know.

    Args:
        teacher: the other model, on the same device; it is put into evaluation mode, and is not
            trained.
        weight: of the divergence of the predictions.
        temperature: of both predictions' probabilities.
        hidden: weight of the mean squared difference of all hidden states, over real tokens.
        attention: weight of the same of attention probabilities, over real pairs of tokens. Both
            models must compute them openly (``attn_implementation="eager"``).
        columns: for each of the student's classes, the teacher's; None = the same order.
    """

    needs_labels = False

    def __init__(
        self,
        teacher: nn.Module,
        weight: float = 1.0,
        temperature: float = 2.0,
        hidden: float = 0.0,
        attention: float = 0.0,
        columns: Sequence[int] | None = None,
    ):
        for factor in (weight, hidden, attention):
            _check_scale(factor, temperature)
        self.teacher = teacher.eval().requires_grad_(False)
        spare_cache(teacher)
        self.weight = weight
        self.temperature = temperature
        self.hidden = hidden
        self.attention = attention
        self.columns = None if columns is None else list(columns)
        self._said = False  # that columns are left out
        asks = {"output_hidden_states": hidden > 0, "output_attentions": attention > 0}
        self.asks = {name: True for name, wanted in asks.items() if wanted}

    def begin(self, model: nn.Module) -> None:
        """See `Regularizer.begin`.

        Raises:
            UsageError: what the two models compute cannot be compared.
        """
        ours, theirs = _has_several(model), _has_several(self.teacher)
        if ours != theirs and (ours or _problem(model) is not None):
            raise UsageError(
                "of teacher and student one has any number of labels a row and the other one "
                "label; give a teacher of the same task, or correct problem_type in its config"
            )
        check_fit(
            unwrap(model),
            unwrap(self.teacher),
            hidden=self.hidden > 0,
            attention=self.attention > 0,
            mapped=self.columns is not None,
        )
        self.teacher.to(next(model.parameters()).device)

    def __call__(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        theirs = _ask(self.teacher, inputs, **self.asks)
        several = _has_several(self.teacher)
        student = Predictions.of(outputs, inputs, several=several)
        teacher = Predictions.of(theirs, inputs, several=several)
        if self.columns is not None:
            teacher = replace(teacher, logits=teacher.logits[..., self.columns])
        elif is_vocabulary(unwrap(self.teacher), teacher.logits.shape[-1]):
            student, teacher = self._shared(student, teacher)
        term = self.weight * _mean(divergence(student, teacher, self.temperature))
        if self.hidden:
            pairs = _layers("hidden_states", outputs, theirs)
            term = term + self.hidden * _match(pairs, lambda real: real[..., None], inputs)
        if self.attention:
            pairs = _layers("attentions", outputs, theirs)
            term = term + self.attention * _match(
                pairs, lambda real: real[:, None, :, None] & real[:, None, None, :], inputs
            )
        return term

    def _shared(
        self, student: Predictions, teacher: Predictions
    ) -> tuple[Predictions, Predictions]:
        """Both without the columns that only one vocabulary has."""
        ours, theirs = (each.logits.shape[-1] for each in (student, teacher))
        if ours == theirs:
            return student, teacher
        check_widths(ours, theirs)
        width = min(ours, theirs)
        if not self._said:
            logger.warning(
                "the teacher's logits are over %s tokens and the model's over %s, taken for one "
                "vocabulary with padding: the first %s of both are compared",
                *(f"{number:,}" for number in (theirs, ours, width)),
            )
            self._said = True
        cut = (replace(each, logits=each.logits[..., :width]) for each in (student, teacher))
        return next(cut), next(cut)


def _mean(items: Tensor) -> Tensor:
    return items.sum() / max(1, len(items))


def _check_scale(weight: float, temperature: float) -> None:
    if not 0 <= weight < math.inf:
        raise UsageError(f"weight={weight} must be a number from 0 on")
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature={temperature} must be a number greater than 0")


def _classes(
    what: str, outputs: Any, inputs: Mapping[str, Any], several: bool = False
) -> Predictions:
    student = Predictions.of(outputs, inputs, several=several)
    if student.numeric:
        raise UsageError(
            f"{what} spreads probability over classes, and regression has none (of several "
            "labels a row, tell Smoothing(several=True))"
        )
    return student


def _has_several(model: nn.Module) -> bool:
    """Whether rows have any number of labels."""
    return _problem(model) == "multi_label_classification"


def _problem(model: nn.Module) -> str | None:
    """What a Transformers model's config says of its labels, if it does."""
    found: str | None = getattr(getattr(unwrap(model), "config", None), "problem_type", None)
    return found


@torch.no_grad()
def _ask(model: nn.Module, inputs: Mapping[str, Any], **asks: bool) -> Any:
    """What a teacher says of the same inputs."""
    given = {name: value for name, value in inputs.items() if name not in TARGETS}
    shifted = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shifted is not None and "labels" in inputs and "decoder_input_ids" not in given:
        given["decoder_input_ids"] = shifted(labels=inputs["labels"])
    return model(**given, **asks)


_WEIGHTS = {"hidden_states": "hidden", "attentions": "attention"}  # of Distillation


def _layers(kind: str, outputs: Any, theirs: Any) -> list[tuple[Tensor, Tensor]]:
    """The student's and the teacher's tensors, layer by layer.

    Raises:
        UsageError: they were not asked for, or differ in number or shape.
    """
    ours, others = (getattr(each, kind, None) or () for each in (outputs, theirs))
    shapes = [[tuple(t.shape) for t in each] for each in (ours, others)]
    if not ours or shapes[0] != shapes[1]:
        raise UsageError(
            f"{kind} of student and teacher cannot be compared: {len(ours)} of "
            f"{shapes[0][-1:] or 'no shape'} and {len(others)} of {shapes[1][-1:] or 'no shape'}; "
            "ask the model for them (attention needs attn_implementation='eager'), and give a "
            f"teacher of the same depth and width, or {_WEIGHTS[kind]}=0"
        )
    return list(zip(ours, others, strict=True))


def _match(
    pairs: list[tuple[Tensor, Tensor]],
    spread: Callable[[Tensor], Tensor],
    inputs: Mapping[str, Any],
) -> Tensor:
    """Mean squared difference over layers and over what is not padding."""
    first = pairs[0][0]
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones(first.shape[0], first.shape[-2], device=first.device)
    real = spread(mask.bool()).expand_as(first)
    terms = [((ours - theirs).square() * real).sum() for ours, theirs in pairs]
    return torch.stack(terms).mean() / real.sum().clamp(min=1)
