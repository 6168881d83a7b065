"""Tasks to fine-tune on, by family.

>>> get("glue/rte").metrics
('accuracy',)
"""

from prunella.errors import unknown
from prunella.names import OWN
from prunella.tasks.base import Reader, Record, Splits, Task, TaskError
from prunella.tasks.chat import chat
from prunella.tasks.classification import Classification
from prunella.tasks.d2t import D2T
from prunella.tasks.demo import DEMO
from prunella.tasks.glue import GLUE
from prunella.tasks.holdout import cut_holdout
from prunella.tasks.lm import language
from prunella.tasks.multilabel import Multilabel
from prunella.tasks.overlap import shared
from prunella.tasks.squad import SQUAD
from prunella.tasks.t2t import text2text
from prunella.tasks.table import table, texts
from prunella.tasks.tagging import NER, columns

__all__ = [
    "OWN",
    "TASKS",
    "Classification",
    "Multilabel",
    "Reader",
    "Record",
    "Splits",
    "Task",
    "TaskError",
    "chat",
    "columns",
    "cut_holdout",
    "get",
    "language",
    "shared",
    "table",
    "text2text",
    "texts",
]

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, DEMO, *SQUAD, *NER, *D2T)}


def get(name: str) -> Task:
    """Return the task of that name; an unknown one raises `TaskError` with the nearest names."""
    if name not in TASKS:
        raise TaskError(unknown("task", name, TASKS))
    return TASKS[name]
