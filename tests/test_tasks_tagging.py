"""Tagging: column files and their schemes, words and tokens, entities and their scores."""

import logging
import os
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from families import FAMILIES, build, tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from prunella.errors import Diverged
from prunella.experiments.models import locate
from prunella.tasks import Reader, Splits, TaskError, sources
from prunella.tasks.conll import Misfit, Sentence, iob2, scheme_of
from prunella.tasks.tagging import IGNORED, NER, Tagging, columns

ROOT = Path(__file__).parents[1]
CONLL = Path(os.environ.get("PRUNELLA_DATA", ROOT.parent / "shared" / "data")) / "conll2003"

CONLL2003, WNUT17 = NER
TYPES = ("PER", "LOC", "creative-work")
Spans = list[tuple[int, int, str]]  # first word, the one after the last, type


# --- schemes -------------------------------------------------------------------------------------


def random_spans(source: random.Random, words: int) -> Spans:
    """Entities that do not overlap; many touch, some of them of the same type."""
    spans, at = [], 0
    while at < words:
        length = min(source.choice([1, 1, 2, 3]), words - at)
        if source.random() < 0.6:
            spans.append((at, at + length, source.choice(TYPES)))
        at += length
    return spans


def encoded(spans: Spans, words: int, scheme: str) -> list[str]:
    """The tags of entities; `bilou` is `bioes` by other letters."""
    tags = ["O"] * words
    for number, (start, end, kind) in enumerate(spans):
        touches = number > 0 and spans[number - 1][1:] == (start, kind)
        letters = ["B" if scheme != "iob1" or touches else "I"] + ["I"] * (end - start - 1)
        if scheme in ("bioes", "bilou"):
            letters[-1] = {"bioes": "ES", "bilou": "LU"}[scheme][end - start == 1]
        tags[start:end] = [f"{letter}-{kind}" for letter in letters]
    return tags


def extracted(tags: Sequence[str]) -> Spans:
    """The entities of IOB tags, slowly: where one begins, and how far it goes on."""
    pairs = [(tag[0], tag[2:]) for tag in tags]
    spans = []
    for start, (letter, kind) in enumerate(pairs):
        if letter == "B" or (letter == "I" and (start == 0 or pairs[start - 1][1] != kind)):
            end = start + 1
            while end < len(pairs) and pairs[end] == ("I", kind):
                end += 1
            spans.append((start, end, kind))
    return spans


@pytest.mark.parametrize("scheme", ["iob1", "iob2", "bioes", "bilou"])
def test_every_scheme_says_the_same(tmp_path: Path, scheme: str) -> None:
    source = random.Random(0)
    sizes = [words for words in range(1, 40) for _ in range(5)]
    cases = [(random_spans(source, words), words) for words in sizes]
    assert any(a[1:] == (b[0], b[2]) for spans, _ in cases for a, b in pairwise(spans))
    path = tmp_path / "train.conll"
    path.write_text(
        "\n\n".join(
            "\n".join(f"w{place} {tag}" for place, tag in enumerate(encoded(spans, size, scheme)))
            for spans, size in cases
        )
    )
    (tmp_path / "dev.conll").write_bytes(path.read_bytes())
    name: Any = "bioes" if scheme == "bilou" else scheme
    for given in (name, None):
        task = columns(tmp_path, scheme=given)
        for part in (task.load(None).train, task.load(None).dev["dev"]):
            tags = [[task.labels[index] for index in row] for row in part["tags"]]
            assert tags == [encoded(spans, size, "iob2") for spans, size in cases]
            assert [extracted(row) for row in tags] == [spans for spans, _ in cases]
            assert part["words"] == [[f"w{place}" for place in range(size)] for size in sizes]


def test_the_scheme_is_told_from_the_tags() -> None:
    tags = {"iob1": ["I-A", "B-A"], "iob2": ["B-A", "I-A"], "bioes": ["S-A"], "bilou": ["U-A"]}
    told = {name: scheme_of([Sentence(1, ["w"], tags, [1])]) for name, tags in tags.items()}
    # what is in IOB2, IOB1 reads alike
    assert told == {"iob1": "iob1", "iob2": "iob1", "bioes": "bioes", "bilou": "bioes"}
    assert scheme_of([Sentence(1, ["w"], ["O"], [1])]) == "iob1"


def test_iob1_is_read_as_by_conlleval() -> None:
    source = random.Random(1)
    letters = ["O", *(f"{letter}-{kind}" for letter in "BI" for kind in TYPES)]
    for _ in range(500):
        tags = source.choices(letters, k=source.randrange(12))
        read = iob2(tags, "iob1")
        assert extracted(read) == extracted(tags)
        assert iob2(read, "iob2") == read


@pytest.mark.parametrize(
    ("scheme", "tags", "place", "rule"),
    [
        ("iob2", "B-A O I-A", 2, "tag 'I-A' begins an entity, which in IOB2 B-A does"),
        ("iob2", "I-A", 0, "begins an entity"),
        ("iob2", "B-A I-B", 1, "begins an entity, which in IOB2 B-B does"),
        ("iob2", "B-A E-A", 1, "'E-A' is neither O nor one of B, I with - and a type"),
        ("iob1", "O B", 1, "'B' is neither O nor one of B, I with - and a type"),
        ("iob1", "I-", 0, "'I-' is neither"),
        ("iob1", "BI-A", 0, "'BI-A' is neither"),
        ("iob1", "-A", 0, "'-A' is neither"),
        ("iob1", "O-A", 0, "'O-A' is neither"),
        ("iob1", "o", 0, "'o' is neither"),
        ("bioes", "O E-A", 1, "'E-A' continues no entity; B-A must come before it"),
        ("bioes", "S-A I-A E-A", 1, "'I-A' continues no entity"),
        ("bioes", "B-A O", 1, "'O' where I-A or E-A is needed"),
        ("bioes", "B-A B-A E-A", 1, "'B-A' where I-A or E-A is needed"),
        ("bioes", "B-A I-B", 1, "'I-B' where I-A or E-A is needed"),
        ("bioes", "B-A S-A", 1, "'S-A' where I-A or E-A is needed"),
        ("bioes", "O B-A I-A", 2, "the sentence ends before E-A"),
        ("bioes", "X-A", 0, "'X-A' is neither O nor one of B, I, E, S, L, U with"),
    ],
)
def test_tags_that_break_a_rule(
    tmp_path: Path, scheme: Any, tags: str, place: int, rule: str
) -> None:
    with pytest.raises(Misfit, match=rule) as raised:
        iob2(tags.split(), scheme)
    assert raised.value.place == place
    path = tmp_path / "a.txt"
    lines = [f"w {tag}" for tag in tags.split()]
    path.write_text("\n".join(["w O", "w O", "", *lines]))
    with pytest.raises(
        TaskError,
        match=rf"a\.txt:{4 + place}: .*{rule}.*; correct it, or name another column by "
        rf"--label-column .*, or another --scheme than {scheme}",
    ):
        columns(path, scheme=scheme)


# --- files ---------------------------------------------------------------------------------------


def loaded(folder: Path, text: str, **settings: Any) -> tuple[Tagging, dict[str, list[Any]]]:
    """A task of a training file, which is its dev file too, and the columns of its rows."""
    for name in ("train.conll", "dev.conll"):
        (folder / name).write_text(text, encoding="utf-8", newline="")
    task = columns(folder, **settings)
    return task, task.load(None).train.to_dict()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n", "-DOCSTART- -X- O\n\n", "-DOCSTART-\n"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n \n"])
def test_sentences_of_a_file(tmp_path: Path, start: str, end: str, last: str) -> None:
    first = "EU  NNP B-ORG \n# . O\n\t\n \nin IN O\n"
    second = "-DOCSTART- -X- O\nLos x B-LOC\nAngeles x I-LOC"
    task, rows = loaded(tmp_path, (start + first + second + last).replace("\n", end))
    assert task.labels == task.classes == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
    assert rows == {
        "words": [["EU", "#"], ["in"], ["Los", "Angeles"]],
        "tags": [[3, 0], [0], [1, 2]],
    }


def test_columns_are_chosen_by_number(tmp_path: Path) -> None:
    text = "1\tNew York\tB-LOC\t_\n2\tis\tO\tx \t\n\n1\ta\xa0b\u2028c\tO\t-\n2\tb\tO\t-\n"
    expected = {"words": [["New York", "is"], ["a\xa0b\u2028c", "b"]], "tags": [[1, 0], [0, 0]]}
    assert loaded(tmp_path, text, word=1, tag=2)[1] == expected
    assert loaded(tmp_path, text, word=-3, tag=-2)[1] == expected


def test_a_task_of_columns(tmp_path: Path) -> None:
    task, _ = loaded(tmp_path, "a B-b\nb O\n\nc I-a\nd O\n")
    assert (task.name, task.auto) == ("ner/columns", AutoModelForTokenClassification)
    assert task.metrics == ("f1", "precision", "recall", "accuracy")
    assert task.head() == {
        "id2label": {0: "O", 1: "B-a", 2: "I-a", 3: "B-b", 4: "I-b"},
        "label2id": {"O": 0, "B-a": 1, "I-a": 2, "B-b": 3, "I-b": 4},
    }
    splits = task.load(Path("elsewhere"))
    assert splits.train.features == splits.dev["dev"].features
    assert splits.train.features == Features(
        words=List(Value("string")), tags=List(ClassLabel(names=["O", "B-a", "I-a", "B-b", "I-b"]))
    )
    assert not splits.train.cache_files


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ": no sentences; the file must hold at least one"),
        ("\n \n-DOCSTART- O\n", ": no sentences"),
        ("a\nb\n", r":1: 1 column\(s\), and none has the number 1; .* 0 to 0 by --label-column"),
        ("a O\nb\n", ":2: 1 columns where the first line has 2; .* separated by blanks"),
        ("\na\tx\tO\nb c\tO\n", ":3: 2 columns where the first line has 3; .* separated by tabs"),
        ("a O\nb x O\n", ":2: 3 columns where the first line has 2"),
        ("a\tO\nb O\n", ":2: 1 columns where the first line has 2; .* separated by tabs"),
        ("a\tO\n\tO\n", ":2: the word is empty; fill it in or remove the line"),
        ("a O\n\nb B-X\n\nc O\n", ": each of the 3 sentences is a single word; put a blank line"),
        ("a NNP\nb O\n", ":1: tag 'NNP' is neither O nor .* --label-column"),
        ("a O\nb O\n", ": every tag is O; name another column by --label-column"),
        ("".join(f"a word{n}\n" for n in range(201)), ": .* holds 201 different types .* 200 are"),
    ],
)
def test_files_that_are_no_sentences(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(text)
    with pytest.raises(TaskError, match=rf"a\.conll{error}"):
        columns(path, tag=1)


@pytest.mark.parametrize(
    ("word", "tag", "error"),
    [
        (3, -1, "none has the number 3; give one from 0 to 2 by --text-column, or one from -1 dow"),
        (0, -4, "none has the number -4; .*--label-column.* from -1 down to -3"),
        (2, -1, "column 2 would be both word and tag"),
        (-2, 1, "column -2 would be both word and tag"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, word: int, tag: int, error: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text("-DOCSTART- O\n\na b O\n")
    with pytest.raises(TaskError, match=rf"a\.conll:3: .*{error}"):
        columns(path, word=word, tag=tag)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"a O\n\xff O\n")
    with pytest.raises(TaskError, match=r"a\.conll:2: byte 0xff is not UTF-8"):
        columns(tmp_path / "a.conll")
    with pytest.raises(TaskError, match=r"there is no file or folder .*none"):
        columns(tmp_path / "none")
    source = random.Random(0)
    for _ in range(200):
        (tmp_path / "a.conll").write_bytes(bytes(source.choices(b"aOBI-\n\n \t\xc3\xa9", k=30)))
        with pytest.raises(TaskError, match=r"a\.conll"):
            columns(tmp_path / "a.conll")


@pytest.mark.parametrize("dev", ["dev.txt", "valid.tsv", "validation.conll", "testa.iob"])
def test_a_dev_file_by_any_of_its_names(tmp_path: Path, dev: str) -> None:
    (tmp_path / "train.bio").write_text("a B-X\nb O\n")
    (tmp_path / dev).write_text("c I-X\nd O\n")
    (tmp_path / "test.bio").write_text("?")
    splits = columns(tmp_path).load(None)
    assert splits.dev["dev"].to_dict() == {"words": [["c", "d"]], "tags": [[1, 0]]}
    (tmp_path / "dev.bio").write_text("e B-X\nf O\n")
    with pytest.raises(TaskError, match="are the same part of the data"):
        columns(tmp_path)


def test_types_of_entities_differ(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a B-PER\nb O\n")
    (tmp_path / "dev.txt").write_text("a B-PER\nb I-PER\n")  # a tag, but no type, that is new
    assert columns(tmp_path).load(None).dev["dev"]["tags"] == [[1, 2]]
    (tmp_path / "dev.txt").write_text("a O\n\nb O\nc B-PERS\n")
    with pytest.raises(
        TaskError, match=r"dev\.txt:4: unknown type 'PERS': did you mean PER\? known are PER; corr"
    ):
        columns(tmp_path)


def test_a_dev_set_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mine.data"
    path.write_text("\n".join(f"w{n} B-X\nw O\n" for n in range(40)))
    with caplog.at_level(logging.WARNING, "prunella"):
        first, again = columns(path).load(None), columns(path).load(None)
    assert "no dev file, so 4 of 40 rows become the dev set" in caplog.text
    assert (len(first.train), len(first.dev["dev"])) == (36, 4)
    assert first.dev["dev"].to_dict() == again.dev["dev"].to_dict()
    path.write_text("\n".join(f"w{n} B-X\nw O\n" for n in range(19)))
    with pytest.raises(TaskError, match="19 rows are too few to cut a dev set off"):
        columns(path)


# --- public sets ---------------------------------------------------------------------------------

HUB = {  # name, columns and classes, in order, of the hub's sets
    "ner/conll2003": (
        "eriktks/conll2003",
        ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"],
    ),
    "ner/wnut17": (
        "leondz/wnut_17",
        [
            "O",
            "B-corporation",
            "I-corporation",
            "B-creative-work",
            "I-creative-work",
            "B-group",
            "I-group",
            "B-location",
            "I-location",
            "B-person",
            "I-person",
            "B-product",
            "I-product",
        ],
    ),
}


@pytest.mark.parametrize("task", NER, ids=lambda task: task.name)
def test_sets_from_the_hub(task: Tagging, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, names = HUB[task.name]
    assert list(task.labels) == names
    kinds = Features(
        id=Value("string"), tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names))
    )

    def load(path: str, *, revision: str) -> dict[str, Dataset]:
        assert (path, revision) == (hub, "refs/convert/parquet")
        rows = {"id": ["0", "1"], "tokens": [["a", "b", "c"], ["d"]], "ner_tags": [[1, 2, 4], [0]]}
        part = Dataset.from_dict(rows, features=kinds)
        return {"train": part, "validation": part.select([0]), "test": part}

    monkeypatch.setattr(sources, "load_dataset", load)
    splits = task.load(None)
    # WNUT-17 has I- that follows an entity of another type: it begins one.
    assert splits.train.to_dict() == {"words": [["a", "b", "c"], ["d"]], "tags": [[1, 2, 3], [0]]}
    assert splits.dev["dev"].to_dict() == {"words": [["a", "b", "c"]], "tags": [[1, 2, 3]]}
    assert splits.train.features["tags"] == List(ClassLabel(names=names))


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        TaskError, match=r"ner/conll2003: cannot read eriktks/conll2003 .* eng\.train and eng\.test"
    ):
        CONLL2003.load(None)


@pytest.mark.parametrize("names", [("eng.train", "eng.testa"), ("train.txt", "valid.txt")])
def test_conll2003_by_either_name(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(TaskError, match=r"ner/conll2003: there is no folder .*none; give by"):
        CONLL2003.load(tmp_path / "none")
    (tmp_path / names[0]).write_text("-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nis V I-VP O\n")
    with pytest.raises(
        TaskError,
        match=rf"does not hold eng\.train and eng\.testa, or train\.txt and valid\.txt; found was "
        rf"{names[0]}",
    ):
        CONLL2003.load(tmp_path)
    (tmp_path / names[1]).write_text("Rome NNP B-NP B-LOC\nis V I-VP O\n")
    splits = CONLL2003.load(tmp_path)
    assert splits.train.to_dict() == {"words": [["EU", "is"]], "tags": [[3, 0]]}
    assert splits.dev["dev"].to_dict() == {"words": [["Rome", "is"]], "tags": [[5, 0]]}


def test_wnut17_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "wnut17train.conll").write_text("Empire\tB-location\nState\tI-location\n\t\na\tO\n")
    dev = "Lil\tB-person\nSly-\tI-person\nTurn\tI-creative-work\n\nx\tO\n"
    (tmp_path / "emerging.dev.conll").write_text(dev)
    splits = WNUT17.load(tmp_path)
    assert splits.train.to_dict() == {"words": [["Empire", "State"], ["a"]], "tags": [[7, 8], [0]]}
    assert splits.dev["dev"]["tags"] == [[9, 10, 3], [0]]
    (tmp_path / "emerging.dev.conll").write_text("a\tO\nb\tB-music\n")
    with pytest.raises(TaskError, match=r"emerging\.dev\.conll:2: unknown type 'music'"):
        WNUT17.load(tmp_path)


@pytest.fixture(scope="module")
def conll() -> Splits:
    if not CONLL.is_dir():
        pytest.skip(f"no {CONLL}")
    return CONLL2003.load(CONLL)


def test_conll2003_as_published(conll: Splits) -> None:
    """The counts of Tjong Kim Sang and De Meulder 2003, Tables 1 and 2."""
    for part, sentences, words, entities in (
        (conll.train, 14041, 203621, {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600}),
        (conll.dev["dev"], 3250, 51362, {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}),
    ):
        tags = [[CONLL2003.labels[index] for index in row] for row in part["tags"]]
        found = [kind for row in tags for *_, kind in extracted(row)]
        assert {kind: found.count(kind) for kind in sorted(set(found))} == entities
        assert len(part) == sentences
        assert sum(map(len, part["words"])) == sum(map(len, tags)) == words


# --- words and tokens ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(locate("demo"))


def features(
    read: PreTrainedTokenizerBase, *sentences: Sequence[str], length: int = 128, **settings: Any
) -> dict[str, list[Any]]:
    """Features of sentences, the tags of which are 0, 1, 2 ..."""
    rows = {"words": list(sentences), "tags": [list(range(len(words))) for words in sentences]}
    reader = Reader(read, length, **settings)
    return CONLL2003.features(
        rows | {"row": list(range(7, 7 + len(sentences)))}, reader, training=True
    )


def firsts(columns: dict[str, list[Any]], number: int = 0) -> list[int]:
    """The places of the tokens with a label."""
    return [place for place, label in enumerate(columns["labels"][number]) if label != IGNORED]


def test_first_pieces_of_wordpiece(minilm: PreTrainedTokenizerBase) -> None:
    read = features(minilm, ["Blackburn", "n't", "EU", "(", "unaffordable"], ["x"])
    pieces = minilm.convert_ids_to_tokens(read["input_ids"][0])
    assert pieces == (
        ["[CLS]", "blackburn", "n", "'", "t", "eu", "(", "una", "##ff", "##ord", "##able", "[SEP]"]
    )
    X = IGNORED  # noqa: N806
    assert read["labels"] == [[X, 0, 1, X, X, 2, 3, 4, X, X, X, X], [X, 0, X]]
    assert read["seen"] == [[0, 1, 2, 3, 4], [0]]
    assert (read["length"], read["cut"], read["row"]) == ([12, 3], [False, False], [7, 8])
    assert set(read) == set(minilm("x")) | {"labels", "seen", "length", "cut", "row"}


def test_words_that_leave_no_token(minilm: PreTrainedTokenizerBase) -> None:
    words = ["\u200b", "a", "\x07\x00", "b\u200b", "\xa0", "\ufe0f", "c d", "\u0301", "e"]
    read = features(minilm, words, ["\u200d"], [])
    assert minilm.convert_ids_to_tokens(read["input_ids"][0])[1:-1] == ["a", "b", "c", "d", "e"]
    assert read["seen"] == [[1, 3, 6, 8], [], []]
    assert [read["labels"][0][place] for place in firsts(read)] == [1, 3, 6, 8]
    assert set(read["labels"][1]) == set(read["labels"][2]) == {IGNORED}


@pytest.mark.parametrize("name", FAMILIES)
def test_first_pieces_of_every_tokenizer(name: str) -> None:
    """The tokens from one word's first to the next's spell the word."""
    read, source = tokenizer(name), random.Random(0)
    known = ("the", "city", "river", "king", "one", "ab", "xyz", "q", "film-river", "1996", "'s")
    sentences = [source.choices(known, k=source.randint(1, 12)) for _ in range(30)]
    made = features(read, *sentences)
    for number, words in enumerate(sentences):
        ids, starts = made["input_ids"][number], firsts(made, number)
        special = read.get_special_tokens_mask(ids, already_has_special_tokens=True)
        ends = [*starts[1:], max(place for place, mark in enumerate(special) if not mark) + 1]
        spelt = [
            read.decode(ids[start:end], clean_up_tokenization_spaces=False).replace(" ", "")
            for start, end in zip(starts, ends, strict=True)
        ]
        assert spelt == words
        assert [made["labels"][number][start] for start in starts] == list(range(len(words)))


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("trim", [False, True])
def test_first_pieces_of_bytes(prefix: bool, trim: bool) -> None:
    """Whether a token's span holds the blank before it, it belongs to the word after."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    trainer = trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    model.train_from_iterator(["the cat the cat the cat"], trainer)
    model.post_processor = processors.ByteLevel(trim_offsets=trim)
    read = PreTrainedTokenizerFast(tokenizer_object=model)
    made = features(read, ["cat", "\u200b", "the", "é", "cat"])
    pieces = read.convert_ids_to_tokens(made["input_ids"][0])
    assert "Ġcat" in pieces and "Ġthe" in pieces  # as in running text
    zero = pieces.index("â")
    assert made["seen"] == [[0, 1, 2, 3, 4]]
    assert firsts(made)[1:] == [zero, zero + 3, pieces.index("Ã"), len(pieces) - 1]


def test_blanks_of_a_word_that_is_dropped() -> None:
    """A token that begins before a dropped word is of the word that it spells."""
    model = Tokenizer(models.WordLevel({"▁▁b": 1, "▁a": 2, "[UNK]": 0}, unk_token="[UNK]"))
    model.normalizer = normalizers.Replace("\u200b", "")
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(split=False), pre_tokenizers.Split("▁▁b", "isolated")]
    )
    read = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]")
    made = features(read, ["a", "\u200b", "b"])
    assert made["input_ids"] == [[2, 1]] and made["seen"] == [[0, 2]]


def test_what_is_cut_is_not_seen(minilm: PreTrainedTokenizerBase) -> None:
    words = ["a", "b", "unaffordable", "c", "d"]
    read = features(minilm, words, ["a"], length=6)
    assert (read["length"], read["cut"]) == ([6, 3], [True, False])
    assert read["seen"] == [[0, 1, 2], [0]]  # the third in part
    assert read["labels"][0] == [IGNORED, 0, 1, 2, IGNORED, IGNORED]
    assert not features(minilm, words, length=10)["cut"][0]
    with pytest.raises(
        TaskError, match=r"the text 'a b unaffordable c d' has 10 tokens, and 6 are"
    ):
        features(minilm, words, length=6, truncate=False)


def test_a_tokenizer_without_places() -> None:
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(
        TaskError, match="ner/conll2003: SimpleNamespace does not say which charact"
    ):
        features(slow, ["a"])  # type: ignore[arg-type]


# --- what a model says ---------------------------------------------------------------------------


def spelling(classes: int) -> Callable[..., Any]:
    """A model that gives each token the class of its id, modulo their number."""

    def forward(**inputs: torch.Tensor) -> Any:
        assert "labels" not in inputs
        kinds = inputs["input_ids"] % classes
        return SimpleNamespace(logits=torch.nn.functional.one_hot(kinds, classes).half())

    return forward


@pytest.mark.parametrize("side", ["left", "right"])
def test_outputs_are_those_of_first_tokens(minilm: PreTrainedTokenizerBase, side: str) -> None:
    read: Any = AutoTokenizer.from_pretrained(locate("demo"), padding_side=side)
    made = features(read, ["a", "unaffordable"], ["\u200b"], ["b", "c", "unaffordable", "d", "e"])
    collate = CONLL2003.collator(read, None)  # type: ignore[arg-type]
    names = ("input_ids", "attention_mask", "labels")
    batch = dict(collate([{name: made[name][number] for name in names} for number in range(3)]))
    assert batch["labels"].shape == batch["input_ids"].shape == (3, 10)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert (batch["attention_mask"][0, 0] == 0) == (side == "left")
    outputs = CONLL2003.outputs(spelling(9), read, batch)  # type: ignore[arg-type]
    assert outputs == [
        [made["input_ids"][number][place] % 9 for place in firsts(made, number)]
        for number in range(3)
    ]
    assert [len(output) for output in outputs] == [2, 0, 5]

    def broken(**inputs: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.full((3, 10, 9), torch.nan))

    with pytest.raises(Diverged):
        CONLL2003.outputs(broken, read, batch)  # type: ignore[arg-type]


def test_records_are_of_all_words() -> None:
    rows = Dataset.from_dict({"words": [["a", "b", "c"], ["d"]], "tags": [[1, 2, 0], [3]]})
    seen = Dataset.from_dict({"seen": [[0, 2], []]})
    records = CONLL2003.records(rows, seen, [[1, 4], []])
    assert records == [
        {"labels": ["B-PER", "I-PER", "O"], "predictions": ["B-PER", "O", "I-ORG"]},
        {"labels": ["B-ORG"], "predictions": ["O"]},
    ]
    assert CONLL2003.score(records) == {
        "f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.25
    }  # fmt: skip


def test_scores_are_those_of_conlleval() -> None:
    source = random.Random(2)
    letters = ["O", *(f"{letter}-{kind}" for letter in "BI" for kind in TYPES)]
    for _ in range(60):
        records = []
        for words in (source.randint(1, 15) for _ in range(20)):
            labels = encoded(random_spans(source, words), words, "iob2")
            said = [source.choice(letters) if source.random() < 0.3 else tag for tag in labels]
            records.append({"labels": labels, "predictions": said})
        right = predicted = true = same = 0
        for record in records:
            gold, found = extracted(record["labels"]), extracted(record["predictions"])
            right += len(set(gold) & set(found))
            predicted, true = predicted + len(found), true + len(gold)
            same += sum(a == b for a, b in zip(*record.values(), strict=True))
        words = sum(len(record["labels"]) for record in records)
        assert CONLL2003.score(records) == pytest.approx(
            {
                "f1": 2 * right / (predicted + true),
                "precision": right / predicted,
                "recall": right / true,
                "accuracy": same / words,
            }
        )


@pytest.mark.parametrize(
    ("labels", "predictions", "accuracy"),
    [(["B-PER"], ["O"], 0.0), (["O"], ["B-PER"], 0.0), (["O", "O"], ["O", "O"], 1.0)],
)
def test_scores_without_entities(
    labels: list[str], predictions: list[str], accuracy: float
) -> None:
    scores = CONLL2003.score([{"labels": labels, "predictions": predictions}])
    assert list(scores) == list(CONLL2003.metrics)
    assert scores == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": accuracy}
    assert all(type(value) is float for value in scores.values())
    with pytest.raises(TaskError, match="ner/conll2003: no rows to evaluate"):
        CONLL2003.score([])


def test_the_right_answers_score_one(conll: Splits, minilm: PreTrainedTokenizerBase) -> None:
    """All the way: of CoNLL-2003 no word is lost, and what is right counts as such."""
    dev = conll.dev["dev"].select(range(500))
    rows = dev[:] | {"row": list(range(500))}
    made = CONLL2003.features(rows, Reader(minilm, 256), training=False)
    assert not any(made["cut"])
    right = [[label for label in labels if label != IGNORED] for labels in made["labels"]]
    records = CONLL2003.records(dev, Dataset.from_dict({"seen": made["seen"]}), right)
    assert set(CONLL2003.score(records).values()) == {1.0}


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet", "gpt2"])
def test_a_small_model_learns(tmp_path: Path, name: str) -> None:
    """Every `king` is a person, and a `river` after `the` a place with it."""
    source = random.Random(3)
    sentences = []
    for _ in range(60):
        pairs = source.choices([("king", "B-PER"), ("film", "O"), ("of", "O"), ("the", "O")], k=4)
        place = source.randrange(5)
        pairs[place:place] = [("red", "B-LOC"), ("river", "I-LOC")]
        sentences.append("".join(f"{word} {tag}\n" for word, tag in pairs))
    task, _ = loaded(tmp_path, "\n".join(sentences))
    read = tokenizer(name)
    read.pad_token = read.pad_token or read.eos_token
    model = build(name, AutoModelForTokenClassification)
    assert task.architecture(model.config) is AutoModelForTokenClassification
    config = type(model.config)(**model.config.to_dict() | task.head())
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config)
    assert model.config.num_labels == 5
    rows = task.load(None).train
    made = rows.map(
        lambda batch, row: task.features(batch | {"row": row}, Reader(read, 64), training=True),
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
    )
    inputs = made.select_columns(["input_ids", "attention_mask", "labels"])
    collate = task.collator(read, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        for start in range(0, 60, 20):
            model(**collate(list(inputs.select(range(start, start + 20))))).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        outputs = task.outputs(model, read, dict(collate(list(inputs))))
    scores = task.score(task.records(rows, made, outputs))
    assert scores["f1"] > 0.95
