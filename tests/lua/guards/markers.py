"""Find the guards that the Lua names: `-- guard: NAME`.

At the end of a line, a marker names that line. On a line of its own, it names the statement below, to its end.
`-- no guard: REASON` at the end of a line says why a decision needs no guard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from histstore.protocol.scripts import strip

LUA: Final = Path(__file__).resolve().parents[3] / "lua"
FILES: Final = {path.stem: path.read_text() for path in (*LUA.glob("*.lua"), *LUA.glob("include/*.lua"))}

_MARKER: Final = re.compile(r"-- guard: ([a-z0-9-]+)$")
_EXCUSE: Final = re.compile(r"-- no guard: (.+)$")
_STRING: Final = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_NESTING: Final = re.compile(r"\b(?:function|if|do|repeat|end|until)\b|[(){}]")
_CLOSERS: Final = frozenset({"end", "until", ")", "}"})
_CONTINUES: Final = re.compile(r"(?:[,=({]|\b(?:and|or|then|do))$")
_CONTINUED: Final = re.compile(r"^\s*(?:and|or|then|do)\b")
_HEADER_END: Final = re.compile(r"\b(?:then|do)\b")


def composed(script: str, files: Mapping[str, str] = FILES) -> str:
    """Return a script's source, with the files that it includes."""
    return re.sub(r"^-- include (\w+)$", lambda found: files[found[1]].rstrip("\n"), files[script], flags=re.MULTILINE)


@dataclass(frozen=True)
class Marked:
    """The lines that a marker names.

    Attributes:
        first: Number of the first line, from 0.
        end: Number of the line after the last one.
        decides: Number of the line after the condition, if the lines are a statement that has one; else `end`.
    """

    first: int
    end: int
    decides: int

    def lines(self) -> range:
        return range(self.first, self.end)

    def proven(self) -> range:
        """Return the lines whose decisions the guard's tests prove: of a block, only those of its condition."""
        return range(self.first, self.decides)


def find_markers(source: str) -> dict[str, Marked]:
    """Return the marked lines by the markers' names. A name that is used twice is an AssertionError."""
    code = [_STRING.sub("''", line).rstrip() for line in strip(source).split("\n")]
    found: dict[str, Marked] = {}
    for number, line in enumerate(source.split("\n")):
        marker = _MARKER.search(line)
        if "guard:" in line and marker is None and not _EXCUSE.search(line):
            raise AssertionError(f"not a marker: {line.strip()}")
        if marker is None:
            continue
        assert marker[1] not in found, f"two guards are named {marker[1]}"
        if code[number]:
            found[marker[1]] = Marked(number, number + 1, number + 1)
        else:
            found[marker[1]] = _statement(code, number + 1)
    return found


def find_excuses(source: str) -> dict[int, str]:
    """Return the reasons for lines that need no guard, by number of the line."""
    found = {number: _EXCUSE.search(line) for number, line in enumerate(source.split("\n"))}
    return {number: excuse[1] for number, excuse in found.items() if excuse is not None}


def _statement(code: list[str], start: int) -> Marked:
    first = next(number for number in range(start, len(code)) if code[number])
    depth = 0
    decides = 0
    for number in range(first, len(code)):
        tokens = _NESTING.findall(code[number])
        depth += sum(-1 if token in _CLOSERS else 1 for token in tokens)
        if not decides and _HEADER_END.search(code[number]):
            decides = number + 1
        following = code[number + 1] if number + 1 < len(code) else ""
        if depth == 0 and not _CONTINUES.search(code[number]) and not _CONTINUED.search(following):
            return Marked(first, number + 1, decides or number + 1)
    raise AssertionError(f"the statement of line {first + 1} does not end")
