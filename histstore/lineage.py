"""Where a snapshot comes from: the revisions that it was loaded or saved as, or grew from."""

from __future__ import annotations

from typing import Any

from .revision import Revision

RunKey = tuple[str, ...]
"""The namespace and id of the run that a revision belongs to."""


class Origin:
    """A revision that a snapshot was loaded or saved as.

    Attributes:
        revision: The revision.
        base: What the store remembers of it, so that the next save needs no load; None if nothing.
    """

    __slots__ = ("base", "revision")

    def __init__(self, revision: Revision, base: Any = None) -> None:
        self.revision = revision
        self.base = base


class Lineage:
    """The origins of a snapshot, and the lineage of the snapshot that it grew from.

    A snapshot may be saved after another snapshot grew from it, so the chain is searched when the answer is needed.
    Its cells are tiny and hold no messages. When a cell gets an origin, `back` is moved past the nearest cells whose
    runs it all knows itself. Those cells are forgotten, also for another run that the snapshot may be saved to later.

    Attributes:
        origins: The origin of the snapshot in each run that it was loaded from or saved to.
        latest: The revision that it was loaded or saved as last.
        back: The lineage of the snapshot that it grew from, and the number of leading messages that the two share.
            One tuple, because another thread may read it while it is shortened.
    """

    __slots__ = ("back", "latest", "origins")

    def __init__(self, parent: Lineage | None, shared: int) -> None:
        self.origins: dict[RunKey, Origin] = {}
        self.latest: Revision | None = None
        self.back = None if parent is None else (parent, shared)

    def find(self, key: RunKey, length: int) -> tuple[Origin, int] | None:
        """Return the nearest origin in the run, and the number of leading messages shared with it."""
        cell, shared = self, length
        while True:
            origin = cell.origins.get(key)
            if origin is not None:
                return origin, shared
            back = cell.back
            if back is None:
                return None
            cell, kept = back
            shared = min(shared, kept)

    def revision(self) -> Revision | None:
        """Return the revision that the snapshot was last loaded or saved as, or grew from."""
        cell = self
        while cell.latest is None:
            back = cell.back
            if back is None:
                return None
            cell = back[0]
        return cell.latest

    def add(self, key: RunKey, origin: Origin) -> None:
        """Record that the snapshot was loaded from or saved to the run as `origin`."""
        self.origins[key] = origin
        self.latest = origin.revision
        # Without this, each save of a conversation copied from another run would walk its whole chain.
        back = self.back
        while back is not None and back[0].origins.keys() <= self.origins.keys():
            cell, shared = back
            back = None if cell.back is None else (cell.back[0], min(shared, cell.back[1]))
        self.back = back

    def known(self) -> dict[RunKey, Revision]:
        """Return the revision of the nearest origin in each run."""
        revisions: dict[RunKey, Revision] = {}
        cell = self
        while True:
            for key, origin in list(cell.origins.items()):
                revisions.setdefault(key, origin.revision)
            back = cell.back
            if back is None:
                return revisions
            cell = back[0]
