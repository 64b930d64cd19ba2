"""One file, replaced atomically: the blocking work behind JsonFileHistoryStore.

The folder is opened once, and every other operation is relative to that descriptor. If the folder is moved or removed
meanwhile, a new folder of the same name is never used by mistake.
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
"""Errors that mean a wrong path, with the correction. Repeating the call does not help."""
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
    """Return a digest of a file's content, 16 bytes."""
    return hashlib.blake2b(data, digest_size=16, person=b"histstore-file1").digest()


def read(path: Path) -> bytes | None:
    """Return a file's bytes, or None if its folder exists and the file does not.

    Raises:
        SnapshotError: The path cannot be that of a file.
        BackendUnavailableError: The file cannot be read, or the folder does not exist.
    """
    with _explained(path, "cannot be read"):
        folder, name = _place(path)
        contents = _contents(os.path.join(folder, name))
        if contents is None:
            os.stat(
                folder
            )  # A missing folder is an error: a conversation may exist where it belongs, on an unmounted disk.
            return None
        return contents[0]


def replace(path: Path, data: bytes, check: Callable[[bytes | None], None]) -> OSError | None:
    """Replace a file's content with `data`, atomically, if `check` accepts the current content.

    Whenever the process or the machine dies, the file is the old or the new one. A link stays a link: the file that it
    leads to is replaced.

    Args:
        path: The file.
        data: The new content.
        check: Called with the current content, or None if there is no file. Raises an error to refuse.

    Returns:
        The error because of which `data` may not be on disk, although the file holds it; None if it is on disk.

    Raises:
        SnapshotError: The path cannot be that of a file.
        BackendUnavailableError: The file cannot be written, and is unchanged.
        Exception: Any error that `check` raises.
    """
    with _explained(path, "cannot be written, and is as it was"):
        folder, name = _place(path)
        with _locked(folder) as descriptor:
            contents = _contents(name, descriptor)
            current, mode = contents if contents is not None else (None, None)
            check(current)
            if current != data:
                _put(descriptor, name, data, mode)
                return _sync(descriptor)
            # The process that wrote the same content may have died before it was on disk.
            return _sync(descriptor, name)


@contextlib.contextmanager
def _explained(path: Path, problem: str) -> Iterator[None]:
    """Turn errors of the file system into errors that name the file and say what to do."""
    try:
        yield
    except HistoryStoreError:
        raise
    except OSError as error:
        kind = SnapshotError if error.errno in _MISTAKES else BackendUnavailableError
        number = error.errno or 0
        advice = _MISTAKES.get(number) or _ADVICE.get(number, "mend that")
        repeat = "" if number in _MISTAKES else ", and repeat the call"
        text = f"the file {problem}: {error.strerror or error}; {advice}{repeat}"
        raise kind(text, run_id=os.fspath(path)) from error
    except ValueError as error:  # A NUL, or a character that the file system's encoding lacks.
        raise SnapshotError(f"this is no path: {error}; choose another one", run_id=os.fspath(path)) from error


def _place(path: Path) -> tuple[str, str]:
    """Return the folder and the name of the file that a path leads to. The file need not exist.

    All links are followed here. A name that is still a link afterwards is part of a circle, or was just made.
    """
    folder, name = os.path.split(os.path.realpath(path))
    if not name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return folder, name


def _contents(name: str, folder: int | None = None) -> tuple[bytes, int] | None:
    """Return a regular file's content and its mode; None if there is no file."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for a writer.
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
    """Write a temporary file beside the file, sync it to disk, and rename it to the file's name."""
    # Of a digest, because the name itself may already have the maximum length.
    prefix = f".{digest(os.fsencode(name)).hex()[:16]}."
    for stale in os.listdir(folder):
        if stale.startswith(prefix) and stale.endswith(".tmp"):
            # A process died while it wrote this. Nobody else writes while this one holds the lock.
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
    """Sync a folder to disk, and the content of the file of that name. Return the error if that fails."""
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
    """Hold a folder's lock. The kernel releases it when the process dies, and no lock file is left behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
