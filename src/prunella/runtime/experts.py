"""Experts of Transformers' models, computed by the engine through Transformers' own interface."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from prunella.runtime.weight import SparseWeight, check_graph

IMPLEMENTATION = "prunella"


class SparseExperts(SparseWeight):
    """The weights of all experts of a layer, one matrix each."""


def fits(module: Any) -> bool:
    """Whether it asks Transformers' interface how to compute, whose terms are these."""
    terms = ("is_transposed", "has_gate", "has_bias", "has_post_expert_norm", "_apply_gate")
    return all(hasattr(module, term) for term in terms) and hasattr(
        getattr(module, "config", None), "_experts_implementation"
    )


def dispatch(module: Any) -> None:
    """Have a module of experts, some of whose weights are ``SparseExperts``, compute with them."""
    module.config = copy(module.config)  # one with the model's other modules until now
    module.config._experts_implementation = IMPLEMENTATION


@torch.compiler.disable
def forward(
    module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """The experts' outputs, weighted and summed up.

    Args:
        module: of a class with ``use_experts_implementation``.
        hidden_states: [tokens, features].
        top_k_index: [tokens, k], which experts a token is for; numbers beyond them are for none.
        top_k_weights: [tokens, k].
    """
    check_graph(hidden_states)
    up = "gate_up_proj" if module.has_gate else "up_proj"
    out = torch.zeros_like(hidden_states)
    for expert in top_k_index.unique().tolist():
        if expert >= len(module.down_proj):
            continue
        tokens, place = (top_k_index == expert).nonzero(as_tuple=True)
        inner = _linear(module, up, expert, hidden_states[tokens])
        inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
        outer = _linear(module, "down_proj", expert, inner)
        if module.has_post_expert_norm:
            outer = module.post_expert_norm(outer)
        out.index_add_(0, tokens, outer * top_k_weights[tokens, place, None])
    return out


def _linear(module: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(module, name)
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    if isinstance(weight, SparseExperts):
        return weight.linear(expert, x, bias)
    matrix = weight[expert]
    return linear(x, matrix.mT if module.is_transposed else matrix, bias)


# Here, for whoever unpickles a model: its weights are of this module.
ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, forward)
