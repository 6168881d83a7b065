"""Chat: what is read of conversations, what a template makes of them, and what of it is learnt."""

import gzip
import json
import math
from itertools import groupby
from pathlib import Path
from typing import Any

import chats
import datasets
import pyarrow as pa
import pytest
from chats import CHATML, DEAF, HEADERS, OPENING, PLAIN, STRICT, THINKING
from datasets import Dataset, DatasetDict
from pyarrow import parquet
from transformers import PreTrainedTokenizerBase

from prunella.cli import main
from prunella.experiments.config import RunConfig
from prunella.experiments.data import task
from prunella.regularizers import IGNORED
from prunella.tasks import Reader, TaskError
from prunella.tasks.chat import Chat
from prunella.tasks.conversations import are_in, load
from prunella.tasks.form import Form

ASKED, TOLD = ("user", "who won ?"), ("assistant", "king")
TURNS = [ASKED, TOLD, ("user", "and who ?"), ("assistant", "no")]
CALL = {"function": {"name": "look", "arguments": '{"city": "red"}'}}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def held(folder: Path, *rows: Any, column: str | None = None) -> dict[str, list[Any]]:
    """What the task holds of a file of JSON lines."""
    written(folder / "train.jsonl", *rows)
    written(folder / "dev.jsonl", {column or "messages": said(*TURNS)})
    return load(folder, column, streaming=False).train.to_dict()  # type: ignore[union-attr]


def read(folder: Path, row: Any, column: str | None = None) -> list[dict[str, Any]]:
    """The messages of a row."""
    rows = held(folder, row, column=column)
    messages = zip(json.loads(rows["messages"][0]), rows["said"][0], strict=True)
    return [message | {"content": text} for message, text in messages]


def learnt(
    tokenizer: PreTrainedTokenizerBase, folder: Path, *rows: Any, which: Any = "assistant", **s: Any
) -> list[str]:
    """Each example as text, with « » around what is to be predicted."""
    task = Chat("chat", lambda _: None, which)  # type: ignore[arg-type,return-value]
    numbers = {"row": list(range(len(rows)))}
    reader = Reader(tokenizer, **{"max_length": 1000, **s})
    columns = task.features(held(folder, *rows) | numbers, reader, training=True)
    texts = []
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))
        texts.append("")
        for wanted, run in groupby(zip(ids, labels, strict=True), lambda pair: pair[1] != IGNORED):
            text = tokenizer.decode([token for token, _ in run])
            texts[-1] += f"«{text}»" if wanted else text
    return texts


# --- which part of a text is learnt --------------------------------------------------------------

SHARED = {
    CHATML: "<|im_start|>system\nbe good<|im_end|>\n<|im_start|>user\nwho won ?<|im_end|>\n"
    "<|im_start|>assistant\n«king<|im_end|>»\n<|im_start|>user\nand who ?<|im_end|>\n"
    "<|im_start|>assistant\n«no<|im_end|>»",
    STRICT: "<|endoftext|>[INST] who won ?[/INST]« king<|endoftext|>»"
    "[INST] and who ?[/INST]« no<|endoftext|>»",
    HEADERS: "<|endoftext|><|head|>user<|/head|>\n\nwho won ?<|eot|><|head|>assistant<|/head|>\n\n"
    "«king<|eot|>»<|head|>user<|/head|>\n\nand who ?<|eot|><|head|>assistant<|/head|>\n\n"
    "«no<|eot|>»",
    DEAF: "user\nwho won ?<|endoftext|>assistant\n«king<|endoftext|>»"
    "user\nand who ?<|endoftext|>assistant\n«no<|endoftext|>»",
}


@pytest.mark.parametrize("template", SHARED)
def test_every_answer_is_learnt_with_what_ends_it(template: str, tmp_path: Path) -> None:
    """In one example, where the template of a longer conversation goes on from a shorter one's."""
    row = {"messages": said(*TURNS)}
    assert learnt(chats.tokenizer(template), tmp_path, row) == [SHARED[template]]


def test_thinking_is_learnt_where_the_template_shows_it(tmp_path: Path) -> None:
    """Each answer after what a model reads of the ones before, whose thinking is dropped."""
    thought = "<think>\nfilm\n</think>\n\nking"
    row = {"messages": said(ASKED, ("assistant", thought), *TURNS[2:])}
    asked = "<|im_start|>user\nwho won ?<|im_end|>\n<|im_start|>assistant\n"
    assert learnt(chats.tokenizer(THINKING), tmp_path, row) == [
        f"{asked}«{thought}<|im_end|>»",
        f"{asked}king<|im_end|>\n<|im_start|>user\nand who ?<|im_end|>\n<|im_start|>assistant\n"
        "«<think>\n\n</think>\n\nno<|im_end|>»",
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_words_of_the_system_stand_where_a_model_reads_them(family: str, tmp_path: Path) -> None:
    """Before the last question, and nowhere once it is answered."""
    tokenizer = chats.tokenizer(STRICT, family)
    blank = " " if family == "gpt2" else ""  # Llama's tokenizer writes none first
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    row = {"messages": said(("system", "be good"), *TURNS)}
    assert learnt(tokenizer, tmp_path, row) == [
        f"{begin}[INST] be good\n\nwho won ?[/INST]«{blank}king{end}»",
        f"{begin}[INST] who won ?[/INST] king{end}"
        f"[INST] be good\n\nand who ?[/INST]«{blank}no{end}»",
    ]


def test_a_template_without_an_end_is_given_one(tmp_path: Path) -> None:
    """And a prompt that ends with a blank is read as it stands, apart from the answer."""
    tokenizer = chats.tokenizer(PLAIN)
    row = {"messages": said(*TURNS)}
    first, second = learnt(tokenizer, tmp_path, row)
    assert first == "user: who won ?\nassistant: «king<|endoftext|>»"
    assert second == (
        "user: who won ?\nassistant: king\nuser: and who ?\nassistant: «no<|endoftext|>»"
    )
    with pytest.raises(TaskError, match=r"share a token.*does not end with a blank"):
        learnt(
            chats.tokenizer(PLAIN, "llama"),
            tmp_path,
            {"messages": said(ASKED, ("assistant", "red"))},
        )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tokens_are_those_that_a_model_is_asked_with(family: str, tmp_path: Path) -> None:
    """The beginning of a text is not doubled, though the tokenizer itself would add it."""
    tokenizer = chats.tokenizer(HEADERS, family)
    task = Chat("chat", lambda _: None)  # type: ignore[arg-type,return-value]
    rows = held(tmp_path, {"messages": said(*TURNS)}) | {"row": [0]}
    ids = task.features(rows, Reader(tokenizer, 1000), training=True)["input_ids"][0]
    asked: Any = tokenizer.apply_chat_template(
        said(*TURNS[:3]), add_generation_prompt=True, return_dict=False
    )
    assert ids[: len(asked)] == asked
    assert ids.count(tokenizer.bos_token_id) == 1


def test_all_tokens_are_learnt_if_so_wished(tmp_path: Path) -> None:
    row = {"messages": said(*TURNS[:3])}
    (text,) = learnt(chats.tokenizer(HEADERS), tmp_path, row, which="all")
    assert text == (
        "<|endoftext|>«<|head|>user<|/head|>\n\nwho won ?<|eot|><|head|>assistant<|/head|>\n\n"
        "king<|eot|><|head|>user<|/head|>\n\nand who ?<|eot|>»"
    )


def test_calls_and_tools_are_learnt_and_read(tmp_path: Path) -> None:
    """Arguments that are JSON in a text are not quoted once more."""
    calls = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    messages = [*said(ASKED), *calls, *said(("tool", "green"), ("assistant", "green"))]
    for tools in ([LOOK], json.dumps([LOOK]), [json.dumps(LOOK)]):
        (text,) = learnt(chats.tokenizer(CHATML), tmp_path, {"messages": messages, "tools": tools})
        assert json.dumps(LOOK) in text
        assert (
            '«<tool_call>{"name": "look", "arguments": {"city": "red"}}</tool_call><|im_end|>»'
            "\n<|im_start|>tool\ngreen<|im_end|>\n<|im_start|>assistant\n«green<|im_end|>»"
        ) in text


def test_what_is_only_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Answers of weight 0, those of a prompt, and what the assistant says before it is asked."""
    tokenizer = chats.tokenizer(DEAF)
    messages = said(*TURNS)
    messages[1]["weight"] = 0
    (weighed,) = learnt(tokenizer, tmp_path, {"messages": messages})
    (given,) = learnt(
        tokenizer, tmp_path, {"prompt": said(*TURNS[:3]), "completion": said(TURNS[3])}
    )
    end = "<|endoftext|>"
    assert (
        weighed
        == given
        == f"user\nwho won ?{end}assistant\nking{end}user\nand who ?{end}assistant\n«no{end}»"
    )
    assert not caplog.messages
    (greeted,) = learnt(tokenizer, tmp_path, {"messages": said(("assistant", "yes"), *TURNS[:2])})
    assert greeted == f"assistant\nyes{end}user\nwho won ?{end}assistant\n«king{end}»"
    assert "1 of 1 conversations begin with the assistant" in caplog.text


def test_long_conversations_are_cut_at_their_end_or_left_out(tmp_path: Path) -> None:
    tokenizer = chats.tokenizer(DEAF)
    long = {"messages": said(("user", "who " * 99), TOLD)}
    rows = [{"messages": said(*TURNS)}, long]
    (cut,) = learnt(tokenizer, tmp_path, *rows, max_length=60)
    assert cut.startswith("user\nwho won ?<|endoftext|>assistant\n«king<|endoftext|>»user")
    with pytest.raises(TaskError, match=r"has \d+ tokens, and 60 are allowed.*--max-length"):
        learnt(tokenizer, tmp_path, *rows, max_length=60, truncate=False)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (OPENING, {"messages": said(ASKED, TOLD)}, "asks for an answer by .*<think>"),
        (STRICT, {"messages": said(ASKED, ASKED, TOLD)}, "refuses it .roles must alternate"),
        (DEAF, {"messages": said(("system", "be good"), ASKED, TOLD)}, "leaves out .*'system'"),
        (DEAF, {"messages": said(ASKED, TOLD), "tools": [LOOK]}, "no place for tools"),
        (
            HEADERS,
            {"messages": [*said(ASKED), {**said(TOLD)[0], "tool_calls": [CALL]}]},
            "leaves out tool_calls of an answer",
        ),
        (
            CHATML,
            {"messages": [*said(ASKED), {**said(TOLD)[0], "reasoning_content": "film"}]},
            "leaves out reasoning_content of an answer",
        ),
    ],
)
def test_templates_that_would_lose_or_change_something(
    template: str, row: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=f"the conversation .*{reason}"):
        learnt(chats.tokenizer(template), tmp_path, row)


def test_no_template_is_said_in_one_line(tmp_path: Path) -> None:
    task = Chat("chat", lambda _: None)  # type: ignore[arg-type,return-value]
    for template in (None, {"one": CHATML, "two": CHATML}):
        with pytest.raises(TaskError, match=r"no chat template.*chat_template.jinja") as caught:
            task.ends(chats.tokenizer(template))
        assert "\n" not in str(caught.value)
    several = chats.tokenizer({"default": DEAF, "tool_use": CHATML})
    assert task.ends(several) == [several.eos_token_id]
    (text,) = learnt(several, tmp_path, {"messages": said(ASKED, TOLD), "tools": [LOOK]})
    assert text.endswith("«king<|im_end|>»")  # by the template for tools


REFUSED = [
    ({"messages": []}, "where a list of messages is needed"),
    ({"messages": "who won ?"}, "where a list of messages is needed"),
    (
        {"prompt": "who ?", "completion": "king"},
        "--source-column prompt --target-column completion",
    ),
    ({"chosen": said(TOLD), "rejected": said(TOLD)}, "keep the chosen messages"),
    ({"instruction": "x", "output": "y"}, "needs messages, or conversations.*has instruction"),
    ({"messages": said(("user", " "), TOLD)}, r"message 1 of messages \(user\) says nothing"),
    ({"messages": said(ASKED, ("assistant", None))}, r"\(assistant\) says nothing"),
    ({"messages": said(("user", [{"type": "image_url"}]), TOLD)}, "the type 'image_url'"),
    ({"messages": said(("user", [{"type": "input_audio"}]), TOLD)}, "the type 'input_audio'"),
    ({"messages": said(ASKED, ("tool", {"city": "red"}), TOLD)}, "the type 'dict'"),
    ({"messages": said(ASKED, TOLD), "images": ["a.png"]}, "column 'images'"),
    ({"conversations": [{"from": "sage", "value": "yes"}]}, "from 'sage', and known are human"),
    ({"messages": [*said(ASKED), {**said(TOLD)[0], "weight": 0.5}]}, "weight 0.5; give 0 or 1"),
    ({"messages": [*said(ASKED), {"role": "assistant", "tool_calls": ["x"]}]}, "names no function"),
    ({"messages": said(ASKED, TOLD), "tools": "look"}, "column 'tools'"),
    ({"messages": said(ASKED, TOLD), "tools": 3}, "column 'tools' holds 3"),
    ({"messages": said(ASKED, TOLD), "system": ["be good"]}, "column 'system' holds"),
]


@pytest.mark.parametrize(("row", "reason"), REFUSED)
def test_rows_that_are_no_conversation(row: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=rf"train.jsonl:2.*{reason}"):
        held(tmp_path, {"messages": said(*TURNS)}, row)


# --- forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": said(*TURNS)},
        {"messages": json.dumps(said(*TURNS))},
        {"messages": said((ASKED[0], [{"type": "text", "text": ASKED[1]}]), *TURNS[1:])},
        {"prompt": said(*TURNS[:1]), "response": said(*TURNS[1:])},
        {
            "conversations": [
                {"from": "human" if role == "user" else "gpt", "value": text}
                for role, text in TURNS
            ]
        },
    ],
)
def test_forms_of_one_conversation(row: Any, tmp_path: Path) -> None:
    assert read(tmp_path, row) == said(*TURNS)
    assert are_in(tmp_path, None)


def test_older_words_for_roles_and_calls(tmp_path: Path) -> None:
    function = {"name": "look", "arguments": '{"city": "red"}'}
    row = [
        *said(("human", "who won ?")),
        {"role": "GPT", "content": None, "function_call": function},
        {"role": "function", "name": "look", "content": "king"},
        *said(("Assistant", "king"), ("ipython", "x")),
    ]
    found = read(tmp_path, {"messages": row})
    roles = [message["role"] for message in found]
    assert roles == ["user", "assistant", "tool", "assistant", "ipython"]
    (call,) = found[1]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": {"city": "red"}}
    assert "function_call" not in found[1]


def test_conversations_without_the_assistant_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held(tmp_path, {"messages": said(ASKED, ("bot", "king"))}, {"messages": said(*TURNS)})
    said_of = "1 of 2 conversations have no message of the assistant, the first only of user, bot"
    assert said_of in caplog.text


@pytest.mark.parametrize("first", ['{"messages": []}', "{half"])
def test_data_is_known_for_conversations_by_a_bad_first_row(first: str, tmp_path: Path) -> None:
    path = written(tmp_path / "talks.jsonl", {"messages": said(*TURNS)})
    path.write_text(f"{first}\n{path.read_text()}")
    with pytest.raises(TaskError, match=r"talks.jsonl:1: .*1 of 2 rows cannot be used"):
        task(RunConfig(task="lm/causal", data=str(path)))


def test_a_column_by_name_and_words_of_the_system_beside_it(tmp_path: Path) -> None:
    row = {"talk": said(*TURNS), "system": "be good", "text": "x"}
    assert read(tmp_path, row, "talk") == said(("system", "be good"), *TURNS)
    assert are_in(tmp_path, "talk")
    assert not are_in(tmp_path, None)


def test_a_list_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "talks.json"
    path.write_text(json.dumps([{"messages": said(*TURNS)}] * 30, indent=1))
    splits = load(path, None, streaming=False)
    assert are_in(path, None)
    assert len(splits.train) + len(splits.dev["dev"]) == 30  # type: ignore[arg-type]
    path.write_text(json.dumps([{"messages": said(*TURNS)}, 3]))
    with pytest.raises(TaskError, match="row 2: not a JSON object"):
        load(path, None, streaming=False)


@pytest.mark.parametrize("folder", ["", "saved"])
def test_nulls_of_arrow_are_no_arguments(folder: str, tmp_path: Path) -> None:
    """Arrow gives each call the keys of all others."""
    calls = [
        {"function": {"name": "look", "arguments": {name: "red"}}} for name in ("city", "king")
    ]
    rows = [
        [*said(ASKED), {"role": "assistant", "content": None, "tool_calls": [call]}]
        for call in calls
    ]
    for part in ("train", "dev"):
        parquet.write_table(pa.table({"messages": rows}), tmp_path / f"{part}.parquet")
    saved = Dataset.from_dict({"messages": rows})
    DatasetDict(train=saved, validation=saved).save_to_disk(tmp_path / "saved")
    assert are_in(tmp_path / folder, None)
    train: Any = load(tmp_path / folder, None, streaming=False).train
    found = [
        json.loads(row)[1]["tool_calls"][0]["function"]["arguments"] for row in train["messages"]
    ]
    assert found == [{"city": "red"}, {"king": "red"}]


def test_nulls_of_json_are_arguments(tmp_path: Path) -> None:
    call = {"function": {"name": "look", "arguments": {"city": None}}}
    row = {"messages": [*said(ASKED), {"role": "assistant", "tool_calls": [call]}]}
    found = json.loads(held(tmp_path, row)["messages"][0])[1]["tool_calls"][0]
    assert found["function"]["arguments"] == {"city": None}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_rows_that_are_no_conversation_are_counted_or_left_out(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"messages": said((ASKED[0], f"who {n}"), TOLD)} for n in range(30)]
    rows[3]["messages"][1]["content"] = " "
    rows[9]["messages"] = []
    path = tmp_path / f"talks{suffix}"
    if suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    with pytest.raises(TaskError, match="2 of 30 rows cannot be used") as refused:
        load(path, None, streaming=False)
    for words in ("message 2 of messages (assistant) says nothing; fill it in", "--skip-bad-rows"):
        assert words in str(refused.value)
    splits = load(path, None, streaming=False, form=Form(skip=True))
    assert len(splits.train) + len(splits.dev["dev"]) == 28  # type: ignore[arg-type]
    assert f"{path}: left out 2 of 30 rows" in caplog.text


def test_conversations_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_list([{"messages": said(*TURNS)}] * 12)
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    real = datasets.load_dataset

    def load_dataset(name: str, configuration: str | None = None, **how: Any) -> Any:
        return real(str(tmp_path / name.split("/")[1]), configuration, **how)

    monkeypatch.setattr("prunella.tasks.own.load_dataset", load_dataset)
    config = RunConfig(task="lm/causal", data="owner/set")
    splits = task(config).load(None)
    assert isinstance(task(config), Chat)
    assert [len(part) for part in (splits.train, splits.dev["dev"])] == [12, 12]  # type: ignore[arg-type]


def test_conversations_are_held_out_whole_and_by_what_is_said(tmp_path: Path) -> None:
    """Those that ask the same are on one side; having as many turns ties none."""
    words = ["the", "river", "in", "the", "city", "was", "not", "as", "cold", "as"]
    rows = []
    for n in range(60):
        asked = " ".join([*words[n % 5 :], *(f"w{n // 3}" for _ in range(9))])
        rows.append({"messages": said(("user", asked), *TURNS[1 : 2 + 2 * (n % 2)])})
    written(tmp_path / "talks.jsonl", *rows)
    splits = load(tmp_path / "talks.jsonl", None, streaming=False)
    train, dev = (
        {row["said"][0].split()[-1] for row in part} for part in (splits.train, splits.dev["dev"])
    )
    assert len(splits.train) + len(splits.dev["dev"]) == 60  # type: ignore[arg-type]
    assert 2 <= len(dev) <= 3 and not train & dev


def test_streams(tmp_path: Path) -> None:
    rows = [{"messages": said((ASKED[0], f"who {n}"), TOLD)} for n in range(5)]
    whole = held(tmp_path, *rows)
    streamed = list(load(tmp_path, None, streaming=True).train)
    assert [row["said"] for row in streamed] == whole["said"]
    written(tmp_path / "train.jsonl", *rows, {"messages": []}, rows[0])
    with pytest.raises(TaskError, match=r"train.jsonl:6: .*, or have such rows left out"):
        list(load(tmp_path, None, streaming=True).train)
    streamed = list(load(tmp_path, None, streaming=True, form=Form(skip=True)).train)
    assert [row["said"] for row in streamed] == [*whole["said"], whole["said"][0]]
    (tmp_path / "dev.jsonl").unlink()
    with pytest.raises(TaskError, match="no end to cut a dev set off"):
        load(tmp_path, None, streaming=True)


def test_a_model_that_knows_frequencies_alone_is_the_trivial_one() -> None:
    """Three of four tokens are one: e to the entropy, whatever a model made of the rows."""
    task = Chat("chat", lambda _: None)  # type: ignore[arg-type,return-value]
    records = [{"nll": 9.0, "tokens": 3}, {"nll": 0.1, "tokens": 1}]
    labels = [[IGNORED, 7, 7, IGNORED], [IGNORED, 7, 8]]
    (constant,) = task.constants(records, labels)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert task.score(constant)["perplexity"] == pytest.approx(math.exp(entropy))
    assert not list(task.constants(records, [[IGNORED]]))


# --- by command ----------------------------------------------------------------------------------


def run(folder: Path, template: str | None, task: str, *flags: str) -> int:
    """A run of two steps on forty conversations, one of them with a long question."""
    model = chats.checkpoint(folder / "model", "gpt2", template)
    rows = [said(("user", f"What is {n} plus one?"), ("assistant", f"{n + 1}")) for n in range(40)]
    rows[7] = said(("user", "who " * 90), TOLD)
    data = written(folder / "talks.jsonl", *({"messages": row} for row in rows))
    given = ["prune", "--model", str(model), "--task", task, "--data", str(data), "--max-steps=2"]
    return main([*given, "--criterion=dense", "--output", str(folder / "out"), *flags])


def test_the_first_line_says_that_it_is_chat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, DEAF, "lm/causal", "--max-length=80") == 0
    line = " ".join(capsys.readouterr().out.split())
    assert "with the loss on the assistant's tokens alone, up to <|endoftext|>" in line
    assert "left out, without an answer of the assistant within --max-length: 1 of" in line
    assert run(tmp_path, DEAF, "chat", "--train-on=all", "--overwrite", "--max-length=80") == 0
    line = " ".join(capsys.readouterr().out.split())
    assert "with the loss on all tokens" in line
    assert "left out" not in line


@pytest.mark.parametrize(
    ("template", "task", "flags", "words"),
    [
        (None, "chat", [], "no chat template"),
        (DEAF, "lm/masked", [], "holds conversations, which lm/masked does not read"),
        (DEAF, "text2text", [], "holds conversations, which text2text does not read"),
        (DEAF, "chat", ["--stride=3"], "--stride does not apply"),
        (DEAF, "chat", ["--max-length=9"], "are all without an answer of the assistant"),
        (DEAF, "chat", ["--max-length=80", "--no-truncate"], "80 are allowed; give a higher"),
        (DEAF, "d2t/e2e", ["--train-on=all"], "--train-on is for lm/causal, chat"),
    ],
)
def test_what_the_command_refuses(
    template: str | None,
    task: str,
    flags: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path, template, task, *flags) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
