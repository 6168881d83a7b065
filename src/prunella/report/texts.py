"""How near written texts are to references: BLEU and ROUGE, row by row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

NGRAMS = 4  # of BLEU, up to


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """With 0 where something is divided by 0."""
    return np.divide(
        numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator != 0
    )


# --- BLEU ------------------------------------------------------------------------------------


def bleu_counts(prediction: str, references: Sequence[str]) -> list[int]:
    """Right n-grams of each order up to four, all n-grams of each, and two lengths in words.

    The lengths are those of the prediction and of the reference nearest to it in length. All as
    sacreBLEU counts by default, on its 13a tokens.
    """
    words = _words(prediction)
    known, lengths = _known(tuple(references))
    right, all_ = [0] * NGRAMS, [0] * NGRAMS
    for gram, count in _grams(words).items():
        all_[len(gram) - 1] += count
        right[len(gram) - 1] += min(count, known.get(gram, 0))
    nearest = min(lengths, key=lambda length: (abs(length - len(words)), length))
    return [*right, *all_, len(words), nearest]


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU with exponential smoothing, as sacreBLEU has it, from ``(..., 10)`` to ``(...)``."""
    right, all_ = sums[..., :NGRAMS], sums[..., NGRAMS : 2 * NGRAMS]
    written, wanted = sums[..., -2], sums[..., -1]
    # Every order without a right n-gram is taken for half as right as the one before.
    halvings = 2.0 ** np.cumsum(right == 0, axis=-1)
    precisions = ratio(np.where(right == 0, 1 / halvings, right), all_)
    with np.errstate(divide="ignore"):
        score = 100 * np.exp(np.log(precisions).mean(axis=-1))
    brevity = np.exp(np.minimum(1 - ratio(wanted, written), 0))
    return np.where((right.sum(axis=-1) == 0) | (written == 0), 0.0, score * brevity)


def _words(text: str) -> list[str]:
    return str(_tokenizer()(text.rstrip())).split()


@lru_cache
def _tokenizer() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


@lru_cache(maxsize=2**14)  # all runs on a task have the same references
def _known(references: tuple[str, ...]) -> tuple[Counter[tuple[str, ...]], list[int]]:
    """How often each n-gram is in a reference, at most, and how long the references are."""
    most: Counter[tuple[str, ...]] = Counter()
    lengths = []
    for reference in references:
        words = _words(reference)
        lengths.append(len(words))
        most |= _grams(words)
    return most, lengths


def _grams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    grams: Counter[tuple[str, ...]] = Counter()
    for n in range(1, NGRAMS + 1):
        grams.update(zip(*(words[start:] for start in range(n)), strict=False))
    return grams


# --- ROUGE -----------------------------------------------------------------------------------


def rouge(prediction: str, references: Sequence[str], n: int | None) -> float:
    """ROUGE's F1 from 0 to 100, of n-grams or, without n, of the longest common subsequence.

    With the reference for which it is highest, on lower-case ASCII letters and digits.
    """
    said = _letters(prediction)
    return 100 * max(_f1(said, _letters(reference), n) for reference in references)


def _letters(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def _f1(said: list[str], right: list[str], n: int | None) -> float:
    if n is None:
        return 2 * _common(said, right) / max(len(said) + len(right), 1)
    ours, theirs = (Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (said, right))
    return 2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence, by bits (Hyyrö 2004).

    >>> _common("the cat sat on it".split(), "a cat on the mat".split())
    2
    """
    places: dict[str, int] = {}
    for place, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(a)) - 1
    rest = full
    for word in b:
        hits = rest & places.get(word, 0)
        rest = ((rest + hits) | (rest - hits)) & full
    return len(a) - rest.bit_count()
