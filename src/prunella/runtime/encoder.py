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

    Biases and layer norms are taken over at the first pass; changes after that are not seen.

    Args:
        encoder: the encoder, each of whose linear layers is a ``SparseLinear``.
        paths: where the parts of its layers are.
        config: the model's.
    """

    def __init__(self, encoder: Any, paths: dict[str, str], config: Any):
        super().__init__()
        self.layer: Any = encoder.layer
        self.config = config
        # In a list, for its parameters not to be listed twice.
        self._eager = [encoder]
        self._inside = list(encoder.layer.modules())
        self._paths = paths
        self._native: Any = None
        self.eval()

    @torch.compiler.disable
    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        lengths = self._lengths(hidden_states, attention_mask)
        if lengths is None or self._watched() or self._asked_for_more(kwargs):
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
        native = self._engine()
        longest = hidden.shape[1]
        padded = bool((lengths < longest).any())
        valid = torch.arange(longest, device="cpu") < lengths[:, None]
        tokens = (hidden[valid] if padded else hidden).resolve_neg().contiguous()
        out = torch.empty_like(tokens)
        native.run(
            tokens.data_ptr(),
            out.data_ptr(),
            [length for length in lengths.tolist() if length],
            torch.get_num_threads(),
        )
        return torch.zeros_like(hidden).masked_scatter_(valid[:, :, None], out) if padded else out

    def _engine(self) -> Any:
        if self._native is None:
            self._native = _build(self.layer, self._paths)
        return self._native

    def _watched(self) -> bool:
        """Whether somebody listens inside, other than Transformers at rest.

        Its hooks stay once hidden states were asked for; what they collect into, only while asked.
        """
        from transformers.utils.output_capturing import _active_collector

        if _active_collector.get():
            return True
        hooks = (
            hook
            for module in self._inside
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )
        return any(hook.__module__ != "transformers.utils.output_capturing" for hook in hooks)

    def _asked_for_more(self, kwargs: dict[str, Any]) -> bool:
        graph = torch.is_grad_enabled() and any(p.requires_grad for p in self.layer.parameters())
        return bool(
            kwargs.get("encoder_hidden_states") is not None
            or kwargs.get("past_key_values") is not None
            or kwargs.get("is_causal")
            or kwargs.get("output_attentions")
            or kwargs.get("output_hidden_states")
            or self.config._attn_implementation not in ("sdpa", "eager")
            or graph
        )

    def _lengths(self, hidden: Tensor, mask: Tensor | None) -> Tensor | None:
        """Tokens of each sentence, the rest of it padding; None if that is not all there is."""
        if (
            not engine.has_values(hidden)
            or hidden.ndim != 3
            or not hidden.is_cpu
            or hidden.dtype != torch.float32
            or hidden.requires_grad
            or not hidden.numel()
            or hidden.shape[-1] != self._engine().features
        ):
            return None
        sentences, longest = hidden.shape[:2]
        if mask is None:
            return torch.full((sentences,), longest, device="cpu")
        if mask.ndim != 4 or mask.shape[-1] != longest:
            return None
        if mask.is_floating_point():  # added to the scores: 0, or so low that nothing is left
            seen = mask == 0
            if not bool((seen | (mask <= torch.finfo(mask.dtype).min / 2)).all()):
                return None
            mask = seen
        if mask.dtype != torch.bool:
            return None
        lengths = mask[:, 0, 0].sum(1).expand(sentences)
        in_front = torch.arange(longest, device="cpu") < lengths[:, None, None, None]
        return lengths if bool((mask == in_front).all()) else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_native": None}  # made again from the layers


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
        if paths is not None and _fits(module, paths) and name:
            parent, _, attribute = name.rpartition(".")
            holder: Any = model.get_submodule(parent)
            setattr(holder, attribute, FusedEncoder(module, paths, holder.config))


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
