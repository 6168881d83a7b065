"""What test_processes starts with ``accelerate launch``: a loop with Accelerate, and a Trainer."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from loops import adamw, batch, ramp
from processes import model_of, outcome
from test_hf import trainer
from torch import nn

from prunella import Cubic, Movement, Pruner
from prunella.hf import PruningCallback

STEPS = 40


def loop(pruner_first):
    """A user's loop; every process sees every row, so that two come to what one does."""
    accelerator = Accelerator(cpu=True)
    model = model_of("linear")
    optimizer = adamw(model)
    if pruner_first:
        pruner = Pruner(model, optimizer, Movement(), ramp())
    model, optimizer = accelerator.prepare(model, optimizer)
    if not pruner_first:
        pruner = Pruner(model, optimizer, Movement(), ramp())
    for step in range(STEPS):
        tokens, labels = batch(step)
        accelerator.backward(nn.functional.cross_entropy(model(tokens), labels))
        optimizer.step()
        optimizer.zero_grad()
    return outcome(accelerator.unwrap_model(model), pruner)


def train(folder, resume=False):
    """A Trainer, whose sampler gives every process rows of its own."""
    callback = PruningCallback(Movement(), Cubic(0.75))
    options = {"save_strategy": "steps", "save_steps": 20, "use_cpu": True}
    run = trainer(folder, callback, **options)
    run.train(resume_from_checkpoint=str(folder / "checkpoint-20") if resume else None)
    return {n: p.detach().clone() for n, p in run.model.named_parameters()}, callback.pruner.masks


def main(folder):
    results = {first: loop(first) for first in (True, False)}
    results["whole"], results["masks"] = train(folder / "trainer")
    results["resumed"], _ = train(folder / "trainer", resume=True)
    results["processes"] = Accelerator(cpu=True).num_processes
    rank = Accelerator(cpu=True).process_index
    torch.save(results, folder / f"accelerated{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
