"""Which teachers a model can learn from, and that others are refused before any time is spent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import chats
import pytest
import torch
from families import WORDS, build
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from prunella.cli import main
from prunella.errors import UsageError
from prunella.experiments.data import Data
from prunella.regularizers import Distillation

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def qwen(width: int = 100, **sizes: int) -> nn.Module:
    return Qwen2ForCausalLM(
        Qwen2Config(vocab_size=width, **{**SIZES, "num_key_value_heads": 2, **sizes})
    )


def bert(classes: int = 3, **sizes: int) -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(vocab_size=100, num_labels=classes, **{**SIZES, **sizes})
    )


def t5() -> nn.Module:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=100, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )


@pytest.mark.parametrize(("ours", "theirs"), [(100, 108), (108, 100)])
def test_padding_of_a_vocabulary_is_cut_on_both_sides(
    ours: int, theirs: int, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    student, teacher = qwen(ours), qwen(theirs)
    ids = torch.randint(0, 100, (2, 9))
    labels = ids.clone()
    labels[:, :5] = -100
    batch = {"input_ids": ids, "labels": labels}
    term = Distillation(teacher, temperature=2.0)
    term.begin(student)
    outputs = student(**batch)
    found = [term(outputs, batch) for _ in range(2)]
    logs = [
        (each(input_ids=ids).logits[:, 4:-1, :100] / 2).log_softmax(-1)
        for each in (student, teacher)
    ]
    expected = 4 * (logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean()
    torch.testing.assert_close(found[0], expected)
    assert found[0] == found[1]
    assert [record.message for record in caplog.records] == [
        f"the teacher's logits are over {theirs} tokens and the model's over {ours}, taken for one "
        "vocabulary with padding: the first 100 of both are compared"
    ]


FITS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], dict[str, float], str]] = {
    "vocabulary": (qwen, lambda: qwen(150), {}, "over 150 tokens and the model's over 100"),
    "classes": (bert, lambda: bert(4), {}, "num_labels is 4 and the model's 3"),
    "depth": (bert, lambda: bert(num_hidden_layers=3), {"hidden": 1.0}, "num_hidden_layers is 3"),
    "width": (qwen, lambda: qwen(hidden_size=32), {"hidden": 1.0}, "hidden_size is 32"),
    "heads": (bert, lambda: bert(num_attention_heads=4), {"attention": 1.0}, "heads is 4"),
    "openly": (bert, bert, {"attention": 1.0}, "these have sdpa and sdpa; call set_attn"),
    "kind": (qwen, t5, {}, "the teacher is an encoder-decoder"),
    "both": (t5, t5, {"hidden": 1.0}, "leave out --distill-hidden"),
}


@pytest.mark.parametrize("case", FITS)
def test_what_cannot_be_compared_is_refused_when_training_begins(case: str) -> None:
    ours, theirs, weights, words = FITS[case]
    term = Distillation(theirs(), **weights)
    with pytest.raises(UsageError, match=words):
        term.begin(ours())


def test_what_differs_and_does_not_matter_is_not_refused() -> None:
    Distillation(bert(num_hidden_layers=3, hidden_size=32)).begin(bert())
    Distillation(bert(4), columns=[3, 0, 1]).begin(bert())
    Distillation(nn.Linear(3, 4)).begin(nn.Linear(3, 3))  # nothing is known of these


def test_without_a_beginning_the_first_batch_says_it() -> None:
    batch = {"input_ids": torch.arange(9)[None]}
    with pytest.raises(UsageError, match="no padding of one vocabulary"):
        Distillation(qwen(150))(qwen()(**batch), batch)


# --- by command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Checkpoints of one tokenizer and one template, by their differences."""
    root = tmp_path_factory.mktemp("teachers")

    def made(name: str, **changes: Any) -> Path:
        tokenizer = chats.tokenizer(chats.CHATML, "qwen2")
        config = build("qwen2", AutoModelForCausalLM).config
        config.update({"vocab_size": len(tokenizer), **changes})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        return root / name

    return made


def distilled(model: Path, teacher: Path, tmp_path: Path, *flags: str) -> int:
    data = tmp_path / "data.jsonl"
    row = (
        '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "no"}]}'
    )
    data.write_text("\n".join(row % word for word in WORDS) + "\n")
    given = ["prune", "--model", str(model), "--task", "chat", "--data", str(data), "--max-steps=4"]
    given += ["--criterion", "magnitude", "--every", "1", "--regularize", "distill"]
    return main([*given, "--teacher", str(teacher), "--output", str(tmp_path / "out"), *flags])


@pytest.mark.parametrize(
    ("changes", "flags", "words"),
    [
        ({"hidden_size": 64}, ("--distill-hidden", "1"), "hidden_size is 64"),
        ({"max_position_embeddings": 40}, (), "give --max-length 40"),
        ({"vocab_size": 300}, (), "has embeddings for 300 tokens"),
        ({"vocab_size": 900}, (), "no padding of one vocabulary"),
    ],
)
def test_teachers_are_refused_before_texts_are_read(
    changes: dict[str, int],
    flags: tuple[str, ...],
    words: str,
    made: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Data, "read", lambda *_: pytest.fail("texts were read"))
    assert distilled(made("model"), made("other", **changes), tmp_path, *flags) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_padded_teacher_is_learnt_from(
    made: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ("--distill-hidden", "1", "--regularize", "self", "--snapshot-every", "2")
    padded = made("padded", vocab_size=384)
    assert distilled(made("model"), padded, tmp_path, *flags) == 0
    assert "over 384 tokens" in caplog.text
