"""Steps of optimizers that are not as usual, values that are not, and criteria that do not fit."""

import copy

import pytest
import torch
from loops import adamw, loss_of, net, pruned, ramp, same, train, weights
from torch import nn

from prunella import (
    L0,
    PINS,
    Criterion,
    Cubic,
    Magnitude,
    Movement,
    Pruner,
    SoftMovement,
    UsageError,
)
from prunella.prunable import find_prunable

METHODS = {"held": PINS, "free": PINS.released, "dormant": Movement, "gated": lambda: L0(0.7)}
every_method = pytest.mark.parametrize("method", METHODS)


def closure_of(model, optimizer, step):
    """What Lightning passes to an optimizer: it computes the gradients."""

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        return loss

    return closure


class Outer(torch.optim.AdamW):
    """Calls its parent's step, and clips before it in place."""

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.clamp_(-1e9, 1e9)
        super().step()
        return loss


KINDS = {
    "adamw": lambda m: adamw(m),
    "fused": lambda m: adamw(m, fused=True),
    "foreach": lambda m: adamw(m, foreach=True),
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    "outer": lambda m: Outer(m.parameters(), lr=1e-2, weight_decay=0.01),
}


# --- closures ------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_name", [True, False], ids=["keyword", "position"])
def test_closures_equal_the_plain_loop(method, kind, by_name):
    plain = pruned(METHODS[method](), make=KINDS[kind])
    train(*plain[:2], range(40))
    model, optimizer, pruner = pruned(METHODS[method](), make=KINDS[kind])
    for step in range(40):
        closure = closure_of(model, optimizer, step)
        loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        assert loss.requires_grad
    assert pruner.step == 40
    assert same(weights(model), weights(plain[0]))
    assert same(pruner.masks, plain[2].masks)


@pytest.mark.parametrize("name", ["ASGD", "Adagrad", "Adam", "NAdam", "RAdam", "RMSprop", "Rprop"])
def test_closures_of_torchs_other_optimizers(name):
    def make(model):
        return getattr(torch.optim, name)(model.parameters(), lr=1e-3)

    plain = pruned(Magnitude(), make=make)
    train(*plain[:2], range(32))
    model, optimizer, _ = pruned(Magnitude(), make=make)
    for step in range(32):
        optimizer.step(closure_of(model, optimizer, step))
    assert same(weights(model), weights(plain[0]))


def test_closures_that_a_pruner_cannot_follow():
    model = net()
    with pytest.raises(UsageError, match="LBFGS calls its closure several times"):
        Pruner(model, torch.optim.LBFGS(model.parameters()), PINS(), ramp())

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            closure()
            return super().step()

    class After(torch.optim.SGD):
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.data.mul_(0.9)
                torch._foreach_mul_([parameter], 0.9)
            return closure()

    class Never(torch.optim.SGD):
        def step(self, closure=None):
            return super().step()

    for kind, message in ((Twice, "more than once in"), (After, "after"), (Never, "did not call")):
        model, optimizer, _ = pruned(
            Magnitude(), make=lambda m, kind=kind: kind(m.parameters(), lr=0.01)
        )
        with (
            pytest.raises(UsageError, match=rf"{kind.__name__} .*{message}.*without"),
            torch.no_grad(),
        ):
            optimizer.step(torch.enable_grad()(closure_of(model, optimizer, 0)))


def test_a_closure_that_failed_does_not_take_the_next_step_along():
    model, optimizer, pruner = pruned(PINS())

    def fail():
        raise MemoryError

    for step in range(3):
        with pytest.raises(MemoryError):
            optimizer.step(fail)
        train(model, optimizer, range(step, step + 1))
    assert pruner.step == 3


# --- steps that failed ---------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("to_none", [True, False], ids=["gone", "in place"])
@pytest.mark.parametrize("kind", ["adamw", "outer"])
def test_after_a_step_that_raised_the_next_is_like_any_other(method, to_none, kind):
    def run(fails):
        model, optimizer, pruner = pruned(METHODS[method](), make=KINDS[kind])
        model.train()
        for step in range(40):
            optimizer.zero_grad(set_to_none=to_none)
            loss_of(model, step).backward()
            if step in fails:

                def fail(*_):
                    raise MemoryError

                hook = optimizer.register_step_pre_hook(fail)
                with pytest.raises(MemoryError):
                    optimizer.step()
                hook.remove()
            optimizer.step()
            assert pruner.step == step + 1
        return model, pruner

    plain, failed = run([]), run([0, 14, 25])
    assert failed[1].sparsity == pytest.approx(0.7, abs=0.002)
    if method != "dormant":  # scores are learned before a step that then fails
        assert {n: m.sum() for n, m in plain[1].masks.items()}.keys() == failed[1].masks.keys()
    for name, mask in failed[1].masks.items():
        assert not failed[0].get_parameter(name)[~mask].any()


def test_a_step_within_a_step_counts_once_however_often():
    class Inner(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            super().step()

    model, optimizer, pruner = pruned(Magnitude(), make=lambda m: Inner(m.parameters(), lr=0.01))
    train(model, optimizer, range(40))
    assert pruner.step == 40 and pruner.sparsity == pytest.approx(0.7, abs=0.002)


# --- values that are not finite ------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_pruned_weight_that_is_not_finite_is_zero(method, value):
    model, optimizer, pruner = pruned(METHODS[method]())
    train(model, optimizer, range(40))
    with torch.no_grad():
        for name, mask in pruner.masks.items():
            model.get_parameter(name)[~mask] = value
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, mask in pruner.masks.items():
        weight = model.get_parameter(name)
        assert torch.equal(weight[~mask], torch.zeros_like(weight[~mask]))
        assert not weight[~mask].signbit().any()
    assert loss_of(model.eval(), 0).isfinite()


@pytest.mark.parametrize("method", ["free", "dormant", "gated"])
def test_what_is_not_finite_beneath_a_mask_is_not_seen(method):
    """Between selections, when these weights are not zero themselves."""
    model, optimizer, pruner = pruned(METHODS[method]())
    train(model, optimizer, range(18))

    def spoil(*_):
        with torch.no_grad():
            for name, mask in pruner.masks.items():
                model.get_parameter(name)[~mask] = torch.inf

    hook = optimizer.register_step_post_hook(spoil)
    optimizer._optimizer_step_post_hooks.move_to_end(hook.id, last=False)
    optimizer.zero_grad()
    loss_of(model, 18).backward()
    optimizer.step()
    model.eval()
    loss_of(model, 0)
    state = model.state_dict()
    for name, mask in pruner.masks.items():
        assert not state[name][~mask].any() and state[name].isfinite().all()


@pytest.mark.parametrize("criterion", [Movement(), L0(0.7)], ids=repr)
def test_a_gradient_that_is_not_finite_does_not_reach_what_is_pruned(criterion):
    model, optimizer, pruner = pruned(criterion)
    train(model, optimizer, range(18))
    loss_of(model, 18).backward()
    for name, mask in pruner.masks.items():
        model.get_parameter(name).grad[~mask] = torch.nan
    pruner.criterion.__class__.gradient, kept = (
        (lambda *_: None),
        pruner.criterion.__class__.gradient,
    )
    try:
        optimizer.step()
    finally:
        pruner.criterion.__class__.gradient = kept
    beneath = pruner.state_dict()["beneath"]
    assert all(weight.isfinite().all() for weight in beneath.values())


# --- criteria and models that do not fit ---------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda w: w.sum(0), r"Odd\(\) for blocks\.0\.up\.weight is torch\.float32 \(8,\) on cpu"),
        (lambda w: w.t(), r"\(8, 12\) on cpu; it must be one float a weight, \(12, 8\)"),
        (lambda w: w > 0, r"torch\.bool"),
        (lambda w: w.long(), r"torch\.int64"),
        (lambda w: w.to("meta"), r"on meta"),
        (lambda w: None, "is None"),
        (lambda w: 1.0, r"is 1\.0"),
    ],
)
def test_scores_that_do_not_belong_to_the_weight(score, message):
    class Odd(Criterion):
        def score(self, view):
            return score(view.weight)

    model, optimizer, pruner = pruned(Odd())
    with pytest.raises(UsageError, match=message):
        train(model, optimizer, range(40))
    with pytest.raises(UsageError, match=message):
        pruner.scores()


@pytest.mark.parametrize("kind", [L0, SoftMovement])
def test_a_target_needs_no_name(kind):
    assert kind(0.8) == kind(target=0.8) == kind().aimed(0.8)
    model, optimizer, pruner = pruned(kind(0.7))
    train(model, optimizer, range(40))
    assert pruner.sparsity == pytest.approx(0.7, abs=0.002)
    with pytest.raises(UsageError, match=r"target=1\.5"):
        kind(1.5)


@every_method
def test_criteria_and_schedules_are_shared(method):
    """Two pruners with the same two objects know nothing of each other."""
    alone = pruned(METHODS[method]())
    train(*alone[:2], range(40))
    criterion, schedule = METHODS[method](), ramp()
    first, second = (pruned(criterion, schedule, model=net(seed)) for seed in (0, 1))
    for step in range(40):
        for trio in (first, second):
            train(*trio[:2], range(step, step + 1))
    assert same(weights(first[0]), weights(alone[0]))
    assert not same(first[2].masks, second[2].masks)
    fractions = Cubic(0.7)
    made = [pruned(criterion, fractions, model=net(), total_steps=n)[2] for n in (50, 100)]
    assert [p.schedule.end for p in made] == [35, 70]


def test_models_without_values_are_refused():
    model = net().to("meta")
    with pytest.raises(UsageError, match=r"blocks\.0\.up\.weight is on the meta device"):
        pruned(Magnitude(), model=model)


class Packed(torch.Tensor):
    """As the tensors of torchao, which say that they are floats."""


def test_quantised_models_are_refused():
    model = net()
    model.blocks[0].up.weight = nn.Parameter(
        torch.zeros(12, 8, dtype=torch.int8), requires_grad=False
    )
    assert "blocks.0.up.weight" in find_prunable(model)[1]
    for block in model.blocks:
        for layer in (block.up, block.down):
            layer.weight = nn.Parameter(
                torch.zeros(layer.weight.shape, dtype=torch.int8), requires_grad=False
            )
    with pytest.raises(UsageError, match=r"4 are frozen: quantised, so load the model in floats"):
        pruned(Magnitude(), model=model)
    model = net()
    weight = model.blocks[0].up.weight
    model.blocks[0].up.weight = nn.Parameter(weight.detach().as_subclass(Packed))
    with pytest.raises(UsageError, match=r"in a Packed, as quantised weights are"):
        pruned(Magnitude(), model=model)
    model = net()
    model.blocks[0].up.weight = nn.Parameter(weight.detach().to(torch.float8_e4m3fn))
    with pytest.raises(UsageError, match=r"is torch\.float8_e4m3fn"):
        pruned(Magnitude(), model=model)


def test_a_copy_within_a_step_is_of_a_pruner_at_rest():
    trio = pruned(PINS())
    copies = []
    hook = trio[1].register_step_post_hook(lambda *_: copies.append(copy.deepcopy(trio)))
    train(*trio[:2], range(1))
    hook.remove()
    train(*copies[0][:2], range(1, 20))
    assert copies[0][2].step == 20
