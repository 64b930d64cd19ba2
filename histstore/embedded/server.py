"""A local Valkey server that belongs to the processes that use it.

It listens on a unix socket in a private folder. All processes that open the same folder share it, and it ends with the
last of them, however that one ends. The module `watcher`, which runs the server, describes how, and what each lock
means.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

from ..errors import BackendError, BackendUnavailableError
from . import locks, watcher
from .command import command
from .folder import LOG, find_socket, log_size, log_tail, make_far_socket, private, private_folder

_PING_SECONDS = 1.0


class EmbeddedServer:
    """A local server, shared by all processes that open the same folder.

    With a path, acknowledged writes are on disk. They survive `kill -9` of every process involved, and a power cut if
    the disk keeps its promises. Without a path, the folder is temporary and is removed with its last owner.

    The server ends within 5 seconds after its last owner closed it or died. All calls block. Any thread may make them;
    calls of several threads run one after another.

    A forked child does not own the server that its parent started, and `close` does nothing there. `start` makes the
    child an owner, too. A temporary server may have ended by then, with its data; `start` then raises an error. An
    object that is dropped without `close` keeps its server until the process ends.

    Args:
        path: Folder of the data. It must be readable by its user only (0700), and is made if it does not exist. None
            uses a temporary folder.
        startup_timeout: Maximum duration of `start` in seconds, including the loading of the data.

    Raises:
        BackendError: The path is an empty text.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, startup_timeout: float = 10.0) -> None:
        if path is not None and not os.fspath(path):
            raise BackendError("the path of the embedded server is empty: name a folder, or None for a temporary one")
        # Absolute, because the process may change its working directory between two starts.
        self._path = None if path is None else os.path.abspath(path)
        self._startup_timeout = startup_timeout
        self._owner: tuple[int, int] | None = None  # The process that holds the lock.
        self._owners_lock = -1
        self._folder: str | None = None
        self._socket_path: str | None = None
        # By process: in a forked child, a thread that no longer exists may hold the parent's. Re-entrant, because
        # start() may call close().
        self._mutexes: dict[tuple[int, int], threading.RLock] = {}

    @property
    def path(self) -> str | None:
        """Absolute path of the folder; None if it is temporary."""
        return self._path

    def _mutex(self) -> threading.RLock:
        return self._mutexes.setdefault(locks.process(), threading.RLock())

    @property
    def socket_path(self) -> str:
        """Path of the unix socket. It is the same for all owners, and after a restart while an owner lives.

        Raises:
            BackendError: The server was not started, or is closed.
        """
        if self._socket_path is None:
            raise BackendError("the embedded server is not running: call start() first")
        return self._socket_path

    def start(self) -> None:
        """Become an owner, and return when the server answers.

        If no server runs on the folder, or if it died since the last call, this starts one. After an error this object
        owns nothing, and nothing that it started is left running.

        Raises:
            BackendUnavailableError: The server did not answer in time, or ended at once. The text holds the last line
                of its log.
            BackendError: The folder cannot be used, or there is no server to run.
        """
        with self._mutex():
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
        """Stop owning the server. The last owner waits until it has ended, for 5 seconds at most."""
        with self._mutex():
            self._close()

    def _close(self) -> None:
        if self._owner != locks.process() or self._folder is None:
            return  # Not started, already closed, or inherited in a fork.
        folder, owners = self._folder, self._owners_lock
        self._owner, self._folder, self._socket_path = None, None, None
        try:
            # Opened before the unlock: afterwards a keeper may remove the folder at any time.
            with (
                contextlib.suppress(OSError),  # Somebody else may have removed the folder.
                locks.opened(folder, watcher.SERVER_LOCK) as server,
                locks.opened(folder, watcher.CLOSERS_LOCK) as closers,
            ):
                leftovers = self._leftovers(folder)
                # Closing alone does not unlock it if C code forked without Python's hooks.
                watcher.unlock(owners)
                locks.wait_for_end(folder, owners, server, closers, leftovers)
        finally:
            locks.close(owners)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _own(self, deadline: float) -> str:
        """Become an owner of the folder, so that no keeper stops a server there from now on.

        Returns:
            The folder.
        """
        if self._owner == locks.process() and self._folder is not None:
            locks.reap(self._folder)
            return self._folder
        # A forked child knows the folder already. It shares a temporary one with its parent.
        if self._path is None and self._folder is not None and not os.path.isdir(self._folder):
            # A new server would be empty, and would report existing conversations as absent.
            raise BackendError(
                "the temporary embedded server has ended with the process that started it, and its data is gone: give "
                "embedded() a path, or let this process use it while that one lives"
            )
        folder = private_folder(self._path or self._folder)
        owners = locks.open_lock(folder, watcher.OWNERS_LOCK)
        try:
            locks.share(owners, folder, deadline)
        except BaseException:
            locks.close(owners)
            raise
        self._owner, self._owners_lock, self._folder = locks.process(), owners, folder
        return folder

    def _wait_for_answer(self, folder: str, deadline: float) -> None:
        """Return when a server answers PING. Start one if none runs."""
        log_start: int | None = None  # The size of the log before this call started a server.
        while True:
            path = find_socket(folder)
            answer = _ping(path, deadline) if path else ""
            if answer.startswith("+PONG"):
                self._socket_path = path
                return
            with locks.opened(folder, watcher.SERVER_LOCK) as lock:
                if watcher.try_lock(lock, fcntl.LOCK_EX):  # No server runs, and nobody else can start one.
                    if log_start is not None:
                        raise BackendUnavailableError(
                            f"the embedded server in {folder} ended as soon as it was started"
                            + log_tail(folder, log_start)
                        )
                    log_start = log_size(folder)
                    self._launch(folder, lock)
            if time.monotonic() > deadline:
                raise BackendUnavailableError(
                    f"the embedded server in {folder} did not answer PING in {self._startup_timeout:g} s"
                    f"{f' but {answer!r}' if answer else ''}: raise startup_timeout if it has much to load"
                    + log_tail(folder, log_start)
                )
            time.sleep(locks.POLL_SECONDS)

    def _launch(self, folder: str, lock: int) -> None:
        """Start a keeper and pass it the server's lock. The caller learns from the lock and the log if that fails."""
        if not sys.executable or getattr(sys, "frozen", False):
            # In a frozen program sys.executable is the program: it would start itself, without end.
            raise BackendError("the embedded server needs a Python interpreter: connect to a server of your own here")
        run = command(find_socket(folder) or make_far_socket(folder), durable=self._path is not None)
        keeper = [sys.executable, "-I", "-S", watcher.__file__, folder, str(lock), *self._leftovers(folder), "--"]
        with open(os.path.join(folder, LOG), "ab", opener=private) as log:
            process = subprocess.Popen(
                [*keeper, *run],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,  # Ctrl-C in a terminal must reach only the owners.
            )
        locks.keepers[process.pid] = folder
        # reap() waits for the keeper. Without this, Popen warns about it when a program ends without close().
        process.returncode = 0

    def _leftovers(self, folder: str) -> list[str]:
        """Return the folders to remove with the last owner."""
        path = find_socket(folder)
        far = [] if path is None or os.path.dirname(path) == folder else [os.path.dirname(path)]
        return far if self._path is not None else [*far, folder]


def _ping(socket_path: str, deadline: float) -> str:
    """Send PING to the server.

    Returns:
        The first line of its reply; empty if there is none.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        # A stopped server (SIGSTOP) accepts connections and never answers.
        connection.settimeout(min(max(deadline - time.monotonic(), locks.POLL_SECONDS), _PING_SECONDS))
        try:
            connection.connect(socket_path)
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(200).decode(errors="replace").partition("\r\n")[0]
        except OSError:
            return ""
