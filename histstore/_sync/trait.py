# Generated from histstore/_async/trait.py by tools/unasync.py; do not edit.
"""The protocol that all stores implement."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..messages import M
from ..revision import Revision
from ..snapshot import ConversationSnapshot


@runtime_checkable
class HistoryStore(Protocol[M]):
    """A store of one run's conversation."""

    def save(self, snapshot: ConversationSnapshot[M]) -> Revision:
        """Save the conversation, so that a later `load` returns it. May raise ConflictError."""
        ...

    def load(self) -> ConversationSnapshot[M] | None:
        """Return the conversation; None if the store was never written to."""
        ...
