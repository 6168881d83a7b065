"""The sections on what came of it: findings, results, ablations, and what was run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prunella.report import contrasts, ladders
from prunella.report.cells import Cell
from prunella.report.evidence import Evidence
from prunella.report.findings import (
    Best,
    counted,
    headline,
    on_dev,
    percent,
    some,
    spread,
    tally,
    verdicts,
)
from prunella.report.looks import Styles, figure
from prunella.report.markup import Figures, Section, bullets, paragraph, part, row, table, text
from prunella.report.metrics import scale
from prunella.report.places import qualifiers
from prunella.report.provenance import left_dense
from prunella.report.runs import Place, is_number
from prunella.report.settings import HYPER
from prunella.report.statistics import Comparison
from prunella.report.tables import Column, Table

_CHARTS = 6  # grids, or hyper-parameters, that are drawn
_FOREST = 24  # intervals in a picture
_ROWS = 200  # of a table of many figures


# --- findings --------------------------------------------------------------------------------


def findings(evidence: Evidence, best: Sequence[Best]) -> Section:
    """What came of it, in words and in one small table."""
    blocks = []
    for title, told, more in verdicts(evidence):
        items = "".join(
            f'<li class="{"sure" if sure else "open"}">{text(words)}</li>' for words, sure in told
        )
        rest = f'<li class="rest"><a href="#table-comparisons">{more} more</a></li>' if more else ""
        blocks.append(f'<div><h3>{text(title)}</h3><ul class="verdicts">{items}{rest}</ul></div>')
    words = tally(evidence.comparisons) or "No two methods were run on the same rows of dev."
    summed = table(_best(best)) if len(best) > 1 else ""
    first = (paragraph(headline(best), "lead"), summed, paragraph(words))
    return Section("findings", "Findings", [*first, row(*blocks)])


def _best(best: Sequence[Best]) -> Table:
    """The best at each sparsity."""
    names = ("task", "model", "at", "best on dev", "metric", "dev", "dense", "loss")
    columns = (
        *(Column(name, name) for name in names),
        Column("ties", "not told apart from it"),
        Column("beaten", "significantly better than"),
        Column("stamps", "to bear in mind"),
    )
    rows = []
    for each in best:
        cell, dense = each.cell, each.dense
        sign = -1 if cell.lower_is_better else 1
        loss = "" if dense is None else figure(cell.metric, sign * (dense.mean - cell.mean))
        rows.append(
            (
                *(cell.task, cell.model, percent(cell.sparsity), cell.label, on_dev(cell.metric)),
                *(spread(cell), "" if dense is None else spread(dense), loss),
                *(some(each.ties), some(each.beaten), "; ".join(cell.stamps)),
            )
        )
    note = "By mean on dev, ± standard deviation over n seeds; tests are chosen on the holdout."
    return Table("best", "Best at each sparsity", note, columns, tuple(rows))


# --- results ---------------------------------------------------------------------------------


def results(evidence: Evidence, found: Mapping[str, Table], figures: Figures) -> Section:
    """Every cell and every comparison."""
    kinds = ("baseline", "best", "dense")
    climbed = ladders.pictures(evidence.ladders, figures)
    blocks = [
        part("How sparse it could get", climbed, table(found["ladders"], fold=True)),
        table(found["results"]),
        table(found["metrics"], fold=True, most=_ROWS),
        *_forests(evidence.comparisons, kinds, "differences", figures),
        table(found["comparisons"], fold=True),
        table(found["published"], fold=True),
    ]
    return Section("results", "Methods and sparsities", blocks)


def _forests(
    comparisons: Sequence[Comparison], kinds: Sequence[str], key: str, figures: Figures
) -> Iterator[str]:
    """For each task and model, the intervals at the sparsity with the most of them."""
    groups: dict[Place, list[Comparison]] = defaultdict(list)
    for c in comparisons:
        if c.kind in kinds and c.p is not None:
            groups[c.place].append(c)
    apart = qualifiers(c.place for c in comparisons)
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
    for number, (place, group) in enumerate(ranked[:_CHARTS]):
        levels = Counter(c.sparsity for c in group)
        level = max(levels, key=lambda value: (levels[value], value))
        here = [c for c in group if c.sparsity == level]
        drawn = here[:_FOREST]
        spec = contrasts.forest(drawn, "points" if scale(place.metric) == 100 else place.metric)
        title = f"Differences at {percent(level)}, {place.task}, {place.model}{apart[place]}"
        yield figures.add(f"{key}-{number}", spec, title, _surest(drawn, len(here)))


def _surest(drawn: Sequence[Comparison], of: int) -> str:
    sure = sorted((c for c in drawn if c.significant), key=lambda c: c.p_adjusted or 0.0)
    told = [
        f"{c.a} − {c.b} {figure(c.metric, c.difference)} "
        f"[{figure(c.metric, c.low or 0.0)}, {figure(c.metric, c.high or 0.0)}]"
        for c in sure[:4]
    ]
    words = f"95 % intervals. {len(sure)} of {len(drawn)} significant after correction"
    words += f": {'; '.join(told)}{' …' if len(sure) > 4 else ''}." if told else "."
    return words + (f" {of - len(drawn)} more are in the table." if of > len(drawn) else "")


# --- ablations -------------------------------------------------------------------------------


def ablations(
    evidence: Evidence, found: Mapping[str, Table], styles: Styles, figures: Figures
) -> Section:
    """Criterion × regularizer, single settings, hyper-parameters; a statement where there is one
    method with one setting."""
    title = "What each part brings"
    if len({(cell.method, cell.setting) for cell in evidence.cells if not cell.dense}) < 2:
        words = (
            "A grid of criteria and regularizers, global against local ranking and the effect of "
            "learning rates need runs that differ in these."
        )
        return Section("ablations", title, [_missing(words)])
    grids = row(*_grids(evidence.cells, figures)) + table(found["regularizers"], fold=True)
    if not grids:
        grids = _missing(
            "No criterion was run with a regularizer and without: runs with --regularize self or "
            "--regularize distill would fill a grid of criterion and regularizer."
        )
    effects = [table(made) for key, made in found.items() if key.startswith("effect-")]
    scopes = found.get("effect-scope")
    if scopes is None or not scopes.rows:
        effects.append(
            _missing(
                "No method was run with both scopes: runs with --scope matrix beside global ones "
                "would show local against global ranking."
            )
        )
    rates = row(*_rates(evidence.cells, styles, figures)) or _missing(
        "Each method was run with one learning rate: runs with other values of --lr would show "
        "what it does."
    )
    forests = _forests(evidence.comparisons, ("ablation",), "ablations", figures)
    blocks = [
        part("Criterion and regularizer", grids),
        part("One change at a time", *forests, *effects),
        part("Learning rate", rates, table(found["search"], fold=True)),
    ]
    return Section("ablations", title, blocks)


def _missing(words: str) -> str:
    return paragraph(words, "missing")


def _grids(cells: Sequence[Cell], figures: Figures) -> Iterator[str]:
    groups: dict[tuple[Place, float], list[Cell]] = defaultdict(list)
    apart = qualifiers(cell.place for cell in cells)
    for cell in cells:
        if cell.chosen and not cell.dense and cell.variant == cell.regularizers:
            groups[cell.place, cell.sparsity].append(cell)
    grids = [group for group in groups.values() if len({c.regularizers for c in group}) > 1]
    grids.sort(key=lambda group: -len(group))
    for place, group in enumerate(grids[:_CHARTS]):
        best = max(group, key=lambda c: c.mean * (-1 if c.lower_is_better else 1))
        plain = [c for c in group if not c.regularizers]
        words = f"{on_dev(best.metric)}. Best: {best.method}, {spread(best)}"
        if plain:
            alone = max(plain, key=lambda c: c.mean * (-1 if c.lower_is_better else 1))
            words += f"; without a regularizer: {alone.method}, {spread(alone)}"
        title = f"{percent(best.sparsity)}, {best.task}, {best.model}{apart[best.place]}"
        yield figures.add(f"grid-{place}", contrasts.grid(group), title, f"{words}.")


def _rates(cells: Sequence[Cell], styles: Styles, figures: Figures) -> Iterator[str]:
    """Each hyper-parameter at the task, model and sparsity with the most values of it."""
    drawn = 0
    apart = qualifiers(cell.place for cell in cells)
    for name in HYPER:
        groups: dict[tuple[Place, float], list[Cell]] = defaultdict(list)
        for cell in _lines(cells, name):
            groups[cell.place, cell.sparsity].append(cell)
        if groups and drawn < _CHARTS:
            group = max(groups.values(), key=len)
            title = f"{contrasts.named(name)} at {percent(group[0].sparsity)}"
            where = f"{group[0].task}{apart[group[0].place]}"
            words = f"{where}. Ringed: chosen on the holdout. {_ranges(group, name)}"
            yield figures.add(f"rates-{name}", contrasts.rates(group, name, styles), title, words)
            drawn += 1


def _lines(cells: Sequence[Cell], name: str) -> Iterator[Cell]:
    """Cells of methods with several values of a hyper-parameter, all others as chosen."""
    lines: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        if is_number(cell.settings.get(name)):
            lines[cell.place, cell.sparsity, cell.dense, cell.method].append(cell)
    for line in lines.values():
        chosen = next((cell for cell in line if cell.chosen), line[0])
        alike = [c for c in line if _others(c, name) == _others(chosen, name)]
        if len(alike) > 1:
            yield from alike


def _others(cell: Cell, name: str) -> dict[str, object]:
    return {key: value for key, value in cell.settings.items() if key != name}


def _ranges(group: Sequence[Cell], name: str) -> str:
    """From where to where the metric goes for each method."""
    told = []
    for method in dict.fromkeys(cell.method for cell in group):
        line = sorted((c for c in group if c.method == method), key=lambda c: c.mean)
        low, high = line[0], line[-1]
        told.append(
            f"{method}: {figure(low.metric, low.mean)} at {low.settings[name]:g} to "
            f"{figure(high.metric, high.mean)} at {high.settings[name]:g}"
        )
    return "; ".join(told[:4]) + "."


# --- what was run ----------------------------------------------------------------------------


def what_was_run(evidence: Evidence, found: Mapping[str, Table]) -> Section:
    """Commands, code, hardware, cost; what is not equal; what was left out."""
    commits = Counter(run.commit for run in evidence.runs)
    hardware = Counter(run.hardware for run in evidence.runs)
    packages = Counter(
        ", ".join(f"{name} {version}" for name, version in run.packages.items())
        for run in evidence.runs
    )
    dense = Counter(left for run in evidence.runs if not run.dense and (left := left_dense(run)))
    facts = [("Commit", commits), ("Hardware", hardware), ("Packages", packages)]
    facts += [("Left dense", dense)] * bool(dense)
    told = "".join(
        f"<dt>{name}</dt>"
        + "".join(f"<dd>{text(value)} ({counted(n, 'run')})</dd>" for value, n in counts.items())
        for name, counts in facts
    )
    flags = bullets(evidence.flags) or paragraph("Nothing that is looked at differs between runs.")
    blocks = [
        f'<dl class="facts">{told}</dl>',
        f'<div id="flags"><h3>Not equal between runs</h3>{flags}</div>',
        table(found["problems"]),
        table(found["runs"], fold=True),
    ]
    return Section("runs", "What was run", blocks)
