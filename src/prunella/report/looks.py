"""How the page and its charts look, by day and by night, and what all charts have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prunella.report.metrics import scale
from prunella.report.runs import DENSE

Spec = dict[str, Any]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
VERSION = "6.4"  # of Vega-Lite, of those that vl-convert has


@dataclass(frozen=True)
class Tones:
    """The colours of the page and its charts, by day or by night.

    Attributes:
        surface, panel: Of the page, and of what is set off from it.
        ink, muted, rule: Of text, lesser text and thin lines.
        accent: Of links, controls and what is pointed out.
        ramp: From none to all, for heat maps.
        palette: Of methods; told apart without red and green, at least 3:1 on `surface`.
    """

    surface: str
    panel: str
    ink: str
    muted: str
    rule: str
    accent: str
    ramp: tuple[str, ...]
    palette: tuple[str, ...]


LIGHT = Tones(
    surface="#ffffff",
    panel="#f6f7f8",
    ink="#1b1d21",
    muted="#5b6068",
    rule="#d8dbdf",
    accent="#0a5c9e",
    ramp=("#f1f5f9", "#b9d3ea", "#6fa8d6", "#2674b3", "#0b3f6f"),
    palette=(
        *("#0a6db3", "#d05500", "#008060", "#a8428c"),
        *("#8a6a00", "#2b93d1", "#7a3b1d", "#5a5ac8"),
    ),
)
DARK = Tones(
    surface="#15171a",
    panel="#1d2024",
    ink="#e7e8ea",
    muted="#a4a9b1",
    rule="#3a3e45",
    accent="#74b9f2",
    ramp=("#20252b", "#23435f", "#2f6c9e", "#5ea3d8", "#bfe0fa"),
    palette=(
        *("#5fb0ee", "#ff9350", "#3fc79c", "#e592c6"),
        *("#e3bd3f", "#a7dcff", "#d9a283", "#a9a6ff"),
    ),
)


def config(tones: Tones) -> Spec:
    """Vega-Lite's config for all charts, and the colours they name, as parameters."""
    colours = {
        "ink": tones.ink,
        "muted": tones.muted,
        "accent": tones.accent,
        "surface": tones.surface,
        "palette": list(tones.palette),
    }
    text = {"labelColor": tones.ink, "titleColor": tones.muted, "titleFontWeight": "normal"}
    sizes = {"labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
        "params": [{"name": name, "value": value} for name, value in colours.items()],
        "view": {"stroke": None},
        "axis": text
        | sizes
        | {"gridColor": tones.rule, "gridOpacity": 0.6, "domainColor": tones.rule}
        | {"tickColor": tones.rule, "titlePadding": 8, "labelPadding": 4},
        "axisY": {"domain": False, "ticks": False},
        "legend": text | sizes | {"symbolSize": 70, "title": None},
        "title": {"color": tones.muted, "fontSize": 12, "fontWeight": "normal"}
        | {"anchor": "start", "offset": 10, "frame": "group", "limit": {"expr": "width - 16"}},
        "text": {"color": tones.ink, "fontSize": 12},
        "rule": {"color": tones.muted},
        "line": {"color": tones.accent},
        "point": {"color": tones.accent},
        "range": {"ramp": list(tones.ramp), "heatmap": list(tones.ramp)},
    }


_SHAPES = (
    *("circle", "square", "triangle-up", "diamond"),
    *("cross", "triangle-down", "triangle-right", "triangle-left"),
)
_DASHES = ([1, 0], [6, 3], [2, 2], [9, 3, 2, 3], [12, 4])


@dataclass(frozen=True)
class Styles:
    """How methods look, the same in every chart: colour by criterion, shape and dash by variant.

    Attributes:
        criteria: By label, in the order in which methods are listed.
    """

    criteria: Mapping[str, str]

    def encoding(self, shown: Iterable[str] | Spec | None = None) -> Spec:
        """Colour, shape and dash by the field ``label``.

        Args:
            shown: What the legend lists, or an expression for it; None for no legend.
        """
        ranges: dict[str, list[Any]] = {"color": [], "shape": [], "strokeDash": []}
        names = [name for name in dict.fromkeys(self.criteria.values()) if name != DENSE]
        variants: dict[str, int] = {}
        for criterion in self.criteria.values():
            variant = variants[criterion] = variants.get(criterion, -1) + 1
            place = names.index(criterion) if criterion in names else 0
            colour = f"palette[{place % len(LIGHT.palette)}]" if criterion in names else "muted"
            ranges["color"].append({"expr": colour})
            shape = place + place // len(_SHAPES) + 3 * variant
            ranges["shape"].append(_SHAPES[shape % len(_SHAPES)])
            ranges["strokeDash"].append(_DASHES[variant % len(_DASHES)])
        longest = max(map(len, self.criteria if isinstance(shown, dict) else shown or [""]))
        legend = None if shown is None else _legend(shown, longest)
        return {
            channel: {
                "field": "label",
                "type": "nominal",
                "scale": {"domain": list(self.criteria), "range": values},
                "legend": legend,
            }
            for channel, values in ranges.items()
        }


def _legend(shown: Iterable[str] | Spec, longest: int) -> Spec:
    """A legend below the chart, in as many columns as there is room for."""
    # Not the chart's own width, which is known too late: the legend's last rows would be cut off.
    room = "(containerSize()[0] || width) - 50"
    return {
        "orient": "bottom",
        "direction": "vertical",
        "symbolOpacity": 1,
        "symbolStrokeWidth": 0,  # a mark's outline would be dashed as its line is
        "values": shown if isinstance(shown, dict) else list(shown),
        "columns": {"expr": f"max(1, floor(({room}) / {7 * longest + 40}))"},
        "labelLimit": {"expr": room},
    }


def chart(description: str, **parts: Any) -> Spec:
    """A chart as wide as the page gives it, with a description for those who cannot see it."""
    return {
        "$schema": SCHEMA,
        "description": description,
        "width": "container",
        **parts,
    }


def rounded(value: float | None, digits: int = 4) -> float | None:
    """To so many significant digits; None for what is not finite, which JSON does not know."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def figure(metric: str, value: float, decimals: int = 1) -> str:
    """A metric as people read it: 82.3 for an accuracy of 0.8226.

    >>> figure("accuracy", 0.8226), figure("perplexity", 12.3456)
    ('82.3', '12.3')
    """
    if scale(metric) == 100:
        return f"{100 * value:.{decimals}f}"
    return f"{value:.{decimals + 2}g}"
