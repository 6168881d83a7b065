"""Holdouts: of rows that share no text with train, whatever the rows are made of and kept in."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from prunella.tasks import TaskError, cut_holdout, shared

VOCABULARY = [f"{a}{b}{c}" for a in "bdgkmpst" for b in "aeiou" for c in "lnrsx"]
CLASSES = ClassLabel(names=["no", "yes"])


def sentence(rng: random.Random, length: int) -> str:
    return " ".join(rng.choice(VOCABULARY) for _ in range(length))


def phrases(count: int = 120) -> Dataset:
    """Sentences and their phrases, as in SST-2, and words that are everywhere."""
    rng = random.Random(0)
    rows: list[str] = []
    for _ in range(count):
        words = sentence(rng, rng.randint(10, 20)).split()
        rows.append(" ".join(words))
        for _ in range(8):
            start = rng.randrange(len(words) - 1)
            rows.append(" ".join(words[start : start + rng.randint(1, 12)]))
    rng.shuffle(rows)
    labels = [number % 4 == 0 for number in range(len(rows))]
    return Dataset.from_dict(
        {"text": rows, "label": labels}, features=Features(text=Value("string"), label=CLASSES)
    )


def runs(text: str, size: int) -> set[str]:
    words = text.split()
    return {" ".join(words[at : at + size]) for at in range(len(words) - size + 1)}


def test_no_phrase_of_a_training_row_is_held_out() -> None:
    rows = phrases()
    rest, holdout = cut_holdout(rows, seed=0)
    assert 100 <= len(holdout) <= 108 and len(rows) - len(rest) - len(holdout) <= len(holdout)
    said = [f" {text} " for text in rest["text"]]
    for text in holdout["text"]:
        assert not any(f" {text} " in row for row in said)
        assert not any(run in row for row in said for run in runs(text, 8))
    assert 24 <= sum(holdout["label"]) <= 27
    assert shared(rest, {"holdout": holdout})["holdout"]["shared"] == 0
    assert len({*holdout["text"]} - {*rows["text"]}) == 0


def test_a_random_cut_is_counted_as_it_is() -> None:
    rows = phrases()
    count = shared(rows.select(range(100, len(rows))), {"cut": rows.select(range(100))})["cut"]
    said = [f" {text} " for text in rows.select(range(100, len(rows)))["text"]]
    whole = sum(any(f" {text} " in row for row in said) for text in rows["text"][:100])
    assert count["rows"] == 100 and count["shared"] >= count["whole"] >= whole > 30


SAME = {
    "case": ("The Plot was Thin, but her Acting Carried it Along", str.lower),
    "tokens": (
        "It's thin, but you don't mind: her acting carries it",
        lambda _: "It 's thin , but you do n't mind : her acting carries it",
    ),
    "quotes": ("He said “don’t go” and she went on all the same", lambda t: t.replace("“", "``")),
    "spacing": ("a b c d e f g h i j", lambda text: text.replace(" ", " \t ")),
    "width": ("Ａ film ｏｆ many words that nobody will forget", lambda t: t.replace("Ａ", "a")),
    "one word": ("one two three four five six seven eight nine", lambda t: f"{t[:-4]}ten"),
    "scripts without blanks": ("我们昨天去看了一部很长的电影", lambda text: text[:-2]),
    "a short one": ("never again please", lambda _: "Never again, please!"),
    "most of it": ("works well great phone", lambda text: f"{text} thanks"),
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_text(name: str) -> None:
    text, change = SAME[name]
    other = change(text)
    for one, two in ((text, other), (other, text)):
        train = Dataset.from_dict({"text": [one, "something else entirely here"]})
        assert shared(train, {"dev": Dataset.from_dict({"text": [two]})})["dev"]["shared"] == 1
    rng = random.Random(1)
    rows = [value for _ in range(20) for value in (sentence(rng, 9), sentence(rng, 9))]
    rows[3], rows[30] = text, other
    for seed in range(8):
        parts = cut_holdout(Dataset.from_dict({"text": rows}), seed=seed)
        assert sum(bool({text, other} & {*part["text"]}) for part in parts) == 1


def test_texts_that_only_sound_alike_are_not_the_same() -> None:
    train = Dataset.from_dict({"text": ["a party of seven sat down to dine"] * 3 + ["fine"]})
    dev = Dataset.from_dict({"text": ["art", "seven of a party sat", "down dine", "not fine"]})
    assert shared(train, {"dev": dev})["dev"] == {"rows": 4, "shared": 0, "whole": 0}


def pairs(of: Callable[[int], tuple[str, str]], count: int) -> Dataset:
    texts = [of(number) for number in range(count)]
    return Dataset.from_dict({"text": [a for a, _ in texts], "pair": [b for _, b in texts]})


def test_premises_stay_together_and_common_answers_tie_nothing() -> None:
    rng = random.Random(2)
    premises = [sentence(rng, 12) for _ in range(100)]
    rows = pairs(lambda n: (premises[n % 100], f"yes it is {n % 2}"[: 3 + 8 * (n % 2)]), 300)
    rest, holdout = cut_holdout(rows, seed=0)
    assert len(holdout) >= 27 and len(rest) + len(holdout) == 300
    assert not {*rest["text"]} & {*holdout["text"]}


def test_questions_are_followed_from_pair_to_pair() -> None:
    rng = random.Random(3)
    questions = [sentence(rng, 5) for _ in range(400)]
    # Five chains of pairs in each twenty questions.
    rows = pairs(lambda n: (questions[n], questions[n + 1 if n % 5 < 4 else n]), 400)
    rest, holdout = cut_holdout(rows, seed=0)
    assert len(holdout) == 40 and len(rest) == 360
    ours, theirs = ({*part["text"], *part["pair"]} for part in (holdout, rest))
    assert not ours & theirs


def test_contexts_that_differ_slightly_stay_together() -> None:
    rng = random.Random(4)
    contexts = [sentence(rng, 60) for _ in range(30)]
    columns: dict[str, list[str]] = {"context": [], "question": []}
    for context in contexts:
        for form in (context, f"{context} And so on.", context.replace(" ", ", ", 3).upper()):
            columns["context"] += [form, form]
            columns["question"] += ["who won?", sentence(rng, 5)]
    rows = Dataset.from_dict(columns)
    rest, holdout = cut_holdout(rows, seed=0, apart="context", texts=("context", "question"))
    assert len(holdout) == 18 and len(rest) == 162
    ours, theirs = (
        {text.lower().split()[5] for text in part["context"]} for part in (holdout, rest)
    )
    assert len(ours) == 3 and not ours & theirs


def test_templates_do_not_tie_all_rows_together() -> None:
    rng = random.Random(5)
    shape = "the {} is a place near the river where you can eat {} food for little money"
    rows = [shape.format(rng.choice(VOCABULARY), rng.choice(VOCABULARY)) for _ in range(400)]
    rest, holdout = cut_holdout(Dataset.from_dict({"text": rows}), seed=0)
    assert len(holdout) == 40 and len(rest) > 300
    few = Dataset.from_dict({"text": rows[:20]})  # all are alike, and none is a common phrase yet
    rest, holdout = cut_holdout(few, seed=0)
    assert (len(rest), len(holdout)) == (18, 2)
    assert shared(rest, {"holdout": holdout})["holdout"]["shared"] == 2


def test_the_cut_is_the_same_everywhere() -> None:
    """Recorded: neither NumPy's version nor the platform moves it."""
    rng = random.Random(6)
    rows = Dataset.from_dict(
        {"text": [sentence(rng, 9) for _ in range(100)], "n": list(range(100))}
    )
    assert cut_holdout(rows, seed=0)[1]["n"] == RECORDED[0]
    assert cut_holdout(rows, seed=1)[1]["n"] == RECORDED[1]


RECORDED = {0: [2, 16, 26, 54, 55, 73, 75, 86, 93, 95], 1: [17, 33, 36, 65, 69, 80, 81, 82, 84, 93]}


def test_lists_of_words_and_of_messages_are_texts() -> None:
    rng = random.Random(7)
    words = [sentence(rng, 9).split() for _ in range(40)]
    words[20:] = [[*given[:-1], "end"] for given in words[:20]]
    chat = [[{"role": "user", "content": " ".join(given)}] for given in words]
    for rows in (Dataset.from_dict({"words": words}), Dataset.from_dict({"messages": chat})):
        rest, holdout = cut_holdout(rows, seed=0)
        assert len(holdout) == 4 and len(rest) == 36
        assert shared(rest, {"holdout": holdout})["holdout"]["shared"] == 0


def test_rows_without_any_text_are_cut_at_random() -> None:
    rows = Dataset.from_dict({"text": [""] * 30, "other": [None] * 30})
    rest, holdout = cut_holdout(rows, seed=0)
    assert (len(rest), len(holdout)) == (27, 3)
    assert shared(rest, {"holdout": holdout})["holdout"]["shared"] == 0


def test_a_context_with_too_many_questions_is_refused() -> None:
    rows = Dataset.from_dict({"context": ["a king and his queen"] * 30})
    with pytest.raises(TaskError, match=r"no holdout of 3 of 30 .* no context is in both parts"):
        cut_holdout(rows, seed=0, apart="context")


# --- what rows are kept in ------------------------------------------------------------------------


def kept(folder: Path, how: str) -> Dataset:
    rng = random.Random(8)
    texts = [sentence(rng, 6) for _ in range(40)]
    if how == "csv":
        (folder / "a.csv").write_text("text\n" + "\n".join(texts) + "\n")
        return datasets.load_dataset(
            "csv", data_files=str(folder / "a.csv"), split="train", cache_dir=str(folder / "cache")
        )
    rows = Dataset.from_dict({"text": texts})
    rows.save_to_disk(folder / "saved")
    found = datasets.load_from_disk(folder / "saved")
    assert isinstance(found, Dataset)
    return found.select([*range(39, -1, -1)]) if how == "selected" else found


@pytest.mark.parametrize("how", ["csv", "save_to_disk", "selected"])
def test_rows_that_are_kept_in_files(how: str, tmp_path: Path) -> None:
    rows = kept(tmp_path, how)
    assert rows.cache_files  # what the hub gives, too
    rest, holdout = cut_holdout(rows, seed=0)
    assert sorted([*rest["text"], *holdout["text"]]) == sorted(rows["text"])
    assert len(holdout) == 4
    memory = Dataset.from_dict({"text": rows["text"]})
    assert cut_holdout(memory, seed=0)[1]["text"] == holdout["text"]
    last = cut_holdout(rows, seed=0, ordered=True)[1]
    assert last["text"] == rows["text"][36:]


def test_where_a_row_is_from_is_no_text_of_it() -> None:
    """Or short texts would say nothing beside the long name of their file."""
    place = {"file": "a folder of mine/with many/words in/its long name.csv", "line": 1}
    train, dev = (
        Dataset.from_dict({"text": texts, "origin": [place for _ in texts]})
        for texts in (["red film", "cold", "warm"], ["red film", "blue"])
    )
    assert shared(train, {"dev": dev})["dev"] == {"rows": 2, "shared": 1, "whole": 1}
