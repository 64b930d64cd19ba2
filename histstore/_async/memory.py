"""A store in memory, for tests and for conversations that end with their process."""

from __future__ import annotations

import os
from typing import Any, Final, Generic, overload

from ..arguments import check_expected
from ..errors import ConflictError
from ..lineage import Origin
from ..log.base import Base
from ..log.changes import Replace, content_of
from ..log.plan import Writer, grow
from ..messages import AnyMessage, M, NewMessage
from ..revision import SEEN, Expect, Revision, RunId, brief
from ..snapshot import ConversationSnapshot, add_origin, find_origin

NO_LIMIT: Final = 1 << 62
"""Size limit of a snapshot, in bytes: more than any machine has."""


class InMemoryHistoryStore(Generic[M]):
    """One run's conversation in the memory of this process.

    Saves compare and set as in Redis: of two tasks that load and then save, the later one gets a ConflictError. The
    store is not thread-safe.
    """

    def __init__(self) -> None:
        self._key = ("memory", "", str(RunId.new()))
        self._base: Base | None = None

    def __repr__(self) -> str:
        return f"<InMemoryHistoryStore at {brief(self.revision)}>"

    @property
    def revision(self) -> Revision | None:
        """The conversation's revision; None if it was never saved."""
        return self._base.head.revision if self._base is not None else None

    @overload
    async def save(
        self, snapshot: ConversationSnapshot[M], *, expected: Revision | Expect | None = SEEN
    ) -> Revision: ...
    @overload
    async def save(
        self: InMemoryHistoryStore[AnyMessage],
        snapshot: ConversationSnapshot[NewMessage],
        *,
        expected: Revision | Expect | None = SEEN,
    ) -> Revision: ...
    async def save(self, snapshot: ConversationSnapshot[Any], *, expected: Revision | Expect | None = SEEN) -> Revision:
        """Save a conversation.

        Args:
            snapshot: The conversation.
            expected: A revision; None: nothing was saved yet; ANY: anything; SEEN: the revision that the snapshot was
                loaded or saved as or grew from, or anything if it was built from scratch.

        Raises:
            ConflictError: The store is not at the expected revision. Nothing was saved.
            SnapshotError: The snapshot cannot be saved.
        """
        change = Replace(snapshot)
        check_expected(expected)
        base, origin = self._base, find_origin(snapshot, self._key)
        actual = self.revision
        wanted = expected if not isinstance(expected, Expect) else actual
        if expected is SEEN and origin is not None:
            wanted = origin[0].revision
        if wanted != actual:
            raise ConflictError(wanted, actual)
        shared = origin[1] if origin is not None and origin[0].base is base else 0
        head = base.head if base is not None else None
        plan = change.plan(head, base, shared, Writer(os.urandom(16), 0, NO_LIMIT))
        if plan is not None:
            self._base = base = grow(base, plan, plan.entry.revision())
        assert base is not None
        add_origin(snapshot, self._key, Origin(base.head.revision, base))
        return base.head.revision

    async def load(self) -> ConversationSnapshot[M] | None:
        """Return the conversation that was saved last; None if none was."""
        base = self._base
        if base is None:
            return None
        snapshot = content_of(base)
        add_origin(snapshot, self._key, Origin(base.head.revision, base))
        return snapshot
