"""The ways a run ends early, so that a caller can tell them from a defect of the program."""

from collections.abc import Collection
from difflib import get_close_matches


class UsageError(ValueError):
    """Bad input. The message names the value, the rule it breaks and the remedy."""


class Diverged(RuntimeError):
    """Training produced a number that is not finite. The message names the step."""


class Unsaved(RuntimeError):
    """Results could not be written, as on a full disk. The message names the cause."""


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """A message on a name that is not known, with the nearest that are."""
    near = get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}known are {', '.join(known)}"
