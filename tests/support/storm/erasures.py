"""Checks runs from which messages are taken away, by splices and by deletes, against what was told and seen.

There is no log that remembers everything, so each load, and the final state, is held against the calls around it. Every
token is written by one call, once, and by no other later. So it holds, whatever overlaps:

- Nobody sees a token twice, a token that was refused, or one whose write had not begun.
- A write that ended before a look began is seen, unless something that may have taken it away began before the look
  ended.
- What was taken away before a look began is not seen: the token that a splice removed, and, after a delete, whatever
  was written before the delete began. So nothing is resurrected, and a deleted run stays absent till it is written.
- A delete that names a revision does not take away what that revision did not hold.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .journal import NEVER

Fate = Literal["done", "refused", "open"]


@dataclass(frozen=True)
class Write:
    """A call that adds tokens, removes some, or both.

    Attributes:
        who: What to call it.
        fate: Whether it was done, as far as its caller was told.
        started: When it began.
        ended: When its caller was told so; NEVER: it was not.
    """

    who: str
    fate: Fate
    started: float
    ended: float
    adds: tuple[str, ...] = ()
    removes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delete:
    """A call that deletes the run.

    Attributes:
        seen: The tokens of the revision that it names; None: it names none.
    """

    who: str
    fate: Fate
    started: float
    ended: float
    seen: frozenset[str] | None = None


@dataclass(frozen=True)
class Look:
    """A load, and what it returned; None: that the run is absent."""

    who: str
    started: float
    ended: float
    found: tuple[str, ...] | None


@dataclass
class Erasures:
    """What was done to one run."""

    writes: list[Write] = field(default_factory=list)
    deletes: list[Delete] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Returns every contradiction."""
        writer = {token: write for write in self.writes for token in write.adds}
        removals: dict[str, list[Write]] = {}
        for write in self.writes:
            if write.fate != "refused":
                for token in write.removes:
                    removals.setdefault(token, []).append(write)
        problems: dict[tuple[str, str], str] = {}  # the same is seen by one look after the other
        for look in self.looks:
            for what, token, text in self._seen(look, writer, removals):
                problems.setdefault((what, token), f"{look.who} saw {token!r} {text}")
        for look, token, write in self._missed(removals):
            problems.setdefault(("missed", token), f"{look.who} missed {token!r} of {write.who}")
        return [*problems.values(), *self._overreached()]

    def _seen(
        self, look: Look, writer: dict[str, Write], removals: dict[str, list[Write]]
    ) -> Iterator[tuple[str, str, str]]:
        """What is there and should not be."""
        gone = max((each.started for each in self._done_before(look.started)), default=-NEVER)
        for token, count in Counter(look.found or ()).items():
            write = writer.get(token)
            if write is None:
                yield "foreign", token, "which nobody wrote"
                continue
            if count > 1:
                yield "doubled", token, f"{count} times, of {write.who}"
            if write.fate == "refused":
                yield "refused", token, f"which was refused, of {write.who}"
            if write.started > look.ended:
                yield "early", token, f"before it was written by {write.who}"
            if write.ended < gone and write.fate == "done":
                yield "deleted", token, f"of {write.who}, though the run was deleted in between"
            for each in removals.get(token, ()):
                if each.fate == "done" and each.ended < look.started:
                    yield "removed", token, f"which {each.who} had removed"

    def _done_before(self, when: float) -> Iterable[Delete]:
        return (each for each in self.deletes if each.fate == "done" and each.ended < when)

    def _missed(self, removals: dict[str, list[Write]]) -> Iterator[tuple[Look, str, Write]]:
        """What should be there and is not."""
        done = sorted((write for write in self.writes if write.fate == "done" and write.adds), key=lambda w: w.ended)
        open_deletes = sorted((d.started, d.ended) for d in self.deletes if d.fate != "refused")
        starts = [started for started, _ in open_deletes]
        latest: list[float] = []  # the latest end of all deletes that began before
        for _, ended in open_deletes:
            latest.append(max(ended, latest[-1] if latest else -NEVER))
        alive: dict[str, Write] = {}
        at = 0
        for look in sorted(self.looks, key=lambda each: each.started):
            while at < len(done) and done[at].ended < look.started:
                alive.update(dict.fromkeys(done[at].adds, done[at]))
                at += 1
            before = bisect.bisect_left(starts, look.ended)
            since = latest[before - 1] if before else -NEVER
            found = set(look.found or ())
            for token, write in list(alive.items()):
                if any(each.started < look.started for each in removals.get(token, ())):
                    del alive[token]  # for later looks as well
                elif any(each.started < look.ended for each in removals.get(token, ())):
                    continue
                elif token not in found and write.started > since:
                    yield look, token, write

    def _overreached(self) -> Iterator[str]:
        """Deletes that took away more than the revision that they name."""
        for each in self.deletes:
            if each.seen is None or each.fate != "done":
                continue
            others = [other for other in self.deletes if other is not each and other.fate != "refused"]
            for write in self.writes:
                if write.fate != "done" or write.ended > each.started or each.seen & set(write.adds):
                    continue
                if not any(other.ended > write.started and other.started < each.ended for other in others):
                    yield f"{each.who} deleted {write.adds} of {write.who}, which it had not seen"


def final_look(started: float, found: Sequence[str] | None) -> Look:
    """Returns the look at what is left in the end."""
    return Look("the last load", started, NEVER, tuple(found) if found is not None else None)
