"""Change a marked guard of the Lua: take it out, or make it decide otherwise.

Each function names a marker, what becomes of the lines that it names, and the scenarios that must fail then.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from histstore.protocol.scripts import ALL

from .markers import FILES, Marked, composed, find_markers

Change = Callable[[str, Marked], str]
"""Returns a file's text with the marked lines changed."""

_CONDITION: Final = re.compile(r"\b((?:else)?if|while)\b.*?\b(then|do)\b", re.DOTALL)
_VALUE: Final = re.compile(r"^( *(?:local [\w, ]+ =|return)) .+()$")
_OPERAND: Final = re.compile(r"^( *(?:if|and|or)?)\b.*?(\b(?:and|or)\b)?$")
_MARK: Final = re.compile(r" *-- guard: .*$", re.MULTILINE)


@dataclass(frozen=True)
class Guard:
    """A guard of the scripts, changed in one way, and what fails then.

    Attributes:
        marker: The name that the Lua gives it.
        how: The change, in words.
        change: The change.
        fails: The scenarios that must fail with it.
        file: The script or the included file that holds the marker.
        script: The one script that is changed, of those that include the file; empty: all of them.
    """

    marker: str
    how: str
    change: Change
    fails: tuple[str, ...]
    file: str = ""
    script: str = ""

    @property
    def name(self) -> str:
        return f"{self.marker}: {self.how}"

    def __str__(self) -> str:
        where = f"{self.file} in {self.script}" if self.script else self.file
        return f"{where}: {self.name}"

    def sources(self) -> dict[str, str]:
        """Return the scripts that the file is part of, with the change."""
        text = FILES[self.file]
        markers = find_markers(text)
        assert self.marker in markers, f"{self.file}.lua has no guard {self.marker}"
        changed = {**FILES, self.file: self.change(text, markers[self.marker])}
        sources = {script.name: composed(script.name, changed) for script in ALL}
        differing = {name: source for name, source in sources.items() if source != composed(name)}
        assert differing, f"{self}: nothing changes"
        assert not self.script or self.script in differing, f"{self.script}.lua does not include {self.file}.lua"
        return {name: source for name, source in differing.items() if self.script in ("", name)}


def of_file(file: str, *guards: Guard, script: str = "") -> tuple[Guard, ...]:
    """Return guards of a file; with `script`, as that one script includes them."""
    return tuple(replace(guard, file=file, script=script) for guard in guards)


def cut(marker: str, *fails: str) -> Guard:
    """Remove the marked lines."""
    return Guard(marker, "cut", _on_lines(lambda lines: ""), fails)


def never(marker: str, *fails: str) -> Guard:
    """Replace what the marked lines decide by `false`: a condition, a value, or an operand on a line of its own."""
    return Guard(marker, "never", _on_lines(lambda lines: _decide(lines, "false")), fails)


def always(marker: str, *fails: str) -> Guard:
    """Replace what the marked lines decide by `true`."""
    return Guard(marker, "always", _on_lines(lambda lines: _decide(lines, "true")), fails)


def raising(marker: str, *fails: str) -> Guard:
    """Let a command of the marked line raise its error instead of returning it."""

    def raise_(lines: str) -> str:
        found = re.findall(r"redis\.pcall\(|\btry\(", lines)
        assert len(found) == 1, f"{marker}: {len(found)} commands"
        return lines.replace(found[0], "redis.call(")

    return Guard(marker, "raising", _on_lines(raise_), fails)


def without(marker: str, part: str, *fails: str) -> Guard:
    """Remove a part of the marked lines: an operand with its operator, an argument with its comma."""
    return Guard(marker, f"without {part.strip()}", _on_lines(lambda lines: _swap(marker, lines, part, "")), fails)


def swap(marker: str, part: str, other: str, *fails: str) -> Guard:
    """Replace a part of the marked lines, as little as says what changes."""
    how = f"{part.strip()} -> {other.strip()}"
    return Guard(marker, how, _on_lines(lambda lines: _swap(marker, lines, part, other)), fails)


def move(marker: str, *fails: str, before: str = "", after: str = "") -> Guard:
    """Move the marked lines before or after those of another marker."""

    def change(text: str, marked: Marked) -> str:
        lines = text.split("\n")
        block = lines[marked.first : marked.end]
        rest = "\n".join([*lines[: marked.first], *lines[marked.end :]])
        return _insert(rest, block, before, after)

    return Guard(marker, f"before {before}" if before else f"after {after}", change, fails)


def later(marker: str, instead: str, *fails: str, before: str = "", after: str = "") -> Guard:
    """Replace what the marked line reads by a constant, and read it in vain before or after another marker's lines."""

    def change(text: str, marked: Marked) -> str:
        lines = text.split("\n")
        (line,) = lines[marked.first : marked.end]
        name, _, read = line.partition(" = ")
        rest = "\n".join([*lines[: marked.first], f"{name} = {instead}", *lines[marked.end :]])
        return _insert(rest, [read], before, after)

    return Guard(marker, f"read before {before}" if before else f"read after {after}", change, fails)


def _insert(text: str, block: list[str], before: str, after: str) -> str:
    assert bool(before) != bool(after), "before one marker, or after one"
    target = find_markers(text)[before or after]
    at = target.first if before else target.end
    lines = text.split("\n")
    return "\n".join([*lines[:at], *block, *lines[at:]])


def together(*guards: Guard) -> Guard:
    """Make several changes of one file; the last of them names the scenarios."""
    first, *others = guards

    def change(text: str, marked: Marked) -> str:
        text = first.change(text, marked)
        for guard in others:
            text = guard.change(text, find_markers(text)[guard.marker])
        return text

    how = " and ".join([first.how, *(guard.name for guard in others)])
    return Guard(first.marker, how, change, guards[-1].fails)


def _on_lines(edit: Callable[[str], str]) -> Change:
    def change(text: str, marked: Marked) -> str:
        lines = text.split("\n")
        edited = edit(_MARK.sub("", "\n".join(lines[marked.first : marked.end])))
        return "\n".join([*lines[: marked.first], *([edited] if edited else []), *lines[marked.end :]])

    return change


def _decide(lines: str, constant: str) -> str:
    for pattern in (_CONDITION, _VALUE, _OPERAND):
        if pattern.search(lines):
            return pattern.sub(rf"\1 {constant} \2", lines, count=1)
    raise AssertionError(f"nothing is decided: {lines}")


def _swap(marker: str, lines: str, part: str, other: str) -> str:
    assert lines.count(part) == 1, f"{marker} holds {lines.count(part)} times: {part}"
    return lines.replace(part, other)
