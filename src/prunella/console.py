"""The one way text comes to the terminal: as it is, whatever brackets and colons stand in it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from rich.console import Console


def terminal(quiet: bool = False) -> Console:
    """A console that prints names, paths and messages as they are; colours come as ``Text``.

    Rich takes ``[b]`` and ``:boom:`` in a string for markup unless told otherwise, and whoever
    prints one cannot know what a user called a folder.
    """
    width = None if sys.stdout.isatty() else 140  # a file or a pipe has none of its own
    return Console(
        markup=False, emoji=False, highlight=False, soft_wrap=True, width=width, quiet=quiet
    )


def command(*words: str | Path) -> str:
    """A command as it can be pasted into a shell."""
    return shlex.join(map(str, words))


def literal(path: str | Path) -> str:
    """A path as it can be pasted into Python."""
    return json.dumps(str(path), ensure_ascii=False)
