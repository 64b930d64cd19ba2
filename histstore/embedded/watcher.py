"""The keeper: a small process that runs one embedded server for as long as anybody owns its folder.

The first owner starts it, as a script in a session of its own. It stays when that owner leaves while others remain.
File locks alone show who is alive: the kernel releases them when their holder dies, whatever killed it. Process ids
would not do, because the system reuses them and files that hold them go stale. A folder has these locks (flock):

* `owners.lock`: held shared by each owner. A keeper that gets it exclusively knows that no owner is left, and no new
  owner can join until that keeper has finished.
* `server.lock`: held exclusively; the right to run a server here. The owner that starts the server passes it on to the
  keeper, and the keeper to the server. It is free only when all of them are gone, so two servers never run at once.
* `closers.lock`: held exclusively, for an instant, by a closing owner that asks whether it is the last one.

This file uses only the standard library and imports nothing of this package, because it runs without site-packages.
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

# A server without owners must end within 5 s: one poll, then this grace, then SIGKILL.
POLL_SECONDS = 0.1
GRACE_SECONDS = 2.0

_PR_SET_PDEATHSIG = 1


def open_lock(folder: str, name: str) -> int:
    """Open a lock file of a folder, and make it if it does not exist. Do not lock it."""
    lock = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if lock > 2:
        return lock
    # A daemon may have closed its standard files. A lock in their place would be lost in a child, whose standard files
    # replace it.
    try:
        return fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(lock)


def try_lock(lock: int, operation: int) -> bool:
    """Take a lock without waiting.

    Args:
        lock: File descriptor of an open lock file.
        operation: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.

    Returns:
        Whether it was taken. If not, the descriptor has also lost any lock that it held before.
    """
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(lock: int) -> None:
    """Release a lock. The file stays open."""
    fcntl.flock(lock, fcntl.LOCK_UN)


def sweep(folders: Iterable[str]) -> None:
    """Remove the folders that exist, with their content."""
    import shutil  # Here, because a keeper needs it only at its end.

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str]) -> None:
    """Start the server, wait until nobody owns its folder, end the server and clean up.

    Args:
        arguments: The folder, the descriptor of the locked `server.lock`, the folders to remove at the end, `--`, the
            server's command line.
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
    """Reset inherited settings of the starting process that would harm the keeper or its server."""
    os.umask(0o077)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # If it is ignored, waitpid() cannot wait for the server.
    # A service manager that signals every process of a unit must not end the server before its owners end.
    signal.pthread_sigmask(signal.SIG_SETMASK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _serve(command: list[str], owners: int, server_lock: int, other_servers: int) -> bool:
    """Run the server until no owner is left.

    Returns:
        Whether this keeper must clean up the folder. If the server died and a newer keeper took over, it must not.
    """
    server = _start(command)
    while not try_lock(owners, fcntl.LOCK_EX):
        if _ended(server):
            os.close(server_lock)
            return _outlast(owners, other_servers)
        time.sleep(POLL_SECONDS)
    # No new owner can have joined: it would need the lock that this keeper now holds exclusively.
    _stop(server)
    return True


def _outlast(owners: int, other_servers: int) -> bool:
    """Wait, after the server died, until the owners leave or start another server.

    Without this, a temporary folder would remain if its server crashed and its owner was killed later.

    Returns:
        Whether this keeper must clean up the folder.
    """
    while not try_lock(owners, fcntl.LOCK_EX):
        if not try_lock(other_servers, fcntl.LOCK_EX):
            return False
        unlock(other_servers)
        time.sleep(POLL_SECONDS)
    return try_lock(other_servers, fcntl.LOCK_EX)


def _start(command: list[str]) -> int:
    """Start the server as a child that dies with this process and inherits its lock.

    Returns:
        Its process id.
    """
    die_with_parent = _death_signal_setter()
    keeper = os.getpid()
    server = os.fork()
    if server:
        return server
    try:
        os.setsid()  # A process group of its own, so that a kill of the group reaches the server's children.
        die_with_parent()
        if os.getppid() != keeper:  # The keeper died before prctl().
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Last: Python's signal handlers would swallow a SIGTERM.
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _death_signal_setter() -> Callable[[], None]:
    """Return a function after which the kernel kills this process when its parent dies.

    Only Linux can do that. Elsewhere the function does nothing, and a server outlives a keeper killed with SIGKILL.
    """
    if sys.platform != "linux":
        return lambda: None
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):  # Some Pythons are built without ctypes.
        return lambda: None
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _ended(server: int) -> bool:
    """Return whether the server has ended. If so, remove it from the process table; do not call this again then."""
    return os.waitpid(server, os.WNOHANG)[0] == server


def _stop(server: int) -> None:
    """End the server: with SIGTERM, so that it writes its buffers, and after a grace with SIGKILL."""
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
