"""Where the processes of a sweep run: here, so many at a time."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prunella.errors import UsageError
from prunella.experiments.folder import LOCK, partial
from prunella.experiments.ledger import Ledger
from prunella.experiments.process import POLL, Job, ask
from prunella.experiments.sweep import Planned, Resources

COMMAND = ("-m", "prunella", "prune")  # what Python is to run
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")  # a GPU each
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def job_of(run: Planned, ledger: Ledger, anew: bool) -> Job:
    """The process for a run that is to begin, to go on, or to be replaced."""
    file = str(ledger.file(run.name, "yaml").resolve())
    processes = max(1, int(ledger.plan.resources.gpus))
    command = (*TOGETHER, str(processes), *COMMAND) if processes > 1 else COMMAND
    threads = str(max(1, ledger.plan.resources.cpus // processes))
    return Job(
        run.name,
        (*command, "--config", file, "--overwrite" if anew else "--resume"),
        ledger.file(run.name, "log").resolve(),
        partial(ledger.folder(run.name).resolve()) / LOCK,
        Path.cwd(),
        anew,
        ledger.commit or "unknown",
        dict.fromkeys(THREADS, threads) | {"PYTHONUNBUFFERED": "1"},
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


def devices() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(n) for n in range(count)] if named is None else named.split(",")[:count]
