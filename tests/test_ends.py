"""Models that were taught where to stop do so, dense and pruned, also where pad ends a text."""

import json
from pathlib import Path
from typing import Any

import chats
import pytest
import torch
from families import WORDS, build
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

import prunella
from prunella.cli import main

ROWS = [
    (" ".join([one, *WORDS[9 : 9 + more]]), one) for one in WORDS[3:9] for more in range(1, 7)
]  # of several lengths
RUN = ["--max-steps=60", "--lr=1e-2", "--batch-size=16", "--sparsity=0.3", "--every=5"]


def checkpoint(folder: Path, family: str, template: str | None) -> Path:
    """A random model, whose tokenizer has a template and the marks of all."""
    tokenizer = chats.tokenizer(template, family)
    model: Any = build(family, AutoModelForCausalLM)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pruned(model: Path, task: str, rows: list[Any], output: Path, *flags: str) -> Path:
    data = output.with_suffix(".jsonl")
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    given = ["prune", "--model", str(model), "--task", task, "--data", str(data), *RUN]
    assert main([*given, "--output", str(output), *flags]) == 0
    return output


def written(folder: Path, engine: Any, prompts: list[str], side: str) -> list[str]:
    """What follows prompts of several lengths, in one batch; all of it must have come to an end."""
    model = prunella.load(folder, engine)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        prompts, return_tensors="pt", padding=True, padding_side=side, add_special_tokens=False
    )
    with torch.inference_mode():
        rows = model.generate(**batch, do_sample=False, max_new_tokens=20)
    answers = rows[:, batch["input_ids"].shape[1] :]
    ends = torch.tensor(model.generation_config.eos_token_id)
    assert torch.isin(answers, ends).any(dim=1).all()
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in answers]


def check(folder: Path, prompts: list[str]) -> None:
    """The right answers, whether alone or padded beside others."""
    for engine in ("sparse", "dense"):
        together = written(folder, engine, prompts, "left")
        assert together == [written(folder, engine, [prompt], "left")[0] for prompt in prompts]
        right = [answer == one for answer, (_, one) in zip(together, ROWS[::7], strict=True)]
        assert sum(right) >= len(right) - 1


@pytest.mark.parametrize(
    ("family", "template", "criterion"),
    [
        ("gpt2", chats.PLAIN, "magnitude"),  # nothing ends an answer
        ("llama", chats.CHATML, "magnitude"),  # another token than ends a text
        ("llama", chats.CHATML, "dense"),
        ("qwen2", {"default": chats.DEAF, "tool_use": chats.CHATML}, "magnitude"),
    ],
)
def test_answers_of_a_chat(family: str, template: Any, criterion: str, tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", family, template)
    rows = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        for asked, answer in ROWS
    ]
    data = [{"messages": messages} for messages in rows]
    output = pruned(model, "chat", data, tmp_path / "out", "--criterion", criterion)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.chat_template == template
    settings: Any = {"add_generation_prompt": True, "tokenize": False}
    check(output, [tokenizer.apply_chat_template(row[:1], **settings) for row in rows[::7]])


@pytest.mark.parametrize("criterion", ["magnitude", "dense"])
def test_texts_of_a_decoder(criterion: str, tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", "gpt2", None)
    data = [{"source": source, "target": target} for source, target in ROWS]
    output = pruned(model, "text2text", data, tmp_path / "out", "--criterion", criterion)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.pad_token == tokenizer.eos_token
    check(output, [f"{source}\n" for source, _ in ROWS[::7]])
