"""A user's own sources and targets: files, the hub, and each way to be wrong."""

import csv
import gc
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from pyarrow import parquet

from prunella.tasks import TaskError
from prunella.tasks import own as module
from prunella.tasks.generation import Generation
from prunella.tasks.t2t import text2text

FORMATS = ("csv", "tsv", "jsonl", "json", "parquet")
Pairs = Sequence[tuple[Any, Any]]


def write(path: Path, pairs: Pairs) -> Path:
    """Write pairs in the format of the suffix, in the columns `x` and `y`, and a third."""
    rows = [{"id": number, "y": y, "x": x} for number, (x, y) in enumerate(pairs)]
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        table = csv.DictWriter(out, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        table.writeheader()
        table.writerows(rows)
        path.write_text(out.getvalue())
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def make(data: Path | str, streaming: bool = False) -> Generation:
    return text2text(data, source="x", target="y", streaming=streaming)


def rows(dataset: Dataset) -> dict[str, list[str]]:
    return dict(zip(dataset["source"], dataset["references"], strict=True))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str | None]]]:
    """Puts a set, or an error, on the hub; the list is what is asked for."""

    def put(parts: dict[str, Pairs] | Exception) -> list[tuple[str, str | None]]:
        asked = []

        def load_dataset(path: str, name: str | None = None, streaming: bool = False) -> Any:
            asked.append((path, name))
            if isinstance(parts, Exception):
                raise parts
            made = {
                split: Dataset.from_list(
                    [{"id": 1, "y": y, "both": {"x": x, "y": y}} for x, y in pairs]
                )
                for split, pairs in parts.items()
            }
            if not streaming:
                return DatasetDict(made)
            return IterableDatasetDict({k: part.to_iterable_dataset() for k, part in made.items()})

        monkeypatch.setattr(module, "load_dataset", load_dataset)
        return asked

    return put


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"validation.{suffix}", [("d", "e")])
    write(tmp_path / f"train.{suffix}", [("a, b", 'x "y"'), ("c\nc", "é"), ("a, b", "z")])
    task = make(tmp_path)
    splits = task.load(tmp_path / "absent")
    assert rows(splits.train) == {"a, b": ['x "y"', "z"], "c\nc": ["é"]}
    assert list(splits.dev) == ["dev"]
    assert rows(splits.dev["dev"]) == {"d": ["e"]}
    assert (task.name, task.metrics) == ("text2text", ("rougeL", "bleu", "chrf"))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_target_may_be_several_texts(tmp_path: Path, suffix: str) -> None:
    for part in ("train", "dev"):
        write(tmp_path / f"{part}.{suffix}", [("a", ["x", "y"]), ("b", ["z"]), ("a", ["w"])])
    splits = make(tmp_path).load(None)
    assert rows(splits.train) == rows(splits.dev["dev"]) == {"a": ["x", "y", "w"], "b": ["z"]}


def test_a_dev_set_is_cut_off_by_sources(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [(f"source {n % 30}", f"target {n}") for n in range(90)]
    path = write(tmp_path / "mine.csv", pairs)
    with caplog.at_level(logging.WARNING, logger="prunella"):
        splits = make(path).load(None)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: no dev file, so 3 of 30 rows become the dev set"
    ]
    train, dev = rows(splits.train), rows(splits.dev["dev"])
    assert (len(train), len(dev)) == (27, 3) and not set(train) & set(dev)
    assert all(len(references) == 3 for references in (train | dev).values())
    assert rows(make(path).load(None).train) == train
    with pytest.raises(TaskError, match=r"few\.csv: 19 rows are too few to cut a dev set off"):
        make(write(tmp_path / "few.csv", pairs[:19]))


# Of a stream that is not read to its end, Datasets closes the file when the stream is collected.
unclosed = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    gc.collect()


@unclosed
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_stream(tmp_path: Path, suffix: str) -> None:
    pairs = [(f"source {n % 4}", f"target {n}") for n in range(8)]
    path = write(tmp_path / f"train.{suffix}", pairs)
    for data in (path, tmp_path):
        with pytest.raises(TaskError, match=r"a stream has no end to cut a dev set off; give a"):
            make(data, streaming=True)
    write(tmp_path / f"dev.{suffix}", [("a", "b")])
    splits = make(tmp_path, streaming=True).load(None)
    assert isinstance(splits.train, IterableDataset)
    assert splits.train.column_names == ["source", "references"]
    expected = [{"source": source, "references": [text]} for source, text in pairs]
    for _ in range(2):  # epochs
        assert list(splits.train) == expected
    assert list(splits.train.skip(2).take(3)) == expected[2:5]
    assert rows(splits.dev["dev"]) == {"a": ["b"]}


@unclosed
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_stream_is_read_as_a_file_is(tmp_path: Path, end: str) -> None:
    long = "a" * (csv.field_size_limit() + 1)
    for part in ("train", "dev"):
        lines = ["x,y", f'"say ""a{end}b""",c', "", f"{long},é", ""]
        (tmp_path / f"{part}.csv").write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
    splits = make(tmp_path, streaming=True).load(None)
    read = {row["source"]: row["references"] for row in splits.train}
    assert read == rows(splits.dev["dev"]) == {f'say "a{end}b"': ["c"], long: ["é"]}


@unclosed
@pytest.mark.usefixtures("collected")
def test_a_stream_that_is_wrong(tmp_path: Path) -> None:
    write(tmp_path / "dev.jsonl", [("a", "b")])
    path = write(tmp_path / "train.jsonl", [("a", "b"), ("a", "")])
    splits = make(tmp_path, streaming=True).load(None)
    with pytest.raises(TaskError, match=r"train\.jsonl:2: column 'y' holds ''"):
        list(splits.train)
    path.write_text('{"x": "a", "z": "b"}\n')
    with pytest.raises(TaskError, match=r"train\.jsonl: unknown column 'y'.* known are x, z"):
        make(tmp_path, streaming=True)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("", "b"), r"train\.jsonl:2: column 'x' holds '' where text is needed; fill it in or rem"),
        (("a", " "), r":2: column 'y' holds ' '"),
        (("a", None), r":2: column 'y' holds None"),
        ((7, "b"), r":2: column 'x' holds 7"),
        ((["a"], "b"), r":2: column 'x' holds \['a'\]"),
        (("a", []), r":2: column 'y' holds \[\]"),
        (("a", ["b", ""]), r":2: column 'y' holds ''"),
    ],
)
def test_cells_that_are_no_text(tmp_path: Path, pair: tuple[Any, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(write(tmp_path / "train.jsonl", [("a", "b"), pair]))


def test_files_that_are_wrong(tmp_path: Path) -> None:
    for name in ("absent.csv", "/absent/folder", "./absent", "a/b/c"):
        with pytest.raises(
            TaskError, match=rf"there is no file or folder {name.removeprefix('./')}"
        ):
            make(name)
    with pytest.raises(TaskError, match="has no file train with a suffix"):
        make(tmp_path)
    path = write(tmp_path / "train.csv", [("a", "b")])
    with pytest.raises(TaskError, match=r"unknown column 'z'.* known are id, y, x"):
        text2text(path, source="z", target="y")
    with pytest.raises(TaskError, match=r"column 'x' is named for source and target; give each"):
        text2text(path, source="x", target="x")
    path.write_text("x,y\n")
    with pytest.raises(TaskError, match=r"train\.csv: no rows; it must hold at least one"):
        make(path)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("owner/set", ("owner/set", None)),
        ("set:ro-en", ("set", "ro-en")),
        ("a/b:1.0", ("a/b", "1.0")),
    ],
)
def test_the_hub(hub: Any, name: str, asked: tuple[str, str | None]) -> None:
    calls = hub({"train": [("a", "b"), ("a", "c")], "validation": [("d", "e")], "test": []})
    task = text2text(name, source="both.x", target="both.y")
    assert calls == [asked]
    splits = task.load(None)
    assert rows(splits.train) == {"a": ["b", "c"]}
    assert rows(splits.dev["dev"]) == {"d": ["e"]}
    assert rows(text2text(name, source="both.x", target="y").load(None).train) == {"a": ["b", "c"]}


def test_a_stream_from_the_hub(hub: Any) -> None:
    calls = hub({"train": [("a", "b"), ("a", "c")], "validation": [("d", "e")]})
    splits = text2text("owner/set", source="y", target="both.y", streaming=True).load(None)
    assert calls == [("owner/set", None)]
    assert isinstance(splits.train, IterableDataset)
    assert [row["references"] for row in splits.train] == [["b"], ["c"]]
    assert rows(splits.dev["dev"]) == {"e": ["e"]}


def test_the_hub_without_a_dev_part(hub: Any) -> None:
    hub({"train": [(f"s{n}", "t") for n in range(20)]})
    splits = text2text("owner/set", source="both.x", target="y").load(None)
    assert (len(splits.train), len(splits.dev["dev"])) == (18, 2)


def test_the_hub_when_it_is_wrong(hub: Any) -> None:
    def ask(message: str, source: str = "both.x") -> None:
        with pytest.raises(TaskError, match=message):
            text2text("owner/set", source=source, target="y")

    for error in (OSError("offline"), ValueError("Config name is missing"), RuntimeError("script")):
        hub(error)
        ask(rf"owner/set is no file or folder, and cannot be read from the hub \({error}\); give a")
    hub({"test": [("a", "b")]})
    ask(r"owner/set has no split train; found was test\.")
    hub({"train": [("a", "b"), ("a", "")], "dev": [("a", "b")]})
    ask(r"owner/set: unknown column 'x'.*both\.x.*; name one of these", source="x")
    ask(r"owner/set, train row 2: column 'y' holds ''")


def test_a_folder_is_no_set_on_the_hub(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = hub(OSError("offline"))
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for part in ("train", "dev"):
        write(Path("mine") / f"{part}.csv", [("a", "b")])
    assert rows(make("mine").load(None).train) == {"a": ["b"]}
    assert calls == []
