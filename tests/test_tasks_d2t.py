"""Data-to-text: the readers of E2E, WebNLG and DART, and each way for a file to be wrong."""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, DatasetDict

from prunella.tasks import Splits, TaskError, sources
from prunella.tasks.d2t import D2T, detokenized

ROOT = Path(__file__).parents[1]
E2E_DATA = Path(os.environ.get("PRUNELLA_DATA", ROOT.parent / "shared" / "data")) / "e2e"
TASKS = {task.name: task for task in D2T}

MEANING = "name[The Vaults], eatType[pub], priceRange[more than £ 30], customerrating[5 out of 5]"
SOURCE = (
    "name : The Vaults | eatType : pub | priceRange : more than £30 | customer rating : 5 out of 5"
)
TRIPLES = [["Alan_Bean", "birth_place", "Wheeler,_Texas"], ["Alan_Bean", "crew | of", "Apollo_12"]]


def rows(dataset: Dataset) -> dict[str, list[str]]:
    return dict(zip(dataset["source"], dataset["references"], strict=True))


def e2e(folder: Path, train: list[tuple[Any, Any]], dev: list[tuple[Any, Any]]) -> Splits:
    """E2E's two files as JSON lines, read."""
    for name, pairs in (("train", train), ("dev", dev)):
        keys = ("meaning_representation", "human_reference")
        lines = [json.dumps(dict(zip(keys, pair, strict=True))) for pair in pairs]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return TASKS["d2t/e2e"].load(folder)


def xml(*entries: str) -> str:
    body = "".join(f"<entry eid='Id1'>{entry}</entry>" for entry in entries)
    head = "<?xml version='1.0' encoding='utf-8'?>"
    return f"{head}\n<benchmark>\n<entries>{body}</entries></benchmark>"


def triples(*facts: str) -> str:
    modified = "".join(f"<mtriple>{fact}</mtriple>" for fact in facts)
    return (
        "<originaltripleset><otriple>x | y | z</otriple></originaltripleset>"
        f"<modifiedtripleset>{modified}</modifiedtripleset>"
    )


def webnlg(folder: Path, **files: str) -> Splits:
    """WebNLG's folders with a file each, read; the names are those of the parts."""
    said = xml(triples("a | b | c") + "<lex>Said.</lex>")
    for part, text in ({"train": said, "dev": said} | files).items():
        path = folder / part / "1triples" / f"Airport_{part}.xml"
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    return TASKS["d2t/webnlg"].load(folder)


def dart(folder: Path, train: Any, dev: Any = None) -> Splits:
    fine = [{"tripleset": [["a", "b", "c"]], "annotations": [{"source": "x", "text": "Said."}]}]
    for part, entries in (("train", train), ("dev", dev or fine)):
        text = entries if isinstance(entries, str) else json.dumps(entries)
        (folder / f"dart-v1.1.1-full-{part}.json").write_text(text, encoding="utf-8")
    return TASKS["d2t/dart"].load(folder)


def test_the_tasks() -> None:
    assert list(TASKS) == ["d2t/e2e", "d2t/webnlg", "d2t/dart"]
    assert all(task.metrics == ("bleu", "rougeL", "chrf") for task in D2T)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Prices start at £ 30 .", "Prices start at £30."),
        ("It 's cheap , you 'll see ; don 't !", "It's cheap, you'll see; don't!"),
        ("a family - friendly pub", "a family-friendly pub"),
        ("at £ 20- £ 25 , or £ 20 - 25", "at £20-£25, or £20-25"),
        ("2.5 stars at £ 10.50 ...", "2.5 stars at £10.50..."),
        ("called ' The Mill '", "called ' The Mill '"),
        ("It's plain, family-friendly; £20-£25.", "It's plain, family-friendly; £20-£25."),
        (" two  blanks ", "two blanks"),
    ],
)
def test_tokens_become_plain_text(text: str, plain: str) -> None:
    assert detokenized(text) == plain


def test_e2e_from_json_lines(tmp_path: Path) -> None:
    plain = MEANING.replace("£ ", "£").replace("customerr", "customer r")
    splits = e2e(
        tmp_path,
        [(MEANING, "A pub ."), ("name[Cotto]", "It 's Cotto ."), (plain, "Pub !")],
        [(plain, "A text , as it is ."), (MEANING, " A pub.")],
    )
    assert rows(splits.train) == {SOURCE: ["A pub.", "Pub!"], "name : Cotto": ["It's Cotto."]}
    assert list(splits.dev) == ["dev"]
    assert rows(splits.dev["dev"]) == {SOURCE: ["A text , as it is .", " A pub."]}


def test_e2e_from_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "trainset.csv").write_text('mr,ref\n"name[A], eatType[pub]","So, a pub."\n')
    (tmp_path / "devset.csv").write_text('mr,ref\n"name[B]","B."\n"name[B]","Bee."\n')
    splits = TASKS["d2t/e2e"].load(tmp_path)
    assert rows(splits.train) == {"name : A | eatType : pub": ["So, a pub."]}
    assert rows(splits.dev["dev"]) == {"name : B": ["B.", "Bee."]}


@pytest.mark.parametrize("meaning", ["", "a pub", "name[A] pub", "name[A], pub[", 7, None])
def test_e2e_without_a_meaning(tmp_path: Path, meaning: Any) -> None:
    fine = ("name[A]", "A.")
    with pytest.raises(
        TaskError, match=r"train\.jsonl:2: .* is no meaning representation; it must"
    ):
        e2e(tmp_path, [fine, (meaning, "B.")], [fine])
    with pytest.raises(TaskError, match=r"dev\.jsonl:1: None is no text; correct or remove"):
        e2e(tmp_path, [fine], [("name[A]", None)])


def test_entries_without_a_text_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fine = ("name[A]", "A.")
    with caplog.at_level(logging.WARNING, logger="prunella"):
        splits = e2e(tmp_path, [("name[B]", " "), fine, ("name[A]", "")], [fine])
    assert rows(splits.train) == {"name : A": ["A."]}
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path} (train): skipped 2 of 3 entries without a text"
    with pytest.raises(TaskError, match=r"\(dev\): no entry has a text; give the labelled parts"):
        e2e(tmp_path, [fine], [("name[A]", "")])


def test_webnlg(tmp_path: Path) -> None:
    facts = triples("Alan_Bean | birthPlace | Wheeler,_Texas", "Alan_Bean|crew|A | B")
    english = "<lex comment='good' lid='Id1'>One.</lex><lex lang='en'>\n Two. </lex>"
    splits = webnlg(
        tmp_path,
        train=xml(f"{facts}{english}<lex lang='ru'>Три.</lex><lex></lex>", facts + "<lex>3</lex>"),
    )
    source = "Alan Bean : birthPlace : Wheeler, Texas | Alan Bean : crew : A | B"
    assert rows(splits.train) == {source: ["One.", "Two.", "3"]}
    assert rows(splits.dev["dev"]) == {"a : b : c": ["Said."]}
    more = tmp_path / "train" / "7triples" / "City.xml"
    more.parent.mkdir()
    more.write_text(xml(triples("d | e | f") + "<lex>Deep.</lex>"))
    (more.parent / "notes.txt").write_text("no data")
    assert list(rows(TASKS["d2t/webnlg"].load(tmp_path).train)) == [source, "d : e : f"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "<a>\n<b></a>",
            r"Airport_train\.xml:2: not XML \(mismatched tag.*; give a file of WebNLG",
        ),
        ("", r"Airport_train\.xml:1: not XML"),
        (
            xml(triples("a | b | c") + "<lex>x</lex>", triples() + "<lex>x</lex>"),
            r"Airport_train\.xml, entry 2: its facts are \[\]; each must be a subject",
        ),
        (xml(triples("a | b") + "<lex>x</lex>"), r"entry 1: its facts are \[\['a', 'b'\]\]"),
        (xml(triples("a | b | c")), r"\(train\): no entry has a text"),
        ("<a/>", r"\(train\): no entry has a text"),
    ],
)
def test_webnlg_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        webnlg(tmp_path, train=text)


def test_dart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [
        {
            "tripleset": TRIPLES,
            "subtree_was_extended": True,
            "annotations": [{"source": "s", "text": "One."}, {"source": "t", "text": ""}],
        },
        {"tripleset": TRIPLES, "annotations": [{"source": "u", "text": "Two."}]},
        {"tripleset": TRIPLES, "annotations": []},
    ]
    splits = dart(tmp_path, train)
    source = "Alan Bean : birth place : Wheeler, Texas | Alan Bean : crew | of : Apollo 12"
    assert rows(splits.train) == {source: ["One.", "Two."]}
    assert rows(splits.dev["dev"]) == {"a : b : c": ["Said."]}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} (train): skipped 1 of 3 entries without a text"
    ]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("[", r"full-train\.json: not JSON \(.*\); give a file of DART's own"),
        ([{"tripleset": TRIPLES}], r"full-train\.json, entry 1: not a tripleset and annotations"),
        (["text"], r"entry 1: not a tripleset and annotations"),
        ({"tripleset": TRIPLES}, r"a dict, no list of entries"),
        (5, r"an? int, no list of entries"),
        ([{"tripleset": ["abc"], "annotations": []}], r"entry 1: its facts are"),
        ([{"tripleset": 5, "annotations": []}], r"entry 1: its facts are"),
        ([{"tripleset": [], "annotations": []}], r"entry 1: its facts are \[\]"),
        ([{"tripleset": [["a", "b"]], "annotations": []}], r"entry 1: its facts are"),
        ([{"tripleset": [["a", "b", 3]], "annotations": []}], r"entry 1: 3 is no text"),
        ([{"tripleset": TRIPLES, "annotations": [{"text": None}]}], r"entry 1: None is no text"),
    ],
)
def test_dart_files_that_are_wrong(tmp_path: Path, train: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        dart(tmp_path, train)


@pytest.mark.parametrize("name", TASKS)
def test_folders_that_are_wrong(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match=rf"{name}: there is no folder .*absent; give by --data"):
        TASKS[name].load(tmp_path / "absent")
    with pytest.raises(TaskError, match=rf"{name}: .* does not hold .*; found was nothing"):
        TASKS[name].load(tmp_path)
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(TaskError, match=r"does not hold .*; found was train\.jsonl"):
        TASKS[name].load(tmp_path)


HUB: dict[str, tuple[str, str, list[dict[str, Any]], list[dict[str, Any]]]] = {
    "d2t/e2e": (
        "tuetschek/e2e_nlg",
        "default",
        [{"meaning_representation": MEANING, "human_reference": "A pub ."}],
        [{"meaning_representation": MEANING, "human_reference": "A pub ."}] * 2,
    ),
    "d2t/webnlg": (
        "GEM/web_nlg",
        "en",
        [{"input": ["a_b | c | d"], "target": text, "references": []} for text in ("X.", "Y.")],
        [{"input": ["a_b | c | d"], "target": "X.", "references": ["X.", "Y."]}],
    ),
    "d2t/dart": (
        "GEM/dart",
        "default",
        [{"tripleset": [["a_b", "c", "d"]], "target": t, "references": []} for t in ("X.", "Y.")],
        [{"tripleset": [["a_b", "c", "d"]], "target": "X.", "references": ["X.", "Y."]}],
    ),
}


@pytest.mark.parametrize("name", HUB)
def test_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked, configuration, train, dev = HUB[name]

    def load_dataset(path: str, *, data_files: dict[str, str], revision: str) -> DatasetDict:
        assert (path, revision) == (asked, "refs/convert/parquet")
        assert data_files["train"] == f"{configuration}/train/*.parquet"
        assert data_files["validation"] == f"{configuration}/validation/*.parquet"
        return DatasetDict(train=Dataset.from_list(train), validation=Dataset.from_list(dev))

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    splits = TASKS[name].load(None)
    if name == "d2t/e2e":
        assert rows(splits.train) == {SOURCE: ["A pub."]}
        assert rows(splits.dev["dev"]) == {SOURCE: ["A pub ."] * 2}
    else:
        assert rows(splits.train) == rows(splits.dev["dev"]) == {"a b : c : d": ["X.", "Y."]}


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("offline")

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    with pytest.raises(TaskError, match=r"d2t/dart: cannot read GEM/dart .*offline.*; download"):
        TASKS["d2t/dart"].load(None)


@pytest.mark.skipif(not E2E_DATA.is_dir(), reason="the data set is not here")
def test_e2e_as_published() -> None:
    splits = TASKS["d2t/e2e"].load(E2E_DATA)
    train, dev = splits.train, splits.dev["dev"]
    assert (len(train), sum(map(len, train["references"]))) == (4862, 42061)
    assert (len(dev), sum(map(len, dev["references"]))) == (547, 4672)
    slots = [
        {slot for source in part["source"] for slot in source.split(" | ")} for part in (train, dev)
    ]
    assert slots[1] < slots[0]  # dev asks of nothing that train does not say
    texts = [text for references in train["references"] for text in references]
    stray = [text for text in texts if re.search(r" [.,;:!?]|\w - \w|£ \d|\w '(s|t|re) ", text)]
    assert not stray
