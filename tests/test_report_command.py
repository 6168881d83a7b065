"""The command: what it writes, prints and refuses."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from folders import assert_refused
from synthetic import write_run, write_study

from prunella.cli import main


def test_it_writes_a_page_and_its_tables_and_prints_what_matters(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = write_study(tmp_path / "runs", sparsities=(0.8,), seeds=(0, 1), traced=True)
    write_run(runs / "half.partial")
    output = tmp_path / "new" / "page.html"
    assert main(["report", str(runs), "-o", str(output), "--baseline", "platon"]) == 0
    printed = capfd.readouterr().out
    for words in (
        "PINS",
        "magnitude",
        "after correction for all",
        "left out: ",
        "half.partial",
    ):
        assert words in printed
    assert str(output) in printed
    assert "PINS" in output.read_text()
    assert "PINS over PLATON at 80 %" in output.with_suffix(".md").read_text()
    folder = tmp_path / "new" / "page-tables"
    with (folder / "results.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == [
            *("dense", "magnitude", "PLATON", "PINS")
        ]
    assert len((folder / "runs.csv").read_text().splitlines()) == 9


def test_a_new_report_replaces_the_old_one(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b", scope="matrix")
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "-o", str(output)]) == 0
    assert (tmp_path / "report-tables" / "effect-scope.csv").is_file()
    (tmp_path / "report-tables" / "mine.txt").write_text("kept")
    assert main(["report", str(tmp_path / "runs" / "a"), "--output", str(output)]) == 0
    assert not (tmp_path / "report-tables" / "effect-scope.csv").exists()
    assert (tmp_path / "report-tables" / "mine.txt").is_file()


def test_a_single_run_makes_a_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", twin=1.4, traced=True)
    assert main(["report", str(folder), "-o", str(tmp_path / "report.html")]) == 0
    assert "PINS over dense at 80 %" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["no runs are named"]),
        (["nowhere"], ["there is no nowhere"]),
        (["{empty}"], ["no run that can be read", "result.json"]),
        (["{run}", "-o", "{empty}"], ["ends in .html"]),
        (["{run}", "-o", "report.pdf"], ["report.pdf", "ends in .html"]),
        (["{run}", "--baseline", "magic"], ["unknown method 'magic'", "PINS", "--baseline"]),
    ],
)
def test_bad_input_is_refused_in_a_line(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run")
    places = {"empty": str(tmp_path / "empty"), "run": str(tmp_path / "run")}
    assert main(["report", *(each.format(**places) for each in arguments)]) == 2
    assert_refused(capfd, words)
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    assert main(["report", str(folder), "-o", str(tmp_path / "file" / "report.html")]) == 1
    assert "could not be written" in capfd.readouterr().err


def test_it_does_without_what_training_needs(tmp_path: Path) -> None:
    """Transformers and Datasets take longer to import than a report takes to make."""
    folder = write_run(tmp_path / "run", twin=1.4)
    code = (
        "import sys; from prunella.cli import main; "
        f"main(['report', {str(folder)!r}, '-o', {str(tmp_path / 'r.html')!r}]); "
        "print(sorted({'transformers', 'datasets', 'torchmetrics', 'sklearn'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
