"""Which file is which part of the data; files that are none; what is said of test."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import corpora
import pytest
from datasets import Dataset, DatasetDict
from folders import predictions_of, result_of

from prunella.cli import main
from prunella.errors import UsageError
from prunella.experiments import data
from prunella.experiments.config import RunConfig
from prunella.tasks import Splits, TaskError

GOOD, BAD = ("good", "fine", "lovely", "warm"), ("bad", "poor", "awful", "cold")
Write = Callable[[Path, int], None]


def texts(count: int) -> list[tuple[str, str]]:
    """Texts and labels."""
    return [
        (f"{(GOOD if n % 2 else BAD)[n % 3]} film {n}", "yes" if n % 2 else "no")
        for n in range(count)
    ]


def csv(path: Path, count: int, labels: bool = True) -> None:
    rows = [f"{text},{label}" if labels else text for text, label in texts(count)]
    path.write_text("\n".join(["text,label" if labels else "text", *rows]) + "\n")


def conll(path: Path, count: int) -> None:
    path.write_text("\n\n".join("a O\ncity B-LOC\nof O" for _ in range(count)) + "\n")


def running(path: Path, count: int) -> None:
    path.write_text("".join(f"{text} is a film\n" for text, _ in texts(count)))


def pairs(path: Path, count: int) -> None:
    rows = [{"source": text, "target": label} for text, label in texts(count)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


FORMS: dict[str, tuple[str, Write]] = {
    "classification": (".csv", csv),
    "ner/columns": (".conll", conll),
    "lm/causal": (".txt", running),
    "text2text": (".jsonl", pairs),
}


def load(task: str, folder: Path, test: Path | None = None) -> Splits:
    config = RunConfig(task=task, data=str(folder), test_data=None if test is None else str(test))
    return data.task(config).load(folder if "/" in task and "columns" not in task else None)


@pytest.mark.parametrize("task", FORMS)
@pytest.mark.parametrize("dev", ["dev", "val", "valid", "validation", "eval", "Val"])
def test_names_of_dev_and_test(task: str, dev: str, tmp_path: Path) -> None:
    suffix, write = FORMS[task]
    for name, count in (("train", 30), (dev, 4), ("test", 6)):
        write(tmp_path / f"{name}{suffix}", count)
    splits = load(task, tmp_path)
    assert isinstance(splits.train, Dataset) and splits.test is not None
    assert [len(part) for part in (splits.train, splits.dev["dev"], splits.test)] == [30, 4, 6]


@pytest.mark.parametrize("task", FORMS)
def test_a_file_for_test_that_is_asked_for(task: str, tmp_path: Path) -> None:
    suffix, write = FORMS[task]
    (tmp_path / "set").mkdir()
    for name, count in (("set/train", 30), ("set/test", 6), ("other", 5)):
        write(tmp_path / f"{name}{suffix}", count)
    test = tmp_path / f"other{suffix}"
    for where in (tmp_path / "set", tmp_path / "set" / f"train{suffix}"):
        found = load(task, where, test).test
        assert found is not None and len(found) == 5
    with pytest.raises(TaskError, match="nowhere"):
        load(task, tmp_path / "set", tmp_path / f"nowhere{suffix}")


def test_conversations_and_saved_sets(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    for name, count in (("train", 30), ("val", 4), ("test", 3)):
        (tmp_path / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * count)
    splits = load("chat", tmp_path)
    assert splits.test is not None and (len(splits.dev["dev"]), len(splits.test)) == (4, 3)
    rows = Dataset.from_list([{"text": text, "label": label} for text, label in texts(30)])
    parts = {"train": rows, "valid": rows.select(range(4)), "test": rows.select(range(5))}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    splits = load("classification", tmp_path / "saved")
    assert splits.test is not None and (len(splits.dev["dev"]), len(splits.test)) == (4, 5)


def test_files_that_are_no_part_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train.csv", "dev.csv", "extra.csv", "old-train.csv", "notes.doc"):
        csv(tmp_path / name, 30)
    for name in ("README.md", ".DS_Store", "LICENSE"):
        (tmp_path / name).write_text("about it\n")
    for _ in range(2):
        load("classification", tmp_path)
    (said,) = [r.getMessage() for r in caplog.records if "not used" in r.getMessage()]
    assert said == f"{tmp_path}: not used: extra.csv, notes.doc, old-train.csv"


@pytest.mark.parametrize("labels", ["no column", "blank", "-1"])
def test_a_test_file_without_labels_is_passed_over_and_that_is_said(
    labels: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    csv(tmp_path / "train.csv", 30)
    csv(tmp_path / "test.csv", 5, labels=False)
    if labels != "no column":
        rows = (f"{text},{'' if labels == 'blank' else labels}" for text, _ in texts(5))
        (tmp_path / "test.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    with caplog.at_level(logging.WARNING):
        assert load("classification", tmp_path).test is None
    assert "test.csv is not evaluated, for it cannot be read with labels: " in caplog.text
    with pytest.raises(TaskError, match=r"test\.csv"):
        load("classification", tmp_path, tmp_path / "test.csv")


PUBLIC: dict[str, tuple[Callable[[Path], None], str]] = {
    "qa/squad": (corpora.asked, "test.json"),
    "ner/conll2003": (corpora.conll, "eng.testb"),
    "d2t/e2e": (corpora.described, "test.jsonl"),
    "glue/stsb": (corpora.graded, "test.tsv"),
}


@pytest.mark.parametrize("task", PUBLIC)
@pytest.mark.parametrize("asked", [False, True], ids=["found", "asked for"])
def test_public_sets_with_a_test_part(task: str, asked: bool, tmp_path: Path) -> None:
    make, name = PUBLIC[task]
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    assert load(task, tmp_path / "set").test is None
    dev = next(
        path
        for path in (tmp_path / "set").iterdir()
        if "dev" in path.name or path.suffix == ".testa"
    )
    target = tmp_path / f"mine{dev.suffix}" if asked else tmp_path / "set" / name
    target.write_bytes(dev.read_bytes())
    splits = load(task, tmp_path / "set", target if asked else None)
    assert splits.test is not None and splits.test.to_dict() == splits.dev["dev"].to_dict()


def test_glue_s_own_test_file_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpora.graded(tmp_path)
    (tmp_path / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert load("glue/stsb", tmp_path).test is None
    assert "test.tsv is not evaluated" in caplog.text and "no column score" in caplog.text


def test_the_demonstration_has_no_file_for_test() -> None:
    with pytest.raises(UsageError, match="--test-data is for tasks on files"):
        data.task(RunConfig(test_data="a.csv"))


def test_a_run_evaluates_test_once_at_the_end(
    bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("train", 60), ("val", 9), ("test", 7)):
        csv(tmp_path / f"{name}.csv", count)
    where = ["--model", str(bert), "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    flags = "--task classification --max-steps 24 --batch-size 8 --begin 3 --every 2 --max-drop 0.9"
    levels = ["--levels", "0.3", "--levels", "0.6", "--criterion", "magnitude"]
    assert main(["prune", *flags.split(), *levels, *where]) == 0
    result = result_of(tmp_path / "out")
    assert set(result["metrics"]) == {"train", "holdout", "dev", "test"}
    assert set(result["baseline"]["metrics"]["test"]) == set(result["metrics"]["dev"])
    assert result["data"]["test"]["rows"] == result["overlap"]["test"]["rows"] == 7
    assert set(result["max_drop"]["worth"]) == {"dev", "test"}
    splits = [row["split"] for row in predictions_of(tmp_path / "out")]
    assert splits.count("test") == 2 * 7 and splits.count("dev") == 2 * 9
    out = " ".join(capfd.readouterr().out.split())
    assert "test (7 rows) is used once, at the end" in out and "test accuracy" in out
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "r.html")]) == 0
