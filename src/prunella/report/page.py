"""One page that holds all: opens offline, asks nothing of any other place."""

from __future__ import annotations

from pathlib import Path
from string import Template

import vl_convert

from prunella.report import journey, sections
from prunella.report.contents import tables
from prunella.report.evidence import Evidence
from prunella.report.explorer import Explorer
from prunella.report.findings import bests, counted, heading, summary
from prunella.report.looks import DARK, LIGHT, VERSION, Styles, Tones, config
from prunella.report.markup import Figures, Section, paragraph, script, table, text
from prunella.report.picks import labels, pick
from prunella.report.settings import order

_HERE = Path(__file__).parent


def page(evidence: Evidence) -> str:
    """The page as HTML.

    All text of it that comes out of results is escaped.
    """
    found = {made.key: made for made in tables(evidence)}
    explorer, best = main_picture(evidence), bests(evidence)
    styles = explorer.styles
    figures, shown = Figures(), pick(evidence.cells)
    body: list[Section] = [
        sections.findings(evidence, best),
        explorer.section(best),
        sections.results(evidence, found, figures),
        sections.ablations(evidence, found, styles, figures),
        journey.weights(shown, styles, found, figures),
        *([] if shown is None else [journey.training(shown, styles, figures)]),
        Section("cost", "What it costs", [table(found["sizes"])]),
        sections.what_was_run(evidence, found),
    ]
    return Template(_read("page.html")).substitute(
        title=text(heading(evidence)),
        lead=paragraph(summary(evidence), "lead"),
        left_out=_left_out(evidence),
        contents="".join(each.link() for each in body),
        body="".join(each.html() for each in body),
        css=_read("page.css"),
        variables=_variables(),
        charts=script(figures.specs),
        main=script(explorer.data()),
        looks=script({"light": config(LIGHT), "dark": config(DARK)}),
        vega=_vega(),
        js=_read("page.js"),
    )


def main_picture(evidence: Evidence) -> Explorer:
    """The main picture; ``charts.svg(main_picture(evidence).spec(AXES[0]))`` is a file of it."""
    named = labels(evidence.cells)
    ordered = sorted(evidence.cells, key=lambda c: (order(c.criterion), c.variant, c.model))
    styles = Styles({named[id(cell)]: cell.criterion for cell in ordered})
    return Explorer.of(evidence, styles, named)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    made = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VERSION)
    return made.replace("</script", "<\\/script")


def _variables() -> str:
    """The colours for the style sheet: as the reader's system has it, until a button is pressed."""
    light, dark = _colours("light", LIGHT), _colours("dark", DARK)
    return (
        f":root{{{light}}}"
        f"@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f":root[data-theme=dark]{{{dark}}}"
    )


def _colours(scheme: str, tones: Tones) -> str:
    named = ("surface", "panel", "ink", "muted", "rule", "accent")
    values = {name: getattr(tones, name) for name in named}
    values |= {f"ramp-{place}": tone for place, tone in enumerate(tones.ramp)}
    return f"color-scheme:{scheme};" + "".join(f"--{n}:{value};" for n, value in values.items())


def _left_out(evidence: Evidence) -> str:
    """How much is left out or unequal, with links to what it is."""
    out = sum(problem.left_out for problem in evidence.problems)
    doubts = len(evidence.problems) - out
    said = []
    if out:
        said.append(f'<a href="#table-problems">{counted(out, "folder")} left out</a>')
    if doubts:
        said.append(f'<a href="#table-problems">{counted(doubts, "run")} in doubt</a>')
    if evidence.flags:
        flags = counted(len(evidence.flags), "thing")
        said.append(f'<a href="#flags">{flags} not equal between runs</a>')
    return f'<p class="warn">{"; ".join(said)}.</p>' if said else ""
