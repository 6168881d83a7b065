"""Rows that cannot be used: told together in one error, or left out and counted."""

from __future__ import annotations

import logging

from prunella.tasks.base import TaskError

SHOWN = 3  # rows that an error names
SKIP = "--skip-bad-rows"

logger = logging.getLogger("prunella")


class Rejects:
    """Rows of one source that cannot be used.

    Args:
        source: what errors call it.
        skip: whether they are left out; otherwise they are an error.
        at_once: whether the first ends the reading, as of a stream, whose end may be far.
    """

    def __init__(self, source: str, *, skip: bool = False, at_once: bool = True):
        self.source = source
        self.skip = skip
        self.at_once = at_once
        self.places: list[str] = []
        self._said: list[tuple[str, str]] = []  # of the first ones, reason and remedy

    def add(self, place: str, reason: str, remedy: str = "correct or remove the row") -> None:
        """Count a row.

        Raises:
            TaskError: it ends the reading.
        """
        self.places.append(place)
        if len(self._said) < SHOWN:
            self._said.append((reason, remedy))
        if self.at_once and not self.skip:
            raise self._error(None)

    def settle(self, good: int) -> None:
        """Once all is read: log how many were left out.

        Args:
            good: how many rows can be used.

        Raises:
            TaskError: there are rows that cannot, and they are not to be skipped; or no other.
        """
        if not self.places:
            return
        total = good + len(self.places)
        if not self.skip or not good:
            raise self._error(total)
        logger.warning(
            "%s: left out %d of %d rows: %s", self.source, len(self.places), total, self._first()
        )

    def _first(self, begin: int = 0) -> str:
        named = zip(self.places[begin:], self._said[begin:], strict=False)
        shown = "; ".join(f"{place}: {reason}" for place, (reason, _) in named)
        more = len(self.places) - len(self._said)
        return shown + (f"; and {more} more" if more > 0 else "")

    def _error(self, total: int | None) -> TaskError:
        reason, remedy = self._said[0]
        rest = f"; {self._first(1)}" if len(self.places) > 1 else ""
        count = "" if total is None else f"; {len(self.places)} of {total} rows cannot be used"
        none = self.skip or total == len(self.places)  # would be left
        skip = "" if none else f", or have such rows left out by {SKIP}"
        return TaskError(f"{self.places[0]}: {reason}; {remedy}{skip}{count}{rest}.")
