"""Span extraction: SQuAD's files, windows on contexts, spans from logits, and the metrics."""

import inspect
import json
import logging
import os
import random
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from datasets import Dataset
from torchmetrics.functional.text import squad as torchmetrics_squad
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerBase,
)

from prunella.errors import Diverged
from prunella.experiments.models import locate
from prunella.tasks import Reader, TaskError, sources, squad
from prunella.tasks.extraction import Extraction, best_span, words
from prunella.tasks.form import Form
from prunella.tasks.squad import SQUAD

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("PRUNELLA_DATA", ROOT.parent / "shared" / "data")) / "squad-articles"
V1, V2 = SQUAD
DECODERS = ("gpt2", "llama")
LEFT = ("xlnet", "llama")  # padded there, below
TOKENIZERS = ("bert", "roberta", "albert", "xlnet", "gpt2", "llama", "t5")
MODELS = (*TOKENIZERS, "deberta-v2", "modernbert", "bart")
Row = dict[str, Any]


def row(context: str, *answers: str, question: str = "who won?", name: str = "q0") -> Row:
    starts = [context.index(answer) for answer in answers]
    return {
        "id": name,
        "question": question,
        "context": context,
        "answers": {"text": list(answers), "answer_start": starts},
    }


def reader(name: str, max_length: int = 48, **settings: Any) -> Reader:
    tokenizer = families.tokenizer(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Reader(tokenizer, max_length, decoder_only=name in DECODERS, **settings)


def encode(
    rows: Sequence[Row], reader: Reader, task: Extraction = V1, *, training: bool = False
) -> Dataset:
    columns = {name: [row[name] for row in rows] for name in rows[0]} | {"row": [*range(len(rows))]}
    return Dataset.from_dict(task.features(columns, reader, training=training))


def batch(task: Extraction, reader: Reader, model: Any, features: Dataset) -> Any:
    """A padded batch of all features, with the columns that the model takes."""
    known = inspect.signature(model.forward).parameters
    columns = [name for name in features.column_names if name in known]
    return task.collator(reader.tokenizer, model)(list(features.select_columns(columns)))


def records(
    rows: Sequence[Row], features: Dataset, outputs: list[Any], task: Extraction = V1
) -> list[dict[str, Any]]:
    found = task.records(Dataset.from_list(list(rows), features=squad.FEATURES), features, outputs)
    assert json.loads(json.dumps(found)) == found
    return found


def oracle(rows: Sequence[Row], reader: Reader, task: Extraction = V1) -> list[dict[str, Any]]:
    """What a model says that knows what it would be trained for."""
    targets, features = (encode(rows, reader, task, training=known) for known in (True, False))
    outputs = [np.zeros((2, length), np.float32) for length in targets["length"]]
    for output, start, end in zip(
        outputs, targets["start_positions"], targets["end_positions"], strict=True
    ):
        output[0, start] = output[1, end] = 1.0
    return records(rows, features, outputs, task)


def random_rows(count: int, seed: int = 0) -> list[Row]:
    """Rows of up to 90 words, blanks of all kinds, and an answer of up to four words."""
    source = random.Random(seed)
    rows = []
    for number in range(count):
        texts = ["Zoë", "日本", "naïve", "b🎉d", "cafe\u0301", "x1", *families.WORDS]
        pieces = [source.choice(texts) for _ in range(source.randint(8, 90))]
        blanks = [source.choice([" ", " ", "  ", "\n", "\u00a0 "]) for _ in pieces]
        first = source.randrange(len(pieces))
        last = min(first + source.randrange(4), len(pieces) - 1)
        parts = [piece + blank for piece, blank in zip(pieces, blanks, strict=True)]
        start = len("".join(parts[:first]))
        answer = "".join([*parts[first:last], pieces[last]])
        answers = {"text": [answer], "answer_start": [start]}
        rows.append(row("".join(parts), name=f"q{number}") | {"answers": answers})
    return rows


# --- metrics -------------------------------------------------------------------------------------


def slow_words(text: str) -> list[str]:
    """SQuAD's normalisation, one character at a time."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    found, word = [], ""
    for sign in kept + " ":
        if sign.isspace():
            found += [word] if word else []
            word = ""
        else:
            word += sign
    return [word for word in found if word not in ("a", "an", "the")]


def slow_f1(one: list[str], other: list[str]) -> float:
    rest, same = list(other), 0
    for word in one:
        if word in rest:
            rest.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(one), same / len(other)
    return 2 * precision * recall / (precision + recall)


TEXTS = (
    *(
        "",
        " ",
        ".",
        "the",
        "The A an",
        "a cat",
        "The  cat",
        "cat!",
        "CAT\u00a0cat",
        "the cat, a cat",
    ),
    *(
        "U.S.",
        "us",
        "don't",
        "dont",
        "“quoted”",
        "quoted",
        "$5",
        "5",
        "Ärger",
        "ärger",
        "日本",
        "日 本",
    ),
    *("theater", "anthem a", "cat cat dog", "dog cat", "1,000", "1000", "ß", "İ", "an\tan\nx"),
)


def graded(prediction: str, *answers: str, task: Extraction = V1) -> dict[str, float]:
    return task.score([{"prediction": prediction, "answers": list(answers)}])


def test_words() -> None:
    for text in TEXTS:
        assert words(text) == slow_words(text)


def test_the_metrics_of_all_pairs_of_texts() -> None:
    for prediction in TEXTS:
        for answer in TEXTS:
            one, other = slow_words(prediction), slow_words(answer)
            expected = {"f1": slow_f1(one, other), "exact_match": float(one == other)}
            assert graded(prediction, answer) == pytest.approx(expected, abs=1e-12)
            if one or other:  # both without words: see the next test
                theirs = torchmetrics_squad(
                    [{"id": "0", "prediction_text": prediction}],
                    [{"id": "0", "answers": {"text": [answer], "answer_start": [0]}}],
                )
                theirs = {name: float(value) / 100 for name, value in theirs.items()}
                assert theirs == pytest.approx(expected, abs=1e-6)


def test_articles_alone_are_an_answer_in_1_1_and_none_in_2_0() -> None:
    assert graded("the", "A") == {"f1": 0.0, "exact_match": 1.0}
    right = {"f1": 1.0, "exact_match": 1.0, "has_answer_f1": 1.0, "no_answer_f1": 0.0}
    wrong = dict.fromkeys(V2.metrics, 0.0)
    assert graded("the", "A", task=V2) == graded("", "A", task=V2) == right
    assert graded("", "A", "cat", task=V2) == wrong
    assert graded("cat", "A", task=V2) == wrong


def test_the_best_answer_counts_for_each_metric() -> None:
    assert graded("the big cat", "cat", "big cat sat", "dog") == {
        "f1": pytest.approx(0.8),
        "exact_match": 0.0,
    }
    assert graded("cat", "dog", "Cat.") == {"f1": 1.0, "exact_match": 1.0}


def test_questions_with_and_without_answer() -> None:
    assert V2.metrics == ("f1", "exact_match", "has_answer_f1", "no_answer_f1")
    found = [
        {"prediction": "", "answers": []},
        {"prediction": "cat", "answers": []},
        {"prediction": ".", "answers": []},
        {"prediction": "", "answers": ["cat"]},
        {"prediction": "a cat", "answers": ["cat sat", "dog"]},
    ]
    scores = V2.score(found)
    assert tuple(scores) == V2.metrics
    assert scores == pytest.approx(
        {"f1": 8 / 15, "exact_match": 0.4, "has_answer_f1": 1 / 3, "no_answer_f1": 2 / 3}
    )
    assert V2.score(found[:3])["has_answer_f1"] == V2.score(found[3:])["no_answer_f1"] == 0.0
    assert all(type(value) is float for value in scores.values())


def test_no_records_cannot_be_scored() -> None:
    with pytest.raises(TaskError, match="qa/squad: no rows to evaluate"):
        V1.score([])


# --- windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_answers_are_found_again_in_every_window(name: str) -> None:
    rows, read = random_rows(15), reader(name)
    task = replace(V1, stride=20)
    targets, features = (encode(rows, read, task, training=known) for known in (True, False))
    held: set[int] = set()
    for target, feature in zip(targets, features, strict=True):
        assert target["input_ids"] == feature["input_ids"]
        assert target["length"] == feature["length"] == len(feature["offsets"]) <= read.max_length
        assert not feature["cut"]
        start, end = target["start_positions"], target["end_positions"]
        if start == end == feature["null_index"]:
            continue
        about = rows[feature["row"]]
        span = slice(feature["offsets"][start][0], feature["offsets"][end][1])
        assert about["context"][span].strip() == about["answers"]["text"][0]
        held.add(feature["row"])
    assert len(held) >= 12  # of 15: bytes and letters make answers that no window holds
    assert V1.score(oracle(rows, read, task))["f1"] >= len(held) / 15


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet", "t5"])
@pytest.mark.parametrize(("stride", "shared"), [(0, 0), (5, 5), (128, 16)])
def test_windows_share_the_stride_and_miss_nothing(name: str, stride: int, shared: int) -> None:
    rows, read = random_rows(8, seed=1), reader(name)
    whole = encode(rows, replace(read, max_length=2000), replace(V1, stride=stride))
    features = encode(rows, read, replace(V1, stride=stride))
    assert sorted(set(features["row"])) == [*range(8)]
    assert len(whole) == 8 < len(features)

    def inside(feature: Row) -> list[tuple[int, list[int]]]:
        pairs = zip(feature["input_ids"], feature["offsets"], strict=True)
        return [pair for pair in pairs if pair[1] != [-1, -1]]

    for number in range(8):
        found: list[tuple[int, list[int]]] = []
        for feature in features.filter(lambda f, number=number: f["row"] == number):
            tokens = inside(feature)
            assert not found or found[len(found) - shared :] == tokens[:shared]
            found += tokens[shared if found else 0 :]
        assert found == inside(whole[number])


def test_what_comes_first_and_where_nothing_is_pointed_at() -> None:
    context = "Spell [CLS] and <cls> and <s> here"
    places = {}
    for name in ("bert", "xlnet", "llama", "t5"):
        read = reader(name)
        feature = encode([row(context)], read)[0]
        inside = [place for place, span in enumerate(feature["offsets"]) if span != [-1, -1]]
        assert inside == [*range(inside[0], inside[-1] + 1)]
        places[name] = (feature["null_index"], inside[0] > 3, feature["length"])
    assert places["bert"][:2] == places["t5"][:2] == places["llama"][:2] == (0, True)
    # XLNet: context <sep> question <sep> <cls>
    assert places["xlnet"] == (places["xlnet"][2] - 1, False, places["xlnet"][2])
    left = reader("llama")
    left.tokenizer.padding_side = "left"
    assert (
        encode([row(context)], left)["offsets"]
        == encode([row(context)], reader("llama"))["offsets"]
    )


def test_questions_that_are_too_long_are_cut() -> None:
    rows = [
        row("the king won " * 20, "king", question="river " * 41),
        row("a film", "film", question="  \n who?  "),
    ]
    read = reader("bert", max_length=40)
    features = encode(rows, read)
    assert features["cut"] == [parent == 0 for parent in features["row"]]
    river = read.tokenizer.convert_tokens_to_ids("river")
    assert {feature["input_ids"].count(river) for feature in features if feature["cut"]} == {17}
    assert read.tokenizer.decode(features[-1]["input_ids"]) == "[CLS] who? [SEP] a film [SEP]"
    assert V1.score(oracle(rows, read)) == {"f1": 1.0, "exact_match": 1.0}
    with pytest.raises(
        TaskError, match=r"question 'river river .* has 41 tokens, and 17 are allowed, .*--truncate"
    ):
        encode(rows, replace(read, truncate=False))
    assert len(encode(rows[1:], replace(read, truncate=False))) == 1
    with pytest.raises(TaskError, match="--max-length 7 leaves no room for a question; give"):
        encode(rows, replace(read, max_length=7))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_short_windows_and_strange_texts(name: str) -> None:
    source = random.Random(2)
    pieces = [
        "king",
        " ",
        "\n",
        "🎉",
        "e\u0301",
        "日本",
        "\ufdfa",
        "\u200b",
        "\u0301",
        "[SEP]",
        "<s>",
    ]
    for max_length in (10, 11, 16, 33):
        texts = ["".join(source.choices(pieces, k=k)) for k in (0, 5, 60)]
        rows = [row(text, question=texts[-1 - n], name=str(n)) for n, text in enumerate(texts)]
        features = encode(rows, reader(name, max_length), V2)
        assert max(features["length"]) <= max_length
        assert set(features["row"]) == {0, 1, 2}
        outputs = [np.zeros((2, length), np.float32) for length in features["length"]]
        assert len(records(rows, features, outputs, V2)) == 3


def test_targets_of_questions_without_answer_and_of_answers_between_tokens() -> None:
    read = reader("bert")
    rows = [
        row("the king won"),
        row("the \u200b king", "\u200b"),  # a character that BERT drops
        row("won  by a  king ", "  by a  "),
        row("the kingdom", "king"),
    ]
    features = encode(rows, read, V2, training=True)
    spans = [*zip(features["start_positions"], features["end_positions"], strict=True)]
    first = 5  # after [CLS] who won ? [SEP]
    assert spans[:3] == [(0, 0), (0, 0), (first + 1, first + 3)]
    assert spans[3][0] > first and oracle(rows, read)[3]["prediction"].startswith("king")


def test_slow_tokenizers_are_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(TaskError, match=r"Slow does not tell where .* with a fast tokenizer"):
        encode([row("a")], Reader(Slow(), 64))


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_family_reads_batches_as_it_reads_single_windows(name: str) -> None:
    rows, read = random_rows(4, seed=3), reader(name)
    read.tokenizer.padding_side = "left" if name in LEFT else "right"
    model = families.build(name, V1.architecture(families.FAMILIES[name].config())).eval()
    model.config.pad_token_id = read.tokenizer.pad_token_id
    features, targets = (encode(rows, read, training=known) for known in (False, True))
    assert len(set(features["length"])) > 1
    assert any(targets["end_positions"])
    with torch.no_grad():
        together = V1.outputs(model, read.tokenizer, batch(V1, read, model, features))
        for number, output in enumerate(together):
            one = batch(V1, read, model, features.select([number]))
            (alone,) = V1.outputs(model, read.tokenizer, one)
            assert output.dtype == np.float32
            assert output.shape == (2, features[number]["length"])
            np.testing.assert_allclose(output, alone, atol=1e-5)
    assert len(records(rows, features, together)) == len(rows)
    model(**(padded := batch(V1, read, model, targets))).loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    places = padded["attention_mask"].cumsum(dim=1) - 1  # of tokens, without the padding
    for column in ("start_positions", "end_positions"):
        assert places.gather(1, padded[column][:, None])[:, 0].tolist() == targets[column]


def test_a_model_learns_to_point_at_an_answer() -> None:
    source = random.Random(4)
    rows = []
    for number in range(64):
        noise = [
            source.choice(["red", "green", "cold", "river"]) for _ in range(source.randint(5, 40))
        ]
        noise.insert(source.randrange(len(noise)), "king two" if number % 2 else "film")
        answers = ["king two"] if number % 2 else []
        rows.append(row(" ".join(noise), *answers, name=str(number)))
    read = reader("bert", max_length=32)
    model = families.build("bert", AutoModelForQuestionAnswering)
    inputs = batch(V2, read, model, encode(rows, read, V2, training=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.eval()  # no dropout
    for _ in range(40):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    features = encode(rows, read, V2)
    with torch.no_grad():
        outputs = V2.outputs(model, read.tokenizer, batch(V2, read, model, features))
    found = records(rows, features, outputs, V2)
    assert V2.score(found)["f1"] > 0.95
    assert all((record["no_answer"] > 0) == (record["prediction"] == "") for record in found)


def test_outputs_without_a_mask_and_outputs_that_are_not_finite() -> None:
    rows, read = random_rows(3, seed=5), reader("bert")
    model = families.build("bert", AutoModelForQuestionAnswering).eval()
    inputs = batch(V1, read, model, encode(rows, read))
    del inputs["attention_mask"]
    outputs = V1.outputs(model, read.tokenizer, inputs)
    assert [output.shape[1] for output in outputs] == encode(rows, read)["length"]
    model.qa_outputs.bias.data[1] = torch.nan
    with pytest.raises(Diverged, match="NaN"):
        V1.outputs(model, read.tokenizer, inputs)


def test_the_head_has_two_outputs_whatever_the_checkpoint_had(tmp_path: Path) -> None:
    BertConfig(num_labels=3).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path, **V1.head()).num_labels == 2
    assert (V1.length, V1.classes, V1.numeric, V1.minimize) == (384, None, False, False)


# --- spans ---------------------------------------------------------------------------------------


def test_the_best_span_is_that_of_a_search_through_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, longest = int(rng.integers(1, 12)), int(rng.integers(1, 14))
        logits, inside = rng.normal(size=(2, n)).astype(np.float32), rng.random(n) < 0.6
        spans = [
            (float(logits[0, i] + logits[1, j]), i, j)
            for i in range(n)
            for j in range(i, min(i + longest, n))
            if inside[i] and inside[j]
        ]
        found = best_span(logits, inside, longest)
        assert found == max(spans) if spans else found[0] == -np.inf


def test_the_best_window_wins_and_the_least_null_counts() -> None:
    rows = [row("red green blue red green", "blue", name="x"), row("cold", name="y")]
    features = encode(rows, reader("bert", max_length=12), V2)
    assert features["row"] == [0, 0, 1]
    outputs = [np.zeros((2, length), np.float32) for length in features["length"]]
    outputs[0][:, 0], outputs[1][:, 0], outputs[2][:, 0] = 3.0, 1.0, 0.5
    outputs[0][0, 5], outputs[0][1, 7] = 0.5, 0.5
    outputs[1][0, 5] = outputs[1][1, 5] = 0.75
    x, y = records(rows, features, outputs, V2)
    second = rows[0]["context"][slice(*features[1]["offsets"][5])]
    assert x == {"id": "x", "prediction": "", "answers": ["blue"], "score": 1.5, "no_answer": 0.5}
    assert y == {"id": "y", "prediction": "", "answers": [], "score": 0.0, "no_answer": 1.0}
    bold = replace(V2, threshold=0.5)
    assert [r["prediction"] for r in records(rows, features, outputs, bold)] == [second, ""]
    sure = records(rows, features, outputs)
    assert sure[0] == {"id": "x", "prediction": second, "answers": ["blue"], "score": 1.5}
    assert sure[1]["prediction"] == "cold"


def test_spans_are_no_longer_than_allowed() -> None:
    rows = [row("red green cold warm film")]
    features = encode(rows, reader("bert"))
    output = np.zeros((2, features[0]["length"]), np.float32)
    output[0, 5], output[1, 9] = 5.0, 4.0
    assert records(rows, features, [output])[0]["prediction"] == "red green cold warm film"
    short = records(rows, features, [output], replace(V1, max_answer=4))[0]
    assert short["score"] == 5.0 and short["prediction"].startswith("red")


def test_a_context_without_tokens_has_a_record() -> None:
    rows = [row(""), row(" \u200b", name="q1")]
    for task in SQUAD:
        features = encode(rows, reader("bert"), task)
        outputs = [np.ones((2, length), np.float32) for length in features["length"]]
        for record in records(rows, features, outputs, task):
            assert (record["prediction"], record["score"]) == ("", None)
            assert record.get("no_answer") is None


# --- files ---------------------------------------------------------------------------------------


def file(questions: Sequence[Row]) -> dict[str, Any]:
    """Rows in SQuAD's layout, each a paragraph of its own."""
    paragraphs = []
    for about in questions:
        columns = zip(about["answers"]["text"], about["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in columns]
        question = {"id": about["id"], "question": about["question"], "answers": answers}
        paragraphs.append({"context": about["context"], "qas": [question]})
    return {"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}


def write(folder: Path, train: Any, dev: Any = None, version: str = "") -> Path:
    for part, rows in (("train", train), ("dev", dev or [row("a king", "king")])):
        content = rows if isinstance(rows, dict) else file(rows)
        (folder / f"{part}{version}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("version", ["", "-v1.1", "-v2.0"])
def test_files(tmp_path: Path, version: str) -> None:
    task = V2 if version == "-v2.0" else V1
    train = [row("Zoë won", "Zoë", name="1"), row("a 🎉 film", "film", "🎉", name="2")]
    if task is V2:
        train.append(row("cold", name="3"))
    elsewhere = row("red", name="4") | {"answers": {"text": ["a king"], "answer_start": [99]}}
    splits = task.load(write(tmp_path, train, [elsewhere], version))
    assert list(splits.train) == train
    assert list(splits.dev) == ["dev"] and list(splits.dev["dev"]) == [elsewhere]
    assert splits.train.features == splits.dev["dev"].features == squad.FEATURES
    assert splits.train.cache_files == []


def test_a_file_of_1_1_will_do_for_2_0(tmp_path: Path) -> None:
    assert len(V2.load(write(tmp_path, [row("a king", "king")])).train) == 1


def test_a_mark_of_byte_order_is_no_text(tmp_path: Path) -> None:
    write(tmp_path, [row("a king", "king")])
    path = tmp_path / "train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(V1.load(tmp_path).train) == 1


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"qa/squad: there is no folder .*absent; give by --data"):
        V1.load(tmp_path / "absent")
    with pytest.raises(
        TaskError, match=r"does not hold train-v1\.1\.json, or train\.json; found was no"
    ):
        V1.load(tmp_path)
    write(tmp_path, [row("a king", "king")], version="-v1.1")
    with pytest.raises(
        TaskError, match=r"qa/squad_v2: .* found was dev-v1\.1\.json, train-v1\.1\.json\."
    ):
        V2.load(tmp_path)
    write(tmp_path, [row("a king", "king")])
    with pytest.raises(TaskError, match=r"train-v1\.1\.json and train\.json are the same part"):
        V1.load(tmp_path)


GOOD = {"id": "1", "question": "?", "answers": [{"text": "king", "answer_start": 2}]}


def with_question(**changes: Any) -> dict[str, Any]:
    paragraphs = [{"context": "a king", "qas": [GOOD | {"id": "0"}, GOOD | changes]}]
    return {"data": [{"paragraphs": []}, {"paragraphs": paragraphs}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {},
            r"train\.json: \$\.data is missing and must be of type list; give the file in SQuAD's",
        ),
        ([], r"train\.json: no questions"),
        ({"data": {"a": 1}}, r"\$\.data is \{'a': 1\} and must"),
        ({"data": [{}]}, r"\$\.data\[0\]\.paragraphs is missing"),
        ({"data": [{"paragraphs": [7]}]}, r"\$\.data\[0\]\.paragraphs\[0\]\.context is missing"),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, r"paragraphs\[0\]\.qas is missing"),
        (with_question(question=None), r"qas\[1\]\.question is missing"),
        (with_question(answers={}), r"qas\[1\]\.answers\.text is missing and must be of type list"),
        (with_question(question=" "), r"qas\[1\]\.question is blank; fill it in"),
        (
            with_question(answers={"text": ["a"], "answer_start": []}),
            r"qas\[1\]\.answers has not as many starts as texts",
        ),
        (with_question(answers=[{"text": 1}]), r"answers\[0\]\.text is 1 and must be of type str"),
        (
            with_question(answers=[{"text": "a", "answer_start": True}]),
            r"answers\[0\]\.answer_start is True and must be of type int",
        ),
        (
            with_question(answers=[]),
            r"\$\.data\[1\]\.paragraphs\[0\]\.qas\[1\]: the question has no answers, and qa/squad "
            r"needs one; remove it, or take qa/squad_v2",
        ),
        ({"data": []}, r"train\.json: no questions; the file must hold at least one"),
        (with_question(question="\ud800"), r"train\.json: no sound JSON \(.*surrogates"),
    ],
)
def test_files_in_another_layout(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, with_question())
    (tmp_path / "train.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        V1.load(tmp_path)


def test_files_of_annotation_tools(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answer = {"text": "king", "answer_start": 2.0, "answer_id": 7}
    qas = [{"id": 0, "question": "?", "answers": [answer]}, {"question": "?", "answers": [answer]}]
    hub = {"id": 0, "question": "?", "answers": {"text": ["king"], "answer_start": [2]}}
    none = {"id": 3, "question": "?", "is_impossible": True}
    content = {
        "data": [
            {"paragraphs": [{"context": "a king", "document_id": 5, "qas": qas}]},
            {"paragraphs": [{"context": "a king", "qas": [hub]}] * 2},
        ]
    }
    for part in ("train", "dev"):
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    splits = V1.load(tmp_path)
    assert splits.train["id"] == ["0", "1", "0", "0"]
    assert splits.dev["dev"]["answers"][1] == {"text": ["king"], "answer_start": [2]}
    found = oracle(splits.dev["dev"].to_list(), reader("bert"))
    assert [record["prediction"] for record in found] == ["king"] * 4

    content["data"][0]["paragraphs"][0]["qas"] += [none, {"id": 4, "question": None}]
    (tmp_path / "train.json").write_text(json.dumps(content["data"]))
    message = r"qas\[2\]: the question has no answers.*2 of 6 rows.*question is missing"
    with pytest.raises(TaskError, match=message):
        V1.load(tmp_path)
    assert len(V1.load(tmp_path, form=Form(skip=True)).train) == 4
    assert "left out 2 of 6 rows" in caplog.text
    assert len(V2.load(tmp_path, form=Form(skip=True)).train) == 5


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"data":\n [}', r"train\.json:2: no sound JSON \(Expecting value: line 2 column 3"),
        (b"", r"train\.json:1: no sound JSON"),
        (b'{\n"data": "\xff"}', r"train\.json:2: byte 0xff is not UTF-8"),
        (b"[" * 100_000, r"train\.json: no sound JSON"),
    ],
)
def test_files_that_are_broken(tmp_path: Path, raw: bytes, message: str) -> None:
    (write(tmp_path, with_question()) / "train.json").write_bytes(raw)
    with pytest.raises(TaskError, match=message):
        V1.load(tmp_path)


@pytest.mark.parametrize(("text", "start"), [("king", 3), ("king", -4), (" ", 1), ("King", 2)])
def test_misplaced_answers_are_skipped_if_they_are_few(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, start: int
) -> None:
    rows = [row("a king", "king", name=f"q{n}") for n in range(101)]
    rows[70] |= {"answers": {"text": [text], "answer_start": [start]}}
    with caplog.at_level(logging.WARNING, logger="prunella"):
        train = V1.load(write(tmp_path, rows)).train
    assert train["id"] == [f"q{n}" for n in range(101) if n != 70]
    (logged,) = caplog.records
    assert logged.getMessage() == (
        f"{tmp_path / 'train.json'}: skipped 1 of 101 questions whose answer is not at its "
        "answer_start, the first 'q70'"
    )
    with pytest.raises(
        TaskError, match=r"train\.json: the answer of question 'q70' is not at its "
    ):
        V1.load(write(tmp_path, rows[1:]))


@pytest.mark.parametrize("task", SQUAD)
def test_the_hub_sets(monkeypatch: pytest.MonkeyPatch, task: Extraction) -> None:
    rows = Dataset.from_list([row("a king", "king") | {"title": "t"}])
    asked = []

    def load_dataset(name: str) -> dict[str, Dataset]:
        asked.append(name)
        return {"train": rows, "validation": rows}

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    splits = task.load(None)
    assert asked == [f"rajpurkar/{task.name.removeprefix('qa/')}"]
    for part in (splits.train, splits.dev["dev"]):
        assert list(part) == [row("a king", "king")]


def test_an_unreachable_hub_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    with pytest.raises(TaskError, match=r"qa/squad_v2: cannot read rajpurkar/squad_v2 .*offline"):
        V2.load(None)


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason="SQuAD's files are not here")
def test_real_articles() -> None:
    splits = V1.load(DATA)
    assert (len(splits.train), len(splits.dev["dev"])) == (8803, 1767)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(locate("demo"))
    rows = list(splits.train.select(range(300)))
    for max_length in (384, 96):
        found = oracle(rows, Reader(tokenizer, max_length))
        for record in found:  # an answer may end within a token
            assert record["answers"][0].strip() in record["prediction"]
        assert sum(r["prediction"] == r["answers"][0] for r in found) >= 295
        assert V1.score(found)["f1"] > 0.99
