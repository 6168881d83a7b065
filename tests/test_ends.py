"""Models that were taught where to stop do so, dense and pruned, also where pad ends a text."""

import json
from pathlib import Path
from typing import Any

import chats
import pytest
import torch
from families import WORDS, build
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

import prunella
from prunella.cli import main
from prunella.experiments.models import load
from prunella.tasks import get

ROWS = [
    (" ".join([one, *WORDS[9 : 9 + more]]), one) for one in WORDS[3:9] for more in range(1, 7)
]  # of several lengths
RUN = ["--max-steps=60", "--lr=1e-2", "--batch-size=16", "--sparsity=0.3", "--every=5"]


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
    model = chats.checkpoint(tmp_path / "model", family, template)
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
    model = chats.checkpoint(tmp_path / "model", "gpt2", None)
    data = [{"source": source, "target": target} for source, target in ROWS]
    output = pruned(model, "text2text", data, tmp_path / "out", "--criterion", criterion)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.pad_token == tokenizer.eos_token
    check(output, [f"{source}\n" for source, _ in ROWS[::7]])


def test_other_ends_of_a_checkpoint_stay(tmp_path: Path) -> None:
    """As Llama 3 has several; the one that is learnt comes first, whatever the file says."""
    folder = chats.checkpoint(tmp_path / "model", "qwen2", chats.CHATML)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 7], "pad_token_id": 5}')
    data = [
        {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
        for a, b in ROWS
    ]
    output = pruned(
        folder, "chat", data, tmp_path / "out", "--max-steps=2", "--criterion=magnitude"
    )
    tokenizer = AutoTokenizer.from_pretrained(output)
    ends = {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id, 5, 7}
    for engine in ("sparse", "dense"):
        model = prunella.load(output, engine)  # type: ignore[arg-type]
        assert set(model.generation_config.eos_token_id) == ends


def test_what_ends_a_text_is_trained_where_it_pads_as_well(tmp_path: Path) -> None:
    """A second run finds it as the pad token in the config, for which torch keeps no gradient."""
    folder = chats.checkpoint(tmp_path / "model", "qwen2", chats.DEAF)
    config = json.loads((folder / "config.json").read_text())
    end = config["pad_token_id"] = config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    model, tokenizer = load(str(folder), get("d2t/e2e"))
    assert tokenizer.pad_token_id == end == model.config.pad_token_id
    ids = torch.tensor([[end, 9, 10]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.get_input_embeddings().weight.grad[end].any()


def test_tokenizers_that_lack_special_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text is joined as it is, which is said; where a token must end or pad, it is refused."""
    folder = tmp_path / "model"
    made = chats.tokenizer(None, "gpt2").backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    model = build("gpt2", AutoModelForCausalLM)
    model.resize_token_embeddings(made.get_vocab_size())
    model.save_pretrained(folder)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(text for text, _ in ROWS) + "\n")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"source": "{a}", "target": "{b}"}}\n' for a, b in ROWS))
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in ROWS))
    given = ["prune", "--model", str(folder), "--output", str(tmp_path / "out"), "--max-steps=2"]
    for task, data, words in (
        ("text2text", pairs, "no end-of-sequence token"),
        ("classification", table, "no token to pad with"),
    ):
        assert main([*given, "--task", task, "--data", str(data)]) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    flags = ["--criterion=dense", "--task=lm/causal", "--data", str(texts)]
    assert main([*given, *flags]) == 0
    assert "no token of the tokenizer ends one" in " ".join(capsys.readouterr().out.split())


def test_special_tokens_in_texts_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = chats.checkpoint(tmp_path / "model", "gpt2", None)
    data = tmp_path / "data.jsonl"
    rows = [
        {"source": a, "target": f"{b}<|endoftext|>" if n == 5 else b}
        for n, (a, b) in enumerate(ROWS)
    ]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    given = ["prune", "--model", str(folder), "--task", "text2text", "--criterion", "dense"]
    given += ["--max-steps=1", "--output", str(tmp_path / "out"), "--data", str(data)]
    assert main(given) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "special tokens are spelled out, and read as such, in rows of train (1)" in said
