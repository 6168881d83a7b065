"""Encoders of the BERT family, all their layers in one call of the engine."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from prunella.runtime import engine
from prunella.runtime.linear import SparseLinear

_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
    "after_attention": "attention.output.LayerNorm",
    "after_feedforward": "output.LayerNorm",
    "heads": "attention.self.num_attention_heads",
    "activation": "intermediate.intermediate_act_fn",
}
_DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "up": "ffn.lin1",
    "down": "ffn.lin2",
    "after_attention": "sa_layer_norm",
    "after_feedforward": "output_layer_norm",
    "heads": "attention.n_heads",
    "activation": "ffn.activation",
}
# Encoders that compute what the engine's does: class of the encoder -> where its layers' parts are.
FAMILY = {
    "BertEncoder": _BERT,
    "RobertaEncoder": _BERT,
    "XLMRobertaEncoder": _BERT,
    "CamembertEncoder": _BERT,
    "ElectraEncoder": _BERT,
    "Transformer": _DISTILBERT,
}
LINEARS = ("query", "key", "value", "output", "up", "down")
NORMS = ("after_attention", "after_feedforward")
# Transformers' names of activations that the engine has.
ACTIVATIONS = {
    "GELUActivation": "gelu",
    "GELU": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "ReLU": "relu",
}


class FusedEncoder(nn.Module):
    """An encoder whose layers the engine computes in one call, without the padding.

    Outputs at the padding behind a sentence are 0. Where more is asked for than the last hidden
    state (hidden states, attentions, a hook of the user's) or other masks are given (padding in
    front of a sentence, from where some heads read; masks that differ from query to query), the
    layers are computed one after another, as before.

    Args:
        encoder: the encoder, each of whose linear layers is a ``SparseLinear``.
        paths: where the parts of its layers are.
    """

    def __init__(self, encoder: Any, paths: dict[str, str]):
        super().__init__()
        self.layer: Any = encoder.layer
        # In a list, for its parameters not to be listed twice.
        self._eager = [encoder]
        self._inside = list(encoder.layer.modules())
        self._paths = paths
        self._native: Any = None
        self.eval()

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        lengths = _lengths(hidden_states, attention_mask)
        if lengths is None or self._watched() or _asked_for_more(kwargs):
            return self._eager[0](hidden_states, attention_mask, **kwargs)
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.run(hidden_states, lengths)
        )

    def run(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """The last layer's output.

        Args:
            hidden: [sentences, tokens, features].
            lengths: [sentences], tokens of each that are not padding.
        """
        if self._native is None:
            self._native = _build(self.layer, self._paths)
        longest = hidden.shape[1]
        padded = bool((lengths < longest).any())
        valid = torch.arange(longest) < lengths[:, None]
        tokens = hidden[valid] if padded else hidden.contiguous()
        out = torch.empty_like(tokens)
        self._native.run(
            tokens.data_ptr(),
            out.data_ptr(),
            [length for length in lengths.tolist() if length],
            torch.get_num_threads(),
        )
        return torch.zeros_like(hidden).masked_scatter_(valid[:, :, None], out) if padded else out

    def _watched(self) -> bool:
        return any(m._forward_hooks or m._forward_pre_hooks for m in self._inside)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_native": None}  # made again from the layers


def _lengths(hidden: Tensor, mask: Tensor | None) -> Tensor | None:
    """Tokens of each sentence, the rest of it being padding; None if a mask says other things."""
    sentences, longest = hidden.shape[:2]
    if hidden.dtype != torch.float32 or hidden.requires_grad or not hidden.numel():
        return None
    if mask is None:
        return torch.full((sentences,), longest)
    if mask.ndim != 4 or mask.shape[-1] != longest:
        return None
    if mask.dtype != torch.bool:  # added to the scores: 0, or so low that nothing is left
        seen = mask == 0
        if not bool((seen | (mask <= torch.finfo(mask.dtype).min / 2)).all()):
            return None
        mask = seen
    lengths = mask[:, 0, 0].sum(1).expand(sentences)
    in_front = torch.arange(longest) < lengths[:, None, None, None]
    return lengths if bool((mask == in_front).all()) else None


def _asked_for_more(kwargs: dict[str, Any]) -> bool:
    return bool(
        kwargs.get("encoder_hidden_states") is not None
        or kwargs.get("past_key_values") is not None
        or kwargs.get("output_attentions")
        or kwargs.get("output_hidden_states")
    )


def _build(layers: Any, paths: dict[str, str]) -> Any:
    native = engine._native
    built = []
    for layer in layers:
        part = {name: attrgetter(path)(layer) for name, path in paths.items()}
        linears = [
            native.Linear(
                part[name].matrix._native,
                [] if part[name].bias is None else part[name].bias.tolist(),
            )
            for name in LINEARS
        ]
        norms = [
            native.Norm(part[name].weight.tolist(), part[name].bias.tolist(), part[name].eps)
            for name in NORMS
        ]
        activation = getattr(native.Activation, ACTIVATIONS[type(part["activation"]).__name__])
        built.append(native.Layer(*linears, *norms, part["heads"], activation))
    return native.Encoder(built)


def fuse(model: nn.Module) -> None:
    """Put fused encoders where the model has encoders that the engine can compute whole."""
    for name, module in list(model.named_modules()):
        paths = FAMILY.get(type(module).__name__)
        if paths is not None and _fits(module, paths):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, FusedEncoder(module, paths))


def _fits(encoder: Any, paths: dict[str, str]) -> bool:
    for layer in encoder.layer:
        try:
            part = {name: attrgetter(path)(layer) for name, path in paths.items()}
        except AttributeError:
            return False
        if (
            not all(isinstance(part[name], SparseLinear) for name in LINEARS)
            or not all(type(part[name]) is nn.LayerNorm for name in NORMS)
            or type(part["activation"]).__name__ not in ACTIVATIONS
            or getattr(layer, "is_decoder", False)
            or getattr(layer, "add_cross_attention", False)
        ):
            return False
    return len(encoder.layer) > 0
