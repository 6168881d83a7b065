"""What a sweep shows: a live display on a terminal, a line for each event elsewhere, tables."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prunella.experiments.ledger import HEADING, Ledger, Standing, Status, is_held
from prunella.experiments.sweep import Planned
from prunella.experiments.whereabouts import EVERY, duration

ROWS = 20  # runs in the live display
TAIL = 4096  # bytes of a log that are looked at for the step
_STEP = re.compile(r"\b(\d+)/(\d+)\b")


@dataclass
class Overview:
    """Tells how a sweep goes; an ``Observer``, used as a context manager.

    Args:
        left: names of the runs that are to be carried out.
    """

    ledger: Ledger
    console: Console
    left: set[str] = field(default_factory=set)
    started: dict[str, float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    most: int = 1
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=5))

    def __enter__(self) -> Overview:
        self.live = Live(console=self.console, refresh_per_second=2, auto_refresh=False)
        self.shown, self.told = 0.0, time.monotonic()
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.update(self._counts(), refresh=True)
            self.live.stop()

    # --- the events --------------------------------------------------------------------------

    def begun(self, run: Planned, where: str) -> None:
        again = run.name in self.started
        self.started[run.name] = time.monotonic()
        self.places[run.name] = where
        self.most = max(self.most, len(self.started))
        word = "again" if again else "begun"
        self._tell(word, run.name, f"on {where}" if where else "")

    def ended(self, run: Planned, standing: Standing) -> None:
        then = self.started.pop(run.name, None)
        self.left.discard(run.name)
        if standing.status == "left":  # the sweep is stopped before its turn
            return
        told = standing.reason
        if standing.status == "done":
            if then is not None:
                self.took.append(time.monotonic() - then)
            told = ", ".join(filter(None, (standing.score, duration(standing.seconds or 0))))
        ahead = self.time_left()
        counts = f"{self.ledger.count('done')} of {len(self.ledger.standings)} done"
        counts += f", about {duration(ahead)} left" if ahead else ""
        self._tell(standing.status, run.name, f"{told}; {counts}" if told else counts)

    def stopping(self, times: int) -> None:
        told = {
            1: "stopping: every run writes a checkpoint first; once more stops at once",
            2: "stopping at once, without a checkpoint",
        }
        self._line(told.get(times, "killing what still runs"))

    def tick(self) -> None:
        now = time.monotonic()
        if self.console.is_terminal and now - self.shown > 0.5:
            self.shown = now
            self.live.update(Group(self._counts(), self._running()), refresh=True)
        if not self.console.is_terminal and now - self.told >= EVERY:
            ahead = self.time_left()
            count = f"{self.ledger.count('done')} of {len(self.ledger.standings)} done"
            count += f", about {duration(ahead)} left" if ahead else ""
            running = (f"{name} {self.step(name)}".strip() for name in self.started)
            self._line(f"{time.strftime('%H:%M:%S')}  {count}; running: {', '.join(running)}")

    def _tell(self, word: str, name: str, more: str) -> None:
        colour = {"failed": "red", "blocked": "red", "done": "green"}.get(word, "default")
        line = Text.assemble(time.strftime("%H:%M:%S  "), (f"{word:<10}", colour), f"  {name}")
        self._line(line.append(f"  {more}") if more else line)

    def _line(self, text: str | Text) -> None:
        self.told = time.monotonic()
        self.console.print(text, soft_wrap=True)

    # --- the display -------------------------------------------------------------------------

    def time_left(self) -> float | None:
        """Seconds until all is done, if the rest takes as long as what is done; None if unknown."""
        # What runs took, of which a result knows the seconds of training and measuring alone.
        earlier = [s.seconds for s in self.ledger.standings.values() if s.seconds is not None]
        known = self.took or earlier
        now = time.monotonic()
        waiting = len(self.left) - len(self.started)
        elapsed = [now - then for then in self.started.values()]
        return time_left(known, waiting, elapsed, self.most)

    def _counts(self) -> RenderableType:
        total, done = len(self.ledger.standings), self.ledger.count("done")
        failed = self.ledger.count("failed", "blocked", "foreign")
        table = Table.grid(padding=(0, 2))
        ahead = self.time_left()
        texts = [Text(f"{done} done", "green"), Text(f"{len(self.started)} running")]
        texts += [Text(f"{failed} failed", "red")] if failed else []
        texts.append(Text(f"{max(0, total - done - failed - len(self.started))} left"))
        texts.append(Text(f"about {duration(ahead)}" if ahead else ""))
        table.add_row(ProgressBar(total=total, completed=done, width=30), *texts)
        return table

    def _running(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, then in [*self.started.items()][:ROWS]:
            elapsed = duration(time.monotonic() - then)
            table.add_row(name, self.step(name), elapsed, self.places[name])
        if len(self.started) > ROWS:
            table.add_row(f"and {len(self.started) - ROWS} more")
        return table

    def step(self, name: str) -> str:
        """How far a run is, as the last lines of its log say; "" where they do not."""
        try:
            with self.ledger.file(name, "log").open("rb") as log:
                log.seek(0, 2)
                log.seek(max(0, log.tell() - TAIL))
                text = log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        found = _STEP.findall(HEADING.split(text)[-1])
        return "/".join(found[-1]) if found else ""


def time_left(
    known: Collection[float], waiting: int, elapsed: list[float], together: int
) -> float | None:
    """Seconds until so many runs are done, and those that have run so long.

    Args:
        known: seconds of runs that are done.
        waiting: runs that are not begun.
        elapsed: seconds of those that run.
        together: how many run at a time.
    """
    if not known or not (waiting or elapsed):
        return None
    usual = median(known)
    ahead = usual * waiting + sum(max(0.0, usual - each) for each in elapsed)
    return ahead / min(together, waiting + len(elapsed))


def table_of(ledger: Ledger) -> Table:
    """The runs, where they stand and why."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "", ""):
        table.add_column(column, overflow="fold")
    for name, standing in ledger.standings.items():
        table.add_row(name, standing.status, standing.reason or standing.score)
    return table


def summary(ledger: Ledger) -> str:
    """How many runs stand where."""
    order: tuple[Status, ...] = (
        "done", "running", "broken off", "left", "failed", "blocked", "foreign"
    )  # fmt: skip
    counts = [f"{ledger.count(status)} {status}" for status in order if ledger.count(status)]
    total = len(ledger.standings)
    return f"{total} run{'s' * (total != 1)}: {', '.join(counts)}"


def announce(ledger: Ledger, console: Console) -> None:
    """Say where a sweep stands before it goes on, and what is odd about it."""
    output = ledger.plan.output
    console.print(f"{output}: {summary(ledger)}", soft_wrap=True)
    if others := ledger.other_code():
        console.print(others, soft_wrap=True)
    if strangers := ledger.strangers():
        console.print(
            f"{output} also holds {len(strangers)} runs that are not of this sweep "
            f"({strangers[0]}{', ...' if strangers[1:] else ''}); they are left as they are",
            soft_wrap=True,
        )
    held = [name for name in ledger.standings if is_held(ledger.folder(name))]
    if held:
        console.print(
            f"another process is still at work in {len(held)} of them ({held[0]}); when their turn "
            "comes, they are waited for",
            soft_wrap=True,
        )


def conclude(ledger: Ledger, console: Console) -> int:
    """Say how a sweep ended; 0 where all is done, else 1."""
    console.print(f"{ledger.plan.output}: {summary(ledger)}", soft_wrap=True)
    if others := ledger.other_code():
        console.print(others, soft_wrap=True)
    if ledger.count("done") == len(ledger.standings):
        return 0
    for name, standing in ledger.standings.items():
        if standing.status != "done":
            console.print(f"{standing.status}  {name}", soft_wrap=True)
            console.print(f"        {standing.reason}", soft_wrap=True)
            if standing.status == "failed":
                console.print(f"        {ledger.file(name, 'log')}", soft_wrap=True)
    if ledger.count("failed"):
        console.print(f"Try those that failed again: {ledger.command}", soft_wrap=True)
    return 1
