"""The command that a run came of."""

from __future__ import annotations

import shlex
from typing import Any

from prunella.experiments.config import ASIDE, LISTS, RunConfig
from prunella.report.runs import Run

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


def _flags(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if name in LISTS and isinstance(value, list) else [value]
    return [part for each in values for part in (f"--{flag}", str(each))]
