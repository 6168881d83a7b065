"""Several matrices in one parameter: each is pruned as if it were a parameter of its own."""

import pytest
import torch
from loops import (
    Attention,
    Experts,
    Mixture,
    Separate,
    adamw,
    net,
    pruned,
    ramp,
    same,
    through_a_file,
    train,
    weights,
)
from torch import nn

from prunella import (
    L0,
    NM,
    Block,
    Element,
    Global,
    Magnitude,
    OneShot,
    PerMatrix,
    Pruner,
    UsageError,
)
from prunella.criteria import CRITERIA
from prunella.criteria.learned import SoftMovement
from prunella.prunable import find_prunable

ALLOCATIONS = {
    "global": (Global(), 0.7),
    "matrix": (PerMatrix(), 0.7),
    "2:4": (Global(NM(2, 4)), 0.5),
    "2:4 matrix": (PerMatrix(NM(2, 4)), 0.5),
    "blocks": (Global(Block(4, 2)), 0.75),
    "blocks matrix": (PerMatrix(Block(4, 2)), 0.75),
}
SEEDED = ("random", "l0")  # whose noise goes by the parameters' names


def turned(width, hidden):
    return Mixture(width, hidden, is_transposed=True)


def twins(block):
    """A net with stacked experts, and one with the same experts as linear layers."""
    stacked, separate = net(block=block), net(block=block)
    for part in separate.blocks:
        part.experts = Separate(part.experts)
    return stacked, separate


def slices(pruner):
    """The masks of all matrices [out, in], in order."""
    masks = []
    for name, mask in pruner.masks.items():
        oriented = pruner.prunable[name].oriented(mask)
        masks += oriented.unbind() if oriented.ndim > 2 else [oriented]
    return masks


def flat(masks):
    return [kept for _, mask in masks for kept in mask]


def by_shape(pruner):
    return sorted((tuple(m.shape), m.flatten().tolist()) for m in slices(pruner))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("block", [Mixture, turned])
@pytest.mark.parametrize("name", ["magnitude", "pins", "movement", "soft-movement"])
def test_a_slice_is_pruned_as_a_matrix_of_its_own(name, block, allocation):
    chosen, final = ALLOCATIONS[allocation]
    results = []
    for model in twins(block):
        criterion = CRITERIA[name]().aimed(final)
        _, optimizer, pruner = pruned(criterion, ramp(final), model=model, allocation=chosen)
        train(model, optimizer, range(35))
        results.append(pruner)
    stacked, separate = results
    assert len(stacked.masks) < len(separate.masks)
    ours, theirs = by_shape(stacked), by_shape(separate)
    assert [shape for shape, _ in ours] == [shape for shape, _ in theirs]
    pairs = list(zip(flat(ours), flat(theirs), strict=True))
    differing, total = sum(a != b for a, b in pairs), len(pairs)
    assert differing <= 0.02 * total  # sums of products in another order
    assert stacked.summary().counts["prunable"] == separate.summary().counts["prunable"]


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("block", [Mixture, turned, Attention])
def test_every_slice_has_its_exact_share(name, block):
    model = net(block=block)
    criterion = CRITERIA[name]().aimed(0.7)
    _, optimizer, pruner = pruned(criterion, ramp(), model=model, allocation=PerMatrix())
    train(model, optimizer, range(35))
    assert all(int((~m).sum()) == round(0.7 * m.numel()) for m in slices(pruner))


def test_attention_is_three_matrices_and_an_output():
    model = net(block=Attention)
    _, optimizer, pruner = pruned(Magnitude(), OneShot(0.5, 1), model=model, allocation=PerMatrix())
    train(model, optimizer, range(3))
    counts = [int((part == 0).sum()) for part in model.blocks[0].attention.in_proj_weight.chunk(3)]
    assert counts == [32, 32, 32]
    assert pruner.prunable["blocks.0.attention.in_proj_weight"].shape == (3, 8, 8)
    assert "blocks.0.attention.out_proj.weight" in pruner.prunable
    with pytest.raises(
        UsageError,
        match=r"Block\(3, 2\) does not divide .*in_proj_weight of shape "
        r"\(8, 8\)",
    ):  # 24 rows, and no block goes over a border
        pruned(Magnitude(), model=net(block=Attention), allocation=Global(Block(3, 2)))


def test_attention_of_other_widths_for_keys_and_values():
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
    found = {name: prunable.shape for name, prunable in find_prunable(attention)[0].items()}
    sides = {"q_proj_weight": (8, 8), "k_proj_weight": (8, 6), "v_proj_weight": (8, 4)}
    assert found == sides | {"out_proj.weight": (8, 8)}
    found, _ = find_prunable(attention, include_biases=True)
    assert found["in_proj_bias"].shape == (24,)
    assert "out_proj.bias" in found


@pytest.mark.parametrize("criterion", [SoftMovement(), L0()])
@pytest.mark.parametrize("block", [Mixture, turned, Attention])
def test_where_sparsity_is_an_outcome_it_is_every_slices_own(block, criterion):
    model = net(block=block)
    _, optimizer, pruner = pruned(criterion, ramp(), model=model)
    train(model, optimizer, range(14))
    with torch.no_grad():  # one slice of a stack is worth nothing
        name = next(name for name, p in pruner.prunable.items() if p.slices > 1)
        pruner.prunable[name].oriented(pruner._evidence.state[name]["score"])[1] = -9.0
    train(model, optimizer, range(14, 35))
    kept = [int(mask.sum()) for mask in pruner.prunable[name].oriented(pruner.masks[name])]
    least = int(0.005 * pruner.masks[name].numel() / pruner.prunable[name].slices) + 1
    assert kept[1] == (least if isinstance(criterion, SoftMovement) else 0)
    assert min(kept[0], kept[2]) > 10 * least


@pytest.mark.parametrize("name", ["pins", "pins-released", "movement", "l0"])
@pytest.mark.parametrize("block", [turned, Attention])
def test_a_resumed_run_equals_one_that_never_stopped(name, block):
    def begun(seed=0):
        criterion = CRITERIA[name]().aimed(0.7)
        return pruned(criterion, model=net(seed, block=block), allocation=PerMatrix())

    model, optimizer, _ = begun()
    train(model, optimizer, range(40))
    half, its, pruner = begun()
    train(half, its, range(22))
    states = [through_a_file(part.state_dict()) for part in (half, its, pruner)]
    resumed, its, pruner = begun(seed=3)
    for part, state in zip((resumed, its, pruner), states, strict=True):
        part.load_state_dict(state)
    train(resumed, its, range(22, 40))
    assert same(weights(resumed), weights(model))


@pytest.mark.parametrize("allocation", [Global(), PerMatrix()], ids=["global", "matrix"])
@pytest.mark.parametrize("block", [turned, Attention])
def test_masks_to_start_from_are_counted_by_slice(block, allocation):
    model = net(block=block)
    found, _ = find_prunable(model)
    masks = {name: torch.ones(p.parameter.shape, dtype=torch.bool) for name, p in found.items()}
    dead = next(name for name, p in found.items() if p.slices > 1)
    found[dead].oriented(masks[dead])[0] = False  # all of one slice
    pruner = Pruner(model, adamw(model), Magnitude(), OneShot(0.5, 1), allocation, masks=masks)
    train(model, pruner.optimizer, range(3))
    lost = [1 - float(mask.float().mean()) for mask in slices(pruner)]
    if isinstance(allocation, PerMatrix):  # the others have their share all the same
        assert sorted(lost) == [0.5] * (len(lost) - 1) + [1.0]
    else:
        assert pruner.sparsity == pytest.approx(0.5, abs=1e-3)
    assert max(lost) == 1.0


def test_frozen_and_tied_stacks():
    model = net(block=Mixture)
    model.blocks[0].experts.gate_up_proj.requires_grad_(False)
    model.blocks[1].experts.down_proj = model.blocks[0].experts.down_proj
    found, frozen = find_prunable(model)
    assert frozen == ["blocks.0.experts.gate_up_proj"]
    assert list(found) == ["blocks.0.experts.down_proj", "blocks.1.experts.gate_up_proj"]
    model.head_too = model.blocks[1].experts  # used outside the blocks as well
    assert list(find_prunable(net(block=Mixture), ["experts.down*"])[0]) == [
        f"blocks.{i}.experts.down_proj" for i in (0, 1)
    ]
    assert list(find_prunable(model, ["blocks.*up*"])[0]) == ["blocks.1.experts.gate_up_proj"]


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(("width", "hidden"), [(8, 12), (8, 4), (8, 8), (4, 8)])
def test_orientation_is_told_by_the_shapes_where_the_module_does_not_say(
    is_transposed, width, hidden
):
    model = net(block=Mixture, width=width, hidden=hidden)
    for part in model.blocks:
        part.experts = Experts(width, hidden, is_transposed=is_transposed)
        part.experts.is_transposed = None
    found, _ = find_prunable(model)
    assert len(found) == 4
    assert {p.transposed for p in found.values()} == {is_transposed}
    assert found["blocks.0.experts.down_proj"].shape == (3, width, hidden)


def test_weights_of_unknown_axes_stand_alone():
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.Linear(6, 6))
    found, _ = find_prunable(model, ["0.weight"])
    assert found["0.weight"].shape == (72,)
    optimizer = adamw(model)
    Pruner(model, optimizer, Magnitude(), OneShot(0.5, 0), PerMatrix(), parameters=["0.weight"])
    model[0](torch.ones(2, 4, 3)).sum().backward()
    optimizer.step()
    assert int((model[0].weight == 0).sum()) == 36
    with pytest.raises(UsageError, match=r"NM\(2, 4\) does not divide 0.weight"):
        Pruner(
            model,
            adamw(model),
            Magnitude(),
            OneShot(0.5, 0),
            Global(NM(2, 4)),
            parameters=["0.weight"],
        )


def test_stacks_in_the_reference_order():
    """A stack is ranked as its matrices one after the other, ties included."""
    generator = torch.Generator().manual_seed(0)
    stack = torch.randint(0, 4, (3, 8, 16), generator=generator).float()
    apart = {f"w{i}": matrix for i, matrix in enumerate(stack)}
    for scope in (Global, PerMatrix):
        for pattern in (Element(), NM(2, 4), Block(4, 8)):
            ours = scope(pattern).masks({"w": stack}, 0.4)["w"]
            theirs = scope(pattern).masks(apart, 0.4)
            assert torch.equal(ours, torch.stack([theirs[name] for name in apart]))
            assert pattern.fits(ours) == all(map(pattern.fits, theirs.values()))
