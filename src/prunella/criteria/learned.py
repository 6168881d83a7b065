"""Criteria whose scores are trained beside the weights: movement pruning and its relatives.

A weight W is used as W⊙M. Its gradient is taken as it comes, g = ∂L/∂(W⊙M), and passed straight
through the mask: ∂L/∂S = g⊙W for the score, g⊙M for the weight. Pruned weights lie dormant.

Source of all three: Sanh, Wolf & Rush, NeurIPS 2020 (arXiv 2005.07683). Differs from the released
code in that a gradient clip sees g alone (there: M⊙g together with the scores' gradients), that
penalties are added to the scores' gradients and not to the printed loss, and in the exact count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self
from zlib import crc32

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from prunella.criteria.base import Criterion, View, averages
from prunella.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Learned(Criterion):
    """What the three share.

    Args:
        lr: the scores' highest learning rate.
        optimizer: the scores' optimizer, without weight decay; with ``"sgd"`` a score is a plain
            sum of its gradients.
    """

    lr: float = 1e-2
    optimizer: Literal["adamw", "sgd"] = "adamw"
    dormant = True

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr={self.lr} of the scores must be a number greater than 0")
        if self.optimizer not in ("adamw", "sgd"):
            raise UsageError(f"optimizer={self.optimizer!r} of the scores must be 'adamw' or 'sgd'")

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return averages(weight, "score")

    def learner(self, groups: list[dict[str, Any]]) -> Optimizer:
        if self.optimizer == "adamw":
            return AdamW(groups, lr=self.lr, weight_decay=0.0)
        return SGD(groups, lr=self.lr)

    def score(self, view: View) -> Tensor:
        return view.state["score"]


@dataclass(frozen=True, kw_only=True)
class Movement(Learned):
    """Weights that move away from zero survive: a score sums up what -g⊙W asks of them.

    Hard movement pruning: M keeps the highest scores, over all matrices with ``Global()``, in each
    with ``PerMatrix()``, as the paper does.
    """

    def gradient(self, view: View) -> Tensor | None:
        return None if view.gradient is None else view.times_gradient()


@dataclass(frozen=True, kw_only=True)
class SoftMovement(Learned):
    """Movement with a threshold in place of a count: M = [σ(S) > τ].

    Without a ``target`` the threshold rises to ``threshold`` as the schedule's sparsity rises to
    its final one, the penalty λ·(share of the way)·mean σ(S) pushes scores below it, masks follow
    at every step, and the sparsity is an outcome. With one, τ is the threshold below which lies
    exactly the sparsity that the schedule asks for, found anew at every selection.

    Args:
        target: the sparsity to reach; the schedule's final one.
        threshold: τ in the end, without a target.
        penalty: λ, on the mean over matrices of the mean σ(S).
    """

    target: float | None = field(default=None, kw_only=False)
    threshold: float = 0.1
    penalty: float = 400.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_target(self.target)
        _check_penalty(self.penalty)
        if not 0 < self.threshold < 1:
            raise UsageError(
                f"threshold={self.threshold} is compared with σ(S); give one in (0, 1)"
            )

    def aimed(self, sparsity: float) -> Self:
        return replace(self, target=sparsity)

    def gradient(self, view: View) -> Tensor:
        open_ = torch.sigmoid(view.state["score"])
        strength = self.penalty * view.progress / view.population
        return view.times_gradient().add_(open_ * (1 - open_), alpha=strength)

    def outcome(self, score: Tensor, progress: float) -> Tensor | None:
        if self.target is not None:
            return None
        mask = score.sigmoid() > self.threshold * progress
        least = int(0.005 * score.numel()) + 1  # of a matrix survive, as released
        if int(mask.count_nonzero()) < least:
            best = score.flatten().argsort(descending=True, stable=True)[:least]
            mask.view(-1)[best] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class L0(Learned):
    """Hard concrete gates: a random multiplier for every weight, pruned where it comes to zero.

    In training z = clamp(σ((log u - log(1-u) + α)/b)·(r-l) + l, 0, 1) with u uniform, in
    evaluation clamp(σ(α)·(r-l) + l, 0, 1), and W⊙z is what the model sees. α is the score. Once
    the schedule has ended the gates are fixed and become part of the weights.

    Without a ``target`` the penalty λ·mean P(z > 0) closes gates at every step and the sparsity is
    an outcome. With one, the gates with the lowest α are shut at every selection; the others stay
    as they are, and open by a trifle at least.

    Source: Louizos, Welling & Kingma 2018 (arXiv 1712.01312), as used in the movement-pruning
    paper. Differs from the released code in that u is drawn anew for every optimizer step, not for
    every forward, so that accumulated gradients belong to one z.

    Args:
        target: the sparsity to reach; the schedule's final one.
        penalty: λ, on the mean over matrices of the mean probability that a gate is not zero.
        seed: of u, which is drawn from it, the step and the parameter's name alone, so that ranks
            and resumed runs agree.
    """

    target: float | None = field(default=None, kw_only=False)
    penalty: float = 125.0
    lr: float = 1e-1
    seed: int = 0
    gated = True

    LEFT, RIGHT, TEMPERATURE, OPEN = -0.1, 1.1, 2 / 3, 2.197  # l, r, b, and α at the start

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_target(self.target)
        _check_penalty(self.penalty)

    def aimed(self, sparsity: float) -> Self:
        return replace(self, target=sparsity)

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        state = super().init(weight)
        state["score"].fill_(self.OPEN)
        return state

    def uniform(self, view: View) -> Tensor:
        """u of this step, in [1e-4, 1 - 1e-4]."""
        device = view.weight.device
        seed = crc32(f"{self.seed} {view.step} {view.name}".encode())
        generator = torch.Generator(device).manual_seed(seed)
        noise = torch.rand(view.shape, generator=generator, device=device)
        return view.part_of(noise).clamp_(1e-4, 1 - 1e-4)

    def gate(self, view: View, training: bool) -> Tensor:
        gate = view.state["score"]
        if training:
            gate = (self.uniform(view).logit_().add_(gate)).div_(self.TEMPERATURE)
        gate = gate.sigmoid().mul_(self.RIGHT - self.LEFT).add_(self.LEFT)
        shut = 0.0 if training else torch.finfo(view.weight.dtype).eps  # the mask prunes, not this
        return gate.clamp_(shut, 1)

    def gradient(self, view: View) -> Tensor:
        assert view.gate is not None
        concrete = (view.gate - self.LEFT).div_(self.RIGHT - self.LEFT)
        slope = concrete.mul_(1 - concrete).mul_((self.RIGHT - self.LEFT) / self.TEMPERATURE)
        slope.mul_((view.gate > 0) & (view.gate < 1))
        stays_open = torch.sigmoid(view.state["score"] - self.TEMPERATURE * self._shift())
        return (
            view.times_gradient()
            .mul_(slope)
            .add_(stays_open * (1 - stays_open), alpha=self.penalty / view.population)
        )

    def _shift(self) -> float:
        return math.log(-self.LEFT / self.RIGHT)

    def outcome(self, score: Tensor, progress: float) -> Tensor | None:
        # σ(α)·(r-l) + l > 0
        return None if self.target is not None else score > self._shift()


def _check_target(target: float | None) -> None:
    if target is not None and not 0 <= target < 1:
        raise UsageError(f"target={target} is a sparsity and must be in [0, 1)")


def _check_penalty(penalty: float) -> None:
    if not 0 <= penalty < math.inf:
        raise UsageError(f"penalty={penalty} must be a number from 0 on")
