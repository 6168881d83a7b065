"""Metrics made of sums over rows are those of the tasks."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from prunella.report.summands import Summands, summands
from prunella.report.texts import bleu
from prunella.tasks import TASKS, Classification, Multilabel, Task, language
from prunella.tasks.classification import MEASURES
from prunella.tasks.generation import Generation
from prunella.tasks.glue import GLUE

Records = list[dict[str, Any]]
WORDS = ("the", "a", "cat", "Dog", "bird", "sat", "ran,", "on", "hill.", "7", "é")


def text(draw: random.Random, least: int = 0, most: int = 12) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))


def classified(draw: random.Random, n: int, classes: int) -> Records:
    return [
        {
            "label": draw.randrange(classes),
            "logits": [round(draw.gauss(0, 1), 1) for _ in range(classes)],  # some are tied
        }
        for _ in range(n)
    ]


def graded(draw: random.Random, n: int) -> Records:
    labels = [round(draw.uniform(0, 5), 1) for _ in range(n)]
    return [{"label": x, "logits": [round(x + draw.gauss(40, 1), 1)]} for x in labels]


def answered(draw: random.Random, n: int, impossible: bool) -> Records:
    least = 0 if impossible else 1
    records: Records = []
    for _ in range(n):
        answers = [text(draw, 1, 4) for _ in range(draw.randint(least, 3))]
        said = draw.choice([*answers, text(draw, 0, 4), ""])
        records.append({"id": "1", "prediction": said, "answers": answers, "score": 0.5})
        if impossible:
            records[-1]["no_answer"] = 1.0
    return records


def tagged(draw: random.Random, n: int) -> Records:
    tags = ("O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    records = []
    for _ in range(n):
        right = draw.choices(tags, k=draw.randint(1, 9))
        said = [tag if draw.random() < 0.7 else draw.choice(tags) for tag in right]
        records.append({"labels": right, "predictions": said})
    return records


def written(draw: random.Random, n: int) -> Records:
    records = []
    for _ in range(n):
        references = [text(draw, 1) for _ in range(draw.randint(1, 3))]
        said = draw.choice([references[0], f"{references[0]} {text(draw)}", text(draw)])
        records.append({"source": "s", "prediction": said, "references": references})
    return records


def read(draw: random.Random, n: int) -> Records:
    return [{"nll": draw.uniform(0, 300), "tokens": draw.randint(1, 60)} for _ in range(n)]


def several(draw: random.Random, n: int) -> Records:
    made = []
    for _ in range(n):
        logits = [draw.gauss(0, 1) for _ in range(3)]
        right, said = [draw.randint(0, 1) for _ in logits], [int(logit >= 0) for logit in logits]
        made.append({"labels": right, "said": said, "logits": logits})
    return made


OF_TEXTS = ("bleu", "rougeL", "rouge1", "rouge2", "chrf")
load = TASKS["d2t/e2e"].load
FAMILIES: list[tuple[Task, Any]] = [
    *(
        (
            replace(task, measures=MEASURES[True]),  # of two classes
            lambda draw, n: classified(draw, n, 2),
        )
        for task in GLUE
        if task.name == "glue/cola"
    ),
    (TASKS["glue/mnli"], lambda draw, n: classified(draw, n, 3)),
    (
        Classification("classification", load, tuple("abcd"), MEASURES[False], pair=False),
        lambda draw, n: classified(draw, n, 4),
    ),
    (Multilabel("multilabel", load, tuple("abc"), pair=False), several),
    (TASKS["glue/stsb"], graded),
    (TASKS["qa/squad"], lambda draw, n: answered(draw, n, False)),
    (TASKS["qa/squad_v2"], lambda draw, n: answered(draw, n, True)),
    (TASKS["ner/conll2003"], tagged),
    (Generation("text2text", load=load, measures=OF_TEXTS), written),
    (language("lm/causal", None), read),
]


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize(("task", "make"), FAMILIES, ids=[task.name for task, _ in FAMILIES])
def test_the_metric_is_the_tasks_own(task: Task, make: Any, rows: int) -> None:
    for seed in range(5):
        records = make(random.Random(seed), rows)
        for metric, value in task.score(records).items():
            made = summands(metric, records)
            if metric in ("chrf", "micro_ap", "macro_ap"):
                assert made is None
                continue
            assert made is not None and len(made.rows) == rows
            if metric == "spearman" and rows == 2:
                continue  # of two equal ranks torchmetrics makes something of its own
            assert made.value == pytest.approx(value, rel=1e-5, abs=1e-6), metric


@pytest.mark.parametrize(("task", "make"), FAMILIES, ids=[task.name for task, _ in FAMILIES])
def test_rows_that_come_several_times_count_so_often(task: Task, make: Any) -> None:
    draw = random.Random(7)
    records = make(draw, 30)
    places = [draw.randrange(30) for _ in range(30)]
    counts = np.bincount(places, minlength=30)
    for metric, value in task.score([records[place] for place in places]).items():
        made = summands(metric, records)
        if made is not None and metric != "spearman":  # whose ranks are those of the whole set
            assert made.metric(counts @ made.rows) == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_the_metric_takes_many_sums_at_once() -> None:
    for task, make in FAMILIES:
        records = make(random.Random(3), 20)
        counts = np.random.default_rng(0).multinomial(20, [1 / 20] * 20, size=(2, 3))
        for metric in task.metrics:
            made = summands(metric, records)
            if made is not None:
                together = made.metric(counts @ made.rows)
                one_by_one = [[made.metric(c @ made.rows) for c in part] for part in counts]
                np.testing.assert_allclose(together, one_by_one, rtol=1e-12)


def test_bleu_is_sacrebleus_also_where_nothing_matches() -> None:
    cases: Sequence[Sequence[int]] = (
        (5, 3, 1, 0, 9, 8, 7, 6, 9, 11),
        (5, 0, 0, 0, 9, 8, 7, 6, 9, 8),
        (2, 1, 0, 0, 2, 1, 0, 0, 2, 2),  # too short for n-grams of three
        (0, 0, 0, 0, 9, 8, 7, 6, 9, 11),
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 4),
        (9, 8, 7, 6, 9, 8, 7, 6, 9, 9),
    )
    for *counts, written, wanted in cases:
        right, found = counts[:4], counts[4:]
        score = BLEU.compute_bleu(right, found, written, wanted, smooth_method="exp").score
        assert bleu(np.array([*counts, written, wanted])) == pytest.approx(score)


@pytest.mark.parametrize(
    "records",
    [
        [{"label": 0, "logits": [0.1, 0.2]}, {"label": 0}],
        [{"label": 0, "logits": [0.1, 0.2]}, {"label": 0, "logits": [0.1]}],
        [{"label": 0, "logits": [0.1, math.nan]}],
        [{"label": "good", "logits": [0.1, 0.2]}],
        [{"label": 0, "logits": "good"}],
        [{"label": 0, "logits": [0.1, 0.2]}, {"label": 1, "logits": {"a": 1}}],
        [{"label": 0, "logits": None}],
    ],
)
def test_records_that_do_not_fit_are_refused(records: Records) -> None:
    with pytest.raises(ValueError, match="record"):
        summands("accuracy", records)


@pytest.mark.parametrize("records", [[{}], [{"nll": 1.0, "tokens": 1}], [{"label": 0}]])
def test_records_of_another_kind_make_no_accuracy(records: Records) -> None:
    assert summands("accuracy", records) is None


def test_constant_predictions_have_no_correlation() -> None:
    made = summands("pearson", [{"label": float(i), "logits": [2.0]} for i in range(5)])
    assert isinstance(made, Summands)
    assert made.value == 0
