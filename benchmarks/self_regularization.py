"""What self-regularization and task gradients cost: time and peak memory against a plain step.

    python benchmarks/self_regularization.py [--rows 16] [--length 64]

A training step of BERT-base's shapes, AdamW, float32, PINS at 80 % sparsity; each way in a process
of its own. Medians; ratios to the plain step.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

WAYS = ("plain", "self", "self, task gradient", "distillation")


def measure(way: str, rows: int, length: int, steps: int) -> dict[str, float]:
    """Median seconds of a step, and the process's peak memory in MB."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from prunella import PINS, Cubic, Distillation, Pruner, SelfRegularization, TaskGradients
    from prunella.regularizers import Regularizer

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    pruner = Pruner(model, optimizer, PINS(window=1), Cubic(0.8, begin=0, end=2, every=1))
    of_task = TaskGradients(pruner, 1.0) if "task" in way else None
    term: Regularizer | None = None
    if way.startswith("self"):
        term = SelfRegularization(model)
    if way == "distillation":
        term = Distillation(BertForSequenceClassification(BertConfig()))
    seconds = []
    for step in range(steps + 3):
        batch = {
            "input_ids": torch.randint(1000, 20000, (rows, length)),
            "labels": torch.randint(0, 2, (rows,)),
        }
        start = time.perf_counter()
        outputs = model(**batch)
        loss = outputs.loss if of_task is None else of_task(outputs.loss)
        if term is not None:
            loss = loss + term(outputs, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step == 2 and isinstance(term, SelfRegularization):  # at the final sparsity
            term.take()
        if step > 2:
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"seconds": median(seconds), "peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--way", choices=WAYS, help="only this one, in this process")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    shape = [f"--{name}={getattr(options, name)}" for name in ("rows", "length", "steps")]
    if options.way:
        print(json.dumps(measure(options.way, options.rows, options.length, options.steps)))
        return
    plain: dict[str, float] = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, *shape]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        plain = plain or found
        ratios = {f"{name}_ratio": round(found[name] / plain[name], 3) for name in found}
        print(json.dumps({"way": way, **found, **ratios}))


if __name__ == "__main__":
    main()
