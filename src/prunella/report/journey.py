"""The sections on where the weights went and how training went, from traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prunella.report import pictures, samples
from prunella.report.findings import percent, several
from prunella.report.looks import Styles
from prunella.report.markup import Figures, Section, paragraph, part, row, table
from prunella.report.picks import Pick
from prunella.report.pictures import Shown
from prunella.report.tables import Table
from prunella.report.traces import Sample, sample

MULTIPLES = 8  # pictures of single runs, side by side
_TOLD = 4  # methods whose numbers a caption gives
_ROWS = 300  # of a table whose numbers are drawn as well
_SWATCHES = '<span class="ramp" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></span>'


def which(pick: Pick) -> str:
    """Which runs are drawn, and which are not, in sentences."""
    at = f" at {percent(pick.level)}" if pick.level else ""
    if len(pick.shown) == 1:
        words = f"Drawn is the run {pick.shown[0].run.name}, {pick.shown[0].label}{at}."
    else:
        seeds = sorted({each.run.seed for each in pick.shown})
        words = (
            f"Drawn are single runs on {pick.place.task}{pick.apart}{at}, of each method the first "
            f"seed that has a trace ({several(map(str, seeds))})."
        )
    if pick.left:
        words += f" Left out, for there are too many lines: {several(pick.left)}."
    if pick.elsewhere:
        words += (
            f" Traces of {several(pick.elsewhere)} are not drawn; a report of these alone has them."
        )
    return words


# --- where the weights went ------------------------------------------------------------------


def weights(
    pick: Pick | None, styles: Styles, found: Mapping[str, Table], figures: Figures
) -> Section:
    """Remaining weights by layer, matrix and size; weights against scores; masks."""
    if pick is None:
        words = "No run has a trace.json, which these pictures are made of."
        return Section("weights", "Where the weights went", [paragraph(words, "missing")])
    pruned = [each for each in pick.shown if not each.run.dense]
    blocks = [
        paragraph(which(pick), "note"),
        part(
            "Layers and matrices",
            _layers(pruned, styles, figures),
            table(found["matrices"], fold=True, most=_ROWS),
        ),
        part("Sizes", _sizes(pick.shown, styles, figures)),
        part("What the criterion keeps", _scatters(pruned, figures)),
        part("How masks change", _changes(pruned, styles, figures)),
        part(
            "Whether masks agree",
            _overlap(pick, found["masks"], figures),
            table(found["masks"], fold=True, most=_ROWS),
        ),
    ]
    return Section("weights", "Where the weights went", blocks)


def _layers(shown: Sequence[Shown], styles: Styles, figures: Figures) -> str:
    shown = [each for each in shown if each.trace.get("matrices")]
    if not shown:
        return ""
    spec = pictures.layers(shown, styles)
    words = [
        f"{each.label} keeps most in layer {_most(row, max)} and least in layer {_most(row, min)}"
        for each, row in zip(shown[:_TOLD], spec["data"]["values"], strict=False)
    ]
    fractions = [m["nonzero"] / m["total"] for each in shown for m in each.trace["matrices"]]
    most = max(fractions) or 1.0
    multiples = [
        figures.add(f"matrices-{place}", pictures.matrices(each, most), caption=_extremes(each))
        for place, each in enumerate(shown[:MULTIPLES])
    ]
    lines = (
        figures.add("layers", spec, "Remaining weights by layer", _sentence(words))
        if len(spec["data"]["values"][0]["x"]) > 1
        else ""
    )
    scale = f'<p class="note">Remaining: 0 % {_SWATCHES} {100 * most:.0f} %. {_first(shown)}</p>'
    return lines + scale + row(*multiples)


def _first(shown: Sequence[Shown]) -> str:
    return f"The first {MULTIPLES} methods." if len(shown) > MULTIPLES else ""


def _most(row: Mapping[str, Any], choose: Callable[..., int]) -> str:
    place = choose(range(len(row["y"])), key=row["y"].__getitem__)
    return f"{row['x'][place]} ({row['y'][place]:.3g} %)"


def _extremes(shown: Shown) -> str:
    """The matrices that keep most and least."""
    placed = pictures.placed(shown.trace["matrices"])
    ranked = sorted(placed, key=lambda each: each[2]["nonzero"] / each[2]["total"])
    least, most = (
        f"{kind} in layer {layer}, {100 * m['nonzero'] / m['total']:.1f} %"
        for layer, kind, m in (ranked[0], ranked[-1])
    )
    return f"Most: {most}. Least: {least}."


def _sizes(shown: Sequence[Shown], styles: Styles, figures: Figures) -> str:
    shown = [each for each in shown if sum((each.trace.get("weights") or {}).get("counts") or ())]
    if not shown:
        return ""
    halves = [f"{_median(each.trace['weights']):.3g} ({each.label})" for each in shown[:_TOLD]]
    words = (
        f"Half of the remaining weights are larger than {several(halves)}, whatever their sign. "
        "The outermost bins hold what lies beyond them, one weight in a thousand."
    )
    spec = pictures.histograms(shown, styles)
    return figures.add("sizes", spec, "Distribution of the remaining weights", words)


def _median(about: Mapping[str, Any]) -> float:
    """Of the absolute values in a histogram."""
    edges, counts = (np.asarray(about[name], dtype=float) for name in ("edges", "counts"))
    sizes = np.abs(edges[1:] + edges[:-1]) / 2
    order = np.argsort(sizes)
    passed = np.cumsum(counts[order]) >= counts.sum() / 2
    return float(sizes[order][passed.argmax()])


def _scatters(shown: Sequence[Shown], figures: Figures) -> str:
    found = [(each.label, s) for each in shown if (s := sample(each.run)) is not None]
    drawn = [(label, s) for label, s in found if _is_whole(s)]
    if not drawn:
        return ""
    sizes = np.concatenate([np.abs(s.before) for _, s in drawn[:MULTIPLES] if s.before is not None])
    limit = float(np.quantile(sizes, 0.999)) or 1.0
    note = (
        "A sample of weights, the same ones of every run: the value before training against the "
        "score at the last selection. A score of 0, such as that of a weight held at zero, lies "
        f"on the bottom edge. {_first(shown)}"
    )
    multiples = [
        figures.add(f"scores-{place}", samples.scatter(label, s, limit), caption=_kept(s))
        for place, (label, s) in enumerate(drawn[:MULTIPLES])
    ]
    return paragraph(note, "note") + row(*multiples)


def _is_whole(sample: Sample) -> bool:
    """Whether there is a value, a score and a fate of the same weights."""
    if sample.before is None or sample.score is None or not np.isfinite(sample.score).any():
        return False
    return 0 < len(sample.before) == len(sample.score) <= len(sample.kept)


def _kept(sample: Sample) -> str:
    """How much of what magnitude would have kept is kept."""
    assert sample.before is not None
    kept = sample.kept[: len(sample.before)]
    largest = np.argsort(-np.abs(sample.before), kind="stable")[: kept.sum()]
    share = float(kept[largest].mean()) if len(largest) else 0.0
    return (
        f"{int(kept.sum()):,} of {len(kept):,} weights kept; of the {len(largest):,} that were "
        f"largest before training, {100 * share:.0f} %."
    )


def _changes(shown: Sequence[Shown], styles: Styles, figures: Figures) -> str:
    shown = [e for e in shown if e.trace.get("selections") and pictures.total(e.trace)]
    if not shown:
        return ""
    made = []
    for field, verb in (("pruned", "pruned"), ("regrown", "come back")):
        sums = (
            100 * sum(s[field] for s in each.trace["selections"]) / pictures.total(each.trace)
            for each in shown
        )
        told = [f"{value:.3g} % ({each.label})" for each, value in zip(shown, sums, strict=True)]
        title = "Newly pruned" if field == "pruned" else "Come back"
        words = f"Over all selections, {several(told[:_TOLD])} of the prunable weights {verb}."
        spec = pictures.changes(shown, styles, field)
        made.append(figures.add(f"changes-{field}", spec, title, words))
    return row(*made)


def _overlap(pick: Pick, masks: Table, figures: Figures) -> str:
    """The overlap of masks at the sparsity that is shown; `masks` is that table."""
    places = {column.name: place for place, column in enumerate(masks.columns)}

    def get(values: Sequence[Any], name: str) -> Any:
        return values[places[name]]

    place = pick.place
    where = {"task": place.task, "model": place.model, "sparsity": pick.level}
    where |= {name: getattr(place, name) for name in ("metric", "data", "pieces") if name in places}
    rows = [r for r in masks.rows if all(get(r, name) == value for name, value in where.items())]
    if not rows:
        return ""
    found = [tuple(get(r, name) for name in ("a", "b", "overlap", "pairs")) for r in rows]
    chance = float(np.mean([get(r, "by_chance") for r in rows]))
    seeds = [f"{share:.2f} ({a})" for a, b, share, _ in found if a == b]
    other = max(((s, a, b) for a, b, s, _ in found if a != b), default=None)
    words = "Weights that both masks keep, of those that either keeps. "
    words += f"Between the seeds of a method: {several(seeds[:_TOLD])}. " if seeds else ""
    if other is not None:
        words += f"Most alike of two methods: {other[1]} and {other[2]}, {other[0]:.2f}. "
    words += f"Independent masks would have {chance:.2f}."
    return figures.add("overlap", samples.overlap(found), "Overlap of masks", words)


# --- how training went -----------------------------------------------------------------------


def training(pick: Pick, styles: Styles, figures: Figures) -> Section:
    """Loss, sparsity and threshold over time."""
    logged = [each for each in pick.shown if each.trace.get("log")]
    levels = {each.label: pictures.steps(each.trace, "log", "sparsity") for each in pick.shown}
    ramps = [each for each in logged if any(level for _, level in levels[each.label])]
    barred = [each for each in pick.shown if pictures.bars(each.trace)]
    made = []
    if logged:
        ends = [f"{_end(each):.3g} ({each.label})" for each in logged]
        words = f"Mean of five entries of the log. At the end: {_some(ends)}."
        made.append(figures.add("loss", pictures.losses(logged, styles), "Loss", words))
    if ramps:
        ends = [f"{100 * levels[each.label][-1][1]:.4g} % ({each.label})" for each in ramps]
        words = f"At the end: {_some(ends)}."
        made.append(figures.add("ramp", pictures.ramps(ramps, styles), "Sparsity", words))
    if barred:
        ends = [f"{pictures.bars(each.trace)[-1][1]:.2g} ({each.label})" for each in barred]
        words = (
            f"The lowest score that is kept; each criterion has a unit of its own. At the last "
            f"selection: {_some(ends)}. Only what is above 0, and where all weights are ranked "
            "together."
        )
        spec = pictures.thresholds(barred, styles)
        made.append(figures.add("threshold", spec, "Score threshold", words))
    words = paragraph("Of the same runs." if len(pick.shown) > 1 else "", "note")
    return Section("training", "How training went", [words, row(*made)])


def _end(shown: Shown) -> float:
    return float(np.mean([entry["loss"] for entry in shown.trace["log"][-5:]]))


def _some(words: Sequence[str]) -> str:
    more = [f"{len(words) - _TOLD} more in the picture"] if len(words) > _TOLD else []
    return several([*words[:_TOLD], *more])


def _sentence(words: Iterable[str]) -> str:
    return f"{'; '.join(words)}."
