"""What every client called and was told, and the check that the final log agrees with it.

Clients append messages that carry tokens of their own. A call is written down when it starts and when it ends, by one
counter for all clients; calls that do not overlap are ordered by it, whatever clock the machine has. Then `check`
reads the final log: acknowledged appends are in it exactly once and in real-time order, refused ones nowhere, unknown
ones at most once; and each load returned a prefix of it, no older than what was finished before the load began.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from histstore import NotReplicatedError, OutcomeUnknownError, Revision

Outcome = Literal["running", "saved", "refused", "unknown"]
NEVER = float("inf")


class HistoryViolation(AssertionError):
    """What was promised is not what happened."""


def message(token: str) -> dict[str, Any]:
    """Returns a message that carries a token."""
    return {"role": "user", "content": token}


def tokens_of(messages: Sequence[Any]) -> list[str]:
    """Returns the tokens of messages that `message` made."""
    return [item["content"] for item in messages]


@dataclass
class Append:
    """One append, and what its caller was told. Used as a context manager around the call.

    `error` is the name of what the call raised, for the complaint: it does not decide anything.

    Whatever the call raises goes on: OutcomeUnknownError, and a cancellation, leave the outcome unknown (`settle`
    when it was resolved); NotReplicatedError is an acknowledgement; every other error is a refusal.
    """

    history: History
    client: str
    tokens: tuple[str, ...]
    started: float
    ended: float = NEVER
    outcome: Outcome = "running"
    version: int | None = None
    error: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.error = type(error).__name__ if error is not None else None
        if error is None:
            self._end("saved")
        elif isinstance(error, NotReplicatedError):
            self.saved(error.revision)
        elif isinstance(error, OutcomeUnknownError) or not isinstance(error, Exception):
            self.outcome = "unknown"
        else:
            self._end("refused")

    def saved(self, revision: Revision | None) -> None:
        """Notes that it was acknowledged, and as which revision."""
        self.version = revision.version if revision is not None else None
        self._end("saved")

    def settle(self, revision: Revision | None) -> None:
        """Notes what `resolve` said: a revision, or that it was not applied and never will be."""
        if revision is None:
            self._end("refused")
        else:
            self.saved(revision)

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        if self.ended == NEVER:
            self.ended = self.history.tick()


@dataclass
class Load:
    """One load, and the tokens that it returned."""

    history: History
    client: str
    started: float
    ended: float = NEVER
    found: tuple[str, ...] | None = None

    def returned(self, snapshot: Any) -> None:
        """Notes what it returned; None is an empty conversation."""
        self.found = tuple(tokens_of(snapshot.messages)) if snapshot is not None else ()
        self.ended = self.history.tick()


@dataclass
class History:
    """What the clients of one append-only run did. Tasks and threads may share it."""

    appends: list[Append] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    _ticks: Any = field(default_factory=itertools.count)

    def tick(self) -> float:
        return float(next(self._ticks))

    def append(self, client: str, *tokens: str) -> Append:
        """Notes that a client starts to append messages with these tokens."""
        call = Append(self, client, tokens, self.tick())
        self.appends.append(call)
        return call

    def load(self, client: str) -> Load:
        """Notes that a client starts to load."""
        call = Load(self, client, self.tick())
        self.loads.append(call)
        return call

    def counts(self) -> Counter[str]:
        """Returns how many appends ended how."""
        return Counter(call.outcome for call in self.appends)

    def check(self, final: Sequence[str], note: str = "") -> None:
        """Holds the history against the tokens of the final log, in order.

        Raises:
            HistoryViolation: They contradict each other; the text names each contradiction.
        """
        problems = [*self._stored(final), *self._ordered(final), *self._seen(final)]
        if problems:
            shown = "\n  ".join(problems[:20])
            raise HistoryViolation(f"{len(problems)} violations {note}\n  {shown}")

    def _stored(self, final: Sequence[str]) -> list[str]:
        problems = []
        stored = Counter(final)
        known: set[str] = set()
        for call in self.appends:
            known.update(call.tokens)
            counts = {stored[token] for token in call.tokens}
            told = f" ({call.error})" if call.error is not None else ""
            who = f"{call.client}'s {call.outcome} append of {call.tokens}{told}"
            if len(counts) > 1:
                problems.append(f"{who} was torn apart")
            elif counts and max(counts) > 1:
                problems.append(f"{who} is stored {max(counts)} times")
            elif call.outcome == "saved" and counts == {0}:
                problems.append(f"{who} is lost")
            elif call.outcome == "refused" and counts == {1}:
                problems.append(f"{who} is stored")
            if counts == {1} and len(call.tokens) > 1:
                at = list(final).index(call.tokens[0])
                if tuple(final[at : at + len(call.tokens)]) != call.tokens:
                    problems.append(f"{who} is not stored as one")
        problems += [f"{token!r} was appended by nobody" for token in stored if token not in known]
        return problems

    def _ordered(self, final: Sequence[str]) -> list[str]:
        """What ended before another began stands before it, and versions rise along the log."""
        problems = []
        calls = {token: call for call in self.appends for token in call.tokens}
        order = list({id(calls[token]): calls[token] for token in final if token in calls}.values())
        earliest: Append | None = None
        for call in reversed(order):
            if earliest is not None and earliest.ended < call.started:
                problems.append(f"{earliest.tokens} ended before {call.tokens} began, and stands after it")
            if earliest is None or call.ended < earliest.ended:
                earliest = call
        told = [call for call in order if call.version is not None]
        for before, after in itertools.pairwise(told):
            if (before.version or 0) >= (after.version or 0):
                problems.append(
                    f"{before.tokens} is version {before.version}, and {after.tokens}, which stands after it, is "
                    f"version {after.version}"
                )
        return problems

    def _seen(self, final: Sequence[str]) -> list[str]:
        problems = []
        place = {token: index for index, token in enumerate(final)}
        # (when it was known to be in the log, how long the log then was at least)
        known = [
            (call.ended, max(place.get(token, -1) for token in call.tokens) + 1)
            for call in self.appends
            if call.outcome == "saved" and call.tokens
        ]
        known += [(load.ended, len(load.found)) for load in self.loads if load.found is not None]
        known.sort()
        longest = list(itertools.accumulate((length for _, length in known), max))
        starts = {token: call.started for call in self.appends for token in call.tokens}
        ends = [ended for ended, _ in known]
        for load in self.loads:
            if load.found is None:
                continue
            who = f"{load.client}'s load of {len(load.found)} messages"
            if tuple(final[: len(load.found)]) != load.found:
                problems.append(f"{who} returned what is no prefix of the log")
            finished = sum(1 for ended in ends if ended < load.started)
            if finished and longest[finished - 1] > len(load.found):
                problems.append(f"{who} is stale: {longest[finished - 1]} were known before it began")
            problems += [
                f"{who} returned {token!r} before its append began"
                for token in load.found
                if starts.get(token, 0) > load.ended
            ]
        return problems
