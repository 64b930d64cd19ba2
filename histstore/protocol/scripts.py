"""The Lua scripts: their names, their sources, and whether they may be resent."""

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

# Scripts cannot call one another. Each contains a copy of the code that it shares with others.
_INCLUDE: Final = re.compile(r"^-- include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. Its source is read on first use.

    Attributes:
        name: The script's name; its file is ``lua/<name>.lua``.
        resend_safe: Whether the same request may be sent again when its reply was lost.
    """

    name: str
    resend_safe: bool = field(kw_only=True)

    @property
    def source(self) -> str:
        """The text to send: the whole file and the files that it includes, with their comments."""
        return load(self.name)

    @property
    def sha(self) -> str:
        """The server's name for the script: the SHA-1 of `source`, in hex."""
        return sha_of(self.name)


@functools.cache
def load(name: str) -> str:
    """Read a script's source, from the wheel or from the checkout.

    Args:
        name: The script's name, without ``.lua``.

    Returns:
        The file's text. Each include line is replaced by the file that it names.

    Raises:
        ImportError: The script is missing. The text names the places that were searched.
    """
    # A wheel has the scripts inside the package; an editable install and a checkout have them beside it.
    # Do not use importlib.resources: it imports modules on the first call. A signal handler that raises during an
    # import leaves the module's lock held, and then every thread that reads a script hangs.
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
def sha_of(name: str) -> str:
    """Return the server's name for a script: the SHA-1 of its source, in hex."""
    return hashlib.sha1(load(name).encode("utf-8"), usedforsecurity=False).hexdigest()


def strip(source: str) -> str:
    """Remove the comments from Lua source. Every line keeps its number.

    Scripts are sent with their comments, because their SHA-1 names them. This function is for tests and tools.

    Args:
        source: Lua source.

    Returns:
        The same code, with nothing in the place of comments.
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
