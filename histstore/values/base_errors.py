"""The base of the error tree, and the errors about bad input.

They are public as part of `histstore.errors`. They stand here because revisions raise them, and the other errors
refer to revisions.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .text import LONGEST_NAME, LONGEST_RUN_ID, LONGEST_TEXT, one_line, quoted

PUBLIC_MODULE = "histstore.errors"
"""The module that tracebacks and pickles name for these classes: the one that users import them from."""


def _restore(cls: type[HistoryStoreError], args: tuple[Any, ...], state: dict[str, Any]) -> HistoryStoreError:
    """Rebuild a pickled error without its constructor, which takes other arguments than `args`."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class HistoryStoreError(Exception):
    """Base of every error that histstore raises on purpose.

    Attributes:
        run_id: The run that the error is about; None if it is about no single run.
    """

    __module__ = PUBLIC_MODULE

    run_id: str | None = None
    _names_run: ClassVar[bool] = False
    """Whether the text of this class names the run by itself."""

    def __init__(self, *args: Any, run_id: str | None = None) -> None:
        super().__init__(*args)
        if run_id is not None:
            self.run_id = run_id

    def __str__(self) -> str:
        text = super().__str__()
        if self.run_id is not None and not self._names_run:
            room = min(LONGEST_RUN_ID, LONGEST_TEXT - len("run : ") - len(text))
            text = f"run {quoted(self.run_id, max(LONGEST_NAME, room))}: {text}"
        return one_line(text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__.copy())


class SnapshotError(HistoryStoreError, ValueError):
    """Bad input: a message, a snapshot, a run id, a URL or an option that cannot be used.

    The text names the path of the offending value and says how to correct it.

    Attributes:
        run_id: The run whose store refused the value; None if no store did.
    """

    __module__ = PUBLIC_MODULE


class SnapshotTooLargeError(SnapshotError):
    """A snapshot is larger than the backend's `max_snapshot_bytes`.

    Attributes:
        size: Size of the snapshot in bytes.
        limit: Allowed size in bytes.
        run_id: The run; None if it is not known.
    """

    __module__ = PUBLIC_MODULE

    def __init__(self, size: int, limit: int, *, run_id: str | None = None) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the snapshot takes {size:,} bytes and the limit is {limit:,}: drop or summarise old messages, "
            "keep large documents elsewhere and refer to them, or raise max_snapshot_bytes; nothing was written",
            run_id=run_id,
        )


class UnsupportedVersionError(HistoryStoreError):
    """The data was written by a newer format than this library reads.

    Attributes:
        found: The format version that the data names.
        supported: The format version that this library reads and writes.
        run_id: The run, or the path of the file; None if the data was given as JSON.
    """

    __module__ = PUBLIC_MODULE

    def __init__(
        self, found: Any, supported: int, *, mend: str = "upgrade histstore", run_id: str | None = None
    ) -> None:
        self.found = found
        self.supported = supported
        try:
            shown = str(found)
        except ValueError:  # Python refuses to write a number of thousands of digits in decimal.
            shown = hex(found)
        super().__init__(
            f"unsupported snapshot version {one_line(shown, 80)} (this library reads version {supported}): {mend}",
            run_id=run_id,
        )
