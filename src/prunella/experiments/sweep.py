"""Many runs, described: a YAML file with a grid of settings, and the plan of runs it comes to."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from prunella.errors import UsageError, unknown
from prunella.experiments import arguments, build
from prunella.experiments.config import ASIDE, LISTS, PRUNING, TERMS, RunConfig, typed

TEACHER = "@dense"  # as teacher: the dense run of this sweep that is otherwise the same
PARTS = ("output", "keep", "resources", "common", "grid")
MANAGED = ("output", "overwrite", "resume")  # settings that are the sweep's affair
LONGEST = 100  # characters of the readable part of a name

# How a setting is called in a name, if not by its own; nothing where the value tells enough.
_SHORT = {
    "task": "",
    "model": "",
    "schedule": "",
    "scope": "",
    "pattern": "",
    "precision": "",
    "after": "",
    "max_steps": "steps",
    "batch_size": "batch",
    "weight_decay": "decay",
    "max_drop": "drop",
    "max_train_samples": "rows",
}
_UNNAMED = {"criterion", "sparsity", "regularize", "seed", "data", *ASIDE}
_LAST = ("model", "task", "epochs", "max_steps")  # often the same in a whole sweep


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Args:
        name: of its folder; a function of what it computes, whatever else the sweep holds.
        config: its settings; those without effect on it at their defaults.
        teacher: name of the run whose model it learns from.
    """

    name: str
    config: RunConfig
    teacher: str | None = None

    def differences(self, settings: Mapping[str, Any]) -> list[str]:
        """Where the settings of a result would compute something else than this run."""
        theirs = RunConfig().settings() | dict(settings)
        if not self.config.baseline:  # a twin more does no harm
            theirs["baseline"] = self.config.baseline
        if self.teacher is not None and Path(str(theirs["teacher"])).name == self.teacher:
            theirs["teacher"] = self.config.teacher  # wherever the folders have moved to
        return self.config.differences(theirs)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are computed with and are not the default."""
        told = _telling(self.config, self.teacher)
        if told.get("baseline") is False:  # as by default in a sweep
            del told["baseline"]
        return told


@dataclass(frozen=True)
class Resources:
    """What each run may use.

    Args:
        cpus: threads.
        gpus: how many, with a process for each; a fraction where several runs share one.
    """

    cpus: int = 1
    gpus: float = 0


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, in the order in which they are begun; a teacher before its students.

    Args:
        output: the folder of their folders.
        keep: "evidence" removes what is not needed for a report (the weights) after a run.
        source: what the file says, as text.
    """

    output: Path
    runs: tuple[Planned, ...]
    keep: Literal["models", "evidence"] = "models"
    resources: Resources = Resources()
    source: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, output: Path | None = None) -> Plan:
        """The plan of a file.

        Args:
            output: instead of the folder that the file names.

        Raises:
            UsageError: the file cannot be read, or one of its runs would be refused; the message
                names the file, the block and the value.
        """
        try:
            parts = _load(path)
            output = output or Path(_text(parts, "output") or Path("runs", path.stem))
            keep = _text(parts, "keep") or "models"
            if keep not in ("models", "evidence"):
                raise UsageError(f"keep is {keep!r}; give models or evidence")
            resources = _resources(parts.get("resources") or {})
            return cls(output, _runs(parts, output), keep, resources, parts)  # type: ignore[arg-type]
        except UsageError as error:
            raise UsageError(f"the sweep {path}: {error}") from None

    def students(self, name: str) -> list[Planned]:
        """The runs that learn from another."""
        return [run for run in self.runs if run.teacher == name]


# --- the file ------------------------------------------------------------------------------------


class _Loader(yaml.BaseLoader):
    """All values as text, for a flag is text too; a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise UsageError(f"line {line} gives {key.value!r} a second time; keep one of them")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load(path: Path) -> dict[str, Any]:
    try:
        parts = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        hint = '; a value that begins with @ goes into quotes: "@dense"' if "'@'" in reason else ""
        raise UsageError(f"it cannot be read: {reason}{hint}") from error
    if not isinstance(parts, dict):
        raise UsageError(f"it must map {', '.join(PARTS)} to values, one a line")
    for name in parts:
        if name not in PARTS:
            hint = "; settings go into common or grid" * (name in RunConfig.__dataclass_fields__)
            raise UsageError(unknown("part", str(name), PARTS) + hint)
    return parts


def _text(parts: Mapping[str, Any], name: str) -> str:
    value = parts.get(name) or ""
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}, but it takes one text")
    return value


def _resources(given: Any) -> Resources:
    if not isinstance(given, dict):
        raise UsageError(f"resources is {given!r}; write {{cpus: 1, gpus: 0}}")
    for name in given:
        if name not in ("cpus", "gpus"):
            raise UsageError(unknown("resource", str(name), ("cpus", "gpus")))
    try:
        cpus, gpus = int(given.get("cpus", 1)), float(given.get("gpus", 0))
    except (TypeError, ValueError):
        raise UsageError(f"resources is {given!r}, but cpus and gpus are numbers") from None
    if cpus < 1 or not 0 <= gpus < math.inf:
        raise UsageError(f"resources is {given!r}; give at least 1 of cpus, and gpus from 0 on")
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"gpus is {gpus:g}; give a whole number, or a fraction of one to share it")
    return Resources(cpus, gpus)


# --- the grid ------------------------------------------------------------------------------------


def _runs(parts: Mapping[str, Any], output: Path) -> tuple[Planned, ...]:
    """All runs of the grid, those that several blocks hold once."""
    common = _axes("common", parts.get("common") or {})
    grid = parts.get("grid")
    if not isinstance(grid, list) or not grid:
        raise UsageError(
            "grid must be a list of blocks, such as:  - {criterion: [dense, pins], seed: [0, 1]}"
        )
    runs: dict[str, Planned] = {}
    all_cells: list[RunConfig] = []
    for number, block in enumerate(grid, 1):
        where = f"block {number} of grid"
        own = _axes(where, block)
        cells = list(_cells(common | own))
        _check_used(where, own, cells)
        all_cells += cells
        for cell in cells:
            for run in _planned(where, cell, output):
                runs.setdefault(run.name, run)
    _check_used("common", common, all_cells)
    return tuple(runs.values())


def _axes(where: str, block: Any) -> dict[str, list[Any]]:
    """The settings of a block, each with all its values."""
    if not isinstance(block, dict):
        raise UsageError(f"{where} is {block!r}, but it must map settings to values")
    axes = {}
    for name, value in block.items():
        if name in MANAGED:
            raise UsageError(f"{where}: {name} is set by the sweep; leave it out")
        if name not in RunConfig.__dataclass_fields__:
            raise UsageError(f"{where}: {unknown('setting', str(name), _settable())}")
        if value == []:
            remedy = "for a run without it write [[]]" if name in LISTS else "give at least one"
            raise UsageError(f"{where}: {name} has no values; {remedy}")
        try:
            items = value if isinstance(value, list) else [value]
            axes[name] = [
                item if (name, item) == ("teacher", TEACHER) else typed(name, item)
                for item in items
            ]
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
    return axes


def _settable() -> list[str]:
    return [name for name in RunConfig.__dataclass_fields__ if name not in MANAGED]


def _cells(axes: Mapping[str, list[Any]]) -> Iterator[RunConfig]:
    """Every combination of values, the last axis changing fastest."""
    for values in itertools.product(*axes.values()):
        yield RunConfig(**dict(zip(axes, values, strict=True)))


def _check_used(where: str, axes: Mapping[str, list[Any]], cells: list[RunConfig]) -> None:
    """Raise UsageError where a setting is without effect in every cell.

    In some it may be: what belongs to a regularizer, in the runs without it.
    """
    default = RunConfig()
    for name, values in axes.items():
        if all(value == getattr(default, name) for value in values):
            continue
        idle = [
            name in cell.idle() and not (cell.criterion == "dense" and name in PRUNING)
            for cell in cells
        ]
        if all(idle):
            raise UsageError(
                f"{where}: {name}={_shown(values)} has no effect in any run there{_owner(name)}; "
                "leave it out"
            )


def _owner(name: str) -> str:
    owners = [term for term, names in TERMS.items() if name in names]
    return f", for it belongs to regularize: {owners[0]}" if owners else ""


def _shown(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _planned(where: str, cell: RunConfig, output: Path) -> Iterator[Planned]:
    """The run of a cell, and before it the teacher it asks for.

    Raises:
        UsageError: such a run would be refused.
    """
    config, teacher = cell.effective(), None
    if config.teacher == TEACHER:
        dense = replace(cell, criterion="dense", regularize=(), teacher=None, max_drop=None)
        (run,) = _planned(f"{where}, the teacher {TEACHER}", replace(dense, levels=()), output)
        yield run
        teacher = run.name
    name = _name(config, teacher)
    if config.runs_baseline and config.baseline is None and config.max_drop is None:
        config = replace(config, baseline=False)  # the sweep's dense run is the twin of all
    folder = output / name
    if teacher is not None:
        config = replace(config, teacher=str(output / teacher))
    run = Planned(name, replace(config, output=str(folder)), teacher)
    try:
        run.config.check()
        arguments.values(run.config.training)
        if config.criterion != "dense":
            build.pruning(run.config)
    except UsageError as error:
        raise UsageError(f"{where}, {name}: {error}") from None
    yield run


# --- names ---------------------------------------------------------------------------------------


def _name(config: RunConfig, teacher: str | None) -> str:
    """A folder's name: what a reader looks for first, and a hash of all that is computed with."""
    parts = [config.criterion]
    if config.criterion != "dense" and config.max_drop is None:
        parts.append(_brief(config.sparsity))
    parts += config.regularize
    named = [name for name in _telling(config, None) if name not in _UNNAMED]
    parts += [
        _part(name, getattr(config, name))
        for name in sorted(named, key=lambda name: name in _LAST)
        if getattr(config, name) != TEACHER
    ]
    told = re.sub(r"[^A-Za-z0-9.+_]+", "-", "-".join(parts))
    exact = json.dumps(_telling(config, teacher), sort_keys=True)
    digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
    return f"{told[:LONGEST].rstrip('-')}-seed{config.seed}-{digest}"


def _telling(config: RunConfig, teacher: str | None) -> dict[str, Any]:
    """The settings that are computed with and are not the default, as JSON has them."""
    default = RunConfig().settings()
    settings = {
        name: value
        for name, value in config.settings().items()
        if name not in ASIDE and value != default[name]
    }
    return settings if teacher is None else settings | {"teacher": f"@{teacher}"}


def _part(name: str, value: Any) -> str:
    label = _SHORT.get(name, name.replace("_", "-"))
    if isinstance(value, bool):
        return label if value else f"no-{label}"
    if isinstance(value, (int, float)):
        return label + _brief(value)
    values = value if isinstance(value, tuple) else [value]
    texts = [_brief(v) if isinstance(v, float) else Path(str(v)).name for v in values]
    return "-".join(filter(None, (label, *texts)))


def _brief(value: float) -> str:
    """A number as one would write it: 0.9, 400, 2e-4."""
    if not 0 < abs(value) < 0.01:
        return f"{value:g}"
    digits, exponent = f"{value:e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"
