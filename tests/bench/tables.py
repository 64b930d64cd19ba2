"""The terminal's tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table: the first column to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(head), *lines]) for column in range(len(head))]
    said = [title, ""] if title else []
    for number, line in enumerate([list(head), *lines]):
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        said.append("  " + "  ".join(cells).rstrip())
        if number == 0:
            said.append("  " + "  ".join("-" * width for width in widths))
    return "\n".join(said) + "\n"


def number(value: float) -> str:
    """Returns three significant digits, and all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def between(summary: dict[str, Any]) -> str:
    """Returns the median with the quartiles."""
    return f"{number(summary['median'])} [{number(summary['low'])}, {number(summary['high'])}]"


def report(results: dict[str, Any]) -> str:
    """Returns all tables for the terminal."""
    return "\n".join(filter(None, (part(results) for part in PARTS)))


def _environment(results: dict[str, Any]) -> str:
    here = results["environment"]
    machine, server = here["machine"], here["server"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    said = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['os']}\n{versions}\n{server['name']}: {server['from']}\n"
    )
    if here.get("peers"):
        for name, of in here["peers"].items():
            others = ", ".join(f"{n} {v}" for n, v in of.items() if n != name)
            said += f"{name} {of[name]}{', with ' if others else ''}{others}\n"
    if here.get("modules_server"):
        said += f"peers that need search and JSON: on {here['modules_server']}\n"
    return said


def acceptance(targets: Sequence[dict[str, Any]]) -> str:
    """Returns the acceptance table."""
    return table(
        "Targets: ratios of medians [quartiles over ten blocks of the run]",
        ("", "target", "measured", "", "of", "to"),
        [
            (
                each["what"],
                f"{'≥' if each['at_least'] else '≤'} {number(each['limit'])}",
                f"{number(each['value'])} [{number(each['low'])}, {number(each['high'])}]"
                if each["above"]
                else number(each["value"]),
                "met" if each["met"] else "MISSED",
                each["above"],
                each["below"],
            )
            for each in targets
        ],
    )


def _acceptance(results: dict[str, Any]) -> str:
    return acceptance(results["acceptance"]) if results.get("acceptance") else ""


def _curve(results: dict[str, Any], key: str, title: str, head: str) -> str:
    curve = results.get(key)
    if not curve:
        return ""
    columns = sorted({column for each in curve.values() for column in each}, key=int)
    rows = [[name, *(between(each[c]) if c in each else "-" for c in columns)] for name, each in curve.items()]
    return table(title, (head, *(f"{int(column):,}" for column in columns)), rows)


def _counts(results: dict[str, Any]) -> str:
    if not results.get("per_save"):
        return ""
    return table(
        "A turn of two messages of 1,000 bytes on a conversation of 100, and a load of it",
        ("", "round trips", "bytes up", "bytes down", "load: trips", "bytes down", "memory ÷ text"),
        [
            (
                name,
                *(
                    number(each[key])
                    for key in ("trips", "sent", "received", "load_trips", "load_received", "memory_ratio")
                ),
            )
            for name, each in results["per_save"].items()
        ],
    )


def _races(results: dict[str, Any]) -> str:
    if not results.get("races"):
        return ""
    return table(
        "Eight processes add to one run: load, then save",
        ("", "acknowledged", "lost", "doubled"),
        [(name, each["acknowledged"], each["lost"], each["doubled"]) for name, each in results["races"].items()],
    )


def _lost_reply(results: dict[str, Any]) -> str:
    if not results.get("lost_reply"):
        return ""
    return table(
        "A save whose reply was lost",
        ("", "the caller hears", "copies stored", "when it tries again"),
        [
            (name, each["raises"] or "saved", each["copies"], each["copies_again"] if each["raises"] else "-")
            for name, each in results["lost_reply"].items()
        ],
    )


def _leases(results: dict[str, Any]) -> str:
    rows = [(name, between(each)) for name, each in results.get("leases", {}).items()]
    return table("Leases", ("", "median [quartiles]"), rows) if rows else ""


def _cluster(results: dict[str, Any]) -> str:
    found = results.get("cluster")
    if not found:
        return ""
    ours, cpu = found["histstore"]["median"], results["cluster_cpu_us"]
    return table(
        "Calls of the save script a second, by many tasks in one process, on a cluster of three servers",
        ("", "median [quartiles]", "histstore ÷ it", "client's CPU a call, µs"),
        [
            (name, between(each), number(ours / each["median"]), between(cpu[name]) if name in cpu else "-")
            for name, each in found.items()
        ],
    )


def _conversations(results: dict[str, Any]) -> str:
    given = results.get("input")
    if not given:
        return ""
    return table(
        f"{given['file']}: {given['runs']} conversations, {given['messages']} messages, {given['turns']} turns",
        ("", "save, ms", "load, ms", "bytes up, median", "bytes up, all"),
        [
            (
                name,
                between(each["save"]),
                between(each["load"]) if each["load"] else "-",
                number(each["sent_median"]),
                number(each["sent_all"]),
            )
            for name, each in given["contenders"].items()
        ],
    )


def _absent(results: dict[str, Any]) -> str:
    lines = [f"  {name}: {why}" for name, why in results.get("not_measured", {}).items()]
    return "\n".join(["Not measured", "", *lines]) + "\n" if lines else ""


PARTS = (
    _environment,
    lambda results: _curve(
        results, "save", "Save of a turn, ms, by messages in the conversation", "median [quartiles]"
    ),
    lambda results: _curve(results, "load", "Cold load, ms, by messages in the conversation", "median [quartiles]"),
    lambda results: _curve(
        results,
        "throughput",
        "Saves a second of conversations of up to 34 messages, by concurrent runs in one process",
        "median [quartiles]",
    ),
    _counts,
    _races,
    _lost_reply,
    lambda results: _curve(results, "handoff", "Lock hand-off, ms, by waiting processes", "median [quartiles]"),
    _leases,
    _cluster,
    _conversations,
    _absent,
    _acceptance,
)
