"""Models with PEFT's adapters: what is pruned is what merging leaves."""

import copy
import pickle

import loops
import peft
import pytest
import torch
from loops import Net, loss_of, ramp, same, through_a_file, train
from test_hf import bert, gpt2, rows, trainer
from torch import nn
from transformers.pytorch_utils import Conv1D

import prunella
from prunella import (
    L0,
    PINS,
    PLATON,
    Cubic,
    Fisher,
    Magnitude,
    Movement,
    Pruner,
    Random,
    Sensitivity,
    TaskGradients,
    UsageError,
)
from prunella.hf import PruningCallback
from prunella.prunable import find_prunable
from prunella.snapshot import Snapshot

# Transformers' names that will go; PEFT asks by one of them.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:`\w*gradient_checkpointing\w*` is deprecated:FutureWarning"
)
CRITERIA = [Random(), Magnitude(), Sensitivity(), PLATON(), PINS(), PINS(update="sgd")]
every_criterion = pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
BASE = [
    f"base_model.model.blocks.{b}.{s}.base_layer.weight" for b in (0, 1) for s in ("up", "down")
]


def adapted(model=None, kind=peft.LoraConfig, **options):
    """The net with adapters over its blocks, which are no longer what they were at the start."""
    torch.manual_seed(0)
    model = loops.net() if model is None else model
    options = {"target_modules": ["up", "down"], "modules_to_save": ["head"]} | options
    model = peft.get_peft_model(model, kind(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def pruned(criterion, schedule=None, model=None, **options):
    return loops.pruned(criterion, schedule, model=adapted() if model is None else model, **options)


def merged_weights(pruner):
    return {n: p.value().clone() for n, p in pruner.prunable.items()}


@every_criterion
def test_what_is_pruned_is_zero_at_every_step_and_once_merged(criterion, tmp_path):
    model, optimizer, pruner = pruned(criterion)
    assert list(pruner.masks) == BASE
    outside = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}

    def check(step):
        for name, weight in merged_weights(pruner).items():
            assert not weight[~pruner.masks[name]].any()

    train(model, optimizer, range(40), check)
    counts = pruner.summary().counts
    assert (
        counts["prunable"].total
        == 384
        == sum(p.numel() for p in loops.net().blocks.parameters() if p.ndim > 1)
    )
    assert counts["prunable"].nonzero == 384 - round(0.7 * 384)
    assert counts["model"].total == sum(p.numel() for p in loops.net().parameters())
    model.eval()
    expected = loss_of(model, 0)
    masks = pruner.masks
    for name, weight in outside.items():  # what is kept is as it was
        now = model.get_parameter(name)
        assert (
            torch.equal(now[masks[name]], weight[masks[name]])
            if name in masks
            else (torch.equal(now, weight))
        )
    merged = model.merge_and_unload()
    assert isinstance(merged, Net)
    torch.testing.assert_close(loss_of(merged, 0), expected)
    for name, mask in masks.items():
        weight = merged.get_parameter(name[len("base_model.model.") :].replace(".base_layer", ""))
        assert torch.equal(weight != 0, mask)
        assert not weight[~mask].signbit().any()


class Pair(nn.Module):
    """Two layers, stored either way."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b = (
            (nn.Linear(8, 6), nn.Linear(6, 8)) if kind == "linear" else (Conv1D(6, 8), Conv1D(8, 6))
        )

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_gradients_are_those_of_the_masked_sum(kind, accumulated):
    """Against the model that computes with M⊙(W + ΔW), by autograd."""
    config = {"target_modules": ["a", "b"], "modules_to_save": None}
    model = adapted(Pair(kind), fan_in_fan_out=kind == "conv1d", **config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    seen = {}

    class Look(Sensitivity):
        def before_step(self, view):
            seen[view.name] = view.gradient.clone()
            super().before_step(view)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    pruner = Pruner(model, optimizer, Look(), Cubic(0.6, begin=0, end=2, every=1))
    inputs = torch.randn(accumulated, 5, 4, 8, dtype=torch.float64)

    def step():
        optimizer.zero_grad()
        for x in inputs:
            model(x).square().sum().backward()

    for _ in range(3):
        step()
        optimizer.step()
    assert pruner.sparsity == pytest.approx(0.6, abs=0.01)
    step()
    layers = {n: m for n, m in model.named_modules() if hasattr(m, "base_layer")}
    factors, weights = [], {}
    for (name, mask), layer in zip(pruner.masks.items(), layers.values(), strict=True):
        a, b = (getattr(layer, f"lora_{x}")["default"].weight for x in "AB")
        factors += [a, b]
        delta = (b @ a) * layer.scaling["default"]
        delta = delta.t() if kind == "conv1d" else delta
        whole = torch.where(mask, layer.base_layer.weight.detach() + delta, 0.0)
        whole.retain_grad()
        weights[name] = whole
    first, second = weights.values()
    biases = [layer.base_layer.bias for layer in layers.values()]
    if kind == "linear":
        first, second = first.t(), second.t()
    loss = sum(
        (torch.tanh(x @ first + biases[0]) @ second + biases[1]).square().sum() for x in inputs
    )
    expected = torch.autograd.grad(loss, [*factors, *weights.values()])
    for parameter, gradient in zip(factors, expected, strict=False):
        torch.testing.assert_close(parameter.grad, gradient)
    optimizer.step()
    for (name, _), gradient in zip(weights.items(), expected[len(factors) :], strict=True):
        torch.testing.assert_close(seen[name], gradient)


def test_a_step_that_was_skipped_leaves_no_gradient_behind():
    plain, skipped = (pruned(Sensitivity(), ramp(0.6)) for _ in range(2))
    train(*plain[:2], range(40))
    model, optimizer, _ = skipped

    def skip(step):
        if step % 7 == 0:  # as a gradient scaler does, or a loop that finds a loss odd
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            (loss_of(model, step) * 1e6).backward()

    train(model, optimizer, range(40), skip)
    assert same(plain[2].masks, skipped[2].masks)
    assert same(merged_weights(plain[2]), merged_weights(skipped[2]))


@every_criterion
@pytest.mark.parametrize("whole", [True, False], ids=["model", "adapters"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_resuming_equals_the_uninterrupted_run(criterion, whole, order):
    """Also where only the adapters are saved, as PEFT does, and the base comes from elsewhere."""
    trio = pruned(criterion)
    train(*trio[:2], range(40))
    first = pruned(criterion)
    train(*first[:2], range(17))
    states = [part.state_dict() for part in first]
    if not whole:
        trained = {n for n, p in first[0].named_parameters() if p.requires_grad}
        states[0] = {n: t for n, t in states[0].items() if n in trained}
    states = through_a_file(states)
    second = pruned(criterion)
    for index in order:
        options = {} if whole or index else {"strict": False}
        second[index].load_state_dict(states[index], **options)
    train(*second[:2], range(17, 40))
    assert same(second[0].state_dict(), trio[0].state_dict())
    assert same(second[2].masks, trio[2].masks)


def test_going_back_to_what_is_gone_is_refused():
    model, optimizer, pruner = pruned(Magnitude())
    train(model, optimizer, range(12))
    state = copy.deepcopy(pruner.state_dict())
    train(model, optimizer, range(12, 30))
    with pytest.raises(UsageError, match="load the base model anew, then its adapters"):
        pruner.load_state_dict(state)
    pruner.detach()
    again = Pruner(model, optimizer, Magnitude(), ramp())
    with pytest.raises(UsageError, match="load the base model anew"):
        again.load_state_dict(state)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_alike(way):
    trio = pruned(PINS())
    train(*trio[:2], range(14))
    other = copy.deepcopy(trio) if way == "deepcopy" else pickle.loads(pickle.dumps(trio))
    for each in (trio, other):
        train(*each[:2], range(14, 40))
    assert same(trio[0].state_dict(), other[0].state_dict())
    alone = copy.deepcopy(trio[0])
    before = copy.deepcopy(alone.state_dict())
    loss_of(alone, 0).backward()
    assert same(before, alone.state_dict())


def test_other_adapters_loaded_in_between_keep_the_zeros():
    model, optimizer, pruner = pruned(Magnitude())
    train(model, optimizer, range(40))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    model.eval()
    loss_of(model, 0)
    assert not any(w[~pruner.masks[n]].any() for n, w in merged_weights(pruner).items())


def test_a_pruned_base_stays_pruned_beneath_new_adapters(caplog):
    """The zeros of a base, which plain LoRA would fill in; twice."""
    base, optimizer, _ = loops.pruned(PINS())
    train(base, optimizer, range(40))
    zeros = {n: base.get_parameter(n) == 0 for n in find_prunable(base)[0]}
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["up", "down"]))
    for _ in range(2):
        trio = pruned(Magnitude(), Cubic(0.7, begin=1, end=9), model)
        assert trio[2].sparsity == pytest.approx(0.7, abs=0.002)
        train(*trio[:2], range(10))
        trio[2].detach()
    assert caplog.text.count("70.05%") == 2
    merged = model.merge_and_unload()
    assert all(torch.equal(merged.get_parameter(n) == 0, zero) for n, zero in zeros.items())


def test_frozen_weights_without_an_adapter_and_heads_are_left_alone():
    *_, pruner = pruned(Magnitude(), model=adapted(target_modules=["up"]))
    assert list(pruner.masks) == [n for n in BASE if "up" in n]
    assert pruner.frozen == [n.replace(".base_layer", "") for n in BASE if "down" in n]
    chosen, _ = find_prunable(adapted(), ["*"])
    assert not any("lora" in name for name in chosen)
    inside = adapted(target_modules=["up"], modules_to_save=["down"])
    assert list(find_prunable(inside)[0]) == [n for n in BASE if "up" in n]


# --- with Transformers ---------------------------------------------------------------------------


@pytest.mark.parametrize("build", [bert, gpt2])
def test_a_trainer_prunes_resumes_and_saves(build, tmp_path):
    targets = ["query", "value"] if build is bert else ["c_attn", "c_fc"]

    def run(folder, **options):
        torch.manual_seed(0)
        config = peft.LoraConfig(
            target_modules=targets, task_type="SEQ_CLS", fan_in_fan_out=build is gpt2
        )
        model = peft.get_peft_model(build(), config)
        callback = PruningCallback(PINS(window=4), Cubic(0.8, every=4))
        saving = {"save_strategy": "steps", "save_steps": 20}
        training = trainer(folder, callback, model=model, lr=1e-2, **saving)
        training.train(**options)
        return model, callback.pruner

    model, pruner = run(tmp_path / "out")
    masks, total = pruner.masks, sum(mask.numel() for mask in pruner.masks.values())
    resumed, _ = run(tmp_path / "on", resume_from_checkpoint=str(tmp_path / "out/checkpoint-20"))
    assert same(resumed.state_dict(), model.state_dict())
    with pytest.raises(UsageError, match=r"save model\.merge_and_unload\(\)"):
        prunella.save(model, tmp_path / "small")
    merged = model.merge_and_unload()
    count = prunella.save(merged, tmp_path / "small")
    assert count.total - count.nonzero == round(0.8 * total)
    loaded = prunella.load(tmp_path / "small", "dense")
    for name, mask in masks.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert torch.equal(loaded.get_parameter(plain) != 0, mask)
    ids = torch.stack([row["input_ids"] for row in rows(4)])
    merged.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, merged(ids).logits)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        (Movement(), {}, "they are dormant"),
        (L0(0.7), {}, "they are gated"),
        (PINS.released(), {}, "they are free; leave out hold=False"),
        (Fisher(), {}, r"reads what an optimizer keeps.*Sensitivity\(\)"),
    ],
    ids=repr,
)
def test_criteria_that_need_more(criterion, options, message):
    with pytest.raises(UsageError, match=message):
        pruned(criterion, **options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (peft.LoraConfig, {"use_dora": True}, "does not come to W"),
        (peft.IA3Config, {"feedforward_modules": []}, r"adds nothing to a weight.*use LoRA|W \+"),
        (peft.OFTConfig, {"oft_block_size": 4}, r"W \+ ΔW"),
    ],
    ids=["dora", "ia3", "oft"],
)
def test_adapters_that_do_more_than_add(kind, options, message):
    with pytest.raises(UsageError, match=message):
        pruned(Magnitude(), model=adapted(kind=kind, **options))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (peft.LoraConfig, {"lora_dropout": 0.1, "use_rslora": True}),
        (peft.LoraConfig, {"lora_bias": True}),
        (peft.LoHaConfig, {"r": 2}),
        (peft.LoKrConfig, {"r": 2}),
        (peft.VeraConfig, {"r": 2}),
        (peft.AdaLoraConfig, {"total_step": 100, "init_r": 4, "target_r": 2}),
    ],
    ids=["dropout", "bias", "loha", "lokr", "vera", "adalora"],
)
def test_all_that_adds_works(kind, options):
    model, optimizer, pruner = pruned(PINS(), model=adapted(kind=kind, **options))
    train(model, optimizer, range(40))
    merged = model.merge_and_unload()
    zeros = sum(int((b == 0).sum()) for n, b in merged.blocks.named_parameters() if "weight" in n)
    assert zeros == round(0.7 * 384)
    assert pruner.step == 40


def test_adapters_that_transformers_put_in_itself(tmp_path):
    model = bert()
    model.add_adapter(peft.LoraConfig(target_modules=["query", "value"]))
    model, optimizer, pruner = pruned(Sensitivity(), Cubic(0.8, begin=0, end=3), model)
    inputs = torch.stack([row["input_ids"] for row in rows(4)])
    for _ in range(5):
        model(input_ids=inputs, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimizer.step()
    counts = pruner.summary().counts
    assert counts["prunable"].nonzero == counts["prunable"].total - round(0.8 * 4 * 256)
    assert counts["model"].total == sum(p.numel() for p in bert().parameters())
    assert counts["backbone"].total < counts["model"].total
    with pytest.raises(UsageError, match="adapters lie over the weights"):
        prunella.save(model, tmp_path)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activations_that_are_computed_anew_count_once(reentrant):
    """Gradient checkpointing runs hooks of the forward again, during backward."""

    def run(anew):
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["query", "dense"], task_type="SEQ_CLS")
        model = peft.get_peft_model(bert(), config).eval()  # no dropout
        if anew:
            model.enable_input_require_grads()
            model.base_model.model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
            options = {"use_reentrant": reentrant}
            model.base_model.model.gradient_checkpointing_enable(options)
        trio = pruned(Sensitivity(), Cubic(0.8, begin=2, end=9, every=2), model)
        for step in range(12):
            trio[1].zero_grad()
            for row in rows(2 * step + 2)[-2:]:  # accumulated
                ids, labels = row["input_ids"][None], torch.tensor([row["labels"]])
                model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            trio[1].step()
        return trio[2]

    plain, anew = run(False), run(True)
    assert plain.sparsity == pytest.approx(0.8, abs=1e-3)
    assert same(plain.masks, anew.masks)


def test_several_processes_are_refused_where_gradients_are_read(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(UsageError, match=r"those of one process.*Magnitude\(\)"):
        pruned(Sensitivity())
    assert pruned(Magnitude())[2].step == 0


def test_models_without_anything_trained_in_their_blocks_say_what_would_help():
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    with pytest.raises(UsageError, match=r"12 are frozen.*train them, or LoRA over them"):
        find_prunable(peft.get_peft_model(bert(), config))


def test_other_states_of_adapters():
    half = adapted(loops.net().bfloat16())
    with pytest.raises(UsageError, match=r"torch\.float32, the weight torch\.bfloat16"):
        pruned(Magnitude(), model=half)
    model = adapted()
    model.add_adapter("other", peft.LoraConfig(target_modules=["up", "down"]))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(UsageError, match="has 2 active adapters"):
        pruned(Magnitude(), model=model)
    model = adapted()
    model.merge_adapter()
    with pytest.raises(UsageError, match="is merged or off"):
        pruned(Magnitude(), model=model)
    model = adapted()
    model.get_parameter(BASE[0]).requires_grad_(True)
    with pytest.raises(UsageError, match="is trained itself beneath its adapter"):
        pruned(Magnitude(), model=model)
    with pytest.raises(UsageError, match=r"4 are frozen"):
        model = adapted()
        model.requires_grad_(False)
        find_prunable(model)


def test_task_gradients_are_refused_and_snapshots_are_whole():
    model, optimizer, pruner = pruned(PINS())
    with pytest.raises(UsageError, match="beneath adapters"):
        TaskGradients(pruner)
    train(model, optimizer, range(20))
    snapshot = Snapshot(model)
    snapshot.take()
    expected = loss_of(model.eval(), 0)
    train(model, optimizer, range(20, 40))
    torch.testing.assert_close(loss_of(snapshot.model, 0), expected)
    snapshot.take()
    torch.testing.assert_close(loss_of(snapshot.model, 0), loss_of(model.eval(), 0))
