"""Parity with recordings of the released implementations of PINS and PLATON.

Those prune all below the k-th smallest score, k = int(n·s), so one weight too few. A selection
that copies this cut must agree everywhere; the exact one may differ in what follows from it.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from recordings import recording
from reference import released_cut
from torch import nn

from prunella import PINS, PLATON, Cubic, Global, Pruner

RECORDINGS = [f"{m}_released_{opt}" for m in ("pins", "platon") for opt in ("adamw", "sgd")]


@dataclass(frozen=True)
class ReleasedCut(Global):
    """The released selection: strictly below the int(n·s)-th smallest score."""

    def masks(self, scores, sparsity):
        arrays = {name: scores[name].numpy() for name in scores}
        masks, _ = released_cut(arrays, 1 - sparsity)
        return {name: torch.from_numpy(mask) for name, mask in masks.items()}


def replay(name, allocation):
    """Drive the pruner with a recording's gradients; the pruner, and its weights at each step."""
    data = recording(name)
    model = nn.Module()
    initial = {key[5:]: torch.from_numpy(data[key]) for key in data.files if key[:5] == "init/"}
    for parameter, value in initial.items():
        if parameter.endswith("weight"):
            place = model
            *parents, last, _ = parameter.split(".")
            for part in parents:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.add_module(last, nn.Linear(*reversed(value.shape)))
    model.load_state_dict(initial)
    make = {
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, weight_decay=0.0),
        "sgd": lambda p: torch.optim.SGD(p, lr=0.0),
    }[str(data["optimizer"])]
    optimizer = make(model.parameters())
    steps, window = len(data["lr"]), int(data["delta_t"])
    warmup = int(data["warmup_steps"])
    criterion = (PINS if name.startswith("pins") else PLATON).released(
        float(data["beta1"]), float(data["beta2"]), window
    )
    schedule = Cubic(
        1 - float(data["final_remaining"]),
        begin=warmup * int(data["initial_warmup"]),
        end=steps - warmup * int(data["final_warmup"]),
        every=window,
        after="reselect",
    )
    pruner = Pruner(model, optimizer, criterion, schedule, allocation, include_biases=True)
    history = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = float(data["lr"][step])
        for parameter, weight in model.named_parameters():
            weight.grad = torch.from_numpy(data[f"grad/{parameter}"][step])
        optimizer.step()
        history.append({n: p.detach().clone().numpy() for n, p in model.named_parameters()})
    return data, pruner, history


def averages(data, pruner):
    """Pairs of running averages, ours and the recorded."""
    for name, tensors in pruner.state_dict()["scores"].items():
        for ours, theirs in (
            ("importance", "window_mean"),
            ("importance_ema", "importance_ema"),
            ("uncertainty_ema", "uncertainty_ema"),
        ):
            yield tensors[ours].numpy(), data[f"{theirs}/{name}"]


def differ(ours, theirs):
    """Where two float32 computations differ by more than rounding."""
    return ~np.isclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", RECORDINGS)
def test_agrees_everywhere_under_the_released_cut(name):
    data, pruner, history = replay(name, ReleasedCut())
    for step, parameters in enumerate(history):
        for parameter, ours in parameters.items():
            recorded = data[f"after/{parameter}"][step]
            np.testing.assert_array_equal(ours == 0, recorded == 0)
            np.testing.assert_allclose(ours, recorded, rtol=1e-4, atol=1e-6)
    assert not any(differ(ours, theirs).any() for ours, theirs in averages(data, pruner))


@pytest.mark.parametrize("name", RECORDINGS)
def test_differs_little_under_the_exact_cut(name):
    data, pruner, history = replay(name, Global())
    scores = [differ(ours, theirs).mean() for ours, theirs in averages(data, pruner)]
    assert np.mean(scores) <= 0.03
    masks = [
        ((ours == 0) != (data[f"after/{parameter}"][step] == 0)).mean()
        for step, parameters in enumerate(history)
        for parameter, ours in parameters.items()
    ]
    assert np.mean(masks) <= 0.01
    # Exactly one weight more than released goes at each selection, at least at the first one.
    first = pruner.schedule.first_update()
    lost = sum(int((history[first][n] == 0).sum()) for n in history[first])
    recorded = sum(int((data[f"after/{n}"][first] == 0).sum()) for n in history[first])
    assert lost - recorded in (1, 2)
