"""The folder of an embedded server: its privacy, its socket and its log."""

from __future__ import annotations

import os
import stat
import tempfile

from ..errors import BackendError
from . import watcher

LOG = "server.log"
_SOCKET = "server.sock"
_FAR_SOCKET = "socket.path"
"""The file that names the socket, if the folder's own path is too long for one."""

_MAX_SOCKET_PATH = 103
"""Maximum length of a socket's path in bytes. sun_path holds 104 on macOS and 108 on Linux, with a closing NUL."""

_LOG_TAIL_BYTES = 2000


def private_folder(path: str | None) -> str:
    """Make the folder unless it exists, and ensure that no other user can reach the data or the socket.

    Args:
        path: The folder; None makes a temporary one.

    Returns:
        Its real path, because two names of one folder must lead to the same socket.

    Raises:
        BackendError: The folder cannot be used, or is not private. The text says how to correct that.
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
        # Another user may have put files there already, so it is not enough to change the mode now.
        raise BackendError(f"{path} is writable by other users: name a new folder, or chmod 700 it if you trust it")
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        _make_private(path)
    return os.path.realpath(path)


def _make_private(path: str) -> None:
    names = os.listdir(path)
    if names and watcher.OWNERS_LOCK not in names:
        # It may be a home, or the folder of a web server. Its mode must not change.
        raise BackendError(f"{path} is readable by other users: name a new folder, or chmod 700 it")
    os.chmod(path, stat.S_IRWXU)


def find_socket(folder: str) -> str | None:
    """Return the path of a folder's socket, whether or not a server listens there. None if it is not chosen yet."""
    near = os.path.join(folder, _SOCKET)
    if _fits(near):
        return near
    try:
        with open(os.path.join(folder, _FAR_SOCKET), "rb") as record:
            noted_in, _, far = os.fsdecode(record.read()).partition(" ")
        info = os.lstat(os.path.dirname(far))
    except FileNotFoundError:
        return None
    if noted_in != _identity(folder):  # A copy of a folder must not lead to the original's server.
        return None
    # It is among other users' files. After a clean-up anybody could make a folder of that name.
    open_to_others = info.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return far if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not open_to_others else None


def make_far_socket(folder: str) -> str:
    """Make a private folder with a short path for the socket of a folder with a long path, and record it there.

    Only the holder of `server.lock` may call this.

    Raises:
        BackendError: The path of the system's folder for temporary files is too long as well.
    """
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes a private folder in it
        if not _fits(os.path.join(base, "histstore-" + "x" * 8, _SOCKET)):
            continue
        path = os.path.join(tempfile.mkdtemp(prefix="histstore-", dir=base), _SOCKET)
        record = os.path.join(folder, _FAR_SOCKET)
        with open(record + ".new", "wb", opener=private) as file:
            file.write(os.fsencode(f"{_identity(folder)} {path}"))
        os.replace(record + ".new", record)  # Atomic, because others read it without a lock.
        return path
    raise BackendError(
        f"{folder} is too long for a unix socket, and so is the temporary folder: set TMPDIR to a short one"
    )


def _identity(folder: str) -> str:
    info = os.stat(folder)
    return f"{info.st_dev}:{info.st_ino}"


def _fits(socket_path: str) -> bool:
    return len(os.fsencode(socket_path)) <= _MAX_SOCKET_PATH


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read and write. An opener for `open()`."""
    return os.open(path, flags, 0o600)


def log_size(folder: str) -> int:
    """Return the size of a folder's server log in bytes."""
    try:
        return os.path.getsize(os.path.join(folder, LOG))
    except FileNotFoundError:
        return 0


def log_tail(folder: str, start: int | None) -> str:
    """Return the last line that the server has logged since its start, as the end of an error's text.

    Older lines are left out: they are about other problems, or are part of a crash report that quotes a message. It is
    one line, because an error's text is one line.

    Args:
        folder: The folder.
        start: Size of the log in bytes before the server was started; None if the caller started none.
    """
    if start is None:
        return ""
    with open(os.path.join(folder, LOG), "rb") as log:
        log.seek(max(start, log_size(folder) - _LOG_TAIL_BYTES))
        text = log.read().decode(errors="replace").strip()
    # A line begins with process, role, day and time: "71:M 29 Nov 2026 21:02:51.348 # Bad file format …".
    line = text.rpartition("\n")[2]
    return f"; its log ends: {line.partition(' # ')[2] or line}" if line else ""
