"""Time spent in the pruner's hooks over the time of a dense training step, BERT-base shapes.

    python benchmarks/overhead.py

The dense step is forward, backward and AdamW on 32 x 128 tokens, float32. The hooks are timed in
real steps inside the ramp, with masks every 10 steps; as they do not depend on the batch, those
steps train on 1 x 16 tokens. Also printed: bytes of state per prunable weight.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from prunella import Cubic, Pruner
from prunella.criteria import named

EVERY = 10


def step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: int, length: int) -> float:
    """Seconds of one training step on random tokens."""
    tokens = torch.randint(1000, 20000, (rows, length))
    labels = torch.randint(0, 2, (rows,))
    start = time.perf_counter()
    optimizer.zero_grad()
    model(input_ids=tokens, labels=labels).loss.backward()
    optimizer.step()
    return time.perf_counter() - start


def tensors_of(state: Any) -> Iterator[torch.Tensor]:
    """All tensors in a nested state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_of(value)


def timed_hooks(model: nn.Module, criterion: str, cycles: int) -> dict[str, Any]:
    """Median seconds in the hooks at a step between selections and at one that selects."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    clock: dict[str, float] = {}
    # Hooks run in the order of their registration: these two before the pruner's own.
    optimizer.register_step_pre_hook(lambda *_: clock.update(start=time.perf_counter()))
    optimizer.register_step_post_hook(lambda *_: clock.update(after=time.perf_counter()))
    steps = EVERY * (cycles + 2)
    pruner = Pruner(
        model,
        optimizer,
        named(criterion).aimed(0.9),
        Cubic(0.9, begin=0, end=2 * steps, every=EVERY),
    )
    optimizer.register_step_pre_hook(lambda *_: clock.update(before=time.perf_counter()))
    optimizer.register_step_post_hook(lambda *_: clock.update(end=time.perf_counter()))
    plain: list[float] = []
    selecting: list[float] = []
    for number in range(steps):
        step(model, optimizer, 1, 16)
        seconds = clock["before"] - clock["start"] + clock["end"] - clock["after"]
        if number > EVERY:  # from the first selection on, when masks are applied too
            (selecting if pruner.schedule.updates(number) else plain).append(seconds)
    state = pruner.state_dict()
    tensors = list(tensors_of(state))
    weights = sum(mask.numel() for mask in state["masks"].values())
    pruner.detach()
    return {
        "plain": median(plain),
        "selecting": median(selecting),
        "mean": (median(plain) * (EVERY - 1) + median(selecting)) / EVERY,
        "bytes_per_weight": sum(t.numel() * t.element_size() for t in tensors) / weights,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    criteria = ["magnitude", "fisher", "platon", "pins", "pins-released", "movement"]
    parser.add_argument("--criteria", nargs="+", default=criteria)
    parser.add_argument("--dense-steps", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    dense = median(step(model, optimizer, 32, 128) for _ in range(options.dense_steps + 1))
    del optimizer
    print(json.dumps({"dense_step": dense, "threads": torch.get_num_threads()}))
    for criterion in options.criteria:
        hooks = timed_hooks(model, criterion, options.cycles)
        print(json.dumps({"criterion": criterion, "ratio": hooks["mean"] / dense, **hooks}))


if __name__ == "__main__":
    main()
