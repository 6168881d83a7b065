"""Where a run is: said at least once a minute, where its output goes to a file.

Whatever takes long says what it is and how far it has come::

    with during("evaluating dev", total=872) as phase:
        phase.at(64)

and nobody need know who listens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from rich.console import Console

EVERY = 60.0  # seconds between two lines, at most
_LOOK = 1.0  # seconds between two looks at the clock


@dataclass
class Phase:
    """Something that takes its time.

    Args:
        total: how many there are of what it goes through; 0 where that is not known.
        clock: seconds.
        numbers: what else there is to say of it.
    """

    title: str
    total: int = 0
    clock: Callable[[], float] = time.monotonic
    numbers: str = ""
    done: int = 0

    def __post_init__(self) -> None:
        self.starts(0)

    def starts(self, done: int) -> None:
        """What was done before does not tell how fast it goes."""
        self.began, self.first, self.done = self.clock(), done, done

    def at(self, done: int, numbers: str = "") -> None:
        """So many are done."""
        self.done, self.numbers = done, numbers or self.numbers

    def __str__(self) -> str:
        elapsed, came = self.clock() - self.began, self.done - self.first
        parts = [self.title]
        parts += [f"{self.done}/{self.total}"] if self.total else []
        parts += [self.numbers] if self.numbers else []
        if not self.total or (not came and elapsed >= EVERY):
            parts.append(f"{duration(elapsed)} so far")
        elif came and self.done < self.total:
            parts.append(f"{duration(elapsed / came * (self.total - self.done))} left")
        return "  ".join(parts)


@dataclass
class Whereabouts:
    """Listens, as a context manager, and says the innermost phase once a minute.

    Args:
        console: where to; a terminal shows bars instead.
        clock: seconds.
    """

    console: Console
    clock: Callable[[], float] = time.monotonic
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.said = self.clock()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Whereabouts:
        self._token = _current.set(self)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        if not self.console.is_terminal and not self.console.quiet:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        _current.reset(self._token)

    def _listen(self) -> None:
        while not self._ended.wait(_LOOK):
            self.look()

    def look(self) -> None:
        """Say where it is, if nothing was said for a minute."""
        if self.phases and self.clock() - self.said >= EVERY:
            self.say(self.phases[-1])

    def say(self, phase: Phase) -> None:
        """Say where it is now; the line is flushed at once."""
        with self._lock:
            self.said = self.clock()
            self.console.print(str(phase), markup=False)


_current: ContextVar[Whereabouts | None] = ContextVar("whereabouts", default=None)


@contextmanager
def during(title: str, total: int = 0) -> Iterator[Phase]:
    """A phase, while it lasts."""
    listener = _current.get()
    phase = Phase(title, total) if listener is None else Phase(title, total, listener.clock)
    phases = [] if listener is None else listener.phases
    phases.append(phase)
    try:
        yield phase
    finally:
        phases.remove(phase)


def say(phase: Phase, console: Console) -> None:
    """Say where it is now, whoever listens."""
    (_current.get() or Whereabouts(console)).say(phase)


def duration(seconds: float) -> str:
    """2 h 10 min, 5 min, 40 s."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes + (rest >= 30), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
