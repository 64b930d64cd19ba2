# Generated from histstore/_async/json_file.py by tools/unasync.py; do not edit.
"""A store in one JSON file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, overload

from ..arguments import check_expected, not_a_snapshot
from ..errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    CorruptSnapshotError,
    NotReplicatedError,
    SnapshotError,
    UnsupportedVersionError,
    name_run,
)
from ..lineage import Origin
from ..messages import AnyMessage, M, NewMessage
from ..revision import SEEN, Expect, Revision, brief
from ..snapshot import ConversationSnapshot, add_origin, find_origin
from ..values.text import quoted
from .call_lock import CallLock
from .compat import io


class JsonFileHistoryStore(Generic[M]):
    """One run's conversation in one pretty-printed JSON file, replaced atomically and fsynced.

    A revision's etag is the digest of the file, so the store notices a change by somebody else. The file has no room
    for a version: a revision's version counts the changes that this store has seen. A save follows symbolic links, and
    replaces the file that they lead to.

    Args:
        path: The file. Its folder must exist. A missing file loads as None.

    Raises:
        SnapshotError: `path` is not a path.
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
        self._calls = CallLock()
        self._revision: Revision | None = None

    @property
    def revision(self) -> Revision | None:
        """The revision that this store last loaded or saved; None: none."""
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
        """Write a conversation. A cancelled call leaves the old file or the new one.

        Args:
            snapshot: The conversation.
            expected: A revision; None: there is no file; ANY: anything; SEEN: the revision that the snapshot was loaded
                or saved as or grew from, else the one that this store has seen, else anything.

        Raises:
            ConflictError: The file is not at the expected revision. Nothing was written.
            SnapshotError: The snapshot cannot be saved, or the path does not lead to a file. Nothing was written.
            BackendUnavailableError: The file cannot be written, for example because its folder is missing or the disk
                is full. Nothing was written; the error of the operating system is the cause.
            NotReplicatedError: The file holds the conversation, but the disk did not confirm it.
        """
        from ..local import files

        if not isinstance(snapshot, ConversationSnapshot):
            raise not_a_snapshot(snapshot)
        check_expected(expected)
        with self._exclusive():
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
                    actual = None if current is None else self._revision_of(current)
                    raise ConflictError(wanted, actual, run_id=str(self._path))

            unsure = io.run_blocking(files.replace, self._path, data, check)
            revision = self._revision_of(data)
            self._revision = revision
            add_origin(snapshot, self._key, Origin(revision))
            if unsure is not None:
                error = NotReplicatedError(revision, 0, 1, run_id=str(self._path))
                error.add_note(f"the disk did not confirm the file ({unsure.strerror}): mend that, and save again")
                raise error from unsure
            return revision

    def load(self) -> ConversationSnapshot[M] | None:
        """Return the conversation; None if there is no file.

        Raises:
            CorruptSnapshotError: The file is not in the JSON format of `ConversationSnapshot.to_json`.
            UnsupportedVersionError: The file names a version other than 1.
            SnapshotError: The path does not lead to a file.
            BackendUnavailableError: The file cannot be read, or its folder is missing. Whether there is a conversation
                is unknown. The error of the operating system is the cause.
        """
        from ..local import files

        with self._exclusive():
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
            self._revision = self._revision_of(data)
            add_origin(snapshot, self._key, Origin(self._revision))
            return snapshot

    def __repr__(self) -> str:
        return f"<JsonFileHistoryStore at {quoted(str(self._path))}, {brief(self._revision)}>"

    def _exclusive(self) -> io.Held:
        """Return a context manager that holds the lock of the store's calls."""
        return io.Held(self._calls.of(os.getpid()), 1e9, BackendUnavailableError, "")

    def _revision_of(self, data: bytes) -> Revision:
        """Return the revision of a file's bytes."""
        from ..local import files

        etag = files.digest(data)
        if self._revision is None:
            return Revision(1, etag)
        return self._revision if self._revision.etag == etag else Revision(self._revision.version + 1, etag)
