"""Global masks for BERT-base's 85 M scores against concatenating and ranking all of them.

    python benchmarks/selection.py

Prints, for several sparsities, the median time of both, their ratio, and the memory each needs
beyond the scores and masks (peak resident size; Linux). The answers are compared first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from prunella import Global

SHAPES = [(768, 768)] * 48 + [(3072, 768)] * 12 + [(768, 3072)] * 12


def concatenated(scores: dict[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """The plain way: one vector, its k-th smallest, a comparison."""
    flat = torch.cat([values.flatten() for values in scores.values()])
    cut = flat.kthvalue(round(sparsity * flat.numel())).values
    return {name: values > cut for name, values in scores.items()}


def peak(work: Callable[[], object]) -> float:
    """MB of resident memory that a call takes at most, beyond what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    # Scales differ between matrices, as real scores' do.
    scores = {
        f"{i}": torch.randn(shape).mul_(0.5 + i / 50).square_() for i, shape in enumerate(SHAPES)
    }
    for sparsity in (0.1, 0.5, 0.8, 0.9):
        plain, ours = concatenated(scores, sparsity), Global().masks(scores, sparsity)
        disagree = sum(int((plain[name] != ours[name]).sum()) for name in scores)
        del plain, ours
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        for _ in range(repeats):
            for name, work in (("plain", concatenated), ("ours", Global().masks)):
                start = time.perf_counter()
                work(scores, sparsity)
                times[name].append(time.perf_counter() - start)
        seconds = {name: median(values) for name, values in times.items()}
        result = {
            "sparsity": sparsity,
            "weights": sum(values.numel() for values in scores.values()),
            "differing": disagree,  # ties at the cut, which the plain way prunes all
            "seconds": seconds,
            "ratio": seconds["plain"] / seconds["ours"],
            "peak_mb": {
                "plain": peak(lambda: concatenated(scores, sparsity)),  # noqa: B023
                "ours": peak(lambda: Global().masks(scores, sparsity)),  # noqa: B023
            },
            "threads": torch.get_num_threads(),
            "repeats": repeats,
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
