"""What the pruner does beside its method: attaching, looking, refusing."""

import subprocess
import sys

import pytest
import torch
from loops import adamw, batch, loss_of, net, pruned, ramp, same, train, weights
from torch import nn

from prunella import (
    NM,
    PINS,
    Criterion,
    Diverged,
    Fisher,
    Global,
    Magnitude,
    OneShot,
    Pruner,
    Random,
    Sensitivity,
    UsageError,
)
from prunella.criteria import CRITERIA, named
from prunella.prunable import find_prunable

PRUNED = [f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in ("up", "down")]


def test_import_needs_torch_alone():
    heavy = ("transformers", "datasets", "tyro", "rich", "yaml", "torchmetrics", "numpy.testing")
    code = f"""
import sys
for name in {heavy!r}:
    sys.modules[name] = None
import prunella
prunella.Pruner, prunella.PINS.released()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_default_choice_is_the_linears_in_repeated_blocks():
    assert list(find_prunable(net())[0]) == PRUNED
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert list(find_prunable(plain)[0]) == ["0.weight", "2.weight"]
    assert list(find_prunable(nn.Linear(4, 2))[0]) == ["weight"]
    stack = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])
    assert list(find_prunable(nn.Sequential(stack, nn.Linear(4, 2)))[0]) == [
        "0.0.0.weight",
        "0.1.0.weight",
    ]


def test_parameters_are_chosen_by_name_and_pattern():
    def chosen(*patterns, **options):
        return list(find_prunable(net(), patterns, **options)[0])

    assert chosen("blocks.0.*", "head.weight") == [*PRUNED[:2], "head.weight"]
    assert chosen("*table*") == ["table.weight"]
    assert chosen("blocks.0.up.*", include_biases=True) == [
        "blocks.0.up.weight",
        "blocks.0.up.bias",
    ]
    assert list(find_prunable(net(), "head.weight")[0]) == ["head.weight"]
    with pytest.raises(UsageError, match=r"'encoder\.\*' match no matrix of Net"):
        chosen("encoder.*", "head.weight")


def test_wrapped_models_keep_their_own_names():
    model = net()
    wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
    pruner = Pruner(wrapped, adamw(model), Magnitude(), ramp())
    assert list(pruner.masks) == PRUNED


def test_conv1d_groups_run_along_its_inputs():
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = nn.ModuleList([nn.Sequential(conv1d(12, 8), conv1d(8, 12)) for _ in range(2)])

        def forward(self, x):
            for block in self.h:
                x = block(x)
            return x

    torch.manual_seed(0)
    model = GPT()
    optimizer = adamw(model)
    pruner = Pruner(model, optimizer, PINS(), OneShot(0.5, begin=12), Global(NM(2, 4)))
    for step in range(13):
        optimizer.zero_grad()
        model(batch(step)[0].float().repeat(1, 2)[:, :8]).square().mean().backward()
        optimizer.step()
    for name, mask in pruner.masks.items():
        weight = model.get_parameter(name)  # [in, out]
        assert mask.shape == weight.shape
        assert (mask.reshape(-1, 4, mask.shape[1]).sum(1) == 2).all()
        assert not weight[~mask].any()


def test_summary_counts_three_scopes():
    model, optimizer, pruner = pruned(Magnitude())
    train(model, optimizer, range(40))
    summary = pruner.summary()
    lost = round(0.7 * 384)
    everything = sum(p.numel() for p in model.parameters())
    assert summary.step == 40
    assert (summary.counts["prunable"].nonzero, summary.counts["prunable"].total) == (
        384 - lost,
        384,
    )
    assert summary.counts["model"].total == everything
    assert summary.counts["model"].nonzero == everything - lost
    assert summary.counts["backbone"].total == everything - model.table.weight.numel()
    assert f"{384 - lost:,}" in str(summary)
    assert "69.97%" not in str(summary)
    assert f"{lost / 384:.2%}" in str(summary)


def test_free_weights_regrow_and_held_ones_do_not():
    for hold in (True, False):
        model, optimizer, pruner = pruned(Magnitude(), hold=hold)
        train(model, optimizer, range(13))  # selected at step 10; 11 and 12 are between
        nonzero = sum(
            int(model.get_parameter(n)[~m].count_nonzero()) for n, m in pruner.masks.items()
        )
        assert (nonzero == 0) is hold
        if not hold:
            grown = {n: model.get_parameter(n).clone() for n in pruner.masks}
            saved = weights(model)
            assert not any(saved[n][~m].any() for n, m in pruner.masks.items())
            model.train()
            loss_of(model, 13)
            assert same(grown, {n: model.get_parameter(n).detach() for n in pruner.masks})


def test_detaching_leaves_a_plain_pruned_model():
    model, optimizer, pruner = pruned(CRITERIA["pins-released"]())
    train(model, optimizer, range(13))
    pruner.detach()
    assert pruner.step == 13
    for name, mask in pruner.masks.items():
        assert not model.get_parameter(name)[~mask].any()
    for hooks in (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        model._forward_pre_hooks,
        model._state_dict_pre_hooks,
    ):
        assert not hooks
    Pruner(model, optimizer, Magnitude(), ramp())  # and the optimizer is free again


def test_the_optimizer_must_fit():
    model = net()
    with pytest.raises(
        UsageError, match=r"lacks 4 of the 4 prunable parameters, blocks\.0\.up\.weight"
    ):
        Pruner(model, adamw(net()), Magnitude(), ramp())
    with pytest.raises(UsageError, match=r"LambdaLR is no torch\.optim optimizer"):
        scheduler = torch.optim.lr_scheduler.LambdaLR(adamw(model), lambda _: 1.0)
        scheduler.optimizer = None
        Pruner(model, scheduler, Magnitude(), ramp())


def test_an_optimizer_takes_one_pruner():
    model, optimizer, _ = pruned(Magnitude())
    with pytest.raises(UsageError, match="already has a pruner"):
        Pruner(model, optimizer, Magnitude(), ramp())


def test_nothing_to_prune():
    model = net()
    for parameter in model.blocks.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(UsageError, match=r"Net has no prunable parameters.*4 are frozen"):
        Pruner(model, adamw(model), Magnitude(), ramp())
    with pytest.raises(UsageError, match="LayerNorm has no prunable"):
        find_prunable(nn.LayerNorm(4))


def test_patterns_and_lengths_are_checked_before_training():
    model = net()
    with pytest.raises(UsageError, match=r"means a sparsity of 0\.5, not 0\.7"):
        Pruner(model, adamw(model), Magnitude(), ramp(0.7), Global(NM(2, 4)))
    with pytest.raises(UsageError, match="length is not known"):
        Pruner(model, adamw(model), Magnitude(), type(ramp())(0.5))
    pruner = Pruner(model, adamw(model), Magnitude(), type(ramp())(0.5), total_steps=100)
    assert (pruner.schedule.begin, pruner.schedule.end) == (10, 70)


def test_scores_that_are_not_finite_stop_the_run():
    model, optimizer, _ = pruned(Magnitude())

    def poison(step):
        if step == 11:
            with torch.no_grad():
                model.blocks[1].up.weight[0, 0] = torch.nan

    with pytest.raises(Diverged, match=r"step 15: the scores of blocks\.0\.\w+\.weight"):
        train(model, optimizer, range(40), poison)


def test_a_foreign_state_is_refused():
    *_, pruner = pruned(Magnitude())
    state = pruner.state_dict()
    _, _, other = pruned(PINS())
    with pytest.raises(
        UsageError, match=r"saved with criterion Magnitude\(\), the pruner has PINS"
    ):
        other.load_state_dict(state)
    _, _, wider = pruned(Magnitude(), model=net(hidden=16))
    with pytest.raises(UsageError, match="saved for other parameters"):
        wider.load_state_dict(state)


def test_a_method_needs_its_score_alone():
    class Largest(Criterion):
        """The weight itself, sign and all."""

        def score(self, view):
            return view.weight

    model, optimizer, pruner = pruned(Largest(), OneShot(0.5, begin=3))
    train(model, optimizer, range(4))
    assert sum(int((~mask).sum()) for mask in pruner.masks.values()) == 192


def test_unknown_criteria_come_with_the_nearest_names():
    with pytest.raises(UsageError, match=r"unknown criterion 'magnitud': did you mean magnitude"):
        named("magnitud")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PINS(beta1=1.0), "beta1=1.0"),
        (lambda: PINS.released(beta2=-1), "beta2=-1"),
        (lambda: PINS(window=0), "window=0"),
        (lambda: PINS(smoothing=0.5), r"belongs to PINS\(signed=True\)"),
        (lambda: PINS(update="adam"), "update='adam'"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_head_is_left_when_embeddings_are_tied():
    model = net(width=12, hidden=20)
    model.blocks[0].up.weight = model.table.weight  # 20 x 12: an output layer, as it were
    assert "blocks.0.up.weight" not in find_prunable(model)[0]
    assert "blocks.0.up.weight" not in dict(model.named_parameters())


def test_random_choices_depend_on_the_seed():
    masks = []
    for seed in (0, 1, 2**40):
        model, optimizer, pruner = pruned(Random(seed))
        train(model, optimizer, range(40))
        masks.append(pruner.masks)
    assert not same(masks[0], masks[1])
    assert not same(masks[1], masks[2])


@pytest.mark.parametrize("criterion", [PINS(), Sensitivity(), Fisher()], ids=repr)
def test_parameters_that_no_gradient_reaches_are_not_chosen_from_by_position(criterion):
    model = net()
    model.idle = nn.ModuleList([nn.Sequential(nn.Linear(4, 4))])
    model, optimizer, _ = pruned(criterion, model=model, parameters=["idle.*"])
    with pytest.raises(UsageError, match="is zero at step 10: no gradient has reached"):
        train(model, optimizer, range(40))


def test_fisher_on_plain_sgd():
    model, optimizer, _ = pruned(Fisher(), make=lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    with pytest.raises(UsageError, match=r"the optimizer keeps nothing.*use Adam"):
        train(model, optimizer, range(40))


def test_parts_of_a_free_model_are_masked_too():
    """A part may be evaluated or saved alone, and an outer module may never be called itself."""
    model, optimizer, pruner = pruned(PINS.released())
    train(model, optimizer, range(13))
    mask = pruner.masks["blocks.0.up.weight"]
    saved = model.blocks[0].state_dict()
    assert not saved["up.weight"][~mask].any()
    train(model, optimizer, range(13, 14))
    assert model.blocks[0].up.weight[~mask].any()
    model.eval()
    model.blocks[0](torch.randn(2, 8))
    assert not model.blocks[0].up.weight[~mask].any()


def test_a_loaded_model_is_masked_when_evaluated():
    model, optimizer, pruner = pruned(PINS.released())
    train(model, optimizer, range(13))
    pruner.summary()
    model.load_state_dict(net(seed=5).state_dict())
    model.eval()
    loss_of(model, 0)
    assert not any(model.get_parameter(n)[~m].any() for n, m in pruner.masks.items())


def test_a_detached_pruner_leaves_the_model_alone():
    for criterion in (Magnitude(), PINS.released()):
        model, optimizer, pruner = pruned(criterion)
        train(model, optimizer, range(40))
        pruner.detach()
        train(model, optimizer, range(40, 42))
        before = weights(model)
        pruner.summary()
        pruner.state_dict()
        pruner.detach()
        assert same(before, weights(model))


def test_a_subclass_that_calls_its_parents_step_counts_once():
    class Mine(torch.optim.AdamW):
        def step(self, closure=None):
            return super().step(closure)

    plain, optimizer, plain_pruner = pruned(PINS())
    train(plain, optimizer, range(40))
    model, optimizer, pruner = pruned(
        PINS(), make=lambda m: Mine(m.parameters(), lr=1e-2, weight_decay=0.01)
    )
    train(model, optimizer, range(40))
    assert pruner.step == plain_pruner.step == 40
    assert same(weights(model), weights(plain))


def test_a_users_criterion_can_be_resumed():
    class Largest(Criterion):
        def score(self, view):
            return view.weight

    *_, first = pruned(Largest())
    *_, second = pruned(Largest())
    second.load_state_dict(first.state_dict())
    *_, free = pruned(Largest(), hold=False)
    with pytest.raises(UsageError, match="saved with hold True, the pruner has False"):
        free.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PINS, ramp()), "criterion=.* is no Criterion"),
        ((PINS(), 0.9), r"schedule=0\.9 is no Schedule; give one, such as Cubic"),
        ((PINS(), ramp(), NM(2, 4)), r"allocation=NM\(n=2, m=4\) is no Global"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments, message):
    model = net()
    with pytest.raises(UsageError, match=message):
        Pruner(model, adamw(model), *arguments)


def test_repeated_blocks_in_a_sequence_leave_the_head_alone():
    def block():
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    head = nn.ModuleDict({"out": nn.Linear(4, 2)})
    assert list(find_prunable(nn.Sequential(block(), block(), head))[0]) == [
        "0.0.weight",
        "1.0.weight",
    ]
