"""What a run is made of, as chosen by flags: parameters, masks to start from, rows, metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from corpora import CORPORA
from families import save
from folders import assert_refused, predictions_of, result_of, same_weights, weights_of
from transformers import AutoModelForCausalLM

from prunella import tasks
from prunella.cli import main
from prunella.experiments import models

RAMP = "--batch-size 8 --max-steps 12 --begin 2 --end 8 --every 2 --check-every 4"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data: model/FAMILY, data/TASK."""
    root = tmp_path_factory.mktemp("root")
    for family in ("bert", "gpt2", "t5"):
        save(family, root / "model" / family)
    for task in ("classification", "text2text", "lm/causal"):
        (root / "data" / task).mkdir(parents=True)
        CORPORA[task](root / "data" / task)
    return root


Start = Callable[..., int]


@pytest.fixture
def start(root: Path, tmp_path: Path) -> Start:
    """Runs the command into the folder named."""

    def start(output: str, *flags: str, model: str = "bert", task: str = "classification") -> int:
        given = ["--task", task, "--data", str(root / "data" / task), *RAMP.split()]
        if model:
            given += ["--model", str(root / "model" / model)]
        return main(["prune", *given, "--output", str(tmp_path / output), *flags])

    return start


def zeros(folder: Path) -> dict[str, int]:
    """Of the matrices, those with zeros, and how many; without rows of padding."""
    found = {
        name: int((weight == 0).sum())
        for name, weight in weights_of(folder).items()
        if weight.ndim == 2
    }
    return {name: count for name, count in found.items() if count > 32}


# --- what is pruned -----------------------------------------------------------------------------


def test_patterns_choose(start: Start, tmp_path: Path) -> None:
    flags = ["--criterion", "magnitude", "--prune", "encoder.*attention*", "--prune", "layer.1"]
    assert start("out", *flags, "--sparsity", "0.5") == 0
    pruned = zeros(tmp_path / "out")
    assert len(pruned) == 4 + 6
    assert all("attention" in name or ".layer.1." in name for name in pruned)
    total = 8 * 32 * 32 + 2 * 32 * 64
    assert sum(pruned.values()) == total // 2
    found = result_of(tmp_path / "out")
    assert found["parameters"]["prunable"] == {"nonzero": total // 2, "total": total}
    assert found["config"]["prune"] == ["encoder.*attention*", "layer.1"]


def test_patterns_that_match_nothing(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    assert start("out", "--prune", "encoder.*", "--prune", "encodr.*", "--prune", "atention") == 2
    assert_refused(capfd, ["'encodr.*'", "'atention'", "match no matrix", "nearest"])


def test_tied_tables_are_pruned_once_and_stay_tied(start: Start, tmp_path: Path) -> None:
    flags = ["--criterion", "magnitude", "--include-embeddings", "--sparsity", "0.5"]
    assert start("out", *flags, model="gpt2", task="lm/causal") == 0
    found = result_of(tmp_path / "out")
    scopes = found["parameters"]
    assert scopes["prunable"]["nonzero"] == round(0.5 * scopes["prunable"]["total"])
    names = [name for name in weights_of(tmp_path / "out") if "wte" in name or "lm_head" in name]
    assert len(names) == 1
    assert "wte" in names[0]


def test_info_shows_what_would_be_pruned(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = str(root / "model" / "bert")
    assert (
        main(["info", model, "--prune", "layer.0.attention", "--json", str(root / "i.json")]) == 0
    )
    capfd.readouterr()
    chosen = [
        m["name"] for m in json.loads((root / "i.json").read_text())["matrices"] if m["prunable"]
    ]
    assert len(chosen) == 4
    assert main(["info", model, "--prune", "nowhere"]) == 2
    assert_refused(capfd, ["'nowhere'", "match no matrix"])


# --- from where ---------------------------------------------------------------------------------


def test_masks_are_kept_and_continued(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("first", "--criterion", "magnitude", "--sparsity", "0.5") == 0
    first = str(tmp_path / "first")
    flags = ["--masks-from", first, "--criterion", "movement"]
    assert start("kept", *flags, "--sparsity", "0.5", model="") == 0
    assert start("more", *flags, "--sparsity", "0.7", model="") == 0
    before, kept, more = (weights_of(tmp_path / name) for name in ("first", "kept", "more"))
    moved = False
    for name in zeros(tmp_path / "first"):
        assert np.array_equal(before[name] == 0, kept[name] == 0)
        assert not (more[name][before[name] == 0]).any()
        moved |= not np.array_equal(before[name], kept[name])
    assert moved
    total = result_of(tmp_path / "more")["parameters"]["prunable"]
    assert total["nonzero"] == total["total"] - round(0.7 * total["total"])
    capfd.readouterr()
    assert start("less", *flags, "--sparsity", "0.3", model="") == 2
    assert_refused(capfd, ["0.3", "0.5"])
    assert start("none", "--masks-from", str(tmp_path / "first" / "nowhere"), model="") == 2
    assert_refused(capfd, ["nowhere"])


def test_a_model_that_shows_that_it_was_pruned_stays_so(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("first", "--criterion", "magnitude", "--sparsity", "0.5") == 0
    flags = ["--model", str(tmp_path / "first"), "--criterion", "magnitude", "--sparsity"]
    capfd.readouterr()
    assert start("more", *flags, "0.7", model="") == 0
    said = "(50.0% of the prunable weights are zero to begin with, and {})"
    assert said.format("stay so") in " ".join(capfd.readouterr().out.split())
    before, more = (weights_of(tmp_path / name) for name in ("first", "more"))
    for name in zeros(tmp_path / "first"):
        assert not (more[name][before[name] == 0]).any()
    assert start("less", *flags, "0.3", model="") == 2
    assert_refused(capfd, ["0.3", "0.5", "--masks-from afresh"])
    assert start("afresh", *flags, "0.3", "--masks-from", "afresh", model="") == 0
    assert said.format("may come back") in " ".join(capfd.readouterr().out.split())
    total = result_of(tmp_path / "afresh")["parameters"]["prunable"]
    assert total["nonzero"] == total["total"] - round(0.3 * total["total"])


def test_masks_of_one_model_on_the_weights_of_another(
    start: Start, root: Path, tmp_path: Path
) -> None:
    """As lottery tickets are rewound."""
    assert start("first", "--criterion", "random", "--sparsity", "0.5") == 0
    flags = ["--masks-from", str(tmp_path / "first"), "--sparsity", "0.5"]
    assert start("out", *flags, "--criterion", "magnitude", "--lr", "1e-30") == 0
    before, after = weights_of(tmp_path / "first"), weights_of(tmp_path / "out")
    pretrained = weights_of(root / "model" / "bert")
    for name in zeros(tmp_path / "first"):
        kept = before[name] != 0
        assert np.array_equal(after[name], np.where(kept, pretrained[name], 0))


def test_a_backbone_of_another_name_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    """Transformers calls Llama's otherwise where it answers questions, and would make one up."""
    save("llama", tmp_path)
    model, _ = models.load(str(tmp_path), tasks.get("qa/squad"))
    known = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    found = {name.replace("transformer.", "model."): p for name, p in model.named_parameters()}
    assert len(found.keys() & known.keys()) == len(known) - 1
    assert all(torch.equal(found[name], known[name]) for name in found.keys() & known.keys())


# --- on which rows ------------------------------------------------------------------------------


def test_a_sample_of_train_is_the_same_for_every_seed(start: Start, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        flags = ["--criterion", "dense", "--max-train-samples", "20", "--seed", seed]
        assert start(seed, *flags) == 0
    one, other = (result_of(tmp_path / seed)["data"] for seed in ("0", "1"))
    assert one == other
    assert (one["train"]["rows"], one["holdout"]["rows"], one["dev"]["rows"]) == (20, 6, 12)


@pytest.fixture
def long(tmp_path: Path) -> dict[str, Path]:
    """More rows than a stream's holdout has."""
    pairs, text = tmp_path / "pairs", tmp_path / "text"
    for folder in (pairs, text):
        folder.mkdir()
    rows = [{"source": f"the city {n}", "target": f"red river {n}"} for n in range(1200)]
    for part, count in (("train", 1200), ("dev", 6)):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows[:count])
        (pairs / f"{part}.jsonl").write_text(lines)
        words = "".join(f"the king won a city {n} times\n\n" for n in range(count))
        (text / f"{part}.txt").write_text(words)
    return {"text2text": pairs, "lm/causal": text}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of a stream read in part
@pytest.mark.parametrize(("task", "model"), [("text2text", "t5"), ("lm/causal", "gpt2")])
def test_streams(
    task: str,
    model: str,
    start: Start,
    long: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers

    flags = ["--criterion", "magnitude", "--streaming", "--data", str(long[task])]
    flags += ["--max-new-tokens", "1"] * (task == "text2text")
    assert start("whole", *flags, model=model, task=task) == 0
    data = result_of(tmp_path / "whole")["data"]
    assert data["train"]["rows"] is None
    assert data["holdout"]["rows"] == 1000
    step = transformers.Trainer.training_step

    def breaks_off(self: transformers.Trainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 9:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, "training_step", breaks_off)
        assert start("resumed", *flags, model=model, task=task) == 130
    assert start("resumed", *flags, "--resume", model=model, task=task) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize(("task", "model"), [("text2text", "t5"), ("lm/causal", "gpt2")])
def test_streams_that_are_too_short(
    task: str, model: str, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("out", "--criterion", "dense", "--streaming", model=model, task=task) == 2
    assert_refused(capfd, ["1000 rows of a stream", "--streaming"])


def test_a_bad_row_of_a_stream(
    start: Start, long: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (long["text2text"] / "train.jsonl").open("a") as file:
        file.write('{"source": "the city", "target": " "}\n')
    flags = ["--criterion", "dense", "--streaming", "--data", str(long["text2text"])]
    assert start("out", *flags, "--max-new-tokens", "1", model="t5", task="text2text") == 2
    assert "train.jsonl:1201: column 'target' holds ' '" in capfd.readouterr().err


def test_a_sample_of_running_text_is_its_beginning(tmp_path: Path) -> None:
    from prunella.experiments.config import RunConfig
    from prunella.experiments.data import Data, task
    from prunella.tasks import Reader

    (tmp_path / "text.txt").write_text("".join(f"{n}\n" for n in range(100)))
    config = RunConfig(task="lm/causal", data=str(tmp_path / "text.txt"), max_train_samples=5)
    known = Reader(families.tokenizer("llama"), max_length=64)
    read = Data.read(config, task(config), known)
    assert list(read.splits["train"].rows["text"]) == ["0", "1", "2", "3", "4"]
    assert list(read.splits["holdout"].rows["text"]) == [str(n) for n in range(81, 90)]


# --- judged by what -----------------------------------------------------------------------------


def test_perplexity_is_better_when_lower(start: Start, tmp_path: Path) -> None:
    flags = "--criterion magnitude --sparsity 0.5 --keep best --end 0.3 --lr 1e-2 --check-every 2"
    assert start("out", *flags.split(), model="gpt2", task="lm/causal") == 0
    found = result_of(tmp_path / "out")
    assert found["task"]["lower_is_better"]
    assert found["kept_step"] > 4  # it learns for as long as it is trained


def test_a_drop_in_perplexity_is_a_rise(root: Path, tmp_path: Path) -> None:
    flags = "--task lm/causal --criterion random --max-drop 5 --levels 0.3 --levels 0.9 --lr 1e-2"
    given = {"--model": "model/gpt2", "--data": "data/lm/causal"}
    where = [part for flag, name in given.items() for part in (flag, str(root / name))]
    steps = "--max-steps 24 --begin 4 --every 2 --batch-size 8"
    output = ["--output", str(tmp_path / "out")]
    assert main(["prune", *flags.split(), *where, *steps.split(), *output]) == 0
    found = result_of(tmp_path / "out")["max_drop"]
    for point in found["curve"]:
        assert point["drop"] == point["holdout"] - found["dense"]
        assert point["inside"] is (point["drop"] <= 5)


def test_metrics_can_be_computed_from_the_predictions(start: Start, tmp_path: Path) -> None:
    flags = ["--criterion", "dense", "--metric", "bleu", "--max-new-tokens", "5", "--beams", "2"]
    assert start("out", *flags, model="t5", task="text2text") == 0
    found, records = result_of(tmp_path / "out"), predictions_of(tmp_path / "out")
    assert tasks.get("d2t/e2e").score(records)["bleu"] == found["metrics"]["dev"]["bleu"]
    decoding = {"beams": 2, "max_new_tokens": 5, "length_penalty": 1.0, "no_repeat_ngram": 0}
    assert found["task"]["decoding"] == decoding
    assert found["task"]["metric"] == "bleu"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--stride 3", ["--stride does not apply", "classification"]),
        ("--beams 3", ["--beams does not apply", "classification"]),
        ("--metric blue", ["unknown --metric 'blue'", "accuracy"]),
        ("--source-column a", ["--source-column is for text2text"]),
        ("--scheme iob1", ["--scheme is for ner/columns"]),
        ("--streaming --max-steps 3", ["--streaming is for text2text", "lm/causal"]),
        ("--label-separator ;", ["--label-separator is for multilabel"]),
        ("--class-weights balanced --regularize smoothing", ["--class-weights", "smoothing"]),
        ("--task lm/causal --class-weights balanced", ["--class-weights is for tasks of one"]),
        ("--task d2t/e2e --skip-bad-rows", ["--skip-bad-rows is for files of your own"]),
        ("--positive-class maybe", ["--positive-class maybe", "unknown class"]),
        ("--encoding utf-99", ["--encoding utf-99 is none that Python knows"]),
        ("--separator ab", ["--separator 'ab' must be one character"]),
        ("--task clasification", ["unknown --task 'clasification'", "classification"]),
        ("--max-train-samples 0", ["--max-train-samples 0"]),
        ("--no-answer-threshold nan", ["--no-answer-threshold nan", "finite"]),
        ("--task qa/squad --no-answer-threshold 1", ["does not apply", "qa/squad"]),
        ("--task lm/masked --stride 8", ["stride of 8", "lm/masked"]),
        ("--masks-from x --criterion dense", ["--masks-from", "dense prunes nothing"]),
        ("--include-embeddings --freeze-embeddings", ["--include-embeddings", "leave out"]),
    ],
)
def test_settings_that_do_not_fit(
    flags: str, words: list[str], start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("out", *flags.split()) == 2
    assert_refused(capfd, words)


@pytest.mark.parametrize(
    ("model", "task", "words"),
    [
        ("bert", "text2text", ["bert", "encoder"]),
        ("bert", "lm/causal", ["bert", "lm/masked"]),
        ("t5", "lm/causal", ["t5"]),
        ("gpt2", "lm/masked", ["gpt2"]),
    ],
)
def test_tasks_that_do_not_fit_the_model(
    model: str,
    task: str,
    words: list[str],
    start: Start,
    capfd: pytest.CaptureFixture[str],
    root: Path,
    tmp_path: Path,
) -> None:
    data = str(root / "data" / ("lm/causal" if "lm" in task else task))
    assert start("out", "--data", data, model=model, task=task) == 2
    assert_refused(capfd, words)
    assert not (tmp_path / "out").exists()


def test_classes_that_are_weighted_and_chosen_on(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{word} word{n},{word}" for n in range(60) for word in ("good", "bad")[: 1 + (n < 9)]]
    (tmp_path / "few.csv").write_text("\n".join(["text,label", *rows, ",good"]))
    data = ["--data", str(tmp_path / "few.csv"), "--skip-bad-rows"]
    flags = ["--class-weights", "balanced", "--metric", "macro_f1", "--positive-class", "bad"]
    flags += ["--keep", "best"]
    assert start("out", *data, *flags, "--criterion", "magnitude") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "F1 is of the class bad; the loss weights rows by their class" in said
    assert "train sample balanced_accuracy" in said and "dev, by class precision" in said
    found = result_of(tmp_path / "out")
    assert (found["task"]["positive"], found["task"]["metric"]) == ("bad", "macro_f1")
    weights = found["task"]["class_weights"]
    assert len(weights) == 2 and weights[0] < 1 < weights[1]  # good, bad
    assert found["metrics_of"]["train"] == found["metrics_of"]["holdout"]
    f1 = [figures["f1"] for figures in found["by_class"]["dev"].values()]
    assert found["metrics"]["dev"]["macro_f1"] == pytest.approx(sum(f1) / 2)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["good", "bad"]
