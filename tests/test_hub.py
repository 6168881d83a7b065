"""Public sets as the hub gives them: in files of Datasets' cache, from load to features."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from folders import result_of
from transformers import AutoTokenizer

from prunella.cli import main
from prunella.experiments.encoding import encode
from prunella.tasks import TASKS, Reader, Task, cut_holdout, language, shared, sources

WORDS = ["good", "bad", "film", "plot", "king", "queen", "river", "city", "warm", "cold", "old"]
COUNTS = {"train": 40, "validation": 12, "test": 4}
GLUE = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}
Rows = Callable[[random.Random, int], dict[str, Any]]


def text(rng: random.Random, length: int = 6) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(length))


def _glue(name: str) -> tuple[Rows, dict[str, Any]]:
    classes = TASKS[f"glue/{name}"].classes
    label = ClassLabel(names=list(classes)) if classes else Value("float32")

    def row(rng: random.Random, number: int) -> dict[str, Any]:
        texts = {column: text(rng) for column in GLUE[name]}
        return texts | {"label": number % len(classes or "ab"), "idx": number}

    columns = {column: Value("string") for column in GLUE[name]}
    return row, columns | {"label": label, "idx": Value("int32")}


def _squad() -> tuple[Rows, dict[str, Any]]:
    def row(rng: random.Random, number: int) -> dict[str, Any]:
        context = text(random.Random(number // 2), 30)
        answers = {"text": [context.split()[0]], "answer_start": [0]}
        about = {"id": str(number), "title": "t", "context": context}
        return about | {"question": f"what is {text(rng, 3)} ?", "answers": answers}

    names = ("id", "title", "context", "question")
    answers = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
    return row, {name: Value("string") for name in names} | {"answers": answers}


def _tags(name: str) -> tuple[Rows, dict[str, Any]]:
    tags = List(ClassLabel(names=list(TASKS[name].classes or ())))

    def row(rng: random.Random, number: int) -> dict[str, Any]:
        return {"id": str(number), "tokens": text(rng).split(), "ner_tags": [0, 1, 2, 0, 0, 3]}

    return row, {"id": Value("string"), "tokens": List(Value("string")), "ner_tags": tags}


def _described(name: str) -> tuple[Rows, dict[str, Any]]:
    several = {"target": Value("string"), "references": List(Value("string"))}

    def row(rng: random.Random, number: int) -> dict[str, Any]:
        facts, said = [text(rng, 1), text(rng, 2), f"n{number}"], text(rng)
        if name == "d2t/e2e":
            return {"meaning_representation": f"name[{' '.join(facts)}]", "human_reference": said}
        source: Any = (
            {"tripleset": [facts]} if name == "d2t/dart" else {"input": [" | ".join(facts)]}
        )
        return source | {"target": said, "references": []}

    if name == "d2t/e2e":
        return row, dict.fromkeys(("meaning_representation", "human_reference"), Value("string"))
    if name == "d2t/dart":
        return row, {"tripleset": List(List(Value("string")))} | several
    return row, {"input": List(Value("string"))} | several


def _running() -> tuple[Rows, dict[str, Any]]:
    return lambda rng, number: {"text": f"{text(rng, 20)} {number}\n"}, {"text": Value("string")}


PUBLIC: dict[str, tuple[Rows, dict[str, Any]]] = {
    **{f"glue/{name}": _glue(name) for name in GLUE},
    **{name: _squad() for name in ("qa/squad", "qa/squad_v2")},
    **{name: _tags(name) for name in ("ner/conll2003", "ner/wnut17")},
    **{name: _described(name) for name in ("d2t/e2e", "d2t/webnlg", "d2t/dart")},
    "lm/causal": _running(),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has Datasets itself read a set from Parquet files, in place of the hub's."""

    def put(name: str) -> None:
        row, columns = PUBLIC[name]
        files = {}
        for split, count in COUNTS.items():
            kinds = (
                ("_matched", "_mismatched") if name == "glue/mnli" and split != "train" else ("",)
            )
            for kind in kinds:
                rng = random.Random(split + kind)
                rows = [row(rng, number) for number in range(count)]
                files[split + kind] = str(tmp_path / f"{split}{kind}.parquet")
                found = Dataset.from_list(rows, features=Features(columns))
                found.to_parquet(files[split + kind])
        sets = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
        assert all(part.cache_files for part in sets.values())
        monkeypatch.setattr(sources, "load_dataset", lambda *_, **__: sets)

    return put


def test_every_public_task_is_here() -> None:
    assert {name for name in TASKS if name != "demo"} < set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_from_the_hub_to_features(name: str, hub: Callable[[str], None], gpt2: Path) -> None:
    hub(name)
    task: Task = TASKS[name] if name in TASKS else language("lm/causal", None)
    splits = task.load(None)
    assert isinstance(splits.train, Dataset)
    rest, holdout = cut_holdout(
        splits.train, 0, apart=task.apart, ordered=task.ordered, texts=task.texts
    )
    assert len(rest) + len(holdout) <= COUNTS["train"] and len(holdout) in (3, 4)
    count = shared(rest, {"holdout": holdout, **splits.dev}, task.texts)
    assert [part["rows"] for part in count.values()] == [
        len(holdout),
        *(len(part) for part in splits.dev.values()),
    ]
    reader = Reader(AutoTokenizer.from_pretrained(gpt2), max_length=160, decoder_only=True)
    for part, training in ((rest, True), (holdout, False)):
        features, _ = encode(part, task, reader, training=training, name="train")
        again, _ = encode(part, task, reader, training=training, name="train")
        assert len(features) and features.to_dict() == again.to_dict()


def test_a_run_on_the_hub(hub: Callable[[str], None], bert: Path, tmp_path: Path) -> None:
    hub("glue/sst2")
    flags = (
        "--task glue/sst2 --max-steps 4 --batch-size 8 --begin 1 --every 1 --max-train-samples 20"
    )
    where = ["--model", str(bert), "--criterion", "magnitude", "--output", str(tmp_path / "out")]
    assert main(["prune", *flags.split(), *where]) == 0
    result = result_of(tmp_path / "out")
    assert result["data"]["train"]["rows"] == 20 and result["data"]["dev"]["rows"] == 12
    assert set(result["overlap"]) == {"left_out", "holdout", "dev"}
