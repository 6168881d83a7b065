"""Whole runs, small: every model family, every task and every criterion through the command.

Each run has self-regularization and distillation on; what it had left on the way is resumed, and
must then equal the run in one go; its sparsity is exact in the file and in what is loaded from it;
what runs sparse says what runs dense says.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from corpora import CORPORA
from families import FAMILIES, WORDS, save
from folders import predictions_of, result_of, same_weights
from transformers import AutoModelForMaskedLM

import prunella
from prunella.cli import main
from prunella.criteria import CRITERIA
from prunella.prunable import find_prunable

SPARSITY, STEPS, CHECKPOINT, COPIED = 0.6, 20, 12, 15
RAMP = f"--begin 11 --end 16 --every 2 --check-every {CHECKPOINT} --snapshot-every 4"

# --- what a run is given ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders by name, each filled once: data/TASK, model/FAMILY, teacher/FAMILY/TASK."""
    root = tmp_path_factory.mktemp("made")

    def made(name: str) -> Path:
        folder = root / name
        if folder.exists():
            return folder
        kind, _, rest = name.partition("/")
        if kind == "teacher":
            model, _, task = rest.partition("/")
            flags = ["--criterion", "dense", "--max-steps", "2", "--output", str(folder)]
            assert main([*_given(made, model, task), *flags]) == 0
            return folder
        folder.mkdir(parents=True)
        if kind == "data":
            CORPORA[rest](folder)
        else:
            save(rest, folder)
        return folder

    return made


def _given(made: Callable[[str], Path], model: str, task: str) -> list[str]:
    where = {"--model": made(f"model/{model}"), "--data": made(f"data/{task}"), "--task": task}
    return ["prune", "--batch-size", "8", *(str(part) for pair in where.items() for part in pair)]


# --- what must hold of it -----------------------------------------------------------------------

Live = Callable[..., None]


@pytest.fixture
def live(made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    def live(model: str, task: str, criterion: str) -> None:
        output, whole, halfway = (tmp_path / name for name in ("out", "whole", "out.halfway"))
        flags = [*_given(made, model, task), *RAMP.split(), "--criterion", criterion]
        flags += ["--sparsity", str(SPARSITY), "--max-steps", str(STEPS)]
        flags += ["--regularize", "self", "--regularize", "distill"]
        flags += ["--teacher", str(made(f"teacher/{model}/{task}")), "--output", str(output)]
        partial = tmp_path / "out.partial"
        steps: list[int] = []
        train = transformers.Trainer.training_step

        def watched(self: transformers.Trainer, *args: Any, **kwargs: Any) -> Any:
            steps.append(self.state.global_step)
            if self.state.global_step == COPIED and not halfway.exists():
                shutil.copytree(partial, halfway)
            return train(self, *args, **kwargs)

        monkeypatch.setattr(transformers.Trainer, "training_step", watched)
        assert main(flags) == 0
        output.rename(whole)
        halfway.rename(partial)
        steps.clear()
        assert main([*flags, "--resume"]) == 0
        assert steps == list(range(CHECKPOINT, STEPS))
        assert same_weights(whole, output)
        assert predictions_of(whole) == predictions_of(output)
        assert result_of(whole)["metrics"] == result_of(output)["metrics"]
        dense = prunella.load(whole, "dense")
        _check_sparsity(whole, dense)
        _check_engine(whole, dense)

    return live


def _check_sparsity(folder: Path, model: transformers.PreTrainedModel) -> None:
    prunable, _ = find_prunable(model)
    weights = [p.parameter for p in prunable.values()]
    total = sum(weight.numel() for weight in weights)
    kept = sum(int(weight.count_nonzero()) for weight in weights)
    counted = result_of(folder)["parameters"]["prunable"]
    assert kept == total - round(SPARSITY * total)
    assert counted == {"nonzero": kept, "total": total}


def _check_engine(folder: Path, dense: transformers.PreTrainedModel) -> None:
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = dict(reader(" ".join(WORDS[3:15]), return_tensors="pt"))
    if dense.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    sparse = prunella.load(folder, "sparse")
    with torch.inference_mode():
        ours, theirs = (model(**inputs).to_tuple()[0] for model in (sparse, dense))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


# --- the matrix ---------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["pins", "movement", "l0", "magnitude"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "bert"])  # see below
def test_model_families(family: str, criterion: str, live: Live) -> None:
    reads = FAMILIES[family].auto is AutoModelForMaskedLM or family == "xlnet"
    live(family, "classification" if reads else "text2text", criterion)


MODELS = {
    "d2t/e2e": "gpt2",
    "d2t/webnlg": "t5",
    "d2t/dart": "bart",
    "text2text": "llama",
    "lm/causal": "opt",
    "chat": "qwen2",
}


@pytest.mark.parametrize("task", [name for name in CORPORA if name != "classification"])
def test_tasks(task: str, live: Live) -> None:
    live(MODELS.get(task, "bert"), task, "pins")


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_criteria(criterion: str, live: Live) -> None:
    live("bert", "classification", criterion)
