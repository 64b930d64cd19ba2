"""Holds what all clients were told against each other, and against what the server holds in the end."""

from __future__ import annotations

import bisect
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final, Literal

import redis

import histstore.sync
from histstore import Revision
from histstore.protocol.keys import run_keys

from ..history import Append, History, HistoryViolation, tokens_of
from .clients import LONGEST_TTL
from .erasures import Delete, Erasures, Fate, Look, Write, final_look
from .fleet import GUARD, Fleet
from .journal import NEVER, Call, read
from .survival import survival
from .topology import NAMESPACE
from .truth import Chain, digest, read_chain, read_log

ERRORS: Final = Path(__file__).resolve().parents[3] / "docs" / "errors.md"

DONE: Final = ("ok", "NotReplicatedError")
# A signal of the harness itself: the caller was interrupted, or its process was killed.
UNTOLD: Final = ("", "interrupted", "cancelled")
OPEN: Final = (*UNTOLD, "OutcomeUnknownError", "RevisionGoneError")
# They are in the table of errors, but mean what nobody does here: nothing is damaged, trimmed, new or bad.
MEANINGLESS: Final = ("CorruptSnapshotError", "UnsupportedVersionError", "SnapshotError")

DELETES: Final = ("delete", "backend.delete")
WRITES: Final = (*DELETES, "splice", "trim")
LOADS: Final = ("load", "turn")
REMEMBERED: Final = 254
"""Writes after which a run may not know any more: it remembers 256, and one less after a save that failed."""
CLAIM: Final = 1.0
"""Seconds that a lease lives at least, if its ttl is no less: one that was handed over has yet to be claimed."""
BEGINNINGS: Final = ("lock", "turn")
ENDS: Final = ("unlock", "end of turn")


def promised_errors() -> frozenset[str]:
    """Return the errors that the table in docs/errors.md names."""
    text = ERRORS.read_text(encoding="utf-8")
    table = text[text.index("| error |") :].split("\n\n", 1)[0]
    return frozenset(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


@dataclass
class Verdict:
    """What came of a run.

    Attributes:
        calls: All calls.
        violations: Contradictions, by kind.
        ghosts: Calls that were told of a lease, though its holder had given it up before they began.
        lies: How often what was told as the reason why nothing was written, of writes that stand.
        acknowledged: Writes to runs that keep all that were told to be done.
        lost: Those that the log does not hold.
        reported: How many of them were followed by an error of the same client on the run.
    """

    calls: list[Call] = field(repr=False)
    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list), repr=False)
    ghosts: int = 0
    lies: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    lost: int = 0
    reported: int = 0

    @property
    def answered(self) -> int:
        """How many calls were answered."""
        return sum(call.outcome not in UNTOLD for call in self.calls)

    @property
    def count(self) -> int:
        return sum(map(len, self.violations.values()))

    def table(self) -> Counter[tuple[str, str]]:
        """Returns how many calls of each kind were told what."""
        return Counter((call.kind, call.outcome or "no answer") for call in self.calls)

    def complain(self, kind: str, problems: Iterable[str]) -> None:
        found = list(problems)
        if found:
            self.violations[kind] += found


def judge(fleet: Fleet) -> Verdict:
    """Judges a run whose workers have stopped."""
    verdict = Verdict(read(sorted(fleet.folder.glob("*.jsonl"))))
    by_run: dict[str, list[Call]] = defaultdict(list)
    for call in verdict.calls:
        by_run[call.run].append(call)
    verdict.complain("calls that did not come back", hangs(verdict.calls, fleet.killed))
    verdict.complain("calls that did not come back", fleet.hung)
    verdict.complain("errors that are not promised", errors(verdict.calls, promised_errors()))
    verdict.complain("printed by workers", fleet.printed().splitlines()[:40])
    verdict.complain("bugs of the harness", [text for text in fleet.counts if text.startswith("bug in")])
    with fleet.backend() as backend:
        for run, calls in by_run.items():
            _judge_run(fleet, verdict, backend, run, calls)
        verdict.complain("left behind", leftovers(fleet.servers.primary_of, backend, list(by_run)))
    return verdict


def _judge_run(fleet: Fleet, verdict: Verdict, backend: Any, run: str, calls: Sequence[Call]) -> None:
    shaken = fleet.servers.shaken if fleet.servers.lossy else []
    if not fleet.servers.lossy:
        kept, deleted = gone(calls)
        verdict.complain("RevisionGoneError on runs that were never deleted", kept)
        verdict.complain("RevisionGoneError on runs that were deleted", deleted)
    try:
        began = time.monotonic()
        snapshot = backend.store(run).load()
    except histstore.HistoryStoreError as error:
        verdict.complain("the last load", [f"{run!r}: {error!r}"])
        return
    found = tokens_of(snapshot.messages) if snapshot is not None else None
    if run.startswith(("chain", "fresh")):
        log = run_keys(NAMESPACE, run).log
        truth = read_chain(read_log(fleet.servers.primary_of(log), log))
        what = survival(calls, truth, found or [], fate=fate, copied=fleet.copied)
        verdict.acknowledged += what.acknowledged
        verdict.lost += len(what.lost)
        verdict.reported += what.reported
        verdict.complain("what became of acknowledged writes", what.problems)
        if fleet.servers.lossy:
            verdict.complain("lost writes that nobody notices", unnoticed(backend, run, what.lost))
        else:
            verdict.complain("history of runs that keep all", chain(calls, truth, found or []))
        verdict.lies += lies(calls, truth.added)
    else:
        verdict.lies += lies(calls, [token for call in calls for token in call.facts.get("found", ())])
        verdict.complain("history of runs that forget", erasures(calls, began, found))
    if not run.startswith("mortal"):
        verdict.complain("leases", leases(steady(calls, shaken)))
    ghosts, late = haunted(calls)
    verdict.ghosts += ghosts
    verdict.complain("leases", late)


def unnoticed(backend: Any, run: str, lost: Iterable[Call]) -> Iterator[str]:
    """Yields lost writes whose revision is asked for, and no error says that it is gone."""
    store = backend.store(run)
    for call in lost:
        if "etag" not in call.facts:
            continue
        try:
            found = store.load(at=Revision(call.facts["version"], bytes.fromhex(call.facts["etag"])))
        except histstore.RevisionGoneError:
            continue
        yield f"{call} is lost, and load(at=) returned {found!r:.80}"


def steady(calls: Sequence[Call], shaken: Sequence[tuple[float, float]]) -> list[Call]:
    """Returns the calls without the ends of leases that were held while servers may have forgotten them."""
    begins = {call.facts.get("holder"): call for call in calls if call.kind in BEGINNINGS}

    def holds(call: Call) -> bool:
        begin = begins.get(call.facts.get("holder"))
        since = begin.started if begin is not None else call.started
        return any(since < until and begun < call.ended for begun, until in shaken)

    return [call for call in calls if call.kind not in ENDS or not holds(call)]


# ------------------------------------------------------------------------------------- single calls


def gone(calls: Sequence[Call]) -> tuple[list[str], list[str]]:
    """Returns calls that were told RevisionGoneError though the run remembers: of runs never deleted, and of others.

    A run remembers its last 256 writes. Whether a save was applied is not known any more if so many came after what it
    was made onto; or, for a first save, if so many came in all and the run was deleted among them.
    """
    told = [call for call in calls if call.outcome == "RevisionGoneError"]
    deleted = any(call.kind in DELETES and fate(call) != "refused" for call in calls)
    writes = [call.started for call in calls if (call.tokens or call.kind in WRITES) and fate(call) != "refused"]
    found: tuple[list[str], list[str]] = ([], [])
    for call in told:
        requested, newest = call.facts.get("requested", 1), call.facts.get("newest") or 0
        if requested > 1 and newest - requested >= REMEMBERED:
            continue
        if deleted and sum(started < call.ended for started in writes) >= REMEMBERED:
            continue
        found[deleted].append(f"{call}: {call.facts.get('text', '')}")
    return found


def hangs(calls: Iterable[Call], killed: Iterable[str]) -> Iterator[str]:
    """Yields calls that did not come back, or long after their deadline."""
    dead = {f"{name}.jsonl" for name in killed}
    for call in calls:
        if not call.outcome and call.journal not in dead:
            yield f"{call} did not come back"
        elif call.outcome and call.ended - call.started > GUARD:
            yield f"{call} took {call.ended - call.started:.1f} s"


def errors(calls: Iterable[Call], promised: frozenset[str]) -> Iterator[str]:
    """Yields calls that raised what docs/errors.md does not name, or what cannot be meant."""
    for call in calls:
        if call.outcome in UNTOLD or call.outcome == "ok":
            continue
        text = call.facts.get("text", "")
        if call.outcome not in promised:
            yield f"{call}, which is not in docs/errors.md: {text}"
        elif call.outcome in MEANINGLESS:
            yield f"{call}, and that is not what happened: {text}"


def fate(call: Call) -> Fate:
    """Returns whether a write was done, as far as its caller knows in the end."""
    if call.said:
        return {"applied": "done", "never": "refused", "gone": "open"}[call.said]  # type: ignore[return-value]
    if call.outcome in DONE:
        return "done"
    return "open" if call.outcome in OPEN or not call.outcome.endswith("Error") or _foreign(call) else "refused"


def _foreign(call: Call) -> bool:
    """Whether it raised what is none of the library's errors: that tells nothing."""
    kind = getattr(histstore, call.outcome, None)
    return not (isinstance(kind, type) and issubclass(kind, histstore.HistoryStoreError))


def known_at(call: Call) -> float:
    """Returns when its caller knew that it was done."""
    if fate(call) != "done":
        return NEVER
    return float(call.facts.get("settled", call.ended))


def lies(calls: Iterable[Call], stored: Iterable[str]) -> Counter[str]:
    """Counts what was told of writes that were refused, and are stored all the same."""
    there = set(stored)
    return Counter(
        "never" if call.said else call.outcome
        for call in calls
        if fate(call) == "refused" and there.intersection(call.tokens)
    )


# ---------------------------------------------------------------------- runs that keep all versions


def chain(calls: Sequence[Call], truth: Chain, final: Sequence[str]) -> Iterator[str]:
    """Yields contradictions in a run of which all versions are known."""
    yield from truth.problems
    content = truth.versions[-1].content if truth.versions else ()
    if tuple(final) != content:
        yield f"the last load returned {digest(final)}, and the log ends with {digest(content)}"
    history = History()
    words: dict[Fate, Literal["saved", "refused", "unknown"]] = {
        "done": "saved", "refused": "refused", "open": "unknown",
    }  # fmt: skip
    for call in calls:
        if call.tokens:
            append = Append(history, call.client, call.tokens, call.started, known_at(call), words[fate(call)])
            append.error = f"{call.kind}: {call.told}"
            append.version = call.facts.get("version") if append.outcome == "saved" else None
            history.appends.append(append)
    try:
        history.check(truth.added)
    except HistoryViolation as violation:
        yield from str(violation).splitlines()[1:]
    yield from _told(calls, truth)
    yield from _fresh(calls, truth)
    fences = [version.fence for version in truth.versions if version.fence]
    for before, after in pairwise(fences):
        if after < before:
            yield f"a save with fence {after} came after one with fence {before}"


def _told(calls: Iterable[Call], truth: Chain) -> Iterator[str]:
    """Revisions and contents that were told and are not what the log says."""
    for call in calls:
        version, etag = call.facts.get("version"), call.facts.get("etag")
        if version is None or (call.kind not in (*LOADS, "load(at=)") and fate(call) != "done"):
            continue
        there = truth.at(version)
        if there is None or there.etag != etag:
            yield f"{call} was told of revision {version}-{etag}, which the log does not hold"
        elif call.facts.get("digest", there.digest) != there.digest:
            yield f"{call} returned at version {version} what the run did not hold then"
        elif call.tokens and call.kind != "resolve" and set(call.tokens) != set(there.added):
            yield f"{call} wrote {call.tokens}, was told version {version}, and that added {there.added}"
        elif call.tokens and call.facts.get("fence", there.fence) != there.fence:
            yield f"{call} carried fence {call.facts['fence']}, and its entry {there.fence}"


def _fresh(calls: Iterable[Call], truth: Chain) -> Iterator[str]:
    """Loads that returned less than was known before they began, or what was not written when they ended."""
    calls = list(calls)
    loads = [call for call in calls if call.kind in LOADS and call.outcome == "ok"]
    told = [(known_at(call), call.facts["version"]) for call in calls if call.tokens and "version" in call.facts]
    told += [(call.ended, call.facts.get("version", 0)) for call in loads]
    told.sort()
    ends = [ended for ended, _ in told]
    newest = list(accumulate((version for _, version in told), max))
    begun = {token: call.started for call in calls for token in call.tokens}
    starts = list(accumulate((max((begun.get(t, 0.0) for t in v.added), default=0.0) for v in truth.versions), max))
    for call in loads:
        version = call.facts.get("version", 0)
        before = bisect.bisect_left(ends, call.started)
        if before and newest[before - 1] > version:
            yield f"{call} returned version {version}, and {newest[before - 1]} was known before it began"
        if 0 < version <= len(starts) and starts[version - 1] > call.ended:
            yield f"{call} returned version {version} before it was written"


# ----------------------------------------------------------------------------- runs that forget


def erasures(calls: Iterable[Call], began: float, final: Sequence[str] | None) -> list[str]:
    """Returns contradictions in a run of which messages are cut away, or which is deleted."""
    found = Erasures()
    for call in calls:
        if call.kind in DELETES:
            seen = frozenset(call.facts["deletes"]) if "deletes" in call.facts else None
            if call.outcome == "ok" and call.facts.get("returned") is False:
                found.looks.append(Look(str(call), call.started, call.ended, None))
            else:
                found.deletes.append(Delete(str(call), fate(call), call.started, known_at(call), seen))
        elif call.tokens or "removes" in call.facts:
            removes = tuple(call.facts.get("removes", ()))
            found.writes.append(Write(str(call), fate(call), call.started, known_at(call), call.tokens, removes))
        elif call.kind in LOADS and call.outcome == "ok":
            tokens = call.facts.get("found")
            look = tuple(tokens) if tokens is not None else None
            found.looks.append(Look(str(call), call.started, call.ended, look))
    found.looks.append(final_look(began, final))
    return found.problems()


# -------------------------------------------------------------------------------------- leases


def leases(calls: Sequence[Call]) -> Iterator[str]:
    """Yields leases that were said to be lost while they were held, two that were held at once, and writes without."""
    entered = {
        call.facts.get("holder"): call for call in calls if call.kind in ("lock", "turn") and call.outcome == "ok"
    }
    held: list[tuple[float, float, Call]] = []
    for call in calls:
        if call.kind not in ENDS or call.facts.get("lost") or call.facts.get("left", 0) <= 0:
            continue
        if call.outcome == "LeaseLostError" and call.facts["left"] > call.ended - call.started:
            yield f"{call}, and it was surely held for another {call.facts['left']:.2f} s when that began"
        begin = entered.get(call.facts.get("holder"))
        if begin is not None:
            held.append((begin.ended, call.started, call))
    held.sort(key=lambda each: each[:2])
    latest: tuple[float, float, Call] | None = None
    for each in held:
        if latest is not None and each[0] < latest[1]:
            yield f"two were inside at once: {latest[2]} and {each[2]}"
        if latest is None or each[1] > latest[1]:
            latest = each
    begins = [begin for begin, _, _ in held]
    for call in calls:
        place = bisect.bisect_right(begins, call.started) - 1
        if not call.tokens or place < 0:
            continue
        _, leaves, end = held[place]
        begin = entered[end.facts["holder"]]
        # Later it may have lapsed and been renewed, where its holder stood still: in between anybody may have written.
        surely = min(leaves, begin.started + min(begin.facts["ttl"], CLAIM))
        if known_at(call) < surely and call.facts.get("fence") != end.facts["fence"]:
            yield f"{call} was written while another held the lease: {end}"


def haunted(calls: Sequence[Call]) -> tuple[int, list[str]]:
    """Returns how often a lease stood in the way that its holder had given up, and those that stood too long."""
    given_up = {call.facts["holder"]: call for call in calls if call.kind in ENDS and call.outcome == "ok"}
    ghosts = 0
    late = []
    for call in calls:
        if call.outcome not in ("LockedError", "LockTimeoutError"):
            continue
        end = given_up.get(call.facts.get("holder"))
        if end is None or end.ended >= call.started:
            continue
        ghosts += 1
        # A copy that took it anew may have come as late as they do; then it lives for its ttl, a claim, and some time.
        if call.started > end.ended + LONGEST_TTL + 10.0:
            late.append(
                f"{call}: held by {call.facts['holder']}, who gave it up {call.started - end.ended:.1f} s before"
            )
    return ghosts, late


def leftovers(client_of: Callable[[bytes], redis.Redis], backend: Any, runs: Sequence[str]) -> list[str]:
    """Returns leases that do not end, and queues that do not empty, once nobody is there any more.

    Args:
        client_of: Returns a client of the server that has a key.
        backend: A backend on the servers.
        runs: The runs.
    """
    found = []
    keys = {run: run_keys(NAMESPACE, run) for run in runs}
    clients = {run: client_of(keys[run].lease) for run in runs}
    end = time.monotonic() + LONGEST_TTL + 1.0
    while left := [run for run in runs if clients[run].exists(keys[run].lease)]:
        if time.monotonic() > end:
            found += [f"the lease of {run!r} is held by {clients[run].hgetall(keys[run].lease)!r}" for run in left]
            break
        time.sleep(0.05)
    for run in runs:
        if clients[run].exists(keys[run].queue):
            try:
                with backend.store(run).lock(ttl=1.0, acquire_timeout=GUARD):
                    pass
            except histstore.HistoryStoreError as error:
                found.append(f"the lease of {run!r} cannot be had: {error!r}")
            if clients[run].exists(keys[run].queue):
                found.append(f"the queue of {run!r} holds {clients[run].lrange(keys[run].queue, 0, -1)!r}")
    return found
