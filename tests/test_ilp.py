"""PINS's claim: sorting by -gθ̂ solves its integer programme. And what the solution is worth."""

from itertools import combinations

import numpy as np
import pytest
import reference
import torch
from torch import nn

from prunella import PINS, OneShot, Pruner, Random

ROWS, WEIGHTS, KEEP = 32, 12, 5
STEPS, PROBLEMS = 21, 20


def solve(seed, criterion, rows=ROWS):
    """Steps on batches of rows, one selection at the last.

    Returns the mask, then g, θ and θ̂ of the last step, then the true loss (over all rows, at θ̂)
    of every mask there is.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(ROWS, WEIGHTS, generator=generator, dtype=torch.double)
    targets = torch.tanh(inputs @ torch.randn(WEIGHTS, 1, generator=generator, dtype=torch.double))
    torch.manual_seed(seed)
    model = nn.Linear(WEIGHTS, 1, bias=False).double()

    def loss(batch):
        return (torch.tanh(model(inputs[batch])) - targets[batch]).square().mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    updated = {}
    optimizer.register_step_post_hook(
        lambda *_: updated.update(weight=model.weight.detach().clone())
    )
    schedule = OneShot(1 - KEEP / WEIGHTS, begin=STEPS - 1)
    pruner = Pruner(model, optimizer, criterion, schedule)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss([(step * rows + row) % ROWS for row in range(rows)]).backward()
        theta = model.weight.detach().clone()
        optimizer.step()
    vectors = (pruner.masks["weight"], model.weight.grad, theta, updated["weight"])
    pruner.detach()
    losses = {}
    with torch.no_grad():
        for kept in combinations(range(WEIGHTS), KEEP):
            model.weight.zero_()[0, list(kept)] = updated["weight"][0, list(kept)]
            losses[kept] = loss(list(range(ROWS))).item()
    return *(vector.flatten().numpy() for vector in vectors), losses


@pytest.mark.parametrize("rows", [ROWS, 2])
@pytest.mark.parametrize("seed", range(PROBLEMS))
def test_signed_scores_choose_the_optimum_of_the_programme(seed, rows):
    mask, gradient, theta, theta_hat, _ = solve(seed, PINS(signed=True), rows)
    optimum = reference.brute_force_ilp(gradient, theta, theta_hat, KEEP)
    np.testing.assert_array_equal(mask, optimum)


def test_where_that_optimum_ranks_under_the_true_loss(capsys):
    """The programme is first order and sees one batch; the loss is neither. So it is printed."""
    medians = {}
    for rows in (ROWS, 2):
        for name, criterion in {
            "signed": PINS(signed=True),
            "default": PINS(),
            "random": Random(),
        }.items():
            ranks = []
            for seed in range(PROBLEMS):
                mask, *_, losses = solve(seed, criterion, rows)
                own = losses[tuple(np.flatnonzero(mask).tolist())]
                ranks.append(sum(loss < own for loss in losses.values()) / len(losses))
            medians[name, rows] = np.median(ranks)
            with capsys.disabled():
                print(
                    f"\n{name:>8} score, gradients of {rows:>2} of {ROWS} rows: its mask is beaten "
                    f"by {np.median(ranks):.0%} of all masks under the true loss "
                    f"(median of {PROBLEMS} problems; {min(ranks):.0%} to {max(ranks):.0%})",
                    end="",
                )
    for rows in (ROWS, 2):
        assert medians["default", rows] < medians["random", rows]
