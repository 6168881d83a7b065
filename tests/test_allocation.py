import pytest
import reference
import torch
from loops import same

from prunella import NM, Block, Diverged, Element, Global, PerMatrix, UsageError
from prunella import allocation as room

SPARSITIES = [0.0, 0.001, 0.1, 0.5, 0.75, 0.9, 0.999]


def scores_of(kind, shapes=((24, 16), (8, 48), (40,)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    make = {
        "continuous": lambda s: torch.randn(s, generator=generator),
        "tied": lambda s: torch.randint(0, 4, s, generator=generator).float(),
        "equal": lambda s: torch.full(s, 0.25),
        "sorted": lambda s: torch.arange(torch.Size(s).numel()).float().reshape(s),
        "heavy": lambda s: torch.randn(s, generator=generator).exp().pow(6),
        "mostly zero": lambda s: torch.randn(s, generator=generator).relu_().sub_(1).relu_(),
    }[kind]
    return {f"w{i}": make(shape) for i, shape in enumerate(shapes)}


KINDS = ["continuous", "tied", "equal", "sorted", "heavy", "mostly zero"]


def against(oracle, ours):
    assert same(ours, {name: torch.from_numpy(mask) for name, mask in oracle.items()})


def arrays(scores):
    return {name: values.double().numpy() for name, values in scores.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_elements_agree_with_sorting(kind, sparsity):
    scores = scores_of(kind)
    against(reference.select_global(arrays(scores), sparsity), Global().masks(scores, sparsity))
    against(
        reference.select_per_matrix(arrays(scores), sparsity), PerMatrix().masks(scores, sparsity)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5])
@pytest.mark.parametrize(("scope", "name"), [(Global, "global"), (PerMatrix, "matrix")])
def test_groups_agree_with_sorting(kind, sparsity, scope, name):
    scores = scores_of(kind, shapes=((24, 16), (8, 48)))
    ours = scope(NM(2, 4)).masks(scores, sparsity)
    against(reference.select_nm(arrays(scores), sparsity, 2, 4, name), ours)


@pytest.mark.parametrize("kind", ["continuous", "tied", "equal", "sorted"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(("scope", "name"), [(Global, "global"), (PerMatrix, "matrix")])
def test_blocks_agree_with_sorting(kind, sparsity, scope, name):
    scores = scores_of(kind, shapes=((24, 16), (8, 48)))
    ours = scope(Block(4, 8)).masks(scores, sparsity)
    against(reference.select_block(arrays(scores), sparsity, 4, 8, name), ours)


@pytest.mark.parametrize("kind", KINDS)
def test_large_enough_to_be_sampled(kind, monkeypatch):
    """The bracket is guessed from a sample; a misleading sample must not change the answer."""
    scores = scores_of(kind, shapes=((300, 96), (64, 200), (500, 7)))
    for stride in (2, 37, 257):
        monkeypatch.setattr(room, "_STRIDE", stride)
        for sparsity in SPARSITIES:
            flat = torch.cat([values.flatten() for values in scores.values()])
            # A stable sort is the rule itself: lowest first, the latest of equals first.
            order = flat.flip(0).argsort(stable=True)
            kept = torch.ones_like(flat, dtype=torch.bool)
            kept[len(flat) - 1 - order[: round(sparsity * len(flat))]] = False
            masks = Global().masks(scores, sparsity)
            assert torch.equal(torch.cat([m.flatten() for m in masks.values()]), kept)


def test_a_misleading_sample_is_noticed():
    values = torch.ones(100_001)
    values[:: room._STRIDE] = torch.arange(2.0, 2.0 + len(values[:: room._STRIDE]))
    masks = Global().masks({"w": values}, 0.5)  # the sample sees the large scores alone
    assert int((~masks["w"]).sum()) == round(0.5 * 100_001)
    assert masks["w"][values > 1].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_other_precisions_keep_theirs(dtype):
    scores = {"w": (torch.arange(1000.0, dtype=torch.float64) * 1e-12 + 1).to(dtype)}
    lost = ~Global().masks(scores, 0.3)["w"]
    assert int(lost.sum()) == 300
    assert lost[:300].all() if dtype == torch.float64 else lost[700:].all()


def test_transposed_scores():
    turned = scores_of("continuous", shapes=((16, 24),))["w0"].t()
    ours, theirs = (Global().masks({"w": s}, 0.5)["w"] for s in (turned, turned.contiguous()))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_sparsity_must_be_in_range(sparsity):
    with pytest.raises(UsageError, match="outside"):
        Global().masks(scores_of("continuous"), sparsity)


@pytest.mark.parametrize("scope", [Global, PerMatrix])
@pytest.mark.parametrize("pattern", [Element(), NM(2, 4), Block(4, 8)], ids=repr)
def test_scores_must_be_numbers(scope, pattern):
    scores = scores_of("continuous", shapes=((24, 16), (8, 48)))
    scores["w1"][3, 7] = torch.nan
    with pytest.raises(Diverged, match="w1 hold NaN"):
        scope(pattern).masks(scores, 0.5)


def test_more_scores_of_minus_infinity_than_are_pruned():
    scores = {"w": torch.randn(40, generator=torch.Generator().manual_seed(0))}
    scores["w"][3:9] = -torch.inf
    for sparsity, lost in ((0.0, []), (0.05, [7, 8]), (0.1, [5, 6, 7, 8])):
        mask = Global().masks(scores, sparsity)["w"]
        assert (~mask).nonzero().flatten().tolist() == lost


def test_infinite_scores_are_the_highest_and_lowest():
    scores = scores_of("continuous")
    scores["w0"][0, :2], scores["w1"][3, 7] = torch.inf, -torch.inf
    for sparsity in (0.001, 0.5, 0.999):
        masks = Global().masks(scores, sparsity)
        assert masks["w0"][0, 0]
        assert not masks["w1"][3, 7]
        assert sum(int((~mask).sum()) for mask in masks.values()) == round(sparsity * 808)


@pytest.mark.parametrize(
    ("pattern", "shape", "final", "message"),
    [
        (NM(2, 4), (8, 6), 0.5, r"NM\(2, 4\) does not divide w of shape \(8, 6\)"),
        (NM(2, 4), (8,), 0.5, "does not divide w"),
        (NM(2, 4), (8, 8), 0.6, "means a sparsity of 0.5, not 0.6"),
        (Block(4, 4), (6, 8), 0.5, r"Block\(4, 4\) does not divide w of shape \(6, 8\)"),
        (Block(4, 4), (8,), 0.5, "does not divide w"),
    ],
)
def test_patterns_that_do_not_fit(pattern, shape, final, message):
    with pytest.raises(UsageError, match=message):
        Global(pattern).check({"w": shape}, final)


def test_patterns_that_make_no_sense():
    with pytest.raises(UsageError, match="0 < n < m"):
        NM(4, 4)
    with pytest.raises(UsageError, match="at least 1"):
        Block(0, 4)
