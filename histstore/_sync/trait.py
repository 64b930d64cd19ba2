# Generated from histstore/_async/trait.py by tools/unasync.py; do not edit.
"""The seed's trait."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ..snapshot import ConversationSnapshot, M, Revision


@runtime_checkable
class HistoryStore(Protocol[M]):
    """Where the conversation of one run is kept."""

    def save(self, snapshot: ConversationSnapshot[M]) -> Revision:
        """Keeps the conversation so that a later `load` returns it; may raise ConflictError."""
        ...

    def load(self) -> ConversationSnapshot[M] | None:
        """Returns the conversation; None: the store has never been written to."""
        ...
