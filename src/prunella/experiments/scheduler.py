"""The runs of a sweep, carried out: what is left is begun as soon as it may, and its end noted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console

from prunella.errors import Unsaved, UsageError
from prunella.experiments.environment import commit
from prunella.experiments.jobs import Begun, Ended, Executor, Local, devices, job_of
from prunella.experiments.ledger import Ledger, Standing, claimed
from prunella.experiments.overview import Overview, announce, conclude, summary
from prunella.experiments.sweep import Plan, Planned


class Observer(Protocol):
    """Who is told how a sweep goes."""

    def begun(self, run: Planned, where: str) -> None: ...
    def ended(self, run: Planned, standing: Standing) -> None: ...
    def stopping(self, times: int) -> None: ...
    def tick(self) -> None: ...


@dataclass
class Asked:
    """How often this process was asked to stop."""

    times: int = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While this lasts, a signal is counted instead of ending the process."""

        def count(*_: Any) -> None:
            self.times += 1

        before = {}
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, count)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Scheduler:
    """Submits what is left, teachers before students, and notes how each ends."""

    def __init__(self, ledger: Ledger, executor: Executor, observer: Observer):
        self.ledger = ledger
        self.executor = executor
        self.observer = observer
        self.runs = {run.name: run for run in ledger.plan.runs}
        self.anew: set[str] = set()
        self.left = self._to_do()
        self.submitted: set[str] = set()

    def _to_do(self) -> list[Planned]:
        """What is not done, and finished teachers that a student needs and whose model is gone."""
        standings = self.ledger.standings
        left = [
            run
            for run in self.runs.values()
            if standings[run.name].status not in ("done", "foreign")
        ]
        for teacher in {run.teacher for run in left if run.teacher is not None}:
            if standings[teacher].status == "done" and not self.ledger.has_model(teacher):
                self.anew.add(teacher)
        return [run for run in self.runs.values() if run in left or run.name in self.anew]

    def run(self, asked: Asked) -> None:
        """Go on until all is done, or asked to stop and all processes have ended."""
        told = 0
        while self.submitted or (self.left and not asked.times):
            if asked.times > told:
                told += 1
                self.executor.stop(told)
                self.observer.stopping(told)
            if not asked.times:
                self._block()
                self._submit()
            for event in self.executor.wait():
                self._note(event, stopped=asked.times > 0)
            self.observer.tick()

    def _submit(self) -> None:
        for run in [*self.left]:
            if not self.executor.has_room():
                return
            if run.teacher is None or self._is_ready(run.teacher):
                self.left.remove(run)
                self.submitted.add(run.name)
                self.ledger.begin(run)
                self.executor.submit(job_of(run, self.ledger, run.name in self.anew))

    def _is_ready(self, teacher: str) -> bool:
        waits = teacher in self.submitted or self.runs[teacher] in self.left
        return not waits and self.ledger.standings[teacher].status == "done"

    def _block(self) -> None:
        """Give up the students of a teacher that there will not be."""
        for run in [*self.left]:
            teacher = run.teacher
            if teacher is None or teacher in self.submitted or self.runs[teacher] in self.left:
                continue
            if self.ledger.standings[teacher].status != "done":
                self.left.remove(run)
                self.ledger.set(run.name, "blocked", f"its teacher {teacher} is not there")
                self.observer.ended(run, self.ledger.standings[run.name])

    def _note(self, event: Begun | Ended, stopped: bool) -> None:
        run = self.runs[event.name]
        if isinstance(event, Begun):
            self.ledger.set(run.name, "running")
            self.observer.begun(run, event.where)
            return
        self.submitted.remove(run.name)
        self.anew.discard(run.name)
        standing = self.ledger.settle(run, event.status, event.error, stopped)
        self.observer.ended(run, standing)


def sweep(plan: Plan, console: Console, command: str, jobs: int = 1, ray: str | None = None) -> int:
    """Carry out what is missing of a plan; 0 where all is done then, else 1.

    Args:
        command: how to do so again.
        jobs: runs at a time on this machine.
        ray: address of a Ray cluster to use instead.

    Raises:
        UsageError: another sweep is at work in the folder, or there is nowhere to run.
        Unsaved: the state of the sweep could not be written.
        KeyboardInterrupt: as asked, all processes having ended.
    """
    if sys.platform == "win32":
        raise UsageError(
            "prunella sweep asks its runs to end by signals that Windows lacks; use WSL, or start "
            "the runs one by one with prunella prune --config FILE"
        )
    asked = Asked()
    with claimed(plan.output) as claim:
        ledger = Ledger.read(plan, commit(), command)
        announce(ledger, console)
        try:
            ledger.thin()
            ledger.write()
            if ledger.count("done", "foreign") < len(plan.runs):
                with _executor(plan, jobs, ray, claim, console) as executor:
                    _carry_out(ledger, executor, asked, console)
        except OSError as error:
            raise Unsaved(f"the sweep in {plan.output} broke off: {error}") from error
    if asked.times and ledger.count("broken off", "left", "running"):
        stopped = KeyboardInterrupt()
        stopped.add_note(f"{summary(ledger)}; go on with: {command}")
        raise stopped
    return conclude(ledger, console)


@contextmanager
def _executor(
    plan: Plan, jobs: int, ray: str | None, claim: str, console: Console
) -> Iterator[Executor]:
    executor: Executor
    if ray is not None:
        from prunella.experiments.cluster import Cluster

        executor = Cluster(ray, plan, claim, console)
    else:
        found = devices()
        if found and not plan.resources.gpus:
            console.print(f"GPUs here: {len(found)}; resources: {{gpus: 1}} lets runs use them")
        if jobs * plan.resources.cpus > (os.cpu_count() or 1):
            console.print(
                f"{jobs} jobs of {plan.resources.cpus} threads are more than the "
                f"{os.cpu_count()} cores here, and will hold each other up"
            )
        executor = Local(jobs, plan.resources, found)
    try:
        yield executor
    finally:
        executor.close()


def _carry_out(ledger: Ledger, executor: Executor, asked: Asked, console: Console) -> None:
    overview = Overview(ledger, console)
    scheduler = Scheduler(ledger, executor, overview)
    overview.left = {run.name for run in scheduler.left}
    with overview, asked.listening():
        scheduler.run(asked)
