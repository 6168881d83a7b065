"""The main picture, with the controls that say what it shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from prunella.report.cells import Cell
from prunella.report.charts import AXES, Axis, cell_row, curve, published_rows
from prunella.report.evidence import Evidence
from prunella.report.findings import Best, on_dev, percent, spread
from prunella.report.looks import Spec, Styles
from prunella.report.markup import Section, paragraph, text
from prunella.report.places import qualifiers
from prunella.report.runs import Place

_LINES = 10  # of a task, that are shown at first
_LEAST = 3  # cells that make a curve


@dataclass(frozen=True, eq=False)
class Explorer:
    """The data of the main picture.

    Attributes:
        tasks: By the name in the list of choices: the cells.
        rows: Of `charts.cell_row`.
        published: Of `charts.published_rows`.
        styles: Of all lines.
        named: Labels of cells, by ``id``.
    """

    tasks: Mapping[str, Sequence[Cell]]
    rows: Sequence[Spec]
    published: Sequence[Spec]
    styles: Styles
    named: Mapping[int, str]

    @classmethod
    def of(cls, evidence: Evidence, styles: Styles, named: Mapping[int, str]) -> Explorer:
        """Of the chosen cells."""
        groups: dict[Place, list[Cell]] = defaultdict(list)
        for cell in evidence.cells:
            if cell.chosen:
                groups[replace(cell.place, model="")].append(cell)  # models share a picture
        apart = qualifiers(groups)
        tasks: dict[str, Sequence[Cell]] = {}
        others = []
        # The one with most to show comes first.
        for place, cells in sorted(groups.items(), key=lambda item: -len(item[1])):
            name = f"{place.task}{apart[place]}"
            tasks[name] = cells
            where = (place.task, place.metric)
            others += published_rows(
                [p for p in evidence.published if (p.task, p.metric) == where], name
            )
        rows = [cell_row(c, name, named[id(c)]) for name, cells in tasks.items() for c in cells]
        return cls(tasks, rows, others, styles, named)

    @property
    def drawn(self) -> bool:
        """Whether there is a curve to be drawn."""
        return len(self.rows) >= _LEAST and not all(row["dense"] for row in self.rows)

    def data(self) -> Spec:
        """What the page's script needs: a chart for each axis, and the data once."""
        if not self.drawn:
            return {}
        specs = {}
        for axis in AXES:
            if any(row[axis.key] is not None for row in self.rows if not row["dense"]):
                specs[axis.key] = self.spec(axis)
                data = specs[axis.key].pop("datasets")
        return {"specs": specs, "datasets": data}

    def spec(self, axis: Axis) -> Spec:
        """The picture as it is at first, against one axis."""
        task, cells = next(iter(self.tasks.items()))
        first = {
            "task": task,
            "shown": [
                label for label in self._shown if label in {self.named[id(c)] for c in cells}
            ],
            "metric": on_dev(cells[0].metric),
            "better": -1 if cells[0].lower_is_better else 1,
        }
        spec = curve(axis, self.styles, self.rows, self.published)
        for parameter in spec["params"]:
            parameter["value"] = first.get(parameter["name"], parameter["value"])
        return spec

    @property
    def _shown(self) -> list[str]:
        """Labels that are shown at first: where all would be too many, the plainest."""
        shown: set[str] = set()
        for cells in self.tasks.values():
            plainest = sorted(cells, key=lambda c: (len(c.variant), not c.dense))
            drawn = dict.fromkeys(self.named[id(cell)] for cell in plainest)
            shown |= {*list(drawn)[:_LINES]}
        return [label for label in self.styles.criteria if label in shown]

    def section(self, best: Sequence[Best]) -> Section:
        """The section of the page, or a statement in its place."""
        title = "How good, for how much that remains"
        if not self.drawn:
            words = (
                "A curve needs a method at several sparsities, or several methods, beside each "
                "other: give more folders of runs."
            )
            return Section("curve", title, [paragraph(words, "missing")])
        chart = '<div class="chart tall" id="main-chart" data-main></div>'
        caption = f"<figcaption>{text(self._caption(best))}</figcaption>"
        return Section("curve", title, [self._controls(), f"<figure>{chart}{caption}</figure>"])

    # --- controls ----------------------------------------------------------------------------

    def _controls(self) -> str:
        others = _check("others", "Published figures") if self.published else ""
        return (
            '<form class="controls" id="controls" aria-label="What the picture shows">'
            f"{self._tasks()}{self._axes()}{self._views()}"
            f"{_check('front', 'Pareto front')}{others}{self._methods()}</form>"
        )

    def _tasks(self) -> str:
        options = "".join(
            f'<option value="{text(name)}" data-metric="{text(on_dev(cells[0].metric))}" '
            f'data-better="{-1 if cells[0].lower_is_better else 1}">{text(name)}</option>'
            for name, cells in self.tasks.items()
        )
        hidden = " hidden" if len(self.tasks) == 1 else ""
        return f'<label{hidden}>Task <select name="task">{options}</select></label>'

    def _axes(self) -> str:
        options = []
        for axis in AXES:
            pruned = [row for row in self.rows if not row["dense"]]
            has, of = sum(row[axis.key] is not None for row in pruned), len(pruned)
            state = "" if has == of else f" ({has} of {of})" if has else " (not measured)"
            off = "" if has else " disabled"
            options.append(f'<option value="{axis.key}"{off}>{text(axis.name + state)}</option>')
        return f'<label>Against <select name="axis">{"".join(options)}</select></label>'

    def _views(self) -> str:
        methods = dict.fromkeys(row["method"] for row in self.rows)
        options = "".join(
            f'<option value="{text(name)}">difference to {text(name)}</option>' for name in methods
        )
        view = f'<option value="">metric</option>{options}'
        return f'<label>Showing <select name="baseline">{view}</select></label>'

    def _methods(self) -> str:
        shown, drawn = {*self._shown}, {row["label"] for row in self.rows}
        boxes = "".join(
            _check("shown", label, label in shown, label)
            for label in self.styles.criteria
            if label in drawn
        )
        buttons = "".join(
            f'<button type="button" data-check="{which}">{which}</button>'
            for which in ("all", "none")
        )
        return (
            f'<details class="methods"><summary>Methods (<output id="count"></output>)</summary>'
            f'<fieldset><legend class="hidden">Methods shown</legend>{boxes}{buttons}</fieldset>'
            "</details>"
        )

    # --- words -------------------------------------------------------------------------------

    def _caption(self, best: Sequence[Best]) -> str:
        """What is drawn, and the best at each sparsity of the first task."""
        first = next(iter(self.tasks.values()))
        here = [b for b in best if any(b.cell is cell for cell in first)]
        told = [
            f"at {percent(b.cell.sparsity)} {self.named[id(b.cell)]}, {spread(b.cell)}"
            for b in here
        ]
        dense = next((b.dense for b in here if b.dense is not None), None)
        words = (
            "Marks are means over seeds, short strokes each seed, bands and bars ± one standard "
            f"deviation. Best on {first[0].task}: {'; '.join(told)}. "
        )
        if dense is not None:
            words += f"Dashed: dense, {spread(dense)}. "
        words += "Differences are taken seed by seed. "
        if self.published:
            words += (
                "Hollow marks are figures that others published, with other budgets, teachers and "
                "models; they are no part of any comparison. "
            )
        if settings := sorted({s for c in first for r in c.runs if (s := r.speed_setting)}):
            words += f"Latency of {'; '.join(settings)}. "
        return words + "Every value is in the table of results."


def _check(name: str, words: str, checked: bool = False, value: str = "on") -> str:
    state = " checked" if checked else ""
    return (
        f'<label class="check"><input type="checkbox" name="{text(name)}" value="{text(value)}"'
        f"{state}> {text(words)}</label>"
    )
