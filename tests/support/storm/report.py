"""Prints what a storm did, and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from .journal import Call
from .verdict import Verdict

SHOWN = 12
"""Sorts of violations, of a kind, that are printed."""


def report(verdict: Verdict, counts: Counter[str], seconds: float, replay: str, refused: str = "") -> str:
    """Returns the whole report.

    Args:
        verdict: What came of it.
        counts: What was done.
        seconds: How long it took.
        replay: The command that does the same again.
        refused: Why servers have no network of their own; "": they do, or need none.
    """
    lines = ["calls, by what they were told", *_calls(verdict), "", "faults", *_faults(counts), ""]
    lines.append(
        f"{verdict.answered:,} calls were answered in {seconds:.0f} s, {verdict.answered / seconds:.0f} a second; "
        f"{verdict.ghosts} were told of a lease that had been given up"
    )
    gone = sum(call.outcome == "RevisionGoneError" for call in verdict.calls)
    surprising = sum(len(found) for kind, found in verdict.violations.items() if kind.startswith("RevisionGoneError"))
    lines.append(f"{gone} were told RevisionGoneError, {gone - surprising} of them where the run cannot know any more")
    if verdict.lies:
        told = ", ".join(f"{what} {count:,}" for what, count in verdict.lies.most_common())
        lines.append(f"that nothing was written was told of writes that stand: {told}")
    for kind, problems in verdict.violations.items():
        lines += ["", f"{len(problems)} violations: {kind}", *_alike(problems)]
    lines += ["", *_figures(verdict, counts), ""]
    if refused:
        lines.append(f"servers were cut off by proxies only, because this machine makes no network for each: {refused}")
    lines.append(f"{verdict.count} violations; again with: {replay}")
    return "\n".join(lines)


def _alike(problems: Iterable[str]) -> Iterable[str]:
    """Yields one of each sort of problem, and how many there are of it: they differ in names and numbers only."""
    sorts: dict[str, list[str]] = {}
    for problem in problems:
        sort = re.sub(r"[\w.-]*\d[\w.-]*|\[.*?\]", "", problem)
        sorts.setdefault(sort, []).append(problem.strip())
    most = sorted(sorts.values(), key=len, reverse=True)
    for alike in most[:SHOWN]:
        yield f"  {len(alike):>5,}  {alike[0]}"
    if len(most) > SHOWN:
        yield f"         and {sum(map(len, most[SHOWN:])):,} of other sorts"


def _calls(verdict: Verdict) -> Iterable[str]:
    table = verdict.table()
    for kind in sorted({kind for kind, _ in table}):
        told = {outcome: count for (each, outcome), count in table.items() if each == kind}
        words = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(told.items(), key=lambda item: -item[1]))
        yield f"  {kind:<16}{sum(told.values()):>8,}  {words}"


def _faults(counts: Counter[str]) -> Iterable[str]:
    rest = Counter({what: count for what, count in counts.items() if not what.startswith(("copies", "calls", "other"))})
    yield "  " + ", ".join(f"{what} {count:,}" for what, count in sorted(rest.items()))
    scripts = sorted({what.split()[2].rstrip(",") for what in counts if what.startswith(("copies of", "calls of"))})
    for script in scripts:
        begin = f"copies of {script}"
        when = {what[len(begin) + 2 :]: n for what, n in counts.items() if what.startswith(f"{begin}, ")}
        told = {what[len(begin) + 10 :]: n for what, n in counts.items() if what.startswith(f"{begin} answered ")}
        calls = counts[f"calls of {script}"]
        words = ", ".join(f"{name} {count:,}" for name, count in sorted(when.items()))
        said = ", ".join(f"{name} {count:,}" for name, count in sorted(told.items(), key=lambda item: -item[1]))
        yield f"  {script:<9}{calls:>8,} calls; copies: {words or 'none'}" + (f"; told: {said}" if said else "")


def _figures(verdict: Verdict, counts: Counter[str]) -> Iterable[str]:
    """Yields the figures of the whole run, one a line."""
    errors = Counter(call.outcome for call in verdict.calls if call.outcome.endswith("Error"))
    writes = [call for call in verdict.calls if call.tokens]
    yield f"| {'calls':<44} | {len(verdict.calls):>9,} |"
    yield f"| {'writes':<44} | {len(writes):>9,} |"
    yield f"| {'acknowledged':<44} | {verdict.acknowledged:>9,} |"
    yield f"| {'acknowledged, lost with a server':<44} | {verdict.lost:>9,} |"
    yield f"| {'of these, followed by an error':<44} | {verdict.reported:>9,} |"
    for name, count in errors.most_common():
        yield f"| {name:<44} | {count:>9,} |"
    for name, count in sorted(counts.items()):
        if not name.startswith(("copies", "calls", "other", "replies", "connections")):
            yield f"| {name:<44} | {count:>9,} |"
    yield f"| {'worst pause of all writers, seconds':<44} | {worst_pause(writes):>9.2f} |"
    yield f"| {'longest write, seconds':<44} | {max((_length(call) for call in writes), default=0.0):>9.2f} |"
    yield f"| {'violations':<44} | {verdict.count:>9,} |"


def worst_pause(writes: Iterable[Call]) -> float:
    """Returns the longest time in seconds in which no write of anybody was acknowledged."""
    ends = sorted(call.ended for call in writes if call.outcome == "ok")
    return max((after - before for before, after in pairwise(ends)), default=0.0)


def _length(call: Call) -> float:
    return call.ended - call.started if call.outcome else 0.0
