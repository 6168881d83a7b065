"""An ordinary Transformers Trainer prunes with one callback."""

import pytest
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from prunella import PINS, Cubic, Diverged, UsageError
from prunella.hf import PruningCallback, Trainer


def rows(count=64):
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": ids, "labels": int(ids.sum()) % 2}
        for ids in torch.randint(5, 90, (count, 12), generator=generator)
    ]


def trainer(folder, *callbacks, kind=transformers.Trainer, lr=1e-3, **options):
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=99,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )
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


def test_resuming_is_refused_rather_than_wrong(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=20).train()
    run = trainer(tmp_path, PruningCallback(PINS(), Cubic(0.5)))
    with pytest.raises(UsageError, match="resumes at step 20"):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))


def test_bringing_back_another_model_is_refused(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps"}
    options |= {"save_steps": 10, "load_best_model_at_end": True}
    with pytest.raises(UsageError, match="load_best_model_at_end=True would bring back"):
        trainer(tmp_path, PruningCallback(PINS(), Cubic(0.5)), **options).train()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    run = trainer(tmp_path, kind=Trainer, lr=1e30, max_grad_norm=0.0)
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step \d+"):
        run.train()
    assert run.state.global_step < 40
