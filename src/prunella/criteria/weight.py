"""Criteria that read the weight alone."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from prunella.criteria.base import Criterion, View


@dataclass(frozen=True)
class Random(Criterion):
    """Noise: the control that every other criterion must beat.

    The noise is the same at every selection, so masks grow one inside the other and no weight is
    lost for nothing.

    Args:
        seed: two pruners with the same seed choose the same weights.
    """

    seed: int = 0

    def score(self, view: View) -> Tensor:
        # Drawn on the CPU and from the name, so that devices, ranks and resumed runs agree.
        seed = crc32(f"{self.seed} {view.name}".encode())
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(view.shape, generator=generator)
        return view.part_of(noise.to(view.weight.device))


@dataclass(frozen=True)
class Magnitude(Criterion):
    """|θ|.

    Source: Han et al. 2015 (arXiv 1506.02626); during fine-tuning with a cubic ramp, Zhu & Gupta
    2018 (arXiv 1710.01878).
    """

    def score(self, view: View) -> Tensor:
        return view.weight.abs()
