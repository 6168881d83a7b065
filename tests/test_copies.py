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
    with pytest.raises(UsageError, match="replaced after step 4"):
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


@every_method
def test_a_step_that_failed_does_not_take_the_next_one_along(method):
    model, optimizer, pruner = pruned(METHODS[method]())
    train(model, optimizer, range(14))

    def fail(*_):
        raise MemoryError

    hook = optimizer.register_step_pre_hook(fail)
    loss_of(model, 14).backward()
    with pytest.raises(MemoryError):
        optimizer.step()
    hook.remove()
    train(model, optimizer, range(14, 15))
    assert pruner.step == 15
    model.eval()
    loss_of(model, 0)
    for name, mask in pruner.masks.items():
        assert not model.get_parameter(name)[~mask].any()
    train(model, optimizer, range(15, 40))
    assert pruner.summary().counts["prunable"].nonzero == 384 - round(0.7 * 384)


@every_method
def test_a_new_pruner_takes_the_place_of_an_earlier_one(method):
    """Of another optimizer, as where a cell of a notebook is run again."""
    model, optimizer, earlier = pruned(METHODS[method]())
    train(model, optimizer, range(20))
    zeros = earlier.summary().counts["prunable"].nonzero
    its_optimizer = adamw(model)
    pruner = Pruner(model, its_optimizer, METHODS[method](), ramp())
    assert pruner.summary().counts["prunable"].nonzero == zeros
    train(model, its_optimizer, range(9))
    assert pruner.sparsity == 1 - zeros / 384
    assert earlier.step == 20
    optimizer.step()  # no longer the earlier pruner's
    assert earlier.step == 20
    train(model, its_optimizer, range(9, 40))
    assert pruner.summary().counts["prunable"].nonzero == 384 - round(0.7 * 384)


@every_method
def test_detaching_works_whatever_became_of_the_parameters(method):
    model, optimizer, pruner = pruned(METHODS[method]())
    train(model, optimizer, range(20))
    model.to("meta")  # these are other parameters
    pruner.detach()
    assert not optimizer._optimizer_step_pre_hooks
    assert not model._forward_pre_hooks


def test_copies_of_data_parallel_forwards_are_refused_where_hooks_would_miss_them():
    model = net()
    for criterion in (PINS.released(), L0(target=0.7)):
        with pytest.raises(UsageError, match=r"DataParallel copies.*DistributedDataParallel"):
            Pruner(nn.DataParallel(model), adamw(model), criterion, ramp())
    Pruner(nn.DataParallel(model), adamw(model), PINS(), ramp())


def test_a_first_step_without_gradients_counts():
    """A warm-up from zero, and a first batch that says nothing to the prunable weights."""
    model, optimizer, pruner = pruned(Movement())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 5)
    for step in range(3):
        loss_of(model, step).backward()
        if step == 0:
            for block in model.blocks.parameters():
                block.grad.zero_()
        optimizer.step()
        scheduler.step()
    assert pruner.step == 3


def test_flattened_parameters_are_refused():
    """FSDP1's; its wrapper needs processes, so a class of its name stands in."""

    class FullyShardedDataParallel(nn.Module):
        pass

    model = net()
    with pytest.raises(UsageError, match=r"FSDP1.*fully_shard"):
        Pruner(FullyShardedDataParallel(), adamw(model), PINS(), ramp())
