"""Pictures of a sample of weights: what a criterion keeps, and whether masks agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prunella.report.looks import Spec, chart, rounded
from prunella.report.traces import Sample

# Canvas draws thousands of marks where SVG would be slow.
_MANY = {"embedOptions": {"renderer": "canvas"}}


def scatter(label: str, sample: Sample, limit: float) -> Spec:
    """What does the criterion keep? Each weight of a sample, by its value before training and its
    last score, as the movement-pruning paper drew it.

    Args:
        label: Of the method.
        sample: With values before training and scores.
        limit: x goes from minus this to this.
    """
    assert sample.before is not None and sample.score is not None
    inside = (np.abs(sample.before) <= limit) & np.isfinite(sample.score)
    before, score = sample.before[inside], sample.score[inside].astype(float)
    stays = sample.kept[: len(inside)][inside]
    scaled: Spec = {"zero": False}
    form = "~g"
    if (score >= 0).all() and (score > 0).any():
        # Scores are often products: over many magnitudes. What scored nothing lies at the bottom.
        floor = float(np.quantile(score[score > 0], 0.005))
        score = score.clip(floor)
        form = ".0e"
        scaled = {"type": "log", "nice": False, "domain": [floor, 1.2 * float(score.max())]}
    row = {
        "weight": [rounded(value, 3) for value in before.tolist()],
        "score": [rounded(value, 3) for value in score.tolist()],
        "stays": stays.astype(int).tolist(),
    }
    return chart(
        f"Weights before training against their last score, {label}",
        height=260,
        title={"text": label, "fontWeight": 600},
        usermeta=_MANY,
        data={"values": [row]},
        transform=[
            {"flatten": list(row)},
            {"calculate": "datum.stays ? 'kept' : 'pruned'", "as": "fate"},
        ],
        mark={"type": "point", "filled": True, "size": 9, "opacity": 0.55},
        encoding={
            "x": {"field": "weight", "type": "quantitative", "title": "Weight before training"}
            | {"scale": {"domain": [-limit, limit]}, "axis": {"tickCount": 5, "grid": False}},
            "y": {"field": "score", "type": "quantitative", "title": "Score", "scale": scaled}
            | {"axis": {"tickCount": 5, "format": form, "grid": False}},
            "color": _fate([{"expr": "accent"}, {"expr": "palette[1]"}]),
            "shape": _fate(["circle", "triangle-up"]),
        },
    )


def _fate(ranges: list[Any]) -> Spec:
    return {
        "field": "fate",
        "type": "nominal",
        "scale": {"domain": ["kept", "pruned"], "range": ranges},
        "legend": {"orient": "top", "symbolOpacity": 1},
    }


def overlap(found: Sequence[tuple[str, str, float, int]]) -> Spec:
    """Do methods, and seeds of one, agree on what to keep? The overlap of every two.

    Args:
        found: Two methods, the overlap of their masks, and of how many pairs it is the mean.
    """
    rows = [
        {"a": one, "b": other, "share": rounded(share, 3), "pairs": pairs}
        for a, b, share, pairs in found
        for one, other in {(a, b), (b, a)}
    ]
    labels = list(dict.fromkeys(name for a, b, *_ in found for name in (a, b)))
    shares = [share for _, _, share, _ in found]
    colour = {
        "condition": {
            "test": f"datum.share > {(min(shares) + max(shares)) / 2}",
            "value": {"expr": "surface"},
        },
        "value": {"expr": "ink"},
    }
    axis = {"title": None, "labelLimit": 130, "labelFontSize": 11}
    return chart(
        "Overlap of masks between methods, and between the seeds of each",
        height={"step": 28},
        data={"values": rows},
        encoding={
            "x": {"field": "b", "sort": labels, "axis": axis | {"labelAngle": -45}},
            "y": {"field": "a", "sort": labels, "axis": axis},
            "tooltip": [{"field": name} for name in ("a", "b", "share", "pairs")],
        },
        layer=[
            {
                "mark": {"type": "rect", "stroke": {"expr": "surface"}, "strokeWidth": 1},
                "encoding": {
                    "color": {"field": "share", "type": "quantitative", "legend": None}
                    | {"scale": {"zero": False}}
                },
            },
            {
                "mark": {"type": "text", "fontSize": 11}
                | {"opacity": {"expr": "bandwidth('x') < 25 ? 0 : 1"}},
                "encoding": {"text": {"field": "share", "format": ".2f"}, "color": colour},
            },
        ],
    )
