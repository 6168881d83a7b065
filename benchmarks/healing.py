"""What each part of the healing contributes, under one protocol: runs what is missing, and tells.

    python benchmarks/healing.py run RUNS --data SST-2 --sparsity 0.8 [--part 1/2]
    python benchmarks/healing.py collect RUNS results/healing

``run`` fills a grid in order of importance, one ``prunella prune`` a cell and seed. It skips what
is in RUNS or was collected, and resumes what was broken off; ``--part`` shares the work between
processes. ``collect`` keeps each run's result and predictions, and writes the table of all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from table import spread

COMMON = "--task glue/sst2 --max-steps 500 --check-every 0.5"
SEEDS = range(3)
# In the order in which they are wanted: criteria, a name, flags.
CELLS = (
    ("magnitude pins", "none", ""),
    ("magnitude pins", "self", "--regularize self"),
    ("magnitude pins", "distill", "--regularize distill --teacher {runs}/dense-0"),
    ("pins", "smoothing", "--regularize smoothing"),
    ("pins", "virtual", "--regularize virtual-teacher"),
    ("pins", "self-task", "--regularize self --score-gradient task"),
    ("pins", "self-holdout", "--regularize self --snapshot best-holdout --check-every 0.1"),
    ("pins", "self-dev", "--regularize self --snapshot best-dev --check-every 0.1"),
)
TITLES = {
    "none": "–",
    "self": "self, a snapshot every 50 steps",
    "distill": "distillation from the dense model",
    "smoothing": "label smoothing",
    "virtual": "virtual teacher",
    "self-task": "self; scores by the task's gradient",
    "self-holdout": "self, the best snapshot on the holdout",
    "self-dev": "self, the best snapshot on dev (**leaks**)",
}
COLLECTED = Path(__file__).parent.parent / "results" / "healing"


def jobs(runs: Path, sparsity: float) -> Iterator[tuple[str, list[str]]]:
    """Names and flags of all runs, the first wanted first."""
    for seed in SEEDS:
        yield f"dense-{seed}", ["--criterion", "dense", "--seed", str(seed)]
    for criteria, name, flags in CELLS:
        for seed in SEEDS:
            for criterion in criteria.split():
                settings = f"--criterion {criterion} --sparsity {sparsity:g} --seed {seed}"
                yield (
                    f"{criterion}-{name}-{sparsity:g}-{seed}",
                    [*settings.split(), *flags.format(runs=runs).split()],
                )


def fill(runs: Path, data: str, sparsity: float, part: str) -> None:
    """Run what is missing; a share of it, counted from 1."""
    share, shares = map(int, part.split("/"))
    runs.mkdir(parents=True, exist_ok=True)
    for number, (name, flags) in enumerate(jobs(runs, sparsity)):
        output = runs / name
        known = (output / "result.json").exists() or (COLLECTED / f"{name}.json").exists()
        if known or number % shares != share - 1:
            continue
        command = [sys.executable, "-m", "prunella", "prune", *COMMON.split(), *flags]
        with (runs / f"{name}.log").open("w") as log:
            done = subprocess.run(
                [*command, "--data", data, "--output", str(output), "--resume"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        print(name, "done" if done.returncode == 0 else f"failed: see {log.name}", flush=True)


def collect(runs: Path, target: Path) -> None:
    """Keep what the table needs: a file a run, with the logits on dev to four decimals."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(runs.glob("*/result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        # Where this machine keeps its files is of no use to others.
        result["config"] |= {"data": "SST-2", "output": file.parent.name}
        if result["teacher"] is not None:
            result["config"]["teacher"] = Path(result["config"]["teacher"]).name
            result["teacher"] = {k: result["teacher"][k] for k in ("same_holdout", "used_dev")}
        lines = (file.parent / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        result["logits"] = [[round(x, 4) for x in json.loads(line)["logits"]] for line in lines]
        (target / f"{file.parent.name}.json").write_text(json.dumps(result) + "\n")


def table(target: Path) -> str:
    """Markdown: a row a cell, dense first."""
    groups: dict[tuple[float, str, str], list[dict[str, Any]]] = defaultdict(list)
    order = {"none": 0} | {name: number for number, (_, name, _) in enumerate(CELLS)}
    for file in sorted(target.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        criterion, _, rest = file.stem.partition("-")
        name = "none" if criterion == "dense" else rest.rsplit("-", 2)[0]
        sparsity = 0.0 if criterion == "dense" else result["config"]["sparsity"]
        groups[sparsity, criterion, name].append(result)
    rows = [
        "| sparsity | criterion | regularizer | n | dev | raw, by seed | holdout | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (sparsity, criterion, name), results in sorted(
        groups.items(), key=lambda item: (item[0][0], order[item[0][2]], item[0][1])
    ):
        results.sort(key=lambda result: result["config"]["seed"])
        dev, holdout = (
            [result["metrics"][split]["accuracy"] for result in results]
            for split in ("dev", "holdout")
        )
        seconds = sorted(result["seconds"] for result in results)[len(results) // 2]
        raw = " ".join(f"{value:.4f}" for value in dev)
        rows.append(
            f"| {sparsity:g} | {criterion} | {TITLES[name]} | {len(results)} | {spread(dev)} | "
            f"{raw} | {spread(holdout)} | {seconds:.0f} |"
        )
    every = [result for results in groups.values() for result in results]
    commits = sorted({result["environment"]["commit"] or "unknown" for result in every})
    return "\n".join([*rows, "", f"Commits: {', '.join(commits)}"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=["run", "collect"])
    parser.add_argument("runs", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=COLLECTED)
    parser.add_argument("--data", default="SST-2", help="folder with the task's TSV files")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 for two processes")
    options = parser.parse_args()
    if options.action == "run":
        fill(options.runs, options.data, options.sparsity, options.part)
    else:
        collect(options.runs, options.target)
        print(table(options.target))


if __name__ == "__main__":
    main()
