"""Attention of torch whose projections the engine computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from prunella.errors import UsageError
from prunella.runtime.weight import Sparse, SparseWeight, check_graph

STACKED = "in_proj_weight"
APART = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def fits(module: nn.Module) -> bool:
    """Whether the engine can compute a module's attention: one without learned or zero keys."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and module.bias_k is None
        and not module.add_zero_attn
    )


class SparseAttention(nn.MultiheadAttention):
    """Attention some of whose projections are ``SparseWeight`` or ``SparseLinear``.

    Made of an ``nn.MultiheadAttention`` by changing its class. Arguments and outputs are its own;
    outputs of a query that may see nothing are NaN, as where torch computes them unfused.
    """

    @torch.compiler.disable
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise UsageError("is_causal is a hint that needs its attn_mask; give both, or neither")
        check_graph(query)
        batched = query.ndim == 3
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)  # [sentences, heads, tokens, features]
        mask = self._mask(len(query), key_padding_mask, attn_mask)
        weights = None
        if need_weights:
            scores = q @ k.mT / q.shape[-1] ** 0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            out = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [
            self._linear(place, x, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for place, (x, bias) in enumerate(zip(inputs, biases, strict=True))
        ]

    def _linear(self, place: int, x: Tensor, bias: Tensor | None) -> Tensor:
        """A projection: of queries, keys or values."""
        stacked = self._qkv_same_embed_dim
        weight = self._own(STACKED if stacked else APART[place])
        if isinstance(weight, SparseWeight):
            return weight.linear(place if stacked else 0, x, bias)
        return linear(x, weight.chunk(3)[place] if stacked else weight, bias)

    def _mask(
        self, sentences: int, padding: Tensor | None, attention: Tensor | None
    ) -> Tensor | None:
        """What is added to the scores [sentences, heads, queries, keys]; None where nothing is."""
        added = None
        if padding is not None:
            added = _added(padding).reshape(sentences, 1, 1, -1)
        if attention is not None:
            mask = _added(attention)
            if mask.ndim == 3:
                mask = mask.unflatten(0, (sentences, self.num_heads))
            added = mask if added is None else added + mask
        return added

    def _own(self, name: str) -> Any:
        return self._modules.get(name, self._parameters.get(name))

    def _seen(self, name: str) -> Tensor | None:
        weight = self._own(name)
        return weight.tensor() if isinstance(weight, SparseWeight) else weight

    # As others read them: nn.TransformerEncoderLayer does, to see whether it may fuse.
    in_proj_weight: Any = property(lambda self: self._seen(STACKED))
    q_proj_weight: Any = property(lambda self: self._seen(APART[0]))
    k_proj_weight: Any = property(lambda self: self._seen(APART[1]))
    v_proj_weight: Any = property(lambda self: self._seen(APART[2]))


def _added(mask: Tensor) -> Tensor:
    """A mask, True or -inf where nothing is seen, as what is added to scores."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(mask, -torch.inf)


class SparseEncoder(nn.TransformerEncoder):
    """An encoder of such attention; made of an ``nn.TransformerEncoder`` by changing its class.

    Where its layers are fused, torch leaves padding behind the sequences out, which so comes out as
    zeros, before a last norm; here likewise.
    """

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        out = super().forward(src, mask, src_key_padding_mask, is_causal)
        padding = src_key_padding_mask
        if padding is None or padding.dtype != torch.bool or mask is not None or src.ndim != 3:
            return out
        if bool((padding[:, :-1] & ~padding[:, 1:]).any()):  # not only behind
            return out
        nothing = torch.zeros_like(out[0, 0])
        if self.norm is not None:
            nothing = self.norm(nothing)
        return torch.where(padding[..., None], nothing, out)


def take_over(module: nn.Module) -> None:
    """Have a module of torch compute with its sparse parts, and never fused, which it could not."""
    if type(module) is nn.MultiheadAttention:
        if any(isinstance(part, Sparse) for part in module.children()):
            module.__class__ = SparseAttention
    elif isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor:
        module.use_nested_tensor = False
        if type(module) is nn.TransformerEncoder:
            module.__class__ = SparseEncoder
