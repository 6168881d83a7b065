"""How people read metrics: what they are called, and in which unit."""

from __future__ import annotations

NAMES = {"bleu": "BLEU", "chrf": "chrF", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2"}
NAMES |= {"rougeL": "ROUGE-L", "f1": "F1", "mcc": "MCC", "auc": "AUC", "ap": "average precision"}
NAMES |= {"pearson": "Pearson's r", "spearman": "Spearman's ρ"}

# Words in the names of metrics that are fractions of 1: "macro_f1", "average_precision".
FRACTIONS = {
    *("accuracy", "ap", "auc", "f1", "jaccard", "match", "mcc"),
    *("pearson", "precision", "recall", "spearman"),
}


def scale(metric: str) -> float:
    """What to multiply a metric by for people: 100 for fractions of 1, and 1 for others.

    >>> scale("macro_f1"), scale("exact_match"), scale("bleu")
    (100.0, 100.0, 1.0)
    """
    return 100.0 if FRACTIONS & {*metric.lower().split("_")} else 1.0


def called(metric: str) -> str:
    """
    >>> called("bleu"), called("exact_match"), called("macro_f1"), called("pearson")
    ('BLEU', 'exact match', 'macro F1', "Pearson's r")
    """
    return " ".join(NAMES.get(word, word) for word in metric.split("_"))
