"""Text for error messages and `repr`: one line, bounded, printable."""

from __future__ import annotations

from datetime import datetime, time
from typing import Final

LONGEST_TEXT: Final = 299
"""Maximum length of an error's text, in characters."""
LONGEST_NAME: Final = 48
"""Maximum length of a run id or a holder's name in a text, in characters, quotes included."""
LONGEST_RUN_ID: Final = 120
"""Maximum length of a run id in a text that has room for more than `LONGEST_NAME`, in characters."""


def one_line(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return `text` on one line of at most `limit` characters, with unprintable characters escaped.

    A text that is too long loses its middle: an error's text ends with the advice, and ids often differ only at
    their ends.
    """
    cut = len(text) > 2 * limit
    if cut:  # The middle is never shown, so it is not escaped either.
        text = text[:limit] + text[-limit:]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    if not cut and len(text) <= limit:
        return text
    end = (limit - 1) // 3
    return f"{text[: limit - 1 - end]}…{text[-end:]}"


def quoted(name: str, limit: int = LONGEST_NAME) -> str:
    """Return a run id or a holder's name in quotes, in at most `limit` characters, for texts and `repr`."""
    return one_line(repr(str(name)), limit)


def type_name(kind: type) -> str:
    """Return the name of a type for error texts: with its module, unless that is `builtins`."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def iso(moment: datetime | time) -> str:
    """Return a time in ISO 8601, with "Z" for UTC as pydantic writes it."""
    text = moment.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text
