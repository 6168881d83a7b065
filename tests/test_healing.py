"""Regularizers and task gradients inside the Trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    TrainerCallback,
    TrainingArguments,
)

from prunella import (
    PINS,
    Cubic,
    Distillation,
    Movement,
    Pruner,
    Regularizer,
    SelfRegularization,
    Sensitivity,
    Smoothing,
    TaskGradients,
    UsageError,
    VirtualTeacher,
)
from prunella.experiments.build import class_weights, weighted_loss
from prunella.hf import PruningCallback, Trainer, class_columns


def rows(count: int, label: Callable[[int], Any], length: int = 8) -> Dataset:
    source = torch.Generator().manual_seed(0)
    return Dataset.from_list(
        [
            {
                "input_ids": torch.randint(5, 300, (length,), generator=source).tolist(),
                "labels": label(n),
            }
            for n in range(count)
        ]
    )


def classifier(folder: Path, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, ignore_mismatched_sizes=True, **options
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # or parts of a batch would draw other noise than the whole
    return model


def causal(folder: Path) -> nn.Module:
    torch.manual_seed(0)
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=303, n_embd=32, n_layer=2, n_head=2, **still))


def ragged(count: int) -> Dataset:
    """Rows with unequal numbers of tokens that count."""
    return rows(count, lambda n: [-100] * (n % 6) + list(range(10, 18 - n % 6)))


CASES: dict[str, tuple[Callable[[Path], nn.Module], Dataset]] = {
    "classification": (lambda f: classifier(f, num_labels=3), rows(32, lambda n: n % 3)),
    "several labels": (
        lambda f: classifier(f, num_labels=3, problem_type="multi_label_classification"),
        rows(32, lambda n: [float(n % 2), float(n % 3 > 0), 0.0]),
    ),
    "regression": (
        lambda f: classifier(f, num_labels=1, problem_type="regression"),
        rows(32, lambda n: n / 8),
    ),
    "causal": (causal, ragged(32)),
}


def arguments(out: Path, **options: Any) -> TrainingArguments:
    quiet = {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    return TrainingArguments(str(out), **quiet | options)


def trained(
    folder: Path,
    case: str,
    out: Path,
    terms: Callable[[nn.Module], list[Regularizer]],
    batch: int,
    accumulate: int,
    clip: float = 0.0,
    **options: Any,
) -> list[torch.Tensor]:
    make, data = CASES[case]
    model = make(folder)
    trainer = Trainer(
        model,
        arguments(
            out,
            max_steps=4,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
            learning_rate=1e-3,
            optim="sgd",
            max_grad_norm=clip,
        ),
        train_dataset=data,
        regularizers=terms(model),
        **options,
    )
    trainer.train()
    return [p.detach().clone() for p in model.parameters()]


def every_term(folder: Path, case: str) -> Callable[[nn.Module], list[Regularizer]]:
    def terms(model: nn.Module) -> list[Regularizer]:
        teacher = CASES[case][0](folder)
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.mul_(1.5)
        made: list[Regularizer] = [
            SelfRegularization(model, 2.0, every=1),
            Distillation(teacher, hidden=0.1),
        ]
        if case == "several labels":
            return [*made, Smoothing(several=True)]
        return made if case == "regression" else [*made, Smoothing(), VirtualTeacher()]

    return terms


@pytest.mark.parametrize("regularized", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_four_batches_are_one_four_times_as_large(
    case: str, regularized: bool, bert: Path, tmp_path: Path
) -> None:
    terms = every_term(bert, case) if regularized else lambda model: []
    whole = trained(bert, case, tmp_path, terms, 8, 1)
    parts = trained(bert, case, tmp_path, terms, 2, 4)
    start = list(CASES[case][0](bert).parameters())
    assert not all(map(torch.equal, whole, start))
    if regularized and case == "causal":
        return  # hidden states are averaged row by row there, tokens over the whole
    for one, other, begin in zip(whole, parts, start, strict=True):
        torch.testing.assert_close(one - begin, other - begin, rtol=1e-3, atol=5e-7)


def test_without_terms_it_is_the_plain_trainer(bert: Path, tmp_path: Path) -> None:
    ours = trained(bert, "classification", tmp_path, lambda model: [], 8, 1)
    zero = trained(
        bert, "classification", tmp_path, lambda m: [SelfRegularization(m, 0.0, every=1)], 8, 1
    )
    model = CASES["classification"][0](bert)
    settings = arguments(tmp_path, max_steps=4, learning_rate=1e-3, optim="sgd", max_grad_norm=0.0)
    transformers.Trainer(model, settings, train_dataset=CASES["classification"][1]).train()
    assert all(map(torch.equal, ours, model.parameters()))
    assert all(map(torch.equal, zero, model.parameters()))


class Spy(Regularizer):
    """Notes the rows it is given."""

    needs_labels = False

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, outputs: Any, inputs: Any) -> torch.Tensor:
        self.seen.append([*inputs["input_ids"][:, 0].tolist(), "labels" in inputs])
        return outputs.logits.sum() * 0


def test_unlabelled_rows_come_in_order_beside_the_labelled(bert: Path, tmp_path: Path) -> None:
    extra = Dataset.from_list([{"input_ids": [n, 7, 7, 7], "text": "?"} for n in range(5, 10)])
    spy = Spy()
    trained(
        bert,
        "classification",
        tmp_path,
        lambda model: [spy, Smoothing()],  # which is not asked about them
        2,
        2,
        unlabelled=extra,
    )
    free = [row[:-1] for row in spy.seen if not row[-1]]
    assert free == [[5, 6], [7, 8], [9, 5], [6, 7], [8, 9], [5, 6], [7, 8], [9, 5]]
    assert len(spy.seen) == 16


def test_a_snapshot_of_an_earlier_training_is_forgotten(bert: Path, tmp_path: Path) -> None:
    model = classifier(bert, num_labels=3)
    term = SelfRegularization(model, every=3)
    seen: list[bool] = []

    class Look(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            seen.append(term.snapshot.model is not None)

    trainer = Trainer(
        model,
        arguments(tmp_path, max_steps=5),
        train_dataset=CASES["classification"][1],
        regularizers=[term],
        callbacks=[Look()],
    )
    trainer.train()
    trainer.train()
    assert seen == 2 * [False, False, False, True, True]


# --- which gradient the criterion sees ----------------------------------------------------------


def loop(
    folder: Path, gradient: str, weight: float, clip: float | None, criterion: Any, steps: int = 6
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    model = classifier(folder, num_labels=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    pruner = Pruner(model, optimizer, criterion, Cubic(0.5, begin=20, end=30, every=2))
    of_task = TaskGradients(pruner, clip) if gradient == "task" else None
    term = VirtualTeacher(0.6, weight=weight)
    data = CASES["classification"][1]
    for step in range(steps):
        batch = {
            "input_ids": torch.tensor(data[8 * (step % 4) : 8 * (step % 4) + 8]["input_ids"]),
            "labels": torch.tensor(data[8 * (step % 4) : 8 * (step % 4) + 8]["labels"]),
        }
        for half in (slice(0, 4), slice(4, 8)):
            part = {name: value[half] for name, value in batch.items()}
            outputs = model(**part)
            task = outputs.loss / 2
            task = task if of_task is None else of_task(task)
            (task + term(outputs, part) / 2).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return pruner.scores(), [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("criterion", [Sensitivity(), PINS(window=2), Movement()])
def test_the_task_gradient_is_that_of_a_run_without_a_term(
    criterion: Any, clip: float | None, bert: Path
) -> None:
    """At the first step the weights agree, so the scores must; later the weights differ."""
    apart, joint, plain = (
        loop(bert, gradient, weight, clip, criterion, steps=1 if criterion != PINS(window=2) else 3)
        for gradient, weight in (("task", 5.0), ("joint", 5.0), ("task", 0.0))
    )
    alone = loop(bert, "joint", 0.0, clip, criterion, steps=1 if criterion != PINS(window=2) else 3)
    for name, score in alone[0].items():
        torch.testing.assert_close(plain[0][name], score, rtol=1e-4, atol=1e-9)
    if not isinstance(criterion, PINS):  # which reads the updated weight
        for name, score in alone[0].items():
            torch.testing.assert_close(apart[0][name], score, rtol=1e-4, atol=1e-9)
    gaps = [(joint[0][n] - score).abs().max() / score.abs().max() for n, score in apart[0].items()]
    assert max(gaps) > 0.01
    # The weights are trained by the joint gradient all the same.
    for one, other in zip(apart[1], joint[1], strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_of_a_step_that_was_skipped_is_forgotten(bert: Path) -> None:
    model = classifier(bert, num_labels=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    pruner = Pruner(model, optimizer, Sensitivity(), Cubic(0.5, begin=20, end=30))
    of_task = TaskGradients(pruner)
    batch = CASES["classification"][1][:4]
    inputs = {name: torch.tensor(batch[name]) for name in ("input_ids", "labels")}
    of_task(model(**inputs).loss * torch.inf).backward()  # and no step, as a scaler would have it
    optimizer.zero_grad()
    of_task.reset()
    of_task(model(**inputs).loss).backward()
    optimizer.step()
    assert all(score.isfinite().all() for score in pruner.scores().values())


def test_the_callback_may_come_later(bert: Path, tmp_path: Path) -> None:
    model = classifier(bert, num_labels=3)
    trainer = Trainer(
        model,
        arguments(tmp_path, max_steps=4),
        train_dataset=CASES["classification"][1],
        regularizers=[Smoothing()],
        score_gradient="task",
    )
    callback = PruningCallback(Sensitivity(), Cubic(0.5, begin=1, end=3, every=1))
    trainer.add_callback(callback)
    for _ in range(2):
        trainer.train()
        assert trainer._task_gradients.pruner is callback.pruner
        assert callback.pruner.sparsity == 0.5


def test_state_of_other_regularizers_is_refused(bert: Path, tmp_path: Path) -> None:
    model = classifier(bert, num_labels=3)

    def trainer(terms: list[Regularizer]) -> Trainer:
        settings = arguments(tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
        data = CASES["classification"][1]
        return Trainer(model, settings, train_dataset=data, regularizers=terms)

    trainer([SelfRegularization(model, every=1), Smoothing()]).train()
    folder = str(tmp_path / "checkpoint-2")
    for others in ([Smoothing(), SelfRegularization(model)], []):
        with pytest.raises(UsageError, match="SelfRegularization, Smoothing"):
            trainer(others).train(resume_from_checkpoint=folder)
    with pytest.raises(UsageError, match="another model"):
        trainer([SelfRegularization(classifier(bert, num_labels=3))]).train()


def test_a_teacher_follows_the_model(bert: Path) -> None:
    term = Distillation(classifier(bert, num_labels=3))
    term.begin(nn.Linear(1, 1, device="meta"))
    assert {p.device.type for p in term.teacher.parameters()} == {"meta"}


def test_the_trainer_shows_the_task_gradient(bert: Path, tmp_path: Path) -> None:
    seen = {}
    for gradient, accumulate in (("task", 1), ("task", 2), ("joint", 1)):
        callback = PruningCallback(Sensitivity(), Cubic(0.5, begin=1, end=3, every=1))
        options = {"callbacks": [callback], "score_gradient": gradient}
        trained(
            bert,
            "classification",
            tmp_path,
            lambda model: [VirtualTeacher(0.6, weight=5.0)],
            8 // accumulate,
            accumulate,
            **options,
        )
        seen[gradient, accumulate] = callback.pruner.scores()
    for name, score in seen["task", 1].items():
        torch.testing.assert_close(score, seen["task", 2][name], rtol=2e-3, atol=1e-8)
    assert any(
        not torch.allclose(score, seen["joint", 1][name], rtol=1e-2)
        for name, score in seen["task", 1].items()
    )


# --- teachers -----------------------------------------------------------------------------------


def named(*names: str) -> PreTrainedConfig:
    return PreTrainedConfig(id2label=dict(enumerate(names)), num_labels=len(names))


def test_classes_are_matched_by_name() -> None:
    assert class_columns(named("a", "b", "c"), named("a", "b", "c")) == [0, 1, 2]
    assert class_columns(named("c", "a", "b"), named("a", "b", "c")) == [1, 2, 0]
    for teacher in (named("A", "b", "c"), named("a", "b"), named("a", "b", "c", "d")):
        with pytest.raises(UsageError, match="id2label"):
            class_columns(teacher, named("a", "b", "c"))


def test_terms_that_do_not_fit_the_labels(bert: Path, tmp_path: Path) -> None:
    model = classifier(bert, num_labels=3, problem_type="multi_label_classification")
    trainer = Trainer(
        model,
        arguments(tmp_path, max_steps=1),
        train_dataset=rows(8, lambda n: [1.0, 0.0, 1.0]),
        regularizers=[Smoothing()],
    )
    with pytest.raises(UsageError, match="several=True"):
        trainer.train()
    with pytest.raises(UsageError, match="score_gradient='both'"):
        Trainer(model, trainer.args, score_gradient="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("regularized", [False, True])
def test_weighted_classes_accumulate_as_one_batch(
    bert: Path, tmp_path: Path, regularized: bool
) -> None:
    labels = [0] * 24 + [1] * 6 + [2] * 2
    weights = class_weights(labels, 4)
    assert weights == pytest.approx([32 / 3 / 24, 32 / 3 / 6, 32 / 3 / 2, 32 / 3])
    loss = {"compute_loss_func": weighted_loss(weights[:3])}

    def terms(model: nn.Module) -> list[Regularizer]:
        return [SelfRegularization(model, every=1)] if regularized else []

    whole = trained(bert, "classification", tmp_path, terms, 8, 1, **loss)
    parts = trained(bert, "classification", tmp_path, terms, 2, 4, **loss)
    plain = trained(bert, "classification", tmp_path, terms, 8, 1)
    start = CASES["classification"][0](bert).parameters()
    assert not all(map(torch.equal, whole, plain))
    for one, other, begin in zip(whole, parts, start, strict=True):
        torch.testing.assert_close(one - begin, other - begin, rtol=1e-3, atol=5e-7)


def test_the_weighted_loss_is_the_sum_of_its_rows() -> None:
    logits, labels = torch.randn(4, 2), torch.tensor([0, 0, 0, 1])
    rows = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (rows * torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0])).sum()
    loss = weighted_loss(class_weights([0, 0, 0, 1], 2))
    torch.testing.assert_close(loss({"logits": logits}, labels), expected / 4)
    torch.testing.assert_close(loss({"logits": logits}, labels, 8), expected / 8)
