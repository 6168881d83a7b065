"""The command ``prunella``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from prunella.errors import Diverged, Unsaved, UsageError
from prunella.experiments import build
from prunella.experiments.config import LISTS, RunConfig, flags
from prunella.prunable import SCOPES

USAGE = """usage: prunella prune [flags]

  prune   prune a pretrained model while it is fine-tuned; without flags, a demonstration

prunella prune --help lists the flags."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 (diverged) or 2 (bad input).

    Malformed flags leave through ``SystemExit(2)``, ``--help`` through ``SystemExit(0)``.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] != "prune":
        print(f"prunella: unknown command {arguments[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        prune(_config(arguments[1:]))
    except UsageError as error:
        return _failed(2, error)
    except (Diverged, Unsaved) as error:
        return _failed(1, error)
    except KeyboardInterrupt as error:
        return _failed(130, error, "stopped")
    return 0


def _failed(status: int, error: BaseException, message: str = "") -> int:
    """Say what went wrong and what is left of it, in one line."""
    line = "; ".join([message or str(error), *getattr(error, "__notes__", [])])
    print(f"prunella: {' '.join(line.split())}", file=sys.stderr)
    return status


def _config(arguments: Sequence[str]) -> RunConfig:
    """Settings from ``--config FILE`` and flags; a flag that is given overrides the file."""
    files = argparse.ArgumentParser("prunella prune", add_help=False, allow_abbrev=False)
    files.add_argument("--config", type=Path)
    known, rest = files.parse_known_args(arguments)
    given = {name for name in LISTS if f"--{name}" in (part.split("=")[0] for part in rest)}
    from_file = [] if known.config is None else flags(known.config, given)
    return tyro.cli(
        RunConfig,
        args=[*from_file, *rest],
        prog="prunella prune",
        # A setting left open is one left out; this makes --hold and --baseline plain switches.
        config=(tyro.conf.DisallowNone, tyro.conf.UseAppendAction),
    )


def prune(config: RunConfig) -> None:
    """Carry out one run and print what came of it."""
    # First this, then the imports: a mistyped flag should not wait for Transformers.
    config.check()
    if config.criterion != "dense":
        build.pruning(config)
    from transformers.utils import logging

    from prunella.experiments.run import run

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    console = Console(highlight=False, soft_wrap=True)
    folder, result = run(config, console)
    console.print(_table(result))
    if "max_drop" in result:
        console.print(_curve(result["max_drop"]))
        console.print(_verdict(result["max_drop"]))
    console.print(f"Checkpoint, result.json and dev predictions: {folder}")
    if config.task == "demo":
        console.print(
            "The same on your own data:\n  prunella prune --model HUB_NAME_OR_FOLDER --task "
            "glue/sst2 --data FOLDER --sparsity 0.9 --baseline --output FOLDER"
        )


def _table(result: dict[str, Any]) -> Table:
    """Dense beside pruned, where both were run."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column()
    runs = {"dense": result["baseline"]} if "baseline" in result else {}
    if "metrics" in result:  # not where no sparse model was good enough
        runs[result["config"]["criterion"]] = result
    for name in [*runs, "of"]:
        table.add_column(name, justify="right")
    for scope in SCOPES:
        counts = [run["parameters"][scope] for run in runs.values()]
        cells = [f"{count['nonzero']:,}" for count in counts]
        table.add_row(f"non-zero parameters, {scope}", *cells, f"{counts[-1]['total']:,}")
    for scope in SCOPES:
        cells = [f"{run['sparsity'][scope]:.2%}" for run in runs.values()]
        table.add_row(f"sparsity, {scope}", *cells)
    for split, metrics in next(iter(runs.values()))["metrics"].items():
        for metric in metrics:
            cells = [f"{run['metrics'][split][metric]:.4f}" for run in runs.values()]
            table.add_row(f"{split} {metric}", *cells)
    cells = [f"{run['size_bytes'] / 1e6:.1f}" for run in runs.values()]
    table.add_row("weights on disk, MB", *cells)
    table.add_row("seconds", *(f"{run['seconds']:.0f}" for run in runs.values()))
    return table


def _curve(found: dict[str, Any]) -> Table:
    """The models on the way up, judged on the holdout."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("level", "non-zero, prunable", f"holdout {found['metric']}", "drop", "MB", "")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row("dense", "", f"{found['dense']:.4f}", "", "", "")
    for point in found["curve"]:
        table.add_row(
            f"{100 * point['level']:g}%",
            f"{point['parameters']['prunable']['nonzero']:,}",
            f"{point['holdout']:.4f}",
            f"{point['drop']:+.4f}",
            f"{point['size_bytes'] / 1e6:.1f}",
            "inside" if point["inside"] else "",
        )
    return table


def _verdict(found: dict[str, Any]) -> str:
    if found["delivered"] is None:
        return (
            f"No model lost {found['limit']:g} or less on the holdout, so none is delivered; the "
            "levels are kept. More steps, a lower level or a larger --max-drop may help."
        )
    level = f"{100 * found['delivered']:g}%"
    return f"Delivered: {level}, the sparsest that lost {found['limit']:g} or less"
