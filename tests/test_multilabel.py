"""Any number of labels a row: metrics, the loss's terms, and a whole run."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import assert_refused
from sklearn import metrics as sklearn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import kl_div
from transformers import AutoTokenizer, BertForSequenceClassification

import prunella
from prunella.cli import main
from prunella.errors import UsageError
from prunella.regularizers import (
    Distillation,
    Predictions,
    SelfRegularization,
    Smoothing,
    VirtualTeacher,
    confidence,
    divergence,
    smoothing,
    task_loss,
)
from prunella.tasks import Multilabel, Reader, TaskError, table
from prunella.tasks.form import Form

LABELS = ("billing", "other", "urgent")
RAMP = "--batch-size 8 --max-steps 12 --begin 2 --end 8 --every 2 --check-every 4"
RAMP += " --sparsity 0.5 --criterion magnitude"


def write(path: Path, rows: list[tuple[str, Any]]) -> Path:
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def notes(count: int = 60) -> list[tuple[str, Any]]:
    """Rows with one, two and no labels, in words that tell them."""
    kinds = (
        (("good", "fine"), ["billing"]),
        (("bad", "poor"), ["urgent", "other"]),
        (("cold",), []),
    )
    rows = []
    for number in range(count):
        words, labels = kinds[number % 3]
        text = [random.Random(number).choice(words) for _ in range(3)]
        rows.append((" ".join([*text, f"word{number}"]), labels))
    return rows


def make(data: Path, separator: str | None = None, form: Form | None = None) -> Multilabel:
    task = table(
        "multilabel",
        data,
        text="text",
        pair=None,
        label="label",
        separator=separator,
        form=form or Form(),
    )
    assert isinstance(task, Multilabel)
    return task


# --- rows --------------------------------------------------------------------------------------


def test_lists_and_cells_with_a_separator_say_the_same(tmp_path: Path) -> None:
    made = make(write(tmp_path / "a.jsonl", notes()))
    path = tmp_path / "a.csv"
    lines = [f"{text},{' | '.join(labels)}" for text, labels in notes()]
    path.write_text("\n".join(["text,label", *lines]))
    same = make(path, separator="|")
    assert made.labels == same.labels == LABELS
    assert made.head()["problem_type"] == "multi_label_classification"
    for task in (made, same):
        rows = task.load(None).train
        assert {tuple(row) for row in rows["label"]} == {(0,), (1, 2), ()}
    assert made.load(None).train.to_dict() == same.load(None).train.to_dict()
    with pytest.raises(TaskError, match=r"a\.csv:2: .* where a list .*say by --label-separator"):
        make(path)


@pytest.mark.parametrize("spell", [json.dumps, str], ids=["JSON", "Python"])
@pytest.mark.parametrize("separator", [None, ","])
def test_lists_that_a_table_spells_out(
    spell: Callable[[list[str]], str], separator: str | None, tmp_path: Path
) -> None:
    """As pandas writes them to CSV; no bracket or quote becomes part of a label."""
    made = make(write(tmp_path / "a.jsonl", notes()))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerows([("text", "label"), *((text, spell(labels)) for text, labels in notes())])
    same = make(tmp_path / "a.csv", separator=separator)
    assert same.labels == LABELS
    assert made.load(None).train.to_dict() == same.load(None).train.to_dict()


def test_rows_whose_labels_are_no_list_of_names(tmp_path: Path) -> None:
    odd = [("a", None), ("b", ["x", ""]), ("c", ["x", "x"]), ("d", "x"), ("e", [0, 1, 0])]
    path = write(tmp_path / "a.jsonl", [*notes(), *odd])
    with pytest.raises(TaskError, match=r":61: column 'label' holds None.*5 of 65 rows"):
        make(path)
    assert make(path, form=Form(skip=True)).labels == LABELS
    write(tmp_path / "dev.jsonl", [("a", ["other", "new"]), ("b", [])])
    write(tmp_path / "train.jsonl", notes())
    path.unlink()
    with pytest.raises(TaskError, match=r"dev\.jsonl:1: unknown label 'new': .*known are billing"):
        make(tmp_path)
    write(tmp_path / "train.jsonl", [("a", ["x"]), ("b", [])])
    with pytest.raises(TaskError, match="column 'label' holds the label 'x' alone; labels must"):
        make(tmp_path)


def test_the_task_for_several_labels_is_named(
    tmp_path: Path, bert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path / "a.jsonl", notes()))
    given = ["prune", "--model", str(bert), "--data", path, "--task", "classification"]
    assert main([*given, "--output", str(tmp_path / "out")]) == 2
    assert_refused(capfd, ["several labels a row are for --task multilabel"])


# --- metrics -----------------------------------------------------------------------------------


def records(task: Multilabel, right: np.ndarray, logits: np.ndarray) -> list[dict[str, Any]]:
    said = (1 / (1 + np.exp(-logits)) >= task.label_threshold).astype(int)
    return [
        {"labels": a, "said": b, "logits": c}
        for a, b, c in zip(right.tolist(), said.tolist(), logits.tolist(), strict=True)
    ]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_metrics_are_those_of_scikit_learn(threshold: float) -> None:
    rng = np.random.default_rng(0)
    task = Multilabel("multilabel", lambda _: None, ("a", "b", "c", "d"), False, threshold)  # type: ignore[arg-type,return-value]
    right = (rng.random((50, 4)) < [0.5, 0.2, 0.8, 0.1]).astype(int)
    logits = rng.normal(size=(50, 4)) + right
    made = records(task, right, logits)
    said = np.array([record["said"] for record in made])
    assert task.score(made) == pytest.approx(
        {
            "micro_f1": sklearn.f1_score(right, said, average="micro"),
            "macro_f1": sklearn.f1_score(right, said, average="macro"),
            "subset_accuracy": sklearn.accuracy_score(right, said),
            "micro_ap": sklearn.average_precision_score(right, logits, average="micro"),
            "macro_ap": sklearn.average_precision_score(right, logits, average="macro"),
        }
    )
    figures = sklearn.precision_recall_fscore_support(right, said)
    for index, found in enumerate(task.by_class(made).values()):
        assert list(found.values()) == pytest.approx([part[index] for part in figures])
    nothing = task.score(records(task, np.zeros((3, 4), int), np.full((3, 4), -9.0)))
    assert nothing == {**dict.fromkeys(task.metrics, 0.0), "subset_accuracy": 1.0}
    with pytest.raises(TaskError, match="no rows to evaluate"):
        task.score([])


# --- terms of the loss -------------------------------------------------------------------------


def predictions(seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 3, generator=generator)
    targets = (torch.rand(5, 3, generator=generator) < 0.5).float()
    return Predictions.of(logits, {"labels": targets}, several=True)


def test_each_label_is_a_yes_or_no_of_its_own() -> None:
    student, teacher = predictions(0), predictions(1)
    assert student.targets is not None
    yes = bce(student.logits, student.targets, reduction="none")
    torch.testing.assert_close(task_loss(student), yes.mean(-1))
    for temperature in (1.0, 3.0):
        ours, theirs = (torch.sigmoid(p.logits / temperature) for p in (student, teacher))
        each = [
            kl_div(p.log(), q, reduction="none")
            for p, q in ((ours, theirs), (1 - ours, 1 - theirs))
        ]
        expected = temperature**2 * (each[0] + each[1]).mean(-1)
        torch.testing.assert_close(divergence(student, teacher, temperature), expected)
    smooth = bce(student.logits, 0.9 * student.targets + 0.05, reduction="none").mean(-1)
    torch.testing.assert_close(task_loss(student) + smoothing(student, 0.1), smooth)
    sure = Predictions.of(torch.tensor([[0.0, 0.0], [90.0, -90.0]]), {}, several=True)
    torch.testing.assert_close(confidence(sure), torch.tensor([0.0, 1.0]))
    assert torch.isfinite(divergence(sure, Predictions.of(-sure.logits, {}, several=True))).all()


def classifier(bert: Path, problem: str | None, labels: int = 3) -> BertForSequenceClassification:
    model = BertForSequenceClassification.from_pretrained(
        bert, num_labels=labels, problem_type=problem, ignore_mismatched_sizes=True
    )
    return model.eval()


def test_terms_fit_the_labels_or_are_refused(bert: Path) -> None:
    several, single = (
        classifier(bert, f"{kind}_label_classification") for kind in ("multi", "single")
    )
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[1.0, 0.0, 1.0]])}
    outputs = several(**batch)
    for term in (Smoothing(), VirtualTeacher(), Distillation(single)):
        with pytest.raises(UsageError, match=r"several=True|so take that|problem_type"):
            term.begin(several)
    for term in (Smoothing(several=True), Distillation(several)):
        with pytest.raises(UsageError, match=r"several=False|problem_type"):
            term.begin(single)
    with pytest.raises(UsageError, match=r"tell Smoothing\(several=True\)"):
        Smoothing()(outputs, batch)
    student = Predictions.of(outputs, batch, several=True)
    kept = SelfRegularization(several)
    kept.begin(several)
    assert kept(outputs, batch) == 0
    kept.take()
    torch.testing.assert_close(kept(outputs, batch), torch.tensor(0.0), atol=1e-6, rtol=0)
    for kind, weight in (("adaptive", None), (0.5, 0.5)):
        term = SelfRegularization(several, kind)  # type: ignore[arg-type]
        term.snapshot.take()
        moved = -confidence(student) * task_loss(student)
        expected = moved if weight is None else torch.zeros(1)
        torch.testing.assert_close(term(outputs, batch), expected.mean(), atol=1e-6, rtol=0)
    other = classifier(bert, "multi_label_classification")
    term = Distillation(other, columns=[2, 1, 0])
    term.begin(several)
    theirs = Predictions.of(other(batch["input_ids"]).logits[:, [2, 1, 0]], {}, several=True)
    torch.testing.assert_close(term(outputs, batch), divergence(student, theirs, 2.0).mean())


# --- a whole run -------------------------------------------------------------------------------


def test_a_run_its_twin_its_teacher_and_its_report(
    tmp_path: Path, bert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "train.jsonl", notes(90)).parent
    write(data / "dev.jsonl", notes(30))

    def run(output: str, *flags: str) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / output
        given = ["--model", str(bert), "--task", "multilabel", "--data", str(data)]
        given += [*RAMP.split(), "--output", str(folder), *flags]
        assert main(["prune", *given]) == 0, capfd.readouterr().err
        return folder, json.loads((folder / "result.json").read_text())

    teacher, _ = run("teacher", "--criterion", "dense", "--sparsity", "0.8")
    terms = "--regularize self --regularize distill --regularize smoothing --snapshot-every 4"
    folder, result = run(
        "out", *terms.split(), "--teacher", str(teacher), "--label-threshold", "0.3"
    )
    out = capfd.readouterr().out
    assert "train sample" in out and "billing" in out
    assert next(iter(result["metrics"]["dev"])) == "micro_f1"
    assert result["metrics_of"]["dev"] == 30
    assert set(result["by_class"]["dev"]) == set(LABELS)
    assert result["task"]["label_threshold"] == 0.3
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["id2label"].values()) == list(LABELS)

    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    task = Multilabel("multilabel", lambda _: None, LABELS, False, 0.3)  # type: ignore[arg-type,return-value]
    assert task.score(lines) == pytest.approx(result["metrics"]["dev"])
    sparse, dense = prunella.load(folder), prunella.runtime.checkpoint.load(folder, "dense")
    inputs = torch.tensor([[5, 9, 11, 6]])
    with torch.no_grad():
        torch.testing.assert_close(
            sparse(inputs).logits, dense(inputs).logits, atol=1e-4, rtol=1e-4
        )

    refused = ["prune", "--model", str(bert), "--task", "multilabel", "--data", str(data)]
    refused += [*RAMP.split(), "--output", str(tmp_path / "no")]
    for flags, words in (
        ("--regularize virtual-teacher", ["label smoothing"]),
        ("--class-weights balanced", ["--class-weights is for tasks of one class a row"]),
        ("--label-threshold 1.5", ["--label-threshold 1.5 is a probability"]),
    ):
        assert main([*refused, *flags.split()]) == 2
        assert_refused(capfd, words)
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    assert "micro F1" in (tmp_path / "report.html").read_text()


def test_features_are_yes_and_no_of_each(tmp_path: Path, bert: Path) -> None:
    task = make(write(tmp_path / "a.jsonl", notes()))
    reader = Reader(AutoTokenizer.from_pretrained(bert), 16)
    rows = {"text": ["good", "bad"], "label": [[0], []], "row": [0, 1]}
    features = task.features(rows, reader, training=True)
    assert features["labels"] == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    model = classifier(bert, "multi_label_classification")
    batch = task.collator(reader.tokenizer, model)(
        [{n: features[n][i] for n in ("input_ids", "attention_mask", "labels")} for i in range(2)]
    )
    assert batch["labels"].dtype == torch.float32 and model(**batch).loss > 0
