"""Folders of runs, found and read; whatever is wrong with one is told, and nothing is trusted."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunella.errors import UsageError
from prunella.report import traces
from prunella.report.metrics import called
from prunella.report.runs import DENSE, Problem, Run, number, part
from prunella.report.summands import Summands, summands
from prunella.runfiles import PACKED, PREDICTIONS, RESULT, TRACE

SCHEMA = 1  # the newest that is read, of results and of traces
SWEEP = "sweep.json"
ERROR = ".error.json"  # what a sweep keeps of a run that failed
LEFTOVERS = {
    ".partial": "a run that is in progress, or was broken off",
    ".removed": "what is left of a run that was discarded",
    ".replaced": "what is left of a run that was replaced",
}
LARGEST = 64 * 2**20  # bytes of a file that may be JSON of ours and goes by another name
NO_RULE = "no paired test is made of {}"
AGREEMENT = 1e-4  # relative, of a metric in a result and made anew of its predictions

Fault = ValueError  # says what is wrong with a file


def read(paths: Sequence[Path]) -> tuple[list[Run], list[Problem]]:
    """The runs in folders, at any depth, and what is wrong there.

    Args:
        paths: Folders, or result files by whatever name.

    Raises:
        UsageError: One is not there.
    """
    runs: list[Run] = []
    problems: list[Problem] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path}; name folders of runs, or their result.json")
    for place in _places(paths, problems):
        runs += _run(place, problems)
    return runs, problems


# --- finding ---------------------------------------------------------------------------------


def _places(paths: Sequence[Path], problems: list[Problem]) -> Iterator[Path]:
    """Folders with a result, and files that are one, each once; in order of name."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        known = len(problems)
        found = list(_walk(path, problems)) if path.is_dir() else [path]
        if not found and len(problems) == known:
            problems.append(Problem(path, "it holds no result of a run"))
        for place in found:
            place = place.parent if place.name == RESULT else place
            try:
                about = place.stat()
            except OSError as error:  # as where a run is replaced at this moment
                problems.append(Problem(place, f"it cannot be read: {error.strerror}"))
                continue
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                yield place


def _walk(root: Path, problems: list[Problem]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        problems.append(Problem(Path(error.filename), f"it cannot be read: {error.strerror}"))

    for name, folders, files in os.walk(root, onerror=unreadable):
        folder = Path(name)
        folders.sort()
        if folder.suffix in LEFTOVERS:
            folders.clear()
            problems.append(Problem(folder, LEFTOVERS[folder.suffix]))
        elif RESULT in files:
            folders.clear()  # what else is there belongs to the run
            yield folder / RESULT
        else:
            yield from _loose(folder, sorted(files), problems)


def _loose(folder: Path, files: Sequence[str], problems: list[Problem]) -> Iterator[Path]:
    """Result files that go by other names; and what a sweep says of runs that are not there."""
    foreign = []
    for name in files:
        path = folder / name
        if name.endswith(ERROR):
            problems.append(_failure(path))
        elif name == SWEEP:
            problems += _missing(path)
        elif name.endswith(".json"):
            try:
                mine = _is_result(_json(path, LARGEST))
            except Fault as fault:
                problems.append(Problem(path, str(fault)))
                continue
            if mine:
                yield path
            else:
                foreign.append(name)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        reason = f"no results of runs: {', '.join(foreign[:3])}{more}"
        problems.append(Problem(folder, reason))


def _is_result(value: Any) -> bool:
    return part(part(value, "config"), "criterion") is not None


def _failure(path: Path) -> Problem:
    """A run of a sweep that failed."""
    try:
        reason = f"the run failed: {part(_json(path), 'error')}"
    except Fault as fault:
        reason = f"the run failed, and {fault}"
    return Problem(path.with_name(path.name.removesuffix(ERROR)), reason)


def _missing(path: Path) -> list[Problem]:
    """The runs that a sweep has planned and not finished, by status."""
    try:
        entries = part(_json(path), "runs")
    except Fault as fault:
        return [Problem(path, str(fault))]
    runs = [run for run in entries or [] if isinstance(run, Mapping)]
    counts: dict[str, int] = {}
    for run in runs:
        status = str(run.get("status"))
        if status not in ("done", "failed"):  # these speak for themselves
            counts[status] = counts.get(status, 0) + 1
    found = []
    if counts:
        what = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        reason = f"of {len(runs)} runs that the sweep has planned some are not done: {what}"
        found.append(Problem(path, reason))
    for run in runs:
        commits = run.get("commits")
        if isinstance(commits, list):
            code = " and ".join(str(commit)[:10] for commit in commits)
            reason = f"the code changed in mid-run ({code}); it stands by the last"
            found.append(Problem(path.parent / str(run.get("name")), reason, left_out=False))
    return found


# --- reading ---------------------------------------------------------------------------------


def _json(path: Path, most: int | None = None) -> Any:
    """What a file holds; None where it is larger than so many bytes.

    Raises:
        Fault: It cannot be read, or is no JSON.
    """
    try:
        if most is not None and path.stat().st_size > most:
            return None
        return json.loads(path.read_bytes())
    except OSError as error:
        raise Fault(f"it cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Fault(f"it is no sound JSON: {' '.join(str(error).split())}") from error


def _run(place: Path, problems: list[Problem]) -> list[Run]:
    """The run of a folder or file and its dense twin, as far as they are sound."""
    path = place / RESULT if place.is_dir() else place
    try:
        result = _json(path)
        _check(result)
    except Fault as fault:
        problems.append(Problem(path, str(fault)))
        return []
    runs: list[Run] = []
    baseline, ladder = result.get("baseline"), result.get("max_drop")
    empty = bool(ladder) and part(ladder, "delivered") is None
    if baseline is not None:
        twin = _twin(result, baseline) | ({"undelivered": ladder} if empty else {})
        problems += _take(runs, Run(place, twin, twin=True), "its dense twin: ")
    if empty:
        reason = "no model lost as little as was asked, so there is none"
        levels = "; the levels that were tried are in the report" if runs else ""
        problems.append(Problem(path, reason + levels, left_out=not runs))
    else:
        problems += _take(runs, Run(place, result, trace=_trace(place, problems)), "")
    return _with_predictions(place, runs, problems)


def _twin(result: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """The result of the dense twin of a run."""
    config = result["config"]
    own = {"config": config | {"criterion": DENSE}, "twin_of": config["criterion"]}
    return {**result, **figures, **own, "max_drop": None}


def _take(runs: list[Run], run: Run, whose: str) -> list[Problem]:
    """Put a run among others if its figures are sound."""
    fault = _unsound(run.result)
    if fault is None:
        runs.append(run)
        return []
    return [Problem(run.folder, whose + fault)]


def _check(result: Any) -> None:
    """Raise Fault where something is no result, or its settings are not to be had."""
    if not _is_result(result):
        raise Fault("it is no result of a run")
    schema = result.get("schema")
    if not isinstance(schema, int) or schema < 1:
        raise Fault(f"it has no schema that is known ({schema!r})")
    if schema > SCHEMA:
        raise Fault(f"its schema {schema} is newer than this program, which knows {SCHEMA}")
    config = result["config"]
    kinds: dict[str, type | tuple[type, ...]] = {
        "task": str,
        "criterion": str,
        "sparsity": (int, float),
        "seed": int,
        "regularize": (list, type(None)),
        "model": (str, type(None)),
    }
    for name, kind in kinds.items():
        if not isinstance(config.get(name), kind) or isinstance(config.get(name), bool):
            raise Fault(f"its setting {name} is {config.get(name)!r}")
    if not 0 <= config["sparsity"] < 1:
        raise Fault(f"its setting sparsity is {config['sparsity']!r}")
    if not all(isinstance(term, str) for term in config.get("regularize") or ()):
        raise Fault(f"its setting regularize is {config['regularize']!r}")
    if not isinstance(result.get("baseline"), Mapping | None):
        raise Fault("its dense twin is no set of figures")


def _unsound(result: Mapping[str, Any]) -> str | None:
    """What is wrong with the figures that a run cannot do without."""
    dev = part(result.get("metrics"), "dev")
    metric = part(result.get("task"), "metric")
    if not isinstance(dev, Mapping) or not dev:
        return "it has no metrics on dev"
    metric = next(iter(dev)) if metric is None else metric
    if not isinstance(metric, str) or number(dev, metric) is None:
        return f"its metric {metric} on dev is {dev.get(str(metric))!r}"
    steps = number(result, "steps")
    return None if steps is not None and steps >= 0 else f"its steps are {result.get('steps')!r}"


def _trace(place: Path, problems: list[Problem]) -> Mapping[str, Any] | None:
    path = place / TRACE
    if not path.is_file():
        return None
    try:
        trace = _json(path)
        schema = part(trace, "schema")
        if schema != SCHEMA:
            raise Fault(f"its schema is {schema!r}, and this program knows {SCHEMA}")
        if wrong := traces.fault(trace):
            raise Fault(wrong)
    except Fault as fault:
        problems.append(Problem(path, str(fault), left_out=False))
        return None
    return trace


# --- predictions -----------------------------------------------------------------------------


def _with_predictions(place: Path, runs: list[Run], problems: list[Problem]) -> list[Run]:
    """The runs, each with what its predictions add to its metric."""
    path = next((place / name for name in (PREDICTIONS, PACKED) if (place / name).is_file()), None)
    if path is None:
        return runs
    try:
        records = _records(path)
    except Fault as fault:
        problems.append(Problem(path, str(fault), left_out=False))
        return runs
    found = []
    for run in runs:
        try:
            made = _agreeing(run, records.get(run.criterion, []))
            why = NO_RULE.format(called(run.metric)) if made is None else ""
            found.append(replace(run, summands=made, unpaired=why))
        except Fault as fault:
            problems.append(Problem(path, f"{run.criterion}: {fault}", left_out=False))
            found.append(replace(run, unpaired="predictions of some runs are not sound"))
    return found


def _records(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """The records of dev by criterion, in the order of the file."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (EOFError, zlib.error, UnicodeDecodeError, OSError) as error:
        raise Fault(f"it cannot be read: {' '.join(str(error).split())}") from error
    text = text.removesuffix("\n")
    try:
        rows = json.loads(f"[{text.replace(chr(10), ',')}]")  # far faster than line by line
    except (ValueError, RecursionError):
        rows = [_line(number, line) for number, line in enumerate(text.split("\n"), start=1)]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if not isinstance(row, dict):
            raise Fault(f"it holds {str(row)[:40]!r} where a record of a row is needed")
        if row.get("split") == "dev":
            found.setdefault(str(row.get("criterion")), []).append(row)
    return found


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Fault(f"line {number} is no sound JSON: {' '.join(str(error).split())}") from error


def _agreeing(run: Run, records: Sequence[Mapping[str, Any]]) -> Summands | None:
    """What the records add to the metric, if they are all of dev and make up the run's value.

    Raises:
        Fault: They are not, or do not.
    """
    if not records:
        raise Fault("it holds no predictions on dev")
    if [record.get("row") for record in records] != list(range(len(records))):
        raise Fault("rows are missing, twice there or out of order, so they are not used")
    rows = run.data("dev")[0]
    if rows not in (None, len(records)) and "nll" not in records[0]:  # which is of a block
        raise Fault(f"it holds {len(records)} of {rows} rows, so they are not used")
    made = summands(run.metric, records)
    if made is None:
        return None
    value = made.value
    if not math.isclose(value, run.value, rel_tol=AGREEMENT, abs_tol=1e-6):
        raise Fault(
            f"its predictions make up {run.metric} {value:.6g}, and the result says "
            f"{run.value:.6g}, so they are not used"
        )
    return made
