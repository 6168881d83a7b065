"""Data-to-text: to say in words what a set of facts says.

A source is its facts in a line, as is usual for GPT-2 (Li and Liang 2021, "Prefix-Tuning"; Hu et
al. 2022, "LoRA"): `name : The Vaults | eatType : pub` for slots, and for triples
`subject : predicate : object | …`, with blanks for underscores.

BLEU and chrF are sacreBLEU's and so come close to, but are not, those of each set's own scripts.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from datasets import Dataset

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.generation import Generation, grouped
from prunella.tasks.parts import labelled
from prunella.tasks.reading import at, decode, rows_of
from prunella.tasks.sources import PARQUET, first_of, from_folder, from_hub

# A source, and the texts that say it.
Entry = tuple[str, list[str]]

FILES = "the task's files"

logger = logging.getLogger("prunella")


@dataclass(frozen=True)
class _Spec:
    """How one set is stored.

    Attributes:
        name: After `d2t/`.
        hub: The set there and its configuration.
        row: Makes an entry of a row there; takes also the place of the row, for an error.
        layouts: The files or folders of train and dev, each pair another way to store the set.
        tests: Those of test, by all their names.
        read: Makes entries of one of these.
        tidy: Done to the texts to train on.
    """

    name: str
    hub: tuple[str, str]
    row: Callable[[Mapping[str, Any], str], Entry]
    layouts: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]
    read: Callable[[Path], Iterable[Entry]]
    tidy: Callable[[str], str] = str.strip


def _load(spec: _Spec, folder: Path | None, test: Path | None = None) -> Splits:
    """Read the parts of a set, from the hub (but for test) if no folder is given."""
    where = folder or spec.hub[0]
    there = test if folder is None or test is not None else first_of(folder, spec.tests)
    tested = labelled(
        there, lambda path: _rows(f"{path} (test)", spec.read(path)), asked=test is not None
    )
    if folder:
        files = from_folder(f"d2t/{spec.name}", FILES, folder, spec.layouts)
        train, dev = map(spec.read, files)
    else:
        train, dev = _from_hub(spec)
    tidied = ((source, [spec.tidy(text) for text in texts]) for source, texts in train)
    return Splits(_rows(f"{where} (train)", tidied), {"dev": _rows(f"{where} (dev)", dev)}, tested)


def _from_hub(spec: _Spec) -> list[Iterator[Entry]]:
    name, configuration = spec.hub
    splits = ("train", "validation")
    files = {split: f"{configuration}/{split}/*.parquet" for split in splits}
    parts = from_hub(f"d2t/{spec.name}", FILES, name, data_files=files, revision=PARQUET)
    return [
        (spec.row(row, f"{name}, {split} row {n}") for n, row in enumerate(parts[split], start=1))
        for split in splits
    ]


def _rows(where: str, entries: Iterable[Entry]) -> Dataset:
    """Rows of entries, less those without a text, which are counted."""
    pairs: list[tuple[str, str]] = []
    kept = total = 0
    for source, texts in entries:
        said = [(source, text) for text in texts if text.strip()]
        pairs += said
        kept += bool(said)
        total += 1
    if not pairs:
        raise TaskError(f"{where}: no entry has a text; give the labelled parts of the data.")
    if kept < total:
        logger.warning("%s: skipped %d of %d entries without a text", where, total - kept, total)
    return grouped(pairs)


# E2E (Novikova et al. 2017, "The E2E Dataset"). Its train part circulates in tokens ("£ 20 - 25 .",
# "customerrating") and its dev part in plain text. Sources of both are made plain, and so are the
# texts to train on, for a model is to write plain text; texts of dev remain as they are.

_SLOT = re.compile(r"\s*([^,\[\]]+)\[([^\[\]]*)\]\s*(?:,|$)")
# Blanks around punctuation. A hyphen closes up on both sides: dashes are too rare here to matter.
_BLANK = re.compile(
    r" (?=[.,;:!?])| (?='(?:s|t|re|ll|ve|m|d)\b)|(?<=£) (?=\d)"
    r"|(?<=\w) (?=- ?[\w£])|(?<=-) (?=[\w£])"
)


def detokenized(text: str) -> str:
    """Text without the blanks that a tokeniser put around punctuation.

    >>> detokenized("It 's family - friendly , at £ 20 - £ 25 .")
    "It's family-friendly, at £20-£25."
    """
    return _BLANK.sub("", " ".join(text.split()))


def _slots(meaning: object, place: str) -> str:
    """A meaning representation, `name[The Vaults], eatType[pub]`, as a source."""
    slots = _SLOT.findall(meaning) if isinstance(meaning, str) else []
    if not slots or _SLOT.sub("", str(meaning)):
        raise TaskError(
            f"{place}: {meaning!r} is no meaning representation; it must look like "
            "'name[The Vaults], eatType[pub]'."
        )
    return " | ".join(
        f"{name.replace('customerrating', 'customer rating')} : {detokenized(value)}"
        for name, value in slots
    )


def _e2e_row(row: Mapping[str, Any], place: str) -> Entry:
    text = row["human_reference"]
    return _slots(row["meaning_representation"], place), _strings([text], place)


def _e2e(path: Path) -> Iterator[Entry]:
    names = (
        ("mr", "ref") if path.suffix == ".csv" else ("meaning_representation", "human_reference")
    )
    for number, (meaning, text) in rows_of(path, names):
        yield _slots(meaning, at(path, number)), _strings([text], at(path, number))


# WebNLG (Gardent et al. 2017, "The WebNLG Challenge") and DART (Nan et al. 2021)


def _triples(triples: Sequence[Sequence[str]], place: str) -> str:
    sound = isinstance(triples, list) and all(isinstance(triple, list) for triple in triples)
    if not sound or not triples or any(len(triple) != 3 for triple in triples):
        raise TaskError(
            f"{place}: its facts are {triples!r}; each must be a subject, a predicate and an "
            "object, and one must be there."
        )
    return " | ".join(" : ".join(_strings(triple, place)) for triple in triples).replace("_", " ")


def _strings(values: Sequence[object], place: str) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise TaskError(f"{place}: {value!r} is no text; correct or remove the entry.")
    return [str(value) for value in values]


def _parts(fact: str) -> list[str]:
    return [part.strip() for part in fact.split("|", 2)]


def _webnlg_row(row: Mapping[str, Any], place: str) -> Entry:
    return _triples([_parts(fact) for fact in row["input"]], place), _said(row)


def _dart_row(row: Mapping[str, Any], place: str) -> Entry:
    return _triples(row["tripleset"], place), _said(row)


def _said(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row on the hub, where train has a row a text, and no references."""
    return row["references"] or [row["target"]]


def _webnlg(folder: Path) -> Iterator[Entry]:
    """The English texts of all XML files in a folder and below it."""
    for path in sorted(folder.rglob("*.xml")):
        try:
            root = ElementTree.fromstring(decode(path))
        except ElementTree.ParseError as error:
            raise TaskError(
                f"{path}:{error.position[0]}: not XML ({error}); give a file of WebNLG's own."
            ) from error
        for number, entry in enumerate(root.iter("entry"), start=1):
            place = f"{path}, entry {number}"
            triples = entry.iterfind("modifiedtripleset/mtriple")
            facts = [_parts(triple.text or "") for triple in triples]
            # Only later releases, which add Russian, say the language.
            english = [lex for lex in entry.iterfind("lex") if lex.get("lang", "en") == "en"]
            texts = [lex.text or "" for lex in english]
            yield _triples(facts, place), texts


def _dart(path: Path) -> Iterator[Entry]:
    text = decode(path)
    try:
        entries = json.loads(text)
        json.dumps(entries, ensure_ascii=False).encode()  # refuses half a surrogate pair
        if not isinstance(entries, list):
            raise ValueError(f"a {type(entries).__name__}, no list of entries")
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}: not JSON ({error}); give a file of DART's own.") from error
    for number, entry in enumerate(entries, start=1):
        place = f"{path}, entry {number}"
        try:
            facts, texts = entry["tripleset"], [said["text"] for said in entry["annotations"]]
        except (KeyError, TypeError) as error:
            raise TaskError(
                f"{place}: not a tripleset and annotations with a text; give a file of DART's own."
            ) from error
        yield _triples(facts, place), _strings(texts, place)


_SPECS = (
    _Spec(
        "e2e",
        hub=("tuetschek/e2e_nlg", "default"),
        row=_e2e_row,
        layouts=(("train.jsonl", "dev.jsonl"), ("trainset.csv", "devset.csv")),
        tests=("test.jsonl", "testset_w_refs.csv"),
        read=_e2e,
        tidy=detokenized,
    ),
    _Spec(
        "webnlg",
        hub=("GEM/web_nlg", "en"),
        row=_webnlg_row,
        layouts=(("train", "dev"),),
        tests=("test",),
        read=_webnlg,
    ),
    _Spec(
        "dart",
        hub=("GEM/dart", "default"),
        row=_dart_row,
        layouts=(("dart-v1.1.1-full-train.json", "dart-v1.1.1-full-dev.json"),),
        tests=("dart-v1.1.1-full-test.json",),
        read=_dart,
    ),
)

D2T = tuple(
    Generation(f"d2t/{spec.name}", load=partial(_load, spec), measures=("bleu", "rougeL", "chrf"))
    for spec in _SPECS
)
