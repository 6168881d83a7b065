"""Criteria that read weight and gradient: what a weight's removal costs, to first order.

Removing θ changes the loss by about -gθ. Taken with its sign that is the objective of PINS's
integer programme; its absolute value, averaged over steps, is sensitivity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import Tensor

from prunella.criteria.base import Criterion, View, averages
from prunella.errors import UsageError


@dataclass(frozen=True)
class Sensitivity(Criterion):
    """|θg| of the selecting step, or its running average.

    Source: Molchanov et al. 2019 (arXiv 1906.10771), the first-order score without its square.

    Args:
        smoothing: s ← smoothing·s + (1 - smoothing)·|θg| at every step; 0 for no memory.
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_decay("smoothing", self.smoothing)

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return averages(weight, "average")

    def before_step(self, view: View) -> None:
        view.state["average"].lerp_(view.times_gradient().abs_(), 1 - self.smoothing)

    def score(self, view: View) -> Tensor:
        return view.state["average"]


@dataclass(frozen=True)
class PLATON(Criterion):
    """|θg| times its uncertainty: an upper confidence bound on sensitivity.

    Source: Zhang et al., ICML 2022 (arXiv 2206.12562), equations 6-8. Differs from the released
    code in that weight and gradient belong to the same moment, that pruned weights are held at
    zero between selections, and in the exact count. The paper tunes β₂ in .65-.99 for each task.

    Args:
        beta1: decay of the importance I̅.
        beta2: decay of the uncertainty U.
        window: steps that are averaged before they enter I̅ and U.
        updated: mix the updated weight θ̂ with the gradient from before the update.
        hold: whether pruned weights stay zero between two selections.
    """

    beta1: float = 0.85
    beta2: float = 0.95
    window: int = 10
    updated: bool = False
    hold: bool = True

    def __post_init__(self) -> None:
        _check_window(self.beta1, self.beta2, self.window)

    @classmethod
    def released(cls, beta1: float = 0.85, beta2: float = 0.95, window: int = 10) -> Self:
        """As released: |θ̂g|, and pruned weights grow until the next selection.

        The released schedule is ``Cubic(..., after="reselect")``.
        """
        return cls(beta1, beta2, window, updated=True, hold=False)

    @property
    def evidence(self) -> int:
        return self.window

    def fitted(self, first: int) -> Self:
        return replace(self, window=min(self.window, max(first, 1)))

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return averages(weight, *_WINDOW_STATE)

    def before_step(self, view: View) -> None:
        if not self.updated:
            _observe(view, view.times_gradient().abs_(), self.beta1, self.beta2, self.window)

    def after_step(self, view: View) -> None:
        if self.updated:
            _observe(view, view.times_gradient().abs_(), self.beta1, self.beta2, self.window)

    def score(self, view: View) -> Tensor:
        return _bound(view)


@dataclass(frozen=True)
class PINS(Criterion):
    """Pruning as a 0-1 integer linear programme: what the update and the mask do to the loss.

    An iteration that updates and prunes moves θ to m·θ̂, so to first order the loss changes by
    Σ g(mθ̂ - θ). Under Σm = r·n the programme is solved by sorting: keep the largest -gθ̂.

    By default the score is |gθ̂| with PLATON's smoothing, because the signed solution follows the
    noise of single batches and collapses in short runs. So ``PINS()`` differs from
    ``PLATON.released()`` only in holding pruned weights and in its β₂.

    Source: Ren & Zhu, Findings of ACL 2023 (arXiv 2305.12394), section 3. Differs from the
    released code in the update it assumes, in holding pruned weights at zero and in the exact
    count.

    Args:
        beta1: decay of the importance I̅.
        beta2: decay of the uncertainty U.
        window: steps that are averaged before they enter I̅ and U.
        signed: the literal solution instead: no absolute value, no window.
        update: the θ̂ of the score: ``"optimizer"``, what the optimizer really made of θ, or
            ``"sgd"``, the paper's printed form -gθ + ηg² (θ̂ = θ - ηg).
        smoothing: with ``signed``, the decay of a running average; 0 scores the selecting step
            alone.
        hold: whether pruned weights stay zero between two selections.
    """

    beta1: float = 0.85
    beta2: float = 0.99
    window: int = 10
    signed: bool = False
    update: Literal["optimizer", "sgd"] = "optimizer"
    smoothing: float = 0.0
    hold: bool = True

    def __post_init__(self) -> None:
        _check_window(self.beta1, self.beta2, self.window)
        _check_decay("smoothing", self.smoothing)
        if self.smoothing and not self.signed:
            raise UsageError(
                f"smoothing={self.smoothing} belongs to PINS(signed=True); without it beta1, "
                "beta2 and window smooth the score"
            )
        if self.update not in ("optimizer", "sgd"):
            raise UsageError(f"update={self.update!r} must be 'optimizer' or 'sgd'")

    @classmethod
    def released(cls, beta1: float = 0.85, beta2: float = 0.99, window: int = 10) -> Self:
        """As released: |-θg + ηg²|, and pruned weights grow until the next selection.

        The released schedule is ``Cubic(..., after="reselect")``.
        """
        return cls(beta1, beta2, window, update="sgd", hold=False)

    @property
    def evidence(self) -> int:
        return 0 if self.signed else self.window

    def fitted(self, first: int) -> Self:
        return self if self.signed else replace(self, window=min(self.window, max(first, 1)))

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        return averages(weight, *(["average"] if self.signed else _WINDOW_STATE))

    def before_step(self, view: View) -> None:
        if self.update == "sgd":
            score = view.times_gradient().neg_()
            if view.gradient is not None:
                gradient = view.gradient.to(score.dtype)
                score.addcmul_(gradient, gradient, value=view.lr)
            self._take(view, score)

    def after_step(self, view: View) -> None:
        if self.update == "optimizer":
            self._take(view, view.times_gradient().neg_())

    def _take(self, view: View, score: Tensor) -> None:
        if self.signed:
            view.state["average"].lerp_(score, 1 - self.smoothing)
        else:
            _observe(view, score.abs_(), self.beta1, self.beta2, self.window)

    def score(self, view: View) -> Tensor:
        return view.state["average"] if self.signed else _bound(view)


_WINDOW_STATE = ("importance", "importance_ema", "uncertainty_ema")


def _observe(view: View, score: Tensor, beta1: float, beta2: float, window: int) -> None:
    """Let one step's score into the window's mean I, and a closed window's mean into I̅ and U.

    At the first step of a window, I̅ ← β₁I̅ + (1-β₁)I and U ← β₂U + (1-β₂)|I - I̅| with the new
    I̅ (PLATON as released; PINS uses the same). Until a window has closed, both are zero.
    """
    mean, ema, uncertainty = (view.state[name] for name in _WINDOW_STATE)
    position = view.step % window
    if position:
        mean.lerp_(score, 1 / (position + 1))
    else:
        ema.lerp_(mean, 1 - beta1)
        uncertainty.lerp_(mean.sub_(ema).abs_(), 1 - beta2)
        mean.copy_(score)


def _bound(view: View) -> Tensor:
    """I̅·U."""
    return view.state["importance_ema"] * view.state["uncertainty_ema"]


def _check_window(beta1: float, beta2: float, window: int) -> None:
    _check_decay("beta1", beta1)
    _check_decay("beta2", beta2)
    if window < 1:
        raise UsageError(f"window={window} must be at least 1 step")


def _check_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"{name}={value} is a decay and must be in [0, 1)")
