"""Tasks on files: GLUE's TSV layout, metrics, holdout, tokenisation."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoTokenizer

from prunella.experiments.models import locate
from prunella.tasks import TASKS, Reader, Task, TaskError, cut_holdout, get, sources

ROOT = Path(__file__).parents[1]
GLUE_DATA = Path(os.environ.get("PRUNELLA_DATA", ROOT.parent / "shared" / "data")) / "glue"

# name -> header (None: the file has none), a row with label {}, the cells of the labels in order
LAYOUTS: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
    "cola": (None, "gj04\t{}\t*\tone", ("0", "1")),
    "sst2": ("sentence\tlabel", "one\t{}", ("0", "1")),
    "mrpc": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{}\t7\t8\tone\ttwo", ("0", "1")),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "7\t8\t9\tone\ttwo\t{}",
        ("0", "1"),
    ),
    "stsb": ("index\tsentence1\tsentence2\tscore", "7\tone\ttwo\t{}", ("0.000", "4.750", "5")),
    "mnli": (
        "index\tsentence1\tsentence2\tlabel1\tgold_label",
        "7\tone\ttwo\tneutral\t{}",
        ("entailment", "neutral", "contradiction"),
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        "7\tone\ttwo\t{}",
        ("entailment", "not_entailment"),
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        "7\tone\ttwo\t{}",
        ("entailment", "not_entailment"),
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "7\tone\ttwo\t{}", ("0", "1")),
}
# Label names and order, and the columns besides `label`, of the hub set nyu-mll/glue.
HUB: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    "cola": (("unacceptable", "acceptable"), ("sentence",)),
    "sst2": (("negative", "positive"), ("sentence",)),
    "mrpc": (("not_equivalent", "equivalent"), ("sentence1", "sentence2")),
    "qqp": (("not_duplicate", "duplicate"), ("question1", "question2")),
    "stsb": (None, ("sentence1", "sentence2")),
    "mnli": (("entailment", "neutral", "contradiction"), ("premise", "hypothesis")),
    "qnli": (("entailment", "not_entailment"), ("question", "sentence")),
    "rte": (("entailment", "not_entailment"), ("sentence1", "sentence2")),
    "wnli": (("not_entailment", "entailment"), ("sentence1", "sentence2")),
}


def write(folder: Path, name: str, lines: list[str] | bytes, files: tuple[str, ...] = ()) -> Path:
    """Write the same lines as every file the task needs, or as those given."""
    needed = ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv", "dev.tsv")
    raw = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
    for file in files or (needed[:3] if name == "mnli" else needed[::3]):
        (folder / file).write_bytes(raw)
    return folder


def load_train(folder: Path, name: str, lines: list[str] | bytes) -> Dataset:
    return get(f"glue/{name}").load(write(folder, name, lines)).train


def sst2(*rows: str) -> list[str]:
    return ["sentence\tlabel", *rows]


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_spec_reads_its_own_layout(tmp_path: Path, name: str) -> None:
    header, row, cells = LAYOUTS[name]
    task = get(f"glue/{name}")
    splits = task.load(
        write(tmp_path, name, ([header] if header else []) + [row.format(cell) for cell in cells])
    )
    parts = [splits.train, *splits.dev.values()]
    assert list(splits.dev) == (["dev", "dev_mismatched"] if name == "mnli" else ["dev"])
    for part in parts:
        assert part.column_names == (["text", "pair", "label"] if task.pair else ["text", "label"])
        assert set(part["text"]) == {"one"}
        if task.pair:
            assert set(part["pair"]) == {"two"}
        if name == "stsb":
            assert part["label"] == [0.0, 4.75, 5.0]
        else:
            assert part["label"] == list(range(len(cells)))
            assert part.features["label"] == ClassLabel(names=list(task.labels or ()))


def test_labels_metrics_and_names() -> None:
    assert {name: get(f"glue/{name}").labels for name in HUB} == {
        name: labels for name, (labels, _) in HUB.items()
    }
    assert [name for name in TASKS if "glue/" in name] == [f"glue/{name}" for name in HUB]
    assert all(task.name == name for name, task in TASKS.items())
    assert {name: get(f"glue/{name}").metrics for name in HUB} == {
        "cola": ("mcc", "accuracy"),
        "sst2": ("accuracy",),
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
        "mnli": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
        "wnli": ("accuracy",),
    }


@pytest.mark.parametrize("name", [name for name, (labels, _) in HUB.items() if labels])
def test_a_label_cell_may_be_the_name_or_the_index(tmp_path: Path, name: str) -> None:
    header, row, _ = LAYOUTS[name]
    labels = get(f"glue/{name}").labels
    assert labels is not None
    cells = [*labels, *map(str, range(len(labels)))]
    train = load_train(
        tmp_path, name, ([header] if header else []) + [row.format(cell) for cell in cells]
    )
    assert train["label"] == [*range(len(labels)), *range(len(labels))]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\r\n\r\n"])
def test_bytes_around_the_rows(tmp_path: Path, bom: bytes, end: bytes, last: bytes) -> None:
    raw = bom + end.join([b"sentence\tlabel", b"caf\xc3\xa9\t1", b"tea\t0"]) + last
    train = load_train(tmp_path, "sst2", raw)
    assert train.to_dict() == {"text": ["café", "tea"], "label": [1, 0]}


def test_bom_without_header(tmp_path: Path) -> None:
    train = load_train(tmp_path, "cola", b"\xef\xbb\xbfgj04\t0\t*\tHe go.")
    assert train.to_dict() == {"text": ["He go."], "label": [0]}


def test_quotes_unicode_line_ends_and_empty_text_are_kept(tmp_path: Path) -> None:
    texts = ['"open', 'he said "no', '""', "a\u2028b\x0bc\x85d", "lone\rreturn", " ", ""]
    train = load_train(tmp_path, "sst2", sst2(*(f"{text}\t1" for text in texts)))
    assert train["text"] == texts


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("sst2", sst2("good\t2"), r"train\.tsv:2: label '2' is none of negative, positive, 0, 1"),
        ("sst2", sst2("good\t1", "bad\t"), r"train\.tsv:3: label '' is none of"),
        ("cola", ["gj04\tyes\t\tHe goes."], r"train\.tsv:1: label 'yes' is none of unacceptable"),
        ("stsb", ["sentence1\tsentence2\tscore", "a\tb\t5.1"], r":2: score '5\.1' .* 0 to 5;"),
        ("stsb", ["sentence1\tsentence2\tscore", "a\tb\tnan"], r":2: score 'nan' .* 0 to 5;"),
        ("stsb", ["sentence1\tsentence2\tscore", "a\tb\thigh"], r":2: score 'high' .* 0 to 5;"),
        ("sst2", ["text\tlabel", "good\t1"], r"no column sentence among text, label"),
        ("rte", ["a\tb"], r"no rows"),
        ("rte", ["a\tb", "1\t2"], r"no column sentence1 and no column sentence2 and no column lab"),
        ("cola", ["sentence\tlabel", "He goes.\t1"], r":1: 2 tab-separated fields where 4 are"),
        ("sst2", sst2("good"), r":2: 1 tab-separated fields where 2 are needed, .* 1 of 1 rows"),
        ("sst2", sst2("a\tb\t1"), r":2: 3 tab-separated fields where 2 are needed"),
        ("sst2", sst2(), r"train\.tsv: no rows"),
        ("sst2", b"", r"train\.tsv: no rows"),
        ("cola", b"\xef\xbb\xbf\n", r"train\.tsv: no rows"),
        ("sst2", b"sentence\tlabel\nok\t1\ncaf\xe9\t1\n", r"train\.tsv:3: byte 0xe9 is not UTF-8"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, lines: list[str] | bytes, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_train(tmp_path, name, lines)


def test_missing_folder_and_files(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no folder .*absent; give by --data DIR"):
        get("glue/rte").load(tmp_path / "absent")
    with pytest.raises(
        TaskError, match=r"does not hold train\.tsv and dev\.tsv; found was nothing"
    ):
        get("glue/rte").load(tmp_path)
    write(tmp_path, "mnli", ["x"], files=("train.tsv", "dev.tsv"))
    with pytest.raises(
        TaskError,
        match=r"does not hold train\.tsv and dev_matched\.tsv and dev_mismatched\.tsv; found was "
        r"dev\.tsv, train\.tsv\.",
    ):
        get("glue/mnli").load(tmp_path)


def test_rare_short_rows_are_skipped_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["good\t1"] * 100
    write(tmp_path, "sst2", sst2(*rows), files=("dev.tsv",))
    write(tmp_path, "sst2", sst2(*rows[:7], "short", *rows[7:]), files=("train.tsv",))
    with caplog.at_level(logging.WARNING, logger="prunella"):
        assert len(get("glue/sst2").load(tmp_path).train) == 100
    (record,) = caplog.records
    assert record.name == "prunella"
    assert "train.tsv: skipped 1 of 101 rows" in record.getMessage()
    assert record.getMessage().endswith("the first at line 9")
    write(tmp_path, "sst2", sst2(*rows[:99], "short"), files=("train.tsv",))
    with pytest.raises(TaskError, match=r":101: 1 tab-separated fields .* 1 of 100 rows"):
        get("glue/sst2").load(tmp_path)


@pytest.mark.parametrize("name", HUB)
def test_the_hub_set_is_brought_to_the_same_columns(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    labels, texts = HUB[name]
    label = ClassLabel(names=list(labels)) if labels else Value("float32")
    columns: dict[str, Any] = {text: [f"a {text}"] for text in texts}
    features = datasets.Features(
        **{text: Value("string") for text in texts} | {"label": label, "idx": Value("int32")}
    )
    rows = Dataset.from_dict(columns | {"label": [1], "idx": [0]}, features=features)
    kinds = ["_matched", "_mismatched"] if name == "mnli" else [""]
    hub = {"train": rows} | {f"validation{kind}": rows for kind in kinds}

    def load_dataset(path: str, config: str) -> dict[str, Dataset]:
        assert (path, config) == ("nyu-mll/glue", name)
        return hub

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    splits = get(f"glue/{name}").load(None)
    expected = {"text": [f"a {texts[0]}"]} | (
        {"pair": [f"a {texts[1]}"]} if len(texts) == 2 else {}
    )
    for part in (splits.train, *splits.dev.values()):
        assert part.to_dict() == expected | {"label": [1]}
        assert part.features["label"] == label
    assert len(splits.dev) == len(kinds)


def test_an_unreachable_hub_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, config: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    with pytest.raises(TaskError, match=r"cannot read nyu-mll/glue .*no route.* --data DIR"):
        get("glue/rte").load(None)


@pytest.mark.parametrize(
    ("folder", "name", "train", "dev"),
    [
        ("RTE", "rte", 2490, 277),
        ("SST-2", "sst2", 67349, 872),
        ("CoLA", "cola", 8551, 1043),
        ("STS-B", "stsb", 5749, 1500),
    ],
)
def test_row_counts_of_the_real_sets(folder: str, name: str, train: int, dev: int) -> None:
    if not (GLUE_DATA / folder).is_dir():
        pytest.skip(f"no real data: set PRUNELLA_DATA to a folder with glue/{folder}")
    task = get(f"glue/{name}")
    splits = task.load(GLUE_DATA / folder)
    assert (len(splits.train), len(splits.dev["dev"])) == (train, dev)
    labels = np.asarray(splits.train["label"])
    if task.labels is None:
        assert (labels.min(), labels.max()) == (0.0, 5.0)
    else:
        assert set(labels) == set(range(len(task.labels)))


def test_unknown_task() -> None:
    with pytest.raises(TaskError, match=r"'glue/sts-b': did you mean glue/stsb.*known are gl"):
        get("glue/sts-b")
    with pytest.raises(TaskError, match=r"unknown task 'xyz': known are .*glue/wnli, demo"):
        get("xyz")


def test_classification_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    logits = rng.normal(size=(200, 2)) + 0.8 * np.eye(2)[labels]
    predictions = logits.argmax(axis=1)
    cola = get("glue/cola").evaluate(logits, labels)
    assert list(cola) == ["mcc", "accuracy"]
    assert cola["mcc"] == pytest.approx(matthews_corrcoef(labels, predictions), abs=1e-6)
    assert cola["accuracy"] == pytest.approx(accuracy_score(labels, predictions), abs=1e-6)
    mrpc = get("glue/mrpc").evaluate(logits, labels)
    assert mrpc["f1"] == pytest.approx(f1_score(labels, predictions), abs=1e-6)
    three = rng.integers(0, 3, 200)
    logits = rng.normal(size=(200, 3))
    mnli = get("glue/mnli").evaluate(logits.astype(np.float32), three)
    assert mnli == {"accuracy": pytest.approx(accuracy_score(three, logits.argmax(1)), abs=1e-6)}


@pytest.mark.parametrize("shape", [(200,), (200, 1)])
def test_correlations_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 11, 200) / 2  # with ties
    logits = labels + rng.normal(size=200)
    scores = get("glue/stsb").evaluate(logits.reshape(shape), labels)
    assert scores["pearson"] == pytest.approx(pearsonr(logits, labels).statistic, abs=1e-6)
    assert scores["spearman"] == pytest.approx(spearmanr(logits, labels).statistic, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("prediction", [0, 1])
def test_undefined_mcc_is_zero(label: int, prediction: int) -> None:
    logits = np.tile(np.eye(2)[prediction], (4, 1))
    assert get("glue/cola").evaluate(logits, np.full(4, label))["mcc"] == 0.0
    assert get("glue/cola").evaluate(logits, np.array([0, 1, 1, 1]))["mcc"] == 0.0
    mixed = np.eye(2)[[0, 1, 1, 1]]
    assert get("glue/cola").evaluate(mixed, np.full(4, label))["mcc"] == 0.0


def test_f1_without_positives_is_zero() -> None:
    assert get("glue/mrpc").evaluate(np.eye(2)[[0, 0]], np.array([0, 0])) == {
        "accuracy": 1.0,
        "f1": 0.0,
    }


def test_undefined_correlation_is_zero() -> None:
    rising = np.arange(4.0)
    for logits, labels in [
        (np.full(4, 2.7), rising),
        (rising, np.full(4, 2.7)),
        (np.zeros(4), np.zeros(4)),
        (np.ones(1), np.ones(1)),
    ]:
        assert get("glue/stsb").evaluate(logits, labels) == {"pearson": 0.0, "spearman": 0.0}


def test_evaluate_refuses_what_it_cannot_score() -> None:
    rte, stsb = get("glue/rte"), get("glue/stsb")
    with pytest.raises(TaskError, match=r"shape \(4, 3\) where \(4, 2\) is needed"):
        rte.evaluate(np.zeros((4, 3)), np.zeros(4))
    with pytest.raises(TaskError, match=r"shape \(4,\) where \(4, 2\) is needed"):
        rte.evaluate(np.zeros(4), np.zeros(4))
    with pytest.raises(TaskError, match=r"shape \(4, 2\) where \(4, 1\) is needed"):
        stsb.evaluate(np.zeros((4, 2)), np.zeros(4))
    with pytest.raises(TaskError, match="no rows"):
        rte.evaluate(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(TaskError, match="NaN or infinite"):
        rte.evaluate(np.array([[np.nan, 0.0]]), np.zeros(1))


def labelled(labels: list[int], task: Task) -> Dataset:
    assert task.classes is not None
    features = datasets.Features(text=Value("string"), label=ClassLabel(names=list(task.classes)))
    texts = [f"text {number}" for number in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def test_holdout_is_stratified_disjoint_and_deterministic() -> None:
    task = get("glue/sst2")
    train = labelled([0] * 300 + [1] * 100, task)
    rest, holdout = cut_holdout(train, seed=3)
    assert (len(rest), len(holdout)) == (360, 40)
    assert sum(holdout["label"]) == 10
    assert sorted([*rest["text"], *holdout["text"]]) == sorted(train["text"])
    again, same = cut_holdout(train, seed=3)
    assert (again.to_dict(), same.to_dict()) == (rest.to_dict(), holdout.to_dict())
    assert cut_holdout(train, seed=4)[1]["text"] != holdout["text"]


def test_holdout_has_at_most_1000_rows() -> None:
    task = get("glue/sst2")
    rest, holdout = cut_holdout(labelled([0, 1] * 6000, task), seed=0)
    assert (len(rest), len(holdout), sum(holdout["label"])) == (11000, 1000, 500)


@pytest.mark.parametrize("labels", [[0] * 29 + [1], [0, 1] * 5], ids=["lone class", "tiny holdout"])
def test_holdout_falls_back_to_a_random_cut(labels: list[int]) -> None:
    task = get("glue/sst2")
    rest, holdout = cut_holdout(labelled(labels, task), seed=0)
    assert len(holdout) == len(labels) // 10
    assert not set(rest["text"]) & set(holdout["text"])


def test_holdout_of_regression_and_of_too_few_rows() -> None:
    scores = Dataset.from_dict({"text": list(map(str, range(40))), "label": [0.5, 4.0] * 20})
    assert [len(part) for part in cut_holdout(scores, seed=0)] == [36, 4]
    with pytest.raises(TaskError, match=r"9 training rows are too few .* at least 10"):
        cut_holdout(scores.select(range(9)), seed=0)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(AutoTokenizer.from_pretrained(locate("demo")), max_length=32)


def test_features_of_a_pair(reader: Reader) -> None:
    rows = {"text": ["The soup was cold."], "pair": ["food"], "label": [0], "row": [7]}
    found = get("demo").features(rows, reader, training=True)
    text = reader.tokenizer.decode(found["input_ids"][0])
    assert text == "[CLS] the soup was cold. [SEP] food [SEP]"
    assert found["token_type_ids"] == [[0] * 7 + [1] * 2]
    assert found["attention_mask"] == [[1] * 9]
    assert (found["labels"], found["length"], found["cut"], found["row"]) == (
        [0],
        [9],
        [False],
        [7],
    )


def test_features_of_texts_that_are_cut(reader: Reader) -> None:
    rows = {"text": ["one two three four five", "one"], "label": [0.5, 1.0], "row": [0, 1]}
    short = replace(reader, max_length=5)
    found = get("glue/stsb").features(rows | {"pair": ["six", "two"]}, short, training=True)
    assert (found["length"], found["cut"]) == ([5, 5], [True, False])
    assert found["input_ids"][0][-1] == reader.tokenizer.sep_token_id
    single = replace(get("glue/stsb"), pair=False)
    found = single.features(rows, short, training=False)
    assert reader.tokenizer.decode(found["input_ids"][0]) == "[CLS] one two three [SEP]"
    with pytest.raises(TaskError, match=r"'one two three four five' has 7 tokens, and 5 .*--trunc"):
        single.features(rows, replace(short, truncate=False), training=False)


def test_records_hold_what_metrics_need(reader: Reader) -> None:
    task = get("glue/rte")
    rows = labelled([0, 1, 1], task)
    records = task.records(rows, rows, [[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    assert json.loads(json.dumps(records)) == records
    assert records[1] == {"label": 1, "logits": [0.0, 3.0]}
    assert task.score(records) == {"accuracy": pytest.approx(2 / 3)}
    assert task.score(records[:2]) == {"accuracy": 1.0}
