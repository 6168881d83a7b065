"""The files of a report: the page, and the same tables for programs and for other documents."""

from __future__ import annotations

from pathlib import Path

from prunella.errors import Unsaved, UsageError
from prunella.experiments.folder import write
from prunella.report.contents import tables
from prunella.report.evidence import Evidence
from prunella.report.page import page
from prunella.report.tables import to_csv, to_markdown


def place(output: Path) -> tuple[Path, Path]:
    """Where a report's Markdown and its folder of CSV files go, beside its page.

    Raises:
        UsageError: The page cannot go there.
    """
    if output.is_dir() or output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the report {output} must be a file that ends in .html; name one with -o")
    return output.with_suffix(".md"), output.with_name(f"{output.stem}-tables")


def write_report(evidence: Evidence, output: Path) -> list[Path]:
    """Write the page, ``NAME.md`` and the folder ``NAME-tables``; return their paths.

    The folder is the report's own: tables that it no longer has are removed.

    Raises:
        UsageError: As `place`.
        Unsaved: A file could not be written.
    """
    markdown, folder = place(output)
    made = tables(evidence)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in {*folder.glob("*.csv")} - {folder / f"{table.key}.csv" for table in made}:
            old.unlink()
        for table in made:
            write(folder / f"{table.key}.csv", to_csv(table))
        write(markdown, f"# Report\n\n{to_markdown(made)}")
        write(output, page(evidence))
    except OSError as error:
        raise Unsaved(f"the report {output} could not be written: {error}") from error
    return [output, markdown, folder]
