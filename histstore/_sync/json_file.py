# Generated from histstore/_async/json_file.py by tools/unasync.py; do not edit.
"""A store in one JSON file, in the seed's wire format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, overload

from ..errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    CorruptSnapshotError,
    NotReplicatedError,
    SnapshotError,
    UnsupportedVersionError,
    name_run,
    quoted,
)
from ..snapshot import (
    SEEN,
    AnyMessage,
    ConversationSnapshot,
    Expect,
    M,
    NewMessage,
    Origin,
    Revision,
    add_origin,
    brief,
    find_origin,
)
from .compat import io
from .memory import check_save


class JsonFileHistoryStore(Generic[M]):
    """One run's conversation in one pretty-printed JSON file, replaced atomically and fsynced.

    A revision's etag is the digest of the file, so a file that somebody else changed is noticed. Its version
    counts the changes that this store has seen: the file has no room for it. Symbolic links are followed, and stay: a
    save replaces the file that they lead to.

    Args:
        path: The file. Its folder must exist; a missing file loads as None.

    Raises:
        SnapshotError: `path` is no path.
        BackendError: This system is neither Linux nor macOS.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            from ..local import files  # noqa: F401
        except ImportError as error:
            raise BackendError(
                f"JsonFileHistoryStore needs Linux or macOS ({error}): keep the conversation in a server with "
                "RedisBackend.from_url(), or write snapshot.to_json() to a file"
            ) from error
        try:
            self._path = Path(path)
        except TypeError:
            raise SnapshotError(f"path is a str or an os.PathLike of one, not a {type(path).__name__}") from None
        try:
            self._key = ("file", "", os.path.abspath(self._path))
        except OSError:  # the working folder was removed: load and save say so
            self._key = ("file", "", os.fspath(self._path))
        self._lock = io.Lock()
        self._pid = os.getpid()
        # Of processes that were forked meanwhile: a thread that is gone there may hold the lock that they inherit.
        self._locks: dict[int, io.Lock] = {}
        self._revision: Revision | None = None

    @property
    def revision(self) -> Revision | None:
        """What this store last loaded or saved; None: nothing."""
        return self._revision

    @overload
    def save(self, snapshot: ConversationSnapshot[M], *, expected: Revision | Expect | None = SEEN) -> Revision: ...
    @overload
    def save(
        self: JsonFileHistoryStore[AnyMessage],
        snapshot: ConversationSnapshot[NewMessage],
        *,
        expected: Revision | Expect | None = SEEN,
    ) -> Revision: ...
    def save(self, snapshot: ConversationSnapshot[Any], *, expected: Revision | Expect | None = SEEN) -> Revision:
        """Writes a conversation. A caller that is cancelled leaves the old file or the new one.

        Args:
            snapshot: The conversation.
            expected: A revision; None: there is no file; SEEN: what the snapshot was loaded or saved as or grew
                from, or what this store has seen, or, if neither is known, whatever is there; ANY: whatever
                is there.

        Raises:
            ConflictError: The file is not what was expected. Nothing was written.
            SnapshotError: The snapshot cannot be saved, or the path is not one of a file. Nothing was written.
            BackendUnavailableError: The file cannot be written, since its folder is missing, say, or the disk full.
                Nothing was written; the error of the operating system is the cause.
            NotReplicatedError: The file holds the conversation, but the disk did not confirm it.
        """
        from ..local import files

        check_save(snapshot, expected)
        with self._mine():
            origin = find_origin(snapshot, self._key)
            wanted = expected
            if expected is SEEN and origin is not None:
                wanted = origin[0].revision
            elif expected is SEEN and self._revision is not None:
                wanted = self._revision
            data = snapshot.to_json(indent=2) + b"\n"

            def check(current: bytes | None) -> None:
                if isinstance(wanted, Expect):
                    return
                if (files.digest(current) if current is not None else None) != (wanted.etag if wanted else None):
                    actual = None if current is None else self._see(current)
                    raise ConflictError(wanted, actual, run_id=str(self._path))

            unsure = io.run_blocking(files.replace, self._path, data, check)
            revision = self._see(data)
            self._revision = revision
            add_origin(snapshot, self._key, Origin(revision))
            if unsure is not None:
                error = NotReplicatedError(revision, 0, 1, run_id=str(self._path))
                error.add_note(f"the disk did not confirm the file ({unsure.strerror}): mend that, and save again")
                raise error from unsure
            return revision

    def load(self) -> ConversationSnapshot[M] | None:
        """Returns the conversation; None: there is no file.

        Raises:
            CorruptSnapshotError: The file is not in the seed's wire format.
            UnsupportedVersionError: It names a version other than 1.
            SnapshotError: The path is not one of a file.
            BackendUnavailableError: The file cannot be read, or its folder is missing: nobody knows whether there is a
                conversation. The error of the operating system is the cause.
        """
        from ..local import files

        with self._mine():
            data = io.run_blocking(files.read, self._path)
            if data is None:
                self._revision = None
                return None
            try:
                snapshot: ConversationSnapshot[M] = ConversationSnapshot.from_json(data)
            except SnapshotError as error:
                raise CorruptSnapshotError(str(self._path), None, str(error)) from error
            except UnsupportedVersionError as error:
                name_run(error, str(self._path))
                raise
            self._revision = self._see(data)
            add_origin(snapshot, self._key, Origin(self._revision))
            return snapshot

    def __repr__(self) -> str:
        return f"<JsonFileHistoryStore at {quoted(str(self._path))}, {brief(self._revision)}>"

    def _mine(self) -> io.Held:
        pid = os.getpid()
        if pid != self._pid:
            self._lock, self._pid = self._locks.setdefault(pid, io.Lock()), pid
        return io.Held(self._lock, 1e9, BackendUnavailableError, "")

    def _see(self, data: bytes) -> Revision:
        from ..local import files

        etag = files.digest(data)
        if self._revision is None:
            return Revision(1, etag)
        return self._revision if self._revision.etag == etag else Revision(self._revision.version + 1, etag)
