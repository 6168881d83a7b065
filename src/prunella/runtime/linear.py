"""Linear layers whose weights the engine holds, and putting sparse weights in dense ones' place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunella.bitmask import Coded, decode, encode
from prunella.errors import UsageError
from prunella.prunable import TABLES, Layout, is_conv1d, layouts, named_parameters
from prunella.runtime import attention, engine
from prunella.runtime.engine import Matrix
from prunella.runtime.weight import (
    Sparse,
    SparseWeight,
    Weight,
    check_graph,
    check_mode,
    check_move,
    refuse_weights,
)

# From this sparsity on the engine's form is the smaller one (5 bytes a non-zero weight against 4
# a weight), and the faster one as well (benchmarks/README.md).
WORTH = 0.2
LARGE = 2**20  # weights of a dense layer that is read from memory, not from the caches


class SparseLinear(Sparse):
    """x Wᵀ + b with a matrix of the engine, for inference in float32 on the CPU.

    Its ``state_dict`` has the dense weight, laid out as it was.

    Args:
        matrix: [out, in].
        bias: [out], or None.
        transposed: the layer it stands for was Conv1D, whose weight is [in, out].
    """

    bias: nn.Parameter | None

    def __init__(self, matrix: Matrix, bias: Tensor | None, transposed: bool = False):
        super().__init__()
        self.matrix = matrix
        self.matrices = (matrix,)
        self.transposed = transposed
        self.out_features, self.in_features = matrix.shape
        if bias is not None:
            if bias.shape != (self.out_features,):
                raise UsageError(
                    f"a bias {list(bias.shape)} does not fit a matrix of {self.out_features} rows; "
                    f"give [{self.out_features}]"
                )
            bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
        self.register_parameter("bias", bias)
        self.eval()

    @property
    def weight(self) -> Tensor:
        """The dense weight, made when something computes with it; T5 asks only for its dtype."""
        shape = self.matrix.shape
        return Weight(self, shape[::-1] if self.transposed else shape)

    def dense(self) -> Tensor:
        """The dense weight, laid out as it was."""
        weight = self.matrix.dense()
        return weight.t().contiguous() if self.transposed else weight

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        check_graph(x)
        return self.matrix.linear(x, self.bias)

    def extra_repr(self) -> str:
        kept = self.matrix.nonzero / (self.in_features * self.out_features)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, sparsity={1 - kept:.4f}"
        )

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}weight"] = self.dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)


class DenseLinear(nn.Linear):
    """A large layer that stays dense, such as the output layer of a language model.

    One token alone is a matter of memory bandwidth, of which the engine gets more than torch does
    (benchmarks/README.md). All else is torch's.
    """

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        tensors = [t for t in (input, self.weight, self.bias) if t is not None]
        plain = all(engine.has_values(t) and engine.plain(t) and not t.is_neg() for t in tensors)
        graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        one = input.numel() == self.in_features and input.shape[-1] == self.in_features
        if plain and one and not graph:
            return engine.dense_linear(input, self.weight, self.bias)
        return super().forward(input)


@dataclass(frozen=True)
class Place:
    """Where a weight is that the engine may hold."""

    name: str
    module: Any
    attribute: str
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter."""
        return tuple(getattr(self.module, self.attribute).shape)


def places(model: nn.Module) -> dict[str, Place]:
    """The weights that the engine may hold, by name: not those that have other uses.

    Those of linear layers, attention and experts (see ``layouts``) whose class computes with them
    as these do; modules with hooks are left alone, and so is the model where it is a linear layer.
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found: dict[str, Place] = {}
    for prefix, module in model.named_modules():
        replaced = isinstance(module, nn.Linear) or is_conv1d(module)
        if (replaced and not prefix) or not _computes(module) or _is_watched(module):
            continue
        for attribute, layout in layouts(module).items():
            parameter = module._parameters.get(attribute)
            if (
                isinstance(parameter, nn.Parameter)
                and parameter.numel()
                and uses[id(parameter)] == 1
            ):
                name = f"{prefix}.{attribute}".lstrip(".")
                found[name] = Place(name, module, attribute, layout)
    for prefix, module in model.named_modules():  # which use their output layer's weight themselves
        if isinstance(module, nn.MultiheadAttention) and (
            not attention.fits(module) or _is_watched(module)
        ):
            found.pop(f"{prefix}.out_proj.weight".lstrip("."), None)
    return found


def _computes(module: Any) -> bool:
    """Whether the engine can stand in for what a module computes."""
    if isinstance(module, nn.Linear):
        plain = module._parameters.keys() <= {"weight", "bias"} and not module._modules
        return plain and type(module).forward is nn.Linear.forward
    if isinstance(module, nn.MultiheadAttention):
        return attention.fits(module)
    if is_conv1d(module):
        return True
    if not layouts(module):
        return False
    from prunella.runtime import experts  # where a module has them, Transformers is there

    return experts.fits(module)


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def replace(model: nn.Module, coded: Mapping[str, Coded]) -> None:
    """Have the engine hold the weights named, of ``places``, which are given coded.

    Large linear layers that stay become ``DenseLinear``. The model refuses to be trained, moved or
    given other weights from then on.

    Raises:
        UsageError: a weight is not of its parameter's shape.
    """
    known = places(model)
    chosen = [known[name] for name in coded]
    for place, weight in zip(chosen, coded.values(), strict=True):
        if weight.shape != place.shape:
            raise UsageError(
                f"the weight {place.name} is {list(weight.shape)}, but the config asks for "
                f"{list(place.shape)}; give the config that the model was saved with"
            )
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        held = pool.map(_matrices, coded.values(), [place.layout for place in chosen])
        for place, matrices in zip(chosen, held, strict=True):
            _put(model, place, matrices)
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= LARGE:
            module.__class__ = DenseLinear
        if coded:
            attention.take_over(module)
    if coded:
        # On the model itself: its parts would be changed before a sparse layer could refuse.
        attributes: Any = model
        attributes.train = partial(_train, model)
        attributes._apply = partial(_apply, model)
        attributes.load_state_dict = partial(refuse_weights, model)


def _matrices(coded: Coded, layout: Layout) -> list[Matrix]:
    """The matrices stacked in a parameter."""
    if layout.slices == 1 and len(coded.shape) == 2:
        return [Matrix(coded, layout.transposed)]
    parts = decode(coded).reshape(layout.slices, -1, coded.shape[-1])
    return [Matrix(encode(part), layout.transposed) for part in parts]


def _put(model: nn.Module, place: Place, matrices: list[Matrix]) -> None:
    module, attribute, layout = place.module, place.attribute, place.layout
    if isinstance(module, nn.Linear) or is_conv1d(module):
        parent, _, name = place.name.removesuffix(".weight").rpartition(".")
        sparse = SparseLinear(matrices[0], module.bias, layout.transposed)
        setattr(model.get_submodule(parent), name, sparse)
        return
    kind: type[SparseWeight] = SparseWeight
    if not isinstance(module, nn.MultiheadAttention):
        from prunella.runtime import experts  # as above

        kind = experts.SparseExperts
        experts.dispatch(module)
    shape = place.shape
    del module._parameters[attribute]
    module._modules[attribute] = kind(matrices, shape, layout.transposed)


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    check_mode(mode)
    return type(model).train(model, mode)


def _apply(model: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    check_move(fn)
    return type(model)._apply(model, fn, recurse)


def matrices_of(model: nn.Module) -> list[Matrix]:
    """The matrices that the engine holds for a model, shared ones once."""
    held = {id(m): m for part in model.modules() if isinstance(part, Sparse) for m in part.matrices}
    return list(held.values())


def computed_densely(model: nn.Module) -> dict[str, int]:
    """Weights that are sparse and that the engine does not hold, as it cannot tell their use.

    Returns:
        form of their names, with * for numbers -> how many; look-up tables are left out.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, TABLES)}
    found: dict[str, int] = {}
    for name, weight in named_parameters(model):
        matrix = weight.ndim > 1 and not name.endswith("bias") and id(weight) not in tables
        if matrix and _is_worth(weight):
            form = re.sub(r"\b[0-9]+\b", "*", name)
            found[form] = found.get(form, 0) + weight.numel()
    return found


def _is_worth(weight: Tensor) -> bool:
    return bool(weight.count_nonzero() <= (1 - WORTH) * weight.numel())


def footprint(model: nn.Module) -> int:
    """Bytes of a model's parameters, buffers and matrices of the engine, shared ones once."""
    held = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.nbytes for t in held.values()) + sum(m.nbytes for m in matrices_of(model))


def sparsify(model: nn.Module) -> nn.Module:
    """Let the engine compute with the weights that are sparse enough, in place.

    Works on any module: on linear layers, ``nn.MultiheadAttention`` and experts of Transformers'
    models in it. The model is for inference from then on: in evaluation mode, in float32, on the
    CPU, its parameters frozen.

    Args:
        model: a module on the CPU; bfloat16, float16 and float64 become float32.

    Returns:
        the same module.

    Raises:
        UsageError: it is not on the CPU.
    """
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise UsageError("the engine runs on the CPU; move the model there: model.to('cpu')")
    model.eval().float().requires_grad_(False)
    if engine.variant() is not None:
        weights = {n: getattr(place.module, place.attribute) for n, place in places(model).items()}
        replace(model, {name: encode(w) for name, w in weights.items() if _is_worth(w)})
    return model
