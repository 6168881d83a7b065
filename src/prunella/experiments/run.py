"""One run: training under a pruner, evaluation, and a folder with all that is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from rich.console import Console
from safetensors import SafetensorError

from prunella import runtime
from prunella.console import command, terminal
from prunella.errors import Diverged, Unsaved, UsageError
from prunella.experiments import promise, training
from prunella.experiments.config import RunConfig
from prunella.experiments.environment import environment
from prunella.experiments.folder import (
    find,
    partial,
    place,
    read_json,
    working,
    write,
    write_json,
)
from prunella.experiments.study import LEVELS, MODEL, TRAINING, Study
from prunella.experiments.whereabouts import Whereabouts, during
from prunella.hf.checkpoints import latest, put
from prunella.runfiles import PREDICTIONS, RESULT, TRACE, YAML
from prunella.runtime import engine
from prunella.runtime.companions import copy_along, link_or_copy

SCHEMA = 1
ROUNDING = 1e-6  # metrics are computed in float32
DATA = "data.json"


def run(config: RunConfig, console: Console) -> tuple[Path, dict[str, Any]]:
    """Carry out one run; return the folder that holds its result, and the result.

    Processes that torchrun or ``accelerate launch`` started train it together, each on its part of
    every batch; the first does the rest, and it alone has a result to return.

    The folder appears at the end, whole: a Transformers checkpoint, ``result.json``,
    ``prunella.yaml`` (the settings), ``predictions.jsonl`` (dev and test, row by row; the dense
    twin's too, where one was run) and ``trace.json`` (how the training went, where the weights
    are).
    Until then all is in ``<folder>.partial``, from where ``resume`` continues a run that was
    killed; a note on the exception says what is there.

    Raises:
        UsageError: bad settings or data; nothing is left behind.
        Diverged: the loss, a score or the result is no longer finite.
        Unsaved: a checkpoint or the result could not be written.
        KeyboardInterrupt: as asked, after the step and its checkpoint.
    """
    config.check()
    processes = PartialState(cpu=not torch.accelerator.is_available())
    training.batch_size(config, processes.num_processes)
    if not processes.is_main_process:
        return _follow(config), {}
    if config.form == "sparse":
        engine.variant()  # refuses, or tells, now rather than after the training
    output = find(config) if config.resume else place(config)
    if config.resume and not partial(output).exists() and (output / RESULT).is_file():
        console.print("this run is finished already")
        broadcast_object_list([output, False])
        return output, read_json(output / RESULT)
    if config.resume and not partial(output).exists():
        console.print("there is nothing to resume; beginning")
    with Whereabouts(console):
        return output, _lead(config, output, console)


def _lead(config: RunConfig, output: Path, console: Console) -> dict[str, Any]:
    """The part of the first process: all that is written and said."""
    study = Study.of(config, console)
    try:
        with working(config, output) as folder:
            _check_data(study, folder)
            broadcast_object_list([output, True])
            return _carry_out(study, folder, output)
    except (OSError, SafetensorError) as error:
        unsaved = Unsaved(f"the run in {partial(output)} broke off: {error}")
        _note(unsaved, partial(output))
        raise unsaved from error
    except (Diverged, Unsaved, KeyboardInterrupt) as error:
        _note(error, partial(output))
        raise


def _follow(config: RunConfig) -> Path:
    """The part of every process but the first: to train along."""
    told: list[Any] = [None, None]
    broadcast_object_list(told)  # once the first has read the data and made the folder
    output, begins = told
    if begins:
        study = Study.of(config, terminal(quiet=True))
        for criterion in _trained(config):
            study.fit(criterion, partial(output) / criterion)
    return output


def _trained(config: RunConfig) -> list[str]:
    """What is trained, in order."""
    return [config.criterion, *["dense"] * config.runs_baseline]


def _check_data(study: Study, folder: Path) -> None:
    """Raise UsageError where a run that is continued would see other data than before."""
    known = read_json(folder / DATA)
    if known is None:
        write_json(folder / DATA, study.data.about)
        return
    changed = [name for name, part in study.data.about.items() if known.get(name) != part]
    if changed:
        rows = {name: known.get(name, {}).get("rows") for name in changed}
        raise UsageError(
            f"the data changed since the run began: {', '.join(changed)} "
            f"(rows then: {rows}); restore it, or start anew with --overwrite"
        )


def _carry_out(study: Study, folder: Path, output: Path) -> dict[str, Any]:
    """Whatever is not done yet; every part can be broken off and done again."""
    config = study.config
    for criterion in _trained(config):
        study.fit(criterion, folder / criterion)

    aside = folder / "result"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    result: dict[str, Any] = {"schema": SCHEMA, "config": config.settings()}
    predictions: list[dict[str, Any]] = []
    baseline: dict[str, Any] | None = None
    dense: list[dict[str, Any]] = []
    if config.runs_baseline:
        baseline, _, dense = study.measure("dense", folder / "dense", folder / "dense" / MODEL)
    delivered: Path | None = folder / config.criterion / MODEL
    if config.max_drop is not None:
        assert baseline is not None
        reference = baseline["metrics"]["holdout"][study.headline]
        result["max_drop"], delivered = _decide(study, reference, folder, aside)
    if delivered is not None:
        _deliver(delivered, aside, config.form)
        figures, trace, predictions = study.measure(
            config.criterion, folder / config.criterion, aside
        )
        write(aside / TRACE, json.dumps(trace) + "\n")
        result |= figures
        if config.max_drop is not None:
            result["kept_step"] = study.step_of(result["max_drop"]["delivered"])
            result["max_drop"]["worth"] = _worth(study, dense, predictions)
        if config.form == "sparse":
            result["speed"] = study.speed(aside)
    if baseline is not None:
        result["baseline"] = baseline
    teacher = None if config.teacher is None else _about_teacher(config.teacher, study.data.about)
    if teacher is not None and not teacher["same_holdout"]:
        seen = "held out other rows" if teacher["same_holdout"] is False else "does not say"
        study.console.print(
            f"the teacher may have been trained on our holdout, and flatter it: it {seen}"
        )
    result |= {
        "dev_used_for_selection": config.uses_dev or bool(teacher and teacher["used_dev"]),
        "pruned_by": study.pruned_by,
        "task": study.about(),
        "data": study.data.about,
        "overlap": study.data.overlap,
        "teacher": teacher,
        "environment": environment(),
    }
    with (aside / PREDICTIONS).open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in (*predictions, *dense))
    shutil.copy(folder / YAML, aside)
    write_json(aside / RESULT, result)
    put(aside, output)
    return result


def _decide(
    study: Study, dense: float, folder: Path, aside: Path
) -> tuple[dict[str, Any], Path | None]:
    """The curve of a ladder on the holdout, and the sparsest model that is inside the limit.

    Args:
        dense: the headline metric of the dense twin there.
    """
    config = study.config
    assert config.max_drop is not None
    ladder = folder / config.criterion
    models = {level: ladder / LEVELS / f"{level:g}" for level in config.ladder[:-1]}
    models[config.ladder[-1]] = ladder / MODEL
    curve, delivered = [], None
    for level, model in models.items():
        kept = aside / LEVELS / f"{level:g}"
        kept.mkdir(parents=True)
        _deliver(model, kept, config.form)
        value, counts = study.judge(kept)
        drop = value - dense if study.minimize else dense - value
        inside = drop <= config.max_drop + ROUNDING
        delivered = level if inside else delivered
        curve.append(
            {
                "level": level,
                "step": study.step_of(level),
                "holdout": value,
                "drop": drop,
                "inside": inside,
            }
            | counts
        )
    about = {
        "limit": config.max_drop,
        "metric": study.headline,
        "dense": dense,
        "delivered": delivered,
        "curve": curve,
    }
    if delivered is None:
        losses = read_json(folder / "dense" / TRAINING)["trace"]["log"]
        about["unfinished"] = promise.unfinished(curve, losses, study.minimize)
        about["longer"] = config.longer
    return about, None if delivered is None else models[delivered]


def _worth(
    study: Study, dense: list[dict[str, Any]], pruned: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """How much worse than dense the delivered model is on splits that it was not chosen by.

    Args:
        dense, pruned: predictions, with the split of each.
    """
    sign = -1 if study.minimize else 1

    def score(records: Sequence[Any]) -> float:
        return sign * study.task.score(records)[study.headline]

    worth = {}
    for name in study.data.reported:
        ours, whole = ([row for row in p if row["split"] == name] for p in (pruned, dense))
        if len(ours) < 2:  # of one row nothing can be said
            continue
        known = promise.interval(score, ours, whole, choices=len(study.config.ladder))
        worth[name] = {"drop": score(whole) - score(ours), "interval": known}
    return worth


def _about_teacher(name: str, data: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a teacher was trained on, as far as its own result says, beside what we hold out."""
    path = Path(name).expanduser() / RESULT
    known = read_json(path) or {}
    theirs = known.get("data") or {}
    return {
        "path": name,
        "config": known.get("config"),
        "data": known.get("data"),
        # None where the teacher does not say.
        "same_holdout": theirs.get("holdout") == data["holdout"] if theirs else None,
        "used_dev": known.get("dev_used_for_selection"),
    }


def _deliver(source: Path, target: Path, form: Literal["sparse", "dense"]) -> None:
    """A model's files into another folder, without copying bytes where nothing is to change."""
    if form == "sparse":
        with during("writing the sparse model"):
            return runtime.export(source, target, form)
    copy_along(source.iterdir(), target, link_or_copy)


def _note(error: BaseException, folder: Path) -> None:
    """Say what a broken-off run left, and how to go on."""
    if not folder.exists():
        return
    done = sorted(folder.glob(f"*/{MODEL}"))
    left = [path for path in map(latest, sorted(folder.iterdir())) if path is not None]
    if isinstance(error, Diverged):
        for path in left[:1]:
            error.add_note(f"the last good checkpoint is {path}")
        for path in done[:1]:
            error.add_note(f"what was trained is in {path}")
        return
    error.add_note(
        f"continue with: {command('prunella', 'prune', '--config', folder / YAML, '--resume')}"
        if left or done
        else "nothing was saved yet"
    )
