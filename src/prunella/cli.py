"""The command ``prunella``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table

from prunella import __version__
from prunella.console import command, literal, terminal
from prunella.errors import Diverged, Unsaved, UsageError
from prunella.experiments import places
from prunella.experiments.flags import in_flags, read
from prunella.figures import percent

CLASSES = 20  # that are shown of a task with many

USAGE = """usage: prunella COMMAND [flags]

  prune    prune a pretrained model while it is fine-tuned; without flags, a demonstration
  sweep    carry out the runs of a grid of settings, whatever of them is missing
  report   a page of charts, tests and tables from the folders of runs
  info     what a checkpoint holds: sparsity of every matrix, and of three scopes
  bench    how fast a checkpoint runs sparse, beside dense
  evaluate how well a fine-tuned checkpoint does on rows with labels
  predict  what a fine-tuned checkpoint says of rows without
  export   write a checkpoint in another form: sparse, dense, or ONNX

prunella COMMAND --help lists its flags; prunella --version says which prunella this is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 (diverged, runs failed) or 2 (bad input).

    Malformed flags leave through ``SystemExit(2)``, ``--help`` through ``SystemExit(0)``.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(f"prunella {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"prunella: unknown command {name!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[name](rest) or 0
    except UsageError as error:
        return _failed(2, error, in_flags(str(error)) if name == "prune" else "")
    except (Diverged, Unsaved) as error:
        return _failed(1, error)
    except KeyboardInterrupt as error:
        return _failed(130, error, "stopped")


def _failed(status: int, error: BaseException, message: str = "") -> int:
    """Say what went wrong and what is left of it, in one line."""
    line = "; ".join([message or str(error), *getattr(error, "__notes__", [])])
    # Spaces stay as they are, for paths and commands have some too.
    print("prunella:", re.sub(r"\s*\n\s*", " ", line.strip()), file=sys.stderr)
    return status


def prune(arguments: Sequence[str]) -> None:
    """Carry out one run and print what came of it."""
    config = read(arguments)
    # First this, then the imports: a mistyped flag should not wait for Transformers.
    config.check()
    places.check(config)
    if config.criterion != "dense":
        from prunella.experiments import build

        build.pruning(config)
    _quiet()
    import datasets

    from prunella.experiments.run import run

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    shown = terminal()
    folder, result = run(config, shown)
    if not result:  # one of several processes, of which the first tells
        return
    shown.print(_table(result))
    if by_class := result.get("by_class", {}).get("dev"):
        shown.print(_classes(by_class))
    if "max_drop" in result:
        shown.print(_curve(result["max_drop"]))
        shown.print(_verdict(result["max_drop"]))
    for line in _warnings(result):
        shown.print(line)
    shown.print(f"Checkpoint, result.json and dev predictions: {folder}")
    if "speed" in result:
        shown.print(f"Run it: prunella.load({literal(folder)})")
        shown.print(f"Measure it: {command('prunella', 'bench', folder)}")
    shown.print(f"See it: {command('prunella', 'report', folder)}")
    if config.task == "demo":
        shown.print(
            "The same on your own data:\n  prunella prune --model HUB_NAME_OR_FOLDER --task "
            "glue/sst2 --data FOLDER --sparsity 0.9 --baseline --output FOLDER"
        )


@dataclass(frozen=True)
class Sweep:
    """Carry out the runs of a grid of settings: what is missing is run, what was broken off goes
    on, what is finished is skipped. A run that fails does not stop the others.

    Args:
        file: YAML with the settings of all runs (common) and blocks of a grid; docs/sweeps.md
            has an example.
        jobs: runs at a time on this machine.
        ray: run on a Ray cluster instead: auto (the one that was started here), local (a new one
            of this machine alone) or HOST:PORT.
        output: folder for the runs, instead of the one in the file.
        dry_run: say what would be run, and run nothing.
    """

    file: tyro.conf.Positional[Path]
    jobs: int | None = None
    ray: str | None = None
    output: Path | None = None
    dry_run: bool = False


def sweep(arguments: Sequence[str]) -> int:
    """Carry out a sweep and return 0 where all its runs are done then, else 1."""
    asked: Sweep = _parse(Sweep, "sweep", arguments)
    if asked.jobs is not None and (asked.jobs < 1 or asked.ray is not None):
        raise UsageError(
            f"--jobs {asked.jobs} must be a number of runs at a time on this machine, at least 1; "
            "--ray has its own count, by resources in the file"
        )
    from prunella.experiments.sweep import Plan

    plan = Plan.read(asked.file, asked.output)
    again = command("prunella", "sweep", *arguments)
    from prunella.experiments import ledger, overview, scheduler

    shown = terminal()
    if asked.dry_run:
        found = ledger.Ledger.read(plan, None, again)
        shown.print(overview.table_of(found))
        shown.print(f"{plan.output}: {overview.summary(found)}")
        return 0
    return scheduler.sweep(plan, shown, again, asked.jobs or 1, asked.ray)


@dataclass(frozen=True)
class Report:
    """What runs say together: a page of charts, tests and tables, and the same tables as Markdown
    and CSV beside it.

    Args:
        runs: folders of runs, or folders that hold such at any depth; or result.json files.
        output: the page, a file that ends in .html.
        baseline: the method that others are compared with; by default magnitude where it was run.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    baseline: str | None = None


def report(arguments: Sequence[str]) -> None:
    """Write a report and print its main table, and what was left out."""
    asked: Report = _parse(Report, "report", arguments)
    if not asked.runs:
        raise UsageError("no runs are named; name the folders of runs, or folders that hold such")
    from prunella.report import files, summary
    from prunella.report.evidence import Evidence

    files.place(asked.output)
    evidence = Evidence.read(asked.runs, asked.baseline)
    written = files.write_report(evidence, asked.output)
    shown = terminal()
    shown.print(summary.table(evidence))
    for line in summary.lines(evidence):
        shown.print(line)
    shown.print(f"Report: {', '.join(map(str, written))}")


@dataclass(frozen=True)
class Info:
    """What a checkpoint holds: sparsity of every matrix, what would be pruned, and three scopes.

    Args:
        model: a folder of any tool, dense or sparse, a hub name or demo; --model MODEL is the same.
        prune: what to prune, as patterns of names; see prunella prune --help.
        include_biases: prune the biases of the pruned layers too.
        include_embeddings: prune look-up tables too.
        json: write it to this file too.
    """

    model: tyro.conf.Positional[str]
    prune: tuple[str, ...] = ()
    include_biases: bool = False
    include_embeddings: bool = False
    json: Path | None = None


def info(arguments: Sequence[str]) -> None:
    """Print what a checkpoint holds."""
    asked = _parse(Info, "info", _model_first(arguments))
    _quiet()
    from prunella.runtime import bench, inspection

    found = inspection.inspect(
        _located(asked.model),
        parameters=asked.prune or None,
        include_biases=asked.include_biases,
        include_embeddings=asked.include_embeddings,
    )
    terminal().print(inspection.table(found))
    if asked.json is not None:
        bench.write(found.as_dict(), asked.json)


@dataclass(frozen=True)
class Bench:
    """How fast a checkpoint runs sparse, beside dense, and whether both say the same.

    Args:
        model: a checkpoint folder, a hub name or demo; --model MODEL is the same.
        batch: sequences at a time.
        length: tokens of each.
        decode: measure steps that add a token each, so many, to a text of that length.
        threads: of both; 0 leaves it to torch.
        seconds: how long to measure, at most.
        json: write the figures to this file too.
    """

    model: tyro.conf.Positional[str]
    batch: int = 1
    length: int = 128
    decode: int = 0
    threads: int = 0
    seconds: float = 20.0
    json: Path | None = None


def bench(arguments: Sequence[str]) -> None:
    """Measure a checkpoint and print the figures."""
    asked = asdict(_parse(Bench, "bench", _model_first(arguments)))
    _quiet()
    from prunella.runtime import bench

    file = asked.pop("json")
    asked["model"] = _located(asked["model"])
    result = bench.bench(**asked)
    terminal().print(bench.table(result))
    if file is not None:
        bench.write(result, file)


@dataclass(frozen=True)
class Export:
    """Write a checkpoint in another form, with all that lies beside its weights.

    Args:
        model: a checkpoint folder, dense or sparse, a hub name or demo; --model MODEL is the same.
        target: the folder to write.
        format: sparse (small, for prunella.load), dense (Transformers' own) or onnx.
        overwrite: replace the model and files of the same names in the target folder.
    """

    model: tyro.conf.Positional[str]
    target: tyro.conf.Positional[Path]
    format: Literal["sparse", "dense", "onnx"] = "sparse"
    overwrite: bool = False


def export(arguments: Sequence[str]) -> None:
    """Export a checkpoint and print what it takes."""
    asked = _parse(Export, "export", _model_first(arguments))
    _quiet()
    from prunella.runtime import checkpoint
    from prunella.runtime.folder import fetched

    source = fetched(_located(asked.model), whole=True)
    checkpoint.export(source, asked.target, asked.format, overwrite=asked.overwrite)
    before, after = checkpoint.size(source), checkpoint.size(asked.target)
    terminal().print(f"{asked.target}: {after / 1e6:.1f} MB of weights, from {before / 1e6:.1f} MB")


def evaluate(arguments: Sequence[str]) -> None:
    """Judge a checkpoint and print its metrics."""
    from prunella.experiments.asking import Evaluation, ask

    asked, named = ask(Evaluation, "evaluate", _model_first(arguments))
    _quiet()
    import datasets

    from prunella.experiments import finished
    from prunella.runtime import bench

    datasets.disable_progress_bars()
    if asked.predictions is not None:
        finished.check_place(asked.predictions, asked.overwrite)
    whole = named and Path(asked.data or "").expanduser().is_file()
    model = finished.Finished.of(asked, asked.engine, labelled=True, whole=whole)
    about, lines = model.evaluate(asked.split)
    terminal().print(_metrics(about))
    if asked.predictions is not None:
        finished.write(lines, asked.predictions)
    if asked.json is not None:
        bench.write(about, asked.json)


def predict(arguments: Sequence[str]) -> None:
    """Print, or write, what a checkpoint says of rows without labels."""
    from prunella.experiments.asking import Prediction, ask

    asked, _ = ask(Prediction, "predict", _model_first(arguments))
    if asked.file is None:
        raise UsageError("name the rows: prunella predict MODEL FILE")
    _quiet()
    import datasets

    from prunella.experiments import finished

    datasets.disable_progress_bars()
    output = None if asked.output is None else Path(asked.output)
    if output is not None:
        finished.check_place(output, asked.overwrite)
    model = finished.Finished.of(asked, asked.engine, labelled=False, whole=False)
    lines = model.predict(asked.file.expanduser())
    if output is None:
        sys.stdout.writelines(finished.written([line]) for line in lines)
    else:
        finished.write(lines, output)


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "prune": prune,
    "sweep": sweep,
    "report": report,
    "info": info,
    "bench": bench,
    "export": export,
    "evaluate": evaluate,
    "predict": predict,
}


def _parse(kind: type[Any], name: str, arguments: Sequence[str]) -> Any:
    config = (tyro.conf.DisallowNone, tyro.conf.UseAppendAction)
    return tyro.cli(kind, args=arguments, prog=f"prunella {name}", config=config)


def _model_first(arguments: Sequence[str]) -> list[str]:
    """Flags in which a model that is named by ``--model`` comes first, as without the flag."""
    models = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    models.add_argument("--model")
    try:
        known, rest = models.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}; give a checkpoint folder, a hub name or demo") from error
    return rest if known.model is None else [known.model, *rest]


def _located(model: str) -> str:
    """Where the model of the demonstration is; any other name as it is."""
    if model != "demo":
        return model
    from prunella.experiments.models import locate

    return locate(model)


def _quiet() -> None:
    """Have Transformers say nothing that is not an error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _table(result: dict[str, Any]) -> Table:
    """Dense beside pruned, where both were run."""
    from prunella.prunable import SCOPES
    from prunella.summary import LeftDense, told

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.add_column()
    runs = {"dense": result["baseline"]} if "baseline" in result else {}
    if "metrics" in result:  # not where no sparse model was good enough
        runs[result["config"]["criterion"]] = result
    for name in [*runs, "of"]:
        table.add_column(name, justify="right")
    for scope in SCOPES:
        counts = [run["parameters"][scope] for run in runs.values()]
        cells = [f"{count['nonzero']:,}" for count in counts]
        table.add_row(f"non-zero parameters, {scope}", *cells, f"{counts[-1]['total']:,}")
    for scope in SCOPES:
        cells = [percent(run["sparsity"][scope]) for run in runs.values()]
        table.add_row(f"sparsity, {scope}", *cells)
    for split, metrics in next(iter(runs.values()))["metrics"].items():
        for metric in metrics:
            cells = [f"{run['metrics'][split][metric]:.4f}" for run in runs.values()]
            part = "train sample" if split == "train" else split  # of as many rows as the holdout
            table.add_row(f"{part} {metric}", *cells)
    cells = [f"{run['size_bytes'] / 1e6:.1f}" for run in runs.values()]
    table.add_row("weights on disk, MB", *cells)
    if speed := result.get("speed"):
        ms = speed["latency_ms"]
        cells = [f"{ms['dense' if name == 'dense' else 'sparse']:.2f}" for name in runs]
        table.add_row(f"ms for {speed['length']} tokens, {speed['threads']} threads", *cells)
        table.add_row("speed-up", *[""] * (len(runs) - 1), f"{speed['speedup']:.2f}×")
        for form, weights in speed.get("computed_densely", {}).items():
            cells = [""] * len(runs)
            table.add_row(f"sparse, but computed densely: {form}", *cells, f"{weights:,}")
    table.add_row("seconds", *(f"{run['seconds']:.0f}" for run in runs.values()))
    left = list(runs.values())[-1].get("left_dense", ())
    table.caption = told([LeftDense(**each) for each in left]) or None
    return table


def _classes(found: dict[str, dict[str, float]]) -> Table:
    """Figures of the classes on dev, of the largest where there are many."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("dev, by class")
    for name in ("precision", "recall", "F1", "rows"):
        table.add_column(name, justify="right")
    shown = sorted(found.items(), key=lambda pair: -pair[1]["support"])[:CLASSES]
    for name, figures in shown:
        cells = [f"{figures[key]:.4f}" for key in ("precision", "recall", "f1")]
        table.add_row(name, *cells, f"{figures['support']:,}")
    if len(found) > len(shown):
        table.add_row(f"and {len(found) - len(shown)} more, in result.json")
    return table


def _warnings(result: dict[str, Any]) -> list[str]:
    """What is odd about the models, so that no table need be searched for it."""
    dense = result.get("baseline", {}).get("warnings", [])
    return [
        *(f"Beware, {result['config']['criterion']}: {one}" for one in result.get("warnings", [])),
        *(f"Beware, the dense twin: {one}" for one in dense),
    ]


def _metrics(about: dict[str, Any]) -> Table:
    """Metrics by split."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("split", "rows", "metric", "value"):
        table.add_column(name, justify="right" if name in ("rows", "value") else "left")
    for split, metrics in about["metrics"].items():
        rows = f"{about['data'][split]['rows']:,}"
        for name, value in metrics.items():
            table.add_row(split, rows, name, f"{value:.4f}")
    return table


def _curve(found: dict[str, Any]) -> Table:
    """The models on the way up, judged on the holdout."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("level", "non-zero, prunable", f"holdout {found['metric']}", "drop", "MB", "")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row("dense", "", f"{found['dense']:.4f}", "", "", "")
    for point in found["curve"]:
        table.add_row(
            percent(point["level"], 6, brief=True),
            f"{point['parameters']['prunable']['nonzero']:,}",
            f"{point['holdout']:.4f}",
            f"{point['drop']:+.4f}",
            f"{point['size_bytes'] / 1e6:.1f}",
            "inside" if point["inside"] else "",
        )
    return table


def _verdict(found: dict[str, Any]) -> str:
    if found["delivered"] is None:
        return (
            f"No model lost {found['limit']:g} or less on the holdout, so none is delivered; the "
            f"levels are kept. {_remedy(found)}"
        )
    level = percent(found["delivered"], 6, brief=True)
    lines = [
        f"Delivered: {level}, the sparsest that lost {found['limit']:g} or less on the holdout"
    ]
    for split, worth in found.get("worth", {}).items():
        low, high = worth["interval"]
        verdict = "which says neither that the limit is kept nor that it is not"
        if high <= found["limit"]:
            verdict = "so the limit is kept"
        if low > found["limit"]:
            verdict = "so the limit is NOT kept"
        lines.append(
            f"On {split}, which had no part in the choice, it lost {worth['drop']:.4f} "
            f"(95 % interval {low:.4f} to {high:.4f}, at all {len(found['curve'])} levels at "
            f"once), {verdict}"
        )
    return "\n".join(lines)


def _remedy(found: dict[str, Any]) -> str:
    """What may help where no model was good enough."""
    best = min(found["curve"], key=lambda point: point["drop"])
    if reason := found["unfinished"]:
        return (
            f"They were probably still learning: {reason}. Train for twice as long: "
            f"{found['longer']}"
        )
    return (
        f"Nothing says that they were still learning. {100 * best['level']:g}% lost least, "
        f"{best['drop']:.4f}: give --levels below {100 * found['curve'][0]['level']:g}%, a larger "
        f"--max-drop, or more time, such as {found['longer']}"
    )
