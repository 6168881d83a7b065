"""Tiny data of every task, in its original files, of the words that ``families`` knows."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from families import WORDS

GOOD, BAD = ("good", "fine", "lovely", "warm"), ("bad", "poor", "awful", "cold")
COUNTS = {"train": 60, "dev": 12}


def _words(rng: random.Random, count: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(count)]


def _lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def classified(folder: Path) -> None:
    for part, count in COUNTS.items():
        rng = random.Random(part)
        rows = []
        for number in range(count):
            label = number % 2
            words = [*_words(rng, 5), rng.choice((BAD, GOOD)[label])]
            rows.append({"text": " ".join(words), "label": ("bad", "good")[label]})
        _lines(folder / f"{part}.jsonl", rows)


def graded(folder: Path) -> None:
    for part, count in COUNTS.items():
        rng = random.Random(part)
        lines = ["index\tsentence1\tsentence2\tscore"]
        for number in range(count):
            one, two = (" ".join(_words(rng, 4)) for _ in range(2))
            lines.append(f"{number}\t{one}\t{two}\t{rng.uniform(0, 5):.2f}")
        (folder / f"{part}.tsv").write_text("\n".join(lines) + "\n")


def asked(folder: Path, impossible: bool = False) -> None:
    for part, count in COUNTS.items():
        rng = random.Random(part)
        paragraphs = []
        for number in range(count // 2):
            words = _words(rng, 40)
            context = " ".join(words)
            place = rng.randrange(38)
            answer = " ".join(words[place : place + 2])
            start = len(" ".join(words[:place])) + (place > 0)
            known = [{"text": answer, "answer_start": start}]
            asked = [
                {"id": f"{part}{number}a", "question": f"what is {answer} ?", "answers": known},
                {"id": f"{part}{number}b", "question": "who won ?", "answers": known},
            ]
            if impossible:
                asked[1] |= {"answers": [], "is_impossible": True}
            paragraphs.append({"context": context, "qas": asked})
        data = {"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}
        (folder / f"{part}.json").write_text(json.dumps(data))


def tagged(folder: Path, names: tuple[str, str] = ("train.conll", "dev.conll")) -> None:
    for name, count in zip(names, COUNTS.values(), strict=True):
        rng = random.Random(name)
        lines = []
        for _ in range(count):
            for word in _words(rng, 6):
                tag = {"city": "I-LOC", "river": "I-LOC", "king": "I-PER"}.get(word, "O")
                lines.append(f"{word} X Y {tag}")
            lines.append("")
        (folder / name).write_text("\n".join(lines) + "\n")


def conll(folder: Path) -> None:
    tagged(folder, ("eng.train", "eng.testa"))


def _pairs(part: str) -> list[tuple[str, list[str]]]:
    rng = random.Random(part)
    pairs = []
    for _ in range(COUNTS[part]):
        words = _words(rng, 3)
        pairs.append((" ".join(words), [" ".join(reversed(words)), " ".join(words[:2])]))
    return pairs


def described(folder: Path) -> None:
    for part in COUNTS:
        rows = [
            {"meaning_representation": f"name[{source}], eatType[city]", "human_reference": text}
            for source, texts in _pairs(part)
            for text in texts
        ]
        _lines(folder / f"{part}.jsonl", rows)


def triples(folder: Path) -> None:
    for part in COUNTS:
        entries = "".join(
            f"<entry category='City' eid='{number}'><modifiedtripleset><mtriple>{source} | king | "
            "city</mtriple></modifiedtripleset>"
            + "".join(f"<lex comment='good' lid='{n}'>{t}</lex>" for n, t in enumerate(texts))
            + "</entry>"
            for number, (source, texts) in enumerate(_pairs(part))
        )
        (folder / part).mkdir()
        text = f"<benchmark><entries>{entries}</entries></benchmark>"
        (folder / part / "city.xml").write_text(text)


def dart(folder: Path) -> None:
    for part in COUNTS:
        rows = [
            {
                "tripleset": [[source, "KING", "city"]],
                "annotations": [{"source": "x", "text": text} for text in texts],
            }
            for source, texts in _pairs(part)
        ]
        (folder / f"dart-v1.1.1-full-{part}.json").write_text(json.dumps(rows))


def rewritten(folder: Path) -> None:
    for part in COUNTS:
        rows = [{"source": source, "target": texts[0]} for source, texts in _pairs(part)]
        _lines(folder / f"{part}.jsonl", rows)


def talked(folder: Path) -> None:
    for part in COUNTS:
        rows = []
        for source, texts in _pairs(part):
            turns = [
                ("user", source),
                ("assistant", texts[0]),
                ("user", "why"),
                ("assistant", "no"),
            ]
            rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
        _lines(folder / f"{part}.jsonl", rows)


def written(folder: Path) -> None:
    for part, count in COUNTS.items():
        rng = random.Random(part)
        text = "\n".join(" ".join(_words(rng, 8)) for _ in range(2 * count))
        (folder / f"{part}.txt").write_text(text + "\n")


# task -> what writes its files
CORPORA: dict[str, Callable[[Path], None]] = {
    "classification": classified,
    "glue/stsb": graded,
    "qa/squad": asked,
    "qa/squad_v2": lambda folder: asked(folder, impossible=True),
    "ner/conll2003": conll,
    "ner/columns": tagged,
    "d2t/e2e": described,
    "d2t/webnlg": triples,
    "d2t/dart": dart,
    "text2text": rewritten,
    "lm/causal": written,
    "lm/masked": written,
    "chat": talked,
}
