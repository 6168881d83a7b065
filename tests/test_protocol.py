"""``prunella prune``: what is looked at, what is kept, who teaches, how sparse it can get."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import (
    assert_refused,
    flags_in,
    predictions_of,
    result_of,
    same_weights,
    weights_of,
    zeros_of,
)
from safetensors.numpy import save_file

from prunella import SelfRegularization
from prunella.cli import main
from prunella.criteria import CRITERIA
from prunella.tasks.classification import MEASURES

PRUNABLE = 16384
STEPS = 30

Prune = Callable[..., Path]


@pytest.fixture
def prune(bert: Path, sst2: Path, tmp_path: Path) -> Prune:
    """Runs the command on the tiny task, flags added, and gives the folder it filled."""

    def prune(*flags: str, output: str = "out", data: Path = sst2, task: str = "glue/sst2") -> Path:
        folder = tmp_path / output
        assert main(_arguments(bert, data, folder, task, *flags)) == 0
        return folder

    return prune


def _arguments(model: Path, data: Path, output: Path, task: str, *flags: str) -> list[str]:
    # A checkpoint takes as long as several steps.
    fixed = f"--max-steps {STEPS} --batch-size 8 --lr 1e-3 --check-every 15 --task {task}"
    paths = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return ["prune", *paths, *fixed.split(), *flags]


def _logits(folder: Path) -> list[list[float]]:
    return [row["logits"] for row in predictions_of(folder)]


@pytest.fixture
def noisy(sst2: Path, tmp_path: Path) -> Path:
    """The same data, but for labels of dev drawn by a coin."""
    data = shutil.copytree(sst2, tmp_path / "noisy")
    header, *lines = (data / "dev.tsv").read_text().splitlines()
    source = random.Random(1)
    lines = [f"{line.split(chr(9))[0]}\t{source.randrange(2)}" for line in lines]
    (data / "dev.tsv").write_text("\n".join([header, *lines]) + "\n")
    return data


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts snapshots."""
    counted: list[int] = []
    take = SelfRegularization.take

    def counting(self: SelfRegularization) -> None:
        counted.append(1)
        take(self)

    monkeypatch.setattr(SelfRegularization, "take", counting)
    return counted


# --- dev ----------------------------------------------------------------------------------------

PROTOCOLS = {
    "every": "--regularize self --snapshot-every 5",
    "holdout": "--regularize self --snapshot best-holdout --check-every 5",
    "best": "--regularize self --snapshot-every 5 --keep best --patience 2 --check-every 3",
    "max-drop": "--regularize self --snapshot-every 5 --max-drop 0.99 --levels 0.5 --levels 0.8 "
    "--criterion magnitude",
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_labels_of_dev_change_nothing_but_its_metric(
    name: str, prune: Prune, noisy: Path, taken: list[int]
) -> None:
    flags = PROTOCOLS[name].split()
    honest = prune(*flags, "--baseline")
    assert len(taken) >= (2 if name != "holdout" else 1)
    blind = prune(*flags, "--baseline", data=noisy, output="blind")
    assert same_weights(honest, blind)
    assert _logits(honest) == _logits(blind)
    ours, theirs = result_of(honest), result_of(blind)
    for figures in (ours, theirs, ours["baseline"], theirs["baseline"]):
        for about_dev in ("seconds", "trivial", "warnings"):
            figures.pop(about_dev)
        figures["dev"] = figures["metrics"].pop("dev")
        figures["by_class"].pop("dev")
    assert ours["dev"] != theirs["dev"]
    for aside in ("dev", "config", "data", "speed"):
        ours.pop(aside), theirs.pop(aside)
    ours["baseline"].pop("dev"), theirs["baseline"].pop("dev")
    for result in (ours, theirs):  # what the choice is worth on dev, once it is made
        result.get("max_drop", {}).pop("worth", None)
    assert ours == theirs
    assert ours["dev_used_for_selection"] is False


@pytest.mark.parametrize(
    "flags",
    [
        "--regularize self --snapshot best-dev --check-every 3",
        "--select-on dev --keep best --check-every 3",
    ],
)
def test_choosing_on_dev_is_stamped(
    flags: str, prune: Prune, noisy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    honest = prune(*flags.split())
    assert "chosen on, which the result will say" in " ".join(capfd.readouterr().out.split())
    blind = prune(*flags.split(), data=noisy, output="blind")
    assert result_of(honest)["dev_used_for_selection"] is True
    if "snapshot" in flags:
        assert not same_weights(honest, blind)


def test_the_stamp_passes_from_teacher_to_student(prune: Prune) -> None:
    teacher = prune("--criterion", "dense", "--select-on", "dev", output="teacher")
    student = prune("--regularize", "distill", "--teacher", str(teacher))
    assert result_of(student)["config"]["select_on"] == "holdout"
    assert result_of(student)["dev_used_for_selection"] is True


# --- what is kept -------------------------------------------------------------------------------


def test_the_best_is_sought_on_the_holdout_among_the_sparse(prune: Prune) -> None:
    last = result_of(prune("--check-every", "3"))
    best = result_of(prune("--check-every", "3", "--keep", "best", output="best"))
    assert last["kept_step"] == last["steps"] == best["steps"] == STEPS
    assert best["kept_step"] > 0.7 * STEPS  # only then the sparsity is final
    name = "accuracy"
    assert best["metrics"]["holdout"][name] >= last["metrics"]["holdout"][name]
    assert best["parameters"]["prunable"]["nonzero"] == PRUNABLE - round(0.8 * PRUNABLE)


def test_the_dense_twin_of_a_patient_run_has_the_whole_budget(prune: Prune) -> None:
    flags = ("--patience", "1", "--check-every", "1", "--end", "0.3", "--lr", "1e-6")
    result = result_of(prune(*flags, "--criterion", "magnitude", "--every", "2", "--baseline"))
    assert result["steps"] < result["baseline"]["steps"] == STEPS


def test_patience_ends_a_run_at_the_final_sparsity(prune: Prune) -> None:
    flags = ("--patience", "1", "--check-every", "1", "--end", "0.3", "--begin", "0.1")
    folder = prune(*flags, "--criterion", "magnitude", "--every", "2", "--lr", "1e-6")
    assert 9 <= result_of(folder)["steps"] < STEPS
    assert zeros_of(folder) == round(0.8 * PRUNABLE)
    assert result_of(folder)["kept_step"] == result_of(folder)["steps"]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_goes_with_every_term(
    criterion: str, prune: Prune, dense: Path, taken: list[int]
) -> None:
    terms = ("self", "distill", "smoothing", "virtual-teacher")
    flags = [part for term in terms for part in ("--regularize", term)]
    folder = prune(*flags, "--teacher", str(dense), "--criterion", criterion)
    assert zeros_of(folder) == round(0.8 * PRUNABLE)
    assert len(taken) == 10
    assert result_of(folder)["config"]["regularize"] == list(terms)


def test_the_dense_twin_has_the_same_terms(prune: Prune, taken: list[int]) -> None:
    folder = prune("--regularize", "self", "--baseline")
    assert len(taken) == 20
    alone = prune("--regularize", "self", "--criterion", "dense", output="alone")
    plain = prune("--criterion", "dense", output="plain")
    assert result_of(folder)["baseline"]["metrics"] == result_of(alone)["metrics"]
    assert not same_weights(alone, plain)


@pytest.mark.parametrize("gradient", ["joint", "task"])
def test_the_score_gradient_is_a_switch(gradient: str, prune: Prune) -> None:
    flags = ("--regularize", "self", "--self-weight", "adaptive", "--snapshot-every", "2")
    folder = prune(*flags, "--score-gradient", gradient, output=gradient)
    assert zeros_of(folder) == round(0.8 * PRUNABLE)
    plain = prune(*flags, output="plain")
    assert same_weights(folder, plain) is (gradient == "joint")


def test_the_holdout_is_the_same_for_every_seed(prune: Prune) -> None:
    one = result_of(prune("--criterion", "dense"))
    two = result_of(prune("--criterion", "dense", "--seed", "1", output="two"))
    three = result_of(prune("--criterion", "dense", "--holdout-seed", "1", output="three"))
    assert one["data"] == two["data"]
    assert one["data"]["holdout"] != three["data"]["holdout"]
    assert one["data"]["dev"] == three["data"]["dev"]
    assert {split: known["rows"] for split, known in one["data"].items()} == {
        "train": 108,
        "holdout": 12,
        "dev": 40,
    }


# --- teachers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(bert: Path, sst2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned teacher."""
    folder = tmp_path_factory.mktemp("runs") / "dense"
    flags = ("--criterion", "dense", "--seed", "5")
    assert main(_arguments(bert, sst2, folder, "glue/sst2", *flags)) == 0
    return folder


def test_the_result_names_the_teacher_and_what_it_saw(prune: Prune, dense: Path) -> None:
    teacher = result_of(prune("--regularize", "distill", "--teacher", str(dense)))["teacher"]
    assert teacher["path"] == str(dense)
    assert teacher["config"]["criterion"] == "dense" and teacher["config"]["seed"] == 5
    assert teacher["data"]["train"]["rows"] == 108
    assert teacher["same_holdout"] is True and teacher["used_dev"] is False
    flags = ("--regularize", "distill", "--teacher", str(dense), "--holdout-seed", "9")
    other = result_of(prune(*flags, output="other"))["teacher"]
    assert other["same_holdout"] is False


def test_a_teacher_whose_classes_are_in_another_order_is_mapped(
    prune: Prune, dense: Path, tmp_path: Path
) -> None:
    plain = prune("--regularize", "distill", "--teacher", str(dense), output="plain")
    turned = shutil.copytree(dense, tmp_path / "turned")
    weights = weights_of(turned)
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = np.ascontiguousarray(weights[name][::-1])
    save_file(weights, turned / "model.safetensors", {"format": "pt"})
    config = json.loads((turned / "config.json").read_text())
    config["id2label"] = {"0": "positive", "1": "negative"}
    config["label2id"] = {"positive": 0, "negative": 1}
    (turned / "config.json").write_text(json.dumps(config))
    mapped = prune("--regularize", "distill", "--teacher", str(turned), output="mapped")
    assert same_weights(plain, mapped)


def test_an_unknown_teacher_is_said_to_be_one(
    prune: Prune, dense: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unknown = shutil.copytree(dense, tmp_path / "unknown")
    (unknown / "result.json").unlink()
    folder = prune("--regularize", "distill", "--teacher", str(unknown))
    assert result_of(folder)["teacher"]["used_dev"] is None
    assert result_of(folder)["teacher"]["same_holdout"] is None
    out = " ".join(capfd.readouterr().out.split())
    assert "may have been trained on our holdout" in out and "does not say" in out


def test_text_without_labels_is_distilled_on_as_well(
    prune: Prune, dense: Path, tmp_path: Path
) -> None:
    flags = ("--regularize", "distill", "--teacher", str(dense))
    plain = prune(*flags, output="plain")
    lines = ("good word1 word2", "bad word3", "fine word4 word5 word6")
    (tmp_path / "more.txt").write_text("\n\n".join(lines) + "\n")
    (tmp_path / "more.csv").write_text("\n".join(["text", *lines]) + "\n")
    results = []
    for file in ("more.txt", "more.csv"):
        more = ("--distill-data", str(tmp_path / file))
        folder = prune(*flags, *more, output=file.replace(".", "-"))
        assert not same_weights(folder, plain)
        results.append(result_of(folder))
        assert results[-1]["data"]["unlabelled"]["rows"] == 3
    assert results[0]["metrics"] == results[1]["metrics"]


def test_hidden_states_and_attention_of_a_teacher(prune: Prune, dense: Path) -> None:
    flags = ("--regularize", "distill", "--teacher", str(dense))
    plain = prune(*flags, output="plain")
    for extra in ("--distill-hidden", "--distill-attention"):
        assert not same_weights(prune(*flags, extra, "1", output=extra.strip("-")), plain)


# --- how sparse can it get ----------------------------------------------------------------------

LADDER = "--criterion magnitude --levels 0.3 --levels 0.6 --levels 0.9 --begin 3 --every 2"


@pytest.mark.parametrize("begin", [0.0, 0.1, 0.3, 17])
def test_at_every_level_the_learning_rate_falls_to_zero(begin: float, tmp_path: Path) -> None:
    """So that every model that is judged was trained to its end."""
    import torch
    from transformers import Trainer

    from prunella.experiments import build
    from prunella.experiments.config import RunConfig
    from prunella.experiments.training import arguments

    config = RunConfig(max_drop=0.1, begin=begin, lr=1.0)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments(config, tmp_path, 1200))
    trainer.create_optimizer_and_scheduler(1200)
    rates = []
    for _ in range(1200):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    ends = [*build.schedule(config).resolve(1200).rests().values(), 1200]
    assert len(ends) == 6
    assert max(rates) == pytest.approx(1.0)
    for start, end in zip([ends[0] - 180, *ends], ends, strict=False):
        assert rates[end - 2] < 0.01  # the last step before the model is kept
        assert max(rates[start + 1 : end]) > 0.95


def test_the_sparsest_inside_the_limit_is_delivered(
    prune: Prune, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = prune(*LADDER.split(), "--max-drop", "0.26", "--regularize", "self")
    found = result_of(folder)["max_drop"]
    assert [point["level"] for point in found["curve"]] == [0.3, 0.6, 0.9]
    for point in found["curve"]:
        zeros = zeros_of(folder / "levels" / f"{point['level']:g}")
        assert zeros == round(point["level"] * PRUNABLE)
        assert point["parameters"]["prunable"]["nonzero"] == PRUNABLE - zeros
        assert point["drop"] == found["dense"] - point["holdout"]
        assert point["inside"] is (point["drop"] <= 0.26 + 1e-6)
    assert [point["step"] for point in found["curve"]] == [11, 20, STEPS]
    inside = [point["level"] for point in found["curve"] if point["inside"]]
    assert inside and found["delivered"] == inside[-1]
    assert same_weights(folder, folder / "levels" / f"{inside[-1]:g}")
    steps = {point["level"]: point["step"] for point in found["curve"]}
    assert result_of(folder)["kept_step"] == steps[inside[-1]]
    assert result_of(folder)["metrics"]["holdout"]["accuracy"] in [
        point["holdout"] for point in found["curve"] if point["level"] == inside[-1]
    ]
    assert result_of(folder)["baseline"]["metrics"]["holdout"]["accuracy"] == found["dense"]
    out = capfd.readouterr().out
    assert re.search(rf"^Delivered: {inside[-1]:.0%}, the sparsest", out, re.M)
    assert re.search(r"^ +90% +1,638 +\d\.\d{4} +[+-]\d\.\d{4}", out, re.M)


def test_no_model_inside_the_limit_is_an_answer_too(
    prune: Prune, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ("--criterion", "random", "--levels", "0.9", "--levels", "0.99", "--max-drop", "0")
    folder = prune(*flags, "--begin", "3", "--every", "2", "--lr", "3e-3")
    result = result_of(folder)
    assert result["max_drop"]["delivered"] is None
    assert len(result["max_drop"]["curve"]) == 2
    assert not list(folder.glob("*.safetensors")) and "metrics" not in result
    assert result["baseline"]["metrics"]["dev"]["accuracy"] > 0
    assert "No model lost 0 or less on the holdout" in capfd.readouterr().out


# --- the user's own data ------------------------------------------------------------------------


def test_a_table_of_ones_own(prune: Prune, tmp_path: Path, bert: Path) -> None:
    good, bad = ("good", "fine", "lovely"), ("bad", "poor", "awful")
    lines = [
        f"{n},word{n} {(good if n % 2 else bad)[n % 3]},{'yay' if n % 2 else 'nay'}"
        for n in range(200)
    ]
    table = tmp_path / "reviews.csv"
    table.write_text("id,review,verdict\n" + "\n".join(lines) + "\n")
    flags = ("--text-column", "review", "--label-column", "verdict", "--regularize", "smoothing")
    folder = prune(*flags, data=table, task="classification")
    assert zeros_of(folder) == round(0.8 * PRUNABLE)
    assert set(result_of(folder)["metrics"]["dev"]) == set(MEASURES[True])
    assert json.loads((folder / "config.json").read_text())["id2label"] == {"0": "nay", "1": "yay"}
    scores = tmp_path / "scores.jsonl"
    rows = [{"a": f"word{n}", "b": f"word{n % 7}", "score": n / 10} for n in range(200)]
    scores.write_text("\n".join(map(json.dumps, rows)) + "\n")
    columns = "--text-column a --pair-column b --label-column score --regularize self"
    folder = prune(*columns.split(), data=scores, task="regression", output="scores")
    assert set(result_of(folder)["metrics"]["dev"]) == {"pearson", "spearman"}


# --- bad input ----------------------------------------------------------------------------------

BAD = {
    "teacher missing": ("--regularize distill", ["--teacher", "distill"]),
    "teacher without distill": ("--teacher x", ["--teacher x", "--regularize distill"]),
    "snapshot without self": ("--snapshot-every 3", ["--snapshot-every", "--regularize self"]),
    "smoothing without": ("--smoothing 0.2", ["--smoothing 0.2", "--regularize smoothing"]),
    "twice": ("--regularize self --regularize self", ["self", "twice"]),
    "no such teacher": ("--regularize distill --teacher ./no", ["./no", "no folder"]),
    "smoothing one": ("--regularize smoothing --smoothing 1", ["--smoothing 1", "[0, 1)"]),
    "virtual one": (
        "--regularize virtual-teacher --virtual-teacher 1.5",
        ["--virtual-teacher 1.5", "(0, 1)"],
    ),
    "temperature": ("--regularize self --temperature 0", ["--temperature 0", "greater than 0"]),
    "weight": ("--regularize self --self-weight -1", ["--self-weight -1", "from 0 on"]),
    "fraction": ("--check-every 1.5", ["--check-every 1.5", "fraction of the run"]),
    "patience": ("--patience 0", ["--patience 0", "at least 1"]),
    "max drop": ("--max-drop -0.1", ["--max-drop -0.1", "0.01"]),
    "max drop of dense": ("--max-drop 0.1 --criterion dense", ["--max-drop", "dense"]),
    "max drop and best": ("--max-drop 0.1 --keep best", ["--max-drop", "--keep"]),
    "falling levels": ("--max-drop 0.1 --levels 0.8 --levels 0.5", ["0.8, 0.5", "must rise"]),
    "max drop and sparsity": ("--max-drop 0.1 --sparsity 0.9", ["--max-drop", "--sparsity"]),
    "task gradient alone": ("--score-gradient task", ["--score-gradient task", "--regularize"]),
    "temperature alone": ("--temperature 3", ["--temperature 3", "self and distill"]),
    "no snapshot at all": (
        "--regularize self --snapshot-every 30",
        ["--snapshot-every 30", "30 steps", "lower it"],
    ),
    "snapshots by two rules": (
        "--regularize self --snapshot best-holdout --snapshot-every 3",
        ["--snapshot-every", "best-holdout", "--check-every"],
    ),
    "levels alone": ("--levels 0.8", ["--levels", "--max-drop"]),
    "many levels": ("--max-drop 0.1 --max-steps 8", ["6 levels", "train longer"]),
    "no table": ("--task classification", ["train.tsv", "unknown column 'text'", "sentence"]),
    "no text": (
        "--regularize distill --teacher x --distill-data no.txt",
        ["no.txt", "No such file"],
    ),
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
    assert main(_arguments(bert, sst2, tmp_path / "out", "glue/sst2", *flags.split())) == 2
    named = flags_in(assert_refused(capfd, words))
    assert named or name in ("no table", "no text")  # of which the file is named
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--regularize smoothing", ["--regularize smoothing", "regression"]),
        ("--regularize self --self-weight adaptive", ["--self-weight adaptive", "regression"]),
    ],
)
def test_terms_of_classes_are_refused_for_regression(
    flags: str, words: list[str], bert: Path, stsb: Path, tmp_path: Path, capfd: Any
) -> None:
    assert main(_arguments(bert, stsb, tmp_path / "out", "glue/stsb", *flags.split())) == 2
    assert_refused(capfd, words)


def test_teachers_that_do_not_fit_are_refused(
    bert: Path, gpt2: Path, sst2: Path, dense: Path, tmp_path: Path, capfd: Any
) -> None:
    other = shutil.copytree(dense, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    named = shutil.copytree(dense, tmp_path / "named")
    config = json.loads((named / "config.json").read_text())
    config["id2label"] = {"0": "LABEL_0", "1": "LABEL_1"}
    (named / "config.json").write_text(json.dumps(config))
    headless = shutil.copytree(dense, tmp_path / "headless")
    weights = weights_of(headless)
    kept = {name: w for name, w in weights.items() if "classifier" not in name}
    save_file(kept, headless / "model.safetensors", {"format": "pt"})
    for teacher, words in (
        (other, ["another vocabulary"]),
        (named, ["LABEL_0, LABEL_1", "negative, positive", "id2label"]),
        (headless, ["lacks classifier", "not fine-tuned", "--criterion dense"]),
    ):
        flags = ("--regularize", "distill", "--teacher", str(teacher))
        assert main(_arguments(bert, sst2, tmp_path / "out", "glue/sst2", *flags)) == 2
        assert_refused(capfd, words)
