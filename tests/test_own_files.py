"""Files as tools write them: each is read, or refused with its line, the reason and the flag."""

import gc
import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value

from prunella.tasks import Classification, TaskError, chat, columns, language, table, text2text
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.tagging import Tagging

ROWS = [("Café", "1,5"), ("thé à\nla menthe", "2,0")] * 10
SHEET = "text;note;label;;\r\n" + "".join(f'"{t}";x;{s};;\r\n' for t, s in ROWS)


def make(data: Path | str, kind: Any = "classification", form: Form = PLAIN, **more: Any) -> Any:
    return table(kind, data, text="text", pair=None, label="label", form=form, **more)


def csv(path: Path, rows: list[tuple[str, Any]], separator: str = ",", **how: Any) -> Path:
    lines = [separator.join(("text", "label")), *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", **how)
    return path


def labelled(*labels: Any) -> list[tuple[str, Any]]:
    return [(f"text {n}", label) for n, label in enumerate(labels)]


def whole(task: Classification) -> dict[str, Any]:
    """All rows of a task whose dev set was cut off, or is the same."""
    splits = task.load(None)
    parts = [splits.train.to_dict(), splits.dev["dev"].to_dict()]
    return {name: [*parts[0][name], *parts[1][name]] for name in parts[0]}


# --- what spreadsheets write -------------------------------------------------------------------


def test_an_export_of_a_spreadsheet_is_named_for_what_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(SHEET.encode("cp1252"))
    with pytest.raises(
        TaskError,
        match=r"export\.csv: unknown column 'text'.*; it looks like text in cp1252, fields between "
        r"semicolons and numbers with decimal commas: if that is so, say --encoding cp1252 "
        r"--separator ';' --decimal ,\.",
    ):
        make(path, "regression")
    with pytest.raises(TaskError, match=r"'text'.*fields between semicolons and .*--decimal ,"):
        make(path, "regression", Form(encoding="cp1252"))
    with pytest.raises(TaskError, match=r":2: label '1,5' is not .* that is a decimal comma, say"):
        make(path, "regression", Form(";", "cp1252"))
    task = make(path, "regression", Form(";", "cp1252", ","))
    found = whole(task)
    assert sorted(zip(found["text"], found["label"], strict=True)) == sorted(
        [("Café", 1.5), ("thé à\nla menthe", 2.0)] * 10
    )


@pytest.mark.parametrize(
    ("separator", "said"), [(";", "';'"), ("\t", "tab"), ("|", "'|'")], ids=["semi", "tab", "pipe"]
)
def test_other_separators_are_named(tmp_path: Path, separator: str, said: str) -> None:
    path = csv(tmp_path / "a.csv", labelled("a, b", "c") * 10, separator)
    with pytest.raises(TaskError, match=rf"unknown column 'text'.*say --separator {said}") as error:
        make(path)
    assert "--encoding" not in str(error.value)
    assert make(path, form=Form(said.strip("'"))).labels == ("a, b", "c")


def test_commas_in_a_tsv_are_named(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.tsv", labelled("a", "b") * 10)
    with pytest.raises(
        TaskError, match=r"fields between commas: if that is so, say --separator ','"
    ):
        make(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_marks_of_byte_order_are_heeded(tmp_path: Path, encoding: str) -> None:
    path = csv(tmp_path / "a.csv", [("Ċafé ਊ", "x"), ("b", "y")] * 10, encoding=encoding)
    for form in (Form(), Form(encoding="cp1252")):
        assert set(whole(make(path, form=form))["text"]) == {"Ċafé ਊ", "b"}


def test_encodings_without_a_mark_are_named(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", labelled("a", "b") * 10, encoding="utf-16-le")
    with pytest.raises(TaskError, match=r"it looks like text in utf-16-le.*--encoding utf-16-le"):
        make(path)
    assert make(path, form=Form(encoding="utf-16-le")).labels == ("a", "b")
    path.write_bytes(b"text,label\n\x81,a\n")
    with pytest.raises(TaskError, match=r"a\.csv:2: byte 0x81 .*--encoding latin-1"):
        make(path)
    path.write_bytes(b"text,label\n\x81,a\n")
    with pytest.raises(TaskError, match=r"a\.csv:2: byte 0x81 is not cp1252.*latin-1"):
        make(path, form=Form(encoding="cp1252"))


def test_the_line_that_names_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntext;label\n" + "a;x\nb;y\n" * 10)
    assert make(path).labels == ("x", "y")
    with pytest.raises(
        TaskError, match=r"a\.csv:1: the file says .* by ';'; leave out --separator"
    ):
        make(path, form=Form(","))
    path.write_text("sep=;\ntext;label\na;x\nb;y;z\n")
    with pytest.raises(TaskError, match=r"a\.csv:4: 3 fields where the header names 2"):
        make(path)


def test_headers_with_blanks_and_columns_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeff text , label,,\n" + "a, x,,\nb,x ,,\nc,y,,\n" * 10)
    task = make(path)
    assert task.labels == ("x", "y") and set(whole(task)["text"]) == {"a", "b", "c"}


def test_line_ends_of_all_kinds_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\r\n" + b'"a\r\nb",x\rc,y\nd,x\r\n' * 10 + b"e,y")
    found = whole(make(path))
    assert len(found["text"]) == 31 and set(found["text"]) == {"a\r\nb", "c", "d", "e"}


@pytest.mark.parametrize("name", ["a.xlsx", "a.xls", "a.ods"])
def test_spreadsheets_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(TaskError, match=rf"{name} is a spreadsheet.*save the sheet as CSV UTF-8"):
        make(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.csv", b"PK\x03\x04", r"a\.csv is a ZIP archive or an Excel workbook .*save it as CSV"),
        ("a.jsonl", b"PAR1", r"a\.jsonl is Parquet, whatever its name says"),
        ("a.zip", b"", r"a\.zip is packed; unpack it"),
        ("a.arrow", b"", r"a\.arrow is an Arrow file; give the folder that save_to_disk wrote"),
        ("a.csv", b"\x1f\x8bnonsense", r"a\.csv: .*; give a file that can be read"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(TaskError, match=message):
        make(tmp_path / name)


def test_a_separator_is_for_tables_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(TaskError, match=r"--separator is for CSV and TSV files, and .*a\.jsonl"):
        make(tmp_path / "a.jsonl", form=Form(";"))
    for separator in ("ab", "", '"'):
        with pytest.raises(TaskError, match="must be one character"):
            Form(separator)
    with pytest.raises(TaskError, match="rot13 is none that Python knows"):
        Form(encoding="rot13")


# --- packed, in several files, saved, on the hub -----------------------------------------------


@pytest.mark.parametrize("name", ["train.csv.gz", "train.csv"])
def test_packed_files_with_and_without_the_suffix(tmp_path: Path, name: str) -> None:
    raw = csv(tmp_path / "plain.csv", labelled("a", "b") * 10).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(raw))
    assert make(tmp_path / name).labels == make(tmp_path).labels == ("a", "b")
    (tmp_path / name).write_bytes(gzip.compress(raw)[:-9])
    with pytest.raises(TaskError, match="ended before the end-of-stream"):
        make(tmp_path / name)


def saved(*, names: bool = True) -> Dataset:
    label = ClassLabel(names=["neg", "pos"]) if names else Value("int64")
    rows = {"text": [f"text {n}" for n in range(20)], "label": [1, 0] * 10}
    return Dataset.from_dict(rows, features=Features(text=Value("string"), label=label))


def test_a_table_in_several_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(2):
        part = saved().shard(2, number)
        part.to_parquet(tmp_path / "data" / f"train-{number:05}-of-00002.parquet")
    task = make(tmp_path)  # as a set on the hub lies on disk
    assert task.labels == ("neg", "pos")
    assert sorted(whole(task)["text"]) == sorted(saved()["text"])
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(
        TaskError, match=r"of the 2 files of train, 1 are missing, .*train-00000-of"
    ):
        make(tmp_path)


@pytest.mark.parametrize("dev", ["validation", "dev", None])
def test_a_set_that_was_saved(tmp_path: Path, dev: str | None) -> None:
    parts = {"train": saved(), **({dev: saved().select(range(3))} if dev else {})}
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    task = make(tmp_path / "set")
    assert task.labels == ("neg", "pos")  # as the set has them, in their order
    assert len(task.load(None).dev["dev"]) == (3 if dev else 2)
    saved().save_to_disk(tmp_path / "alone")
    assert make(tmp_path / "alone").labels == ("neg", "pos")
    (tmp_path / "alone" / "state.json").write_text("{")
    with pytest.raises(TaskError, match="alone: no sound set"):
        make(tmp_path / "alone")


def test_classes_without_a_row_are_kept_and_rows_without_a_class_are_not(tmp_path: Path) -> None:
    features = Features(text=Value("string"), label=ClassLabel(names=["b", "a", "never"]))
    rows = {"text": [f"text {n}" for n in range(40)], "label": [0, 1] * 19 + [-1, 1]}
    Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    with pytest.raises(TaskError, match=r"set, row 39: column 'label' holds None.*1 of 40 rows"):
        make(tmp_path / "set")
    assert make(tmp_path / "set", form=Form(skip=True)).labels == ("b", "a", "never")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `load_dataset` finds sets by name, cache files and all."""
    real = datasets.load_dataset

    def load_dataset(name: str, configuration: str | None = None, **how: Any) -> Any:
        return real(str(tmp_path / name), configuration, **how)

    monkeypatch.setattr("prunella.tasks.own.load_dataset", load_dataset)
    return tmp_path


@pytest.fixture
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.usefixtures("_collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_set_on_the_hub(hub: Path) -> None:
    (hub / "owner" / "set").mkdir(parents=True)
    for split in ("train", "validation"):
        saved().to_parquet(hub / "owner" / "set" / f"{split}-00000-of-00001.parquet")
    task = make("owner/set")
    assert task.labels == ("neg", "pos")
    assert task.load(None).dev["dev"].to_dict() == task.load(None).train.to_dict()
    for streaming in (False, True):
        splits = language("lm/causal", "owner/set", streaming=streaming).load(None)
        assert isinstance(splits.train, IterableDataset) == streaming
        assert [row["text"] for row in splits.train] == saved()["text"][:]
    with pytest.raises(TaskError, match=r"owner/none is no file or folder, and cannot be read"):
        make("owner/none")
    with pytest.raises(TaskError, match=r"owner/set:x is no file.*BuilderConfig 'x' not found"):
        make("owner/set:x")
    with pytest.raises(
        TaskError, match=r"owner/set: unknown column 'words'.* known are text, label"
    ):
        table("classification", "owner/set", text="words", pair=None, label="label")
    with pytest.raises(TaskError, match="there is no file or folder nonesuch"):
        make("nonesuch")


# --- JSON ----------------------------------------------------------------------------------------


def test_lists_of_objects(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in labelled("a", "b") * 10]
    path = tmp_path / "a.json"
    for content in (rows, {"data": rows}, {"version": 1, "data": rows}):
        for indent in (None, 1):
            path.write_text(json.dumps(content, indent=indent))
            assert sorted(whole(make(path))["text"]) == sorted(row["text"] for row in rows)
    path.write_text(json.dumps([*rows, {"text": "", "label": "a"}]))
    with pytest.raises(TaskError, match=r"a\.json, row 21: column 'text' holds ''"):
        make(path)
    path.write_text(json.dumps({"text": {"0": "a"}, "label": {"0": "b"}}))
    with pytest.raises(TaskError, match=r"a\.json: no rows; it holds columns, not rows: of pandas"):
        make(path)
    with pytest.raises(
        TaskError, match=r"'words'.*it holds columns, not rows: of pandas, write to_js"
    ):
        table("classification", path, text="words", pair=None, label="label")
    path.write_text(json.dumps({"train": rows, "validation": rows}))
    with pytest.raises(TaskError, match=r"'text'.*are train, validation; .*rows are in a list"):
        make(path)
    path.write_text('{"data": 1, "text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 10)
    assert make(path).labels == ("x", "y")


# --- rows that cannot be used ------------------------------------------------------------------


def test_rows_that_cannot_be_used_are_told_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "a,x\nb,y\n" * 10 + ",x\nc,\n  ,y\nd,x,z\ne,y\n")
    with pytest.raises(TaskError) as error:
        make(path)
    said = str(error.value).replace(f"{path}:", "a:")
    assert said == (
        "a:22: column 'text' holds '' where text or a number is needed; fill it in or remove the "
        "row, or have such rows left out by --skip-bad-rows; 4 of 25 rows cannot be used; "
        "a:23: column 'label' holds '' where text or a number is needed; "
        "a:24: column 'text' holds '  ' where text or a number is needed; and 1 more."
    )
    with caplog.at_level(logging.WARNING, logger="prunella"):
        task = make(path, form=Form(skip=True))
    assert len(whole(task)["text"]) == 21
    assert f"{path}: left out 4 of 25 rows: {path}:22: column 'text' holds ''" in caplog.text
    path.write_text("text,label\n,x\n")
    with pytest.raises(TaskError, match="1 of 1 rows cannot be used"):
        make(path, form=Form(skip=True))


def test_bad_rows_of_every_family_are_skipped_if_so_wished(tmp_path: Path) -> None:
    good = [{"source": f"s{n}", "target": "t", "text": f"words {n}"} for n in range(30)]
    bad: list[Any] = [{"source": "", "target": "t", "text": ["x"]}, {"source": "s", "text": 7}]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*good, *bad]) + "{oops\n")
    path.with_name("dev.jsonl").write_text(json.dumps(good[0]) + "\n")
    skip = Form(skip=True)
    with pytest.raises(
        TaskError, match=r":33: not a JSON.*3 of 33 rows.*:31: column 's.*:32: column"
    ):
        text2text(tmp_path)
    with pytest.raises(TaskError, match=r"3 of 33 rows.*:31: column 'text' holds \['x'\]"):
        language("lm/causal", tmp_path).load(None)
    for streaming in (False, True):
        pairs = text2text(tmp_path, streaming=streaming, form=skip).load(None)
        lines = language("lm/causal", tmp_path, streaming=streaming, form=skip).load(None)
        assert len(list(pairs.train)) == len(list(lines.train)) == 30


def test_a_dev_label_that_train_has_not_is_such_a_row(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", labelled("a", "b") * 2)
    csv(tmp_path / "dev.csv", labelled("a", "c", "d", "b"))
    with pytest.raises(TaskError, match=r"dev\.csv:3: unknown label 'c'.*2 of 4 rows.*label 'd'"):
        make(tmp_path)
    assert len(make(tmp_path, form=Form(skip=True)).load(None).dev["dev"]) == 2


def test_a_nul_is_no_text(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", [("a\0b", "x"), ("c", "y")] * 10)
    with pytest.raises(TaskError, match=r"a\.csv:2: column 'text' holds a NUL character"):
        make(path)


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1.0, 0.0], ("0", "1")),
        (["1.0", "0"], ("0", "1")),
        (["1.00", "1", "-2.0"], ("-2", "1")),
        ([5, 0, 1], ("0", "1", "5")),
        (["1.0", "beta"], ("1.0", "beta")),
        ([" pos", "pos", "neg "], ("neg", "pos")),
    ],
)
def test_whole_numbers_are_one_class_however_written(
    tmp_path: Path, labels: list[Any], names: tuple[str, ...]
) -> None:
    path = csv(tmp_path / "train.csv", labelled(*labels * 10))
    assert make(path).labels == names
    rows = [
        {"text": "x", "label": float(name) if name.lstrip("-").isdigit() else name}
        for name in names
    ]
    (tmp_path / "dev.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert make(tmp_path).load(None).dev["dev"]["label"] == [*range(len(names))]


def test_scores_that_never_change(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", labelled(*[3.0] * 20))
    with pytest.raises(TaskError, match="column 'label' holds 3 in every row; regression needs"):
        make(path, "regression")


def test_which_class_is_positive(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", labelled("ham", "spam") * 10)
    assert make(path).about()["positive"] == "spam"
    task = make(path, positive="ham")
    assert (task.labels, task.positive) == (("spam", "ham"), "ham")
    with pytest.raises(TaskError, match=r"--positive-class eggs must be .* unknown class 'eggs'"):
        make(path, positive="eggs")
    csv(path, labelled("a", "b", "c") * 7)
    with pytest.raises(
        TaskError, match="--positive-class a must be one of two classes: there are 3"
    ):
        make(path, positive="a")


def test_texts_with_several_labels_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = csv(tmp_path / "a.csv", [("same", "x"), ("same", "y"), ("other", "x")] * 10)
    with caplog.at_level(logging.WARNING, logger="prunella"):
        make(path)
    assert (
        f"{path}: 1 texts come several times with different labels, the first 'same'" in caplog.text
    )


# --- words and their tags ----------------------------------------------------------------------

GERMEVAL = "#\thttp://example.org/{n}\t[2009-10-17]\n1\tBerlin\tB-LOC\tO\n2\tist\tO\tO\n\n"
CONLLU = (
    "# sent_id = {n}\n# text = Am See . O\n1-2\tAm\t_\t_\n1\tA\tX\tO\n2\tm\tX\tO\n"
    "2.1\t\t_\t_\n3\tSee\tX\tB-LOC\n4\t.\tX\tO\n\n"
)


def sentences(task: Tagging) -> set[tuple[str, ...]]:
    return {tuple(words) for words in whole(task)["words"]}


def test_comments_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "germeval.tsv"
    path.write_text("".join(GERMEVAL.format(n=n) for n in range(20)))
    with caplog.at_level(logging.WARNING, logger="prunella"):
        assert sentences(columns(path, word=1, tag=2)) == {("Berlin", "ist")}
    message = "left out 20 lines that are comments or no words, the first at line 1"
    assert f"{path}: {message}" in caplog.text
    with pytest.raises(TaskError, match=r"column 0 counts the words; .*--text-column, such as 1"):
        columns(path, tag=2)
    path = tmp_path / "words.conllu"
    path.write_text("".join(CONLLU.format(n=n) for n in range(20)))
    assert sentences(columns(path, word=1, tag=3)) == {("A", "m", "See", ".")}


def test_a_word_that_is_a_number_sign(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.conll"
    path.write_text("# O\nParis B-LOC\n# O\n\n#hash O\n# B-X\n\n" * 10)
    assert sentences(columns(path)) == {("#", "Paris", "#"), ("#hash", "#")}
    assert "left out" not in caplog.text
    path.write_text("#begin document (a);\n#\nParis B-LOC\n# O\n#end\n\n" * 20)
    with pytest.raises(TaskError, match=r"a\.conll:5: 1 columns where the first line has 2.*20 of"):
        columns(path)
    path.write_text("#begin document (a);\n#\nParis B-LOC\n# O\n\n#end\n\n" * 20)
    assert sentences(columns(path)) == {("Paris", "#")}


def test_sentences_with_a_bad_line_are_skipped_if_so_wished(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_text("Paris B-LOC\nis O\n\n" * 20 + "a O\nb\nc O\n\na I\n\n")
    with pytest.raises(TaskError, match=r":62: 1 columns where .* 1 of 22 rows"):
        columns(path)
    (tmp_path / "dev.conll").write_text("Rome B-LOC\nor O\n\nAnn B-PER\nis O\n")
    task = columns(tmp_path, form=Form(skip=True))
    assert [len(part) for part in (task.load(None).train, task.load(None).dev["dev"])] == [20, 1]
    with pytest.raises(TaskError, match="--text-column word is no number of a column"):
        columns(path, word="word")


@pytest.mark.parametrize("names", [("tokens", "tags"), ("words", "labels"), ("tokens", "ner_tags")])
def test_lists_of_words_and_tags(tmp_path: Path, names: tuple[str, str]) -> None:
    rows = [dict(zip(names, (["Paris", "is"], ["B-LOC", "O"]), strict=True))] * 20
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert sentences(columns(path)) == {("Paris", "is")}
    assert columns(path, word=names[0], tag=names[1]).labels == ("O", "B-LOC", "I-LOC")
    with pytest.raises(TaskError, match="unknown column 'x'"):
        columns(path, word="x")
    rows[3] = dict(zip(names, (["Paris"], ["B-LOC", "O"]), strict=True))
    rows[4] = dict(zip(names, (["Paris"], [1]), strict=True))
    rows[5] = dict(zip(names, (["Paris"], ["I-LOC", None]), strict=True))
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(TaskError, match=r":4: 1 words and 2 tags; .*3 of 20 rows.*:5: column"):
        columns(path)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in [*rows, *rows]))
    assert len(whole(columns(path, form=Form(skip=True)))["words"]) == 34


def test_classes_of_tags_have_their_names(tmp_path: Path) -> None:
    names = ["O", "B-LOC", "I-LOC"]
    features = Features(tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names)))
    rows = {"tokens": [["New", "York", "is"]] * 20, "ner_tags": [[1, 2, 0]] * 20}
    data = Dataset.from_dict(rows, features=features)
    data.to_parquet(tmp_path / "train.parquet")
    data.save_to_disk(tmp_path / "set")
    for where in (tmp_path / "train.parquet", tmp_path, tmp_path / "set"):
        task = columns(where)
        assert task.labels == ("O", "B-LOC", "I-LOC")
        assert whole(task)["tags"][0] == [1, 2, 0]
    Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(
        TaskError, match=r"row 1: column 'ner_tags' holds .*; give the tags by name"
    ):
        columns(tmp_path)


# --- streams -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_collected")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_streams_are_read_by_the_same_rules(tmp_path: Path) -> None:
    lines = "sep=;\nsource;target\n" + "".join(f"é {n};ü {n}\n" for n in range(5))
    for part in ("train", "dev"):
        (tmp_path / f"{part}.csv.gz").write_bytes(gzip.compress(lines.encode("cp1252")))
    with pytest.raises(TaskError, match=r"csv\.gz:3: byte 0xe9 is not UTF-8.*--encoding cp1252"):
        text2text(tmp_path, streaming=True)
    splits = text2text(tmp_path, streaming=True, form=Form(encoding="cp1252")).load(None)
    assert [row["source"] for row in splits.train] == splits.dev["dev"]["source"][:]
    data = [{"source": f"s{n}", "target": "t"} for n in range(5)]
    for part in ("train", "dev"):
        (tmp_path / f"{part}.csv.gz").unlink()
        (tmp_path / f"{part}.json").write_text(json.dumps({"data": data}))
    splits = text2text(tmp_path, streaming=True).load(None)
    assert [row["source"] for row in splits.train] == [f"s{n}" for n in range(5)]
    DatasetDict({p: Dataset.from_list(data) for p in ("train", "dev")}).save_to_disk(tmp_path / "s")
    splits = text2text(tmp_path / "s", streaming=True).load(None)
    assert [row["source"] for row in splits.train] == [f"s{n}" for n in range(5)]


def test_conversations_in_several_files_and_packed(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": turns}] * 12
    for number in range(2):
        name = f"train-{number:05}-of-00002.parquet"
        Dataset.from_list(rows).to_parquet(tmp_path / name)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "dev.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    splits = chat(tmp_path).load(None)
    assert [len(part) for part in (splits.train, splits.dev["dev"])] == [24, 12]
