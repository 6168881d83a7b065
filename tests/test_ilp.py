"""PINS's claim: sorting by -gθ̂ solves its integer programme. And what the solution is worth."""

from itertools import combinations

import numpy as np
import pytest
import reference
import torch
from torch import nn

from prunella import PINS, OneShot, Pruner

WEIGHTS, KEEP, PROBLEMS = 12, 5, 10


def problem(seed):
    """A tiny regression that one vector of weights solves badly, and every mask's true loss."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(32, WEIGHTS, generator=generator, dtype=torch.double)
    targets = inputs @ torch.randn(WEIGHTS, 1, generator=generator, dtype=torch.double)
    torch.manual_seed(seed)
    model = nn.Linear(WEIGHTS, 1, bias=False).double()
    return model, lambda: (torch.tanh(model(inputs)) - torch.tanh(targets)).square().mean()


def solve(seed, criterion):
    """One step and one selection: the mask, g, θ, θ̂ and the loss of every mask there is."""
    model, loss = problem(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    updated = {}
    optimizer.register_step_post_hook(
        lambda *_: updated.update(weight=model.weight.detach().clone())
    )
    pruner = Pruner(
        model, optimizer, criterion, OneShot(1 - KEEP / WEIGHTS, begin=criterion.evidence)
    )
    for _ in range(criterion.evidence + 1):
        optimizer.zero_grad()
        loss().backward()
        before = model.weight.detach().clone()
        optimizer.step()
    mask = pruner.masks["weight"].flatten().numpy()
    gradient = model.weight.grad.flatten().numpy()
    theta, theta_hat = before.flatten().numpy(), updated["weight"].flatten().numpy()
    pruner.detach()
    losses = {}
    with torch.no_grad():
        for kept in combinations(range(WEIGHTS), KEEP):
            model.weight.zero_()[0, list(kept)] = updated["weight"][0, list(kept)]
            losses[kept] = loss().item()
    return mask, gradient, theta, theta_hat, losses


@pytest.mark.parametrize("seed", range(PROBLEMS))
def test_signed_scores_choose_the_optimum_of_the_programme(seed):
    mask, gradient, theta, theta_hat, _ = solve(seed, PINS(signed=True))
    optimum = reference.brute_force_ilp(gradient, theta, theta_hat, KEEP)
    np.testing.assert_array_equal(mask, optimum)


def test_where_that_optimum_ranks_under_the_true_loss(capsys):
    """The programme is first order; the loss is not. Printed, because it is the point."""
    ranks = {}
    for name, criterion in {"signed": PINS(signed=True), "default": PINS()}.items():
        ranks[name] = []
        for seed in range(PROBLEMS):
            mask, *_, losses = solve(seed, criterion)
            own = losses[tuple(np.flatnonzero(mask).tolist())]
            ranks[name].append(sum(loss < own for loss in losses.values()) / len(losses))
    with capsys.disabled():
        for name, values in ranks.items():
            print(
                f"\nPINS {name}: its mask is beaten under the true loss by a median "
                f"{np.median(values):.0%} of all masks ({min(values):.0%}-{max(values):.0%}, "
                f"{PROBLEMS} problems)",
                end="",
            )
    assert all(0 <= rank <= 1 for values in ranks.values() for rank in values)
    assert np.median(ranks["default"]) < 0.5  # better than chance
