"""How errors about one run leave its store: public, and with the run's name."""

from __future__ import annotations

from types import TracebackType

from ..errors import HistoryStoreError, name_run
from ..log.unreadable import BrokenChainError
from .run import RunRef


class RunErrors:
    """Context manager that makes each error which leaves it name the run.

    A BrokenChainError becomes the CorruptSnapshotError that users see. One object serves all calls of a store, also
    calls that run at once, because it holds no state of a call.

    Args:
        where: The run.
    """

    __slots__ = ("_where",)

    def __init__(self, where: RunRef) -> None:
        self._where = where

    # It does nothing. `int` is C code: calling an empty Python function here would cost each call of a store as much as
    # the exit does.
    __enter__ = staticmethod(int)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, HistoryStoreError):
            name_run(error, self._where.run_id)
        elif isinstance(error, BrokenChainError):
            raise self._where.corrupt(error.version, error.reason) from error
