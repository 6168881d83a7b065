"""A tag for every word: named entities and whatever else are spans of words.

Rows have the columns `words`, a list of strings, and `tags`, as many class indices. The classes are
tags of the scheme IOB2 (see `conll`): O, which is the first, and B-TYPE and I-TYPE of each type.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from datasets import ClassLabel, Dataset, List, Value
from seqeval.metrics.sequence_labeling import (  # type: ignore[import-untyped]
    accuracy_score,
    precision_recall_fscore_support,
)
from torch import Tensor
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.errors import unknown
from prunella.regularizers import IGNORED
from prunella.tasks.base import (
    USUAL,
    Columns,
    Reader,
    Record,
    Rows,
    Splits,
    Task,
    TaskError,
    class_names,
    finite,
)
from prunella.tasks.conll import OTHER_COLUMN, Scheme, Sentence, in_iob2, scheme_of, sentences
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.holdout import with_dev
from prunella.tasks.own import File, Parts, Source, named_test, own
from prunella.tasks.parts import labelled
from prunella.tasks.rejects import Rejects
from prunella.tasks.sources import PARQUET, first_of, from_folder, from_hub
from prunella.tasks.text import suffix_of

SUFFIXES = (".conll", ".conllu", ".txt", ".tsv", ".bio", ".iob", ".iob2", ".bioes", ".iobes")
TABLES = (".jsonl", ".json", ".parquet")
WORDS, TAGS = ("tokens", "words"), ("ner_tags", "tags", "labels")


@dataclass(frozen=True)
class Tagging(Task):
    """A tag for every word, learned and said at the word's first token.

    A record has the columns `labels` and `predictions`: for every word of a sentence the name of
    its tag, and of the tag that the model gives it. It is O where the model did not see the word.

    Attributes:
        labels: The tags in the order of their indices; O is the first.
    """

    labels: tuple[str, ...]

    auto = AutoModelForTokenClassification
    inputs: ClassVar[tuple[str, ...]] = ("words",)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("f1", "precision", "recall", "accuracy")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels

    def head(self) -> dict[str, Any]:
        return class_names(self.labels)

    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        """Turn sentences into tokens; in evaluation, `labels` say where the model is asked.

        Words are joined by blanks and told apart by the characters that tokens stand for. Given as
        a list, each would be read as if it stood alone, and byte-level tokenizers (GPT-2, RoBERTa)
        that were not made with `add_prefix_space` would take them all for pieces of one word.

        `seen` has the numbers of the words that have a token. Those behind the cut have none, nor
        those of nothing but characters that the tokenizer drops.
        """
        if not reader.tokenizer.is_fast:
            raise TaskError(
                f"{self.name}: {type(reader.tokenizer).__name__} does not say which characters a "
                "token stands for; give a model with a fast tokenizer."
            )
        texts = [" ".join(words) for words in rows["words"]]
        columns, cut = reader.read(texts, return_offsets_mapping=True)
        spans = columns.pop("offset_mapping")
        columns |= {"labels": [], "seen": [], "length": list(map(len, columns["input_ids"]))}
        for words, tags, places in zip(rows["words"], rows["tags"], spans, strict=True):
            firsts = _first_tokens(words, places)
            labels = [IGNORED] * len(places)
            for word, token in firsts.items():
                labels[token] = tags[word]
            columns["labels"].append(labels)
            columns["seen"].append(list(firsts))
        return columns | {"cut": cut, "row": rows["row"]}

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        return DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORED)

    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[Any]:
        asked = batch["labels"] != IGNORED
        inputs = {name: values for name, values in batch.items() if name != "labels"}
        best = finite(model(**inputs).logits[asked]).argmax(dim=-1)
        return [part.tolist() for part in best.split(asked.sum(dim=1).tolist())]

    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        found = []
        for tags, seen, said in zip(rows["tags"], features["seen"], outputs, strict=True):
            predictions = ["O"] * len(tags)
            for word, index in zip(seen, said, strict=True):
                predictions[word] = self.labels[index]
            labels = [self.labels[index] for index in tags]
            found.append({"labels": labels, "predictions": predictions})
        return found

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        yield [{**record, "predictions": ["O"] * len(record["labels"])} for record in records]

    def prediction(self, record: Record) -> dict[str, Any]:
        """As `Task.prediction`: the tag of every word."""
        return {"prediction": record["predictions"]}

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Score entities as CoNLL's scorer conlleval does, by seqeval; `accuracy` is of words.

        An entity counts as found if its type, its first and its last word are right. In what is
        predicted I- begins an entity unless the tag before is of its type. Entities of all types
        are counted together; a metric without any is 0.0.
        """
        if not records:
            raise TaskError(f"{self.name}: no rows to evaluate; give at least one.")
        labels = [record["labels"] for record in records]
        predictions = [record["predictions"] for record in records]
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, predictions, average="micro", zero_division=0
        )
        values = (f1, precision, recall, accuracy_score(labels, predictions))
        return dict(zip(self.metrics, map(float, values), strict=True))


def _first_tokens(words: Sequence[str], spans: Sequence[Sequence[int]]) -> dict[int, int]:
    """For the words that have tokens, in order, the number of the first.

    Args:
        words: Of one sentence.
        spans: For each token where its characters begin and end in the words, joined by blanks; the
            same number twice for tokens that stand for none.
    """
    word_at: list[int] = []
    for number, word in enumerate(words):
        word_at += [number] * len(word) + [-1]
    firsts: dict[int, int] = {}
    for token, (start, end) in enumerate(spans):
        # By the last character, for a token may begin with the blanks before its word.
        if start < end and word_at[end - 1] >= 0:
            firsts.setdefault(word_at[end - 1], token)
    return firsts


def columns(
    data: Path | str,
    *,
    word: int | str | None = None,
    tag: int | str | None = None,
    scheme: Scheme | None = None,
    form: Form = PLAIN,
    test: Path | None = None,
    asked: Rows = USUAL,
) -> Tagging:
    """Make a task of the user's own files, which are read at once.

    They have a word and its tag a line (`conll` says how), or are tables whose rows hold a list of
    words and a list of tags. The classes are O, and B- and I- of each type of entity in the
    training part, in order of name.

    Args:
        data: The training file; or a folder of files for train, dev and test, each with a suffix of
            `SUFFIXES` or of a table; a saved set or one on the hub (see `own.own`). Without a dev
            part a tenth of the training sentences, at most 1000, becomes the dev set: always the
            same ones.
        word: The number of the words' column, the first is 0, negative ones count from the last; by
            default 0. In tables its name, by default `tokens` or `words`.
        tag: That of the tags'; by default -1. In tables by default `ner_tags`, `tags` or `labels`.
        scheme: Of the tags, in both parts; None tells it from the training part.
        form: How files are written.
        test: A file for test, instead of what the data has.
        asked: What else is asked of the rows; of classes, that they are tags of IOB2.

    Returns:
        A task whose `load` returns the sentences read here, whatever it is given.

    Raises:
        TaskError: The data is not there or cannot be read, a tag does not fit the scheme, or the
            dev part has a type of entity that the training part has not, which has at least one.
    """
    path, suffixes = Path(data), (*SUFFIXES, *TABLES)
    if path.is_file() and suffix_of(path) not in TABLES:
        parts = Parts(File(path, form))
        if test is not None:
            parts = parts._replace(test=named_test(test, form, suffixes))
    else:
        parts = own(data, form, suffixes=suffixes, test=test)
    train_part, dev_part, test_part = parts
    read = _sentences(train_part, word, tag, form)
    scheme = scheme or scheme_of(read)
    read = in_iob2(str(train_part), read, scheme, skip=form.skip)
    types = sorted({label[2:] for sentence in read for label in sentence.tags} - {""})
    labels = asked.classes or _labels(types)
    if len(labels) == 1:
        raise TaskError(f"{train_part}: every tag is O; {OTHER_COLUMN}.")

    def judged(part: Source) -> Dataset:
        found = in_iob2(str(part), _sentences(part, word, tag, form), scheme, skip=form.skip)
        return _dataset(str(part), found, labels, asked, skip=form.skip)

    splits = with_dev(
        _dataset(str(train_part), read, labels, asked, skip=form.skip),
        None if dev_part is None else judged(dev_part),
        Path(str(train_part)),
        test=labelled(test_part, judged, asked=test is not None),
        whole=asked.whole,
    )
    return Tagging("ner/columns", load=lambda _: splits, labels=labels)


def _sentences(
    part: Source, word: int | str | None, tag: int | str | None, form: Form
) -> list[Sentence]:
    """The sentences of one part of the data, with the tags as they are there."""
    if not isinstance(part, File) or suffix_of(part.path) in TABLES:
        return _listed(part, word, tag, form)
    return sentences(
        part.path,
        word=number_of(part, word, 0, "--text-column"),
        tag=number_of(part, tag, -1, "--label-column"),
        form=form,
    )


def number_of(part: Source, place: int | str | None, default: int, flag: str) -> int:
    """A column's number; negative ones count from the last."""
    try:
        return default if place is None else int(place)
    except ValueError:
        raise TaskError(
            f"{flag} {place} is no number of a column, which {part} needs; count from 0, or from "
            "-1 backwards."
        ) from None


def _listed(
    part: Source, word: int | str | None, tag: int | str | None, form: Form
) -> list[Sentence]:
    """Sentences of a table whose rows hold a list of words and a list of tags."""
    known = part.columns()
    columns = [column_of(part, word, WORDS, known, "--text-column")]
    columns.append(column_of(part, tag, TAGS, known, "--label-column"))
    rejects = Rejects(str(part), skip=form.skip, at_once=False)
    found: list[Sentence] = []
    for place, cells in part.cells(columns, rejects):
        odd = next((c for c, cell in zip(columns, cells, strict=True) if not _texts(cell)), None)
        if odd is not None:
            cell = cells[columns.index(odd)]
            rejects.add(place, f"column {odd!r} holds {reprlib.repr(cell)}", _remedy(cell))
        elif len(cells[0]) != len(cells[1]):
            counts = f"{len(cells[0])} words and {len(cells[1])} tags"
            rejects.add(place, counts, "give each word a tag")
        else:
            found.append(Sentence(place, cells[0], cells[1], []))
    rejects.settle(len(found))
    if not found:
        raise TaskError(f"{part}: no sentences; the file must hold at least one.")
    return found


def column_of(
    part: Source, name: int | str | None, defaults: Sequence[str], known: Sequence[str], flag: str
) -> str:
    """The name of a column: the one given, or the first of the defaults that is there."""
    if name is not None:
        return str(name)
    there = [column for column in defaults if column in known]
    if not there:
        raise TaskError(
            f"{part}: no column {' or '.join(defaults)}; name one by {flag} (known are "
            f"{', '.join(known)})."
        )
    return there[0]


def _texts(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and all(isinstance(c, str) and c for c in cell)


def _remedy(cell: Any) -> str:
    numbers = isinstance(cell, list) and any(isinstance(part, int) for part in cell)
    return "give the tags by name" if numbers else "give a list of texts that are not empty"


def _labels(types: Iterable[str]) -> tuple[str, ...]:
    return ("O", *(f"{letter}-{kind}" for kind in types for letter in "BI"))


def _dataset(
    origin: Path | str,
    read: list[Sentence],
    labels: tuple[str, ...],
    asked: Rows = USUAL,
    *,
    skip: bool = False,
) -> Dataset:
    """Turn sentences, their tags in IOB2, into the columns of `Splits`."""
    indices = {label: index for index, label in enumerate(labels)}
    types = dict.fromkeys(label[2:] for label in labels if label != "O")
    rejects = Rejects(str(origin), skip=skip, at_once=False)
    kept = []
    for sentence in read:
        odd = next((place for place, tag in enumerate(sentence.tags) if tag not in indices), None)
        if odd is None:
            kept.append(sentence)
            continue
        reason = unknown("type", sentence.tags[odd][2:], types)
        rejects.add(sentence.place(origin, odd), reason, "correct the tag or remove the sentence")
    rejects.settle(len(kept))
    return Dataset.from_dict(
        {
            "words": [sentence.words for sentence in kept],
            "tags": [[indices[tag] for tag in sentence.tags] for sentence in kept],
        }
        | asked.column(sentence.place(origin) for sentence in kept),
        features=asked.features(
            {"words": List(Value("string")), "tags": List(ClassLabel(names=list(labels)))}
        ),
    )


@dataclass(frozen=True)
class _Set:
    """How a public set is stored; the types of its entities are in the hub's order."""

    name: str
    types: tuple[str, ...]
    files: tuple[tuple[str, str], ...]  # names of train and dev, and others that they go by
    tests: tuple[str, ...]  # names of test
    hub: str


_SETS = (
    # Tjong Kim Sang and De Meulder 2003 (https://aclanthology.org/W03-0419): English, in IOB1.
    _Set(
        "ner/conll2003",
        types=("PER", "ORG", "LOC", "MISC"),
        files=(("eng.train", "eng.testa"), ("train.txt", "valid.txt")),
        tests=("eng.testb", "test.txt"),
        hub="eriktks/conll2003",
    ),
    # Derczynski et al. 2017 (https://aclanthology.org/W17-4418): in IOB2, but for a few slips.
    _Set(
        "ner/wnut17",
        types=("corporation", "creative-work", "group", "location", "person", "product"),
        files=(("wnut17train.conll", "emerging.dev.conll"),),
        tests=("emerging.test.annotated",),
        hub="leondz/wnut_17",
    ),
)


def _load(spec: _Set, folder: Path | None, form: Form = PLAIN, test: Path | None = None) -> Splits:
    """Read the parts of a set, from the hub if no folder is given."""
    read = partial(_read, spec, form)
    if folder is None:
        train, dev, tested = _from_hub(spec)
        return Splits(train, {"dev": dev}, tested if test is None else read(test))
    train, dev = map(read, from_folder(spec.name, _needed(spec), folder, spec.files))
    there = first_of(folder, spec.tests) if test is None else test
    return Splits(train, {"dev": dev}, labelled(there, read, asked=test is not None))


def _from_hub(spec: _Set) -> list[Dataset]:
    hub = from_hub(spec.name, _needed(spec), spec.hub, revision=PARQUET)
    read = []
    for split in ("train", "validation", "test"):
        names = hub[split].features["ner_tags"].feature.names
        rows = zip(hub[split]["tokens"], hub[split]["ner_tags"], strict=True)
        origin = f"{spec.hub}/{split}"
        found = [
            Sentence(f"{origin}, row {number}", words, [names[index] for index in tags], [])
            for number, (words, tags) in enumerate(rows, start=1)
        ]
        read.append(_dataset(origin, in_iob2(origin, found, "iob1"), _labels(spec.types)))
    return read


def _read(spec: _Set, form: Form, file: Path) -> Dataset:
    found = in_iob2(file, sentences(file, word=0, tag=-1, form=form), "iob1", skip=form.skip)
    return _dataset(file, found, _labels(spec.types), skip=form.skip)


def _needed(spec: _Set) -> str:
    return " and ".join(spec.files[0])


NER = tuple(
    Tagging(spec.name, load=partial(_load, spec), labels=_labels(spec.types)) for spec in _SETS
)
