"""The embedded default task."""

import hashlib
import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from datasets import Dataset

from prunella.tasks import Splits, TaskError, cut_holdout, demo, get


@pytest.fixture(scope="module")
def splits() -> Splits:
    return get("demo").load(None)


def parts(splits: Splits) -> list[Dataset]:
    return [splits.train, splits.dev["dev"]]


def digest(splits: Splits) -> str:
    rows = [
        f"{row['text']}\t{row['pair']}\t{row['label']}\n"
        for part in parts(splits)
        for row in part.to_list()
    ]
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def test_the_text_is_always_the_same(splits: Splits) -> None:
    # A change of this value is a change of the task: results before and after do not compare.
    assert digest(splits) == "f55ff25b7ae5eb95279a189cbfa66c6e53dca7e80aa7619eed48166e05899b26"
    assert digest(get("demo").load(None)) == digest(splits)


def test_shape_and_balance(splits: Splits) -> None:
    task = get("demo")
    assert (task.labels, task.metrics) == (("negative", "positive", "not mentioned"), ("accuracy",))
    assert list(splits.dev) == ["dev"]
    for part, rows in zip(parts(splits), (6000, 999), strict=True):
        assert part.column_names == ["text", "pair", "label"]
        assert part.features["label"].names == list(task.labels or ())
        assert Counter(part["label"]) == {label: rows // 3 for label in range(3)}


def test_no_text_occurs_twice(splits: Splits) -> None:
    texts = [text for part in parts(splits) for text in part["text"]]
    assert len(set(texts)) == len(texts)


def test_text_is_clean(splits: Splits) -> None:
    for part in parts(splits):
        for text in part["text"]:
            assert text[0].isupper() and text[-1] == "." and text.isascii()
            assert not set(text) & set("{}/\t\n") and "  " not in text
            assert 3 <= len(text.split()) <= 30


def test_a_mentioned_aspect_has_one_of_its_nouns_in_the_text(splits: Splits) -> None:
    nouns = {
        aspect: re.compile(rf"\b({'|'.join(chain(*demo._words(tables[0])))})\b")
        for aspects in demo._DOMAINS.values()
        for aspect, tables in aspects.items()
    }
    for part in parts(splits):
        for row in part.to_list():
            mentioned = nouns[row["pair"]].search(row["text"]) is not None
            assert mentioned is (row["label"] != 2), row


def test_dev_says_things_that_train_does_not(splits: Splits) -> None:
    train = {word for text in splits.train["text"] for word in text[:-1].lower().split()}
    new = [set(text[:-1].lower().split()) - train != set() for text in splits.dev["dev"]["text"]]
    assert 0.2 < sum(new) / len(new) < 0.6


def test_holdout_keeps_the_balance(splits: Splits) -> None:
    rest, holdout = cut_holdout(splits.train, seed=0)
    assert len(rest) > 5300  # a few rows are like one of the holdout
    assert Counter(holdout["label"]) == {label: 200 for label in range(3)}


def test_it_has_no_files(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="drop --data"):
        get("demo").load(tmp_path)
