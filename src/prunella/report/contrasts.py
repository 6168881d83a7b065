"""Pictures of what differs: tests, the grid criterion × regularizer, learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunella.report.cells import Cell
from prunella.report.looks import Spec, Styles, chart, figure, rounded
from prunella.report.metrics import scale
from prunella.report.statistics import Comparison


def forest(found: Sequence[Comparison], unit: str) -> Spec:
    """How sure is each difference? The 95 % interval of each; filled where significant.

    Args:
        found: Tested, of one task and metric.
        unit: Of the differences, such as "points of accuracy".
    """
    rows = [
        {
            "place": place,
            "name": f"{c.a} − {c.b}",
            "difference": rounded(c.scale * c.difference),
            "low": rounded(c.scale * (c.low or 0.0)),
            "high": rounded(c.scale * (c.high or 0.0)),
            "said": "significant" if c.significant else "not significant",
            "verdict": c.verdict,
        }
        for place, c in enumerate(found)
    ]
    y = {"field": "place", "type": "ordinal", "axis": None}
    x = {"type": "quantitative", "title": f"Difference, {unit}", "axis": {"tickCount": 5}}
    tooltip = [{"field": "verdict"}]
    return chart(
        "Differences between methods with their 95 % intervals",
        height={"step": 32},
        data={"values": rows},
        encoding={"y": y, "tooltip": tooltip},
        layer=[
            {
                "mark": {"type": "rule", "strokeDash": [3, 3]},
                "encoding": {"x": {"datum": 0, **x}, "y": None, "tooltip": None},
            },
            _name({"stroke": {"expr": "surface"}, "strokeWidth": 5}),
            _name({}),
            {
                "mark": {"type": "rule", "strokeWidth": 2, "yOffset": 7},
                "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "color": _said()},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1, "yOffset": 7},
                "encoding": {
                    "x": {"field": "difference", **x},
                    "color": _said(),
                    "shape": _said(["circle", "diamond"]),
                },
            },
        ],
    )


def _name(look: Spec) -> Spec:
    """The pair's name above its interval, where a phone has room for it."""
    return {
        "mark": {"type": "text", "align": "left", "dy": -8, "limit": {"expr": "width"}, **look},
        "encoding": {"x": {"value": 0}, "text": {"field": "name"}},
    }


def _said(shapes: Sequence[str] = ()) -> Spec:
    ranges: list[Any] = list(shapes) or [{"expr": "accent"}, {"expr": "muted"}]
    return {
        "field": "said",
        "type": "nominal",
        "scale": {"domain": ["significant", "not significant"], "range": ranges},
        "legend": {"orient": "top"},
    }


def grid(cells: Sequence[Cell]) -> Spec:
    """What does each criterion bring with each regularizer? The mean on dev of each pair.

    Args:
        cells: Of one task, model and sparsity, with no other change than their regularizers.
    """
    rows: list[Spec] = [
        {
            "criterion": cell.method.split(" + ")[0],
            "regularizer": " + ".join(cell.regularizers) or "none",
            "mean": rounded(scale(cell.metric) * cell.mean),
            "spread": f"n = {cell.n}"
            if cell.sd is None
            else f"± {figure(cell.metric, cell.sd)}, n = {cell.n}",
        }
        for cell in cells
    ]
    means = [row["mean"] or 0.0 for row in rows]
    middle = min(means) + 0.5 * (max(means) - min(means))
    columns = sorted({row["regularizer"] for row in rows}, key=lambda r: (r != "none", len(r), r))
    lower = cells[0].lower_is_better
    strong = f"datum.mean {'<' if lower else '>'} {middle}"
    text = {"type": "text", "baseline": "middle"}
    colour = {"condition": {"test": strong, "value": {"expr": "surface"}}, "value": {"expr": "ink"}}
    return chart(
        f"Mean {cells[0].metric} on dev by criterion and regularizer",
        height={"step": 44},
        data={"values": rows},
        encoding={
            "x": {"field": "regularizer", "sort": columns, "title": "Regularizer"}
            | {"axis": {"labelAngle": 0, "orient": "top", "labelLimit": 110}},
            "y": {"field": "criterion", "sort": None, "title": None},
            "tooltip": [{"field": name} for name in ("criterion", "regularizer", "mean", "spread")],
        },
        layer=[
            {
                "mark": {"type": "rect", "stroke": {"expr": "surface"}, "strokeWidth": 2},
                "encoding": {
                    "color": {"field": "mean", "type": "quantitative", "legend": None}
                    | {"scale": {"zero": False, "reverse": lower}}
                },
            },
            {
                "mark": text | {"dy": -7, "fontSize": 14},
                "encoding": {"text": {"field": "mean", "format": ".1f"}, "color": colour},
            },
            {
                "mark": text | {"dy": 9, "fontSize": 10},
                "encoding": {"text": {"field": "spread"}, "color": colour},
            },
        ],
    )


def named(setting: str) -> str:
    """A setting as people call it."""
    return "Learning rate" if setting == "lr" else setting.replace("_", " ").capitalize()


def _format(values: Sequence[float]) -> str:
    return "~e" if max(values) < 0.01 else "~g"


def rates(cells: Sequence[Cell], name: str, styles: Styles) -> Spec:
    """How much does a hyper-parameter matter? Mean ± sd by its value; a ring around the chosen.

    Args:
        cells: Of one task, model and sparsity, that differ in it.
        name: Of the setting, such as "lr".
    """
    unit = scale(cells[0].metric)
    rows = [
        {
            "label": cell.method,
            "value": float(cell.settings[name]),
            "mean": rounded(unit * cell.mean),
            "low": rounded(unit * (cell.mean - (cell.sd or 0.0))),
            "high": rounded(unit * (cell.mean + (cell.sd or 0.0))),
            "n": cell.n,
            "chosen": cell.chosen,
        }
        for cell in cells
    ]
    values = sorted({float(cell.settings[name]) for cell in cells})
    x = {
        "field": "value",
        "type": "quantitative",
        "title": named(name),
        "scale": {"type": "log" if values[0] > 0 else "symlog", "nice": False, "padding": 16},
        "axis": {"values": values, "format": _format(values), "grid": False}
        | {"labelOverlap": "greedy", "tickCount": 50},
    }
    y = {"type": "quantitative", "title": None, "scale": {"zero": False}}
    style = styles.encoding([*dict.fromkeys(cell.method for cell in cells)])
    colour = {"color": style["color"]}
    tooltip = [{"field": field} for field in ("label", "value", "mean", "low", "high", "n")]
    return chart(
        f"Mean {cells[0].metric} on dev against {name}",
        height=260,
        title=f"{cells[0].metric} on dev{', %' if unit == 100 else ''}",
        data={"values": rows},
        encoding={"x": x},
        layer=[
            {
                "mark": {"type": "rule", "opacity": 0.7},
                "encoding": {"y": {"field": "low", **y}, "y2": {"field": "high"}, **colour},
            },
            {
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {"y": {"field": "mean", **y}, **colour}
                | {"strokeDash": style["strokeDash"]},
            },
            {
                "transform": [{"filter": "datum.chosen"}],
                "mark": {"type": "point", "filled": False, "size": 220, "strokeWidth": 1.5},
                "encoding": {"y": {"field": "mean", **y}, **colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {"y": {"field": "mean", **y}, "tooltip": tooltip, **colour}
                | {"shape": style["shape"]},
            },
        ],
    )
