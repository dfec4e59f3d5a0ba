"""Tasks: what labels say of a sample, and so the loss, the predictions, the scores and the baseline.

Everything that depends on the kind of labels asks the task; nothing else tells tasks apart.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mmfl_jax.errors import UserError

if TYPE_CHECKING:
    from mmfl_jax.archives.base import Archive
    from mmfl_jax.tasks.task import Task

__all__ = ["TASKS", "find", "task_of"]

# Imported when asked for: the losses are JAX's, and archives and partitions do without it.
TASKS = {"multilabel": "Multilabel", "multiclass": "Multiclass", "pixel": "Pixel"}


def find(name: str, classes: int) -> Task:
    """Return the task ``name`` for a number of classes.

    Raises:
      UserError: for an unknown task.
    """
    if name not in TASKS:
        raise UserError(f"task {name!r} is unknown; one of {', '.join(TASKS)}")
    return getattr(importlib.import_module(f"mmfl_jax.tasks.{name}"), TASKS[name])(classes)


def task_of(archive: Archive) -> Task:
    """Return the task of an archive's labels."""
    return find(archive.task, len(archive.class_names))
