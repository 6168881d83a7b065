"""Movement pruning and its relatives: recordings, a twin with masked layers, targets, gates."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from loops import loss_of, net, pruned, ramp, same, train, weights
from recordings import recording
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from prunella import (
    L0,
    PINS,
    Constant,
    Cubic,
    Diverged,
    Movement,
    Pruner,
    Sensitivity,
    SoftMovement,
    UsageError,
)

# --- recordings of the released implementation --------------------------------------------------


@dataclass(frozen=True)
class Recorded(Cubic):
    """The recorded thresholds, as the sparsity after each step."""

    values: tuple[float, ...] = ()

    def sparsity(self, step):
        return self.values[min(step + 1, len(self.values) - 1)]

    def updates(self, step):
        return True


@dataclass(frozen=True, kw_only=True)
class ConstantPenalty(SoftMovement):
    """The recordings' penalty does not grow with the threshold."""

    def gradient(self, view):
        view.progress = 1.0
        return super().gradient(view)


@dataclass(frozen=True, kw_only=True)
class Injected(L0):
    """L0 with recorded noise."""

    noise: object = None

    def uniform(self, view):
        return torch.from_numpy(self.noise[view.step]).clamp(1e-4, 1 - 1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["movement_hard", "movement_soft", "l0"])
def test_recordings_are_reproduced(method, optimizer):
    data = recording(f"{method}_{optimizer}")
    thresholds = data["step/threshold"].tolist()
    settings = {"lr": 1.0 if optimizer == "sgd" else 1e-2, "optimizer": optimizer}
    if method == "movement_hard":
        criterion = Movement(**settings)
        kept = [int(t * 120) for t in thresholds]  # released: int(), where ours rounds
        schedule = Recorded(0.8, 0, 1000, values=tuple(1 - k / 120 for k in kept))
    elif method == "movement_soft":
        criterion = ConstantPenalty(threshold=0.1, penalty=2.0, **settings)
        schedule = Recorded(0.8, 0, 1000, values=tuple(8 * t for t in thresholds))
    else:
        criterion = Injected(penalty=2.0, noise=data["step/u"], **settings)
        schedule = Constant(0.8, begin=0, end=1000)
    layer = nn.Linear(12, 10)
    layer.load_state_dict({n: torch.from_numpy(data[f"init/{n}"]) for n in ("weight", "bias")})
    weights = torch.optim.SGD(layer.parameters(), lr=5e-2)
    pruner = Pruner(layer, weights, criterion, schedule)
    for step in range(len(thresholds)):
        weights.zero_grad()
        inputs, upstream = (torch.from_numpy(data[f"step/{n}"][step]) for n in ("x", "gy"))
        (layer(inputs) * upstream).sum().backward()
        weights.step()
        state = pruner.state_dict()
        for ours, theirs in (
            (state["beneath"]["weight"], "weight"),
            (state["scores"]["weight"]["score"], "score"),
        ):
            recorded = data[f"step/{theirs}"][step]
            np.testing.assert_allclose(ours.detach().numpy(), recorded, rtol=2e-5, atol=2e-6)


# --- the same method with masked layers ---------------------------------------------------------


class Through(torch.autograd.Function):
    """W·f forward; backward the weight gets g·f, and what f was made of gets g·W."""

    @staticmethod
    def forward(ctx, weight, score, factor):
        ctx.save_for_backward(weight, factor)
        return weight * factor

    @staticmethod
    def backward(ctx, gradient):
        weight, factor = ctx.saved_tensors
        return gradient * factor, gradient * weight, None


class Masked(nn.Module):
    """A linear layer with a score for every weight."""

    def __init__(self, linear, start):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.score = nn.Parameter(torch.full_like(linear.weight, start))
        self.register_buffer("mask", torch.ones_like(linear.weight))
        self.noise, self.seen = None, torch.zeros_like(linear.weight)

    def forward(self, x):
        gate = self.score
        if self.noise is not None:
            concrete = ((torch.logit(self.noise) + self.score) / (2 / 3)).sigmoid()
            gate = (concrete * 1.2 - 0.1).clamp(0, 1)
        factor = self.mask if self.noise is None else gate.detach() * self.mask
        effective = Through.apply(self.weight, gate, factor)
        if effective.requires_grad:
            effective.register_hook(self._see)
        return nn.functional.linear(x, effective, self.bias)

    def _see(self, gradient):
        self.seen += gradient


def twin_of(criterion, make, schedule, steps, accumulate):
    """Train the masked model as the user would write it down; its state and the layers."""
    model = net().double()
    start = 2.197 if isinstance(criterion, L0) else 0.0
    layers = {}
    for index, block in enumerate(model.blocks):
        for side in ("up", "down"):
            layers[f"blocks.{index}.{side}.weight"] = Masked(getattr(block, side), start)
            setattr(block, side, layers[f"blocks.{index}.{side}.weight"])
    scores = [layer.score for layer in layers.values()]
    others = [p for p in model.parameters() if not any(p is s for s in scores)]
    optimizer = make(others)
    learner = torch.optim.AdamW(scores, lr=criterion.lr, weight_decay=0.0)
    schedulers = [LambdaLR(o, lambda t: 0.5 + 0.5 * np.cos(t / 20)) for o in (optimizer, learner)]
    sparsity = 0.0
    for step in range(steps):
        for name, layer in layers.items():
            layer.seen.zero_()
            if isinstance(criterion, L0):
                layer.noise = criterion.uniform(Noise(name, step, layer.weight))
        optimizer.zero_grad()
        learner.zero_grad()
        for micro in range(accumulate):
            (loss_of(model, accumulate * step + micro) / accumulate).backward()
        plain = [p for p in others if not any(p is layer.weight for layer in layers.values())]
        gradients = [layer.seen for layer in layers.values()] + [p.grad for p in plain]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        clip = (0.05 / (norm + 1e-6)).clamp(max=1.0)
        assert clip < 1  # it binds
        for parameter in (*others, *scores):
            parameter.grad.mul_(clip)
        if isinstance(criterion, SoftMovement):
            mean = sum(s.sigmoid().mean() for s in scores) / len(scores)
            (criterion.penalty * sparsity / schedule.final * mean).backward()
        elif isinstance(criterion, L0):
            shift = 2 / 3 * np.log(0.1 / 1.1)
            mean = sum((s - shift).sigmoid().mean() for s in scores) / len(scores)
            (criterion.penalty * mean).backward()
        optimizer.step()
        learner.step()
        for scheduler in schedulers:
            scheduler.step()
        sparsity = schedule.sparsity(step)
        if schedule.updates(step):
            everything = torch.cat([s.detach().flatten() for s in scores])
            cut = everything.sort().values[round(sparsity * everything.numel())]
            for layer in layers.values():
                layer.mask = (layer.score.detach() >= cut).double()
    return {
        name.removesuffix(".mask"): parameter.detach()
        for name, parameter in model.state_dict().items()
        if not name.endswith((".mask", ".score"))
    }, layers


@dataclass
class Noise:
    """What ``L0.uniform`` looks at of a view."""

    name: str
    step: int
    weight: torch.Tensor

    @property
    def shape(self):
        return self.weight.shape

    def part_of(self, whole):
        return whole.double()


@dataclass(frozen=True, kw_only=True)
class DoubleNoise(L0):
    """L0 whose noise enters in float64."""

    def uniform(self, view):
        return super().uniform(view).double()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, nesterov=True, foreach=True),
    ],
    ids=["adamw", "sgd", "nesterov"],
)
@pytest.mark.parametrize(
    "criterion",
    [
        Movement(),
        SoftMovement(target=0.7, penalty=10.0),
        DoubleNoise(target=0.7, penalty=5.0),
    ],
    ids=["movement", "soft", "l0"],
)
def test_equals_a_model_with_masked_layers(criterion, make, accumulate):
    schedule = Cubic(0.7, begin=9, end=60, every=5)  # longer than the run: never frozen
    steps = 45
    model = net().double()
    optimizer = make(model.parameters())
    pruner = Pruner(model, optimizer, criterion, schedule)
    scheduler = LambdaLR(optimizer, lambda t: 0.5 + 0.5 * np.cos(t / 20))
    for step in range(steps):
        optimizer.zero_grad()
        for micro in range(accumulate):
            (loss_of(model, accumulate * step + micro) / accumulate).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        scheduler.step()
    theirs, layers = twin_of(criterion, make, schedule, steps, accumulate)
    state = pruner.state_dict()
    returned = 0
    for name, layer in layers.items():
        score = state["scores"][name]["score"]
        torch.testing.assert_close(score, layer.score.detach().to(score), rtol=1e-6, atol=1e-9)
        assert torch.equal(state["masks"][name], layer.mask.bool())
        returned += int((~layer.mask.bool()).sum())
    ours = {n: p.detach() for n, p in model.named_parameters()} | state["beneath"]
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-6, atol=1e-9)
    assert returned == round(schedule.sparsity(40) * 384)


# --- what a user sees of it ---------------------------------------------------------------------


def test_a_pruned_weight_comes_back_with_its_value():
    model, optimizer, pruner = pruned(Movement(), ramp(0.7, every=3))
    masks, beneath, returned = [], [], 0

    def check(step):
        state = pruner.state_dict()
        masks.append({n: m.clone() for n, m in state["masks"].items()})
        beneath.append({n: w.clone() for n, w in state["beneath"].items()})
        nonlocal returned
        if step and not pruner.schedule.frozen(step):
            for name, mask in masks[-1].items():
                back = mask & ~masks[-2][name]
                returned += int(back.sum())
                now = model.get_parameter(name).detach()
                assert torch.equal(now[back], beneath[-1][name][back])
                # AdamW's momentum moves what lies dormant by less than its learning rate a step.
                moved = (beneath[-1][name] - beneath[-2][name]).abs().max()
                assert moved < 0.02

    train(model, optimizer, range(30), check)
    assert returned


def test_scores_follow_the_weights_learning_rate():
    """With the schedule at zero scores stand still, whatever their own rate."""
    model, optimizer, pruner = pruned(Movement())
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, step / 4))
    history = []

    def check(step):
        scheduler.step()
        history.append(pruner.scores()["blocks.0.up.weight"])

    train(model, optimizer, range(6), check)
    steps = [(b - a).abs().max() for a, b in pairwise(history)]
    assert not history[0].any()
    for step, share in zip(steps, (0.25, 0.5, 0.75, 1.0), strict=False):
        assert step == pytest.approx(1e-2 * share, rel=0.3)  # Adam's steps are about lr


def test_scores_do_not_decay():
    model, optimizer, pruner = pruned(Movement())
    train(model, optimizer, range(5))
    before = pruner.scores()
    for parameter in model.parameters():
        parameter.grad = None
    optimizer.step()
    assert same(before, pruner.scores())


@pytest.mark.parametrize("criterion", [SoftMovement(target=0.9), L0(target=0.9)], ids=repr)
def test_a_target_is_kept_on_the_way_and_exact_at_the_end(criterion):
    model, optimizer, pruner = pruned(criterion, Cubic(0.9, begin=9, end=41, every=1))
    total = sum(mask.numel() for mask in pruner.masks.values())

    def check(step):
        asked = pruner.schedule.sparsity(step) if step >= 10 else 0.0
        assert abs(pruner.sparsity - asked) < 0.005
        summary = pruner.summary().counts["prunable"]
        assert abs(summary.sparsity - asked) < 0.005
        if pruner.schedule.frozen(step):
            assert summary.nonzero == total - round(0.9 * total)
        assert "outcome" not in str(pruner.summary())

    train(model, optimizer, range(50), check)
    assert pruner.sparsity == pytest.approx(0.9, abs=0.5 / total)


@pytest.mark.parametrize(
    "criterion", [SoftMovement(threshold=0.4, penalty=5.0), L0(penalty=2.0)], ids=repr
)
def test_without_a_target_sparsity_is_an_outcome(criterion):
    model, optimizer, pruner = pruned(criterion, Cubic(0.5, begin=0, end=150), make=fast)
    seen = []
    train(model, optimizer, range(170), lambda step: seen.append(pruner.sparsity))
    assert 0.5 < seen[-1] < 1  # more than the schedule names, which is not asked here
    assert len(set(seen[:150])) > 10  # masks follow the scores at every step
    assert len(set(seen[150:])) == 1  # and rest after the schedule's end
    summary = pruner.summary()
    assert summary.counts["prunable"].sparsity == pytest.approx(seen[-1])
    assert "an outcome of threshold and penalty" in str(summary)


def fast(model):
    """Scores follow the weights' learning rate, which may as well be high here."""
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def test_soft_movement_leaves_something_of_every_matrix():
    criterion = SoftMovement(threshold=0.5, penalty=0.0)
    score = torch.linspace(-9, -8, 1000).view(10, 100)
    mask = criterion.outcome(score, 1.0)
    assert mask.view(-1).nonzero().flatten().tolist() == list(range(994, 1000))
    assert criterion.outcome(-score, 1.0).all()


def test_gates_are_random_in_training_and_fixed_in_evaluation():
    model, optimizer, pruner = pruned(L0(target=0.7))
    train(model, optimizer, range(13))
    name = "blocks.0.up.weight"
    fixed = model.state_dict()[name].clone()
    beneath = pruner.state_dict()["beneath"][name]
    model.train()
    loss_of(model, 0)
    random = model.get_parameter(name).detach().clone()
    assert not torch.equal(random, fixed)
    gate = random / beneath
    assert ((gate >= 0) & (gate <= 1 + 1e-6)).all()
    loss_of(model, 1)
    assert torch.equal(model.get_parameter(name), random)  # one draw for a step
    model.eval()
    loss_of(model, 0)
    assert torch.equal(model.get_parameter(name), fixed)
    assert torch.equal(model.state_dict()[name], fixed)
    score = pruner.scores()[name]
    expected = (score.sigmoid() * 1.2 - 0.1).clamp(1e-6, 1) * pruner.masks[name] * beneath
    torch.testing.assert_close(fixed, expected)
    model.train()
    loss_of(model, 0)
    assert torch.equal(model.get_parameter(name), random)
    pruner.detach()
    assert torch.equal(model.get_parameter(name), fixed)
    loss_of(model, 0)
    assert torch.equal(model.get_parameter(name), fixed)


def test_gates_draw_from_their_own_generator():
    """Other random numbers neither disturb them nor are disturbed."""
    runs = []
    for seed, draws in ((0, 0), (0, 1), (1, 0)):
        model, optimizer, _ = pruned(L0(target=0.7, seed=seed))
        state = torch.get_rng_state()
        train(model, optimizer, range(20), lambda _, draws=draws: torch.rand(draws))
        assert draws or torch.equal(state, torch.get_rng_state())
        runs.append(weights(model))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Movement(lr=0), "lr=0 of the scores"),
        (lambda: Movement(optimizer="adam"), "optimizer='adam'"),
        (lambda: SoftMovement(target=1.0), "target=1.0"),
        (lambda: SoftMovement(threshold=0), "threshold=0"),
        (lambda: L0(penalty=-1), "penalty=-1"),
        (lambda: pruned(L0(target=0.8)), r"is to reach 0\.8, but the schedule ends at 0\.7"),
        (lambda: pruned(Movement(), hold=True), "hold=True does not apply to Movement"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()


# --- where it could go wrong --------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["OneCycleLR", "LambdaLR", "none"])
def test_scores_never_learn_faster_than_they_may(scheduler):
    model, optimizer, pruner = pruned(Movement())
    schedule = {
        "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=20),
        "LambdaLR": lambda o: LambdaLR(o, lambda step: min(1.0, step / 5)),
        "none": lambda o: None,
    }[scheduler](optimizer)
    before = pruner.state_dict()["scores"]["blocks.0.up.weight"]["score"].clone()
    for step in range(20):
        train(model, optimizer, range(step, step + 1))
        now = pruner.state_dict()["scores"]["blocks.0.up.weight"]["score"].clone()
        assert (now - before).abs().max() < 1.2e-2
        before = now
        if schedule is not None:
            schedule.step()


def test_scores_rest_where_the_weights_do():
    model, optimizer, pruner = pruned(
        Movement(), make=lambda m: torch.optim.SGD(m.parameters(), lr=0)
    )
    train(model, optimizer, range(3))
    assert not any(score.any() for score in pruner.scores().values())


def test_weights_loaded_into_a_gated_model_are_those_beneath():
    model, _, pruner = pruned(L0(target=0.7))
    model.eval()
    loss_of(model, 0)
    fresh = net(seed=9).state_dict()
    model.load_state_dict(fresh)
    model.train()
    loss_of(model, 0)
    name = "blocks.0.up.weight"
    assert torch.equal(pruner.state_dict()["beneath"][name], fresh[name])


def test_gates_that_became_weights_do_not_open_again():
    criterion = L0(target=0.7)
    model, optimizer, pruner = pruned(criterion)
    train(model, optimizer, range(36))
    longer = pruned(criterion, ramp(end=60))[2]
    with pytest.raises(UsageError, match="end=60 they would apply once more"):
        longer.load_state_dict(pruner.state_dict())
    pruned(criterion)[2].load_state_dict(pruner.state_dict())
    dormant, optimizer, pruner = pruned(Movement())
    train(dormant, optimizer, range(36))
    pruned(Movement(), ramp(end=60))[2].load_state_dict(pruner.state_dict())


@pytest.mark.parametrize("criterion", [Movement(), SoftMovement(), L0(), L0(target=0.7)], ids=repr)
def test_scores_that_are_not_finite_stop_the_run(criterion):
    model, optimizer, _ = pruned(criterion)
    train(model, optimizer, range(4))
    optimizer.zero_grad()
    (loss_of(model, 4) * torch.nan).backward()
    with pytest.raises(Diverged, match=r"hold NaN"):
        optimizer.step()
        train(model, optimizer, range(5, 40))


def test_training_in_evaluation_mode():
    """As adapters are sometimes trained: two forwards for one backward, weights free."""
    model, optimizer, pruner = pruned(PINS.released())
    train(model, optimizer, range(14))
    model.eval()
    optimizer.zero_grad()
    (loss_of(model, 14) + loss_of(model, 15)).backward()
    optimizer.step()
    assert pruner.step == 15


def test_fp16_gradients_do_not_underflow():
    """A fused optimizer's gradients are scaled when the criterion sees them."""
    scores = []
    for dtype in (torch.float32, torch.float16):
        model = net().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        pruner = Pruner(model, optimizer, Sensitivity(), ramp())
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 2.0**-10)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0**16), torch.tensor(0.0)
        optimizer.step()
        scores.append(pruner.scores()["blocks.0.up.weight"])
    assert scores[1].all()
    torch.testing.assert_close(*scores, rtol=1e-3, atol=0)
