"""A model that was pruned before is pruned on: what is zero stays zero, and is counted in."""

import copy
import shutil

import families
import loops
import numpy as np
import pytest
import reference
import torch
from loops import loss_of, net, ramp, same, through_a_file, train, weights
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

import prunella
from prunella import (
    L0,
    NM,
    PINS,
    Block,
    Constant,
    Cubic,
    Global,
    Magnitude,
    Movement,
    OneShot,
    PerMatrix,
    Pruner,
    SoftMovement,
    UsageError,
    masks_from,
)
from prunella import allocation as room
from prunella.criteria import CRITERIA
from prunella.hf import PruningCallback
from prunella.prunable import find_prunable

STEPS = range(40)
TOTAL = 384  # prunable weights of the net
every_criterion = pytest.mark.parametrize("name", CRITERIA)


def drawn(sparsity=0.4, model=None, seed=3):
    """Masks that keep a random choice of each matrix, of one more than of another."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for index, (name, p) in enumerate(find_prunable(model or net())[0].items()):
        here = sparsity + (0.2 if index % 2 else -0.2)
        order = torch.rand(p.parameter.numel(), generator=generator).argsort()
        masks[name] = (order >= round(here * len(order))).view(p.parameter.shape)
    return masks


def pruned(name, schedule=None, **options):
    """A model, its optimizer and a pruner of that name that starts from masks."""
    schedule = schedule or ramp()
    criterion = CRITERIA[name]().aimed(schedule.final)
    return loops.pruned(criterion, schedule, **{"masks": drawn()} | options)


def lost(masks):
    return sum(int((~mask).sum()) for mask in masks.values())


def assert_held(tensors, masks):
    assert not any(tensors[name][~mask].any() for name, mask in masks.items())


@every_criterion
@pytest.mark.parametrize("allocation", [Global(), PerMatrix()], ids=["global", "matrix"])
def test_they_are_pruned_wherever_the_model_is_used_and_counted_in(name, allocation):
    masks = drawn()
    model, optimizer, pruner = pruned(name, allocation=allocation)
    given = lost(masks)
    assert_held(dict(model.named_parameters()), masks)  # at once
    assert pruner.sparsity == pytest.approx(given / TOTAL)
    assert pruner.summary().counts["prunable"].nonzero == TOTAL - given
    seen = []

    def look(module, inputs):
        seen.append(module.training)
        assert_held(dict(module.named_parameters()), masks)

    model.register_forward_pre_hook(look)
    expected = {n: int((~mask).sum()) for n, mask in masks.items()}

    def check(step):
        model.eval()
        loss_of(model, step)
        model.train()
        assert_held(model.state_dict(), masks)
        if pruner.schedule.updates(step):
            asked = pruner.schedule.sparsity(step)
            if isinstance(allocation, PerMatrix):
                for n, mask in masks.items():
                    expected[n] = max(int((~mask).sum()), round(asked * mask.numel()))
                assert {n: int((~m).sum()) for n, m in pruner.masks.items()} == expected
            else:
                assert lost(pruner.masks) == max(given, round(asked * TOTAL))
        assert not any((mask & ~masks[n]).any() for n, mask in pruner.masks.items())

    train(model, optimizer, STEPS, check)
    assert seen.count(True) == seen.count(False) == len(STEPS)
    pruner.detach()
    assert_held(dict(model.named_parameters()), masks)


@every_criterion
@pytest.mark.parametrize("stop", [5, 20, 36])
def test_resuming_equals_the_uninterrupted_run(name, stop):
    model, optimizer, pruner = pruned(name)
    train(model, optimizer, STEPS)
    first, first_optimizer, first_pruner = pruned(name)
    train(first, first_optimizer, range(stop))
    saved = [first.state_dict(), first_optimizer.state_dict(), first_pruner.state_dict()]
    for order in ((0, 1, 2), (2, 1, 0)):
        states = through_a_file(saved)
        second, second_optimizer, second_pruner = pruned(name, model=net(seed=7))
        for part in order:
            (second, second_optimizer, second_pruner)[part].load_state_dict(states[part])
        train(second, second_optimizer, range(stop, len(STEPS)))
        assert same(weights(second), weights(model))
        assert same(second_pruner.masks, pruner.masks)


@pytest.mark.parametrize("name", ["pins", "pins-released", "movement", "l0"])
def test_a_copy_goes_on_alike(name):
    model, optimizer, pruner = pruned(name)
    train(model, optimizer, range(14))
    other, its_optimizer, twin = copy.deepcopy((model, optimizer, pruner))
    for m, o in ((model, optimizer), (other, its_optimizer)):
        train(m, o, range(14, 40))
    assert same(weights(model), weights(other)) and same(pruner.masks, twin.masks)


@every_criterion
@pytest.mark.parametrize("final", [0.4005, 0.401, 0.4015])
def test_a_final_sparsity_as_near_as_rounding_keeps_the_very_masks(name, final):
    """Also from the first step on, when no criterion has evidence yet."""
    masks = drawn()
    assert lost(masks) / TOTAL == pytest.approx(0.401, abs=1e-4)
    for schedule in (OneShot(final, begin=0), Constant(final, 0, 20), Cubic(final, 0, 20, every=1)):
        model, optimizer, pruner = pruned(name, schedule)
        train(model, optimizer, range(25))
        assert same(pruner.masks, masks)
        assert pruner.summary().counts["prunable"].nonzero == TOTAL - lost(masks)


@every_criterion
def test_masks_that_remove_nothing_change_nothing(name):
    model, optimizer, _ = loops.pruned(CRITERIA[name]().aimed(0.7))
    train(model, optimizer, STEPS)
    everything = {n: torch.ones_like(mask) for n, mask in drawn().items()}
    for masks in ({}, everything):
        other, its_optimizer, _ = pruned(name, masks=masks)
        train(other, its_optimizer, STEPS)
        assert same(weights(other), weights(model))


@pytest.mark.parametrize(
    "criterion", [SoftMovement(threshold=0.4, penalty=5.0), L0(penalty=2.0)], ids=repr
)
def test_where_sparsity_is_an_outcome(criterion):
    masks = drawn()

    def fast(model):
        return torch.optim.AdamW(model.parameters(), lr=1e-2)

    model, optimizer, pruner = loops.pruned(
        criterion, Cubic(0.1, begin=0, end=150), make=fast, masks=masks
    )

    def check(step):
        assert_held(model.state_dict(), masks)
        assert not any((mask & ~masks[n]).any() for n, mask in pruner.masks.items())

    train(model, optimizer, range(160), check)
    assert lost(pruner.masks) > lost(masks)


@every_criterion
def test_patterns(name):
    """Masks of a pattern are pruned on in it; N:M ends with its very count in every group."""
    model = net()
    halves = {n: p.parameter for n, p in find_prunable(model)[0].items()}
    one_of_four = {n: torch.ones_like(w, dtype=torch.bool) for n, w in halves.items()}
    for mask in one_of_four.values():
        mask[:, ::4] = False
    model, optimizer, pruner = pruned(
        name, ramp(0.5), allocation=Global(NM(2, 4)), masks=one_of_four
    )
    train(model, optimizer, STEPS)
    for n, mask in pruner.masks.items():
        assert (mask.reshape(-1, 4).sum(1) == 2).all() and not mask[~one_of_four[n]].any()

    tiles = {n: torch.ones_like(w, dtype=torch.bool) for n, w in halves.items()}
    for mask in tiles.values():
        mask[4:, :4] = False
    model, optimizer, pruner = pruned(
        name, ramp(0.75), allocation=PerMatrix(Block(4, 2)), masks=tiles
    )
    train(model, optimizer, STEPS)
    for n, mask in pruner.masks.items():
        rows, columns = mask.shape
        means = mask.reshape(rows // 4, 4, columns // 2, 2).float().mean((1, 3))
        assert ((means == 0) | (means == 1)).all() and not mask[~tiles[n]].any()
    assert pruner.sparsity == 0.75


@pytest.mark.parametrize("allocation", [Global(), PerMatrix()], ids=["global", "matrix"])
def test_what_is_selected_beside_them_are_the_lowest_scores(allocation):
    masks = drawn()
    model, optimizer, pruner = pruned("pins", allocation=allocation)

    def check(step):
        if pruner.schedule.updates(step):
            scores = {n: s.double().numpy() for n, s in pruner.scores().items()}
            for n, mask in masks.items():
                scores[n][~mask.numpy()] = -np.inf
            select = (
                reference.select_per_matrix
                if isinstance(allocation, PerMatrix)
                else reference.select_global
            )
            expected = select(scores, pruner.schedule.sparsity(step))
            known = {n: torch.from_numpy(m) & masks[n] for n, m in expected.items()}
            assert same(pruner.masks, known)

    train(model, optimizer, STEPS, check)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_lowest_possible_scores_go_first_among_many(share, monkeypatch):
    """The allocation guesses its cut from a sample, in which many scores may be -inf."""
    monkeypatch.setattr(room, "_STRIDE", 37)
    generator = torch.Generator().manual_seed(0)
    scores = {n: torch.randn(200, 150, generator=generator) for n in ("a", "b", "c")}
    for score in scores.values():
        score[torch.rand(score.shape, generator=generator) < share] = -torch.inf
    flat = torch.cat([score.flatten() for score in scores.values()])
    ranks = flat.flip(0).argsort(stable=True)
    least = int((flat == -torch.inf).sum())
    for count in (1, least - 1, least, least + 1, (least + len(flat)) // 2, len(flat) - 1):
        kept = torch.ones_like(flat, dtype=torch.bool)
        kept[len(flat) - 1 - ranks[:count]] = False
        masks = Global().masks(scores, count / len(flat))
        assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), kept)


def test_an_earlier_pruner_leaves_nothing_behind():
    """It gives its gated weights back when it is detached, and those are masked all the same."""
    model, optimizer, _ = loops.pruned(L0(target=0.7))
    train(model, optimizer, range(13))
    masks = drawn()
    _, other, _ = loops.pruned(PINS(), model=model, masks=masks)
    assert_held(dict(model.named_parameters()), masks)
    train(model, other, STEPS)


def test_replaced_parameters_are_masked_too():
    masks = drawn()
    model, optimizer, pruner = loops.pruned(Movement(), masks=masks)
    for block in model.blocks:
        block.up.weight = nn.Parameter(torch.randn_like(block.up.weight))
    optimizer.param_groups[0]["params"] = list(model.parameters())
    pruner.summary()
    assert_held(dict(model.named_parameters()), masks)
    train(model, optimizer, STEPS)
    assert lost(pruner.masks) == round(0.7 * TOTAL)


def test_parameters_without_a_mask_are_whole():
    (name, mask), *_ = drawn().items()
    *_, pruner = loops.pruned(Magnitude(), masks={name: mask})
    assert lost(pruner.masks) == int((~mask).sum())


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"head.weight": torch.ones(3, 8).bool()}, {}, "'head.weight', which is not pruned here"),
        ({"blocks.0.up.weight": torch.ones(8, 12).bool()}, {}, r"\(8, 12\), but the parameter"),
        ({"blocks.0.up.weight": torch.ones(12, 8)}, {}, "is torch.float32"),
        ({}, {"schedule": ramp(0.3)}, r"remove 0\.4010 .* ends at 0\.3; let it end at 0\.4010"),
        ({}, {"schedule": ramp(0.0)}, "ends at 0.0"),
        ({}, {"schedule": ramp(0.5), "allocation": Global(NM(2, 4))}, r"is none of NM\(n=2, m=4\)"),
        ({}, {"allocation": Global(Block(4, 2))}, r"is none of Block\(h=4, w=2\)"),
    ],
)
def test_masks_that_do_not_fit_are_named(change, options, message):
    with pytest.raises(UsageError, match=message):
        loops.pruned(Magnitude(), **{"masks": drawn() | change} | options)


def test_a_state_of_other_masks_is_refused():
    states = [pruned("pins", masks=m)[2].state_dict() for m in (drawn(), drawn(seed=4), None)]
    *_, pruner = pruned("pins")
    pruner.load_state_dict(states[0])
    for state in states[1:]:
        with pytest.raises(UsageError, match=r"saved with masks Given\(.*the pruner has Given\("):
            pruner.load_state_dict(state)


def test_a_trainer_takes_them_and_resumes_with_them(tmp_path):
    def run(folder, **options):
        model = families.build("bert", AutoModelForSequenceClassification)
        masks = drawn(model=model)
        schedule = Cubic(0.7, begin=2, end=18, every=2)
        callback = PruningCallback(Movement(), schedule, masks=masks, parameters=["layer.*"])
        arguments = TrainingArguments(
            str(folder),
            max_steps=24,
            save_steps=12,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train(**options)
        assert_held(model.state_dict(), masks)
        return model.state_dict(), callback.pruner

    rows = [{"input_ids": torch.tensor([2, n, n + 1, 3]), "labels": n % 2} for n in range(5, 69)]
    whole, pruner = run(tmp_path)
    total = sum(mask.numel() for mask in pruner.masks.values())
    assert lost(pruner.masks) == round(0.7 * total)
    resumed, twin = run(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-12"))
    assert same(whole, resumed) and same(pruner.masks, twin.masks)


# --- from a folder -------------------------------------------------------------------------------


def checkpoint(name, folder, sparsity=0.8):
    """A pruned checkpoint of a family, with the masks it was pruned with."""
    model = families.build(name, families.FAMILIES[name].auto)
    masks = drawn(sparsity, model)
    with torch.no_grad():
        for key, mask in masks.items():
            model.get_parameter(key).mul_(mask)  # leaves -0.0 as well
    model.save_pretrained(folder / "dense")
    with pytest.warns(UserWarning, match="are -0.0"):
        prunella.save(model, folder / "sparse")
    return masks


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "t5", "albert"])
def test_masks_of_a_folder(name, tmp_path):
    masks = checkpoint(name, tmp_path)
    model = families.build(name, AutoModelForSequenceClassification)  # of another head
    own = set(find_prunable(model)[0])
    prefix = f"{model.base_model_prefix}."
    known = {next(n for n in (key, prefix + key) if n in own): mask for key, mask in masks.items()}
    for form in ("dense", "sparse"):
        found = masks_from(tmp_path / form, model)
        assert same(found, known)
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = Pruner(model, optimizer, Magnitude(), OneShot(0.8, begin=0), masks=found)
    assert same(pruner.masks, found)


def test_masks_of_what_is_chosen(tmp_path):
    checkpoint("bert", tmp_path)
    model = families.build("bert", AutoModelForMaskedLM)
    found = masks_from(tmp_path / "dense", model, ["query", "key"], include_embeddings=True)
    assert len(found) == 4 + 3
    words = found["bert.embeddings.word_embeddings.weight"]
    assert not words[0].any() and words[1:].all()  # the padding token's row is zero


def test_folders_that_give_no_masks(tmp_path):
    checkpoint("bert", tmp_path)
    model = families.build("bert", AutoModelForMaskedLM)
    model.save_pretrained(tmp_path / "whole")
    with pytest.raises(UsageError, match=r"no weight to prune is zero in .*whole"):
        masks_from(tmp_path / "whole", model)
    other = families.build("roberta", AutoModelForMaskedLM)
    with pytest.raises(UsageError, match=r"lacks roberta\.encoder.* and 11 more"):
        masks_from(tmp_path / "dense", other)
    wider = families.build("bert", AutoModelForMaskedLM)
    wider.bert.encoder.layer[0].output.dense = nn.Linear(60, 32)
    with pytest.raises(UsageError, match=r"lacks bert\.encoder\.layer\.0\.output.* and 0 more"):
        masks_from(tmp_path / "dense", wider)
    shutil.rmtree(tmp_path / "dense")
    with pytest.raises(UsageError, match="there is no folder"):
        masks_from(tmp_path / "dense", model)
