"""Fine-tuned checkpoints judged and asked again: of every family of tasks, through the commands."""

import csv
import gzip
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chats import CHATML, checkpoint
from corpora import CORPORA
from families import save
from folders import assert_refused, predictions_of, result_of
from sklearn.metrics import f1_score

from prunella.cli import main

# task -> model, the dev file of its corpus, and more flags
RUNS: dict[str, tuple[str, str, list[str]]] = {
    "classification": ("bert", "dev.jsonl", []),
    "multilabel": ("bert", "dev.csv", ["--label-separator", "|", "--label-threshold", "0.3"]),
    "glue/stsb": ("bert", "dev.tsv", []),
    "qa/squad_v2": ("bert", "dev.json", ["--max-length", "40", "--no-answer-threshold", "0.5"]),
    "ner/columns": ("bert", "dev.conll", []),
    "text2text": ("t5", "dev.jsonl", ["--max-new-tokens", "6", "--prefix", "say "]),
    "lm/causal": ("gpt2", "dev.txt", ["--max-length", "32", "--stride", "8"]),
    "lm/masked": ("bert", "dev.txt", ["--max-length", "32"]),
}
OWN = [task for task in RUNS if task not in ("glue/stsb", "qa/squad_v2")]
Made = Callable[[str], tuple[Path, Path]]


def noted(folder: Path) -> None:
    """Rows with any number of labels, of other words in train than in dev."""
    for part, words, count in (("train", "good warm bad cold", 60), ("dev", "fine poor", 12)):
        known = words.split()
        rows = [f"{known[n % len(known)]} film {n},{('', 'a', 'b|a')[n % 3]}" for n in range(count)]
        (folder / f"{part}.csv").write_text("\n".join(["text,label", *rows]) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a pruned run and that of its data, by task; each is made once."""
    root = tmp_path_factory.mktemp("finished")

    def made(task: str) -> tuple[Path, Path]:
        model, _, flags = RUNS[task]
        data, source = root / f"data-{task.replace('/', '-')}", root / model
        output = root / f"run-{task.replace('/', '-')}"
        if not output.exists():
            data.mkdir()
            (noted if task == "multilabel" else CORPORA[task])(data)
            if not source.exists():
                save(model, source)
            given = ["--model", source, "--task", task, "--data", data, "--output", output]
            few = ["--max-steps", "3", "--batch-size", "8", "--criterion", "magnitude"]
            assert main(["prune", *map(str, given), *few, *flags]) == 0
        return output, data

    return made


def evaluated(folder: Path, *arguments: Any) -> dict[str, Any]:
    file = folder.parent / "evaluated.json"
    assert main(["evaluate", *map(str, (folder, *arguments)), "--json", str(file)]) == 0
    return json.loads(file.read_text())


def predicted(folder: Path, file: Path, *arguments: Any) -> list[dict[str, Any]]:
    output = folder.parent / "predicted.jsonl"
    given = ["predict", *map(str, (folder, file, *arguments)), "--output", str(output)]
    assert main([*given, "--overwrite"]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


# --- evaluate --------------------------------------------------------------------------------


@pytest.mark.parametrize("task", RUNS)
def test_a_run_is_judged_as_it_was(made: Made, task: str) -> None:
    """The task and how it is read come from the run; so do its metrics on the same rows."""
    run, _ = made(task)
    expected = {"dev": result_of(run)["metrics"]["dev"]}
    found = evaluated(run, "--engine", "dense")
    assert found["metrics"] == expected
    assert found["data"]["dev"] == result_of(run)["data"]["dev"]
    sparse = evaluated(run)["metrics"]["dev"]
    assert sparse == pytest.approx(expected["dev"], rel=1e-3)
    assert evaluated(run, "--split", "holdout", "--engine", "dense")["metrics"] == {
        "holdout": result_of(run)["metrics"]["holdout"]
    }


@pytest.mark.parametrize("task", OWN)
def test_a_file_that_is_given_is_judged_whole(made: Made, task: str, tmp_path: Path) -> None:
    run, data = made(task)
    _, dev, _ = RUNS[task]
    other = tmp_path / f"other{Path(dev).suffix}"
    shutil.copy(data / dev, other)
    lines = tmp_path / "said.jsonl"
    found = evaluated(run, "--data", other, "--engine", "dense", "--predictions", lines)
    assert found["metrics"]["dev"] == result_of(run)["metrics"]["dev"]
    ours = [json.loads(line) for line in lines.read_text().splitlines()]
    theirs = [{k: v for k, v in row.items() if k != "criterion"} for row in predictions_of(run)]
    assert [{**row, "file": ""} for row in ours] == [{**row, "file": ""} for row in theirs]
    if not task.startswith("lm/"):
        assert {row["file"] for row in ours} == {str(other)}


def test_a_file_with_one_class_is_judged_by_the_models_classes(
    made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, _ = made("classification")
    file = tmp_path / "good.csv"
    file.write_text("label,text\ngood,a good film\ngood,warm\n")
    assert main(["evaluate", str(run), "--data", str(file)]) == 0
    printed = capfd.readouterr().out
    assert "dev" in printed and "accuracy" in printed and " 2 " in printed


def test_the_other_class_may_be_the_positive_one(made: Made) -> None:
    run, _ = made("classification")
    given = [("bad", "good")[record["label"]] for record in predictions_of(run)]
    said = ["bad" if row["logits"][0] > row["logits"][1] else "good" for row in predictions_of(run)]
    found = evaluated(run, "--positive-class", "bad", "--engine", "dense")["metrics"]["dev"]
    assert found["f1"] == pytest.approx(f1_score(given, said, pos_label="bad"))


def test_either_spelling_names_the_model(made: Made, tmp_path: Path) -> None:
    run, data = made("classification")
    file = tmp_path / "m.json"
    given = ["--data", str(data), "--json", str(file), "--overwrite"]
    found = []
    for spelled in ([str(run), *given], [*given, str(run)], [*given, "--model", str(run)],
                    [f"--model={run}", *given]):  # fmt: skip
        assert main(["evaluate", *spelled]) == 0
        found.append(json.loads(file.read_text())["metrics"])
    assert all(each == found[0] for each in found)


def test_classes_in_another_order_are_put_in_the_tasks(made: Made, tmp_path: Path) -> None:
    """A checkpoint by someone else, whose classes are those of the task the other way round."""
    run, data = made("classification")
    plain = tmp_path / "plain"
    assert main(["export", str(run), str(plain), "--format", "dense"]) == 0
    (plain / "prunella.yaml").unlink(missing_ok=True)
    file = plain / "config.json"
    config = json.loads(file.read_text())
    config["id2label"], config["label2id"] = {"0": "good", "1": "bad"}, {"good": 0, "bad": 1}
    file.write_text(json.dumps(config))
    folder = tmp_path / "SST-2"
    folder.mkdir()
    for part in ("train", "dev"):
        (folder / f"{part}.tsv").write_text("sentence\tlabel\na good film\t1\nbad\t0\n" * 10)
    given = ["--task", "classification", "--engine", "dense", "--data", data]
    swapped = evaluated(plain, *given)["metrics"]["dev"]["accuracy"]
    assert swapped == pytest.approx(1 - result_of(run)["metrics"]["dev"]["accuracy"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name the model", "prunella evaluate MODEL"]),
        (["{empty}"], ["was not written by prunella prune", "--task"]),
        (["{empty}", "--task", "glue/rte"], ["config.json", "{empty}"]),
        (["nowhere/at/all", "--task", "glue/rte"], ["nowhere/at/all", "no folder"]),
        (["{run}", "--task", "nope"], ["unknown task 'nope'"]),
        (["{run}", "--task", "lm/masked", "--data", "{texts}"],
         ["BertForSequenceClassification", "BertForMaskedLM", "--task"]),
        (["{run}", "--task", "glue/sst2", "--data", "{sst2}"],
         ["bad, good", "negative, positive", "id2label"]),
        (["{run}", "--task", "glue/mnli", "--data", "{sst2}"], ["2 outputs", "3"]),
        (["{run}", "--data", "{unknown}"], ["unknown.csv:3", "'fine'", "bad, good"]),
        (["{run}", "--data", "{unlabelled}"], ["unknown column 'label'"]),
        (["{run}", "--data", "{half}"], ["half.csv:3", "'label'"]),
        (["{run}", "--data", "{unknown}", "--text-column", "words"], ["unknown column 'words'"]),
        (["{run}", "--split", "nope"], ["--split nope", "holdout, train, dev"]),
        (["{run}", "--predictions", "{unknown}"], ["already", "--overwrite"]),
        (["{run}", "--predictions", "{empty}"], ["is a folder"]),
    ],
)  # fmt: skip
def test_evaluate_refuses_in_a_line(
    made: Made,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    sst2: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    run, _ = made("classification")
    capfd.readouterr()
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts.txt").write_text("one\n" * 40)
    (tmp_path / "unknown.csv").write_text("text,label\na,good\nb,fine\n")
    (tmp_path / "unlabelled.csv").write_text("text\na\n")
    (tmp_path / "half.csv").write_text("text,label\na,good\nb,\n")
    names = ("empty", "texts.txt", "unknown.csv", "unlabelled.csv", "half.csv")
    places = {Path(name).stem: str(tmp_path / name) for name in names}
    places |= {"run": str(run), "sst2": str(sst2)}
    assert main(["evaluate", *(each.format(**places) for each in arguments)]) == 2
    assert_refused(capfd, [each.format(**places) for each in words])


# --- predict ---------------------------------------------------------------------------------


def lines(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def test_classes_come_with_probabilities_and_places(made: Made, tmp_path: Path) -> None:
    run, _ = made("classification")
    texts = ["a good film", "an awful film", "warm"]
    files = [
        lines(tmp_path / "new.jsonl", [{"text": text} for text in texts]),
        tmp_path / "new.csv",
        tmp_path / "new.txt",
    ]
    files[1].write_text("id,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    files[2].write_text("a good film\n\nan awful film\nwarm")
    places = ([1, 2, 3], [2, 3, 4], [1, 3, 4])
    found = []
    for file, numbers in zip(files, places, strict=True):
        rows = predicted(run, file, "--with-text")
        assert [row["row"] for row in rows] == [0, 1, 2]
        assert [row["line"] for row in rows] == numbers
        assert [row["text"] for row in rows] == texts
        assert {row["file"] for row in rows} == {str(file)}
        for row in rows:
            shares = row["probabilities"]
            assert {*shares} == {"bad", "good"} and sum(shares.values()) == pytest.approx(1)
            assert row["prediction"] == max(shares, key=shares.__getitem__)
        found.append([row["prediction"] for row in rows])
    assert found[0] == found[1] == found[2]


def test_predictions_are_those_of_the_run(made: Made, tmp_path: Path) -> None:
    """Without their labels, dev's rows are predicted as they were with them."""
    run, data = made("classification")
    known = [json.loads(line) for line in (data / "dev.jsonl").read_text().splitlines()]
    file = lines(tmp_path / "new.jsonl", [{"text": row["text"]} for row in known])
    rows = predicted(run, file, "--engine", "dense")
    for row, record in zip(rows, predictions_of(run), strict=True):
        shares = [math.exp(logit) for logit in record["logits"]]
        assert list(row["probabilities"].values()) == pytest.approx(
            [share / sum(shares) for share in shares]
        )
        assert "text" not in row


def test_any_number_of_labels_is_said(made: Made, tmp_path: Path) -> None:
    run, data = made("multilabel")
    texts = [line.split(",")[0] for line in (data / "dev.csv").read_text().splitlines()[1:]]
    file = lines(tmp_path / "new.jsonl", [{"text": text} for text in texts])
    found = predicted(run, file, "--engine", "dense", "--with-text")
    for row, record in zip(found, predictions_of(run), strict=True):
        assert [name in row["prediction"] for name in ("a", "b")] == [*map(bool, record["said"])]
        shares = [1 / (1 + math.exp(-logit)) for logit in record["logits"]]
        assert row["probabilities"] == pytest.approx(dict(zip("ab", shares, strict=True)))
        assert row["text"] == texts[row["row"]] and row["line"] == row["row"] + 1
    none = predicted(run, file, "--label-threshold", "0.999")
    assert [row["prediction"] for row in none] == [[] for _ in none]


def test_rows_are_read_as_tools_write_them(
    made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, _ = made("classification")
    file = tmp_path / "new.csv.gz"
    file.write_bytes(gzip.compress("n;text\n1;grün\n2;\n3\n4;red\n".encode("cp1252")))
    form = ["--separator", ";", "--encoding", "cp1252"]
    capfd.readouterr()
    assert main(["predict", str(run), str(file)]) == 2
    assert_refused(capfd, ["--encoding cp1252", "--separator ';'"])
    assert main(["predict", str(run), str(file), *form]) == 2
    assert_refused(capfd, ["new.csv.gz:4", "--skip-bad-rows", "2 of 4 rows", "new.csv.gz:3"])
    rows = predicted(run, file, *form, "--skip-bad-rows", "--with-text")
    assert [(row["text"], row["line"]) for row in rows] == [("grün", 2), ("red", 5)]
    assert {row["file"] for row in rows} == {str(file)}


def test_how_files_are_written_is_known_of_the_runs_own_alone(made: Made, tmp_path: Path) -> None:
    run, data = made("classification")
    known = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    own, output = tmp_path / "own.csv", tmp_path / "run"
    own.write_text("text;label\n" + "".join(f"{row['text']};{row['label']}\n" for row in known))
    given = ["prune", "--model", run, "--task", "classification", "--data", own, "--output", output]
    few = ["--criterion", "dense", "--max-steps", "1", "--separator", ";"]
    assert main([*map(str, given), *few]) == 0
    assert evaluated(output, "--engine", "dense")["metrics"] == {
        "dev": result_of(output)["metrics"]["dev"]
    }
    assert evaluated(output, "--data", data / "dev.jsonl")["data"]["dev"]["rows"] == 12
    assert evaluated(output, "--data", own, "--separator", ";")["data"]["dev"]["rows"] == 60
    assert len(predicted(output, data / "dev.jsonl")) == 12


def test_pairs_are_graded(made: Made, tmp_path: Path) -> None:
    run, _ = made("glue/stsb")
    file = tmp_path / "new.tsv"
    file.write_text("one\tother\na cat\ta dog\nred\tred\n")
    rows = predicted(run, file, "--text-column", "one", "--pair-column", "other", "--with-text")
    assert all(isinstance(row["prediction"], float) for row in rows)
    assert rows[1]["pair"] == "red" and rows[1]["line"] == 3
    file.write_text("one\tother\tscore\na cat\ta dog\t2\nred\tred\t2\n")  # scores all alike
    columns = ["--text-column", "one", "--pair-column", "other", "--label-column", "score"]
    found = evaluated(run, "--task", "regression", "--data", file, *columns)
    assert found["data"]["dev"]["rows"] == 2 and {*found["metrics"]["dev"].values()} == {0.0}


@pytest.mark.parametrize("name", ["new.conll", "new.txt", "new.jsonl", "new.csv"])
def test_words_are_tagged(made: Made, tmp_path: Path, name: str) -> None:
    run, _ = made("ner/columns")
    file = tmp_path / name
    if name.endswith(".conll"):
        file.write_text("the\ncity\n\nking\n")
    elif name.endswith(".jsonl"):
        lines(file, [{"tokens": ["the", "city"]}, {"tokens": "king"}])
    else:
        file.write_text(("text\n" if name.endswith(".csv") else "") + "the city\nking\n")
    column = ["--text-column", "tokens"] if name.endswith(".jsonl") else []
    rows = predicted(run, file, "--with-text", *column)
    assert [row["words"] for row in rows] == [["the", "city"], ["king"]]
    assert [len(row["prediction"]) for row in rows] == [2, 1]
    assert {tag for row in rows for tag in row["prediction"]} <= {
        *("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    }
    lines_there = {"conll": [1, 4], "txt": [1, 2], "jsonl": [1, 2], "csv": [2, 3]}
    assert [row["line"] for row in rows] == lines_there[file.suffix[1:]]


def test_words_come_with_comments_or_in_the_columns_of_training(made: Made, tmp_path: Path) -> None:
    run, _ = made("ner/columns")
    file = tmp_path / "new.conllu"
    file.write_text("# text = the city\n1\tthe\tO\n1-2\tx\tO\n2\tcity\tO\n\n1\tking\tO\n")
    rows = predicted(run, file, "--text-column", "1", "--with-text")
    assert [(row["words"], row["line"]) for row in rows] == [(["the", "city"], 2), (["king"], 6)]
    rows = predicted(run, lines(tmp_path / "new.json", [{"tokens": ["king"]}]), "--with-text")
    assert [(row["words"], row["line"]) for row in rows] == [(["king"], 1)]


def test_questions_are_answered(made: Made, tmp_path: Path) -> None:
    run, data = made("qa/squad_v2")
    file = lines(tmp_path / "new.jsonl", [{"question": "who?", "context": "the king of red"}])
    (row,) = predicted(run, file, "--with-text")
    assert row["prediction"] in row["context"] and row["question"] == "who?"
    assert {"score", "no_answer", "id"} <= row.keys()
    asked = json.loads((data / "dev.json").read_text())
    for article in asked["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                del question["answers"]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    rows = predicted(run, tmp_path / "asked.json", "--engine", "dense")
    known = {row["id"]: row["prediction"] for row in predictions_of(run)}
    assert {row["id"]: row["prediction"] for row in rows} == known
    asked["data"][0]["paragraphs"][0]["qas"][0]["question"] = " "
    (tmp_path / "blank.json").write_text(json.dumps(asked))
    rows = predicted(run, tmp_path / "blank.json", "--skip-bad-rows")
    assert len(rows) == len(known) - 1


def test_texts_are_written(made: Made, tmp_path: Path) -> None:
    run, data = made("text2text")
    known = [json.loads(line) for line in (data / "dev.jsonl").read_text().splitlines()]
    file = lines(tmp_path / "new.jsonl", [{"source": row["source"]} for row in known])
    rows = predicted(run, file, "--engine", "dense")
    told = {row["source"]: row["prediction"] for row in predictions_of(run)}
    assert [row["prediction"] for row in rows] == [told[row["source"]] for row in known]


@pytest.mark.parametrize("task", ["lm/causal", "lm/masked"])
def test_texts_are_scored_each_by_itself(made: Made, tmp_path: Path, task: str) -> None:
    run, _ = made(task)
    (tmp_path / "two.txt").write_text("the king won\n\n" + "a red river of gold " * 20 + "\n")
    (tmp_path / "one.txt").write_text("the king won\n")
    first, second = predicted(run, tmp_path / "two.txt", "--with-text")
    (alone,) = predicted(run, tmp_path / "one.txt")
    assert first["prediction"] == pytest.approx(alone["prediction"])
    assert first["prediction"] == pytest.approx(math.exp(first["nll"] / first["tokens"]))
    assert second["line"] == 3 and second["tokens"] > first["tokens"]
    assert second["text"].startswith("a red river")


def test_predictions_go_to_the_screen_or_a_table(
    made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, _ = made("classification")
    capfd.readouterr()
    file = tmp_path / "new.txt"
    file.write_text("grün, red\n")
    assert main(["predict", "--model", str(run), str(file), "--with-text"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["text"] == "grün, red" and "grün" in line
    output = tmp_path / "said.csv"
    assert main(["predict", str(run), str(file), "--with-text", "--output", str(output)]) == 0
    with output.open(newline="") as table:
        (row,) = csv.DictReader(table)
    assert row["text"] == "grün, red" and row["prediction"] in ("bad", "good")
    assert {*json.loads(row["probabilities"])} == {"bad", "good"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name the model", "prunella predict MODEL"]),
        (["{run}"], ["name the rows", "prunella predict MODEL FILE"]),
        (["{run}", "nowhere.csv"], ["there is no file nowhere.csv"]),
        (["{run}", "{new}", "--text-column", "words"], ["unknown column 'words'"]),
        (["{run}", "{blank}"], ["blank.csv:3", "'text'", "fill it in"]),
        (["{run}", "{none}"], ["none.csv", "no rows"]),
        (["{run}", "{odd}"], ["odd.xlsx", "spreadsheet", "CSV"]),
        (["{run}", "{new}", "--output", "{blank}"], ["blank.csv already", "--overwrite"]),
        (["{run}", "{new}", "--task", "ner/columns"], ["BertForTokenClassification"]),
        (["{run}", "{new}", "--task", "text2text"], ["do not write text"]),
        (["{run}", "{new}", "--task", "chat"], ["conversations", "apply_chat_template"]),
        (["{run}", "{new}", "--task", "nope"], ["unknown task 'nope'"]),
        (["{unnamed}", "{new}", "--task", "classification"], ["does not name its classes"]),
        (["{unnamed}", "{new}"], ["was not written by prunella prune", "--task"]),
    ],
)
def test_predict_refuses_in_a_line(
    made: Made,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    run, _ = made("classification")
    capfd.readouterr()
    (tmp_path / "new.csv").write_text("text\na\n")
    (tmp_path / "blank.csv").write_text('text,n\na,1\n" ",2\n')
    (tmp_path / "none.csv").write_text("text\n")
    (tmp_path / "odd.xlsx").write_text("")
    (tmp_path / "unnamed").mkdir()
    config = json.loads((run / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (tmp_path / "unnamed" / "config.json").write_text(json.dumps(config))
    names = ("new.csv", "blank.csv", "none.csv", "odd.xlsx", "unnamed")
    places = {Path(name).stem: str(tmp_path / name) for name in names} | {"run": str(run)}
    before = (tmp_path / "blank.csv").read_text()
    assert main(["predict", *(each.format(**places) for each in arguments)]) == 2
    assert_refused(capfd, words)
    assert (tmp_path / "blank.csv").read_text() == before


# --- what a run leaves -----------------------------------------------------------------------


def test_a_runs_predictions_say_where_their_rows_are(made: Made, tmp_path: Path) -> None:
    """Also of rows that became dev, cut from a file to train on; with their text, if asked for."""
    run, data = made("classification")
    output = tmp_path / "cut"
    given = ["prune", "--model", str(run), "--task", "classification", "--data"]
    few = ["--criterion", "dense", "--max-steps", "1", "--with-text", "--output", str(output)]
    assert main([*given, str(data / "train.jsonl"), *few]) == 0
    there = (data / "train.jsonl").read_text().splitlines()
    for row in predictions_of(output):
        assert row["file"] == str(data / "train.jsonl")
        assert json.loads(there[row["line"] - 1])["text"] == row["text"]
    assert all("text" not in row and row["file"] for row in predictions_of(run))


def test_what_had_to_be_cut_is_said(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = made("classification")
    (tmp_path / "new.txt").write_text("a\n" + "the good king won " * 40 + "\n")
    predicted(run, tmp_path / "new.txt", "--max-length", "16")
    assert "new.txt: 1 of 2 too long and cut off" in caplog.messages


def test_conversations_are_judged_as_they_were(tmp_path: Path) -> None:
    source, data = tmp_path / "model", tmp_path / "chat.jsonl"
    checkpoint(source, "gpt2", CHATML)
    turns = [("user", "who won"), ("assistant", "the king")]
    rows = [
        {"messages": [{"role": r, "content": f"{text} {n}"} for r, text in turns]}
        for n in range(40)
    ]
    lines(data, rows)
    run = tmp_path / "run"
    given = ["--model", source, "--task", "chat", "--data", data, "--output", run]
    few = ["--max-steps", "2", "--batch-size", "8", "--criterion", "magnitude"]
    assert main(["prune", *map(str, given), *few]) == 0
    found = evaluated(run, "--engine", "dense")["metrics"]
    assert found == {"dev": result_of(run)["metrics"]["dev"]}
    lines(tmp_path / "new.jsonl", rows[:3])
    assert evaluated(run, "--data", tmp_path / "new.jsonl")["data"]["dev"]["rows"] == 3
