"""A Markdown table of finished runs: n, mean, standard deviation and every raw value.

    python benchmarks/table.py runs/*/

Runs are grouped by task, sparsity, steps and criterion; the metric is the task's first.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def spread(values: list[float]) -> str:
    """Mean ± standard deviation (of the sample, n - 1)."""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def values(results: list[dict[str, Any]], split: str) -> str:
    """Mean and spread of a split's first metric."""
    return spread([next(iter(result["metrics"][split].values())) for result in results])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, help="folders that hold a result.json")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for folder in parser.parse_args().runs:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        config = result["config"]
        sparsity = 0.0 if config["criterion"] == "dense" else config["sparsity"]
        groups[config["task"], sparsity, result["steps"], config["criterion"]].append(result)
        if "baseline" in result:  # the dense twin
            twin = {**result, **result["baseline"]}
            groups[config["task"], 0.0, twin["steps"], "dense"].append(twin)
    print("| task | sparsity | steps | criterion | n | dev | raw, by seed | holdout |")
    print("|---|---|---|---|---|---|---|---|")
    for (task, sparsity, steps, criterion), results in sorted(groups.items()):
        results.sort(key=lambda result: result["config"]["seed"])
        raw = " ".join(f"{next(iter(r['metrics']['dev'].values())):.4f}" for r in results)
        print(
            f"| {task} | {sparsity:g} | {steps} | {criterion} | {len(results)} | "
            f"{values(results, 'dev')} | {raw} | {values(results, 'holdout')} |"
        )
    commits = sorted({r["environment"]["commit"] or "unknown" for g in groups.values() for r in g})
    print(f"\nCommits: {', '.join(commits)}")


if __name__ == "__main__":
    main()
