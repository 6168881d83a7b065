"""Metrics as functions of sums over rows, so that a bootstrap is a matrix product.

Of every record that a task family keeps, a vector is made; the metric is a function of the
vectors' sum. The rules are those of the families' own ``score``, written anew without torch (they
are held to it by tests); only entities come from the library used there.

Spearman's correlation is no function of sums: it is Pearson's of the ranks in the whole set, which
a bootstrap here does not rank anew.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunella.report import texts
from prunella.report.texts import ratio

Record = Mapping[str, Any]
Metric = Callable[[np.ndarray], np.ndarray]

MAX_NATS = 700.0  # a perplexity is at most e to that


@dataclass(frozen=True, eq=False)
class Summands:
    """What each row of dev adds to a metric.

    Attributes:
        rows: ``(rows, terms)``, float64.
        metric: From sums ``(..., terms)`` over as many rows, some of them several times, to the
            metric ``(...)``.
    """

    rows: np.ndarray
    metric: Metric

    @property
    def value(self) -> float:
        """The metric of all rows."""
        return float(self.metric(self.rows.sum(axis=0)))


def summands(metric: str, records: Sequence[Record]) -> Summands | None:
    """What records add to a metric; None where no rule makes the metric of such records.

    Args:
        metric: A headline metric.
        records: Of one split, all of one task family; at least one.

    Raises:
        ValueError: The records are not all of one shape, or hold what is no number.
    """
    family = next((keys for keys in _FAMILIES if keys <= records[0].keys()), None)
    rule = None if family is None else _FAMILIES[family].get(metric)
    if rule is None:
        return None
    try:
        made = rule(records)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a record is not as the metric {metric} needs it ({reason})") from error
    if not np.isfinite(made.rows).all():
        raise ValueError("a record holds NaN or infinite values")
    return made


def _mean_of(values: Sequence[float] | np.ndarray) -> Summands:
    rows = np.asarray(values, dtype=np.float64)[:, None]
    return Summands(rows, lambda sums: sums[..., 0] / len(rows))


def _share(first: int, second: int) -> Metric:
    """One sum over another."""
    return lambda sums: ratio(sums[..., first], sums[..., second])


# --- classes and grades ----------------------------------------------------------------------


def _classes(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and right classes."""
    logits = np.array([record["logits"] for record in records], dtype=np.float64)
    labels = np.array([record["label"] for record in records])
    if logits.ndim != 2 or not np.isfinite(logits).all() or labels.dtype.kind != "i":
        raise ValueError("logits must be rows of finite numbers, and labels classes")
    return logits.argmax(axis=1), labels


def _accuracy(records: Sequence[Record]) -> Summands:
    predictions, labels = _classes(records)
    return _mean_of(predictions == labels)


def _f1_of_class_1(records: Sequence[Record]) -> Summands:
    said, right = _classes(records)
    counts = [(said == 1) & (right == 1), said == 1, right == 1]
    return Summands(np.stack(counts, axis=1).astype(np.float64), _f1_of_counts)


def _f1_of_counts(sums: np.ndarray) -> np.ndarray:
    """From what is right of what is said, what is said, and what is to be."""
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _by_class(metric: Metric) -> Callable[[Sequence[Record]], Summands]:
    """By the counts of every class, (..., 3, classes): found, said and right."""

    def rule(records: Sequence[Record]) -> Summands:
        said, right = _classes(records)
        width = len(records[0]["logits"])
        ours, theirs = (np.eye(width)[part] for part in (said, right))
        rows = np.concatenate([ours * theirs, ours, theirs], axis=1)
        return _counted(rows, metric)

    return rule


def _counted(rows: np.ndarray, metric: Metric) -> Summands:
    shape = (3, rows.shape[1] // 3)
    return Summands(rows, lambda sums: metric(sums.reshape(*sums.shape[:-1], *shape)))


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    found, said, right = np.moveaxis(counts, -2, 0)
    there = (said + right > 0).sum(axis=-1)
    return ratio(ratio(2 * found, said + right).sum(axis=-1), there)


def _balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    found, _, right = np.moveaxis(counts, -2, 0)
    return ratio(ratio(found, right).sum(axis=-1), (right > 0).sum(axis=-1))


def _mcc(counts: np.ndarray) -> np.ndarray:
    # Gorodkin 2004: of two classes it is Matthews' own.
    found, said, right = np.moveaxis(counts, -2, 0)
    rows = right.sum(axis=-1)
    spread = [rows**2 - (part**2).sum(axis=-1) for part in (said, right)]
    both = found.sum(axis=-1) * rows - (said * right).sum(axis=-1)
    return ratio(both, np.sqrt(spread[0] * spread[1]))


# --- several labels a row ----------------------------------------------------------------------


def _by_label(metric: Metric) -> Callable[[Sequence[Record]], Summands]:
    def rule(records: Sequence[Record]) -> Summands:
        parts = ([record[key] for record in records] for key in ("said", "labels"))
        said, right = (np.array(part, np.float64) for part in parts)
        return _counted(np.concatenate([said * right, said, right], axis=1), metric)

    return rule


def _micro_f1(counts: np.ndarray) -> np.ndarray:
    return _f1_of_counts(counts.sum(axis=-1))


def _macro_f1_of_labels(counts: np.ndarray) -> np.ndarray:
    return _f1_of_counts(np.moveaxis(counts, -2, -1)).mean(axis=-1)


def _subset_accuracy(records: Sequence[Record]) -> Summands:
    return _mean_of([record["said"] == record["labels"] for record in records])


def _grades(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and right numbers."""
    said = np.array([np.reshape(record["logits"], ()) for record in records], dtype=np.float64)
    return said, np.array([record["label"] for record in records], dtype=np.float64)


def _correlation(x: np.ndarray, y: np.ndarray) -> Summands:
    # Centred, so that no two large sums are subtracted.
    x, y = x - x.mean(), y - y.mean()
    n = len(x)

    def metric(sums: np.ndarray) -> np.ndarray:
        sx, sy, sxx, syy, sxy = np.moveaxis(sums, -1, 0)
        spread = np.maximum(sxx - sx * sx / n, 0) * np.maximum(syy - sy * sy / n, 0)
        return np.clip(ratio(sxy - sx * sy / n, np.sqrt(spread)), -1, 1)

    return Summands(np.stack([x, y, x * x, y * y, x * y], axis=1), metric)


def _pearson(records: Sequence[Record]) -> Summands:
    return _correlation(*_grades(records))


def _spearman(records: Sequence[Record]) -> Summands:
    said, right = _grades(records)
    return _correlation(_ranks(said), _ranks(right))


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 1, equal values sharing the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


# --- spans -----------------------------------------------------------------------------------

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _words(text: str) -> list[str]:
    """The words by which SQuAD compares answers."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _word_f1(predicted: list[str], answer: list[str]) -> float:
    same = (Counter(predicted) & Counter(answer)).total()
    return 2 * same / max(len(predicted) + len(answer), 1)


def _answers(record: Record) -> tuple[list[str], list[list[str]]]:
    """The words of the prediction and of each answer; of none where none is right.

    Records of the SQuAD that has such questions say how likely it is that there is no answer.
    """
    answers = [_words(text) for text in record["answers"]]
    if "no_answer" in record:
        answers = [answer for answer in answers if answer] or [[]]
    return _words(record["prediction"]), answers


def _answer_f1(record: Record) -> float:
    said, answers = _answers(record)
    if "no_answer" in record and answers == [[]]:
        return float(not said)
    return max(_word_f1(said, answer) for answer in answers)


def _answers_f1(records: Sequence[Record]) -> Summands:
    return _mean_of([_answer_f1(record) for record in records])


def _exact_match(records: Sequence[Record]) -> Summands:
    pairs = map(_answers, records)
    return _mean_of([float(said in answers) for said, answers in pairs])


def _f1_where(answerable: bool) -> Callable[[Sequence[Record]], Summands]:
    def rule(records: Sequence[Record]) -> Summands:
        here = np.array([bool(record["answers"]) == answerable for record in records], np.float64)
        return Summands(
            np.stack([here * [_answer_f1(r) for r in records], here], axis=1), _share(0, 1)
        )

    return rule


# --- tags ------------------------------------------------------------------------------------


def _entities(metric: Metric) -> Callable[[Sequence[Record]], Summands]:
    """By the entities of a sentence: found, said, and right ones."""

    def rule(records: Sequence[Record]) -> Summands:
        from seqeval.metrics.sequence_labeling import (  # type: ignore[import-untyped]
            get_entities,
        )

        counts = np.empty((len(records), 3))
        for row, record in enumerate(records):
            said, right = (set(get_entities(record[key])) for key in ("predictions", "labels"))
            counts[row] = len(said & right), len(said), len(right)
        return Summands(counts, metric)

    return rule


def _entity_f1(sums: np.ndarray) -> np.ndarray:
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _tags(records: Sequence[Record]) -> Summands:
    """Words with the right tag, and words."""
    pairs = [(record["predictions"], record["labels"]) for record in records]
    right = [sum(a == b for a, b in zip(said, tags, strict=True)) for said, tags in pairs]
    return Summands(np.array([right, [len(t) for _, t in pairs]], np.float64).T, _share(0, 1))


# --- texts -----------------------------------------------------------------------------------


def _bleu(records: Sequence[Record]) -> Summands:
    rows = [texts.bleu_counts(record["prediction"], record["references"]) for record in records]
    return Summands(np.array(rows, np.float64), texts.bleu)


def _rouge(n: int | None) -> Callable[[Sequence[Record]], Summands]:
    """The mean over rows, with the nearest reference each."""

    def rule(records: Sequence[Record]) -> Summands:
        return _mean_of([texts.rouge(r["prediction"], r["references"], n) for r in records])

    return rule


# --- next words ------------------------------------------------------------------------------


def _perplexity(records: Sequence[Record]) -> Summands:
    rows = np.array([[record["nll"], record["tokens"]] for record in records], np.float64)
    return Summands(rows, lambda s: np.exp(np.minimum(_share(0, 1)(s), MAX_NATS)))


# By what is in a record, the metrics made of it.
_FAMILIES: dict[frozenset[str], dict[str, Callable[[Sequence[Record]], Summands]]] = {
    frozenset({"logits", "label"}): {
        "accuracy": _accuracy,
        "f1": _f1_of_class_1,
        "macro_f1": _by_class(_macro_f1),
        "balanced_accuracy": _by_class(_balanced_accuracy),
        "mcc": _by_class(_mcc),
        "pearson": _pearson,
        "spearman": _spearman,
    },
    frozenset({"logits", "labels", "said"}): {  # average precision is no function of sums
        "micro_f1": _by_label(_micro_f1),
        "macro_f1": _by_label(_macro_f1_of_labels),
        "subset_accuracy": _subset_accuracy,
    },
    frozenset({"prediction", "answers"}): {
        "f1": _answers_f1,
        "exact_match": _exact_match,
        "has_answer_f1": _f1_where(True),
        "no_answer_f1": _f1_where(False),
    },
    frozenset({"predictions", "labels"}): {
        "f1": _entities(_entity_f1),
        "precision": _entities(_share(0, 1)),
        "recall": _entities(_share(0, 2)),
        "accuracy": _tags,
    },
    frozenset({"prediction", "references"}): {  # chrF's counts are not public
        "bleu": _bleu,
        "rouge1": _rouge(1),
        "rouge2": _rouge(2),
        "rougeL": _rouge(None),
    },
    frozenset({"nll", "tokens"}): {"perplexity": _perplexity},
}
