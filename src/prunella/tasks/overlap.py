"""Which rows share text: words in a row, whatever their case, punctuation and spacing.

Runs of words are compared by their hashes, all of them and exactly, as in the checks of training
data for texts of benchmarks (Brown et al. 2020, "Language Models are Few-Shot Learners", appendix
C; Chowdhery et al. 2022, "PaLM", section 8, whose 8 words these are).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from datasets import Dataset

from prunella.tasks.base import ORIGIN

RUN = 8  # words in a row that two texts do not have in common by chance
FEW = 4  # words; a text of fewer says nothing beside a longer one of the same row
COMMON, COMMON_PART = 20, 0.01  # a run in more texts, and in a greater part of them, is a phrase

_CHUNK = 50_000  # texts that are cut into words together
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers are never 0


@dataclass(frozen=True)
class Texts:
    """The different texts of some rows, as the hashes of their words.

    Attributes:
        words: the hash of each word, one text after the other.
        starts: where each text begins, and after the last where it ends.
        cells: (rows, columns), the number of the text in each cell, -1 for none.
    """

    words: np.ndarray
    starts: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Dataset], columns: Sequence[str] | None = None) -> Texts:
        """The texts of all rows, the parts one after the other.

        Args:
            columns: those that hold text; by default all that hold strings, or lists of such. A
                list is read as one text.
        """
        found = [_strings(part, columns) for part in parts]
        wide = max(map(len, found))
        values = pa.chunked_array([text for part in found for text in part], pa.large_string())
        coded = values.combine_chunks().dictionary_encode()
        codes, end, cells = coded.indices.to_numpy(zero_copy_only=False), 0, []
        for part, texts in zip(parts, found, strict=True):
            of_part = np.full((wide, len(part)), -1)
            of_part[: len(texts)] = codes[end : end + len(texts) * len(part)].reshape(
                len(texts), len(part)
            )
            end += len(texts) * len(part)
            cells.append(of_part.T)
        return cls._of_texts(coded.dictionary, np.concatenate(cells))

    @classmethod
    def _of_texts(cls, texts: pa.Array, cells: np.ndarray) -> Texts:
        known: dict[str, int] = {}
        read = [_words(texts[at : at + _CHUNK], known) for at in range(0, len(texts), _CHUNK)]
        words = np.concatenate([np.empty(0, np.uint64), *(words for words, _ in read)])
        lengths = np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in read)])
        sizes = np.append(lengths, 0)[cells]
        # Beside a longer text, "yes" and "who won?" say nothing of where a row comes from.
        longest = sizes.max(axis=1, keepdims=True, initial=0)
        counts = (sizes >= FEW) | (longest < FEW) & (sizes > 0)
        # Texts that are the same but for case and the like become one: the first.
        _, first, same = np.unique(
            _folded(words, lengths), axis=0, return_index=True, return_inverse=True
        )
        cells = np.where(counts, np.append(first[same.reshape(-1)], -1)[cells], -1)
        kept, numbers = np.unique(cells[counts], return_inverse=True)
        cells[counts] = numbers
        chosen = np.zeros(len(lengths), bool)
        chosen[kept] = True
        words, lengths = words[np.repeat(chosen, lengths)], lengths[chosen]
        return cls(words, np.concatenate([[0], np.cumsum(lengths)]), cells)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @cached_property
    def common(self) -> int:
        """A run, or a short text, that is in more texts than these is a phrase, and ties none."""
        return max(COMMON, int(COMMON_PART * len(self.lengths)))

    def runs(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For 1 to `RUN` words: their number, the hash of each run of so many, and its text."""
        owners = np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)
        left = (self.starts[1:][owners] - np.arange(len(owners))).clip(max=RUN).astype(np.int8)
        hashes = self.words
        for size in range(1, RUN + 1):
            if size > 1:
                hashes = hashes[:-1] * _BASE + self.words[size - 1 :]
            whole = left[: len(hashes)] >= size
            yield size, hashes[whole], owners[: len(hashes)][whole]


def _strings(rows: Dataset, columns: Sequence[str] | None) -> list[pa.Array]:
    """The columns of text, each as an array of strings."""
    known = [name for name in rows.column_names if name != ORIGIN]
    names = [name for name in known if columns is None or name in columns]
    table = rows.select_columns(names).with_format("arrow")[:]
    found = []
    for name in names:
        kind, column = table.schema.field(name).type, table.column(name)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            found.append(pa.concat_arrays(column.cast(pa.large_string()).chunks).fill_null(""))
        elif pa.types.is_nested(kind):
            joined = [_joined(value) for value in column.to_pylist()]
            if any(joined):
                found.append(pa.array(joined, pa.large_string()))
    return found


def _joined(value: Any) -> str:
    """All strings in a value, as one text."""
    if isinstance(value, str):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return " ".join(filter(None, map(_joined, parts)))


def _words(texts: pa.Array, known: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all words of some texts, and how many words each has.

    Case, punctuation, spacing and forms of characters make no difference, nor do the blanks of
    tokenised text ("do n't"). Characters of scripts without blanks are words.

    Args:
        known: the hashes of words so far, which do not depend on the platform.
    """
    plain = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    for pattern, by in (
        (r"\s+(n['’]t)\b", r"\1"),
        (r"([\p{Han}\p{Hiragana}\p{Katakana}])", r" \1 "),
        (r"[^\p{L}\p{M}\p{N}]+", " "),
    ):
        plain = pc.replace_substring_regex(plain, pattern=pattern, replacement=by)
    lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(plain))
    coded = lists.flatten().dictionary_encode()
    vocabulary = coded.dictionary.to_pylist()
    for word in vocabulary:
        if word not in known:
            known[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
    codes = coded.indices.to_numpy(zero_copy_only=False)
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    if "" in vocabulary:  # all there is of an empty text
        blank = codes == vocabulary.index("")
        owners = np.repeat(np.arange(len(lengths)), lengths)
        lengths = lengths - np.bincount(owners[blank], minlength=len(lengths))
        codes = codes[~blank]
    return np.array([known[word] for word in vocabulary], np.uint64)[codes], lengths


def _folded(words: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(texts, 2): the hash of each whole text, and its length."""
    longest = int(lengths.max(initial=0))
    powers = np.cumprod(np.full(longest, _BASE), dtype=np.uint64)
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(words)) - np.repeat(starts, lengths)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(words * powers[places], dtype=np.uint64)])
    return np.stack([sums[starts + lengths] - sums[starts], lengths.astype(np.uint64)], axis=1)


def shared(
    train: Dataset, parts: Mapping[str, Dataset], columns: Sequence[str] | None = None
) -> dict[str, dict[str, int]]:
    """How many rows of some parts share text with the training rows.

    Two rows do if they have `RUN` words in a row in common, if a text of one is whole in one of the
    other's, or if one of train's makes up more than half of it. Phrases do not count: what is in
    more than 1 % of the texts (and in more than 20), and a text that more than half of the training
    rows have.

    Args:
        columns: see `Texts.of`.

    Returns:
        For each part `rows`, `shared`, and of these `whole`: rows all of whose texts are found in
        train, whole or, of those of `RUN` words and more, every `RUN` words of them.
    """
    texts = Texts.of([train, *parts.values()], columns)
    some, every = _found(texts, len(train))
    counts, end = {}, len(train)
    for name, part in parts.items():
        cells = texts.cells[end : end + len(part)]
        end += len(part)
        there = cells >= 0
        counts[name] = {
            "rows": len(part),
            "shared": int(some[cells].any(axis=1).sum()),
            "whole": int(((every[cells] | ~there).all(axis=1) & there.any(axis=1)).sum()),
        }
    return counts


def _found(texts: Texts, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(texts + 1,): whether the first rows have something of a text, and whether all of it.

    No text, -1, is found nowhere.
    """
    cells = texts.cells[:rows]
    copies = np.bincount(cells[cells >= 0], minlength=len(texts.lengths))
    ours, said = copies > 0, 2 * copies <= rows
    some, every = ours & said, ours.copy()
    asked = np.zeros(len(texts.lengths), bool)
    asked[texts.cells[rows:][texts.cells[rows:] >= 0]] = True
    said &= ours
    for size, hashes, owners in texts.runs():
        theirs, of_theirs = hashes[ours[owners]], owners[ours[owners]]
        hashes, owners = hashes[asked[owners]], owners[asked[owners]]
        if size < RUN:
            whole = texts.lengths[owners] == size
            alone = np.unique(hashes[whole])
            alone = np.unique(theirs[among(alone, theirs)])
            found = owners[whole & among(alone, hashes)]
            every[found] = some[found] = True
            given = np.unique(theirs[said[of_theirs] & (texts.lengths[of_theirs] == size)])
            some[owners[among(given, hashes) & (2 * size > texts.lengths[owners])]] = True
        else:
            table, place = np.unique(hashes, return_inverse=True)
            known = among(table, theirs)
            theirs, of_theirs = np.searchsorted(table, theirs[known]), of_theirs[known]
            there = np.bincount(theirs, minlength=len(table)) > 0
            pairs = np.unique(np.stack([theirs, of_theirs], axis=1)[said[of_theirs]], axis=0)
            counts = np.bincount(pairs[:, 0], minlength=len(table))
            some[owners[((counts > 0) & (counts <= texts.common))[place]]] = True
            all_there = asked & (texts.lengths >= RUN)
            all_there[owners[~there[place]]] = False
            every |= all_there
    return np.append(some, False), np.append(every, False)


def among(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which of some values are in a sorted array."""
    if not len(known):
        return np.zeros(len(values), bool)
    return known[np.searchsorted(known, values).clip(max=len(known) - 1)] == values
