"""Do learned scores rank weights as sensitivity does?

    python benchmarks/ranking.py SST-2 --criterion movement

Trains MiniLM on GLUE's SST-2 (the folder with its TSV files) up to the end of the ramp of a run of
``--steps`` steps at 80 %, and prints Spearman's correlations of the scores with a running average
of |g⊙W| and with |W|, over every 37th weight.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import DataCollatorWithPadding, set_seed

from prunella import L0, Cubic, Movement, Pruner, SoftMovement, View, tasks
from prunella.criteria.learned import Learned
from prunella.experiments import models
from prunella.experiments.encoding import encode
from prunella.prunable import embedding_names
from prunella.tasks import Reader

SPARSITY, END = 0.8, 0.7
CRITERIA: dict[str, tuple[type[Learned], dict[str, Any]]] = {
    "movement": (Movement, {}),
    "soft-movement": (SoftMovement, {"target": SPARSITY}),
    "l0": (L0, {"target": SPARSITY}),
    "l0-without-penalty": (L0, {"target": SPARSITY, "penalty": 0.0}),
}


def watched(criterion: type[Learned], settings: dict[str, Any]) -> Learned:
    """The criterion, which also averages |g⊙W| as ``Sensitivity(smoothing=0.95)`` does."""

    class Watched(criterion):  # type: ignore[misc, valid-type]
        def init(self, weight: Tensor) -> dict[str, Tensor]:
            state: dict[str, Tensor] = super().init(weight)
            return state | {"sensitivity": torch.zeros_like(state["score"])}

        def gradient(self, view: View) -> Tensor | None:
            view.state["sensitivity"].lerp_(view.times_gradient().abs_(), 0.05)
            gradient: Tensor | None = super().gradient(view)
            return gradient

    learned: Learned = Watched(**settings)
    return learned


def spearman(one: Tensor, other: Tensor) -> float:
    """Correlation of ranks; ties in order of position."""
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--criterion", choices=CRITERIA, default="movement")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    steps = int(options.steps * END)

    set_seed(0)
    task = tasks.get("glue/sst2")
    model, tokenizer = models.load("demo", task)
    for name in embedding_names(model):
        model.get_parameter(name).requires_grad_(False)
    rows = task.load(options.data).train
    assert isinstance(rows, Dataset)
    texts = rows.shuffle(seed=0).select(range(32 * steps))
    rows, _ = encode(texts, task, Reader(tokenizer, 128), training=True, name="train")
    rows = rows.select_columns(["input_ids", "attention_mask", "labels"])
    batches = torch.utils.data.DataLoader(
        rows, batch_size=32, collate_fn=DataCollatorWithPadding(tokenizer)
    )
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=8e-5, weight_decay=0.0
    )
    scheduler = LambdaLR(
        optimizer, lambda t: min(10 * t / options.steps, (1 - t / options.steps) / 0.9)
    )
    criterion = watched(*CRITERIA[options.criterion])
    pruner = Pruner(model, optimizer, criterion, Cubic(SPARSITY), total_steps=options.steps)
    model.train()
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    state = pruner.state_dict()
    score, sensitivity, weight = (
        torch.cat([tensor.detach().flatten()[::37] for tensor in tensors])
        for tensors in (
            [s["score"] for s in state["scores"].values()],
            [s["sensitivity"] for s in state["scores"].values()],
            [w.abs() for w in state["beneath"].values()],
        )
    )
    result = {"criterion": options.criterion, "steps": steps, "last_loss": float(loss)}
    result |= {"with_gW": spearman(score, sensitivity), "with_W": spearman(score, weight)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
