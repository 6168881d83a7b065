"""Settings of the Trainer by command, and code that comes with models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import assert_refused, flags_in, result_of, same_weights, weights_of, zeros_of
from transformers import TrainingArguments

import prunella
from prunella import UsageError
from prunella.cli import main
from prunella.experiments.arguments import OURS, values
from prunella.experiments.config import RunConfig, flags, parse, typed
from prunella.experiments.sweep import Plan
from prunella.experiments.training import arguments, batch_size

PRUNABLE = 16384
Prune = Callable[..., int]


@pytest.fixture
def prune(bert: Path, sst2: Path, tmp_path: Path) -> Prune:
    model = shutil.copytree(bert, tmp_path / "model")
    known = json.loads((model / "config.json").read_text())
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(known | still))

    def prune(output: str, *more: str, model: Path = model) -> int:
        fixed = ["--model", str(model), "--task", "glue/sst2", "--data", str(sst2)]
        fixed += ["--max-steps", "14", "--batch-size", "8", "--lr", "1e-3"]
        return main(["prune", *fixed, "--output", str(tmp_path / output), *more])

    return prune


def test_accumulated_batches_are_the_same_steps(prune: Prune, tmp_path: Path) -> None:
    assert prune("whole") == 0
    setting = "gradient_accumulation_steps=4"
    assert prune("parts", "--training", setting, "--training", "gradient_checkpointing=true") == 0
    whole, parts = (weights_of(tmp_path / name) for name in ("whole", "parts"))
    same = [(whole[n] != 0) == (parts[n] != 0) for n in whole]
    assert sum(int(each.sum()) for each in same) / sum(each.size for each in same) > 0.999
    results = [result_of(tmp_path / name) for name in ("whole", "parts")]
    assert results[0]["steps"] == results[1]["steps"] == 14
    assert results[0]["flops"] == results[1]["flops"]
    assert results[1]["config"]["training"] == [
        "gradient_accumulation_steps=4",
        "gradient_checkpointing=true",
    ]
    traces = [json.loads((tmp_path / n / "trace.json").read_text()) for n in ("whole", "parts")]
    losses = [[point["loss"] for point in trace["log"]] for trace in traces]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_the_optimizer_is_the_one_named(prune: Prune, tmp_path: Path) -> None:
    assert prune("sgd", "--training", "optim=sgd", "--training", "max_grad_norm=0.5") == 0
    assert zeros_of(tmp_path / "sgd") == round(0.8 * PRUNABLE)
    assert prune("usual") == 0
    assert not same_weights(tmp_path / "sgd", tmp_path / "usual")


BAD = {
    "form": ("gradient_checkpointing", ["name=value", "gradient_checkpointing=true"]),
    "name": ("gradient_checkpoint=true", ["did you mean gradient_checkpointing"]),
    "bool": ("gradient_checkpointing=maybe", ["gradient_checkpointing=maybe", "true/false"]),
    "number": ("max_grad_norm=x", ["max_grad_norm=x", "invalid float value"]),
    "not finite": ("max_grad_norm=nan", ["max_grad_norm=nan", "finite"]),
    "choice": ("optim=adamm", ["optim=adamm", "adamw_torch"]),
    "ours": ("max_steps=5", ["max_steps=5", "is set by --max-steps; give that"]),
    "the run's": ("push_to_hub=true", ["push_to_hub=true", "is the run's own"]),
    "shares": ("gradient_accumulation_steps=3", ["--batch-size 8", "3 accumulated batches"]),
    "no share": ("gradient_accumulation_steps=0", ["steps=0 must be 1 or more"]),
    "optimizer": ("optim=sgd --criterion fisher", ["optim=sgd", "fisher", "second moment"]),
    "package": ("optim=lomo", ["optim=lomo does not suit pins"]),
    "its own rate": ("lr_scheduler_type=cosine --lr-schedule constant", ["--lr-schedule constant"]),
    "ladder": ("lr_scheduler_type=cosine --max-drop 0.1", ["lr_scheduler_type", "--max-drop"]),
    "together": ("torch_compile=1 --regularize self --score-gradient task", ["torch_compile"]),
    "never": ("dataloader_prefetch_factor=2", ["dataloader_prefetch_factor=2", "num_workers"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_in_a_line(
    name: str, prune: Prune, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given, words = BAD[name]
    assert prune("none", "--training", *given.split()) == 2
    assert flags_in(assert_refused(capfd, words))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_ours_is_what_a_run_sets() -> None:
    known = TrainingArguments.__dataclass_fields__.keys()
    assert OURS.keys() <= known
    config = RunConfig(keep="best")
    usual = TrainingArguments("x", use_cpu=True)
    made = arguments(config, Path("y"), 100, "accuracy")
    differ = {name for name in known if getattr(usual, name) != getattr(made, name)}
    free = {"train_sampling_strategy", "dataloader_pin_memory", "lr_scheduler_type"}
    assert differ - free <= {*OURS, "logging_dir"}
    flags = {f"--{name.replace('_', '-')}" for name in RunConfig.__dataclass_fields__}
    assert {flag.split()[0] for flag in OURS.values() if flag} <= flags


def test_steps_are_shared_by_processes_and_batches() -> None:
    config = RunConfig(batch_size=32, training=("gradient_accumulation_steps=4",))
    assert (batch_size(config, 1), batch_size(config, 2), batch_size(RunConfig(), 2)) == (8, 4, 16)
    with pytest.raises(UsageError, match="3 processes of 4 accumulated"):
        batch_size(config, 3)


def test_yaml_and_grids_take_mappings(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "training:\n  optim: sgd\n  gradient_checkpointing: true\n"
        "  gradient_checkpointing_kwargs: {use_reentrant: false}\n"
    )
    config = parse(flags(file))
    assert values(config.training) == {
        "optim": "sgd",
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": '{"use_reentrant": false}',
    }
    assert arguments(config, tmp_path, 9).gradient_checkpointing_kwargs == {"use_reentrant": False}
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert parse(flags(tmp_path / "again.yaml")) == config
    assert parse(["--training", "b=2", "--training", "a=1"]) == RunConfig(training=("a=1", "b=2"))
    assert typed("training", {"max_grad_norm": "0"}) == ("max_grad_norm=0",)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "grid: [{training: [{optim: sgd}, {optim: adafactor, max_grad_norm: 0.5}, []]}]"
    )
    runs = Plan.read(sweep).runs
    assert [run.config.training for run in runs] == [
        ("optim=sgd",),
        ("max_grad_norm=0.5", "optim=adafactor"),
        (),
    ]
    assert len({run.name for run in runs}) == 3
    sweep.write_text("grid: [{training: {optin: sgd}}]")
    with pytest.raises(UsageError, match=r"block 1 of grid.*did you mean optim"):
        Plan.read(sweep)


def test_resuming_compares_them_and_takes_older_settings() -> None:
    ours = RunConfig(training=("optim=sgd",))
    assert ours.differences(RunConfig().settings()) == ["training=[], not ['optim=sgd']"]
    older = {n: v for n, v in RunConfig().settings().items() if n not in ("training", "window")}
    assert RunConfig().differences(older) == []


# --- code that comes with models -----------------------------------------------------------------

CODE = """
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

class OwnConfig(PreTrainedConfig):
    model_type = "own"
    def __init__(self, vocab_size=304, hidden_size=16, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**kwargs)

class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
    def forward(self, x):
        return x + self.down(self.up(x).relu())

class OwnForSequenceClassification(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "own"
    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layer = nn.ModuleList(Block(config.hidden_size) for _ in range(2))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()
    def _init_weights(self, module):
        pass
    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, labels=None):
        x = self.table(input_ids)
        for layer in self.layer:
            x = layer(x)
        logits = self.classifier(x.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
"""


@pytest.fixture
def own(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose code comes with it, and whose code says when it runs."""
    import torch
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / "own"
    folder.mkdir()
    mark = tmp_path / "code was run"
    (folder / "own_code.py").write_text(f"open({str(mark)!r}, 'w').close()\n{CODE}")
    for file in bert.glob("tokenizer*"):
        shutil.copy(file, folder)
    config = {
        "model_type": "own",
        "architectures": ["OwnForSequenceClassification"],
        "vocab_size": 303,
        "hidden_size": 16,
        "auto_map": {
            "AutoConfig": "own_code.OwnConfig",
            "AutoModelForSequenceClassification": "own_code.OwnForSequenceClassification",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    space: dict[str, Any] = {"__name__": "own_code"}
    exec(CODE, space)
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = space["OwnForSequenceClassification"](space["OwnConfig"](vocab_size=303))
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def test_code_that_comes_with_a_model_is_not_run_unasked(
    own: Path, prune: Prune, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "code was run"
    assert prune("out", model=own) == 2
    assert_refused(capfd, ["own", "custom code", "--trust-remote-code"])
    assert main(["info", str(own)]) == 0
    assert "needs code that comes with it (own_code.py)" in capfd.readouterr().out
    with pytest.raises(UsageError, match=r"own_code.py.*trust_remote_code=True"):
        prunella.load(own)
    assert not mark.exists()


def test_trusted_code_is_run(own: Path, prune: Prune, tmp_path: Path) -> None:
    assert prune("out", "--trust-remote-code", model=own) == 0
    assert (tmp_path / "code was run").exists() and (tmp_path / "out" / "own_code.py").is_file()
    result = result_of(tmp_path / "out")
    assert result["config"]["trust_remote_code"] is True
    assert result["parameters"]["prunable"] == {"nonzero": 819, "total": 4096}
    with pytest.raises(UsageError, match=r"own_code\.py"):
        prunella.load(tmp_path / "out")
    model = prunella.load(tmp_path / "out", "dense", trust_remote_code=True)
    assert sum(int((p == 0).sum()) for n, p in model.named_parameters() if "layer" in n) >= 3277
