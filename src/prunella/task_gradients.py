"""What the criterion sees, where the loss has a regularizer: the task's gradient alone."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from prunella.errors import UsageError
from prunella.prunable import named_parameters
from prunella.pruner import Pruner
from prunella.sharding import is_sharded


class TaskGradients:
    """Shows a pruner's criterion the gradients of the task loss, while the joint ones train.

    ::

        of_task = TaskGradients(pruner, max_norm=1.0)
        loss = of_task(task_loss) + regularizer(outputs, batch)
        loss.backward()                 # and so on, as before

    By default a criterion sees what the optimizer sees: the joint gradient, which costs nothing.
    This costs a second backward pass through the model and a copy of all gradients. They are
    clipped by their own norm, as they would be in a run without a regularizer, and averaged over
    processes. Compiled models do not keep their graph for a second pass, and are out of reach.

    Args:
        pruner: whose criterion is to see them.
        max_norm: to which the loop clips gradients; None = it does not.

    Raises:
        UsageError: the model is sharded over processes, or weights beneath adapters are pruned.
    """

    def __init__(self, pruner: Pruner, max_norm: float | None = None):
        if any(map(is_sharded, pruner.model.parameters())):
            raise UsageError(
                "the task's gradients are not kept apart for a model that is sharded over "
                "processes; train with DistributedDataParallel, or score by the joint gradient"
            )
        if any(prunable.adapter is not None for prunable in pruner.prunable.values()):
            raise UsageError(
                "the task's gradients are not kept apart for weights beneath adapters; score by "
                "the joint gradient"
            )
        self.pruner = pruner
        self.max_norm = max_norm
        self._sums: dict[str, Tensor] = {}
        pruner.gradients = self._collect

    def __call__(self, task_loss: Tensor, scale: float = 1.0) -> Tensor:
        """Keep the gradients of a batch's task loss, and give the loss back.

        Args:
            task_loss: a scalar, divided by the number of accumulated batches like the joint loss.
            scale: the gradient scaler's, so that half precision does not underflow.
        """
        trained = {n: p for n, p in named_parameters(self.pruner.model) if p.requires_grad}
        gradients = torch.autograd.grad(
            task_loss * scale, list(trained.values()), retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                continue
            own = gradient / scale  # a copy: parameters that are added share their gradient
            self._sums[name] = self._sums[name].add_(own) if name in self._sums else own
        return task_loss

    def reset(self) -> None:
        """Forget what was kept: at the beginning of a step, where a gradient scaler skips some."""
        self._sums = {}

    def _collect(self) -> dict[str, Tensor]:
        """The sums since the last step, for the prunable parameters."""
        sums, self._sums = self._sums, {}
        if distributed.is_initialized():
            for gradient in sums.values():
                distributed.all_reduce(gradient)
                gradient /= distributed.get_world_size()
        if self.max_norm is not None:
            norm = torch.nn.utils.get_total_norm(sums.values())
            factor = torch.clamp(self.max_norm / (norm + 1e-6), max=1.0)
            for gradient in sums.values():
                gradient *= factor
        return {name: sums[name] for name in self.pruner.masks if name in sums}
