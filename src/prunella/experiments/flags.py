"""Settings as flags: which were given, and what messages call them."""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from prunella.experiments.config import LISTS, RunConfig, flags, parse

_FIELDS = RunConfig.__dataclass_fields__
# What rooms below call by another name than the command.
_ALIASES = {
    "attention": "distill_attention",
    "final": "sparsity",
    "hidden": "distill_hidden",
    "masks": "masks_from",
    "parameters": "prune",
    "right": "virtual_teacher",
    "total_steps": "max_steps",
}
_NAMES = {**{name: name for name in _FIELDS}, **_ALIASES}
_KEPT = r"\b[A-Z]\w*\((?:[^()]|\([^()]*\))*\)|(?<!\w)'[^']*'(?!\w)|--training \S+"  # said as it is
_VALUE = r"\[\.{3}\]|\.{3}|'[^']*'|[^\s,;:)]*[^\s,;:).]"
_COMPOUND = "|".join(name for name in _NAMES if "_" in name)  # no words of their own
_NAMED = re.compile(
    rf"(?P<kept>{_KEPT})|(?<![\w.-])"
    rf"(?:(?P<name>{'|'.join(_NAMES)})=(?P<value>{_VALUE})|(?P<bare>{_COMPOUND})\b(?!=)"
    r"|(?<=unknown )(?P<unknown>criterion|metric|task)\b)"
)


def read(arguments: Sequence[str]) -> RunConfig:
    """Settings from ``--config FILE`` and flags; a flag that is given overrides the file.

    Malformed flags leave through ``SystemExit(2)``.
    """
    files = argparse.ArgumentParser("prunella prune", add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path)
    given: set[str] = set()
    rest: list[str] = []
    config: list[str] = []
    for name, parts in _split(arguments):
        given.add(name)
        (config if name == "config" else rest).extend(parts)
    path = files.parse_args(config).config
    return parse([*(flags(path, given & {*LISTS}) if path is not None else ()), *rest])


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag's setting, and its parts: the value along, whatever that looks like."""
    rest = deque(arguments)
    while rest:
        part = rest.popleft()
        flag, equals, _ = part.partition("=")
        name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        takes = name == "config" or (name in _FIELDS and not _is_switch(name))
        value = takes and not equals and rest and not rest[0].startswith("--")
        yield name, [part, rest.popleft()] if value else [part]


def _is_switch(name: str) -> bool:
    return str(_FIELDS[name].type).startswith("bool")


def in_flags(message: str) -> str:
    """A message that speaks of parameters and settings, as the command calls them.

    ``name=value`` becomes ``--name value``, and so does a name alone that is no word otherwise.

    >>> in_flags("max_steps=0 must be greater than 0; raise it, or choose with parameters=[...]")
    '--max-steps 0 must be greater than 0; raise it, or choose with --prune'
    >>> in_flags("unknown task 'nope': known are lm/causal, lm/masked")
    "unknown --task 'nope': known are lm/causal, lm/masked"
    >>> in_flags("hold=False does not apply to PINS(window=10, hold=True)")
    '--no-hold does not apply to PINS(window=10, hold=True)'
    """
    return _NAMED.sub(_in_flag, message)


def _in_flag(found: re.Match[str]) -> str:
    if found["kept"]:
        return found["kept"]
    name = _NAMES[found["name"] or found["bare"] or found["unknown"]]
    flag, value = f"--{name.replace('_', '-')}", (found["value"] or "...").strip("'")
    if value in ("...", "[...]", "None", "True"):
        return flag
    return f"--no-{flag[2:]}" if value == "False" else f"{flag} {value}"
