"""Sparse models: small on disk, fast on an ordinary CPU, whoever pruned them."""

from prunella.runtime.checkpoint import export, load, save
from prunella.runtime.engine import variant, variants
from prunella.runtime.folder import masks_from
from prunella.runtime.linear import SparseLinear, sparsify

__all__ = [
    "SparseLinear",
    "export",
    "load",
    "masks_from",
    "save",
    "sparsify",
    "variant",
    "variants",
]
