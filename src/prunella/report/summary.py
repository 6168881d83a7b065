"""What ``prunella report`` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from prunella.report.evidence import Evidence
from prunella.report.tables import shown

MOST = 40  # lines of a kind; the rest is in the report


def table(evidence: Evidence) -> Table:
    """The chosen cells: dev and holdout, mean and spread."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "model", "sparsity", "method"):
        made.add_column(name)
    for name in ("n", "metric", "dev", "holdout"):
        made.add_column(name, justify="right")
    for cell in [cell for cell in evidence.cells if cell.chosen][:MOST]:
        texts = (
            *(cell.task, cell.model, shown(cell.sparsity, "percent"), cell.label),
            *(str(cell.n), cell.metric),
            shown((cell.mean, cell.sd, cell.n), "spread").rpartition(" ")[0],
            shown(cell.holdout_mean, "metric"),
        )
        made.add_row(*texts)
    return made


def lines(evidence: Evidence) -> Iterator[str]:
    """What was found, what is not equal, and what was left out."""
    chosen = sum(cell.chosen for cell in evidence.cells)
    if chosen > MOST:
        yield f"and {chosen - MOST} more"
    tested = [each for each in evidence.comparisons if each.p is not None]
    significant = sum(each.significant for each in tested)
    yield (
        f"runs: {len(evidence.runs)}; comparisons: {len(evidence.comparisons)}, of them tested "
        f"{len(tested)}, significant after correction for all {significant}"
    )
    yield from _some("note: ", list(evidence.flags))
    left_out = [f"{each.path}: {each.reason}" for each in evidence.problems if each.left_out]
    doubts = [f"{each.path}: {each.reason}" for each in evidence.problems if not each.left_out]
    yield from _some("left out: ", left_out)
    yield from _some("in doubt: ", doubts)


def _some(mark: str, texts: list[str]) -> Iterator[str]:
    for text in texts[:MOST]:
        yield mark + text
    if len(texts) > MOST:
        yield f"{mark}{len(texts) - MOST} more, in the report"
