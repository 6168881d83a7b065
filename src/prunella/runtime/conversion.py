"""Checkpoints laid out otherwise than their model, as Transformers saves experts: one by one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor


class Conversions:
    """Transformers' own conversions from a checkpoint's tensors to a model's parameters.

    Without effect where the model is not one of Transformers'.
    """

    def __init__(self, model: Any):
        self._model = model
        self._renamings: list[Any] = []
        self._converters: list[Any] = []
        if not hasattr(model, "base_model_prefix"):
            return
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        for step in get_model_conversion_mapping(model):
            if isinstance(step, WeightConverter):
                self._converters.append(step)
            elif isinstance(step, WeightRenaming):
                self._renamings.append(step)

    def renamed(self, name: str) -> tuple[str, str | None]:
        """What a tensor is called in the model, or what it becomes a part of.

        Returns:
            the name, of several the first; and the rule that it is converted by, None where it is
            only renamed.
        """
        for renaming in self._renamings:
            name, _ = renaming.rename_source_key(name)
        for converter in self._converters:
            name, rule = converter.rename_source_key(name)
            if rule is not None:
                return name, rule
        return name, None

    def converted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters, by name, that tensors of a checkpoint become parts of.

        Those whose parts are too few, or do not fit each other, are left out. A conversion moves
        weights about and does nothing else to them: masks can be given too.
        """
        from transformers.core_model_loading import dot_natural_key

        rules = {pattern: c for c in self._converters for pattern in c.source_patterns}
        gathered: dict[str, Any] = {}
        for name in sorted(tensors, key=dot_natural_key):
            target, rule = self.renamed(name)
            if rule is not None:
                converter = gathered.setdefault(target, deepcopy(rules[rule]))
                converter.add_tensor(target, name, rule, tensors[name])
        parameters: dict[str, Tensor] = {}
        for target, converter in gathered.items():
            try:
                found = converter.convert(target, model=self._model, config=self._model.config)
            except (RuntimeError, ValueError, LookupError):  # what the conversions raise
                continue
            parameters |= {n: t[0] if isinstance(t, list) else t for n, t in found.items()}
        return parameters
