"""An ordinary Transformers Trainer prunes with one callback."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    TrainerCallback,
    TrainingArguments,
)

from prunella import L0, PINS, Cubic, Diverged, Movement, SoftMovement, UsageError
from prunella.hf import PruningCallback, Trainer


def rows(count=64):
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": ids, "labels": int(ids.sum()) % 2}
        for ids in torch.randint(5, 90, (count, 12), generator=generator)
    ]


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=99,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )


def gpt2():
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=99,
            n_positions=16,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_inner=32,
            pad_token_id=0,
        )
    )


def trainer(folder, *callbacks, kind=transformers.Trainer, lr=1e-3, model=None, **options):
    model = model or bert()
    arguments = TrainingArguments(
        str(folder),
        max_steps=40,
        per_device_train_batch_size=8,
        learning_rate=lr,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        logging_steps=10,
        **{"save_strategy": "no"} | options,
    )
    return kind(
        model, arguments, train_dataset=rows(), eval_dataset=rows(16), callbacks=list(callbacks)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"bf16": True, "use_cpu": not torch.cuda.is_available()},
        {"optim": "adamw_torch"},
        {"eval_strategy": "steps", "eval_steps": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("criterion", [PINS(), PINS.released()], ids=["held", "free"])
def test_an_unmodified_trainer_prunes(tmp_path, options, criterion):
    callback = PruningCallback(criterion, Cubic(0.75))
    run = trainer(tmp_path, callback, **options)
    run.train()
    pruner = callback.pruner
    assert pruner.step == run.state.global_step == 40
    assert (pruner.schedule.begin, pruner.schedule.end) == (4, 28)
    total = 2 * (4 * 16 * 16 + 2 * 16 * 32)
    zeros = sum(int((run.model.get_parameter(n) == 0).sum()) for n in pruner.masks)
    assert zeros == round(0.75 * total) == pruner.sparsity * total
    logged = [log["sparsity"] for log in run.state.log_history if "loss" in log]
    assert logged[0] < logged[1] < logged[-1] == 0.75


def test_evaluations_and_checkpoints_see_the_pruned_model(tmp_path):
    callback = PruningCallback(PINS.released(), Cubic(0.75, after="reselect"))
    options = {"eval_strategy": "steps", "eval_steps": 7}
    run = trainer(tmp_path, callback, save_strategy="steps", save_steps=15, **options)
    evaluated = []

    def check(module, *_):
        if not module.training:
            pruner = callback.pruner
            evaluated.append(pruner.sparsity)
            for name, mask in pruner.masks.items():
                assert not module.get_parameter(name)[~mask].any()

    run.model.register_forward_hook(check)
    run.train()
    assert sorted(evaluated) == evaluated
    assert evaluated[0] == 0 < evaluated[-1] == 0.75
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-15")
    zeros = sum(int((saved.get_parameter(n) == 0).sum()) for n in callback.pruner.masks)
    assert zeros == round(callback.pruner.schedule.sparsity(10) * 4096)


MODELS = {"bert": bert, "gpt2": gpt2}
METHODS = {
    "held": lambda: PINS(window=4),
    "free": lambda: PINS.released(window=4),
    "movement": lambda: Movement(),
    "soft-movement": lambda: SoftMovement(target=0.75),
    "l0": lambda: L0(target=0.75),
    "l0-outcome": lambda: L0(),
}


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("kind", "stop"), [("bert", 8), ("bert", 20), ("bert", 32), ("gpt2", 20)])
def test_resuming_equals_the_uninterrupted_run(tmp_path, method, stop, kind):
    def make(folder):
        callback = PruningCallback(METHODS[method](), Cubic(0.75, every=4))
        saving = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": 1}
        return trainer(folder, callback, model=MODELS[kind](), **saving), callback

    whole, callback = make(tmp_path / "whole")
    whole.train()

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == stop + 2:
                raise KeyboardInterrupt

    killed, _ = make(tmp_path / "killed")
    killed.add_callback(Kill())
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed, other = make(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 40
    assert all(torch.equal(t, state_of(resumed.model)[n]) for n, t in state_of(whole.model).items())
    masks = callback.pruner.masks
    assert all(torch.equal(mask, masks[n]) for n, mask in other.pruner.masks.items())
    for name, mask in masks.items():
        assert not resumed.model.get_parameter(name)[~mask].any()


def test_a_checkpoint_without_the_pruner_is_refused(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=20).train()
    run = trainer(tmp_path, PruningCallback(PINS(), Cubic(0.5)))
    with pytest.raises(UsageError, match="resumes at step 20, but the checkpoint holds no pruner"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))


def test_an_optimizers_state_brings_the_pruners_along(tmp_path):
    """Loading it in mid-run takes both back, and a plain run may load it too."""
    seen = {}

    class Rewind(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **_):
            if state.global_step == 20:
                seen["state"] = copy.deepcopy(optimizer.state_dict())
            if state.global_step == 24:
                optimizer.load_state_dict(seen["state"])
                seen["step"] = callback.pruner.step

    callback = PruningCallback(Movement(), Cubic(0.75))
    run = trainer(tmp_path, callback, Rewind())
    run.train()
    assert seen["step"] == 20
    assert callback.pruner.step == 36
    plain = torch.optim.AdamW(run.create_optimizer().param_groups)
    plain.load_state_dict(seen["state"])


@pytest.mark.parametrize("criterion", [PINS(), Movement()], ids=["held", "dormant"])
@pytest.mark.parametrize("after", ["freeze", "reselect"])
def test_the_best_model_is_one_of_the_final_sparsity(tmp_path, after, criterion):
    """Evaluations of the half-pruned model, better by construction here, do not count."""
    scores = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.4, 0.2])

    callback = PruningCallback(criterion, Cubic(0.75, after=after))
    run = trainer(
        tmp_path,
        callback,
        save_strategy="steps",
        save_steps=5,
        eval_strategy="steps",
        eval_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        save_total_limit=1,
    )
    run.compute_metrics = lambda _: {"score": next(scores)}
    run.train()
    best = 35  # of those at the final sparsity; the ramp ends at step 28
    assert run.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    saved = BertForSequenceClassification.from_pretrained(run.state.best_model_checkpoint)
    assert all(torch.equal(t, state_of(saved)[n]) for n, t in state_of(run.model).items())
    zeros = sum(int((run.model.get_parameter(n) == 0).sum()) for n in callback.pruner.masks)
    assert zeros == round(0.75 * 4096)
    assert callback.pruner.sparsity == 0.75


def test_settings_that_leave_the_masks_out_of_checkpoints_are_refused(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps"}
    options |= {"save_steps": 10, "load_best_model_at_end": True, "save_only_model": True}
    with pytest.raises(UsageError, match="load_best_model_at_end=True needs the best model's"):
        trainer(tmp_path, PruningCallback(PINS(), Cubic(0.5)), **options).train()


def test_a_trainer_that_was_interrupted_trains_again(tmp_path):
    """Its optimizer is the one that the earlier pruner rode on."""

    class Stop(TrainerCallback):
        left = 1

        def on_step_end(self, args, state, control, **_):
            if state.global_step == 22 and self.left:
                self.left -= 1
                raise KeyboardInterrupt

    whole = trainer(tmp_path / "whole", PruningCallback(L0(target=0.75), Cubic(0.75)))
    whole.train()
    callback = PruningCallback(L0(target=0.75), Cubic(0.75))
    saving = {"save_strategy": "steps", "save_steps": 10}
    run = trainer(tmp_path / "out", callback, Stop(), **saving)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.train(resume_from_checkpoint=True)
    assert all(torch.equal(t, state_of(run.model)[n]) for n, t in state_of(whole.model).items())
    run.train()
    assert callback.pruner.step == 40
    assert callback.pruner.sparsity == 0.75


def test_a_resumption_that_is_refused_leaves_no_pruner_behind(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 20}
    trainer(tmp_path, PruningCallback(PINS(), Cubic(0.75)), **saving).train()
    run = trainer(tmp_path, PruningCallback(Movement(), Cubic(0.75)), **saving)
    with pytest.raises(UsageError, match="saved with criterion PINS"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert not run.optimizer.optimizer._optimizer_step_pre_hooks
    run.train()


class SkippedByAScaler(TrainerCallback):
    """Some steps overflow, as the first of fp16 do; the Trainer counts them all the same."""

    def on_step_begin(self, args, state, control, optimizer=None, **_):
        optimizer.optimizer.found_inf = torch.tensor(float(state.global_step in (0, 1)))


def test_steps_that_a_scaler_skips_can_be_resumed_over(tmp_path):
    def make():
        callback = PruningCallback(Movement(), Cubic(0.75))
        saving = {"save_strategy": "steps", "save_steps": 20}
        return trainer(tmp_path, callback, SkippedByAScaler(), **saving), callback

    run, callback = make()
    run.train()
    assert (run.state.global_step, callback.pruner.step) == (40, 38)
    resumed, other = make()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert other.pruner.step == 38
    assert all(torch.equal(t, state_of(run.model)[n]) for n, t in state_of(resumed.model).items())


def test_a_schedule_that_did_not_come_to_its_end_is_told(tmp_path):
    callback = PruningCallback(Movement(), Cubic(0.75, end=1.0))
    run = trainer(tmp_path, callback, SkippedByAScaler())
    with pytest.warns(UserWarning, match="ended after 38 steps that count, before the schedule's"):
        run.train()


def test_a_best_model_that_is_gone_is_not_the_end(tmp_path):
    class Remove(TrainerCallback):
        def on_save(self, args, state, control, **_):
            for file in tmp_path.rglob("optimizer.pt"):
                file.unlink()

    options = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps"}
    options |= {"save_steps": 10, "load_best_model_at_end": True}
    callback = PruningCallback(PINS(), Cubic(0.75))
    run = trainer(tmp_path, callback, Remove(), **options)
    run.train()
    assert not run.optimizer.optimizer._optimizer_step_pre_hooks
    assert callback.pruner.sparsity == 0.75


def test_a_dense_run_keeps_its_best(tmp_path):
    scores = iter([0.9, 0.5, 0.4, 0.3])
    options = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps"}
    options |= {"save_steps": 10, "load_best_model_at_end": True}
    options |= {"metric_for_best_model": "score", "greater_is_better": True}
    run = trainer(tmp_path, PruningCallback(Movement(), Cubic(0.0)), **options)
    run.compute_metrics = lambda _: {"score": next(scores)}
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-10")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_script_in_the_documentation(tmp_path, request, sst2, kind):
    script = Path(__file__).resolve().parents[1] / "docs" / "trainer.py"
    text = script.read_text().replace(
        "max_steps=1000, save_steps=100", "max_steps=60, save_steps=20, use_cpu=True"
    )
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, str(tmp_path / "script.py"), str(request.getfixturevalue(kind))]
    command += [str(sst2), str(tmp_path / "out")]
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1"}
    printed, models = [], []
    for _ in range(2):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "90.00%" in done.stdout
        printed.append(re.search(r"'eval_loss': ([^,]+)", done.stdout)[1])
        models.append((tmp_path / "out" / "model.safetensors").read_bytes())
        # As where it was killed while it wrote the last checkpoint: the one before is whole.
        (tmp_path / "out" / "checkpoint-60" / "trainer_state.json").unlink()
    assert printed[0] == printed[1]
    assert models[0] == models[1]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    run = trainer(tmp_path, kind=Trainer, lr=1e30, max_grad_norm=0.0)
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step \d+"):
        run.train()
    assert run.state.global_step < 40
