"""A run as a process of its own, and how it is started, followed and asked to end.

Needs the standard library alone: it is sent to Ray's workers, which then need not import torch.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

POLL = 0.2  # seconds between two looks at what runs
PATIENCE = 20.0  # seconds for a file to be seen that another machine has written


@dataclass(frozen=True)
class Job:
    """One process to be: what a machine has to know of a run.

    Args:
        arguments: of Python.
        log: the file for all it says.
        lock: the file that its run holds while it works.
        home: the folder to start it in.
        anew: whether it replaces what is there.
        commit: of the code, for the log.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path
    lock: Path
    home: Path
    anew: bool
    commit: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start it, in a group of its own: Ctrl-C is for whoever started it to pass on."""
        package = find_spec("prunella")
        assert package is not None and package.origin is not None
        script = Path(package.origin).with_name("experiments") / "launch.py"
        launcher = (sys.executable, "-I", "-S", str(script))
        doing = "begins" if self.anew or not self.lock.parent.exists() else "goes on"
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


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def ask(process: subprocess.Popen[bytes], times: int) -> None:
    """Ask a process to end: after a checkpoint, at once, or not at all."""
    if times < 3:
        process.terminate()
    else:
        process.kill()


def follow(job: Job, claim: tuple[Path, str], environment: Mapping[str, str]) -> int | str:
    """Start a process and see it through; a KeyboardInterrupt is passed on to it.

    Args:
        claim: a file that all machines must see, and what it says.

    Returns:
        Its exit status, negative where a signal ended it; or what this machine does not see.
    """
    limit = time.monotonic() + PATIENCE
    while not _says(*claim) or not job.home.is_dir():
        if time.monotonic() > limit:
            missing = claim[0].parent if not _says(*claim) else job.home
            return f"the node {socket.gethostname()} does not see the folder {missing}"
        time.sleep(POLL)
    process = job.start(**environment)
    asked = 0
    while True:
        try:
            while (status := process.poll()) is None:
                time.sleep(POLL)
            return status
        except KeyboardInterrupt:
            asked += 1
            ask(process, asked)


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except OSError:
        return False
