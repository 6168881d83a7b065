"""``prunella prune`` from its flags to the folder it leaves, on tiny models, without a network."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from folders import (
    assert_refused,
    flags_in,
    matrices_of,
    predictions_of,
    result_of,
    same_weights,
    weights_of,
    zeros_of,
)
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import prunella
from prunella.cli import main
from prunella.criteria import CRITERIA
from prunella.errors import UsageError
from prunella.experiments import study
from prunella.experiments.config import RunConfig
from prunella.experiments.run import run
from prunella.runtime import checkpoint

STEPS = 30
PRUNABLE = 16384  # four 32 x 32 and two 32 x 64 in each of two layers
TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")

Prune = Callable[..., Path]


@pytest.fixture
def prune(bert: Path, sst2: Path, tmp_path: Path) -> Prune:
    """Runs the command on the tiny task, flags added, and gives the folder it filled."""

    def prune(*flags: str, output: str = "out", task: str = "glue/sst2", data: Path = sst2) -> Path:
        folder = tmp_path / output
        assert main(_arguments(bert, data, folder, "--task", task, *flags)) == 0
        return folder

    return prune


@pytest.fixture(scope="module")
def pruned(bert: Path, sst2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned run with its dense twin, to be looked at only."""
    folder = tmp_path_factory.mktemp("runs") / "pins"
    assert main(_arguments(bert, sst2, folder, "--sparsity", "0.7", "--baseline")) == 0
    return folder


def _arguments(model: Path, data: Path, output: Path, *flags: str) -> list[str]:
    fixed = {
        "--model": model,
        "--data": data,
        "--output": output,
        "--task": "glue/sst2",
        "--max-steps": STEPS,
        "--batch-size": 8,
        "--lr": 1e-3,
        "--check-every": 15,  # a checkpoint takes as long as several steps
    }
    return ["prune", *(str(part) for pair in fixed.items() for part in pair), *flags]


def _predictions(folder: Path, criterion: str) -> list[dict[str, Any]]:
    return [row for row in predictions_of(folder) if row["criterion"] == criterion]


# --- what is left -------------------------------------------------------------------------------


def test_the_folder_is_whole(pruned: Path) -> None:
    files = {path.name for path in pruned.iterdir()}
    assert files >= {"sparse.safetensors", "config.json", "tokenizer.json"}
    assert files >= {"result.json", "predictions.jsonl", "prunella.yaml"}
    assert not [name for name in files if name.startswith("checkpoint")]
    assert [path.name for path in pruned.parent.iterdir()] == ["pins"]


def test_the_result_has_what_the_contract_names(pruned: Path) -> None:
    result = result_of(pruned)
    assert result["schema"] == 1
    assert result["config"]["criterion"] == "pins" and result["config"]["sparsity"] == 0.7
    assert set(result["metrics"]) == {"train", "holdout", "dev"}
    assert all(0 <= split["accuracy"] <= 1 for split in result["metrics"].values())
    tables = [left for left in result["left_dense"] if left["kind"] == "Embedding"]
    assert {left["form"] for left in tables} >= {"bert.embeddings.word_embeddings"}
    assert result["size_bytes"] == (pruned / "sparse.safetensors").stat().st_size
    speed = result["speed"]
    assert set(speed["latency_ms"]) == {"dense", "sparse"} and speed["max_abs_diff"] < 1e-4
    assert result["seconds"] > 0
    assert result["steps"] == STEPS
    assert result["dev_used_for_selection"] is False
    environment = result["environment"]
    assert environment["packages"]["prunella"] == prunella.__version__
    assert environment["packages"]["torch"] == torch.__version__
    assert {"commit", "python", "platform", "cpu", "cores", "gpus"} <= environment.keys()


def test_sparsity_is_that_of_the_saved_file(pruned: Path) -> None:
    weights = weights_of(pruned)
    scopes = {
        "prunable": set(matrices_of(pruned)),
        "backbone": {
            n for n in weights if n.startswith("bert.") and not any(t in n for t in TABLES)
        },
        "model": set(weights),
    }
    result = result_of(pruned)
    for scope, names in scopes.items():
        total = sum(weights[name].size for name in names)
        nonzero = sum(int(np.count_nonzero(weights[name])) for name in names)
        assert result["parameters"][scope] == {"nonzero": nonzero, "total": total}
        assert result["sparsity"][scope] == pytest.approx(1 - nonzero / total, abs=1e-12)
    assert result["parameters"]["prunable"]["total"] == PRUNABLE
    assert zeros_of(pruned) == round(0.7 * PRUNABLE)


def test_the_dense_twin_is_beside_it(pruned: Path, prune: Prune) -> None:
    result = result_of(pruned)
    alone = prune("--criterion", "dense")
    for figures in (result["baseline"], result_of(alone)):
        assert figures["parameters"]["prunable"] == {"nonzero": PRUNABLE, "total": PRUNABLE}
        assert figures["sparsity"]["prunable"] == 0
        assert figures["steps"] == STEPS
    assert result["baseline"]["metrics"] == result_of(alone)["metrics"]
    assert result["baseline"]["metrics"]["dev"]["accuracy"] > 0.7  # it learns
    assert _predictions(pruned, "dense") == _predictions(alone, "dense")
    assert "baseline" not in result_of(alone)


def test_the_checkpoint_predicts_what_was_recorded(pruned: Path, sst2: Path) -> None:
    model = prunella.load(pruned)
    tokenizer = AutoTokenizer.from_pretrained(pruned)
    lines = (sst2 / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = _predictions(pruned, "pins")
    assert [row["row"] for row in rows] == list(range(len(lines)))
    correct = 0
    for row, line in zip(rows, lines, strict=True):
        text, label = line.split("\t")
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert row["logits"] == pytest.approx(logits.tolist(), abs=1e-5)
        assert row["split"] == "dev" and row["label"] == int(label)
        correct += int(logits.argmax()) == int(label)
    assert result_of(pruned)["metrics"]["dev"]["accuracy"] == pytest.approx(correct / len(rows))
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_its_own_settings_give_it_again(pruned: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    settings = str(pruned / "prunella.yaml")
    assert main(["prune", "--config", settings, "--output", str(again)]) == 0
    ours, theirs = result_of(pruned), result_of(again)
    assert ours["metrics"] == theirs["metrics"]
    assert ours["baseline"]["metrics"] == theirs["baseline"]["metrics"]
    assert ours["config"] | {"output": str(again)} == theirs["config"]
    assert same_weights(pruned, again)


# --- settings -----------------------------------------------------------------------------------


def test_flags_override_the_file(prune: Prune, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    # As one writes them: YAML itself takes 2:4 for a number and 1e-3 for a text.
    file.write_text("pattern: 2:4\nsparsity: 0.3\nlr: 1e-3\nhold: true\nbaseline:\n")
    config = result_of(prune("--config", str(file), "--sparsity", "0.5"))["config"]
    assert config["pattern"] == "2:4" and config["sparsity"] == 0.5 and config["lr"] == 1e-3
    assert config["hold"] is True and config["baseline"] is None


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_prunes_exactly(prune: Prune, criterion: str) -> None:
    folder = prune("--criterion", criterion, "--sparsity", "0.613")
    assert zeros_of(folder) == round(0.613 * PRUNABLE)
    assert result_of(folder)["config"]["criterion"] == criterion
    assert result_of(folder)["sparsity_is"] == "asked"


@pytest.mark.parametrize("criterion", ["soft-movement", "l0"])
def test_without_a_target_the_sparsity_is_an_outcome(prune: Prune, criterion: str) -> None:
    folder = prune("--criterion", criterion, "--no-target", "--score-lr", "0.5")
    result = result_of(folder)
    assert result["sparsity_is"] == "outcome"
    assert result["sparsity"]["prunable"] == zeros_of(folder) / PRUNABLE
    assert zeros_of(folder) != round(0.8 * PRUNABLE)


@pytest.mark.parametrize("schedule", ["cubic", "linear", "oneshot", "constant"])
def test_every_schedule_reaches_its_sparsity(prune: Prune, schedule: str) -> None:
    folder = prune("--schedule", schedule, "--begin", "11", "--end", "0.8", "--every", "4")
    assert zeros_of(folder) == round(0.8 * PRUNABLE)


def test_a_schedule_that_selects_once_fits_a_released_criterion(prune: Prune) -> None:
    folder = prune("--criterion", "platon-released", "--schedule", "oneshot", "--begin", "15")
    assert zeros_of(folder) == round(0.8 * PRUNABLE)


def test_matrix_scope_prunes_each_alike(prune: Prune) -> None:
    flags = ("--criterion", "magnitude", "--sparsity", "0.6")
    alike = matrices_of(prune(*flags, "--scope", "matrix", output="matrix"))
    assert all((w == 0).sum() == round(0.6 * w.size) for w in alike.values())
    together = matrices_of(prune(*flags, output="global"))
    assert any((w == 0).sum() != round(0.6 * w.size) for w in together.values())


def test_two_of_four_inputs_are_kept(prune: Prune) -> None:
    for weight in matrices_of(prune("--pattern", "2:4", "--sparsity", "0.5")).values():
        groups = weight.reshape(-1, 4)
        assert ((groups != 0).sum(axis=1) == 2).all()


def test_blocks_are_whole(prune: Prune) -> None:
    folder = prune("--pattern", "4x4", "--sparsity", "0.75")
    for weight in matrices_of(folder).values():
        tiles = weight.reshape(weight.shape[0] // 4, 4, -1, 4).swapaxes(1, 2)
        assert set(np.unique((tiles == 0).sum(axis=(2, 3)))) <= {0, 16}
    assert zeros_of(folder) == round(0.75 * PRUNABLE / 16) * 16


def test_the_groups_of_gpt2_lie_along_its_inputs(gpt2: Path, prune: Prune) -> None:
    folder = prune("--model", str(gpt2), "--pattern", "2:4", "--sparsity", "0.5")
    matrices = matrices_of(folder)
    assert len(matrices) == 8
    for weight in matrices.values():  # stored [inputs, outputs]
        groups = weight.reshape(weight.shape[0] // 4, 4, weight.shape[1])
        assert ((groups != 0).sum(axis=1) == 2).all()
    assert result_of(folder)["sparsity"]["prunable"] == 0.5
    assert prunella.load(folder).config.pad_token_id is not None


def test_a_speed_that_cannot_be_measured(prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UsageError("no such input")

    monkeypatch.setattr(study.bench, "bench", fail)
    assert result_of(prune())["speed"] is None


def test_the_dense_form(prune: Prune) -> None:
    dense, sparse = prune("--save", "dense", output="dense"), prune(output="sparse")
    assert (dense / "model.safetensors").is_file() and "speed" not in result_of(dense)
    assert same_weights(dense, sparse)
    assert AutoModelForSequenceClassification.from_pretrained(dense)


def test_sparsity_zero_is_the_dense_run(prune: Prune) -> None:
    zero, dense = prune("--sparsity", "0", output="zero"), prune("--criterion", "dense")
    assert same_weights(zero, dense)
    assert result_of(zero)["metrics"] == result_of(dense)["metrics"]


def test_seeds_differ(pruned: Path, prune: Prune) -> None:
    assert not same_weights(pruned, prune("--sparsity", "0.7", "--seed", "1"))


def test_bf16_leaves_no_trace_in_the_next_run(pruned: Path, prune: Prune) -> None:
    coarse = prune("--sparsity", "0.7", "--precision", "bf16", output="bf16")
    assert zeros_of(coarse) == round(0.7 * PRUNABLE)
    assert all(weight.dtype == np.float32 for weight in weights_of(coarse).values())
    assert not same_weights(pruned, coarse)
    assert same_weights(pruned, prune("--sparsity", "0.7"))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_regression(prune: Prune, stsb: Path, precision: str) -> None:
    folder = prune("--precision", precision, task="glue/stsb", data=stsb)
    assert list(result_of(folder)["metrics"]["dev"]) == ["pearson", "spearman"]
    assert all(len(row["logits"]) == 1 for row in _predictions(folder, "pins"))
    assert prunella.load(folder).config.num_labels == 1


def test_a_task_without_header(prune: Prune, cola: Path) -> None:
    folder = prune(task="glue/cola", data=cola)
    assert list(result_of(folder)["metrics"]["dev"]) == ["mcc", "accuracy"]


def test_a_checkpoint_of_another_task_gets_a_new_head(prune: Prune, stsb: Path, sst2: Path) -> None:
    scores = prune(task="glue/stsb", data=stsb, output="scores")
    classes = prune("--model", str(scores), output="classes")
    config = prunella.load(classes).config
    assert config.num_labels == 2 and config.problem_type == "single_label_classification"


def test_a_batch_larger_than_the_data(prune: Prune) -> None:
    folder = prune("--batch-size", "1000", "--criterion", "magnitude", "--sparsity", "0.999")
    assert zeros_of(folder) == round(0.999 * PRUNABLE)


def test_epochs_give_the_steps(bert: Path, sst2: Path, tmp_path: Path) -> None:
    flags = ["--model", str(bert), "--task", "glue/sst2", "--data", str(sst2)]
    flags += ["--epochs", "1.5", "--batch-size", "10", "--criterion", "dense"]
    assert main(["prune", *flags, "--output", str(tmp_path / "out")]) == 0
    assert result_of(tmp_path / "out")["steps"] == 17  # 1.5 times 11 batches of 108 rows


def test_without_output_every_run_has_its_own_folder(
    bert: Path, sst2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--model", str(bert), "--task", "glue/sst2", "--data", str(sst2)]
    flags += ["--max-steps", "2", "--criterion", "dense"]
    for _ in range(2):
        assert main(["prune", *flags]) == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["glue-sst2-dense-0.8-seed0", "glue-sst2-dense-0.8-seed0-1"]


def test_other_alphabets_in_paths(bert: Path, sst2: Path, tmp_path: Path, prune: Prune) -> None:
    shutil.copytree(bert, tmp_path / "modèle 模型")
    shutil.copytree(sst2, tmp_path / "данные")
    folder = prune(
        "--model", str(tmp_path / "modèle 模型"), data=tmp_path / "данные", output="résultat é/a"
    )
    assert result_of(folder)["config"]["data"].endswith("данные")


# --- what is printed ----------------------------------------------------------------------------


def test_what_is_printed(prune: Prune, capfd: pytest.CaptureFixture[str]) -> None:
    folder = prune("--sparsity", "0.7", "--baseline")
    out, err = capfd.readouterr()
    assert err == ""
    assert re.search(r"trains [\d,]+ of [\d,]+\s+parameters \([\d,]+ frozen\)", out)
    line = " ".join(out.split())
    assert "prunes 16,384 of them, in 12 tensors, to 70% by pins" in line
    table = r"left dense: [\d.]+% in bert.embeddings.word_embeddings \(Embedding: a look-up table\)"
    assert len(re.findall(table, line)) == 2  # in the first line, and below the figures
    assert "12 rows of train held out" in " ".join(out.split())
    assert re.search(rf"^pins  {STEPS}/{STEPS}  loss \d\.\d+  sparsity 70\.0%$", out, re.M)
    assert re.search(r"^ +dense +pins +of$", out, re.M)
    assert re.search(r"^non-zero parameters, prunable +16,384 +4,915 +16,384$", out, re.M)
    assert re.search(r"^sparsity, model +\S+% +\S+%", out, re.M)
    assert re.search(r"^dev accuracy +\d\.\d{4} +\d\.\d{4}", out, re.M)
    assert re.search(r"^weights on disk, MB +0\.1 +0\.1", out, re.M)
    assert str(folder) in out.splitlines()[-1]


def test_on_a_terminal_a_bar_shows_loss_sparsity_and_time_left(
    bert: Path, sst2: Path, tmp_path: Path
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, soft_wrap=True)
    run(
        RunConfig(
            model=str(bert),
            task="glue/sst2",
            data=str(sst2),
            max_steps=STEPS,
            output=str(tmp_path / "out"),
        ),
        console,
    )
    assert re.search(r"loss 0\.\d+  sparsity 80\.0%\S* .*\d:\d\d.*left", screen.getvalue())


# --- bad input ----------------------------------------------------------------------------------

BAD = {
    "score lr of pins": (["--score-lr", "0.1"], ["--score-lr 0.1", "movement", "pins"]),
    "pins has no target": (["--no-target"], ["--no-target", "soft-movement", "pins"]),
    "dormant and held": (["--criterion", "movement", "--hold"], ["--hold", "dormant"]),
    "sparsity one": (["--sparsity", "1"], ["1.0", "[0, 1)", "0.9"]),
    "sparsity negative": (["--sparsity", "-0.1"], ["-0.1", "[0, 1)"]),
    "sparsity no number": (["--sparsity", "nan"], ["nan", "[0, 1)"]),
    "begin after end": (["--begin", "0.5", "--end", "0.2"], ["0.5", "0.2", "begin must come"]),
    "begin is end": (["--begin", "7", "--end", "7"], ["7", "begin must come before end"]),
    "mixed, begin after end": (["--begin", "0.5", "--end", "3"], ["15", "3", "30 steps"]),
    "too short for the ramp": (
        ["--begin", "20", "--end", "40"],
        ["30 steps", "lower --end 40"],
    ),
    "every": (["--every", "0"], ["--every 0", "at least 1"]),
    "no evidence": (
        ["--begin", "1", "--every", "2", "--window", "5"],
        ["step 2", "step 5", "--begin 1", "--window 5", "--max-steps"],
    ),
    "criterion": (["--criterion", "pnis"], ["'pnis'", "pins", "known are"]),
    "task": (["--task", "glue/sts"], ["'glue/sts'", "glue/stsb"]),
    "model folder": (["--model", "./nowhere"], ["./nowhere", "no folder", "hub name"]),
    "hub name": (["--model", "no-such-model"], ["no-such-model", "cannot be loaded", "network"]),
    "pattern": (["--pattern", "square"], ["--pattern square", "2:4", "4x4"]),
    "pattern that keeps all": (["--pattern", "4:4"], ["NM(4, 4)", "0 < n < m"]),
    "pattern that does not divide": (
        ["--pattern", "2:5", "--sparsity", "0.6"],
        ["NM(2, 5)", "(32, 32)", "multiple of 5"],
    ),
    "blocks that do not divide": (["--pattern", "5x5"], ["Block(5, 5)", "(32, 32)", "divide"]),
    "pattern of another sparsity": (["--pattern", "2:4"], ["NM(2, 4)", "0.5", "0.8"]),
    "epochs": (["--epochs", "inf"], ["--epochs inf", "greater than 0"]),
    "max steps": (["--max-steps", "0"], ["--max-steps 0", "greater than 0"]),
    "batch size": (["--batch-size", "-1"], ["--batch-size -1", "greater than 0"]),
    "lr": (["--lr", "nan"], ["--lr nan", "greater than 0"]),
    "warmup": (["--warmup", "1"], ["--warmup 1", "[0, 1)"]),
    "weight decay": (["--weight-decay", "-1"], ["--weight-decay -1", "from 0 on"]),
    "seed": (["--seed", "-1"], ["--seed -1", "2**32"]),
    "max length": (["--max-length", "2"], ["--max-length 2", "no room", "higher"]),
    "no data folder": (["--data", "nowhere"], ["nowhere", "--data"]),
    "settings that are not there": (["--config", "no.yaml"], ["no.yaml", "cannot be read"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_names_value_rule_and_remedy(
    name: str,
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags, words = BAD[name]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert main(_arguments(bert, sst2, tmp_path / "new" / "out", *flags)) == 2
    assert flags_in(assert_refused(capfd, words))  # a remedy where the user stands
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags", [["--sparsity", "much"], ["--schedule", "square"], ["--sparsty", "0.5"], ["--config"]]
)
def test_malformed_flags(
    flags: list[str], bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(_arguments(bert, sst2, tmp_path / "out", *flags))
    assert stop.value.code == 2
    assert flags[0] in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- sparsity", ["must map settings to values"]),
        ("just text", ["must map settings to values"]),
        ("sparsty: 0.5", ["'sparsty'", "known are", "sparsity"]),
        ("sparsity: [0.5, 0.6]", ["sparsity", "one value"]),
        ("overwrite: perhaps", ["overwrite", "'perhaps'", "true or false"]),
        ("a: b: c", ["cannot be read"]),
    ],
)
def test_bad_settings(
    text: str, words: list[str], prune: Prune, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert main(["prune", "--config", str(file), "--output", str(tmp_path / "out")]) == 2
    assert_refused(capfd, ["settings.yaml", *words])
    assert list(tmp_path.iterdir()) == [file]


def _write(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text, encoding="utf-8")


def _drop(pattern: str) -> Callable[[Path], object]:
    return lambda folder: [path.unlink() for path in folder.glob(pattern)]


def _set(**settings: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_drop("dev.tsv"), ["dev.tsv"]),
        (_write("train.tsv", "sentence\tscore\nfine\t1\n"), ["train.tsv", "label"]),
        (_write("dev.tsv", "sentence\tlabel\n"), ["dev.tsv", "no rows"]),
        (_write("dev.tsv", "sentence\tlabel\nfine\t2\n"), ["dev.tsv:2", "'2'", "0", "1"]),
        (_write("train.tsv", "sentence\tlabel\nfine\t1\n"), ["1 training rows", "10"]),
    ],
)
def test_bad_data(
    damage: Callable[[Path], object],
    words: list[str],
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = shutil.copytree(sst2, tmp_path / "data")
    damage(data)
    assert main(_arguments(bert, data, tmp_path / "out")) == 2
    assert_refused(capfd, words)
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_drop("*"), ["holds no checkpoint", "save_pretrained"]),
        (_drop("model.safetensors"), ["cannot be loaded", "model.safetensors"]),
        (_write("model.safetensors", "no weights at all"), ["cannot be loaded", "header"]),
        (_write("config.json", "[]"), ["cannot be loaded"]),
        (_drop("tokenizer*"), ["without a tokenizer", "tokenizer.save_pretrained"]),
        # Transformers would quietly make up the weights that these lack.
        (_set(num_hidden_layers=3), ["lacks bert.encoder.layer.2", "config.json"]),
        (_set(hidden_size=64), ["lacks bert.encoder.layer.0", "config.json"]),
    ],
)
def test_bad_checkpoints(
    damage: Callable[[Path], object],
    words: list[str],
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = shutil.copytree(bert, tmp_path / "model")
    damage(model)
    assert main(_arguments(model, sst2, tmp_path / "out")) == 2
    assert_refused(capfd, [str(model), *words])
    assert list(tmp_path.iterdir()) == [model]


def test_the_demo_needs_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prunella.experiments.places.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert main(["prune"]) == 2
    assert_refused(capfd, ["not installed", "prunella[demo]", "--model"])
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_use_is_left_alone(
    prune: Prune, bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = prune("--criterion", "dense")
    file = tmp_path / "file"
    file.write_text("precious")
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes").write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capfd.readouterr()
    for model, output, words, flags in [
        (bert, first, ["already holds a result", "--overwrite"], []),
        (bert, file, ["is a file", "name a folder"], []),
        (bert, file / "below", ["cannot be made", "--output"], []),
        (bert, other, ["no result of a run", "--output"], ["--overwrite"]),
        (first, first, ["holds the input", "--output"], ["--overwrite"]),
        (bert, first, ["NM(2, 4)"], ["--overwrite", "--pattern", "2:4"]),
    ]:
        assert main(_arguments(model, sst2, output, *flags)) == 2
        assert_refused(capfd, words)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_overwrite_replaces_a_result(prune: Prune, tmp_path: Path) -> None:
    prune("--criterion", "dense")
    (tmp_path / "out" / "extra").touch()
    folder = prune("--overwrite")
    assert result_of(folder)["config"]["criterion"] == "pins"
    assert not (folder / "extra").exists()
    assert list(tmp_path.iterdir()) == [folder]


# --- runs that break off ------------------------------------------------------------------------


def _loss_breaks_at(
    step: int, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], torch.Tensor]
) -> None:
    compute = transformers.Trainer.compute_loss

    def compute_loss(self: transformers.Trainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            return broken(), None  # the loss and the outputs
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "compute_loss", compute_loss)


def _interrupt() -> torch.Tensor:
    raise KeyboardInterrupt


def _checkpoint_named(line: str) -> Path:
    match = re.search(r"(last good checkpoint is|what was trained is in) (.+)$", line)
    assert match
    return Path(match[2])


def test_a_loss_that_explodes(
    bert: Path, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--lr", "1e30", "--check-every", "1")
    assert main(_arguments(bert, sst2, tmp_path / "out", *flags)) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert re.match(r"prunella: the loss is (nan|inf) at step [1-5];", line)
    left = _checkpoint_named(line)
    assert left.is_relative_to(tmp_path / "out.partial")
    assert AutoTokenizer.from_pretrained(left)("good").input_ids
    model = AutoModelForSequenceClassification.from_pretrained(left)
    assert all(torch.isfinite(p).all() and p.abs().max() < 100 for p in model.parameters())
    assert not (tmp_path / "out").exists()


def test_the_checkpoint_kept_is_one_that_was_good(
    prune: Prune,
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = (prune("--criterion", "dense") / "model.safetensors").read_bytes()
    # The checkpoint of step 24 gives the NaN.
    _loss_breaks_at(24, monkeypatch, lambda: torch.tensor(float("nan")))
    capfd.readouterr()
    flags = ("--overwrite", "--check-every", "3")
    assert main(_arguments(bert, sst2, tmp_path / "out", *flags)) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("prunella: the loss is nan at step 24;")
    left = _checkpoint_named(line)
    assert left == tmp_path / "out.partial" / "pins" / "checkpoint-21"
    assert zeros_of(left) > PRUNABLE / 2
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == old


def test_nothing_is_kept_where_nothing_was_good(
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _loss_breaks_at(0, monkeypatch, lambda: torch.tensor(float("inf")))
    assert main(_arguments(bert, sst2, tmp_path / "out")) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "the loss is inf at step 0;" in line and "checkpoint" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_dense_twin_that_explodes_leaves_the_pruned_model(
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = transformers.Trainer.compute_loss

    def compute_loss(self: transformers.Trainer, *args: Any, **kwargs: Any) -> Any:
        dense = Path(self.args.output_dir).name == "dense"
        return (torch.tensor(float("nan")), None) if dense else compute(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "compute_loss", compute_loss)
    assert main(_arguments(bert, sst2, tmp_path / "out", "--baseline")) == 1
    (line,) = capfd.readouterr().err.splitlines()
    left = _checkpoint_named(line)
    assert left == tmp_path / "out.partial" / "pins" / "model"
    assert zeros_of(left) == round(0.8 * PRUNABLE)


def test_texts_longer_than_the_model_reads(
    bert: Path, prune: Prune, sst2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(sst2, data)
    (data / "dev.tsv").write_text(f"sentence\tlabel\n{'word1 ' * 100}\t1\n")
    folder = prune(data=data)
    assert "too long and cut off: 1 of 1 in dev" in " ".join(capfd.readouterr().out.split())
    assert result_of(folder)["task"]["max_length"] == 64
    for flags, words in (
        (["--max-length", "128"], ["102 tokens", "64", "--max-length 64"]),
        (["--no-truncate"], ["102 tokens", "64 are allowed", "--truncate"]),
    ):
        assert main(_arguments(bert, data, tmp_path / "none", *flags)) == 2
        assert_refused(capfd, words)


def test_outputs_that_are_no_numbers(
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = checkpoint.load

    def spoiled(*args: Any) -> Any:
        model = load(*args)
        model.classifier.bias.data[0] = torch.nan
        return model

    monkeypatch.setattr(checkpoint, "load", spoiled)
    assert main(_arguments(bert, sst2, tmp_path / "out")) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "the model's outputs hold NaN" in line
    assert _checkpoint_named(line).name == "model"


def test_an_interrupted_run_says_what_is_left(
    bert: Path,
    sst2: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _loss_breaks_at(17, monkeypatch, _interrupt)
    assert main(_arguments(bert, sst2, tmp_path / "out")) == 130
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("prunella: stopped; continue with: prunella prune --config ")
    assert line.endswith("out.partial/prunella.yaml --resume")
    assert [path.name for path in (tmp_path / "out.partial" / "pins").glob("checkpoint-*")]


def test_other_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["prone"]) == 2
    assert "'prone'" in capfd.readouterr().err
    assert main([]) == 0
    out = capfd.readouterr().out
    assert all(command in out for command in ("prune ", "info ", "bench ", "export "))
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"prunella {prunella.__version__}\n"
