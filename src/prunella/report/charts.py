"""The main picture: how good each method is by what it leaves; Vega-Lite as plain dicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import vl_convert

from prunella.report.cells import Cell
from prunella.report.looks import LIGHT, VERSION, Spec, Styles, chart, config, figure, rounded
from prunella.report.metrics import scale
from prunella.report.published import Published

_NEAR = 1.5  # points or less apart, names would hide each other


@dataclass(frozen=True)
class Axis:
    """What models are small in.

    Attributes:
        key: Field of the rows.
        name: In a list of choices.
        title: On the axis.
        format: Of its numbers, in d3's language.
        log: Whether it is logarithmic.
    """

    key: str
    name: str
    title: str
    format: str
    log: bool = False


AXES = (
    Axis("weights", "remaining weights", "Remaining prunable weights, %", ".4~g", log=True),
    Axis("parameters", "non-zero parameters", "Non-zero parameters of the whole model", "~s"),
    Axis("flops", "FLOPs", "Floating-point operations for one input, zeros skipped", "~s"),
    Axis("megabytes", "bytes", "Weights on disk, MB", "~r"),
    Axis("latency", "latency", "Milliseconds for one input, measured", "~r"),
)


def cell_row(cell: Cell, task: str, label: str) -> Spec:
    """A cell for `curve`: its values for people, and how small it is by each axis.

    Args:
        task: Which of the tasks to choose from it belongs to.
        label: Its line.
    """
    unit, size = scale(cell.metric), cell.average("size_bytes")
    measured = cell.average("measured")
    zeros = cell.sparsity if measured is None else measured
    return {
        "task": task,
        "label": label,
        "method": cell.method,
        "model": cell.model,
        "sparsity": cell.sparsity,
        "dense": cell.dense,
        "n": cell.n,
        "value": [rounded(unit * value, 5) for value in cell.values],
        "seed": list(cell.seeds),
        "raw": ", ".join(figure(cell.metric, value, 2) for value in cell.values),
        "note": "; ".join(cell.stamps),
        "weights": rounded(100 * (1 - zeros)),
        "parameters": rounded(cell.nonzero("model"), 5),
        "flops": rounded(cell.average("flops")),
        "megabytes": None if size is None else rounded(size / 1e6),
        "latency": rounded(cell.latency_ms),
    }


# Rows of cells -> a row a seed, with y: the metric, or its difference to the baseline's of the
# same seed, sparsity and model; a dense baseline is the same at every sparsity.
_SEEDS: list[Spec] = [
    {"filter": "datum.task === task"},
    {"flatten": ["value", "seed"]},
    {"calculate": "datum.method === baseline ? datum.value : null", "as": "own"},
    {
        "joinaggregate": [{"op": "mean", "field": "own", "as": "level"}],
        "groupby": ["model", "sparsity", "dense", "seed"],
    },
    {"calculate": "datum.dense ? datum.own : null", "as": "own"},
    {
        "joinaggregate": [{"op": "mean", "field": "own", "as": "twin"}],
        "groupby": ["model", "seed"],
    },
    {"calculate": "isFinite(datum.level) ? datum.level : datum.twin", "as": "base"},
    {"calculate": "difference ? datum.value - datum.base : datum.value", "as": "y"},
    {"filter": "!difference || isValid(datum.base) && isFinite(datum.base)"},
    {"filter": "indexof(shown, datum.label) >= 0"},
]


def curve(axis: Axis, styles: Styles, rows: Sequence[Spec], published: Sequence[Spec]) -> Spec:
    """How good is each method by what it leaves? One line a method, band = ± sd over seeds.

    What is shown is said by parameters: ``task``, ``shown`` (labels), ``difference`` to the method
    ``baseline``, ``front`` (Pareto's), ``others`` (published figures); ``metric`` is the title of
    y, and ``better`` is -1 where lower is better.

    Args:
        axis: Of x.
        rows: Of `cell_row`; the dataset ``cells``.
        published: Of `published_rows`; the dataset ``published``.
    """
    x = _x(axis, [*rows, *published])
    y = {"field": "mean", "type": "quantitative", "title": None, "scale": {"zero": False}}
    first = rows[0]
    return chart(
        f"Metric on dev against {axis.title[0].lower()}{axis.title[1:]}, one line a method",
        height=380,
        title={"text": {"expr": "difference ? metric + ', minus ' + baseline : metric"}},
        params=[
            {"name": "task", "value": first["task"]},
            {"name": "shown", "value": list(styles.criteria)},
            {"name": "difference", "value": False},
            {"name": "baseline", "value": first["method"]},
            {"name": "front", "value": False},
            {"name": "others", "value": False},
            {"name": "metric", "value": "Metric on dev"},
            {"name": "better", "value": 1},
        ],
        datasets={"cells": list(rows), "published": list(published)},
        data={"name": "cells"},
        layer=[
            *_reference(),
            *_front(axis, x, y),
            *_lines(axis, styles, x, y),
            *(_others(x, y) if axis.key == "weights" else ()),
        ],
    )


def _x(axis: Axis, rows: Sequence[Spec]) -> Spec:
    about: Spec = {"title": axis.title, "format": axis.format, "grid": False}
    scaled: Spec = {"nice": False, "padding": 12}
    if axis.log:
        levels = sorted({round(100 * (1 - row["sparsity"]), 2) for row in rows})
        shown = [row[axis.key] for row in rows if row.get(axis.key) is not None]
        if min(shown, default=1) > 0:
            scaled["type"] = "log"
        else:  # nothing at all remains of some, and 0 has no logarithm
            levels = sorted({0, *levels})
            least = min((value for value in shown if value > 0), default=1)
            scaled |= {"type": "symlog", "constant": least}
        # A logarithmic axis leaves out labels beyond a count of its own.
        about |= {"values": levels, "labelOverlap": "greedy", "tickCount": 50}
    else:
        scaled["zero"] = False
        about["tickCount"] = {"expr": "max(3, floor(width / 110))"}
    return {"field": axis.key, "type": "quantitative", "scale": scaled, "axis": about}


def _means(axis: Axis, *also: Spec) -> list[Spec]:
    """One row a cell: mean, and mean ± sd."""
    whole = ["label", "sparsity", "dense", axis.key, "n", "raw", "note"]
    return [
        *_SEEDS,
        {"filter": f"isValid(datum.{axis.key})"},
        {
            "aggregate": [
                {"op": "mean", "field": "y", "as": "mean"},
                {"op": "stdev", "field": "y", "as": "sd"},
                {"op": "count", "as": "count"},
            ],
            "groupby": whole,
        },
        {"calculate": "datum.count > 1 ? datum.sd : 0", "as": "sd"},
        {"calculate": "datum.mean - datum.sd", "as": "low"},
        {"calculate": "datum.mean + datum.sd", "as": "high"},
        *also,
    ]


def _reference() -> list[Spec]:
    """The dense model's mean ± sd from side to side; 0 where differences are shown."""
    dense = [
        *_SEEDS,
        {"filter": "datum.dense && !difference"},
        {
            "aggregate": [
                {"op": "mean", "field": "y", "as": "mean"},
                {"op": "stdev", "field": "y", "as": "sd"},
                {"op": "count", "as": "count"},
            ],
            "groupby": ["label"],
        },
        {"calculate": "datum.mean - (datum.count > 1 ? datum.sd : 0)", "as": "low"},
        {"calculate": "datum.mean + (datum.count > 1 ? datum.sd : 0)", "as": "high"},
    ]
    y = {"type": "quantitative", "title": None}
    return [
        {
            "transform": dense,
            "mark": {"type": "rect", "opacity": 0.12, "color": {"expr": "muted"}},
            "encoding": {"y": {"field": "low", **y}, "y2": {"field": "high"}},
        },
        {
            "transform": dense,
            "mark": {"type": "rule", "strokeDash": [5, 4], "color": {"expr": "muted"}},
            "encoding": {"y": {"field": "mean", **y}},
        },
        {
            "transform": [{"filter": "difference"}, {"calculate": "0", "as": "mean"}],
            "mark": {"type": "rule", "color": {"expr": "muted"}},
            "encoding": {"y": {"field": "mean", "aggregate": "min", **y}},
        },
    ]


def _front(axis: Axis, x: Spec, y: Spec) -> list[Spec]:
    """Pareto's front: what no smaller model equals."""
    by_size = {"sort": [{"field": axis.key}, {"field": "merit", "order": "descending"}]}
    best: list[Spec] = [
        {"filter": "front"},
        {"calculate": "better * datum.mean", "as": "merit"},
        {"window": [{"op": "max", "field": "merit", "as": "best"}], "frame": [None, 0], **by_size},
        {"window": [{"op": "lag", "field": "best", "as": "smaller"}], **by_size},
        {"filter": "!isValid(datum.smaller) || datum.merit > datum.smaller"},
    ]
    mark = {"type": "line", "interpolate": "step-after", "strokeWidth": 7, "opacity": 0.25}
    return [
        {
            "transform": _means(axis, *best),
            "mark": mark | {"color": {"expr": "muted"}},
            "encoding": {"x": x, "y": y, "order": {"field": axis.key}},
        }
    ]


def _lines(axis: Axis, styles: Styles, x: Spec, y: Spec) -> list[Spec]:
    style = styles.encoding({"expr": "shown"})
    pruned = {"filter": "!datum.dense"}
    band = {
        "y": y | {"field": "low", "stack": None},
        "y2": {"field": "high"},
        "color": style["color"],
    }
    tooltip = [
        {"field": "label", "title": "method"},
        {"field": "sparsity", "type": "quantitative", "format": ".3~%"},
        {"field": axis.key, "type": "quantitative", "format": ",.4~r", "title": axis.name},
        {"field": "mean", "type": "quantitative", "format": ".2f"},
        {"field": "sd", "type": "quantitative", "format": ".2f"},
        {"field": "count", "type": "quantitative", "title": "n"},
        {"field": "raw", "title": "metric by seed"},
        {"field": "note"},
    ]
    order = {"order": {"field": "sparsity"}}
    return [
        {
            "transform": _means(axis, pruned),
            "mark": {"type": "area", "opacity": 0.13},
            "encoding": {"x": x, **band},
        },
        {
            "transform": _means(axis),
            "mark": {"type": "rule", "opacity": 0.7},
            "encoding": {"x": x, **band},
        },
        {
            "transform": _means(axis, pruned),
            "mark": {"type": "line", "strokeWidth": 1.8},
            "encoding": {"x": x, "y": y, **order}
            | {channel: style[channel] for channel in ("color", "strokeDash")},
        },
        {
            "transform": [*_SEEDS, {"filter": f"isValid(datum.{axis.key})"}],
            "mark": {"type": "tick", "orient": "horizontal", "thickness": 1, "size": 9},
            "encoding": {"x": x, "y": y | {"field": "y"}, "color": style["color"]},
        },
        {
            "transform": _means(axis),
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
            "encoding": {"x": x, "y": y, "tooltip": tooltip}
            | {channel: style[channel] for channel in ("color", "shape")},
        },
    ]


def svg(spec: Spec, width: int = 760) -> str:
    """A chart as a file of its own, by day."""
    whole = spec | {"width": width, "background": LIGHT.surface, "config": config(LIGHT)}
    return vl_convert.vegalite_to_svg(whole, vl_version=VERSION)


def published_rows(found: Sequence[Published], task: str) -> list[Spec]:
    """Published figures of one task for `curve`, in the order of sparsity.

    Each method is named where it is smallest, and those that lie on top of each other together.
    """
    rows: list[Spec] = [
        {
            "task": task,
            "label": other.method,
            "model": other.model,
            "source": other.source,
            "sparsity": other.sparsity,
            "weights": rounded(100 * (1 - other.sparsity)),
            "mean": rounded(scale(other.metric) * other.value),
            "name": "",
        }
        for other in sorted(found, key=lambda other: (other.sparsity, -other.value))
    ]
    ends = {row["label"]: row for row in rows}
    last: Spec = {}
    for row in ends.values():
        near = bool(last) and row["sparsity"] == last["sparsity"]
        if not near or last["mean"] - row["mean"] > _NEAR:
            last = row
        last["name"] = ", ".join(filter(None, (last["name"], row["label"])))
    return rows


def _others(x: Spec, y: Spec) -> list[Spec]:
    """Others' figures, hollow and joined by thin lines, with their names where they end."""
    shown = [{"filter": "others && !difference && datum.task === task"}]
    tooltip = [{"field": name} for name in ("label", "model", "weights", "mean", "source")]
    base = {"data": {"name": "published"}, "transform": shown}
    muted = {"color": {"expr": "muted"}}
    place = {"x": x, "y": y}
    return [
        base
        | {
            "mark": {"type": "line", "strokeWidth": 1, "strokeDash": [1, 3], **muted},
            "encoding": place | {"detail": {"field": "label"}},
        },
        base
        | {
            "mark": {"type": "point", "filled": False, "size": 60, **muted},
            "encoding": place | {"tooltip": tooltip},
        },
        base
        | {
            "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 10, **muted},
            "encoding": place | {"text": {"field": "name"}},
        },
    ]
