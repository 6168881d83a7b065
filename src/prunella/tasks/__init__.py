"""Tasks to fine-tune on: the nine of GLUE, the embedded demo, and the user's own tables.

>>> get("glue/rte").metrics
('accuracy',)
"""

from prunella.errors import unknown
from prunella.tasks.base import Splits, Task, TaskError, cut_holdout, encode
from prunella.tasks.demo import DEMO
from prunella.tasks.glue import GLUE
from prunella.tasks.table import table, texts

__all__ = ["TASKS", "Splits", "Task", "TaskError", "cut_holdout", "encode", "get", "table", "texts"]

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, DEMO)}


def get(name: str) -> Task:
    """Return the task of that name; an unknown one raises `TaskError` with the nearest names."""
    if name not in TASKS:
        raise TaskError(unknown("task", name, TASKS))
    return TASKS[name]
