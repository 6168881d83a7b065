"""A report of a thousand runs, made up, with the predictions and traces of each.

    PYTHONPATH=tests python benchmarks/report.py [--keep FOLDER]

Prints the seconds of `prunella report`, start of the interpreter included, and of its parts, on one
thread. Writing the runs takes longer than that; --keep leaves them for another time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CRITERIA = ("random", "magnitude", "sensitivity", "fisher", "platon", "pins", "pins-released")
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"regularize": ("self",)},
    {"lr": 2e-4},
    {"scope": "matrix"},
)


def write(folder: Path) -> None:
    """A thousand runs of 872 rows: 2 tasks × 9 criteria × 3 sparsities × 4 variants × 5 seeds."""
    from synthetic import write_study  # type: ignore[import-not-found]

    how = {"seeds": range(5), "rows": 872, "traced": True}
    criteria = ("dense", *CRITERIA, "movement")
    for task in ("glue/sst2", "glue/rte"):
        write_study(folder, criteria=criteria, tasks=(task,), variants=VARIANTS, **how)
    write_study(folder, criteria=CRITERIA[1:3], tasks=("glue/mrpc",), **how)


def parts(folder: Path) -> None:
    """Seconds of reading, testing and tabulating."""
    from prunella.report.contents import tables
    from prunella.report.evidence import Evidence
    from prunella.report.reading import read

    started = time.perf_counter()
    read([folder])
    print(f"reading {time.perf_counter() - started:.2f} s")
    started = time.perf_counter()
    evidence = Evidence.read([folder])
    print(f"with cells and {len(evidence.comparisons)} tests {time.perf_counter() - started:.2f} s")
    started = time.perf_counter()
    tables(evidence)
    print(f"tables {time.perf_counter() - started:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", type=Path, help="folder for the runs, used again if it is there")
    with tempfile.TemporaryDirectory() as aside:
        folder = parser.parse_args().keep or Path(aside, "runs")
        if not folder.exists():
            write(folder)
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "prunella", "report", str(folder)]
        command += ["-o", str(Path(aside, "report.html"))]
        started = time.perf_counter()
        subprocess.run(command, env=one_thread, check=True, stdout=subprocess.DEVNULL)
        print(f"prunella report: {time.perf_counter() - started:.2f} s", flush=True)
        parts(folder)


if __name__ == "__main__":
    main()
