"""The keeper: a small process that runs one embedded server for as long as anybody owns its folder.

It is a script in a session of its own, started by the first owner, and stays when that one leaves while others are
there. Who is alive is told by file locks alone: the kernel drops them with their holder, whatever killed it, whereas
process ids are reused and files that hold them go stale. The locks (flock) of a folder are

* ``owners.lock``: shared, by each owner. A keeper that gets it exclusively knows that nobody is left, and no newcomer
  gets in until that keeper has finished.
* ``server.lock``: exclusive, the right to run a server here. It is handed down from the owner that starts the server
  to the keeper and to the server itself, so it is free only when the last of them is gone: never two servers at once.
* ``closers.lock``: exclusive, for an instant, by a closing owner that asks whether it is the last one.

This file uses nothing but the standard library and imports nothing of this package: it runs without site-packages.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence

OWNERS_LOCK = "owners.lock"
SERVER_LOCK = "server.lock"
CLOSERS_LOCK = "closers.lock"

# An orphan may live for 5 s at most: one poll, then this grace, then SIGKILL.
POLL_SECONDS = 0.1
GRACE_SECONDS = 2.0

_PR_SET_PDEATHSIG = 1


def open_lock(folder: str, name: str) -> int:
    """Open a lock file of a folder, and make it if it is not there; nothing is locked yet."""
    lock = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if lock > 2:
        return lock
    # A daemon may have closed its standard files; a lock in their place would be lost where a child gets its own.
    try:
        return fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(lock)


def try_lock(lock: int, operation: int) -> bool:
    """Take a lock if that is possible at once.

    Args:
        lock: File descriptor of an open lock file.
        operation: ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX``.

    Returns:
        Whether it was taken. On False, a lock held before by the same descriptor is gone.
    """
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(lock: int) -> None:
    """Give a lock back; the file stays open."""
    fcntl.flock(lock, fcntl.LOCK_UN)


def sweep(folders: Iterable[str]) -> None:
    """Remove folders and all they hold, as far as they are there."""
    import shutil  # here, because a keeper needs it only at its end

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> None:
    """Start the server, stay until nobody owns its folder, end the server and clean up.

    Args:
        arguments: The folder, the descriptor of the locked ``server.lock``, the folders to remove at the end, ``--``,
            the server's command line.
    """
    folder, server_lock, *rest = arguments
    split = rest.index("--")
    leftovers, command = rest[:split], rest[split + 1 :]
    _shed_inherited_state()
    os.chdir(folder)
    owners, other_servers = open_lock(".", OWNERS_LOCK), open_lock(".", SERVER_LOCK)
    if _serve(command, owners, int(server_lock), other_servers):
        sweep(leftovers)


def _shed_inherited_state() -> None:
    """Undo what a starter may have set for itself and would harm the keeper or its server."""
    os.umask(0o077)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, the server's end could not be waited for
    # A service manager that signals every process of a unit must not end the server before the owners are done.
    signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _serve(command: list[str], owners: int, server_lock: int, other_servers: int) -> bool:
    """Run the server until nobody is left.

    Returns:
        Whether the folder is this keeper's to clean up: not if the server died and a newer keeper took over.
    """
    server = _start(command)
    while not try_lock(owners, fcntl.LOCK_EX):
        if _ended(server):
            os.close(server_lock)
            return _outlast(owners, other_servers)
        time.sleep(POLL_SECONDS)
    # No newcomer can be here: it would have to share what is now held exclusively.
    _stop(server)
    return True


def _outlast(owners: int, other_servers: int) -> bool:
    """Wait, after the server died, for the owners to leave or to start another one.

    Without this nobody would remove a temporary folder whose server crashed before its owner was killed.
    """
    while not try_lock(owners, fcntl.LOCK_EX):
        if not try_lock(other_servers, fcntl.LOCK_EX):
            return False
        unlock(other_servers)
        time.sleep(POLL_SECONDS)
    return try_lock(other_servers, fcntl.LOCK_EX)


def _start(command: list[str]) -> int:
    """Start the server as a child that cannot outlive this process, and that inherits its lock.

    Returns:
        Its process id.
    """
    die_with_parent = _death_signal_setter()
    keeper = os.getpid()
    server = os.fork()
    if server:
        return server
    try:
        os.setsid()  # a group of its own: what the server forks is killed with it
        die_with_parent()
        if os.getppid() != keeper:  # it died before the kernel was told
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # as late as this, or a handler of Python's would eat a SIGTERM
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _death_signal_setter() -> Callable[[], None]:
    """Find the call that has the kernel kill a process when its parent dies.

    Linux alone has it. Elsewhere a server outlives a keeper that is itself killed with SIGKILL.
    """
    if sys.platform != "linux":
        return lambda: None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):  # a Python built without ctypes
        return lambda: None
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _ended(server: int) -> bool:
    """Tell whether the server has ended, and if so take it off the process table. Not to be asked again then."""
    return os.waitpid(server, os.WNOHANG)[0] == server


def _stop(server: int) -> None:
    """End the server: politely, so that it writes what it buffers, but surely, even if it is frozen."""
    os.kill(server, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while not _ended(server):
        if time.monotonic() > deadline:
            os.kill(server, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(server, signal.SIGKILL)
            os.waitpid(server, 0)
            return
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1:])
