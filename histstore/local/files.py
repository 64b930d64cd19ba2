"""One file, replaced atomically: the blocking work behind JsonFileHistoryStore.

The folder is opened once, and all the rest is done relative to it: a folder that is moved or removed meanwhile is
never mistaken for the one that has taken its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..errors import BackendUnavailableError, HistoryStoreError, SnapshotError

_MISTAKES: Final = {
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "its symbolic links lead in a circle: mend them, or choose another path",
    errno.EISDIR: "name a file in that folder",
    errno.ENOTDIR: "a part of the path is a file: choose a path that leads through folders",
    errno.ENXIO: "choose the path of a regular file, or of none",
}
"""Errors that say that the path is wrong: no repetition mends them."""
_ADVICE: Final = {
    errno.ENOENT: "its folder is not there: make it",
    errno.EACCES: "let this process read and write the file and its folder",
    errno.EPERM: "let this process read and write the file and its folder",
    errno.EROFS: "choose a file system that can be written to",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit of this process, or drop old messages",
}


def digest(data: bytes) -> bytes:
    """Returns the 16 bytes that name a file's content."""
    return hashlib.blake2b(data, digest_size=16, person=b"histstore-file1").digest()


def read(path: Path) -> bytes | None:
    """Returns a file's bytes; None: there is no file, in a folder that is there.

    Raises:
        SnapshotError: The path is not one of a file.
        BackendUnavailableError: The file cannot be read.
    """
    with _telling(path, "cannot be read"):
        folder, name = _place(path)
        found = _contents(os.path.join(folder, name))
        if found is None:
            os.stat(folder)  # without it nobody knows whether there is a conversation
            return None
        return found[0]


def replace(path: Path, data: bytes, check: Callable[[bytes | None], None]) -> OSError | None:
    """Puts `data` in place of a file's content, if `check` passes what is there.

    Whatever moment the process or the machine dies at, the file is the old or the new one. A link stays a link: the
    file that it leads to is replaced.

    Returns:
        Why it may not be on disk, though the file holds `data`; None: it is.

    Raises:
        SnapshotError: The path is not one of a file.
        BackendUnavailableError: The file cannot be written. It is the old one.
        Exception: What `check` raises.
    """
    with _telling(path, "cannot be written, and is as it was"):
        folder, name = _place(path)
        with _locked(folder) as descriptor:
            found = _contents(name, descriptor)
            current, mode = found if found is not None else (None, None)
            check(current)
            if current != data:
                _put(descriptor, name, data, mode)
                return _sync(descriptor)
            # Whoever put the same content there may have died before it was on disk.
            return _sync(descriptor, name)


@contextlib.contextmanager
def _telling(path: Path, what: str) -> Iterator[None]:
    """Says of errors of the file system which file they are of, and what to do."""
    try:
        yield
    except HistoryStoreError:
        raise
    except OSError as error:
        kind = SnapshotError if error.errno in _MISTAKES else BackendUnavailableError
        number = error.errno or 0
        advice = _MISTAKES.get(number) or _ADVICE.get(number, "mend that")
        repeat = "" if number in _MISTAKES else ", and repeat the call"
        text = f"the file {what}: {error.strerror or error}; {advice}{repeat}"
        raise kind(text, run_id=os.fspath(path)) from error
    except ValueError as error:  # a NUL, or a character that the file system's encoding has not
        raise SnapshotError(f"this is no path: {error}; choose another one", run_id=os.fspath(path)) from error


def _place(path: Path) -> tuple[str, str]:
    """Returns the folder and the name of the file that a path leads to. It need not be there.

    Links are followed here, however many there are. What is still a link is one of a circle, or was just made.
    """
    folder, name = os.path.split(os.path.realpath(path))
    if not name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return folder, name


def _contents(name: str, folder: int | None = None) -> tuple[bytes, int] | None:
    """Returns what a regular file holds, and its mode; None: there is no file."""
    try:
        # Opening a pipe must not wait for somebody to write to it.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENXIO, "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(), stat.S_IMODE(mode)
    finally:
        os.close(descriptor)


def _put(folder: int, name: str, data: bytes, mode: int | None) -> None:
    """Writes a file beside the one of that name, on disk, and then puts it in its place."""
    # Not made of the name itself, which may be as long as a name can be.
    prefix = f".{digest(os.fsencode(name)).hex()[:16]}."
    for stale in os.listdir(folder):
        if stale.startswith(prefix) and stale.endswith(".tmp"):
            # Left by a process that died while it wrote: nobody else writes while we hold the lock.
            with contextlib.suppress(OSError):
                os.unlink(stale, dir_fd=folder)
    temporary = f"{prefix}{secrets.token_hex(8)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=folder)
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _sync(folder: int, name: str | None = None) -> OSError | None:
    """Makes durable what stands in a folder, and the content of the file of that name; returns why that failed."""
    try:
        if name is not None:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.fsync(folder)
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[int]:
    """Holds a folder's lock, which the kernel frees when the process dies. It leaves no lock file behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
