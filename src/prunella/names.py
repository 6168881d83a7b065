"""What settings may name: known without importing what it is, which takes seconds."""

from __future__ import annotations

# Tasks that are made of the user's own data.
OWN = (
    "classification",
    "multilabel",
    "regression",
    "ner/columns",
    "text2text",
    "lm/causal",
    "lm/masked",
    "chat",
)

_GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
TASKS = (
    *(f"glue/{name}" for name in _GLUE),
    "demo",
    "qa/squad",
    "qa/squad_v2",
    "ner/conll2003",
    "ner/wnut17",
    "d2t/e2e",
    "d2t/webnlg",
    "d2t/dart",
    *OWN,
)

CRITERIA = (
    "random",
    "magnitude",
    "sensitivity",
    "fisher",
    "platon",
    "platon-released",
    "pins",
    "pins-signed",
    "pins-sgd",
    "pins-released",
    "movement",
    "soft-movement",
    "l0",
)

# Transformers' trackers, and the packages of which one must be there.
TRACKERS = {
    name: (name,)
    for name in (
        *("comet_ml", "mlflow", "neptune", "trackio", "wandb", "codecarbon", "clearml", "dagshub"),
        *("dvclive", "swanlab"),
    )
} | {
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "kubeflow": (),  # none, but a job of its own
}
