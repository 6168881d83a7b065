"""Rows are tokenised once, and what is kept on disk is never taken for something else."""

from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer

from prunella.errors import UsageError
from prunella.experiments.encoding import encode, fingerprint, stream
from prunella.experiments.models import locate
from prunella.tasks import Classification, Reader, Splits, get


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    return tmp_path / "prunella"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(AutoTokenizer.from_pretrained(locate("demo")), max_length=16)


def rows(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": [0.5] * len(texts)})


TASK = replace(get("glue/stsb"), pair=False)  # type: ignore[call-arg]


def made(store: Path) -> int:
    return len(list(store.glob("*.arrow")))


def test_the_same_rows_are_read_from_disk(
    store: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, about = encode(rows("one", "two words"), TASK, reader, training=True, name="train")
    assert first["length"] == [3, 4]
    assert first["row"] == [0, 1]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(Reader, "read", never)
    again, same = encode(rows("one", "two words"), TASK, reader, training=True, name="train")
    assert again.to_dict() == first.to_dict()
    assert same == about == fingerprint(rows("one", "two words"))
    assert made(store) == 1


def test_what_differs_is_kept_apart(store: Path, reader: Reader) -> None:
    text = rows("one two three four five")
    encode(text, TASK, reader, training=True, name="train")
    encode(text, TASK, reader, training=False, name="train")
    short, _ = encode(text, TASK, replace(reader, max_length=4), training=True, name="train")
    assert short["length"] == [4]
    encode(rows("one"), TASK, reader, training=True, name="train")
    encode(text, replace(TASK, name="mine"), reader, training=True, name="train")
    other = AutoTokenizer.from_pretrained(locate("demo"), do_lower_case=False)
    other.add_tokens(["three"])
    encode(text, TASK, replace(reader, tokenizer=other), training=True, name="train")
    assert made(store) == 6


def test_the_tokenizers_last_truncation_is_no_difference(store: Path, reader: Reader) -> None:
    encode(rows("one"), TASK, reader, training=True, name="train")
    reader.tokenizer("one two three", truncation=True, max_length=3, padding="max_length")
    encode(rows("one"), TASK, reader, training=True, name="train")
    assert made(store) == 1


def test_an_error_leaves_nothing_to_be_taken_for_features(store: Path, reader: Reader) -> None:
    strict = replace(reader, max_length=3, truncate=False)
    for _ in range(2):
        with pytest.raises(ValueError, match="'two words' has 4 tokens, and 3 are allowed"):
            encode(rows("one", "two words"), TASK, strict, training=True, name="train")
    assert made(store) == 0


@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_file_is_made_anew(left: int, store: Path, reader: Reader) -> None:
    first, _ = encode(rows("one", "two words"), TASK, reader, training=True, name="train")
    known = first.to_dict()
    del first
    (file,) = store.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:left])
    again, _ = encode(rows("one", "two words"), TASK, reader, training=True, name="train")
    assert again.to_dict() == known


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot be kept in .*HF_DATASETS_CACHE"):
        encode(rows("one"), TASK, reader, training=True, name="train")


def test_a_stream_is_read_as_needed_and_in_the_same_order_every_time(reader: Reader) -> None:
    def texts() -> object:
        for number in range(5000):
            yield {"text": f"text {number}", "label": 0.0}

    task = Classification(
        "mine", lambda _: Splits(source, {}), labels=None, measures=("pearson",), pair=False
    )
    source = IterableDataset.from_generator(texts)
    first = [row["input_ids"] for row in stream(source, task, reader, seed=1).take(20)]
    assert [row["input_ids"] for row in stream(source, task, reader, seed=1).take(20)] == first
    assert [row["input_ids"] for row in stream(source, task, reader, seed=2).take(20)] != first
    assert first[0][0] == reader.tokenizer.cls_token_id
