"""One file, replaced atomically: the blocking work behind JsonFileHistoryStore."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path


def digest(data: bytes) -> bytes:
    """Returns the 16 bytes that name a file's content."""
    return hashlib.blake2b(data, digest_size=16, person=b"histstore-file1").digest()


def read(path: Path) -> bytes | None:
    """Returns a file's bytes; None: there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def replace(path: Path, data: bytes, check: Callable[[bytes | None], None]) -> bool:
    """Puts `data` in place of a file's content, if `check` passes what is there.

    Whatever moment the process or the machine dies at, the file is the old or the new one.

    Returns:
        Whether anything was written: a file that holds `data` already is left alone.

    Raises:
        Exception: What `check` raises, or OSError.
    """
    path = path.resolve()  # a link stays a link
    with _locked(path.parent):
        current = read(path)
        check(current)
        if current == data:
            return False
        for stale in path.parent.glob(f".{_glob_escape(path.name)}.*.tmp"):
            # Left by a process that died while it wrote: nobody else writes while we hold the lock.
            stale.unlink(missing_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}.tmp"
        try:
            with temporary.open("xb") as file:
                if current is not None:
                    os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
        return True


def _glob_escape(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the kernel frees when the process dies. It leaves no lock file behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
