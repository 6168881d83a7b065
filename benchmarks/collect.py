"""Keep of a sweep's finished runs what a report needs: results, traces, and predictions packed.

    python benchmarks/collect.py runs/sst2 results/sst2

What is there already is replaced if the run was done anew. Weights, logs and failures stay behind.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from pathlib import Path


def collect(runs: Path, target: Path) -> int:
    """Copy what is missing or has changed; return how many runs were.

    Raises:
        SystemExit: a result names a folder of one machine, which is nobody else's business.
    """
    copied = 0
    for result in sorted(runs.glob("*/result.json")):
        config = json.loads(result.read_text(encoding="utf-8"))["config"]
        for name in ("data", "model", "teacher", "output"):
            if Path(config[name] or "").is_absolute():
                raise SystemExit(
                    f"{result}: {name} is {config[name]}; run the sweep from where it is a "
                    "relative path"
                )
        folder = target / result.parent.name
        if _same(result, folder / result.name):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        lines = (result.parent / "predictions.jsonl").read_bytes()
        (folder / "predictions.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
        for name in ("trace.json", "result.json"):
            shutil.copy(result.parent / name, folder)
        copied += 1
    return copied


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, help="folder of a sweep")
    parser.add_argument("target", type=Path, help="folder under results/")
    asked = parser.parse_args()
    print(f"{collect(asked.runs, asked.target)} runs kept in {asked.target}")


if __name__ == "__main__":
    main()
