"""A Trainer whose model is pruned already: train() again, resumed, with fresh models."""

import logging

import pytest
import torch
import transformers
from test_hf import METHODS, bert, state_of, trainer
from transformers import BertForSequenceClassification, TrainerCallback

from prunella import Cubic, UsageError
from prunella.hf import PruningCallback, Trainer

every_method = pytest.mark.parametrize("method", [m for m in METHODS if m != "l0-outcome"])


def pruning(method, final=0.75, **options):
    return PruningCallback(METHODS[method](), Cubic(final, every=4), **options)


class Look(TrainerCallback):
    """The least share of zeros that a model has after any step."""

    def __init__(self, callback):
        self.callback = callback
        self.sparsities = []

    def on_step_end(self, args, state, control, model=None, **_):
        saved = model.state_dict()
        found = [saved[name] == 0 for name in self.callback.pruner.prunable]
        zeros, total = (sum(map(f, found)) for f in (torch.Tensor.sum, torch.Tensor.numel))
        self.sparsities.append(round(float(zeros / total), 4))


@every_method
@pytest.mark.parametrize("kind", [transformers.Trainer, Trainer], ids=["theirs", "ours"])
def test_training_twice(tmp_path, method, kind, caplog):
    callback = pruning(method)
    run = trainer(tmp_path, callback, kind=kind)
    run.train()
    look = Look(callback)
    run.add_callback(look)
    run.args.max_steps = 60
    with caplog.at_level(logging.WARNING, "prunella"):
        run.train()
    assert len(look.sparsities) == 60 and set(look.sparsities) == {0.75}
    (record,) = caplog.records
    assert "75.00% of the prunable weights are zero already" in record.getMessage()


def test_the_second_training_is_resumed_to_the_bit(tmp_path):
    trainer(tmp_path / "first", pruning("free", 0.5), save_strategy="steps", save_steps=40).train()

    def second(folder):
        model = BertForSequenceClassification.from_pretrained(tmp_path / "first" / "checkpoint-40")
        return trainer(folder, pruning("free"), model=model, save_strategy="steps", save_steps=20)

    whole, resumed = second(tmp_path / "second"), second(tmp_path / "third")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "second" / "checkpoint-20"))
    assert all(torch.equal(t, state_of(resumed.model)[n]) for n, t in state_of(whole.model).items())


def test_a_fresh_model_inherits_nothing(tmp_path):
    """As the trials of a hyper-parameter search get one each, by ``model_init``."""
    callback = pruning("held")
    look = Look(callback)
    run = trainer(tmp_path, callback, look)
    first = run.train()
    run.model_init = bert
    run.train()
    assert look.sparsities[:40] == look.sparsities[40:] and look.sparsities[0] == 0
    assert first.global_step == 40


def test_the_best_of_a_second_training_is_as_sparse(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps"}
    options |= {"save_steps": 10, "load_best_model_at_end": True}
    callback = pruning("movement")
    run = trainer(tmp_path, callback, **options)
    run.train()
    zeros = {n: run.model.get_parameter(n) == 0 for n in callback.pruner.prunable}
    run.train()
    assert all(torch.equal(run.model.get_parameter(n) == 0, zero) for n, zero in zeros.items())


def test_a_second_schedule_that_ends_below_is_refused(tmp_path):
    run = trainer(tmp_path, pruning("held"))
    run.train()
    other = trainer(tmp_path, pruning("held", 0.5), model=run.model)
    with pytest.raises(UsageError, match=r"0\.7500 of the weights.*ends at 0\.5.*masks='afresh'"):
        other.train()
    afresh = pruning("held", 0.5, masks="afresh")
    trainer(tmp_path, afresh, model=run.model).train()
    assert afresh.pruner.sparsity == 0.5
