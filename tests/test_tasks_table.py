"""Tasks on the user's own tables: formats, classes, the dev set, and each way to be wrong."""

import csv
import datetime
import io
import json
import logging
import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Value
from pyarrow import parquet
from sklearn import metrics

from prunella.tasks import Classification, Splits, TaskError, cut_holdout
from prunella.tasks.classification import MEASURES
from prunella.tasks.table import table, texts

Kind = Literal["classification", "regression"]
FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")
# What a reader is tempted to take for something else.
TRICKY = ("NA", "null", "007", "1.50", "nan", "True", "-", "é, 'x'\t\"y\"", '"', "a\nb", "a\r\nb")
LINE_ENDS = ("a\u2028b", "a\u2029b", "a\x85b", "a\x0bb", "a\x0cb", "a\x1cb", "a\rb")


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows in the format of the suffix."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif suffix in (".json", ".jsonl"):
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    else:
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, rows[0], delimiter="\t" if suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(out.getvalue().encode())
    return path


def labelled(labels: Sequence[Any], start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"text {start + i}", "label": label} for i, label in enumerate(labels)]


def make(data: Path, kind: Kind = "classification", pair: str | None = None) -> Classification:
    return table(kind, data, text="text", pair=pair, label="label")


def parts(task: Classification) -> tuple[Dataset, Dataset]:
    splits = task.load(None)
    assert list(splits.dev) == ["dev"]
    return splits.train, splits.dev["dev"]


def whole(folder: Path, suffix: str, rows: Sequence[dict[str, Any]], kind: Kind) -> Classification:
    """A task with the rows as train and as dev, so that none is cut off."""
    write(folder / f"dev.{suffix}", rows)
    return make(write(folder / f"train.{suffix}", rows).parent, kind)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: Kind, suffix: str) -> None:
    texts = [*TRICKY, *LINE_ENDS]
    labels = [0.25 * i for i in range(len(texts))] if kind == "regression" else ["NA", "null"] * 9
    rows = [
        {"id": i, "b": text[::-1], "y": label, "a": text}
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    write(tmp_path / f"validation.{suffix}", rows[:3])
    write(tmp_path / f"train.{suffix}", rows)
    task = table(kind, tmp_path, text="a", pair="b", label="y")
    train, dev = parts(task)
    expected = labels if kind == "regression" else [0, 1] * 9
    columns = {"text": texts, "pair": [text[::-1] for text in texts], "label": expected}
    assert train.to_dict() == columns
    assert dev.to_dict() == {name: values[:3] for name, values in columns.items()}
    assert train.column_names == dev.column_names == ["text", "pair", "label"]
    label = Value("float32") if kind == "regression" else ClassLabel(names=["NA", "null"])
    for part in (train, dev):
        assert part.features == {"text": Value("string"), "pair": Value("string"), "label": label}
        assert part.cache_files == []
    assert (task.name, task.pair) == (kind, True)
    assert task.load(tmp_path / "absent").train is train


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "NA", "Pos"], ("NA", "Pos", "neg", "pos")),
        ([10, 9, -1, 100], ("-1", "9", "10", "100")),
        (["10", "9", "x", "100"], ("10", "100", "9", "x")),
        ([True, False, True, False], ("False", "True")),
        (["01", "1", "2", "10"], ("01", "1", "2", "10")),
    ],
)
def test_classes_and_their_order(
    tmp_path: Path, suffix: str, labels: list[Any], names: tuple[str, ...]
) -> None:
    task = whole(tmp_path, suffix, labelled(labels * 2), "classification")
    assert task.labels == names
    train, dev = parts(task)
    assert train["label"] == dev["label"] == [names.index(str(label)) for label in labels * 2]
    balanced = ("macro_f1", "balanced_accuracy", "mcc")
    assert task.metrics == ("accuracy", *(("f1",) if len(names) == 2 else ()), *balanced)
    assert not task.pair


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_whole_floats_are_integers(tmp_path: Path, suffix: str) -> None:
    task = whole(tmp_path, suffix, labelled([10.0, 9.0, -0.0] * 2), "classification")
    assert task.labels == ("0", "9", "10")
    write(tmp_path / "dev.csv", labelled(["10", "0"]))
    (tmp_path / f"dev.{suffix}").unlink()
    assert parts(make(tmp_path))[1]["label"] == [2, 0]


@pytest.mark.parametrize("suffix", FORMATS)
def test_regression(tmp_path: Path, suffix: str) -> None:
    scores = [-1.5, 0.0, 3.0, 1e30, 0.1]
    task = whole(tmp_path, suffix, labelled(scores), "regression")
    assert (task.labels, task.metrics, task.name) == (None, ("pearson", "spearman"), "regression")
    assert parts(task)[0]["label"] == [float(np.float32(score)) for score in scores]
    perfect = task.evaluate(np.arange(5.0), np.arange(5.0))
    assert perfect == pytest.approx({"pearson": 1.0, "spearman": 1.0})


def test_evaluation_of_two_classes(tmp_path: Path) -> None:
    task = whole(tmp_path, "csv", labelled(["no", "yes"] * 2), "classification")
    scores = task.evaluate(np.eye(2)[[0, 1, 1, 1]], np.array([0, 1, 0, 1]))
    assert scores == pytest.approx(
        {
            "accuracy": 0.75,
            "f1": 0.8,
            "macro_f1": (0.8 + 2 / 3) / 2,
            "balanced_accuracy": 0.75,
            "mcc": 3**-0.5,
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\r\n\r\n"])
def test_bytes_around_the_rows(
    tmp_path: Path, suffix: str, bom: bytes, end: bytes, last: bytes
) -> None:
    lines = [b"text,label", b"caf\xc3\xa9,1", b"", b"tea,0", b"tea,0"]
    if suffix == "tsv":
        lines = [line.replace(b",", b"\t") for line in lines]
    if suffix == "jsonl":
        tea = b'{"text": "tea", "label": 0}'
        lines = [b'{"label": 1, "text": "caf\xc3\xa9"}', b" ", tea, tea]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.{suffix}").write_bytes(bom + end.join(lines) + last)
    assert parts(make(tmp_path))[0].to_dict() == {
        "text": ["café", "tea", "tea"],
        "label": [1, 0, 0],
    }


def test_long_texts_and_plain_quotes(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    texts = ["x" * 200_000, 'he said "no"', '5" wide', "'single'", " padded "]
    raw = "text,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(texts))
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text(raw, encoding="utf-8")
    assert parts(make(tmp_path))[0]["text"] == texts
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_numbers_in_a_text_column_are_their_text(tmp_path: Path, suffix: str) -> None:
    for values in ([7, 0, 7], [0.5, 2.0, 1e30]):
        rows = [{"text": value, "label": value > 1} for value in values]
        train, _ = parts(whole(tmp_path, suffix, rows, "classification"))
        assert train["text"] == list(map(str, values))


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_knows_strings_of_many_kinds(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array(["b", "a", "b"]).cast(kind)
    for name in ("train", "dev"):
        parquet.write_table(
            pa.table({"text": values, "label": values}), tmp_path / f"{name}.parquet"
        )
    task = make(tmp_path)
    assert task.labels == ("a", "b")
    assert parts(task)[0].to_dict() == {"text": ["b", "a", "b"], "label": [1, 0, 1]}


def test_parquet_half_floats_are_scores(tmp_path: Path) -> None:
    scores = pa.array(np.array([0.5, 2.0] * 10, np.float16))
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a"] * 20, "label": scores}), path)
    assert set(parts(make(path, "regression"))[0]["label"]) == {0.5, 2.0}


def test_suffixes_in_capitals_and_formats_mixed(tmp_path: Path) -> None:
    write(tmp_path / "train.CSV", labelled(["a", "b"] * 2))
    write(tmp_path / "dev.Parquet", labelled(["b", "a"]))
    (tmp_path / "notes.txt").write_text("not data")
    train, dev = parts(make(tmp_path))
    assert (train["label"], dev["label"]) == ([0, 1, 0, 1], [1, 0])


def test_a_cut_dev_set_is_stratified_disjoint_and_the_same_every_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = labelled(["a"] * 150 + ["b"] * 50)
    path = write(tmp_path / "mine.csv", rows)
    with caplog.at_level(logging.WARNING, logger="prunella"):
        train, dev = parts(make(path))
    (record,) = caplog.records
    assert record.name == "prunella"
    assert record.getMessage() == f"{path}: no dev file, so 20 of 200 rows become the dev set"
    assert (len(train), len(dev), sum(dev["label"])) == (180, 20, 5)
    assert sorted([*train["text"], *dev["text"]]) == sorted(row["text"] for row in rows)
    (tmp_path / "folder").mkdir()
    for again in (path, write(tmp_path / "folder" / "train.jsonl", rows).parent):
        same = parts(make(again))
        assert [part.to_dict() for part in same] == [train.to_dict(), dev.to_dict()]
    assert [len(part) for part in cut_holdout(train, seed=0)] == [162, 18]


def test_a_cut_dev_set_has_at_most_1000_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", labelled([0.5, 1.5] * 5500))
    assert [len(part) for part in parts(make(path, "regression"))] == [10000, 1000]


def test_a_class_of_one_row_may_fall_to_the_dev_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", labelled(["a"] * 19 + ["b"]))
    task = make(path)
    train, dev = parts(task)
    assert (task.labels, len(train), len(dev)) == (("a", "b"), 18, 2)
    assert sum(train["label"]) + sum(dev["label"]) == 1


def test_too_few_rows_to_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", labelled(["a", "b"] * 9))
    with pytest.raises(TaskError, match=r"a\.csv: 18 rows are too few .* at least 20, or a folder"):
        make(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"there is no file or folder .*absent\.csv; give"):
        make(tmp_path / "absent.csv")
    with pytest.raises(TaskError, match=r"has no file train .* \.parquet; found was nothing"):
        make(tmp_path)
    write(tmp_path / "dev.csv", labelled(["a", "b"]))
    (tmp_path / "train.txt").write_text("text")
    (tmp_path / "train.csv").mkdir()
    with pytest.raises(
        TaskError,
        match=r"no file train with a suffix of \.csv, \.tsv, \.jsonl, \.json, \.parquet; found was "
        r"dev\.csv, train\.csv/, train\.txt\.",
    ):
        make(tmp_path)
    with pytest.raises(TaskError, match=r"suffix '\.txt' names no format known; give .*\.csv, "):
        make(tmp_path / "train.txt")


def test_two_files_of_one_part(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv", "validation.csv"):
        write(tmp_path / name, labelled(["a", "b"] * 2))
    with pytest.raises(TaskError, match=r"dev\.csv and validation\.csv are the same part"):
        make(tmp_path)
    write(tmp_path / "train.jsonl", labelled(["a", "b"] * 2))
    with pytest.raises(TaskError, match=r"train\.csv and train\.jsonl are the same .* keep one"):
        make(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"a.{suffix}" for suffix in FORMATS]
    for path in paths:
        path.touch()

    def opened(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", opened)
    for path in paths:
        with pytest.raises(TaskError, match=r"Permission denied.*; give a file that can"):
            make(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_that_are_not_there(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", [{"id": 1, "sentence": "a", "label": "b"}])
    with pytest.raises(
        TaskError,
        match=rf"a\.{suffix}: unknown column 'sentense': did you mean sentence\? known are "
        r"id, sentence, label; name one",
    ):
        table("classification", path, text="sentense", pair=None, label="label")
    for text, pair, label in [("id", "id", "label"), ("label", None, "label"), ("a", "b", "b")]:
        with pytest.raises(TaskError, match=r"columns '.*': one is named twice; give each its own"):
            table("classification", path, text=text, pair=pair, label=label)


@pytest.mark.parametrize(
    ("name", "raw"),
    [("a.csv", b"text,text,label\na,b,c\n"), ("a.tsv", b"label\ttext\tx\tx\n")],
)
def test_two_columns_of_one_name(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(TaskError, match=r"two columns are named '(text|x)'; rename or remove one"):
        make(tmp_path / name)


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    columns = pa.table([["a"], ["b"], ["c"]], names=["text", "text", "label"])
    parquet.write_table(columns, tmp_path / "a.parquet")
    with pytest.raises(TaskError, match="two columns are named 'text'"):
        make(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.csv", b"", r"a\.csv: no rows; the file must hold"),
        ("a.csv", b"\xef\xbb\xbf\n\n", r"no rows"),
        ("a.csv", b"text,label\n", r"no rows"),
        ("a.jsonl", b"\n", r"no rows"),
        ("a.csv", b"text,label\na,b,c\n", r"a\.csv:2: 3 fields where the header names 2; .* ','"),
        ("a.csv", b'text,label\n"a\nb",c\n\nd\n', r"a\.csv:5: 1 fields where the header names 2"),
        ("a.tsv", b"text\tlabel\na b\n", r"a\.tsv:2: 1 fields where the header names 2; .*'\\t'"),
        ("a.csv", b'text,label\na,b\n"c"d,e\n', r"a\.csv:3: ',' expected after '\"'; close each"),
        ("a.tsv", b'text\tlabel\n"a\tb\nc\td\n', r"a\.tsv:2: unexpected end of data; close each"),
        ("a.csv", b"text,label\nok,1\ncaf\xe9,1\n", r"a\.csv:3: byte 0xe9 is not UTF-8; .*convert"),
        ("a.jsonl", b"\xff\xfe{\x00", r"a\.jsonl:1: not a JSON object"),  # UTF-16, as it says
        ("a.csv", b"text,label\na,b\n ,c\n", r"a\.csv:3: column 'text' holds ' ' where text or"),
        ("a.csv", b"text,label\na,1\nc,\n", r"a\.csv:3: column 'label' holds '' .* remove the row"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text"', r"a\.jsonl:2: not a JSON object \(Exp"),
        (
            "a.json",
            b'[{"text": "a", "label": 1}, 2]',
            r", row 2: not a JSON object \(a int\)",
        ),
        ("a.json", b'[{"text": "a"}', r":1: not a JSON object .* give one object per line"),
        ("a.json", b'{\n"text": "a"}', r"a\.json:1: not a JSON object .* give one object per line"),
        ("a.jsonl", b'{"text": 1, "text": 2}', r"two keys of the same name"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 1}', r":1: not a JSON object .*surrogates"),
        ("a.jsonl", b"[" * 100_000, r":1: not a JSON object .*recursion"),
        ("a.jsonl", b'{"label": ' + b"1" * 5000 + b"}", r":1: not a JSON object .*digits"),
        (
            "a.jsonl",
            b'{"text": "a", "label": 1}\n\n{"text": "b"}',
            r"a\.jsonl:3: column 'label' holds None where text or a number is needed; fill it in",
        ),
        ("a.jsonl", b'{"text": null, "label": 1}', r"a\.jsonl:1: column 'text' holds None"),
        ("a.jsonl", b'{"text": "a", "label": NaN}', r"a\.jsonl:1: column 'label' holds nan"),
        ("a.jsonl", b'{"text": ["a"], "label": 1}', r"a\.jsonl:1: column 'text' holds \['a'\]"),
        ("a.jsonl", b'{"text": "a", "label": {}}', r"a\.jsonl:1: column 'label' holds {}"),
    ],
)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_bad_files(tmp_path: Path, kind: Kind, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(TaskError, match=message):
        make(tmp_path / name, kind)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        (float("nan"), "nan"),
        ("\u3000", r"'\\u3000'"),
        (b"raw", "b'raw'"),
        (["a"], r"\['a'\]"),
        ({"a": 1}, "{'a': 1}"),
        (Decimal("0.5"), r"Decimal\('0.5'\)"),
        (datetime.date(2024, 2, 29), "datetime.date"),
    ],
)
@pytest.mark.parametrize("column", ["text", "pair", "label"])
def test_bad_parquet_cells(tmp_path: Path, column: str, value: Any, shown: str) -> None:
    columns: dict[str, Any] = {"text": ["a"] * 2, "pair": ["b"] * 2, "label": ["c", "d"]}
    columns[column] = pa.array([value] * 2) if value is not None else pa.array(["x", None])
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    row = 2 if value is None else 1
    with pytest.raises(
        TaskError, match=rf"a\.parquet, row {row}: column '{column}' holds {shown}.* where text or"
    ):
        make(tmp_path / "a.parquet", pair="pair")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 30, r"holds 'a' in every row; .* at least two classes"),
        (list("abcdef"), r"holds 6 different labels in 6 rows, such as 'a'; .*choose regression"),
        ([0.53, 1.0, 0.25] * 9, r"holds 3 different labels in 27 rows, such as '0\.25'; .*fract"),
        ([str(i) for i in range(1001)] * 2, r"holds 1001 different labels in 2002 .* at most 1000"),
    ],
)
def test_labels_that_are_no_classes(
    tmp_path: Path, suffix: str, labels: list[Any], message: str
) -> None:
    path = write(tmp_path / f"a.{suffix}", labelled(labels))
    with pytest.raises(TaskError, match=rf"a\.{suffix}: column 'label' {message}"):
        make(path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("label", ["high", "nan", "-inf", "1e39", "1,5"])
def test_labels_that_are_no_scores(tmp_path: Path, suffix: str, label: str) -> None:
    path = write(tmp_path / f"a.{suffix}", labelled(["0.5", "1", label]))
    at = ", row 3" if suffix == "parquet" else ":4" if suffix in ("csv", "tsv") else ":3"
    with pytest.raises(TaskError, match=rf"{at}: label '{label}' is not a finite 32-bit number; "):
        make(path, "regression")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("label", [True, 1e39, float("inf")])
def test_values_that_are_no_scores(tmp_path: Path, suffix: str, label: Any) -> None:
    path = write(tmp_path / f"a.{suffix}", labelled([label]))
    with pytest.raises(TaskError, match=r"label '.*' is not a finite 32-bit number; correct or"):
        make(path, "regression")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_dev_label_that_train_has_not(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "train.csv", labelled(["good", "bad"] * 3))
    write(tmp_path / f"dev.{suffix}", labelled(["good", "Good"]))
    at = ", row 2" if suffix == "parquet" else ":3" if suffix in ("csv", "tsv") else ":2"
    with pytest.raises(
        TaskError,
        match=rf"dev\.{suffix}{at}: unknown label 'Good': did you mean good\? known are bad, good",
    ):
        make(tmp_path)


def test_random_and_broken_bytes_are_task_errors(tmp_path: Path) -> None:
    rng = random.Random(0)
    sound = write(tmp_path / "sound.parquet", labelled(["a", "b"] * 20)).read_bytes()
    cut = [sound[:length] for length in range(0, len(sound), 7)]
    middle = len(sound) // 2
    cases = [(".parquet", raw) for raw in (*cut, sound[: middle - 9] + sound[middle:])]
    for suffix in FORMATS * 60:
        cases.append((f".{suffix}", rng.randbytes(rng.randrange(200))))
        cases.append((f".{suffix}", bytes(rng.choices(b'a",\t\n\r\\{}[]:0', k=60))))
    for number, (suffix, raw) in enumerate(cases):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(raw)
        with pytest.raises(TaskError, match=path.name):
            make(path)
    path.with_suffix(".parquet").write_bytes(cut[-1])
    with pytest.raises(TaskError, match=r"not a sound Parquet file \(.*\); write it again"):
        make(path.with_suffix(".parquet"))


def test_texts_without_labels(tmp_path: Path) -> None:
    lines = "one\u2028still one\r\n\n two \x0c\nthree"
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8", newline="")
    assert texts(tmp_path / "a.txt", ["x"])["text"][:] == [
        "one\u2028still one",
        " two \x0c",
        "three",
    ]
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    pairs = texts(tmp_path / "a.csv", ["y", "x"])
    assert pairs["text"][:] == ["2", "4"] and pairs["pair"][:] == ["1", "3"]
    (tmp_path / "empty.txt").write_text("\n \n")
    for file, columns, words in (
        ("empty.txt", ["x"], "no texts"),
        ("a.txt", ["x", "y"], r"suffix '\.txt' names no format known; give one of \.csv"),
        ("a.pdf", ["x"], r"give one of \.txt, \.csv"),
        ("none.txt", ["x"], "No such file"),
    ):
        with pytest.raises(TaskError, match=words):
            texts(tmp_path / file, columns)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_metrics_of_many_classes_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    names = tuple("abcde")
    task = Classification(
        "classification", lambda _: Splits(Dataset.from_dict({}), {}), names, MEASURES[False], False
    )
    for _ in range(20):
        right = rng.choice(5, size=12, p=[0.6, 0.2, 0.1, 0.1, 0])
        logits = rng.normal(size=(12, 5)) + np.eye(5)[right]
        said = logits.argmax(axis=1)
        assert task.evaluate(logits, right) == pytest.approx(
            {
                "accuracy": metrics.accuracy_score(right, said),
                "macro_f1": metrics.f1_score(right, said, average="macro"),
                "balanced_accuracy": metrics.balanced_accuracy_score(right, said),
                "mcc": metrics.matthews_corrcoef(right, said),
            }
        )
        pairs = zip(logits.tolist(), right.tolist(), strict=True)
        records = [{"logits": one, "label": label} for one, label in pairs]
        expected = metrics.precision_recall_fscore_support(
            right, said, labels=range(5), zero_division=0
        )
        for index, figures in enumerate(task.by_class(records).values()):
            assert list(figures.values()) == pytest.approx([part[index] for part in expected])
    assert task.by_class([]) == {}
