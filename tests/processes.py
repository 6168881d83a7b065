"""What test_processes runs in two processes: python -m torch.distributed.run ... FOLDER.

Every scenario trains on the same batch everywhere, so that it must come out as in one process.
"""

import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from loops import Attention, Mixture, adamw, loss_of, net, ramp, train
from loops import Block as Pair
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers.pytorch_utils import Conv1D

from prunella import NM, Block, Global, PerMatrix, Pruner
from prunella.criteria import CRITERIA
from prunella.prunable import find_prunable
from prunella.sharding import whole

STEPS = 40
STOP = 22  # inside the ramp
ALLOCATIONS = {
    "global": (Global(), 0.7),
    "matrix": (PerMatrix(), 0.7),
    "2:4": (Global(NM(2, 4)), 0.5),
    "blocks": (PerMatrix(Block(4, 2)), 0.75),
    "global blocks": (Global(Block(4, 2)), 0.75),
}
SCENARIOS = [
    *((name, "linear", "global") for name in CRITERIA),
    *((name, "linear", a) for name in ("pins", "movement", "l0") for a in ALLOCATIONS),
    *(("pins", "conv1d", a) for a in ALLOCATIONS),
    ("movement", "uneven", "global"),
    ("platon", "uneven", "matrix"),
    ("pins", "experts", "matrix"),
    ("l0", "experts", "global"),
    ("movement", "turned experts", "blocks"),
    ("pins", "turned experts", "2:4"),
    ("movement", "attention", "matrix"),
    ("pins", "attention", "global"),
]
BLOCKS = {
    "experts": Mixture,
    "turned experts": partial(Mixture, is_transposed=True),
    "attention": Attention,
}
PRUNED_BEFORE = ["pins", "pins-released", "soft-movement", "l0"]
SHARDED_CHECKPOINTS = ["pins", "pins-released", "movement", "l0"]


def model_of(kind, seed=0):
    hidden = 11 if kind == "uneven" else 12
    model = net(seed, hidden=hidden, block=BLOCKS.get(kind, Pair))
    if kind == "conv1d":
        for block in model.blocks:
            for side in ("up", "down"):
                linear = getattr(block, side)
                conv = Conv1D(linear.out_features, linear.in_features)
                conv.weight = nn.Parameter(linear.weight.detach().t().contiguous())
                conv.bias = linear.bias
                setattr(block, side, conv)
    return model


def shard(model):
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return model


def attach(model, name, allocation, seed=0):
    optimizer = adamw(model)
    allocation, final = ALLOCATIONS[allocation]
    schedule = ramp(final, after="reselect" if "released" in name else "freeze")
    criterion = CRITERIA[name]().aimed(final)
    return optimizer, Pruner(model, optimizer, criterion, schedule, allocation)


def outcome(model, pruner):
    """All that a scenario comes to, whole."""
    state = pruner.state_dict()
    return {
        "step": pruner.step,
        "sparsity": pruner.sparsity,
        "nonzero": pruner.summary().counts["prunable"].nonzero,
        "masks": {name: whole(mask) for name, mask in state["masks"].items()},
        "scores": {name: whole(score) for name, score in pruner.scores().items()},
        "weights": {n.replace("module.", ""): whole(w) for n, w in model.state_dict().items()},
    }


def scenario(name, kind, allocation, wrap=lambda model: model):
    model = wrap(model_of(kind))
    optimizer, pruner = attach(model, name, allocation)

    def evaluate(step):
        if step % 7 == 0:
            model.eval()
            loss_of(model, step)
            model.train()

    train(model, optimizer, range(STEPS), evaluate)
    return outcome(model, pruner)


def save_sharded(folder, name, wrap=lambda model: model):
    model = wrap(model_of("linear"))
    optimizer, pruner = attach(model, name, "global")
    train(model, optimizer, range(STOP))
    states = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "pruner": pruner,
    }
    dcp.save(states, checkpoint_id=folder)


def resume_sharded(folder, name, wrap=lambda model: model):
    model = wrap(model_of("linear", seed=5))
    optimizer, pruner = attach(model, name, "global")
    states = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "pruner": pruner,
    }
    assert pruner.step == 0  # making the optimizer's state is no step
    dcp.load(states, checkpoint_id=folder)
    set_model_state_dict(model, states["model"])
    set_optimizer_state_dict(model, optimizer, states["optimizer"])
    train(model, optimizer, range(STOP, STEPS))
    return outcome(model, pruner)


def different_batches(wrap):
    """Every process has its own rows; the masks must still agree."""
    model = wrap(model_of("linear"))
    optimizer, pruner = attach(model, "movement", "global")
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, 2 * step + dist.get_rank()).backward()
        optimizer.step()
    return outcome(model, pruner)


def pruned_before(name, wrap=lambda model: model):
    """Starts from masks, which every process holds whole."""
    model = model_of("uneven")
    generator = torch.Generator().manual_seed(1)
    masks = {
        parameter: torch.rand(model.get_parameter(parameter).shape, generator=generator) > 0.4
        for parameter in find_prunable(model)[0]
    }
    model = wrap(model)
    optimizer, criterion = adamw(model), CRITERIA[name]().aimed(0.7)
    pruner = Pruner(model, optimizer, criterion, ramp(), masks=masks)
    train(model, optimizer, range(STEPS))
    return outcome(model, pruner)


def before_sharding():
    """The pruner comes first, and the model is cut up under it."""
    model = model_of("linear")
    optimizer, pruner = attach(model, "movement", "global")
    old = {id(p): n for n, p in model.named_parameters()}
    shard(model)
    new = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [new[old[id(p)]] for p in group["params"]]
    train(model, optimizer, range(STEPS))
    return outcome(model, pruner)


def main(folder):
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank = dist.get_rank()
    results = {
        ("ddp", *key): scenario(*key, DistributedDataParallel) for key in SCENARIOS[: len(CRITERIA)]
    }
    results |= {("fsdp", *key): scenario(*key, shard) for key in SCENARIOS}
    results["different", "ddp"] = different_batches(DistributedDataParallel)
    results["different", "fsdp"] = different_batches(shard)
    for name in PRUNED_BEFORE:
        results["pruned before", "ddp", name] = pruned_before(name, DistributedDataParallel)
        results["pruned before", "fsdp", name] = pruned_before(name, shard)
    results["before sharding"] = before_sharding()
    for name in SHARDED_CHECKPOINTS:
        save_sharded(folder / f"two-{name}", name, shard)
        results["resumed by two", name] = resume_sharded(folder / f"one-{name}", name, shard)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
