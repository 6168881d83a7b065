"""The processes of a sweep on the nodes of a Ray cluster."""

from __future__ import annotations

import os
import socket
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from prunella.errors import UsageError
from prunella.experiments import process
from prunella.experiments.jobs import Begun, Ended
from prunella.experiments.ledger import CLAIM, HEADING
from prunella.experiments.process import POLL, Job
from prunella.experiments.sweep import Plan

RETRIES = 5  # times that a run is begun again because its node was lost
AHEAD = 8  # runs that wait for room, so that a cluster that grows by itself does so
MOMENT = 1.0  # seconds between two looks at logs, which may be on another machine


class Cluster:
    """One Ray task a run. Ray finds room for it, and begins it again where a node is lost.

    Args:
        address: auto, local or HOST:PORT.
        claim: what the sweep has written into its folder, for every node to see.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, plan: Plan, claim: str, console: Console):
        self.ray = _connect(address)
        self.claim = (plan.output.resolve() / CLAIM, claim)
        wanted = plan.resources
        self.environment = {} if wanted.gpus else {"CUDA_VISIBLE_DEVICES": ""}
        self.task = self.ray.remote(
            num_cpus=wanted.cpus, num_gpus=wanted.gpus, max_retries=RETRIES
        )(process.follow)
        self.jobs: dict[Any, Job] = {}
        self.begun: dict[str, int] = {}  # how often each was, as its log says
        self.waiting: set[str] = set()
        self._say_what_there_is(wanted.cpus, wanted.gpus, console)

    def _say_what_there_is(self, cpus: int, gpus: float, console: Console) -> None:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        room = sum(
            min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else float("inf"))
            for node in nodes
        )
        console.print(f"Ray: nodes: {len(nodes)}, room for runs at a time: {room:.0f}")
        if not room:
            console.print(
                f"no node has the {cpus} CPUs and {gpus:g} GPUs of a run; runs wait until one joins"
            )

    def has_room(self) -> bool:
        return len(self.waiting) < AHEAD

    def submit(self, job: Job) -> None:
        self.begun[job.name] = len(_headings(job.log))
        self.waiting.add(job.name)
        task = self.task.options(name=job.name)
        self.jobs[task.remote(job, self.claim, self.environment)] = job

    def wait(self) -> list[Begun | Ended]:
        if not self.jobs:
            time.sleep(POLL)
            return []
        over, _ = self.ray.wait([*self.jobs], num_returns=len(self.jobs), timeout=MOMENT)
        events: list[Begun | Ended] = []
        for reference in over:
            events += [*self._begun(self.jobs[reference]), self._ended(reference)]
        return events + [event for job in self.jobs.values() for event in self._begun(job)]

    def _begun(self, job: Job) -> list[Begun]:
        """Whether a node has begun with a job since we last looked."""
        headings = _headings(job.log)
        if len(headings) == self.begun[job.name]:
            return []
        self.begun[job.name] = len(headings)
        self.waiting.discard(job.name)
        return [Begun(job.name, headings[-1])]

    def _ended(self, reference: Any) -> Ended:
        job = self.jobs.pop(reference)
        self.waiting.discard(job.name)
        errors = self.ray.exceptions
        try:
            status = self.ray.get(reference)
        except errors.TaskCancelledError:
            return Ended(job.name, 130)
        except errors.RayError as error:  # the node was lost too often, or has no such Python
            return Ended(job.name, 1, f"Ray: {' '.join(str(error).split())}")
        if isinstance(status, str):
            raise UsageError(
                f"{status}; all nodes must see it: give --output on a file system that they "
                "share, and start the sweep in a folder there"
            )
        return Ended(job.name, status)

    def stop(self, times: int) -> None:
        for reference in self.jobs:
            self.ray.cancel(reference)  # a KeyboardInterrupt there

    def close(self) -> None:
        self.stop(1)
        if self.jobs:
            self.ray.wait([*self.jobs], num_returns=len(self.jobs))
        self.ray.shutdown()


def _connect(address: str) -> Any:
    """Ray, connected to a cluster.

    Raises:
        UsageError: it is not installed, or there is no such cluster.
    """
    # Whoever starts a cluster decides whether it tells of itself; one of our own does not.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of a lost node one line is enough; this one comes with the node's log.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated")
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise UsageError(
            "--ray needs Ray, which is not installed; pip install 'prunella[ray]'"
        ) from error
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        if address not in ("auto", "local"):
            # Ray itself would try for minutes.
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"no Ray cluster answers at {address} ({reason}); start one with: ray start --head"
        ) from error
    # Sent as source, so that workers need not import this package, and torch with it.
    ray.cloudpickle.register_pickle_by_value(process)
    return ray


def _headings(log: Path) -> list[str]:
    """The nodes that began or went on with a run, as its log says."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [heading[2].rpartition(" on ")[2] for heading in HEADING.finditer(text)]
