"""Criteria that read an estimate of the loss's curvature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunella.criteria.base import Criterion, View
from prunella.errors import UsageError


@dataclass(frozen=True)
class Fisher(Criterion):
    """v̂θ², with v̂ Adam's own (bias-corrected) average of g²: no state and no pass of its own.

    To second order, pruning θ changes the loss by -gθ + ½hθ². The first term is noise where
    training has nearly converged, and v̂ stands for the diagonal of the Fisher matrix in place of
    h, as in Optimal Brain Damage (LeCun et al. 1989).

    Raises:
        UsageError: the optimizer keeps no ``exp_avg_sq`` (any of Adam's family does).
    """

    reads_optimizer = True

    def score(self, view: View) -> Tensor:
        state = view.optimizer_state
        wide = torch.promote_types(view.weight.dtype, torch.float32)
        if not state and "betas" in view.group:  # Adam, but no gradient ever reached the parameter
            return torch.zeros_like(view.weight, dtype=wide)
        if "exp_avg_sq" not in state:
            raise UsageError(
                f"Fisher reads Adam's second moment, but the optimizer keeps "
                f"{', '.join(state) or 'nothing'} for {view.name}; use Adam, AdamW, NAdam or RAdam"
            )
        bias_correction = 1 - view.group["betas"][1] ** float(state["step"])
        score = view.weight.to(wide).square()
        return score.mul_(state["exp_avg_sq"]).div_(bias_correction)
