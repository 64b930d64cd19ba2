"""Holds what was told against a log that may have lost acknowledged writes, because another server has taken over.

A replica may be promoted without the newest writes of its primary. So it holds, and nothing more:

- Each write is in the log once or not at all. One that was refused is not.
- What was acknowledged is in the log, or its writer can find out: a write that builds on it is refused, and a load that
  names its revision raises RevisionGoneError. Writes that replace any state (`expected=ANY`) do not ask.
- What waited for all replicas is in the log.
- The log is one chain, in the order in which calls came one after the other, and its fences never fall.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .journal import Call
from .truth import Chain

REPORTS = ("ConflictError", "RevisionGoneError", "LeaseLostError", "LockedError")


@dataclass
class Survival:
    """What has become of the acknowledged writes of a run.

    Attributes:
        acknowledged: How many there were.
        lost: Those that the log does not hold.
        reported: How many of `lost` were followed by an error of the same client on the run.
        problems: Contradictions.
    """

    acknowledged: int = 0
    lost: list[Call] = field(default_factory=list)
    reported: int = 0
    problems: list[str] = field(default_factory=list)


def survival(
    calls: Sequence[Call],
    truth: Chain,
    final: Sequence[str],
    *,
    fate: Callable[[Call], str],
    copied: Collection[str],
) -> Survival:
    """Judges a run whose log may lack acknowledged writes.

    Args:
        calls: All calls on the run.
        truth: What its log says.
        final: What the last load returned.
        fate: Returns whether a write was "done" or "refused", or is "open", by what its caller knows.
        copied: Journals of the workers whose writes waited for all replicas.
    """
    found = Survival()
    stored = {token for version in truth.versions for token in version.added}
    writes = [call for call in calls if call.tokens]
    done = [call for call in writes if fate(call) == "done"]
    found.acknowledged = len(done)
    found.lost = [call for call in done if not stored.intersection(call.tokens)]
    found.reported = sum(_is_reported(call, calls) for call in found.lost)
    content = truth.versions[-1].content if truth.versions else ()
    if tuple(final) != content:
        found.problems.append("the last load returned something else than the log ends with")
    found.problems += truth.problems
    found.problems += _durable(found.lost, copied)
    found.problems += _refused(writes, stored, fate)
    found.problems += _foreign(stored, writes)
    found.problems += _torn(writes, truth)
    found.problems += _told(done, truth)
    found.problems += _unseen(done, truth)
    found.problems += _ordered(done, truth)
    found.problems += _fences(truth)
    return found


def _is_reported(lost: Call, calls: Iterable[Call]) -> bool:
    return any(call.client == lost.client and call.started >= lost.ended and call.outcome in REPORTS for call in calls)


def _durable(lost: Iterable[Call], copied: Collection[str]) -> Iterator[str]:
    for call in lost:
        if call.outcome == "ok" and call.journal in copied:
            yield f"{call} waited for all replicas, and is lost"


def _refused(writes: Iterable[Call], stored: set[str], fate: Callable[[Call], str]) -> Iterator[str]:
    for call in writes:
        if fate(call) == "refused" and stored.intersection(call.tokens):
            yield f"{call} was refused, and is stored"


def _foreign(stored: set[str], writes: Iterable[Call]) -> Iterator[str]:
    for token in stored.difference(*(call.tokens for call in writes)):
        yield f"{token!r} was written by nobody"


def _torn(writes: Iterable[Call], truth: Chain) -> Iterator[str]:
    by_token = {token: version for version in truth.versions for token in version.added}
    for call in writes:
        versions = {by_token[token].version if token in by_token else 0 for token in call.tokens}
        if len(versions) > 1:
            yield f"{call} is torn apart, over versions {sorted(versions)}"


def _told(done: Iterable[Call], truth: Chain) -> Iterator[str]:
    """Writes that are in the log as another version than their writer was told."""
    by_token = {token: version for version in truth.versions for token in version.added}
    for call in done:
        there, etag = by_token.get(call.tokens[0]), call.facts.get("etag")
        if there is None or etag is None:
            continue
        if (there.version, there.etag) != (call.facts.get("version"), etag):
            yield f"{call} was told version {call.facts.get('version')}, and the log holds it as {there.version}"
        elif call.facts.get("fence", there.fence) != there.fence:
            yield f"{call} carried fence {call.facts['fence']}, and its entry {there.fence}"


def _unseen(done: Iterable[Call], truth: Chain) -> Iterator[str]:
    """Writes that replaced another state than the one that their writer had seen."""
    by_etag = {version.etag: version for version in truth.versions}
    for call in done:
        onto, there = call.facts.get("onto"), by_etag.get(call.facts.get("etag", ""))
        if onto is None or there is None:
            continue
        before = truth.at(there.version - 1)
        if before is None or before.etag != onto:
            yield f"{call} was made onto {onto}, and has replaced what came instead"


def _ordered(done: Iterable[Call], truth: Chain) -> Iterator[str]:
    """Writes that stand before one that had ended when they began."""
    calls = {token: call for call in done for token in call.tokens}
    order = [calls[version.added[0]] for version in truth.versions if version.added and version.added[0] in calls]
    earliest: Call | None = None
    for call in reversed(order):
        if earliest is not None and _known(earliest) < call.started:
            yield f"{earliest} ended before {call} began, and stands after it"
        if earliest is None or _known(call) < _known(earliest):
            earliest = call


def _known(call: Call) -> float:
    """Returns when its caller knew that it was done."""
    return float(call.facts.get("settled", call.ended))


def _fences(truth: Chain) -> Iterator[str]:
    fences = [version.fence for version in truth.versions if version.fence]
    for before, after in pairwise(fences):
        if after < before:
            yield f"a save with fence {after} came after one with fence {before}"
