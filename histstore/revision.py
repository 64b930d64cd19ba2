"""Run ids, revisions, and the states of a run that a write may expect."""

from __future__ import annotations

import enum
import re
import uuid
from dataclasses import field
from datetime import datetime
from typing import Any, Final

from .values.base_errors import SnapshotError
from .values.build import frozen, open_twin
from .values.forms import Formed, FormedValue, register


class RunId(Formed, str):
    """The id of a run: any non-empty text. `RunId.new()` makes a random one (UUID version 4)."""

    __slots__ = ()

    def __new__(cls, value: str | uuid.UUID) -> RunId:
        """Check and make a run id.

        Raises:
            SnapshotError: `value` is neither text nor a UUID, is empty, or cannot be UTF-8.
        """
        if type(value) is cls:
            return value
        if not isinstance(value, (str, uuid.UUID)):
            raise SnapshotError(f"a run id is a str or a UUID, not a {type(value).__name__}")
        # str() of an enum member gives its name.
        text = str.__str__(value) if isinstance(value, str) else str(value)
        return super().__new__(cls, check_name(text, "run id"))

    @classmethod
    def new(cls) -> RunId:
        """Return a random run id: a UUID version 4 in lower-case hyphenated form."""
        return cls(uuid.uuid4())


def check_name(text: object, what: str) -> str:
    """Return `text` if it can name a run or a namespace. Raise SnapshotError otherwise."""
    if not isinstance(text, str):
        raise SnapshotError(f"a {what} is a str, not a {type(text).__name__}")
    if not text:
        raise SnapshotError(f"a {what} is not empty text: give one")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SnapshotError(f"the {what} has a lone surrogate, which UTF-8 cannot hold: replace it") from None
    return text


_REVISION = re.compile(r"([1-9][0-9]{0,15})-([0-9a-f]{32})")


@frozen()
class Revision(FormedValue):
    """One state of a run: the number of the save that made it, and the etag of that save.

    Two revisions are equal if their versions and etags are equal. `str(revision)` is `"3-917fa2…"`.

    Attributes:
        version: The number of the save, counted from 1.
        etag: 16 bytes that identify the save, its parent and its content.
        saved_at: Time of the save in UTC, on the server's clock; None if it is not known, as after `parse`.
        fence: The fencing token of the lease that the save carried; None without a lease, or if it is not known.
        length: Number of messages; None if it is not known.
        size: Size of the encoded messages in bytes; None if it is not known.
    """

    version: int
    etag: bytes
    saved_at: datetime | None = field(default=None, compare=False)
    fence: int | None = field(default=None, compare=False)
    length: int | None = field(default=None, compare=False)
    size: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if type(self.version) is not int or not 0 < self.version < 10**16:
            raise SnapshotError("Revision.version is a whole number from 1")
        if type(self.etag) is not bytes or len(self.etag) != 16:
            raise SnapshotError("Revision.etag is 16 bytes")

    def __str__(self) -> str:
        return f"{self.version}-{self.etag.hex()}"

    def __repr__(self) -> str:
        return f"<Revision {brief(self)}>"

    @classmethod
    def parse(cls, text: str) -> Revision:
        """Return the revision that `str()` wrote. Only its version and etag are known.

        Raises:
            SnapshotError: `text` is not a revision.
        """
        match = _REVISION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise SnapshotError('a revision is written as version, "-" and 32 lower-case hex digits')
        return cls(int(match[1]), bytes.fromhex(match[2]))


def brief(revision: Revision | None) -> str:
    """Return a revision as `repr` shows it: "3-917fa2…", or "absent"."""
    return "absent" if revision is None else f"{revision.version}-{revision.etag[:3].hex()}…"


_OpenRevision: Final = open_twin(Revision)


def known_revision(
    version: int, etag: bytes, saved_at: datetime | None, fence: int | None, length: int, size: int
) -> Revision:
    """Return a revision of values that need no check."""
    made: Any = _OpenRevision()
    made.version = version
    made.etag = etag
    made.saved_at = saved_at
    made.fence = fence
    made.length = length
    made.size = size
    made.__class__ = Revision
    revision: Revision = made
    return revision


class Expect(enum.Enum):
    """A state of the run that a write may expect, other than a revision or None."""

    SEEN = "seen"
    """The revision that the snapshot has seen, or else the store."""
    ANY = "any"
    """Any state."""


SEEN: Final = Expect.SEEN
ANY: Final = Expect.ANY


class Keep(enum.Enum):
    """The default of `meta=`: leave the run's meta as it is."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


register(RunId, str, lambda data, _path: RunId(data), "RUN_ID")
register(Revision, str, lambda data, _path: Revision.parse(data), "REVISION")
