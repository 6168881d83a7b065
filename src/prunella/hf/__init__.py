"""Adapter to Transformers: one callback prunes, one Trainer regularizes and loses nothing."""

from prunella.hf.pruning import PruningCallback
from prunella.hf.trainer import Trainer, class_columns

__all__ = ["PruningCallback", "Trainer", "class_columns"]
