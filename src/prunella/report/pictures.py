"""Pictures of how runs went and where their weights are: traces as Vega-Lite, plain dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunella.report.looks import Spec, Styles, chart, rounded
from prunella.report.runs import Run, number


@dataclass(frozen=True, eq=False)
class Shown:
    """A run with a trace that stands for its method.

    Attributes:
        label: Of the method.
        trace: As ``trace.json`` has it.
    """

    label: str
    run: Run
    trace: Mapping[str, Any]


# --- lines of several runs -------------------------------------------------------------------


def lines(
    shown: Sequence[Shown],
    styles: Styles,
    series: Iterable[Spec],
    *,
    x: str,
    y: str,
    description: str,
    **scaled: Any,
) -> Spec:
    """One line a run.

    Args:
        series: One row a run of `shown`, with lists ``x`` and ``y`` of equal length.
        x, y: Titles of the axes.
        scaled: Of the scale of y.
    """
    series = list(series)
    style = styles.encoding([each.label for each in shown])
    strokes = {"symbolType": "stroke", "symbolStrokeWidth": 2, "symbolSize": 250}
    legend = {"legend": style["color"]["legend"] | strokes}
    rows = [{"label": each.label} | row for each, row in zip(shown, series, strict=True)]
    axis = {"tickCount": {"expr": "max(3, floor(width / 90))"}, "grid": False}
    return chart(
        description,
        height=240,
        title=y,
        data={"values": rows},
        transform=[{"flatten": ["x", "y"]}, {"filter": "isValid(datum.y)"}],
        # A line through a single point would not be seen.
        mark={"type": "line", "strokeWidth": 1.4, "point": any(len(r["x"]) == 1 for r in series)},
        encoding={
            "x": {"field": "x", "type": "quantitative", "title": x, "axis": axis}
            | {"scale": {"zero": False, "nice": False}},
            "y": {"field": "y", "type": "quantitative", "title": None, "scale": scaled},
            "color": style["color"] | legend,
            "strokeDash": style["strokeDash"] | legend,
            "tooltip": [
                {"field": "label", "title": "method"},
                {"field": "x", "type": "quantitative", "format": ",.4~r"},
                {"field": "y", "type": "quantitative", "format": ".4~g"},
            ],
        },
    )


def losses(shown: Sequence[Shown], styles: Styles) -> Spec:
    """Did training settle? The training loss, each the mean of five entries of the log."""
    spec = lines(
        shown,
        styles,
        (_series(each, "log", "loss") for each in shown),
        x="Step",
        y="Training loss",
        description="Training loss by step",
        zero=False,
    )
    near = {"window": [{"op": "mean", "field": "y", "as": "y"}], "frame": [-2, 2]}
    spec["transform"].append(near | {"groupby": ["label"], "sort": [{"field": "x"}]})
    return spec


def ramps(shown: Sequence[Shown], styles: Styles) -> Spec:
    """When was pruned? Sparsity of the prunable weights."""
    return lines(
        shown,
        styles,
        (_series(each, "log", "sparsity", 100) for each in shown),
        x="Step",
        y="Sparsity of the prunable weights, %",
        description="Sparsity by step",
    )


def thresholds(shown: Sequence[Shown], styles: Styles) -> Spec:
    """How high is the bar? The lowest score that is kept; each criterion has a unit of its own."""
    found = [bars(each.trace) for each in shown]
    spec = lines(
        shown,
        styles,
        ({"x": [x for x, _ in pairs], "y": [rounded(y) for _, y in pairs]} for pairs in found),
        x="Step",
        y="Lowest score kept",
        description="Score threshold by step",
        type="log",
    )
    spec["encoding"]["y"]["axis"] = {"format": ".0e", "tickCount": 5, "grid": False}
    return spec


def changes(shown: Sequence[Shown], styles: Styles, field: str) -> Spec:
    """How settled are the masks? Weights that went (``pruned``) or came back (``regrown``)."""
    said = {"pruned": "Newly pruned", "regrown": "Come back"}[field]
    return lines(
        shown,
        styles,
        (_series(each, "selections", field, 100 / total(each.trace)) for each in shown),
        x="Step",
        y=f"{said}, % of prunable weights",
        description=f"Share of weights {said.lower()} at each selection",
    )


def steps(trace: Mapping[str, Any], part: str, field: str) -> list[tuple[int, float]]:
    """Step and value of a field in ``log`` or ``selections``, where there is a finite one."""
    found = ((entry["step"], number(entry, field)) for entry in trace.get(part) or ())
    return [(step, value) for step, value in found if value is not None]


def _series(shown: Shown, part: str, field: str, unit: float = 1.0) -> Spec:
    found = steps(shown.trace, part, field)
    return {"x": [step for step, _ in found], "y": [rounded(unit * value) for _, value in found]}


def bars(trace: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Step and lowest score kept, where a logarithmic axis can show it."""
    return [(step, bar) for step, bar in steps(trace, "selections", "threshold") if bar > 0]


def total(trace: Mapping[str, Any]) -> int:
    """Prunable weights."""
    return sum(matrix["total"] for matrix in trace.get("matrices") or ())


# --- where the weights are -------------------------------------------------------------------


def layers(shown: Sequence[Shown], styles: Styles) -> Spec:
    """Which layers keep their weights? Remaining weights by layer."""
    series: list[Spec] = []
    for each in shown:
        sums: dict[str, list[int]] = {}
        for layer, _, matrix in placed(each.trace["matrices"]):
            found = sums.setdefault(layer, [0, 0])
            found[0] += matrix["nonzero"]
            found[1] += matrix["total"]
        series.append(
            {"x": list(sums), "y": [rounded(100 * kept / whole) for kept, whole in sums.values()]}
        )
    spec = lines(
        shown,
        styles,
        series,
        x="Layer",
        y="Remaining weights, %",
        description="Remaining weights by layer",
    )
    order = list(dict.fromkeys(layer for row in series for layer in row["x"]))
    axis = {"labelAngle": 0, "labelOverlap": "greedy", "title": "Layer"}
    spec["encoding"]["x"] = {"field": "x", "type": "ordinal", "sort": order, "axis": axis}
    spec["encoding"]["tooltip"][1] = {"field": "x", "title": "layer"}
    spec["mark"]["point"] = True
    return spec


def matrices(shown: Shown, most: float) -> Spec:
    """Which matrices keep their weights? Remaining weights of each, layer by kind.

    Args:
        most: Fraction that the darkest tone stands for.
    """
    found = placed(shown.trace["matrices"])
    kinds = list(dict.fromkeys(kind for _, kind, _ in found))
    order = list(dict.fromkeys(layer for layer, _, _ in found))
    row: Spec = {
        "layer": [layer for layer, _, _ in found],
        "kind": [kind for _, kind, _ in found],
        "left": [rounded(m["nonzero"] / m["total"]) for _, _, m in found],
        "nonzero": [m["nonzero"] for _, _, m in found],
    }
    return chart(
        f"Remaining weights of each matrix, {shown.label}",
        height={"step": 20},
        title={"text": shown.label, "fontWeight": 600},
        data={"values": [row]},
        transform=[{"flatten": list(row)}],
        mark={"type": "rect", "stroke": {"expr": "surface"}, "strokeWidth": 1},
        encoding={
            "x": {"field": "layer", "type": "ordinal", "sort": order, "title": "Layer"}
            | {"axis": {"labelAngle": 0, "labelOverlap": "greedy"}},
            "y": {"field": "kind", "type": "nominal", "sort": kinds, "title": None}
            | {"axis": {"labelLimit": 130, "labelFontSize": 11}},
            "color": {"field": "left", "type": "quantitative", "legend": None}
            | {"scale": {"domain": [0, most], "clamp": True}},
            "tooltip": [
                {"field": "layer"},
                {"field": "kind"},
                {"field": "left", "type": "quantitative", "format": ".1%", "title": "remaining"},
                {"field": "nonzero", "type": "quantitative", "format": ",", "title": "non-zero"},
            ],
        },
    )


def placed(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Layer and kind of each matrix, by its name: "…encoder.layer.3.output.dense.weight" is layer
    "3", kind "output"; where there are two stacks, layer "encoder 3"."""
    names = [_parted(str(matrix["name"]).removesuffix(".weight")) for matrix in found]
    stacks = {stack for stack, layer, _ in names if layer}
    kinds = {kind: _short(kind) for _, _, kind in names}
    if len({*kinds.values()}) < len(kinds):
        kinds = {kind: kind for kind in kinds}
    found_at = []
    for (stack, layer, kind), matrix in zip(names, found, strict=True):
        where = f"{stack} {layer}" if len(stacks) > 1 and layer else layer or "–"
        found_at.append((where, kinds[kind], matrix))
    return found_at


def _parted(name: str) -> tuple[str, str, str]:
    """Stack, layer and the rest of a name; the first two are empty where no number is in it."""
    words = name.split(".")
    at = next((place for place, word in enumerate(words) if word.isdigit()), None)
    if at is None:
        return "", "", name
    stack = next((word for word in words[:at] if word in ("encoder", "decoder")), "")
    return stack or ".".join(words[:at]), words[at], ".".join(words[at + 1 :])


def _short(kind: str) -> str:
    """A kind of matrix without the words that tell nothing."""
    words = [word for word in kind.split(".") if word not in ("dense", "layer", "self")]
    return ".".join(word for word in words if not word.isdigit()) or kind


def histograms(shown: Sequence[Shown], styles: Styles) -> Spec:
    """What sizes do the remaining weights have? Their density."""
    series = []
    for each in shown:
        edges = np.asarray(each.trace["weights"]["edges"], dtype=float)
        counts = np.asarray(each.trace["weights"]["counts"], dtype=float)
        density = counts / max(1.0, counts.sum()) / np.diff(edges).clip(1e-12)
        middles = (edges[1:] + edges[:-1]) / 2
        series.append(
            {"x": [rounded(v, 3) for v in middles], "y": [rounded(v, 3) for v in density]}
        )
    return lines(
        shown,
        styles,
        series,
        x="Weight",
        y="Density of the remaining weights",
        description="Distribution of the remaining weights",
    )
