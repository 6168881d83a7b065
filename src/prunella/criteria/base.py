"""What a criterion is: a score for every weight, from what one optimizer step shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from prunella.errors import UsageError
from prunella.sharding import part_of


@dataclass
class View:
    """One parameter as a criterion sees it around one optimizer step.

    Where parameters are sharded over processes, all tensors are this process's part.

    Args:
        name: the parameter's name in the model.
        weight: its value now: θ before the optimizer's update, θ̂ after it.
        gradient: ∂L/∂θ of this step, unscaled, as it was before the step; None where the step had
            none, which to first order means zero, and None for ``Criterion.score``.
        step: successful optimizer steps before this one.
        state: the criterion's own tensors, as made by ``init``.
        group: the optimizer's parameter group that it belongs to; to be read only.
        optimizer_state: what the optimizer keeps for the parameter; to be read only.
        gate: what ``Criterion.gate`` multiplied the weight by in this step's forward, if anything.
        progress: how far the schedule has come from no sparsity to its final one, in [0, 1].
        tensors: how many matrices are pruned.
        slices: how many of them are stacked in this parameter.
        layout: the parameter as the model holds it.
    """

    name: str
    weight: Tensor
    gradient: Tensor | None
    step: int
    state: dict[str, Tensor]
    group: Mapping[str, Any] = field(default_factory=dict)
    optimizer_state: Mapping[str, Any] = field(default_factory=dict)
    gate: Tensor | None = None
    progress: float = 0.0
    tensors: int = 1
    layout: Tensor | None = None
    slices: int = 1

    @property
    def shape(self) -> torch.Size:
        """Of the whole parameter."""
        return (self.weight if self.layout is None else self.layout).shape

    @property
    def population(self) -> int:
        """What a sum over this parameter is divided by in a mean over all matrices' means."""
        return self.tensors * (self.shape.numel() // self.slices)

    def part_of(self, whole: Tensor) -> Tensor:
        """The part of a tensor of this shape that belongs to ``weight``."""
        return whole if self.layout is None else part_of(whole, self.layout)

    @property
    def lr(self) -> float:
        """The learning rate η of this step."""
        return float(self.group["lr"])

    def times_gradient(self) -> Tensor:
        """g·weight in at least float32 (a new tensor)."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        if self.gradient is None:
            return torch.zeros_like(self.weight, dtype=wide)
        return torch.mul(self.weight.to(wide), self.gradient.to(wide))


class Criterion:
    """A score for every prunable weight; the higher, the rather it is kept.

    A method needs ``score`` alone. One that gathers evidence over time also says what it keeps
    (``init``) and reads the gradient before or after the optimizer's update. Everything else, the
    loop, the masks and the checkpoints, lives in ``Pruner``.

    One that learns its scores beside the weights keeps them as ``"score"`` in its state and has a
    ``learner`` and a ``gradient``. Its pruned weights usually lie ``dormant``. Where it prunes by
    something else than the schedule's sparsity, ``outcome`` gives its masks, and where a weight is
    not just kept or pruned, ``gate`` what it is multiplied by.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # states are compared by it: no address in it

    hold: bool = True
    """Whether pruned weights stay zero between two selections, or grow freely as released."""

    dormant: bool = False
    """Whether a pruned weight keeps its value beneath the mask and can come back with it."""

    gated: bool = False
    """Whether the model multiplies its weights by ``gate``."""

    reads_optimizer: bool = False
    """Whether scores rest on what the optimizer keeps for the weight itself."""

    target: float | None = None
    """The sparsity that the method is set to reach, where that is a setting of its own."""

    @property
    def evidence(self) -> int:
        """The first step after which a score rests on anything."""
        return 0

    def aimed(self, sparsity: float) -> Criterion:
        """The same method, set to reach a sparsity where it would not by itself."""
        return self

    def fitted(self, first: int) -> Criterion:
        """The same method, set to have evidence by the first selection where it would not yet.

        Args:
            first: step after which masks are first selected.
        """
        return self

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        """The state to keep for a parameter: named tensors of the parameter's shape."""
        return {}

    def before_step(self, view: View) -> None:
        """Look at θ and its gradient before the optimizer's update."""

    def after_step(self, view: View) -> None:
        """Look at θ̂ after the optimizer's update, before pruned weights are zeroed again."""

    def score(self, view: View) -> Tensor:
        """Scores of the parameter's shape, from θ̂ and the state; all zero means no evidence."""
        raise NotImplementedError

    def learner(self, groups: list[dict[str, Any]]) -> Optimizer | None:
        """The optimizer of the scores; its learning rate follows the weights' multiplier.

        Its state must begin with zeros, as those of AdamW, SGD and Adagrad do.

        Args:
            groups: the scores of each of the weights' parameter groups.
        """
        return None

    def gradient(self, view: View) -> Tensor | None:
        """∂loss/∂score, where the weight is the one beneath the mask."""
        return None

    def outcome(self, score: Tensor, progress: float) -> Tensor | None:
        """The mask of one whole matrix where sparsity is an outcome; None where it is asked."""
        return None

    def gate(self, view: View, training: bool) -> Tensor:
        """What the weight is multiplied by at this step, in training or in evaluation mode."""
        raise NotImplementedError


def scored(criterion: Criterion, view: View) -> Tensor:
    """A criterion's scores.

    Raises:
        UsageError: they do not belong to the weight: another shape or device, or no floats.
    """
    score = criterion.score(view)
    fits = isinstance(score, Tensor) and score.is_floating_point()
    if not fits or (score.shape, score.device) != (view.weight.shape, view.weight.device):
        found = (
            f"{score.dtype} {tuple(score.shape)} on {score.device}"
            if isinstance(score, Tensor)
            else repr(score)
        )
        raise UsageError(
            f"the score of {criterion!r} for {view.name} is {found}; it must be one float a "
            f"weight, {tuple(view.weight.shape)} on {view.weight.device}"
        )
    return score


def averages(weight: Tensor, *names: str) -> dict[str, Tensor]:
    """State of running averages: zeros of the weight's shape in at least float32."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return {name: torch.zeros_like(weight, dtype=wide) for name in names}
