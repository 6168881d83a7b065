"""Chat: what is read of conversations, what a template makes of them, and what of it is learnt."""

import json
import logging
from pathlib import Path
from typing import Any

import chats
import pyarrow as pa
import pytest
from chats import CHATML, DEAF, HEADERS, OPENING, PLAIN, STRICT, THINKING
from pyarrow import parquet
from transformers import PreTrainedTokenizerBase

from prunella.regularizers import IGNORED
from prunella.tasks import Reader, TaskError, chat
from prunella.tasks.chat import Chat
from prunella.tasks.conversations import are_in, load

TURNS = [("user", "who won ?"), ("assistant", "king"), ("user", "and who ?"), ("assistant", "no")]
CALL = {"function": {"name": "look", "arguments": '{"city": "red"}'}}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def written(folder: Path, *rows: Any, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, *rows: Any, column: str | None = None) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, as the task holds them."""
    written(folder, *rows)
    written(folder, {"messages": said(*TURNS)}, name="dev.jsonl")
    train: Any = load(folder, column, streaming=False).train
    return [dict(row, messages=json.loads(row["messages"])) for row in train]


def learnt(
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *rows: Any,
    task: Chat | None = None,
    **settings: Any,
) -> list[tuple[str, list[str]]]:
    """Of each example what is read, and the stretches of it that are to be predicted."""
    task = task or Chat("chat", load=None)  # type: ignore[arg-type]
    written(folder, *rows)
    written(folder, {"messages": said(*TURNS)}, name="dev.jsonl")
    held = load(folder, None, streaming=False).train.to_dict()  # type: ignore[union-attr]
    numbers = {"row": list(range(len(rows)))}
    reader = Reader(tokenizer, **{"max_length": 1000, **settings})
    columns = task.features(held | numbers, reader, training=True)
    found = []
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))
        runs: list[list[int]] = [[]]
        for label in labels:
            runs[-1].append(label) if label != IGNORED else runs.append([])
        found.append((tokenizer.decode(ids), [tokenizer.decode(run) for run in runs if run]))
    return found


# --- which part of a text is learnt --------------------------------------------------------------

SHARED = {  # template -> the only example of two answers, up to the end of the last
    CHATML: "<|im_start|>system\nbe good<|im_end|>\n<|im_start|>user\nwho won ?<|im_end|>\n"
    "<|im_start|>assistant\n<king<|im_end|>>\n<|im_start|>user\nand who ?<|im_end|>\n"
    "<|im_start|>assistant\n<no<|im_end|>>",
    STRICT: "<|endoftext|>[INST] who won ?[/INST]< king<|endoftext|>>"
    "[INST] and who ?[/INST]< no<|endoftext|>>",
    HEADERS: "<|endoftext|><|head|>user<|/head|>\n\nwho won ?<|eot|><|head|>assistant<|/head|>\n\n"
    "<king<|eot|>><|head|>user<|/head|>\n\nand who ?<|eot|><|head|>assistant<|/head|>\n\n"
    "<no<|eot|>>",
    DEAF: "user\nwho won ?<|endoftext|>assistant\n<king<|endoftext|>>"
    "user\nand who ?<|endoftext|>assistant\n<no<|endoftext|>>",
}


@pytest.mark.parametrize("template", SHARED)
def test_every_answer_is_learnt_with_what_ends_it(template: str, tmp_path: Path) -> None:
    ((text, runs),) = learnt(chats.tokenizer(template), tmp_path, {"messages": said(*TURNS)})
    marked = text
    for run in runs:
        marked = marked.replace(f"\n{run}" if f"\n{run}" in marked else run, f"<{run}>", 1)
    expected = SHARED[template].replace("\n<king", "<king").replace("\n<no", "<no")
    assert marked.replace("\n<king", "<king").replace("\n<no", "<no") == expected
