"""The Lua scripts: their names, their sources, and whether they may be sent twice."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_COMMENT_OR_STRING: Final = re.compile(
    r"""
      --\[(?P<level>=*)\[ .*? \](?P=level)\]    # a long comment
    | --[^\n]*                                  # a comment to the end of its line
    | (?P<string>
          "(?:\\.|[^"\\])*"
        | '(?:\\.|[^'\\])*'
        | \[(?P<quotes>=*)\[ .*? \](?P=quotes)\]
      )
    """,
    re.VERBOSE | re.DOTALL,
)

# Scripts cannot call one another: what several of them do alike is put into each.
_INCLUDE: Final = re.compile(r"^-- include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script by name; its source is read when it is first asked for.

    Attributes:
        name: The script's name; its file is ``lua/<name>.lua``.
        resend_safe: Whether the same request may be sent again when its reply was lost.
    """

    name: str
    resend_safe: bool = field(kw_only=True)

    @property
    def source(self) -> str:
        """The text that is sent: the whole file with what it includes, comments too."""
        return load(self.name)

    @property
    def sha(self) -> str:
        """The name that the server gives the script: the SHA-1 of `source`, in hex."""
        return _sha(self.name)


@functools.cache
def load(name: str) -> str:
    """Reads a script's source, from the wheel or from the checkout.

    Args:
        name: The script's name, without ``.lua``.

    Returns:
        The file's text, with the files in place of the lines that include them.

    Raises:
        ImportError: The script is in none of the places; the text names them.
    """
    # A wheel carries the scripts inside the package. An editable install and a bare checkout have them beside it.
    # importlib.resources would import modules of its own at the first call of the library: a signal's handler that
    # raises in the midst of an import leaves the module's lock held, and all threads that read a script hang.
    package = Path(__file__).resolve().parent.parent
    places = [folder / "lua" / f"{name}.lua" for folder in (package, package.parent)]
    for place in places:
        try:
            source = place.read_bytes().decode("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        return _INCLUDE.sub(lambda found: load(f"include/{found[1]}").rstrip("\n"), source)
    searched = " and ".join(str(place) for place in places)
    raise ImportError(f"histstore's Lua script {name!r} is missing; looked for {searched}. Install histstore again.")


@functools.cache
def _sha(name: str) -> str:
    return hashlib.sha1(load(name).encode("utf-8"), usedforsecurity=False).hexdigest()


def strip(source: str) -> str:
    """Removes the comments from Lua source; every line keeps its number.

    What is sent to the server keeps its comments, since its SHA-1 names it; this is for reading what a script does.

    Args:
        source: Lua source.

    Returns:
        The same code, with empty places where comments stood.
    """

    def blank(match: re.Match[str]) -> str:
        text = match.group()
        return text if match["string"] is not None else "\n" * text.count("\n") or " "

    return "\n".join(line.rstrip() for line in _COMMENT_OR_STRING.sub(blank, source).split("\n"))


SAVE: Final = Script("save", resend_safe=True)
RESOLVE: Final = Script("resolve", resend_safe=True)
COMPARE: Final = Script("compare", resend_safe=True)
DELETE: Final = Script("delete", resend_safe=True)
ACQUIRE: Final = Script("acquire", resend_safe=True)
RENEW: Final = Script("renew", resend_safe=True)
RELEASE: Final = Script("release", resend_safe=True)
PROBE: Final = Script("probe", resend_safe=False)

ALL: Final = (SAVE, RESOLVE, COMPARE, DELETE, ACQUIRE, RENEW, RELEASE, PROBE)
