"""Which parameters may be pruned, and what is left of a model: its prunable matrices and counts."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from prunella.errors import UsageError
from prunella.sharding import nonzeros

SCOPES = ("prunable", "backbone", "model")


@dataclass(frozen=True)
class Prunable:
    """One parameter that may be pruned, found anew through its module at every look.

    Args:
        module: the module that holds it (sharding may swap the parameter, never its holder).
        attribute: its name in the module.
        transposed: whether it is stored [in, out], as in GPT-2's Conv1D.
    """

    module: nn.Module
    attribute: str
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        return getattr(self.module, self.attribute)

    def oriented(self, tensor: Tensor) -> Tensor:
        """A tensor of the parameter's shape as [out, in], or back: a view."""
        return tensor.t() if self.transposed else tensor


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
) -> tuple[dict[str, Prunable], list[str]]:
    """The parameters a pruner may touch, by name, and the names of frozen ones left out.

    By default the weight of every ``nn.Linear`` and ``Conv1D`` inside the model's repeated blocks;
    in a model without such blocks, of every one. A weight that is also used elsewhere, as an
    embedding or an output layer, is left alone; one that several blocks share is listed once.
    Weights of more than two dimensions (experts stacked in one tensor, XLNet's attention) are left
    dense unless they are named.

    Args:
        model: any module.
        parameters: instead of the default, names or ``fnmatch`` patterns of weights of two
            dimensions and more. What stands before or after a dot may be left out:
            ``encoder.*attention*`` finds ``bert.encoder.layer.0.attention.self.query.weight``. A
            tied weight goes by the first of its names.
        include_biases: take the biases of the chosen linears too.
        include_embeddings: take the look-up tables too, of words, positions and whatever else, in
            the whole model. One that is tied to an output layer is pruned there as well.

    Raises:
        UsageError: a pattern matches no matrix, or nothing is left to prune.
    """
    holders = {
        _plain(f"{n}.").strip("."): m for n, m in model.named_modules(remove_duplicate=False)
    }
    linears = {
        f"{prefix}.weight".lstrip("."): module
        for prefix, module in holders.items()
        if isinstance(module, nn.Linear) or is_conv1d(module)
    }
    if parameters is None:
        wanted = _in_blocks(model, linears)
    else:
        wanted = _matching(model, [parameters] if isinstance(parameters, str) else parameters)
    if include_biases:
        wanted |= {f"{name.removesuffix('weight')}bias" for name in wanted & linears.keys()}
    if include_embeddings:
        wanted.update(embedding_names(model))

    found: dict[str, Prunable] = {}
    frozen: list[str] = []
    for name, parameter in named_parameters(model):
        if name not in wanted:
            continue
        prefix, _, attribute = name.rpartition(".")
        module = holders[prefix]
        if not parameter.requires_grad:
            frozen.append(name)
        elif parameter.numel():
            transposed = is_conv1d(module) and attribute == "weight"
            found[name] = Prunable(module, attribute, transposed)
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no prunable parameters"
            + (f" that are trained ({len(frozen)} are frozen)" if frozen else "")
            + "; by default these are the linear layers' weights in its repeated blocks: name "
            "others with parameters=[...]"
        )
    return found, frozen


def _in_blocks(model: nn.Module, linears: Collection[str]) -> set[str]:
    """Those of the linears' weights that are used in the model's repeated blocks alone."""
    used: dict[int, list[str]] = {}  # every place a parameter is used in
    for name, parameter in named_parameters(model, remove_duplicate=False):
        used.setdefault(id(parameter), []).append(name)
    blocks = tuple(f"{block}." for block in _blocks(model)) or ("",)
    inside = {name for name in linears if name.startswith(blocks)}
    return {names[0] for names in used.values() if inside.issuperset(names)}


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is Transformers' linear layer with a transposed weight, not imported here."""
    return any(
        kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")
        for kind in type(module).__mro__  # fully_shard makes a subclass
    )


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


def left_dense(model: nn.Module) -> list[str]:
    """Names of the weights in the model's repeated blocks that only a pattern can choose.

    They have more than two dimensions: experts stacked in one tensor, XLNet's attention.
    """
    blocks = tuple(f"{block}." for block in _blocks(model))
    return [n for n, p in named_parameters(model) if p.ndim > 2 and n.startswith(blocks)]


def _matching(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    names = [name for name, p in named_parameters(model) if p.ndim >= 2]
    found = {pattern: {name for name in names if _matches(name, pattern)} for pattern in patterns}
    idle = [pattern for pattern, matched in found.items() if not matched]
    if not names:
        raise UsageError(f"{type(model).__name__} has no matrices at all")
    if idle:
        forms = list(dict.fromkeys(re.sub(r"\b[0-9]+\b", "*", name) for name in names))
        near = dict.fromkeys(n for p in idle for n in get_close_matches(p, forms, 2, cutoff=0))
        raise UsageError(
            f"the patterns {', '.join(map(repr, idle))} match no matrix of {type(model).__name__}; "
            f"the nearest of its names are {', '.join(map(repr, near))}"
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
    ids = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
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
        every = {name: id(parameter) for name, parameter in named_parameters(model)}
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


@dataclass(frozen=True)
class Summary:
    """What is left of a model: counts by scope (see ``Scopes``) after a number of steps."""

    step: int
    counts: dict[str, Count]
    frozen: tuple[str, ...] = ()
    outcome: bool = False

    def __str__(self) -> str:
        title = f"after {self.step} steps"
        rows = [f"{title:<20}{'non-zero':>15}{'of':>15}{'sparsity':>10}"]
        rows += [
            f"{scope:<20}{count.nonzero:>15,}{count.total:>15,}{count.sparsity:>10.2%}"
            for scope, count in self.counts.items()
        ]
        if self.outcome:
            rows.append("sparsity is an outcome of threshold and penalty: no target was set")
        if self.frozen:
            rows.append(f"not trained, not pruned: {len(self.frozen)} ({self.frozen[0]} …)")
        return "\n".join(rows)
