"""What places are called where figures of several stand side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from prunella.report.runs import Place
from prunella.report.tables import Column

_FIELDS = ("metric", "data", "pieces")
_SHORT = 8  # of a hash
_TITLES = {"metric": "metric", "data": "dev set", "pieces": "read in"}


def odd(places: Iterable[Place]) -> tuple[str, ...]:
    """The fields, besides task and model, in which places of one task differ."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for place in places:
        for name in _FIELDS:
            values[place.task, name].add(getattr(place, name))
    return tuple(n for n in _FIELDS if any(len(v) > 1 for (_, f), v in values.items() if f == n))


def qualifiers(places: Iterable[Place]) -> Mapping[Place, str]:
    """What has to be said of each place besides its task and model: " (f1, dev 1a2b3c4d)" or "".

    >>> mrpc = [Place("glue/mrpc", "demo", metric, "1a2b3c4d5e") for metric in ("accuracy", "f1")]
    >>> list(qualifiers(mrpc).values())
    [' (accuracy)', ' (f1)']
    """
    places = list(dict.fromkeys(places))
    found = {}
    for place in places:
        alike = [other for other in places if other.task == place.task]
        told = ", ".join(filter(None, (_said(place, name, alike) for name in odd(alike))))
        found[place] = f" ({told})" if told else ""
    return found


def _said(place: Place, name: str, alike: Iterable[Place]) -> str:
    value = str(getattr(place, name))
    if name != "data":
        return value
    whole = {other.data for other in alike}
    short = len({data[:_SHORT] for data in whole}) == len(whole)
    return f"dev {(value[:_SHORT] if short else value) or 'unknown'}"


def columns(names: Iterable[str]) -> tuple[Column, ...]:
    """The columns of tables that tell places apart, for the fields that `odd` found."""
    more = (Column(name, _TITLES[name]) for name in names)
    return (Column("task", "task"), Column("model", "model"), *more)


def values(place: Place, names: Iterable[str]) -> tuple[Any, ...]:
    """A place as `columns` has it."""
    return (place.task, place.model, *(getattr(place, name) for name in names))
