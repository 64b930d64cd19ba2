"""The lock that serialises the calls of one store, across forks."""

from __future__ import annotations

import os

from .compat import io


class CallLock:
    """One lock for each process that uses a store.

    A forked process gets a lock of its own. A thread that does not exist there may hold the inherited one.

    Attributes:
        lock: The lock of the process that used the store last.
        pid: That process.
    """

    __slots__ = ("_locks", "lock", "pid")

    def __init__(self) -> None:
        self.lock = io.Lock()
        self.pid = os.getpid()
        self._locks: dict[int, io.Lock] = {}

    def of(self, pid: int) -> io.Lock:
        """Return the lock of a process."""
        if pid != self.pid:
            self.lock, self.pid = self._locks.setdefault(pid, io.Lock()), pid
        return self.lock
