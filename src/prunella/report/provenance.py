"""The command that a run came of, and what it left as it was."""

from __future__ import annotations

import shlex
from typing import Any

from prunella.experiments.config import ASIDE, LISTS, RunConfig
from prunella.report.runs import Run, number, part
from prunella.report.tables import share

_DEFAULTS = RunConfig().settings()


def command(run: Run) -> str:
    """``prunella prune`` with the settings that differ from the defaults.

    That of the pruned run for a dense twin, which is a part of it.
    """
    config = dict(run.config)
    if run.twin:
        config["criterion"] = run.result["twin_of"]
    parts = ["prunella", "prune"]
    for name, default in _DEFAULTS.items():
        value = config.get(name, default)
        if name not in ASIDE and value != default:
            parts += _flags(name, value)
    return shlex.join(parts)


def left_dense(run: Run) -> str:
    """What was left dense in the repeated blocks, with its share of the model; "" for nothing."""
    found = run.result.get("left_dense")
    told = []
    for each in found if isinstance(found, list) else ():
        of = number(each, "share")
        names = [str(value) for name in ("kind", "reason") if (value := part(each, name))]
        about = f" ({': '.join(names)})" if names else ""
        if part(each, "form") and of is not None:
            told.append(f"{share(of)} in {part(each, 'form')}{about}")
    return ", ".join(told)


def _flags(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if name in LISTS and isinstance(value, list) else [value]
    return [part for each in values for part in (f"--{flag}", str(each))]
