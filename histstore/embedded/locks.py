"""The locks and the keepers of this process, also across forks.

The module `watcher` says what each lock means.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator

from ..errors import BackendUnavailableError
from . import watcher

POLL_SECONDS = 0.02
"""Seconds between two looks at a lock."""
_CLOSE_SECONDS = watcher.POLL_SECONDS + watcher.GRACE_SECONDS + 3.0
"""Seconds that a closing owner waits for the server's end: one poll and the grace of its keeper, and some for a busy
machine."""

# Open lock files of this process. A forked child closes its copies: they would stay locked after the parent's death.
_open_locks: set[int] = set()
# Reentrant, because a signal handler may fork in the middle of a change.
_open_locks_guard = threading.RLock()
_forks = 0


def process() -> tuple[int, int]:
    """Return an identity of this process that none of its ancestors had.

    The process id alone is not enough, because the system reuses it. The number of forks alone is not enough, because C
    code can fork without Python's hooks.
    """
    return os.getpid(), _forks


def open_lock(folder: str, name: str) -> int:
    """Open a lock file of a folder and return its descriptor. A forked child closes its copy by itself."""
    with _open_locks_guard:
        lock = watcher.open_lock(folder, name)
        _open_locks.add(lock)
    return lock


def close(lock: int) -> None:
    """Close a lock file. That also unlocks it, unless another process has a copy of the descriptor."""
    with _open_locks_guard:
        _open_locks.discard(lock)
        os.close(lock)


@contextlib.contextmanager
def opened(folder: str, name: str) -> Iterator[int]:
    """Open a lock file for a `with` block."""
    lock = open_lock(folder, name)
    try:
        yield lock
    finally:
        close(lock)


keepers: dict[int, str] = {}
"""The process ids of the keepers that this process started, and their folders. They stay its children until reaped."""


def reap(folder: str) -> bool:
    """Remove keepers that have ended from the process table.

    A keeper may end long after the object that started it was closed, if others share the server. So each call looks at
    all keepers.

    Returns:
        Whether a keeper of this folder is left.
    """
    for pid in list(keepers):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:  # Other code that waits for any child reaped it.
            ended = True
        if ended:
            keepers.pop(pid, None)
    return folder in keepers.values()


def _forget_in_child() -> None:
    """Forget the parent's locks and keepers. Close the locks: to unlock them would unlock the parent's, too."""
    global _forks
    _forks += 1
    for lock in _open_locks:
        os.close(lock)
    _open_locks.clear()
    keepers.clear()
    _open_locks_guard.release()


# Held during the fork, so that no thread is between opening or closing a file and recording that.
os.register_at_fork(
    before=_open_locks_guard.acquire,
    after_in_parent=_open_locks_guard.release,
    after_in_child=_forget_in_child,
)


def share(owners: int, folder: str, deadline: float) -> None:
    """Take the owners' lock, shared. Wait while a keeper holds it to stop the last server.

    Raises:
        BackendUnavailableError: The keeper did not finish before `deadline`, in seconds of `time.monotonic`.
    """
    while not watcher.try_lock(owners, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise BackendUnavailableError(
                f"the embedded server in {folder} is still being stopped for its last owner: try again"
            )
        time.sleep(POLL_SECONDS)


def wait_for_end(folder: str, owners: int, server: int, closers: int, leftovers: list[str]) -> None:
    """Wait until the server has ended, unless somebody else owns it. Remove its leftovers if its keeper was killed.

    Args:
        folder: The folder.
        owners: Descriptor of its `owners.lock`.
        server: Descriptor of its `server.lock`.
        closers: Descriptor of its `closers.lock`.
        leftovers: The folders to remove.
    """
    deadline = time.monotonic() + _CLOSE_SECONDS
    while time.monotonic() < deadline:
        if watcher.try_lock(server, fcntl.LOCK_EX):
            # Usually the keeper has removed them. It has not if it was killed.
            if watcher.try_lock(owners, fcntl.LOCK_EX):
                watcher.sweep(leftovers)
            # The keeper releases its locks shortly before it ends. Wait, so that callers never see it alive.
            while reap(folder) and time.monotonic() < deadline:
                time.sleep(0.001)
            return
        if is_owned(owners, closers):
            return
        time.sleep(POLL_SECONDS)


def is_owned(owners: int, closers: int) -> bool:
    """Return whether another owner shares the folder. False may also mean that this is not known yet."""
    # One at a time: two closers that ask at once would take each other for an owner, and neither would wait.
    if not watcher.try_lock(closers, fcntl.LOCK_EX):
        return False
    try:
        if watcher.try_lock(owners, fcntl.LOCK_EX):
            return False
        return watcher.try_lock(owners, fcntl.LOCK_SH)  # Refused while a keeper holds it, shortly before its end.
    finally:
        watcher.unlock(owners)
        watcher.unlock(closers)
