"""The optimizer of learned scores, which rides along with the weights' own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunella.criteria.base import Criterion


class ScoreLearner:
    """Steps a criterion's scores at the learning rate that the weights' schedule makes of theirs.

    The multiplier of a weight's group is its learning rate over the highest: the ``max_lr`` or
    ``initial_lr`` that torch's schedulers note in the group, or what has been seen so far, if that
    is more. (``CyclicLR`` notes only its lowest; warm-ups by hand note nothing.)

    Args:
        criterion: whose ``learner`` the optimizer is.
        scores: the scores by parameter name.
        group: the index of the weights' parameter group, by parameter name.
    """

    def __init__(self, criterion: Criterion, scores: dict[str, Tensor], group: dict[str, int]):
        self._scores = scores
        self._group = group
        self._highest = dict.fromkeys(sorted(set(group.values())), 0.0)
        optimizer = criterion.learner(
            [{"params": [scores[n] for n in group if group[n] == index]} for index in self._highest]
        )
        assert optimizer is not None
        self._optimizer = optimizer
        self._make_state()

    def _make_state(self) -> None:
        """Make the optimizer's tensors now: a sharded checkpoint is read into those there are."""
        for score in self._scores.values():
            score.grad = torch.zeros_like(score)
        kept = {name: score.clone() for name, score in self._scores.items()}
        self._optimizer.step()
        self._optimizer.zero_grad()
        for name, score in self._scores.items():
            score.copy_(kept[name])
            for value in self._optimizer.state.get(score, {}).values():
                value.zero_()

    def step(
        self, gradients: Mapping[str, Tensor | None], weights: Sequence[Mapping[str, Any]]
    ) -> None:
        """Step on ∂loss/∂score, with the learning rates of the weights' parameter groups."""
        for name, gradient in gradients.items():
            self._scores[name].grad = gradient
        for ours, index in zip(self._optimizer.param_groups, self._highest, strict=True):
            lr = float(weights[index]["lr"])
            noted = (float(weights[index].get(key, 0.0)) for key in ("max_lr", "initial_lr"))
            highest = self._highest[index] = max(lr, *noted, self._highest[index])
            ours["lr"] = self._optimizer.defaults["lr"] * (lr / highest if highest else 0.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def move(self, name: str, device: torch.device) -> None:
        """Follow a score to another device."""
        for key, value in self._optimizer.state.get(self._scores[name], {}).items():
            if value.dim():
                self._optimizer.state[self._scores[name]][key] = value.to(device)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """By parameter name the optimizer's tensors, and the highest learning rate seen."""
        return {
            name: {"highest_lr": self._highest[self._group[name]]}
            | dict(self._optimizer.state.get(score, {}))
            for name, score in self._scores.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take up a saved state; the tensors are taken as they are, not copied."""
        for name, score in self._scores.items():
            tensors = dict(state[name])
            self._highest[self._group[name]] = tensors.pop("highest_lr")
            if tensors:
                self._optimizer.state[score] = tensors
