"""How a guard is taken out of the scripts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from histstore.protocol.scripts import ALL

LUA: Final = Path(__file__).resolve().parents[2] / "lua"
FILES: Final = {path.stem: path.read_text() for path in (*LUA.glob("*.lua"), *LUA.glob("include/*.lua"))}


def composed(script: str, files: Mapping[str, str] = FILES) -> str:
    """Returns a script's source, with the files that it includes."""
    return re.sub(r"^-- include (\w+)$", lambda found: files[found[1]].rstrip("\n"), files[script], flags=re.MULTILINE)


@dataclass(frozen=True)
class Guard:
    """A guard, how to take it out, and what fails then.

    Attributes:
        name: What it is.
        file: Where it stands: a script, or what several scripts include.
        edits: Exact texts, each there once, and what to put in their place.
        fails: The scenarios that must fail without it.
        script: The one script that loses it, of those that include the file; empty: all of them.
    """

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    fails: tuple[str, ...]
    script: str = ""

    def sources(self) -> dict[str, str]:
        """Returns the scripts that the file is part of, without the guard."""
        text = FILES[self.file]
        for old, new in self.edits:
            assert text.count(old) == 1, f"{self.file}.lua holds {text.count(old)} times: {old}"
            text = text.replace(old, new)
        sources = {script.name: composed(script.name, {**FILES, self.file: text}) for script in ALL}
        changed = {name: source for name, source in sources.items() if source != composed(name)}
        assert not self.script or self.script in changed, f"{self.script}.lua does not include {self.file}.lua"
        return {name: source for name, source in changed.items() if self.script in ("", name)}


def cut(name: str, file: str, old: str, new: str, *fails: str) -> Guard:
    return Guard(name, file, ((old, new),), fails)


def moved(name: str, file: str, block: str, before: str, *fails: str) -> Guard:
    return Guard(name, file, ((block, ""), (before, block + before)), fails)
