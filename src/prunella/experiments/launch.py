"""Starts a run that ends when the process that started it does.

    python launch.py PARENT LOCK COMMAND...

PARENT is that process's id. Where the parent dies (Linux only), or has died before this was
arranged, the run gets SIGTERM, upon which it writes a checkpoint. If another process holds LOCK,
as one left over by a sweep that was killed may do for a while, the run waits for it.

A program of its own, which needs the standard library alone: what runs between fork and exec must
not touch a process that has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, lock: str, command: list[str]) -> None:
    """Become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)
    _wait(lock)
    os.execv(command[0], command)


def _wait(lock: str) -> None:
    import fcntl  # not on Windows, where there are no sweeps

    try:
        with open(lock, "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process, which is at work in {lock}", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # it is not there, or cannot be locked; of that the run itself will tell
        return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
