"""A model that is pruned already: its zeros stay, whoever trains it next, unless asked."""

import copy
import logging

import loops
import pytest
import torch
from loops import adamw, net, ramp, same, through_a_file, train, weights
from torch import nn

from prunella import (
    L0,
    NM,
    PINS,
    Block,
    Global,
    Magnitude,
    Movement,
    PerMatrix,
    Pruner,
    SoftMovement,
    UsageError,
)
from prunella.given import shown
from prunella.prunable import find_prunable

TOTAL = 384  # prunable weights of the net
METHODS = {
    "held": PINS,
    "free": PINS.released,
    "dormant": Movement,
    "soft": lambda: SoftMovement(target=0.7),
    "gated": lambda: L0(target=0.7),
}
every_method = pytest.mark.parametrize("method", METHODS)


def zeros_of(model):
    return {n: p.parameter.detach() == 0 for n, p in find_prunable(model)[0].items()}


def once(method="held", schedule=None, steps=40, **options):
    """A model that was trained and pruned, its optimizer and its pruner."""
    trio = loops.pruned(METHODS[method]() if method in METHODS else method, schedule, **options)
    train(*trio[:2], range(steps))
    return trio


def watched(model, zeros):
    """Check at every forward, in whatever mode, that the weights are zero."""
    seen = []

    def look(module, inputs):
        seen.append(module.training)
        assert not any(module.get_parameter(n)[zero].any() for n, zero in zeros.items())

    model.register_forward_pre_hook(look)
    return seen


@every_method
@pytest.mark.parametrize("leaves", ["detached", "riding"])
@pytest.mark.parametrize("steps", [14, 40])
def test_a_second_training_keeps_the_zeros_at_every_step(method, leaves, steps):
    model, _optimizer, earlier = once(method, steps=steps)
    if leaves == "detached":
        earlier.detach()
    lost = 1 - earlier.summary().counts["prunable"].nonzero / TOTAL
    second = adamw(model)
    pruner = Pruner(model, second, METHODS[method](), ramp())
    zeros = zeros_of(model)
    assert pruner.sparsity == pytest.approx(lost, abs=1e-9) and lost > 0.05
    seen, sparsities = watched(model, zeros), []

    def check(step):
        model.eval()
        loops.loss_of(model, step)
        model.train()
        state = model.state_dict()
        assert not any(state[n][zero].any() for n, zero in zeros.items())
        sparsities.append(pruner.sparsity)

    train(model, second, range(40), check)
    assert seen.count(True) == seen.count(False) == 40
    assert sparsities == sorted(sparsities) and sparsities[0] == pytest.approx(lost, abs=1e-9)
    assert sparsities[-1] == pytest.approx(0.7, abs=0.002)
    pruner.detach()
    assert not any(model.get_parameter(n)[zero].any() for n, zero in zeros.items())


@pytest.mark.parametrize(
    "criterion", [SoftMovement(threshold=0.4, penalty=5.0), L0(penalty=2.0)], ids=repr
)
def test_they_stay_where_sparsity_is_an_outcome(criterion):
    model, *_ = once()
    trio = loops.pruned(criterion, ramp(0.1), model=model)
    seen = watched(model, zeros_of(model))
    train(*trio[:2], range(40))
    assert len(seen) == 40 and trio[2].sparsity >= 0.7


def test_it_is_said_once_and_how_to_start_afresh(caplog):
    model, *_ = once()
    caplog.clear()
    optimizer = adamw(model)
    Pruner(model, optimizer, PINS(), ramp())
    with caplog.at_level(logging.WARNING, "prunella"):
        train(model, optimizer, range(5))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "70.05% of the prunable weights are zero already" in record.getMessage()
    assert "masks='afresh'" in record.getMessage() and "--masks-from afresh" in record.getMessage()


@pytest.mark.parametrize("masks", ["afresh", {}])
def test_starting_afresh_is_asked_for_by_name(masks, caplog):
    model, *_ = once()
    optimizer = adamw(model)
    pruner = Pruner(model, optimizer, PINS(), ramp(), masks=masks)
    sparsities = []
    train(model, optimizer, range(40), lambda step: sparsities.append(pruner.sparsity))
    assert sparsities[0] == 0 and sparsities[-1] == pytest.approx(0.7, abs=0.002)
    assert model.blocks[0].up.weight.count_nonzero() > 0
    assert not caplog.records
    with pytest.raises(UsageError, match="masks='fresh' is no choice"):
        Pruner(model, adamw(model), PINS(), ramp(), masks="fresh")


def test_zeros_that_are_loaded_after_the_pruner_was_made_stay_too(caplog):
    pruned = weights(once()[0])
    model, optimizer, pruner = loops.pruned(PINS(), model=net(seed=7))
    model.load_state_dict(pruned)
    watched(model, zeros_of(model))
    train(model, optimizer, range(40))
    assert pruner.sparsity == pytest.approx(0.7, abs=0.002)
    assert "70.05%" in caplog.text
    model, optimizer, _ = loops.pruned(PINS(), ramp(0.3), model=net(seed=7))
    model.load_state_dict(pruned)
    with pytest.raises(UsageError, match=r"remove 0\.7005 of the weights.*let it end at 0\.7005"):
        train(model, optimizer, range(1))


@every_method
@pytest.mark.parametrize("again", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("loads", ["before", "after"])
def test_resuming_equals_the_uninterrupted_run(method, again, loads):
    """Whether the model is loaded before the pruner, which then sees its zeros, or after."""
    start = weights(once(method)[0] if again else net())

    def begin(state):
        model = net(seed=7)
        model.load_state_dict(state)
        return model

    whole = loops.pruned(METHODS[method]().aimed(0.8), ramp(0.8), model=begin(start))
    train(*whole[:2], range(40))
    first = loops.pruned(METHODS[method]().aimed(0.8), ramp(0.8), model=begin(start))
    train(*first[:2], range(20))
    model_state, optimizer_state, pruner_state = through_a_file([p.state_dict() for p in first])
    model = begin(model_state if loads == "before" else start)
    second = loops.pruned(METHODS[method]().aimed(0.8), ramp(0.8), model=model)
    second[2].load_state_dict(pruner_state)
    second[1].load_state_dict(optimizer_state)
    model.load_state_dict(model_state)
    train(*second[:2], range(20, 40))
    assert same(weights(second[0]), weights(whole[0]))
    assert same(second[2].masks, whole[2].masks)


def test_a_step_back_within_a_run_is_not_taken_for_a_second_training():
    whole = once()
    model, optimizer, pruner = once(steps=12)
    states = copy.deepcopy([part.state_dict() for part in (model, optimizer, pruner)])
    train(model, optimizer, range(12, 30))
    for part, state in zip((model, optimizer, pruner), states, strict=True):
        part.load_state_dict(state)
    train(model, optimizer, range(12, 40))
    assert same(weights(model), weights(whole[0]))


# --- what shows that a model was pruned ----------------------------------------------------------


def sparse(model, count, names=None):
    """Set so many weights of each of a model's matrices to zero, spread over each."""
    with torch.no_grad():
        for name, p in find_prunable(model)[0].items():
            if names is None or name in names:
                flat = p.parameter.view(-1)
                flat[torch.arange(count) * flat.numel() // max(count, 1)] = 0
    return model


@pytest.mark.parametrize("final", [0.0, 0.1, 0.7])
def test_a_handful_of_zeros_is_none(final, caplog):
    models = []
    for masks in (None, "afresh"):
        model = sparse(net(width=40, hidden=60), 2)
        model, optimizer, pruner = loops.pruned(PINS(), ramp(final), model=model, masks=masks)
        assert pruner.sparsity == 0
        train(model, optimizer, range(40))
        models.append(weights(model))
    assert same(*models)
    assert not caplog.records
    assert not shown(find_prunable(sparse(net(), 2))[0])
    assert shown(find_prunable(sparse(net(), 3))[0])  # 12 of 384
    assert not shown(find_prunable(sparse(net(width=64, hidden=96), 6))[0])  # 24 of 24,576
    assert shown(find_prunable(sparse(net(width=64, hidden=96), 7))[0])


def test_one_pruned_matrix_among_many_is_enough():
    model = sparse(net(blocks=12), 48, ["blocks.3.up.weight"])
    masks = shown(find_prunable(model)[0])
    assert {n for n, mask in masks.items() if not mask.all()} == {"blocks.3.up.weight"}


def test_matrices_that_begin_as_zeros_are_trained(caplog):
    model = net()
    for block in model.blocks:
        nn.init.zeros_(block.down.weight)
    model, optimizer, pruner = loops.pruned(PINS(), model=model)
    assert pruner.sparsity == 0
    train(model, optimizer, range(5))
    assert model.blocks[0].down.weight.all()
    assert not caplog.records


def test_a_matrix_that_was_pruned_to_the_last_weight_stays_so_and_is_named(caplog):
    model = sparse(net(), 40)
    nn.init.zeros_(model.blocks[1].up.weight)
    model, optimizer, _pruner = loops.pruned(PINS(), model=model, include_biases=True)
    nn.init.zeros_(model.blocks[0].up.bias)  # biases begin as zeros
    train(model, optimizer, range(40))
    assert not model.blocks[1].up.weight.any()
    assert model.blocks[0].up.bias.any()
    assert "1 matrices are zero throughout, blocks.1.up.weight to begin with" in caplog.text


def test_padding_rows_of_tables_are_none():
    model = net(width=24)
    model.table = nn.Embedding(20, 24, padding_idx=0)
    prunable, _ = find_prunable(model, include_embeddings=True)
    assert not model.table.weight[0].any() and not shown(prunable)
    with torch.no_grad():
        model.table.weight[1:].mul_(torch.rand(19, 24) < 0.5)
    assert shown(prunable)["table.weight"][0].sum() == 0


def test_other_dtypes_and_negative_zeros():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model = net().to(dtype)
        assert not shown(find_prunable(model)[0])
        with torch.no_grad():
            model.blocks[0].up.weight[:6] *= -0.0
        model, _optimizer, pruner = loops.pruned(Magnitude(), model=model)
        assert pruner.sparsity == pytest.approx(48 / TOTAL)
        assert not model.blocks[0].up.weight[:6].signbit().any()


@pytest.mark.parametrize("allocation", [Global(), PerMatrix()], ids=["global", "matrix"])
def test_they_count_in_as_given_masks_do(allocation):
    state = weights(once(schedule=ramp(0.4))[0])
    results = []
    for masks in (None, {n: ~zero for n, zero in zeros_of(once(schedule=ramp(0.4))[0]).items()}):
        model = net()
        model.load_state_dict(state)
        trio = loops.pruned(PINS(), model=model, allocation=allocation, masks=masks)
        train(*trio[:2], range(40))
        results.append(weights(model) | trio[2].masks)
    assert same(*results)


def test_what_does_not_fit_is_refused_with_the_remedy():
    model, *_ = once()
    for options, message in (
        (
            {"schedule": ramp(0.5)},
            r"ends at 0\.5; let it end at 0\.7005 or above, by a higher final",
        ),
        ({"schedule": ramp(0.0)}, r"ends at 0\.0"),
        ({"schedule": ramp(0.75), "allocation": Global(Block(4, 2))}, r"whose zeros stay, is none"),
        ({"schedule": ramp(0.5), "allocation": Global(NM(2, 4))}, r"start with masks='afresh'"),
    ):
        with pytest.raises(UsageError, match=message):
            loops.pruned(PINS(), model=model, **options)
        loops.pruned(PINS(), model=model, masks="afresh", **options)[2].detach()
    halves, *_ = once(schedule=ramp(0.5), allocation=Global(NM(2, 4)))
    trio = loops.pruned(PINS(), ramp(0.5), model=halves, allocation=Global(NM(2, 4)))
    before = trio[2].masks
    train(*trio[:2], range(40))
    assert trio[2].sparsity == 0.5 and same(before, trio[2].masks)


def test_a_refusal_leaves_an_earlier_pruner_riding():
    model, optimizer, earlier = once("free", steps=14)
    with pytest.raises(UsageError, match=r"ends at 0\.0"):
        Pruner(model, adamw(model), PINS(), ramp(0.0))
    train(model, optimizer, range(14, 40))
    whole = once("free")
    assert same(weights(model), weights(whole[0])) and earlier.step == 40
