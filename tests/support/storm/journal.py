"""What workers call and are told, in files that outlive kill -9: a line before each call, and one after it.

Times are `time.monotonic_ns()`, one clock for all processes of a machine. A call without a second line is one that
its process was killed in, or that hangs.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NEVER = float("inf")


class Journal:
    """Writes one process's file. Its threads and tasks may share it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()

    def call(self, client: str, kind: str, run: str, **facts: Any) -> int:
        """Notes that a call begins; returns its number."""
        number = next(self._numbers)
        self._write(number, "call", client=client, kind=kind, run=run, **facts)
        return number

    def end(self, number: int, outcome: str, **facts: Any) -> None:
        """Notes what a call came to: "ok", or the name of what it raised."""
        self._write(number, "end", outcome=outcome, **facts)

    def settled(self, number: int, said: str, **facts: Any) -> None:
        """Notes what `resolve` said of a write: "applied", "never" or "gone"."""
        self._write(number, "settled", said=said, **facts)

    def _write(self, number: int, what: str, **facts: Any) -> None:
        line = json.dumps([number, what, time.monotonic_ns(), facts], separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


@dataclass
class Call:
    """One public call.

    Attributes:
        journal: Whose file it stands in.
        client: Who made it.
        kind: What was called.
        run: On which run.
        started: When, in seconds.
        facts: What it was given, and what it returned.
        ended: When it returned.
        outcome: "ok", the name of what it raised, or "" if it has not returned.
        said: What `resolve` said of it: "applied", "never", "gone", or "" if it was not asked.
    """

    journal: str
    client: str
    kind: str
    run: str
    started: float
    facts: dict[str, Any] = field(default_factory=dict)
    ended: float = NEVER
    outcome: str = ""
    said: str = ""

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of the messages that it adds."""
        return tuple(self.facts.get("tokens", ()))

    @property
    def told(self) -> str:
        """What its caller knows in the end."""
        return f"{self.outcome or 'no answer'}{f', resolved as {self.said}' if self.said else ''}"

    def __str__(self) -> str:
        when = f"{self.started:.3f} to {self.ended:.3f}"
        return f"{self.client}'s {self.kind} on {self.run!r} ({when}; told {self.told})"


def read(paths: Iterable[Path]) -> list[Call]:
    """Returns all calls of some files, by when they began."""
    found = [call for path in paths for call in _read(path)]
    return sorted(found, key=lambda call: call.started)


def _read(path: Path) -> Iterator[Call]:
    calls: dict[int, Call] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:  # what is behind the last line's end was not finished
        number, what, nanoseconds, facts = json.loads(line)
        when = nanoseconds / 1e9
        if what == "call":
            named = {name: facts.pop(name) for name in ("client", "kind", "run")}
            calls[number] = Call(path.name, **named, started=when, facts=facts)
            continue
        call = calls[number]
        if what == "end":
            call.ended, call.outcome = when, facts.pop("outcome")
        else:
            call.said = facts.pop("said")
            call.facts["settled"] = when
        call.facts |= facts
    yield from calls.values()
