"""Where the runs of a sweep stand, read from their folders alone; and what is written of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prunella.errors import UsageError
from prunella.experiments.folder import (
    BEGINNING,
    LOCK,
    SETTINGS,
    partial,
    read_json,
    write,
    write_json,
)
from prunella.experiments.locks import lock
from prunella.experiments.process import now
from prunella.experiments.sweep import Plan, Planned
from prunella.runfiles import OF_RUN, RESULT

SCHEMA = 1
SWEEP, CLAIM = "sweep.json", "sweep.lock"
HEADING = re.compile(r"^### (\S+ \S+), (.*), commit (\S+)$", re.MULTILINE)

Status = Literal["left", "running", "broken off", "done", "failed", "blocked", "foreign"]


@dataclass(frozen=True)
class Standing:
    """Where one run stands.

    Args:
        reason: why it failed, is blocked (its teacher failed) or foreign (what is in its folder
            is not this run, and is not touched).
        commit: the code its result was made by.
        commits: the code its parts were made by, where that changed in mid-run.
        seconds: of training and measuring, a twin's included.
        score: the headline metric on the holdout, with its name.
    """

    status: Status
    reason: str = ""
    commit: str | None = None
    commits: tuple[str, ...] = ()
    seconds: float | None = None
    score: str = ""


@dataclass
class Ledger:
    """The standing of every run of a plan, by name.

    Args:
        commit: of the present code.
        command: how the sweep was called.
    """

    plan: Plan
    commit: str | None
    command: str
    standings: dict[str, Standing] = field(default_factory=dict)
    started: str = field(default_factory=now)

    @classmethod
    def read(cls, plan: Plan, commit: str | None, command: str) -> Ledger:
        """As the folders say."""
        ledger = cls(plan, commit, command)
        ledger.standings = {run.name: ledger._look(run) for run in plan.runs}
        return ledger

    def count(self, *statuses: Status) -> int:
        return sum(each.status in statuses for each in self.standings.values())

    # --- reading -----------------------------------------------------------------------------

    def folder(self, name: str) -> Path:
        return self.plan.output / name

    def file(self, name: str, suffix: str) -> Path:
        """A file beside a run's folder."""
        return self.plan.output / f"{name}.{suffix}"

    def has_model(self, name: str) -> bool:
        """Whether a run's model was not removed."""
        return (self.folder(name) / "config.json").is_file()

    def _look(self, run: Planned) -> Standing:
        folder = self.folder(run.name)
        try:
            for place, mark, key in ((partial(folder), SETTINGS, None), (folder, RESULT, "config")):
                if reason := _is_foreign(run, place, mark, key):
                    return Standing("foreign", reason)
            result = read_json(folder / RESULT)
            failure = read_json(self.file(run.name, "error.json"))
        except (UsageError, OSError) as error:
            return Standing("foreign", str(error))
        if partial(folder).is_dir():
            return Standing("broken off")
        if result is not None:
            return self._done(run, result)
        return Standing("failed", str(failure.get("error"))) if failure else Standing("left")

    def _done(self, run: Planned, result: dict[str, Any]) -> Standing:
        twin = (result.get("baseline") or {}).get("seconds") or 0.0
        return Standing(
            "done",
            commit=(result.get("environment") or {}).get("commit"),
            commits=self.begun_by(run.name),
            seconds=(result.get("seconds") or 0.0) + twin,
            score=_score(result),
        )

    def begun_by(self, name: str) -> tuple[str, ...]:
        """The commits that had a part in a run since it was begun anew, if more than one."""
        path = self.file(name, "log")
        if not path.is_file():
            return ()
        commits: list[str] = []
        for heading in HEADING.finditer(path.read_text(encoding="utf-8", errors="replace")):
            if heading[2].startswith("begins"):
                commits.clear()
            if heading[3] not in commits:
                commits.append(heading[3])
        return tuple(commits) if len(commits) > 1 else ()

    def other_code(self) -> str:
        """Which finished runs the present code did not make; "" where it made all."""
        done = [each for each in self.standings.values() if each.status == "done"]
        others = Counter(each.commit for each in done if each.commit != self.commit)
        mixed = sum(bool(each.commits) for each in done)
        told = [f"{count} by {_code(commit)}" for commit, count in others.most_common()]
        told += [f"{mixed} begun by one commit and ended by another"] if mixed else []
        if not told:
            return ""
        return (
            f"of {len(done)} finished runs, not all are by the present code "
            f"({_code(self.commit)}): {', '.join(told)}"
        )

    def strangers(self) -> list[str]:
        """Folders of runs beside ours that the sweep does not plan (any more)."""
        found = sorted(path.parent.name for path in self.plan.output.glob(f"*/{RESULT}"))
        return [name for name in found if name not in self.standings]

    # --- writing -----------------------------------------------------------------------------

    def begin(self, run: Planned) -> None:
        """Write the settings that its process reads."""
        write(self.file(run.name, "yaml"), run.config.to_yaml())

    def set(self, name: str, status: Status, reason: str = "") -> None:
        self.standings[name] = Standing(status, reason)
        self.write()

    def settle(self, run: Planned, status: int, error: str, stopped: bool) -> Standing:
        """Note how a run ended.

        Args:
            status: exit status of its process, negative where a signal ended it.
            error: what else is known of it.
            stopped: whether it was asked to end.
        """
        found = self._look(run)
        if not (stopped and status) and (status or found.status != "done"):
            reason = error or self._reason(run.name, status)
            found = Standing("failed", reason)
            self._keep_error(run.name, status, reason)
        if found.status == "done":
            self.file(run.name, "error.json").unlink(missing_ok=True)
            self.file(run.name, "yaml").unlink(missing_ok=True)
        self.standings[run.name] = found
        self.thin()
        self.write()
        return found

    def _reason(self, name: str, status: int) -> str:
        if status < 0:
            return f"ended by {_signal(-status)}"
        text = self.file(name, "log").read_text(encoding="utf-8", errors="replace")
        said = [line.strip() for line in HEADING.split(text)[-1].splitlines() if line.strip()]
        # The last of them may be a launcher's, of several processes.
        ours = [line for line in said if line.startswith("prunella: ")]
        last = (ours or said or ["it said nothing"])[-1].removeprefix("prunella: ")
        return last if status else f"ended without a result: {last}"

    def _keep_error(self, name: str, status: int, reason: str) -> None:
        about = {
            "status": status,
            "error": reason,
            "when": now(),
            "commit": self.commit,
            "log": self.file(name, "log").name,
        }
        write_json(self.file(name, "error.json"), about)

    def thin(self) -> None:
        """Remove, of finished runs, what is not evidence, unless a student still needs it."""
        if self.plan.keep != "evidence":
            return
        for run in self.plan.runs:
            if self.standings[run.name].status != "done" or not self.has_model(run.name):
                continue
            if all(self.standings[s.name].status == "done" for s in self.plan.students(run.name)):
                # The file that has_model looks for goes last, so that this can be broken off.
                paths = sorted(
                    self.folder(run.name).iterdir(), key=lambda p: p.name == "config.json"
                )
                for path in paths:
                    if path.name not in OF_RUN:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write(self) -> None:
        """Write ``sweep.json``: the plan, and where each run stands."""
        runs = []
        for run in self.plan.runs:
            standing = self.standings[run.name]
            entry: dict[str, Any] = {"name": run.name, "settings": run.settings}
            entry |= {"status": standing.status, "commit": standing.commit}
            optional = {
                "commits": list(standing.commits),
                "seconds": standing.seconds,
                "error": standing.reason,
                "teacher": run.teacher,
            }
            runs.append(entry | {name: value for name, value in optional.items() if value})
        about = {
            "schema": SCHEMA,
            "command": self.command,
            "commit": self.commit,
            "started": self.started,
            "updated": now(),
            "sweep": dict(self.plan.source),
            "runs": runs,
        }
        write_json(self.plan.output / SWEEP, about)


def _is_foreign(run: Planned, place: Path, mark: str, key: str | None) -> str:
    """Why a folder is not this run's, "" where it is or is not there."""
    if not os.path.lexists(place):
        return ""
    if not place.is_dir():
        return f"{place} is a file"
    known = read_json(place / mark, key)
    if known is None:
        others = {path.name for path in place.iterdir()} - BEGINNING
        return f"{place} holds files that are no run ({min(others)})" if others else ""
    changed = run.differences(known)
    return f"{place} holds a run with other settings ({'; '.join(changed)})" if changed else ""


def _score(result: dict[str, Any]) -> str:
    """The headline metric on the holdout: dev is for the report."""
    try:
        metric = result["task"]["metric"]
        return f"holdout {metric} {result['metrics']['holdout'][metric]:.4f}"
    except (KeyError, TypeError):  # as where no model was good enough
        return ""


def _code(commit: str | None) -> str:
    """A commit as one calls it; a plus sign is for changes that are in no commit."""
    if commit is None:
        return "code of an unknown commit"
    return commit[:10] + "+" * commit.endswith("+")


def _signal(number: int) -> str:
    name = signal.Signals(number).name
    return name + ", as when memory runs out" * (name == "SIGKILL")


def is_held(folder: Path) -> bool:
    """Whether a process is at work in the folder of a run."""
    try:
        with (partial(folder) / LOCK).open("r+") as file:
            lock(file)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def claimed(output: Path) -> Iterator[str]:
    """The folder of the sweep is there, and is this process's alone; gives the claim's text.

    Raises:
        UsageError: it cannot be made, or another sweep is at work in it.
    """
    path = output / CLAIM
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"the folder {output} cannot be made ({error.strerror}); name another with --output"
        ) from error
    with file:
        try:
            lock(file)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "one that just begins"
            raise UsageError(
                f"another sweep is at work in {output} ({owner}); let it finish, or name another "
                "folder with --output"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{path} cannot be locked ({error.strerror}), so two sweeps could spoil each "
                "other; name a folder on another file system with --output"
            ) from error
        claim = f"process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex[:8]}"
        file.truncate(0)
        file.write(claim)
        file.flush()
        os.fsync(file.fileno())  # for other machines to see
        yield claim
        file.truncate(0)
