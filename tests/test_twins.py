"""Twins of a pruned model get its masks."""

import copy

import peft
import pytest
import torch
from loops import loss_of, net, pruned, ramp, train
from test_hf import bert
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import prunella
from prunella import L0, PINS, Cubic, Magnitude, Movement, Pruner, UsageError

METHODS = {"held": PINS, "free": PINS.released, "dormant": Movement, "gated": lambda: L0(0.7)}


def assert_pruned(module, masks, rename=lambda name: name):
    for name, mask in masks.items():
        weight = module.get_parameter(rename(name))
        assert not weight[~mask].any() and weight[mask].any()


@pytest.mark.parametrize("method", METHODS)
def test_an_average(method):
    model, optimizer, pruner = pruned(METHODS[method]())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def each(step):
        average.update_parameters(model)
        pruner.apply_to(average)
        assert_pruned(average.module, pruner.masks)

    train(model, optimizer, range(40), each)
    assert pruner.sparsity == pytest.approx(0.7, abs=0.002)
    before = copy.deepcopy(average.module.state_dict())
    train(model, optimizer, range(40, 42))
    assert all(map(torch.equal, before.values(), average.module.state_dict().values()))


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.student = model
        self.extra = nn.Linear(2, 2)


def compiled(model):
    return torch.compile(model, backend="eager")


def data_parallel(model):
    outer = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(outer)
    outer.module = model
    return outer


@pytest.mark.parametrize(
    "wrap",
    [lambda m: m, compiled, nn.DataParallel, data_parallel, Wrapped, AveragedModel],
    ids=["plain", "compiled", "dp", "ddp", "module", "average"],
)
@pytest.mark.parametrize("outside", [False, True], ids=["twin", "both"])
def test_names_are_found_through_wrappers(wrap, outside):
    model = net()
    whole = Wrapped(model) if outside else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = Pruner(whole, optimizer, Magnitude(), ramp())
    train(model, optimizer, range(40))
    twin = net(seed=3)
    twin.blocks[0] = compiled(twin.blocks[0])
    wrapped = wrap(twin)
    pruner.apply_to(wrapped)
    if isinstance(wrapped, AveragedModel):  # which is of a copy
        twin = wrapped.module
    for name, mask in pruner.masks.items():
        name = name.removeprefix("student.").replace("blocks.0", "blocks.0._orig_mod")
        assert torch.equal(twin.get_parameter(name) != 0, mask)


def test_what_does_not_fit_is_named():
    model, optimizer, pruner = pruned(Magnitude())
    train(model, optimizer, range(40))
    with pytest.raises(UsageError, match=r"Net lacks blocks\.1\.up\.weight and 1 more of the 4"):
        pruner.apply_to(net(blocks=1))
    with pytest.raises(UsageError, match=r"Linear lacks .* more of the 4 pruned weights"):
        pruner.apply_to(nn.Linear(8, 12))
    other = net(hidden=16)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(UsageError, match=r"is \(12, 8\) in the pruned model and \(16, 8\) in Net"):
        pruner.apply_to(other)
    assert all(map(torch.equal, before.values(), other.state_dict().values()))


def test_models_with_adapters_and_their_merged_form():
    def build():
        torch.manual_seed(0)
        return peft.get_peft_model(net(), peft.LoraConfig(target_modules=["up", "down"]))

    model, optimizer, pruner = pruned(Magnitude(), model=build())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    train(model, optimizer, range(40), lambda step: average.update_parameters(model))
    pruner.apply_to(average)
    merged, plain = average.module.merge_and_unload(), net(seed=5)
    pruner.apply_to(plain)
    for twin in (merged, plain):
        assert_pruned(
            twin,
            pruner.masks,
            lambda n: n.removeprefix("base_model.model.").replace(".base_layer", ""),
        )
    *_, other = pruned(Magnitude(), model=(first := net()))
    train(first, other.optimizer, range(40))
    twin = build()
    other.apply_to(twin)
    assert_pruned(twin.merge_and_unload(), other.masks)


# --- saving --------------------------------------------------------------------------------------


def test_saving_says_what_was_written_and_warns_where_nothing_is_zero(tmp_path, caplog):
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = Pruner(model, optimizer, Magnitude(), Cubic(0.8, begin=0, end=4, every=1))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ids = torch.randint(5, 90, (4, 12))
    for _ in range(6):
        model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
        average.update_parameters(model)
    count = prunella.save(model, tmp_path / "model")
    assert (count.sparsity, count.total) == (pytest.approx(0.8, abs=1e-3), 4096)
    assert not caplog.records
    dense = prunella.save(average.module, tmp_path / "average")
    assert dense.sparsity == 0
    assert "0 of 4096 prunable weights are zero" in caplog.text and "apply_to" in caplog.text
    pruner.apply_to(average)
    assert prunella.save(average.module, tmp_path / "average") == count
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert prunella.save(frozen, tmp_path / "frozen") == count


@pytest.mark.parametrize(
    "wrap", [compiled, nn.DataParallel, data_parallel], ids=["compiled", "dp", "ddp"]
)
def test_wrapped_models_are_saved(wrap, tmp_path):
    model = bert()
    prunella.save(wrap(model), tmp_path)
    loaded = prunella.load(tmp_path, "dense")
    assert all(map(torch.equal, model.state_dict().values(), loaded.state_dict().values()))


def test_the_loss_of_a_twin_is_that_of_a_pruned_model():
    model, optimizer, pruner = pruned(PINS())
    train(model, optimizer, range(40))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in pruner.masks.items():
            twin.get_parameter(name)[~mask] = torch.nan
    pruner.apply_to(twin)
    assert torch.equal(loss_of(twin, 0), loss_of(model, 0))
