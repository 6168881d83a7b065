"""How sparse a model could get: the levels that runs with ``--max-drop`` tried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunella.report.looks import Spec, chart, figure, rounded
from prunella.report.markup import Figures, paragraph, row
from prunella.report.metrics import scale
from prunella.report.runs import DENSE, Run, count, is_number, number, part
from prunella.report.settings import method
from prunella.report.tables import Column, Table, share

MULTIPLES = 8  # pictures side by side


@dataclass(frozen=True)
class Level:
    """A model on the way up, judged on the holdout.

    Attributes:
        sparsity: Asked.
        holdout: Its metric there.
        drop: By how much that is worse than the dense twin's.
        inside: Whether that is no more than was allowed.
        step, nonzero, size_bytes: After which it was kept; its prunable weights; on disk.
    """

    sparsity: float
    holdout: float
    drop: float
    inside: bool
    step: int | None
    nonzero: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class Worth:
    """By how much the delivered model is worse than dense, with its 95 % interval."""

    drop: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Ladder:
    """What a run tried, and which of it was delivered.

    Attributes:
        run: That of the model, or of the dense twin where there is no model.
        method: What it was pruned by.
        metric: By which it was judged on the holdout.
        dense, limit: The dense twin's metric there, and by how much a model may be worse.
        delivered: The sparsity of the model that was kept; None where none was.
        levels: In order of sparsity.
        worth: What it lost on splits that had no part in the choice, by their names.
        said: What else the result says of it, by name: whatever is text or a number.
    """

    run: Run
    method: str
    metric: str
    dense: float | None
    limit: float | None
    delivered: float | None
    levels: tuple[Level, ...]
    worth: Mapping[str, Worth]
    said: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run) -> Ladder | None:
        """That of a run; None where it has none, or none that can be read."""
        about = run.ladder
        points = part(about, "curve")
        if about is None or not isinstance(points, list):
            return None
        dense = number(about, "dense")
        read = (_level(point, dense, run.lower_is_better) for point in points)
        levels = sorted((level for level in read if level), key=lambda level: level.sparsity)
        if not levels:
            return None
        criterion = str(run.result.get("twin_of") if run.twin else run.criterion)
        return cls(
            run=run,
            method=method(criterion, run.regularizers, ()),
            metric=str(about.get("metric") or run.metric),
            dense=dense,
            limit=number(about, "limit"),
            delivered=number(about, "delivered"),
            levels=tuple(levels),
            worth=dict(_worth(about.get("worth"))),
            said=dict(_flat({n: v for n, v in about.items() if n not in _OWN})),
        )

    @property
    def name(self) -> str:
        """Of the run, as its folder is called."""
        return self.run.name.removesuffix(" (dense twin)")

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence."""
        asked = "as was asked" if self.limit is None else f"{self._loss(self.limit)} or less"
        if self.delivered is None:
            least = min(self.levels, key=lambda level: level.drop)
            words = (
                f"No model lost {asked} on the holdout, so none was delivered: the nearest, at "
                f"{share(least.sparsity, 2, short=True)}, lost {self._loss(least.drop)}"
            )
        else:
            words = (
                f"Delivered: {share(self.delivered, 2, short=True)}, the sparsest that lost "
                f"{asked} on the holdout"
            )
            found = [lv for lv in self.levels if lv.sparsity == self.delivered]
            words += "".join(f" ({self._loss(level.drop)})" for level in found)
        more = [f"{name.replace('_', ' ')} {value}" for name, value in self.said.items()]
        return " ".join([f"{words}.", *self._worth(), *(f"{each}." for each in more)])

    def _worth(self) -> Iterator[str]:
        """What the choice was worth on splits that had no part in it."""
        for split, found in self.worth.items():
            low, high = found.interval
            verdict = "which does not say whether the limit is kept"
            if self.limit is not None and high <= self.limit:
                verdict = "so the limit is kept"
            if self.limit is not None and low > self.limit:
                verdict = "so the limit is not kept"
            yield (
                f"On {split}, which had no part in the choice, it lost {self._loss(found.drop)} "
                f"(95 % interval {self._loss(low)} to {self._loss(high)}), {verdict}."
            )

    def _loss(self, value: float) -> str:
        unit = " points" if scale(self.metric) == 100 else ""
        return f"{figure(self.metric, value, 2)}{unit}"


_OWN = ("curve", "dense", "limit", "delivered", "metric", "worth")


def _worth(about: Any) -> Iterator[tuple[str, Worth]]:
    for split, found in about.items() if isinstance(about, Mapping) else ():
        drop, interval = number(found, "drop"), part(found, "interval")
        if drop is None or not isinstance(interval, list) or len(interval) != 2:
            continue
        if all(map(is_number, interval)):
            yield str(split), Worth(drop, (float(interval[0]), float(interval[1])))


def _flat(about: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Text and numbers at any depth, named by the way there."""
    for name, value in about.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        elif isinstance(value, list) and all(isinstance(each, int | float) for each in value):
            yield f"{before}{name}", " to ".join(f"{each:.4g}" for each in value)
        elif isinstance(value, float):
            yield f"{before}{name}", f"{value:.4g}"
        elif isinstance(value, int | str) and value not in ("", False):
            yield f"{before}{name}", str(value)


def _level(point: Any, dense: float | None, lower: bool) -> Level | None:
    sparsity, holdout, drop = (number(point, name) for name in ("level", "holdout", "drop"))
    if sparsity is None or holdout is None:
        return None
    if drop is None:
        drop = 0.0 if dense is None else (holdout - dense) * (1 if lower else -1)
    return Level(
        *(sparsity, holdout, drop, bool(part(point, "inside")), count(point, "step")),
        nonzero=count(part(part(point, "parameters"), "prunable"), "nonzero"),
        size_bytes=count(point, "size_bytes"),
    )


def ladders_of(runs: Iterable[Run]) -> tuple[Ladder, ...]:
    """Those of runs, in order of task, model and method; a copy's once."""
    found = [ladder for run in runs if (ladder := Ladder.of(run)) is not None]
    found.sort(key=lambda each: (each.run.place, each.method, each.run.seed, each.name))
    once: list[Ladder] = []
    for ladder in found:
        if not any(ladder.run.result == other.run.result for other in once):
            once.append(ladder)
    return tuple(once)


# --- table and pictures ----------------------------------------------------------------------


def table(found: Sequence[Ladder]) -> Table:
    """Every level of every run, and the dense twin beside them."""
    columns = (
        *(Column("task", "task"), Column("model", "model"), Column("run", "run")),
        Column("method", "method"),
        *(Column("seed", "seed"), Column("metric", "metric"), Column("dense", "dense", "metric")),
        *(Column("limit", "may lose", "metric"), Column("sparsity", "sparsity", "percent")),
        *(Column("holdout", "holdout", "metric"), Column("drop", "drop", "metric")),
        *(Column("inside", "inside", "mark"), Column("delivered", "delivered", "mark")),
        *(Column("step", "step", "whole"), Column("nonzero", "non-zero, prunable", "whole")),
        Column("bytes", "bytes", "whole"),
    )
    rows = tuple(
        (
            *(each.run.task, each.run.model, each.name, each.method, each.run.seed, each.metric),
            *(each.dense, each.limit, level.sparsity, level.holdout, level.drop, level.inside),
            *(level.sparsity == each.delivered, level.step, level.nonzero, level.size_bytes),
        )
        for each in found
        for level in each.levels
    )
    note = (
        "Runs with --max-drop: models at rising sparsities, judged on the holdout beside the dense "
        "twin; the sparsest that is inside the limit is delivered."
    )
    return Table("ladders", "How sparse it could get", note, columns, rows)


def pictures(found: Sequence[Ladder], figures: Figures) -> str:
    """A picture of each run, the verdict below."""
    made = (
        figures.add(f"ladder-{place}", picture(each), each.name, each.verdict)
        for place, each in enumerate(found[:MULTIPLES])
    )
    note = (
        "Models on the way up, judged on the holdout. Dashed: the dense twin; dotted: the most "
        "that may be lost. Filled: inside that; ringed: delivered."
    )
    if len(found) > MULTIPLES:
        note += f" The first {MULTIPLES} of {len(found)} runs; the table has all."
    return paragraph(note, "note") + row(*made) if found else ""


def picture(ladder: Ladder) -> Spec:
    """How much is lost on the way up? The metric on the holdout by sparsity."""
    unit = scale(ladder.metric)
    rows = [
        {
            "sparsity": rounded(100 * level.sparsity, 6),
            "holdout": rounded(unit * level.holdout, 5),
            "drop": rounded(unit * level.drop),
            "said": "inside" if level.inside else "outside",
            "delivered": level.sparsity == ladder.delivered,
        }
        for level in ladder.levels
    ]
    axis = {"values": [r["sparsity"] for r in rows], "format": ".5~g", "grid": False}
    x = {
        "field": "sparsity",
        "type": "quantitative",
        "title": "Sparsity of the prunable weights, %",
        "axis": axis | {"labelOverlap": "greedy"},
        "scale": {"zero": False, "nice": False, "padding": 16},
    }
    y = {"type": "quantitative", "title": None, "scale": {"zero": False}}
    at = {"x": x, "y": {"field": "holdout", **y}}
    point = {"type": "point", "color": {"expr": "accent"}}
    return chart(
        f"{ladder.metric} on the holdout by sparsity, {ladder.method}",
        height=240,
        title=f"{ladder.metric} on the holdout{', %' if unit == 100 else ''}, {ladder.method}",
        data={"values": rows},
        layer=[
            *_rules(ladder, unit, y),
            {"mark": {"type": "line", "strokeWidth": 1.4}, "encoding": at},
            {
                "transform": [{"filter": "datum.delivered"}],
                "mark": point | {"filled": False, "size": 260, "strokeWidth": 1.5},
                "encoding": at,
            },
            {
                "mark": point | {"filled": True, "size": 70, "opacity": 1},
                "encoding": at
                | {
                    "fill": {
                        "condition": {
                            "test": "datum.said === 'inside'",
                            "value": {"expr": "accent"},
                        },
                        "value": {"expr": "surface"},
                    },
                    "stroke": {"value": {"expr": "accent"}},
                    "tooltip": [{"field": n} for n in ("sparsity", "holdout", "drop", "said")],
                },
            },
        ],
    )


def _rules(ladder: Ladder, unit: float, y: Spec) -> list[Spec]:
    """The dense twin, and the most that may be lost."""
    if ladder.dense is None:
        return []
    sign = 1 if ladder.run.lower_is_better else -1
    lines = {DENSE: (ladder.dense, [5, 4])}
    if ladder.limit is not None:
        lines["limit"] = (ladder.dense + sign * ladder.limit, [1, 3])
    return [
        {
            "data": {"values": [{"what": name, "value": rounded(unit * value, 5)}]},
            "mark": {"type": "rule", "strokeDash": dash, "color": {"expr": "muted"}},
            "encoding": {"y": {"field": "value", **y}, "tooltip": [{"field": "what"}]},
        }
        for name, (value, dash) in lines.items()
    ]
