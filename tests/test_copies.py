"""Copies, compiled models, and optimizers that a pruner cannot ride on."""

import copy
import pickle

import pytest
import torch
from loops import adamw, loss_of, net, pruned, ramp, same, train, weights
from torch import nn

from prunella import L0, PINS, Movement, Pruner, UsageError

METHODS = {
    "held": PINS,
    "free": PINS.released,
    "dormant": Movement,
    "gated": lambda: L0(target=0.7),
}
every_method = pytest.mark.parametrize("method", METHODS)


def copied(trio, way):
    return copy.deepcopy(trio) if way == "deepcopy" else pickle.loads(pickle.dumps(trio))


@every_method
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_copy_of_model_optimizer_and_pruner_goes_on_as_the_original(method, way, order):
    trio = pruned(METHODS[method]())
    train(trio[0], trio[1], range(14))
    mixed = copied(tuple(trio[i] for i in order), way)
    model, optimizer, pruner = (mixed[order.index(i)] for i in range(3))
    assert pruner.model is model
    assert pruner.optimizer is optimizer
    for one, its_optimizer in ((trio[0], trio[1]), (model, optimizer)):
        train(one, its_optimizer, range(14, 40))
    assert same(weights(model), weights(trio[0]))
    assert same(pruner.masks, trio[2].masks)
    assert pruner.step == trio[2].step == 40
    assert all(a is not b for a, b in zip(model.parameters(), trio[0].parameters(), strict=True))


@every_method
def test_a_copied_model_is_a_plain_one(method):
    """As an average or a teacher is made of it: no pruner, no optimizer comes along."""
    model, optimizer, pruner = pruned(METHODS[method]())
    train(model, optimizer, range(14))
    pruner.summary()  # covered
    alone = copy.deepcopy(model)
    before = weights(alone)
    for mode in (alone.eval, alone.train):
        mode()
        loss_of(alone, 0)
        assert same(before, weights(alone))
    assert len(pickle.dumps(model)) < len(pickle.dumps((model, optimizer, pruner))) / 2
    train(model, optimizer, range(14, 40))  # the original is as it was
    assert pruner.step == 40
    assert pruner.sparsity == pytest.approx(0.7, abs=0.002)


def test_a_copied_optimizer_alone_has_no_pruner():
    """torch copies no hooks: what steps without the pruner is a plain optimizer, as documented."""
    model, optimizer, pruner = pruned(Movement())
    train(model, optimizer, range(14))
    other, its_optimizer = copy.deepcopy((model, optimizer))
    train(other, its_optimizer, range(14, 20))
    assert pruner.step == 14
    Pruner(other, its_optimizer, Movement(), ramp())  # it is free for one of its own


def test_a_detached_pruner_is_copied_detached():
    model, optimizer, pruner = pruned(PINS())
    train(model, optimizer, range(40))
    pruner.detach()
    _, optimizer, twin = copy.deepcopy((model, optimizer, pruner))
    assert not optimizer._optimizer_step_pre_hooks
    assert same(twin.masks, pruner.masks)


# Of torch itself, where a compiled part is given an activation.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@every_method
@pytest.mark.parametrize("whole", [True, False], ids=["model", "parts"])
def test_compiled_models(method, whole):
    model, optimizer, pruner = pruned(METHODS[method]())
    train(model, optimizer, range(40))

    other = net()
    if whole:
        runner = torch.compile(other, backend="eager")
    else:
        other.blocks = nn.ModuleList([torch.compile(b, backend="eager") for b in other.blocks])
        runner = other
    its_optimizer = adamw(other)
    its_pruner = Pruner(runner, its_optimizer, METHODS[method](), ramp())
    assert its_pruner.masks.keys() == pruner.masks.keys()  # without the wrappers' names

    def evaluate(step):
        runner.eval()
        loss_of(runner, step)
        runner.train()

    train(runner, its_optimizer, range(40), evaluate)
    assert same(its_pruner.masks, pruner.masks)
    assert its_pruner.summary().counts == pruner.summary().counts
    assert all(map(torch.equal, weights(model).values(), weights(other).values()))


@every_method
def test_loading_the_optimizer_in_mid_run(method):
    model, optimizer, _ = pruned(METHODS[method]())
    train(model, optimizer, range(40))
    other, its_optimizer, its_pruner = pruned(METHODS[method]())
    train(other, its_optimizer, range(20))
    its_optimizer.load_state_dict(copy.deepcopy(its_optimizer.state_dict()))
    train(other, its_optimizer, range(20, 40))
    assert its_pruner.step == 40
    assert same(weights(model), weights(other))


def test_moved_or_replaced_parameters_are_taken_up_or_named():
    model, optimizer, pruner = pruned(Movement())
    for block in model.blocks:
        block.up.weight = nn.Parameter(block.up.weight.detach().clone())
    with pytest.raises(UsageError, match=r"lacks 2 of the 4 prunable.*as they are now"):
        train(model, optimizer, range(1))
    optimizer.param_groups[0]["params"] = list(model.parameters())
    train(model, optimizer, range(5))
    assert pruner.step == 5
    model.blocks[0].up.weight = nn.Parameter(model.blocks[0].up.weight.detach().clone())
    with pytest.raises(UsageError, match="replaced or moved after step 4"):
        train(model, optimizer, range(5, 6))


def test_the_empty_step_of_sharded_checkpoints_does_not_count():
    model, optimizer, pruner = pruned(Movement())
    before = pruner.scores
    optimizer.param_groups[0]["lr"] = 0.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert pruner.step == 0
    loss_of(model, 0).backward()  # the first step of a warm-up is one
    optimizer.step()
    assert pruner.step == 1
    assert before


def test_optimizers_that_step_elsewhere_are_refused():
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    model = net()
    stand_in = LayerWiseDummyOptimizer(optimizer_dict={})
    with pytest.raises(UsageError, match="step inside backward"):
        Pruner(model, stand_in, PINS(), ramp())

    class DeepSpeedOptimizerWrapper:
        optimizer = adamw(model)

    with pytest.raises(UsageError, match=r"DeepSpeed's.*fully_shard"):
        Pruner(model, DeepSpeedOptimizerWrapper(), PINS(), ramp())
