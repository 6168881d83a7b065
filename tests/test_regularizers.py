"""Regularizers against values computed by hand, in float64 NumPy, one item at a time."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from prunella import (
    Distillation,
    Predictions,
    Regularizer,
    SelfRegularization,
    Smoothing,
    UsageError,
    VirtualTeacher,
)
from prunella.regularizers import IGNORED, task_loss

PAD = 0


# --- by hand ------------------------------------------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * float(np.sum(p * np.log(p / q)))


def hard(student: np.ndarray, label: int) -> float:
    return -math.log(softmax(student)[label])


def entropy(student: np.ndarray) -> float:
    p = softmax(student)
    return -float(np.sum(p * np.log(p)))


class Fixed(nn.Module):
    """A "model" that says the same to every input."""

    def __init__(self, **said: Tensor):
        super().__init__()
        self.said = said

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(**self.said)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double
    )


def a_self(teacher: Tensor, **options: object) -> SelfRegularization:
    term = SelfRegularization(nn.Linear(1, 1), **options)  # type: ignore[arg-type]
    term.snapshot.model = Fixed(logits=teacher)
    return term


STUDENT, TEACHER, LABELS = numbers(4, 3), numbers(4, 3, seed=1), torch.tensor([2, 0, 1, 1])
OUTPUTS, INPUTS = SimpleNamespace(logits=STUDENT), {"labels": LABELS}
PAIRS = list(zip(STUDENT.numpy(), TEACHER.numpy(), LABELS.tolist(), strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_self_and_distillation_by_hand(temperature: float) -> None:
    wanted = 0.7 * np.mean([kl(t, s, temperature) for s, t, _ in PAIRS])
    ours = a_self(TEACHER, weight=0.7, temperature=temperature)(OUTPUTS, INPUTS)
    assert ours.item() == pytest.approx(wanted, rel=1e-12)
    distil = Distillation(Fixed(logits=TEACHER), weight=0.7, temperature=temperature)
    assert distil(OUTPUTS, INPUTS).item() == pytest.approx(wanted, rel=1e-12)


def test_adaptive_weight_by_hand() -> None:
    def moved(s: np.ndarray, t: np.ndarray, label: int) -> float:
        alpha = 1 - entropy(s) / math.log(3)
        return alpha * (kl(t, s, 2.0) - hard(s, label))

    term = a_self(TEACHER, weight="adaptive")
    assert term(OUTPUTS, INPUTS).item() == pytest.approx(np.mean([moved(*p) for p in PAIRS]))


def test_adaptive_weight_gives_the_released_gradient() -> None:
    """Released: α T² CE(teacher ‖ student at T = 2) + (1 - α) CE, with a given α."""
    student = STUDENT.clone().requires_grad_()
    outputs = SimpleNamespace(logits=student)
    task = nn.functional.cross_entropy(student, LABELS)
    (task + a_self(TEACHER, weight="adaptive")(outputs, INPUTS)).backward()
    ours = student.grad
    other = STUDENT.clone().requires_grad_()
    alpha = torch.tensor([1 - entropy(s) / math.log(3) for s in STUDENT.numpy()])
    soft = -(torch.softmax(TEACHER / 2, -1) * torch.log_softmax(other / 2, -1)).sum(-1)
    rest = nn.functional.cross_entropy(other, LABELS, reduction="none")
    (alpha * 4 * soft + (1 - alpha) * rest).mean().backward()
    torch.testing.assert_close(ours, other.grad)


def test_smoothing_by_hand() -> None:
    amount = 0.2
    targets = np.full((4, 3), amount / 3)
    targets[np.arange(4), LABELS] += 1 - amount
    smooth = np.mean(
        [-np.sum(y * np.log(softmax(s))) for s, y in zip(STUDENT.numpy(), targets, strict=True)]
    )
    plain = np.mean([hard(s, label) for s, _, label in PAIRS])
    assert Smoothing(amount)(OUTPUTS, INPUTS).item() == pytest.approx(smooth - plain)
    torch.testing.assert_close(
        Smoothing(amount)(OUTPUTS, INPUTS) + nn.functional.cross_entropy(STUDENT, LABELS),
        nn.functional.cross_entropy(STUDENT, LABELS, label_smoothing=amount),
    )


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_virtual_teacher_by_hand(temperature: float) -> None:
    made = np.full((4, 3), (1 - 0.8) / 2)
    made[np.arange(4), LABELS] = 0.8
    wanted = np.mean(
        [kl(np.log(t), s, temperature) for s, t in zip(STUDENT.numpy(), made, strict=True)]
    )
    term = VirtualTeacher(0.8, weight=0.5, temperature=temperature)
    assert term(OUTPUTS, INPUTS).item() == pytest.approx(0.5 * wanted)


def test_regression_by_hand() -> None:
    outputs, inputs = SimpleNamespace(logits=numbers(5, 1)), {"labels": numbers(5, seed=2)}
    wanted = ((outputs.logits - numbers(5, 1, seed=1)) ** 2).mean().item()
    assert a_self(numbers(5, 1, seed=1))(outputs, inputs).item() == pytest.approx(wanted)
    for refused in (a_self(numbers(5, 1), weight="adaptive"), Smoothing(), VirtualTeacher()):
        with pytest.raises(UsageError, match="regression"):
            refused(outputs, inputs)


def test_spans_by_hand() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    start, end = numbers(2, 4), numbers(2, 4, seed=1)
    outputs = SimpleNamespace(start_logits=start, end_logits=end)
    said = {"start_logits": numbers(2, 4, seed=2), "end_logits": numbers(2, 4, seed=3)}
    inputs = {
        "attention_mask": mask,
        "start_positions": torch.tensor([0, 3]),
        "end_positions": torch.tensor([2, 4]),  # the second is outside the window
    }
    pairs = [(0, "start_logits", start), (1, "start_logits", start), (0, "end_logits", end)]
    terms = [
        kl(said[name][row][mask[row] > 0].numpy(), ours[row][mask[row] > 0].numpy(), 2.0)
        for row, name, ours in pairs
    ]
    distil = Distillation(Fixed(**said))
    assert distil(outputs, inputs).item() == pytest.approx(np.mean(terms))
    answers = {0: 0, 1: 3, 2: 2}
    smooth = []
    for number, (row, _, ours) in enumerate(pairs):
        logits = ours[row][mask[row] > 0].numpy()
        uniform = -np.mean(np.log(softmax(logits)))
        smooth.append(0.1 * (uniform - hard(logits, answers[number])))
    assert Smoothing(0.1)(outputs, inputs).item() == pytest.approx(np.mean(smooth))


# --- what counts --------------------------------------------------------------------------------


def bert(kind: type[nn.Module], **options: int) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        attn_implementation="eager",
        **options,
    )
    return kind(config).double().eval()


def tokens(rows: int = 3, length: int = 6) -> dict[str, Tensor]:
    ids = torch.randint(1, 50, (rows, length), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


def labelled(kind: str) -> dict[str, Tensor]:
    inputs = tokens()
    ids = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
    match kind:
        case "classification":
            return inputs | {"labels": torch.tensor([0, 2, 1])}
        case "regression":
            return inputs | {"labels": torch.tensor([0.5, 2.0, 1.0])}
        case "spans":
            ends = {
                "start_positions": torch.tensor([0, 2, 1]),
                "end_positions": torch.tensor([1, 3, 5]),
            }
            return inputs | ends
        case "tagging":
            return inputs | {"labels": torch.where(ids == IGNORED, ids, ids % 3)}
    return inputs | {"labels": ids}


MODELS = {
    "classification": lambda: bert(BertForSequenceClassification, num_labels=3),
    "regression": lambda: bert(BertForSequenceClassification, num_labels=1),
    "spans": lambda: bert(BertForQuestionAnswering),
    "tagging": lambda: bert(BertForTokenClassification, num_labels=3),
    "causal": lambda: (
        GPT2LMHeadModel(
            GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, attn_implementation="eager")
        )
        .double()
        .eval()
    ),
    "seq2seq": lambda: (
        T5ForConditionalGeneration(
            T5Config(
                vocab_size=50,
                d_model=16,
                d_kv=8,
                d_ff=32,
                num_layers=2,
                num_heads=2,
                decoder_start_token_id=0,
            )
        )
        .double()
        .eval()
    ),
}
KINDS = list(MODELS)


def padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with three more columns of padding."""
    wider = dict(inputs)
    for name, value in inputs.items():
        if value.dim() == 2:
            filling = IGNORED if name == "labels" else PAD
            wider[name] = nn.functional.pad(value, (0, 3), value=filling)
    return wider


def terms_for(kind: str, model: nn.Module) -> list[Regularizer]:
    torch.manual_seed(9)
    teacher = MODELS[kind]()
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    own = SelfRegularization(model)
    own.take()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    hidden = 0.0 if kind == "seq2seq" else 0.5
    terms: list[Regularizer] = [own, Distillation(teacher, hidden=hidden, attention=hidden)]
    return terms if kind == "regression" else [*terms, Smoothing(), VirtualTeacher()]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    model, inputs = MODELS[kind](), labelled(kind)
    for term in terms_for(kind, model):
        narrow = term(model(**inputs, **term.asks), inputs)
        wide = padded(inputs)
        assert narrow.item() != 0
        torch.testing.assert_close(narrow, term(model(**wide, **term.asks), wide))


@pytest.mark.parametrize("kind", KINDS)
def test_the_items_are_those_of_the_task_loss(kind: str) -> None:
    """Their mean loss is the one that Transformers computes."""
    model, inputs = MODELS[kind](), labelled(kind)
    if kind == "spans":  # whose softmax Transformers takes over padding as well
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    outputs = model(**inputs)
    student = Predictions.of(outputs, inputs)
    torch.testing.assert_close(task_loss(student).mean(), outputs.loss, check_dtype=False)
    items = {"classification": 3, "regression": 3, "spans": 6, "causal": 13}
    assert len(student) == items.get(kind, 16)


@pytest.mark.parametrize("kind", ["classification", "spans", "tagging", "causal"])
def test_without_labels_every_token_counts(kind: str) -> None:
    model, inputs = MODELS[kind](), tokens()
    own, distil, *_ = terms_for(kind, model)
    for term in (own, distil):
        assert term(model(**inputs, **term.asks), inputs).item() > 0
    rows = len(Predictions.of(model(**inputs), inputs))
    assert rows == {"classification": 3, "spans": 6, "tagging": 16, "causal": 13}[kind]
    for term in (Smoothing(), VirtualTeacher()):
        with pytest.raises(UsageError, match="labels"):
            term(model(**inputs), inputs)


def test_nothing_before_the_first_snapshot() -> None:
    model, inputs = MODELS["classification"](), labelled("classification")
    term = SelfRegularization(model, every=3)
    outputs = model(**inputs)
    assert term(outputs, inputs).item() == 0
    for step in (1, 2):
        term.after_step(step)
        assert term(outputs, inputs).item() == 0 and term.snapshot.model is None
    term.after_step(3)
    assert term.snapshot.model is not None
    assert term(outputs, inputs).item() == pytest.approx(0, abs=1e-12)  # it agrees with itself


def test_the_teacher_gets_no_gradient_and_draws_no_noise() -> None:
    model, inputs = MODELS["classification"](), labelled("classification")
    for term in terms_for("classification", model)[:2]:
        model.train()
        outputs = model(**inputs, **term.asks)
        before = torch.random.get_rng_state()
        term(outputs, inputs).backward()
        assert torch.equal(before, torch.random.get_rng_state())
        teacher = term.teacher if isinstance(term, Distillation) else term.snapshot.model
        assert not teacher.training
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_hidden_states_and_attention_by_hand() -> None:
    model, inputs = MODELS["classification"](), labelled("classification")
    teacher = MODELS["classification"]()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.3)
    asks = {"output_hidden_states": True, "output_attentions": True}
    ours, theirs = model(**inputs, **asks), teacher(**inputs, **asks)
    real = inputs["attention_mask"].bool()
    hidden = np.mean(
        [
            ((a - b)[real] ** 2).mean().item()
            for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True)
        ]
    )
    pairs = (real[:, :, None] & real[:, None, :])[:, None].expand(-1, 2, -1, -1)
    attention = np.mean(
        [
            ((a - b)[pairs] ** 2).mean().item()
            for a, b in zip(ours.attentions, theirs.attentions, strict=True)
        ]
    )
    term = Distillation(teacher, weight=0, hidden=2.0, attention=3.0)
    assert term.asks == asks
    assert term(ours, inputs).item() == pytest.approx(2 * hidden + 3 * attention)


def test_columns_put_the_teachers_classes_in_order() -> None:
    order = [2, 0, 1]
    shuffled = torch.empty_like(TEACHER)
    shuffled[:, order] = TEACHER
    plain = Distillation(Fixed(logits=TEACHER))(OUTPUTS, INPUTS)
    mapped = Distillation(Fixed(logits=shuffled), columns=order)(OUTPUTS, INPUTS)
    assert mapped.item() == pytest.approx(plain.item())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Smoothing(1.0), "amount=1.0"),
        (lambda: VirtualTeacher(1.0), "right=1.0"),
        (lambda: SelfRegularization(nn.Linear(1, 1), weight=-1.0), "weight=-1.0"),
        (lambda: SelfRegularization(nn.Linear(1, 1), temperature=0.0), "temperature=0.0"),
        (lambda: SelfRegularization(nn.Linear(1, 1), every=0), "every=0"),
        (lambda: Distillation(nn.Linear(1, 1), hidden=math.nan), "weight=nan"),
        (lambda: Distillation(Fixed(logits=numbers(4, 2)))(OUTPUTS, INPUTS), r"\(4, 2\)"),
        (lambda: Distillation(Fixed(logits=TEACHER), hidden=1.0)(OUTPUTS, INPUTS), "hidden_states"),
    ],
)
def test_bad_settings(make: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()  # type: ignore[operator]
