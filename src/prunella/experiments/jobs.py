"""A run as a process of its own, and where such processes run: here, so many at a time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prunella.errors import UsageError
from prunella.experiments import launch
from prunella.experiments.folder import LOCK, partial
from prunella.experiments.ledger import Ledger, now
from prunella.experiments.sweep import Planned, Resources

COMMAND = ("-m", "prunella", "prune")  # what Python is to run
POLL = 0.2  # seconds between two looks at what runs
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One process to be: what a machine has to know of a run.

    Args:
        arguments: of Python.
        log: the file for all it says.
        lock: the file that its run holds while it works.
        home: the folder to start it in.
        begins: whether it starts from nothing.
        commit: of the code, for the log.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path
    lock: Path
    home: Path
    begins: bool
    commit: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Planned, ledger: Ledger, anew: bool) -> Job:
        """The process for a run that is to begin, to go on, or to be replaced."""
        folder = ledger.folder(run.name).resolve()
        cpus = str(ledger.plan.resources.cpus)
        return cls(
            run.name,
            (
                *COMMAND,
                "--config",
                str(ledger.file(run.name, "yaml").resolve()),
                "--overwrite" if anew else "--resume",
            ),
            ledger.file(run.name, "log").resolve(),
            partial(folder) / LOCK,
            Path.cwd(),
            anew or not partial(folder).exists(),
            ledger.commit or "unknown",
            dict.fromkeys(THREADS, cpus) | {"PYTHONUNBUFFERED": "1"},
        )

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start it, in a group of its own: Ctrl-C is for whoever started it to pass on."""
        doing = "begins" if self.begins else "goes on"
        launcher = (sys.executable, "-I", "-S", launch.__file__)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"### {now()}, {doing} on {socket.gethostname()}, commit {self.commit}\n")
            log.flush()
            return subprocess.Popen(
                [*launcher, str(os.getpid()), str(self.lock), sys.executable, *self.arguments],
                cwd=self.home,
                env=os.environ | self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )


@dataclass(frozen=True)
class Begun:
    """A run's process was started."""

    name: str
    where: str = ""


@dataclass(frozen=True)
class Ended:
    """It ended.

    Args:
        status: its exit status, negative where a signal ended it.
        error: what is known beside its log.
    """

    name: str
    status: int
    error: str = ""


class Executor(Protocol):
    """Where jobs run."""

    def has_room(self) -> bool:
        """Whether another job may be submitted."""

    def submit(self, job: Job) -> None:
        """Have a job run as soon as may be."""

    def wait(self) -> list[Begun | Ended]:
        """What happened since the last call, after a moment at most."""

    def stop(self, times: int) -> None:
        """Ask all jobs to end, for the first, second, ... time."""

    def close(self) -> None:
        """Leave nothing running."""


class Local:
    """So many processes at a time on this machine.

    Args:
        devices: names of the GPUs that may be used.
    """

    def __init__(self, jobs: int, resources: Resources, devices: Sequence[str] = ()):
        self.jobs = jobs
        self.gpus = resources.gpus
        self.free = dict.fromkeys(devices, 1.0)
        if self._devices() is None:
            raise UsageError(
                f"resources: gpus is {self.gpus:g}, but this machine has {len(self.free)}; "
                "lower it, or use --ray with a cluster that has them"
            )
        self.running: dict[str, tuple[subprocess.Popen[bytes], dict[str, float]]] = {}
        self.begun: list[Begun] = []

    def has_room(self) -> bool:
        return len(self.running) < self.jobs and self._devices() is not None

    def submit(self, job: Job) -> None:
        taken = self._devices() or {}
        for device, part in taken.items():
            self.free[device] -= part
        process = job.start(CUDA_VISIBLE_DEVICES=",".join(taken))
        self.running[job.name] = (process, taken)
        self.begun.append(Begun(job.name))

    def _devices(self) -> dict[str, float] | None:
        """GPUs for one more job, and how much of each; None where too few are free."""
        part = min(self.gpus, 1.0)
        count = -(-self.gpus // 1)
        # The fullest that has room, so that others stay whole.
        fit = sorted((free, device) for device, free in self.free.items() if free >= part - 1e-9)
        return {device: part for _, device in fit[: int(count)]} if len(fit) >= count else None

    def wait(self) -> list[Begun | Ended]:
        events: list[Begun | Ended] = [*self.begun]
        self.begun.clear()
        if not events:
            time.sleep(POLL)
        for name, (process, taken) in [*self.running.items()]:
            if (status := process.poll()) is not None:
                for device, part in taken.items():
                    self.free[device] += part
                del self.running[name]
                events.append(Ended(name, status))
        return events

    def stop(self, times: int) -> None:
        for process, _ in self.running.values():
            ask(process, times)

    def close(self) -> None:
        self.stop(1)
        for process, _ in self.running.values():
            process.wait()
        self.running.clear()


def ask(process: subprocess.Popen[bytes], times: int) -> None:
    """Ask a process to end: after a checkpoint, at once, or not at all."""
    if times < 3:
        process.terminate()
    else:
        process.kill()


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(n) for n in range(count)] if named is None else named.split(",")[:count]
