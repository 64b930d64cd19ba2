"""A store in memory, for tests and for conversations that need not outlive their process."""

from __future__ import annotations

import os
from typing import Any, Final, Generic, overload

from ..errors import ConflictError, SnapshotError
from ..log.base import Base
from ..log.head import read_meta
from ..log.plan import Target, Writer, grow, plan_save
from ..snapshot import (
    ANY,
    SEEN,
    AnyMessage,
    ConversationSnapshot,
    Expect,
    M,
    NewMessage,
    Origin,
    Revision,
    RunId,
    add_origin,
    brief,
    find_origin,
    from_parts,
    parts,
)

NO_LIMIT: Final = 1 << 62


class InMemoryHistoryStore(Generic[M]):
    """One run's conversation in this process's memory; gone with it.

    Saves compare and set as those of Redis do: of two tasks that load and then save, the later one gets a
    ConflictError. Not for threads.
    """

    def __init__(self) -> None:
        self._key = ("memory", "", str(RunId.new()))
        self._base: Base | None = None

    def __repr__(self) -> str:
        return f"<InMemoryHistoryStore at {brief(self.revision)}>"

    @property
    def revision(self) -> Revision | None:
        """The conversation's revision; None: never saved."""
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
        """Keeps a conversation.

        Args:
            snapshot: The conversation.
            expected: A revision; None: nothing was saved yet; SEEN: what the snapshot was loaded or saved as
                or grew from, or whatever is there if it was built from scratch; ANY: whatever is there.

        Raises:
            ConflictError: It has moved on from what was expected. Nothing was saved.
            SnapshotError: The snapshot cannot be saved.
        """
        check_save(snapshot, expected)
        base, origin = self._base, find_origin(snapshot, self._key)
        actual = self.revision
        wanted = expected if not isinstance(expected, Expect) else actual
        if expected is SEEN and origin is not None:
            wanted = origin[0].revision
        if wanted != actual:
            raise ConflictError(wanted, actual)
        messages, pins, length = parts(snapshot)
        shared = origin[1] if origin is not None and origin[0].base is base else 0
        head = base.head if base is not None else None
        plan = plan_save(
            head, base, Target(messages, pins, length, snapshot.meta, shared), Writer(os.urandom(16), 0, NO_LIMIT)
        )
        if plan is not None:
            self._base = base = grow(base, plan, plan.entry.revision())
        assert base is not None
        add_origin(snapshot, self._key, Origin(base.head.revision, base))
        return base.head.revision

    async def load(self) -> ConversationSnapshot[M] | None:
        """Returns the conversation that was saved last; None: never saved."""
        base = self._base
        if base is None:
            return None
        snapshot = from_parts(base.messages(), base.pins[: base.length], read_meta(base.head.meta))
        add_origin(snapshot, self._key, Origin(base.head.revision, base))
        return snapshot


def check_save(snapshot: Any, expected: Any) -> None:
    """Raises SnapshotError for what no store can save."""
    if not isinstance(snapshot, ConversationSnapshot):
        raise SnapshotError(f"save() takes a ConversationSnapshot, not a {type(snapshot).__name__}")
    if expected is not None and expected is not ANY and expected is not SEEN and not isinstance(expected, Revision):
        raise SnapshotError("expected= is a Revision, None, SEEN or ANY (Revision.parse reads one from text)")
