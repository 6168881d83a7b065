"""Tasks to fine-tune on: the nine of GLUE and the embedded demo.

>>> get("glue/rte").metrics
('accuracy',)
"""

import difflib

from prunella.tasks.base import Splits, Task, TaskError, cut_holdout, encode
from prunella.tasks.demo import DEMO
from prunella.tasks.glue import GLUE

__all__ = ["TASKS", "Splits", "Task", "TaskError", "cut_holdout", "encode", "get"]

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE, DEMO)}


def get(name: str) -> Task:
    """Return the task of that name; an unknown one raises `TaskError` with the nearest names."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise TaskError(f"unknown task {name!r}; {hint}The tasks are {', '.join(TASKS)}.")
