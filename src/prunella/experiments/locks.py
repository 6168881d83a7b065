"""Locks on files, which the system takes back however a process ends."""

from __future__ import annotations

import os
import sys
from typing import IO, Any

# filelock would do this too, but truncates and removes the files, which others read here.
if sys.platform == "win32":
    import msvcrt

    _FAR = 2**30  # Windows lets nobody read what is locked: beyond all that is written

    def lock(file: IO[Any]) -> None:
        """Lock a file that is open for writing, until it is closed.

        Raises:
            BlockingIOError: another process has locked it.
            OSError: the file system has no locks.
        """
        os.lseek(file.fileno(), _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
        finally:
            os.lseek(file.fileno(), 0, os.SEEK_SET)
else:
    import fcntl

    def lock(file: IO[Any]) -> None:
        """Lock a file that is open for writing, until it is closed.

        Raises:
            BlockingIOError: another process has locked it.
            OSError: the file system has no locks.
        """
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
