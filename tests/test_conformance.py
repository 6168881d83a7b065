"""One battery for every criterion of the registry: a new one joins by its name alone.

A criterion that has a NumPy transcription in ``reference`` is held against it as well.
"""

import loops
import numpy as np
import pytest
import reference
import torch
from loops import adamw, loss_of, net, ramp, same, through_a_file, train, weights

from prunella import NM, Block, Cubic, Fisher, Global, PerMatrix, Pruner, UsageError
from prunella.criteria import CRITERIA

REFERENCE = {
    "magnitude": reference.Magnitude,
    "sensitivity": lambda: reference.Sensitivity(smoothing=0.95),
    "fisher": reference.Fisher,
    "platon": reference.PLATON,
    "platon-released": reference.PLATONReleased,
    "pins": reference.PINS,
    "pins-signed": reference.PINSSigned,
    "pins-sgd": reference.PINSSgd,
    "pins-released": reference.PINSReleased,
}
STEPS = range(40)
every_criterion = pytest.mark.parametrize("name", CRITERIA)


def pruned(name, schedule=None, **options):
    """A model, its optimizer and a pruner of that name set to the schedule's sparsity."""
    schedule = schedule or ramp()
    return loops.pruned(CRITERIA[name]().aimed(schedule.final), schedule, **options)


def masks_of(pruner):
    return {name: mask.clone() for name, mask in pruner.masks.items()}


@every_criterion
@pytest.mark.parametrize("after", ["freeze", "reselect"])
@pytest.mark.parametrize("allocation", [Global(), PerMatrix()], ids=["global", "matrix"])
def test_counts_are_exact_at_every_selection(name, after, allocation):
    model, optimizer, pruner = pruned(name, ramp(after=after), allocation=allocation)
    selections, sparsity = [], 0.0

    def check(step):
        if not pruner.schedule.updates(step):
            return
        nonlocal sparsity
        selections.append(step)
        sparsity = pruner.schedule.sparsity(step)
        lost = [int((~mask).sum()) for mask in pruner.masks.values()]
        sizes = [mask.numel() for mask in pruner.masks.values()]
        if isinstance(allocation, PerMatrix):
            assert lost == [round(sparsity * size) for size in sizes]
        else:
            assert sum(lost) == round(sparsity * sum(sizes))

    train(model, optimizer, STEPS, check)
    frozen = [10, 15, 20, 25, 30, 31]
    assert selections == (frozen if after == "freeze" else [*frozen[:-1], *range(32, 40)])
    assert sparsity == 0.7


@every_criterion
def test_masks_change_at_selections_only(name):
    model, optimizer, pruner = pruned(name)
    history = []
    train(model, optimizer, STEPS, lambda step: history.append(masks_of(pruner)))
    assert all(mask.all() for mask in history[9].values())
    changed = [step for step in STEPS if step and not same(history[step], history[step - 1])]
    assert set(changed) <= {10, 15, 20, 25, 30, 31}
    assert 10 in changed


@every_criterion
def test_pruned_weights_are_zero_wherever_the_model_is_used(name):
    model, optimizer, pruner = pruned(name)
    seen = []

    def check(module, inputs):
        if pruner.hold or not module.training or pruner.schedule.frozen(pruner.step - 1):
            seen.append(module.training)
            parameters = dict(module.named_parameters())
            assert not any(parameters[n][~mask].any() for n, mask in pruner.masks.items())

    model.register_forward_pre_hook(check)

    def evaluate_and_save(step):
        model.eval()
        loss_of(model, step)
        model.train()
        saved = model.state_dict()
        assert not any(saved[n][~mask].any() for n, mask in pruner.masks.items())

    train(model, optimizer, STEPS, evaluate_and_save)
    assert seen.count(False) == len(STEPS)
    pruner.detach()
    train(model, optimizer, range(1))  # detached: nothing is held any more
    assert sum(int(p.count_nonzero()) for p in model.blocks.parameters()) > 384 * 0.3 + 40


@every_criterion
def test_evaluating_and_saving_do_not_disturb_training(name):
    model, optimizer, _ = pruned(name)
    train(model, optimizer, STEPS)

    disturbed, optimizer, pruner = pruned(name)

    def disturb(step):
        disturbed.eval()
        loss_of(disturbed, step)
        disturbed.train()
        disturbed.state_dict()
        pruner.state_dict()
        pruner.summary()

    train(disturbed, optimizer, STEPS, disturb)
    assert same(weights(model), weights(disturbed))


@every_criterion
def test_sparsity_zero_is_the_unpruned_run(name):
    dense = net()
    train(dense, adamw(dense), STEPS)
    model, optimizer, pruner = pruned(name, ramp(0.0))
    train(model, optimizer, STEPS)
    assert same(weights(model), weights(dense))
    assert pruner.sparsity == 0


@every_criterion
@pytest.mark.parametrize("stop", [3, 12, 20, 31, 36])
def test_resuming_equals_the_uninterrupted_run(name, stop):
    schedule = ramp(after="reselect" if "released" in name else "freeze")
    model, optimizer, pruner = pruned(name, schedule)
    train(model, optimizer, STEPS)

    first, first_optimizer, first_pruner = pruned(name, schedule)
    train(first, first_optimizer, range(stop))
    saved = [first.state_dict(), first_optimizer.state_dict(), first_pruner.state_dict()]
    for order in ((0, 1, 2), (2, 1, 0)):
        states = through_a_file(saved)
        second, second_optimizer, second_pruner = pruned(name, schedule, model=net(seed=7))
        for part in order:
            (second, second_optimizer, second_pruner)[part].load_state_dict(states[part])
        train(second, second_optimizer, range(stop, len(STEPS)))
        assert same(weights(second), weights(model))
        assert same(second_pruner.masks, pruner.masks)
        assert same(second_pruner.scores(), pruner.scores())


@every_criterion
def test_same_seed_same_masks(name):
    runs = []
    for _ in range(2):
        model, optimizer, pruner = pruned(name)
        train(model, optimizer, STEPS)
        runs.append(masks_of(pruner))
    assert same(*runs)


@every_criterion
def test_selecting_without_evidence_is_refused(name):
    model, optimizer, pruner = pruned(name)
    criterion = pruner.criterion
    with pytest.raises(UsageError, match=r"no evidence after 0 steps"):
        pruner.scores()
    train(model, optimizer, range(criterion.evidence + 1))
    assert pruner.scores().keys() == pruner.masks.keys()
    pruner.detach()
    if criterion.evidence:
        early = Cubic(0.5, begin=1, end=20, every=3)
        with pytest.raises(UsageError, match=r"window.*step 10.*first selected at step 3"):
            Pruner(model, optimizer, criterion, early)


@every_criterion
def test_patterns(name):
    for pattern, final in ((NM(2, 4), 0.5), (Block(4, 2), 0.75)):
        for scope in (Global, PerMatrix):
            model, optimizer, pruner = pruned(name, ramp(final), allocation=scope(pattern))
            train(model, optimizer, STEPS)
            for mask in pruner.masks.values():
                if isinstance(pattern, NM):
                    assert (mask.reshape(-1, 4).sum(1) == 2).all()
                else:
                    rows, columns = mask.shape
                    tiles = mask.reshape(rows // 4, 4, columns // 2, 2).float().mean((1, 3))
                    assert ((tiles == 0) | (tiles == 1)).all()
            assert pruner.sparsity == final


@every_criterion
def test_tied_frozen_and_gradientless_parameters(name):
    model = net(blocks=4)
    model.blocks[1].up.weight = model.blocks[0].up.weight  # tied: once
    model.blocks[2].up.weight.requires_grad_(False)  # frozen: left out and listed
    model.blocks[3].down.weight = model.head.weight = torch.nn.Parameter(torch.randn(8, 12))
    model.head = torch.nn.Linear(8, 3)
    model.idle = torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(4, 4))])  # no gradient
    before = model.blocks[2].up.weight.clone()
    model, optimizer, pruner = pruned(name, model=model)
    assert "blocks.1.up.weight" not in pruner.masks
    assert pruner.frozen == ["blocks.2.up.weight"]
    assert "idle.0.0.weight" in pruner.masks
    total = sum(mask.numel() for mask in pruner.masks.values())
    assert total == 96 * 6 + 16
    train(model, optimizer, STEPS)
    counts = pruner.summary().counts["prunable"]
    assert (counts.total, counts.nonzero) == (total, total - round(0.7 * total))
    assert torch.equal(model.blocks[2].up.weight, before)


@every_criterion
def test_bfloat16_weights(name):
    model, optimizer, pruner = pruned(name, model=net().bfloat16())
    train(model, optimizer, STEPS)
    lost = sum(int((p == 0).sum()) for n, p in model.named_parameters() if n in pruner.masks)
    assert lost == round(0.7 * 384)
    for tensors in pruner.state_dict()["scores"].values():
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


@every_criterion
def test_accumulation_counts_optimizer_steps(name):
    model, optimizer, pruner = pruned(name)
    for step in STEPS:
        optimizer.zero_grad()
        for micro in range(4):
            (loss_of(model, 4 * step + micro) / 4).backward()
        optimizer.step()
    assert pruner.step == len(STEPS)
    assert pruner.sparsity == pytest.approx(0.7, abs=0.5 / 384)


@every_criterion
@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
def test_steps_a_scaler_skips_do_not_count(name, fused):
    """A scale is a power of two, so a scaled run equals the plain one bit for bit."""

    def make(model):
        return adamw(model, fused=fused)

    plain, optimizer, plain_pruner = pruned(name, make=make)
    train(plain, optimizer, STEPS)

    model, optimizer, pruner = pruned(name, make=make)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6)
    for step in STEPS:
        if step in (0, 7, 10, 31):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step) * torch.inf).backward()
            scaler.step(optimizer)
            scaler.update()
            assert pruner.step == step
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert pruner.step == len(STEPS)
    assert same(weights(model), weights(plain))
    assert same(pruner.scores(), plain_pruner.scores())


@every_criterion
def test_nesterov_with_foreach_rewrites_gradients(name):
    if name == "fisher":
        pytest.skip("SGD keeps no second moment; see test_fisher_needs_adam")
    scores = []
    for foreach in (True, False):

        def make(model, foreach=foreach):
            return torch.optim.SGD(
                model.parameters(), lr=0.05, momentum=0.9, nesterov=True, foreach=foreach
            )

        model, optimizer, pruner = pruned(name, make=make, model=net().double())
        train(model, optimizer, STEPS)
        scores.append(pruner.scores())
    for parameter in scores[0]:
        torch.testing.assert_close(scores[0][parameter], scores[1][parameter])


@every_criterion
@pytest.mark.parametrize("optimizer_name", ["AdamW", "SGD"])
def test_scores_agree_with_the_transcription(name, optimizer_name):
    if name not in REFERENCE:
        pytest.skip("noise has no formula")
    if name == "fisher" and optimizer_name == "SGD":
        pytest.skip("SGD keeps no second moment; see test_fisher_needs_adam")

    def make(model):
        return getattr(torch.optim, optimizer_name)(model.parameters(), lr=0.01)

    model = net().double()
    optimizer = make(model)
    before, after, references = {}, {}, {}
    # Registered before the pruner's own hooks, so that it sees θ̂ before the masks.
    parameters = dict(model.named_parameters())
    optimizer.register_step_post_hook(
        lambda *_: after.update({n: p.detach().clone() for n, p in parameters.items()})
    )
    pruner = Pruner(model, optimizer, CRITERIA[name]().aimed(0.7), ramp())
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, len(STEPS))
    for step in STEPS:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        before = {n: p.detach().clone() for n, p in parameters.items()}
        gradients = {n: parameters[n].grad.clone() for n in pruner.masks}
        lr = scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()
        scores = pruner.scores() if step >= pruner.criterion.evidence else None
        for n in pruner.masks:
            oracle = references.setdefault(n, REFERENCE[name]())
            updated = after[n]
            if name in ("magnitude", "fisher"):  # these read the masked weight afterwards
                updated = parameters[n].detach()
            oracle.observe(step, before[n].numpy(), gradients[n].numpy(), updated.numpy(), lr)
            if scores is not None:
                np.testing.assert_allclose(scores[n].numpy(), oracle.score(), rtol=1e-9, atol=1e-30)


def test_fisher_needs_adam():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    Pruner(model, optimizer, Fisher(), ramp())
    with pytest.raises(UsageError, match=r"momentum_buffer.*use Adam"):
        train(model, optimizer, STEPS)
