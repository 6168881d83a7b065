"""Another module of the same shape: an average, a teacher, a copy that a loss keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile

from torch import nn

from prunella.adapters import Adapter, layers_of
from prunella.errors import UsageError
from prunella.prunable import Prunable, named_parameters


def counterparts(module: nn.Module, names: Collection[str]) -> dict[str, Prunable]:
    """Parameters of a module by the names they have in another one.

    Each may stand in wrappers, so that all its names begin with one prefix, and have adapters where
    the other has none.

    Raises:
        UsageError: it lacks some.
    """
    holders = dict(module.named_modules(remove_duplicate=False))
    layers = {name: Adapter(layer) for name, layer in layers_of(module).items()}
    found = {}
    plain = named_parameters(module, remove_duplicate=False)
    for name, (whole, _) in zip(
        (_bare(name) for name, _ in plain),
        module.named_parameters(remove_duplicate=False),
        strict=True,
    ):
        prefix, _, attribute = whole.rpartition(".")
        adapter = layers.get(prefix) if attribute == "weight" else None
        found[name] = Prunable(holders[prefix], attribute, False, adapter=adapter)
    ours = {_bare(name): name for name in names}
    pairs: dict[str, Prunable] = max(_matches(found, list(ours)), key=len, default={})
    missing = [name for bare, name in ours.items() if bare not in pairs]
    if missing:
        raise UsageError(
            f"{type(module).__name__} lacks {missing[0]} and {len(missing) - 1} more of the "
            f"{len(ours)} pruned weights; give a module of the pruned model's shape"
        )
    return {ours[bare]: pairs[bare] for bare in ours}


def _bare(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _matches(found: Mapping[str, Prunable], ours: list[str]) -> Iterator[dict[str, Prunable]]:
    """What matches where names differ by what stands before one that they share the end of.

    Those that share the longest end come first.
    """
    first = ours[0].split(".")
    ends = {}
    for theirs in found:
        pairs = zip(reversed(first), reversed(theirs.split(".")), strict=False)
        ends[theirs] = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    for theirs, shared in sorted(ends.items(), key=lambda item: -item[1]):
        if not shared:
            return
        end = ".".join(first[-shared:])
        before, there = ours[0].removesuffix(end), theirs.removesuffix(end)
        names = {n: f"{there}{n.removeprefix(before)}" for n in ours if n.startswith(before)}
        yield {name: found[other] for name, other in names.items() if other in found}
