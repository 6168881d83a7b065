"""Which parameters may be pruned, and what is left of a model: its prunable matrices and counts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from prunella.adapters import Adapter, adapted, added, layers_of, replaced
from prunella.errors import UsageError
from prunella.sharding import local, nonzeros

SCOPES = ("prunable", "backbone", "model")
TABLES = (nn.Embedding, nn.EmbeddingBag)
# Of the weights of a trained dense model hardly one in a million is exactly zero.
_HANDFUL, _SHARE = 8, 1e-3


@dataclass(frozen=True)
class Prunable:
    """One parameter that may be pruned, found anew through its module at every look.

    Args:
        module: the module that holds it (sharding may swap the parameter, never its holder).
        attribute: its name in the module.
        transposed: whether its matrices are stored [in, out], as in GPT-2's Conv1D.
        slices: how many matrices are stacked in it, along its first axis; 0 where none of its
            axes is known to be inputs (biases, convolutions), so that each weight stands alone.
        adapter: what is added to it, where it is frozen and that is trained; what is pruned is
            then the sum.
    """

    module: nn.Module
    attribute: str
    transposed: bool
    slices: int = 1
    adapter: Adapter | None = None

    @property
    def parameter(self) -> nn.Parameter:
        return getattr(self.module, self.attribute)

    @property
    def stepped(self) -> nn.Parameter:
        """The parameter that an optimizer steps, or one of several."""
        return self.parameter if self.adapter is None else self.adapter.trained[0]

    @torch.no_grad()
    def value(self) -> Tensor:
        """This process's part of the weight as the model computes with it."""
        weight = local(self.parameter).detach()
        return weight if self.adapter is None else weight + self.adapter.delta()

    @torch.no_grad()
    def kept(self) -> Tensor:
        """What of it is not zero, nor was before an adapter began to fill it."""
        kept = local(self.parameter) != 0
        return kept if self.adapter is None else kept & (self.value() != 0)

    @torch.no_grad()
    def hide(self, mask: Tensor) -> None:
        """Have the value be zero where a mask, of this process's part, is False."""
        weight = local(self.parameter)
        if self.adapter is None:
            weight.masked_fill_(~mask, 0.0)
        else:
            weight.copy_(torch.where(mask, weight, -self.adapter.delta()))
            self.adapter.fitted = self.adapter.version()

    def oriented(self, tensor: Tensor) -> Tensor:
        """A tensor of the parameter's shape as [out, in]: a view.

        Where matrices are stacked in it, [matrices, out, in]; where it has no known axes, [n].
        """
        if not self.slices:
            return tensor.flatten()
        if tensor.ndim > 2 or self.slices > 1:
            tensor = tensor.reshape(self.slices, -1, tensor.shape[-1])
        return tensor.mT if self.transposed else tensor

    def stored(self, tensor: Tensor) -> Tensor:
        """A tensor that was so oriented as the parameter has it."""
        return (tensor.mT if self.transposed else tensor).reshape(self.parameter.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the oriented parameter."""
        return tuple(self.oriented(torch.empty(self.parameter.shape, device="meta")).shape)

    @property
    def matrices(self) -> int:
        """How many it counts as."""
        return max(1, self.slices)


def few(total: int) -> float:
    """How many of so many weights may be zero by chance."""
    return max(_HANDFUL, _SHARE * total)


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile and (distributed) data-parallel wrappers.

    Raises:
        UsageError: it is sharded by FSDP1.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif type(model).__name__ == "FullyShardedDataParallel":
            raise UsageError(
                "FullyShardedDataParallel (FSDP1) flattens the matrices that are to be pruned; "
                "shard with torch.distributed.fsdp.fully_shard (FSDP2) instead"
            )
        else:
            return model


def named_parameters(
    model: nn.Module, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's parameters by the names they have without wrappers around its parts."""
    for name, parameter in model.named_parameters(remove_duplicate=remove_duplicate):
        yield _plain(name), parameter


def _plain(name: str) -> str:
    for wrapper in ("_orig_mod.", "_checkpoint_wrapped_module."):
        name = name.replace(wrapper, "")
    return name


def find_prunable(
    model: nn.Module,
    parameters: Sequence[str] | None = None,
    include_biases: bool = False,
    include_embeddings: bool = False,
    *,
    trained: bool = True,
) -> tuple[dict[str, Prunable], list[str]]:
    """The parameters a pruner may touch, by name, and the names of frozen ones left out.

    By default the weights of every ``nn.Linear``, ``Conv1D``, ``nn.MultiheadAttention`` and module
    of experts (see ``layouts``) inside the model's repeated blocks; in a model without such blocks,
    of every one. A weight that is also used elsewhere, as an embedding or an output layer, is left
    alone; one that several blocks share is listed once. A frozen weight is prunable where a trained
    adapter lies over it (see ``prunella.adapters``); what adapters hold themselves never is.
    ``prunella.left_dense`` names the others.

    Args:
        model: any module.
        parameters: instead of the default, names or ``fnmatch`` patterns of weights of two
            dimensions and more. What stands before or after a dot may be left out:
            ``encoder.*attention*`` finds ``bert.encoder.layer.0.attention.self.query.weight``. A
            tied weight goes by the first of its names.
        include_biases: take the biases of the chosen weights too.
        include_embeddings: take the look-up tables too, of words, positions and whatever else, in
            the whole model. One that is tied to an output layer is pruned there as well.
        trained: leave out frozen ones.

    Raises:
        UsageError: a pattern matches no matrix, or nothing is left to prune.
    """
    ours = added(model)
    layers = {name: Adapter(layer) for name, layer in layers_of(model).items()}
    holders = named_holders(model)
    if parameters is None:
        wanted = by_default(model)
    else:
        wanted = _matching(model, [parameters] if isinstance(parameters, str) else parameters)
    if include_biases:
        wanted |= {bias for name in wanted for bias in _biases(name, holders)}
    if include_embeddings:
        wanted.update(embedding_names(model))

    found: dict[str, Prunable] = {}
    frozen: list[str] = []
    for name, parameter in named_parameters(model):
        if name not in wanted or id(parameter) in ours:
            continue
        prefix, _, attribute = name.rpartition(".")
        module = holders[prefix]
        adapter = layers.get(prefix) if attribute != "bias" else None
        if adapter is not None and not adapter.trained:
            adapter = None
        if trained and not parameter.requires_grad and adapter is None:
            frozen.append(name)
        elif parameter.numel():
            known = layouts(module).get(attribute, Layout(slices=_slices(module, parameter)))
            found[name] = Prunable(module, attribute, known.transposed, known.slices, adapter)
    if not found:
        every = dict(named_parameters(model))
        helps = "train them, or LoRA over them"
        if not all(every[name].is_floating_point() for name in frozen):
            helps = "quantised, so load the model in floats"
        raise UsageError(
            f"{type(model).__name__} has no prunable parameters"
            + (f" that are trained ({len(frozen)} are frozen: {helps})" if frozen else "")
            + "; by default these are the weights of linear layers, attention and experts in its "
            "repeated blocks: name others with parameters=[...]"
        )
    return found, frozen


def named_holders(model: nn.Module) -> dict[str, nn.Module]:
    """The modules by every name that their parameters' names may begin with."""
    named = model.named_modules(remove_duplicate=False)
    return {_plain(f"{name}.").strip("."): module for name, module in named}


def linear_weights(model: nn.Module) -> set[str]:
    """Every name of the weights that ``layouts`` knows."""
    return {
        f"{prefix}.{attribute}".lstrip(".")
        for prefix, module in named_holders(model).items()
        for attribute in layouts(module)
    }


def by_default(model: nn.Module) -> set[str]:
    """Those of them that are used in the model's repeated blocks alone; of tied ones, one name."""
    used: dict[int, list[str]] = {}  # every place a parameter is used in
    for name, parameter in named_parameters(model, remove_duplicate=False):
        used.setdefault(id(parameter), []).append(name)
    inside = {name for name in linear_weights(model) if name.startswith(blocks_of(model))}
    apart = added(model) | replaced(model)
    return {n[0] for key, n in used.items() if inside.issuperset(n) and key not in apart}


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is Transformers' linear layer with a transposed weight, not imported here."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")
        for kind in type(module).__mro__  # fully_shard makes a subclass
    )


@dataclass(frozen=True)
class Layout:
    """Where a parameter's matrices have their inputs: see ``Prunable``."""

    transposed: bool = False
    slices: int = 1


# What Transformers' interface of experts calls the weights of all experts of a layer, [experts, …].
EXPERTS = ("gate_up_proj", "up_proj", "down_proj")


def layouts(module: nn.Module) -> dict[str, Layout]:
    """The parameters of a module itself that are matrices of linear maps, by attribute.

    ``nn.MultiheadAttention`` stacks the projections of queries, keys and values, experts of
    Transformers' kind one matrix each. Of these, which axis is the inputs' is what the module says
    (``is_transposed``), or else what the shapes of its two projections leave as the only way.
    """
    if isinstance(module, nn.Linear):
        return {"weight": Layout()}
    if is_conv1d(module):
        return {"weight": Layout(transposed=True)}
    if isinstance(module, nn.MultiheadAttention):
        if module._qkv_same_embed_dim:
            return {"in_proj_weight": Layout(slices=3)}
        return {name: Layout() for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")}
    parameters = {name: module._parameters.get(name) for name in EXPERTS}
    stacks = {name: p for name, p in parameters.items() if p is not None and p.ndim == 3}
    transposed = _is_transposed(module, stacks)
    if transposed is None:
        return {}
    return {name: Layout(transposed, len(p)) for name, p in stacks.items()}


def _is_transposed(module: nn.Module, stacks: Mapping[str, Tensor]) -> bool | None:
    """Whether experts are stored [experts, in, out]; None where that cannot be told."""
    said = getattr(module, "is_transposed", None)
    if isinstance(said, bool) or stacks.keys() != {"gate_up_proj", "down_proj"}:
        return said if isinstance(said, bool) else None
    # Gate and up stand together, so that only one of the two fits.
    (up, inputs), (down, width) = (p.shape[1:] for p in stacks.values())
    if (up, inputs) == (2 * width, down):
        return False
    return True if (inputs, up) == (2 * down, width) else None


def _slices(module: nn.Module, parameter: Tensor) -> int:
    """How many matrices a parameter is that was chosen by name; 0 where it is none."""
    return int(parameter.ndim == 2 and not any(p.slices > 1 for p in layouts(module).values()))


def _biases(name: str, holders: Mapping[str, nn.Module]) -> list[str]:
    """The name that the bias of a linear map's weight would have."""
    prefix, _, attribute = name.rpartition(".")
    if attribute not in layouts(holders[prefix]):
        return []
    if attribute.endswith("_proj_weight"):  # attention has one for all
        attribute = "in_proj_weight"
    bias = attribute.replace("weight", "bias") if "weight" in attribute else f"{attribute}_bias"
    return [f"{prefix}.{bias}".lstrip(".")]


def blocks_of(model: nn.Module) -> tuple[str, ...]:
    """What names in the model's repeated blocks begin with; where it has none, all names do."""
    return tuple(f"{block}." for block in _blocks(model)) or ("",)


def _blocks(model: nn.Module) -> Iterator[str]:
    """Names of the repeated blocks: composite modules in a list, or equal ones in a sequence."""
    for prefix, module in model.named_modules():
        blocks = {n: c for n, c in module.named_children() if next(c.children(), None) is not None}
        if isinstance(module, nn.Sequential | nn.ModuleDict):
            kinds = [type(block) for block in blocks.values()]
            blocks = {n: block for n, block in blocks.items() if kinds.count(type(block)) > 1}
        elif not isinstance(module, nn.ModuleList):
            continue
        yield from (_plain(f"{prefix}.{name}".lstrip(".")) for name in blocks)


def _matching(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    # Experts have biases of two sides.
    names = [n for n, p in named_parameters(model) if p.ndim >= 2 and not n.endswith("bias")]
    found = {pattern: {name for name in names if _matches(name, pattern)} for pattern in patterns}
    idle = [pattern for pattern, matched in found.items() if not matched]
    if not names:
        raise UsageError(f"{type(model).__name__} has no matrices at all")
    if idle:
        forms = list(dict.fromkeys(re.sub(r"\b[0-9]+\b", "*", name) for name in names))
        near = dict.fromkeys(n for p in idle for n in get_close_matches(p, forms, 2, cutoff=0))
        raise UsageError(
            f"the patterns {', '.join(map(repr, idle))} match no matrix of {type(model).__name__}; "
            f"among the names that parameters=[...] may take, the nearest are "
            f"{', '.join(map(repr, near))}"
        )
    return set().union(*found.values())


def _matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern that may lack what comes before or after a dot."""
    return any(
        fnmatchcase(name, f"{before}{pattern}{after}")
        for before in ("", "*.")
        for after in ("", ".*")
    )


def embedding_names(model: nn.Module) -> list[str]:
    """Names of the parameters that look-up tables hold."""
    ids = {id(module.weight) for module in model.modules() if isinstance(module, TABLES)}
    return [name for name, parameter in named_parameters(model) if id(parameter) in ids]


@dataclass(frozen=True)
class Scopes:
    """The three sets of parameter names in which sparsity is stated.

    ``prunable``: what the pruner may touch. ``backbone``: the model without look-up tables and
    task head. ``model``: everything. A shared parameter is in each once.
    """

    prunable: frozenset[str]
    backbone: frozenset[str]
    model: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, prunable: Collection[str]) -> Scopes:
        """The scopes of a model; in Transformers' models the backbone is their ``base_model``."""
        ours = added(model)  # gone once merged
        every = {n: id(p) for n, p in named_parameters(model) if id(p) not in ours}
        model = adapted(model)
        base = {id(parameter) for parameter in getattr(model, "base_model", model).parameters()}
        output = getattr(model, "get_output_embeddings", lambda: None)()
        head = {id(parameter) for parameter in output.parameters()} if output is not None else set()
        tables = set(embedding_names(model))
        return cls(
            frozenset(prunable),
            frozenset(n for n, i in every.items() if i in base - head and n not in tables),
            frozenset(every),
        )

    def count(self, tensors: Mapping[str, Tensor]) -> dict[str, Count]:
        """Weights and non-zero weights in each scope, counted in the tensors given."""
        names = sorted(self.model)  # in one order on all processes, as these count together
        counts = {n: Count(nonzeros(tensors[n]), tensors[n].numel()) for n in names}
        return {
            scope: Count(
                sum(counts[name].nonzero for name in getattr(self, scope)),
                sum(counts[name].total for name in getattr(self, scope)),
            )
            for scope in SCOPES
        }


@dataclass(frozen=True)
class Count:
    """How many weights there are, and how many are not zero."""

    nonzero: int
    total: int

    @property
    def sparsity(self) -> float:
        """Fraction that is zero; 0 where there are no weights."""
        return 1 - self.nonzero / self.total if self.total else 0.0
