"""Frozen values: snapshots, revisions, run ids and what stores tell about runs."""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NoReturn, TypeAlias, cast, overload
from urllib.parse import quote, unquote

from .errors import SnapshotError, UnsupportedVersionError, quoted
from .formats import json_format
from .messages import (
    TYPED,
    AssistantMessage,
    FrozenDict,
    JSONValue,
    Message,
    UserMessage,
    check_json,
    freeze_json,
    freeze_messages,
    setters,
    thaw,
)
from .values.forms import Formed, FormedValue, JsonObject, frozen, iso, register

AnyMessage: TypeAlias = Message | JSONValue
"""The message type of a snapshot or a store that no annotation gives another."""

NewMessage: TypeAlias = Message | JSONValue | Mapping[str, object]
"""What such a snapshot or store takes.

It is wider than what it returns. `dict` is invariant, so `dict[str, str]` is not a `dict[str, JSONValue]`, and a
TypedDict is a `Mapping[str, object]` to type checkers and nothing narrower. What is inside is checked when it is added.
"""

_Plain: TypeAlias = Message | None | bool | int | float | str | bytes | list[Any] | dict[str, Any]
"""`AnyMessage` for type checkers that inferred a dict's type from its items. No TypedDict is one."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    _Bound: TypeAlias = Message | None | bool | int | float | str | bytes | list[Any] | Mapping[str, object]
    # Not the recursive union itself: with it spelled out here, mypy infers list items that do not fit together.
    M = TypeVar("M", bound=_Bound, default=AnyMessage)
    M_co = TypeVar("M_co", bound=_Bound, default=AnyMessage, covariant=True)
else:
    from typing import TypeVar

    M = M_co = TypeVar("M")  # defaults of type parameters are for type checkers until Python 3.13


class RunId(Formed, str):
    """The id of a run: any non-empty text. `RunId.new()` makes a random one (UUID version 4)."""

    __slots__ = ()

    def __new__(cls, value: str | uuid.UUID) -> RunId:
        """Checks and makes a run id.

        Raises:
            SnapshotError: `value` is neither text nor a UUID, is empty, or cannot be UTF-8.
        """
        if type(value) is cls:
            return value
        if not isinstance(value, (str, uuid.UUID)):
            raise SnapshotError(f"a run id is a str or a UUID, not a {type(value).__name__}")
        # Of an enum's member str() is its name.
        text = str.__str__(value) if isinstance(value, str) else str(value)
        return super().__new__(cls, check_name(text, "run id"))

    @classmethod
    def new(cls) -> RunId:
        """Returns a random run id: a UUID version 4 in lower-case hyphenated form."""
        return cls(uuid.uuid4())


def check_name(text: object, what: str) -> str:
    """Returns `text` if it can name a run or a namespace; raises SnapshotError otherwise."""
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
    """One state of a run: the how-manieth save it is, and that save's etag.

    Two revisions are equal when version and etag are; `str(revision)` is `"3-917fa2…"`.

    Attributes:
        version: Counts the saves of the run from 1.
        etag: 16 bytes that name this save, on its parent, with its content.
        saved_at: When, in UTC, on the server's clock. None when it is not known, as after `parse`.
        fence: The fencing token of the lease it was saved under. None without a lease, or when not known.
        length: Messages. None when not known.
        size: Bytes of the encoded messages. None when not known.
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
        """Reads what `str()` wrote.

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


_new_revision: Final = partial(object.__new__, Revision)
_FILL_REVISION: Final = setters(Revision)


def known_revision(
    version: int, etag: bytes, saved_at: datetime | None, fence: int | None, length: int, size: int
) -> Revision:
    """Returns a revision of values that need no check."""
    found = _new_revision()
    set_version, set_etag, set_saved_at, set_fence, set_length, set_size = _FILL_REVISION
    set_version(found, version)
    set_etag(found, etag)
    set_saved_at(found, saved_at)
    set_fence(found, fence)
    set_length(found, length)
    set_size(found, size)
    return found


class Expect(enum.Enum):
    """What a write may expect of the run, other than a revision or None."""

    SEEN = "seen"
    """The revision that the snapshot, or else the store, has seen."""
    ANY = "any"
    """Whatever is there."""


SEEN: Final = Expect.SEEN
ANY: Final = Expect.ANY


class Keep(enum.Enum):
    """The default of `meta=`: leave the run's meta as it is."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


@frozen()
class Attempt(JsonObject):
    """Names one write whose outcome is open. `resolve` settles it, in this process or another.

    `str(attempt)` is one line of printable ASCII, for a log, a queue or a column; `Attempt.parse` reads it. It holds no
    secret and no content, only what `resolve` needs.

    Attributes:
        kind: "save" or "delete".
        namespace: The backend's namespace.
        run_id: The run.
        parent: What the write expected of the run; None: that it was absent.
        revision: What the write makes of the run; of a delete, the revision that it deletes. None: a delete of a
            damaged run, which could not tell its revision.
        ticket: 16 bytes that the server knows the write by.
        made_at: When it was made, in UTC, on the clock of the process that made it. None: not known.
    """

    kind: str
    namespace: str
    run_id: RunId
    parent: Revision | None
    revision: Revision | None
    ticket: bytes
    made_at: datetime | None = field(default=None, compare=False)

    def __str__(self) -> str:
        made_at = "" if self.made_at is None else f"{self.made_at.astimezone(UTC):{_MADE_AT}}"
        # strftime writes a year before 1000 with fewer digits than it reads.
        made_at = made_at.rjust(23, "0") if made_at else ""
        revision, details = self.revision, ["", "", ""]
        if revision is not None:
            known = (revision.fence, revision.length, revision.size)
            details = ["" if value is None else str(value) for value in known]
        parts = [
            self.kind,
            quote(self.namespace, safe=""),
            quote(self.run_id, safe=""),
            "" if self.parent is None else str(self.parent),
            "" if revision is None else str(revision),
            *details,
            self.ticket.hex(),
            made_at,
        ]
        return ":".join(parts)

    def __repr__(self) -> str:
        made = "" if self.revision is None else f" as {brief(self.revision)}"
        if self.kind == "delete":
            return f"<Attempt to delete run {quoted(self.run_id)} at {brief(self.parent)}>"
        return f"<Attempt to {self.kind} run {quoted(self.run_id)}{made}, onto {brief(self.parent)}>"

    @classmethod
    def parse(cls, text: str) -> Attempt:
        """Read what `str()` wrote. `resolve` of it says what `resolve` of the original would.

        Raises:
            SnapshotError: `text` is not an attempt.
        """
        match = _ATTEMPT.fullmatch(text) if isinstance(text, str) else None
        try:
            if match is None:
                raise ValueError("no attempt")
            kind, namespace, run_id, parent, revision, fence, length, size, ticket, made_at = match.groups()
            made = Revision.parse(revision) if revision else None
            if made is not None:
                known = [None if digits == "" else int(digits) for digits in (fence, length, size)]
                made = Revision(made.version, made.etag, None, *known)
            elif fence or length or size:
                raise ValueError("details of no revision")
            return cls(
                kind,
                check_name(unquote(namespace, errors="strict"), "namespace"),
                RunId(unquote(run_id, errors="strict")),
                Revision.parse(parent) if parent else None,
                made,
                bytes.fromhex(ticket),
                datetime.fromisoformat(made_at) if made_at else None,
            )
        except ValueError:
            raise SnapshotError(
                'an attempt is written as str(attempt) writes it, "save:namespace:run:…": give that text, unchanged'
            ) from None


_MADE_AT: Final = "%Y%m%dT%H%M%S.%fZ"

_ATTEMPT: Final = re.compile(
    # kind, namespace, run
    r"(save|delete):([\w.~%-]+):([\w.~%-]+)"
    # parent, revision, and the latter's fence, length and size
    r":([0-9a-f-]*):([0-9a-f-]*):([0-9]{0,19}):([0-9]{0,19}):([0-9]{0,19})"
    # ticket, time
    r":([0-9a-f]{32}):([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)?",
    re.ASCII,
)


@frozen()
class LeaseInfo(JsonObject):
    """Who holds a run, as the server sees it.

    Attributes:
        holder: The holder's name.
        fence: The fencing token.
        since: When the lease was granted, in UTC, on the server's clock.
        expires_in: Seconds until it expires unless it is renewed.
    """

    holder: str
    fence: int
    since: datetime
    expires_in: float

    def __repr__(self) -> str:
        return f"<LeaseInfo: fence {self.fence}, held by {quoted(self.holder)}, expires in {self.expires_in:.1f} s>"


@frozen()
class RunInfo(JsonObject):
    """What is known about a run without its messages.

    A run that is absent has one while somebody holds its lease: in its first turn, say.

    Attributes:
        run_id: The run.
        revision: Its revision now; None: it is absent.
        length: Messages.
        size: Bytes of the encoded messages.
        meta: The mapping saved with the messages.
        created_at: When its first revision was saved, in UTC, on the server's clock; None: it is absent.
        saved_at: When this revision was saved; None: it is absent.
        expires_at: When the run expires unless it is saved again; None: never. Of an absent run: when its fence does.
        lease: Who holds it; None: nobody.
    """

    run_id: RunId
    revision: Revision | None
    length: int
    size: int
    meta: Mapping[str, JSONValue]
    created_at: datetime | None
    saved_at: datetime | None
    expires_at: datetime | None
    lease: LeaseInfo | None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickle_info, tuple(getattr(self, name) for name in self.__match_args__)

    def __repr__(self) -> str:
        held = "" if self.lease is None else f", held by {quoted(self.lease.holder)}"
        content = f"{self.length:,} messages, {self.size:,} bytes"
        return f"<RunInfo of run {quoted(self.run_id)} at {brief(self.revision)}: {content}{held}>"


@frozen()
class Page(JsonObject, Generic[M_co]):
    """A part of a run's messages. It cannot be saved: it is not the conversation.

    Attributes:
        messages: The messages asked for.
        pinned: Their pins.
        start: The index of the first of them in the run.
        length: Messages in the whole run.
        meta: The run's meta.
        revision: The revision that all this belongs to.
    """

    messages: tuple[M_co, ...]
    pinned: tuple[bool, ...]
    start: int
    length: int
    meta: Mapping[str, JSONValue]
    revision: Revision

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickle_page, (self.messages, self.pinned, self.start, self.length, self.meta, self.revision)

    def __repr__(self) -> str:
        part = f"{len(self.messages):,} of {self.length:,} messages, from {self.start:,}"
        return f"<Page of {part}, at {brief(self.revision)}>"


# Pickled and deep-copied, plain messages and a meta become mutable: they are frozen again.


def _unpickle_info(run_id: RunId, revision: Revision | None, length: int, size: int, meta: Any, *rest: Any) -> RunInfo:
    return RunInfo(run_id, revision, length, size, freeze_json(meta, "meta"), *rest)


def _unpickle_page(
    messages: Sequence[Any], pinned: tuple[bool, ...], start: int, length: int, meta: Any, revision: Revision
) -> Page[Any]:
    return Page(tuple(freeze_messages(messages)), pinned, start, length, freeze_json(meta, "meta"), revision)


RunKey = tuple[str, ...]
"""Namespace and run id: which run a revision belongs to."""


class Origin:
    """A revision that a snapshot was loaded or saved as, and what its store remembers of it."""

    __slots__ = ("base", "revision")

    def __init__(self, revision: Revision, base: Any = None) -> None:
        self.revision = revision
        self.base = base


class _Lineage:
    """Where a snapshot comes from: what it was saved as, and the lineage of the one it grew from.

    A snapshot may be saved after another was grown from it, so this is looked up when it is needed. Cells are tiny
    and hold no messages. Once a cell has an origin, its way back leads only to runs that it has none of: what
    stood between is forgotten, also for another run that it may be saved to later.

    Attributes:
        origins: What the snapshot was saved as, by run.
        latest: What it was saved as last.
        back: The lineage of the snapshot it grew from, and how many leading messages the two share. One value, since
            another thread may go this way while it is shortened.
    """

    __slots__ = ("back", "latest", "origins")

    def __init__(self, parent: _Lineage | None, shared: int) -> None:
        self.origins: dict[RunKey, Origin] = {}
        self.latest: Revision | None = None
        self.back = None if parent is None else (parent, shared)

    def find(self, key: RunKey, length: int) -> tuple[Origin, int] | None:
        """Returns the nearest origin in the run, and how many leading messages are shared with it."""
        cell, shared = self, length
        while True:
            origin = cell.origins.get(key)
            if origin is not None:
                return origin, shared
            back = cell.back
            if back is None:
                return None
            cell, kept = back
            shared = min(shared, kept)

    def revision(self) -> Revision | None:
        cell = self
        while cell.latest is None:
            back = cell.back
            if back is None:
                return None
            cell = back[0]
        return cell.latest

    def add(self, key: RunKey, origin: Origin) -> None:
        self.origins[key] = origin
        self.latest = origin.revision
        # Else each save of a conversation that was copied from another run would go all its way back.
        back = self.back
        while back is not None and back[0].origins.keys() <= self.origins.keys():
            cell, shared = back
            back = None if cell.back is None else (cell.back[0], min(shared, cell.back[1]))
        self.back = back


# Typed Any, so that a type checker takes the empty conversation for one of any messages.
_NO_MESSAGES: Any = ()


def _check_pin(pin: Any) -> bool:
    if type(pin) is not bool:
        raise SnapshotError(f"pinned is made of True and False, not of {type(pin).__name__}")
    return pin


class _Parts(JsonObject, Generic[M_co]):
    """What a snapshot is made of. It becomes one when it is complete: until then it may be filled in."""

    __slots__ = ("_grow", "_length", "_lineage", "_message_list", "_message_tuple", "_meta", "_pin_list", "_pin_tuple")

    # Messages and pins stand in two lists that a snapshot shares with those that grew from it; each sees
    # the first `_length` items. Only the owner of the single token in `_grow` may extend the lists in
    # place, and pop() takes it atomically, so that of two that append to one snapshot one copies.
    _message_list: list[M_co]
    _pin_list: list[bool]
    _length: int
    _meta: Mapping[str, JSONValue]
    _grow: list[None]
    _message_tuple: tuple[M_co, ...] | None
    _pin_tuple: tuple[bool, ...] | None
    _lineage: _Lineage


class ConversationSnapshot(_Parts[M_co]):
    """A conversation at one moment: its messages, which of them are pinned, and a small mapping.

    A frozen value. `append`, `splice` and `with_meta` return new ones that share what is old.

    Plain messages are frozen copies of what you pass: a dict and a list whose mutators raise TypeError. They are
    equal to plain ones, are instances of dict and list, and pickle and `copy.deepcopy` to plain ones. `copies()`
    returns messages that you can change; `splice` puts them back. Python has no way to stop C code that changes a
    dict or a list past its methods: `obj.__dict__ = message`, `eval(text, message)`, `heapq`. Give such code
    `copies()`: a save does not see what it changes.

    For a snapshot that grew from a loaded or saved one, a save does not look at the old messages. One that is built
    from scratch, of a list that you keep yourself, is compared with the run message by message: O(n).

    Args:
        messages: Typed messages or JSON values, in order.
        pinned: One bool a message; None: no message is pinned.
        meta: A small mapping that is saved with the messages.

    Raises:
        SnapshotError: A message is neither, or `pinned` is not as long as `messages`.
    """

    __slots__ = ()

    VERSION: ClassVar[int] = 1
    """The version of the seed's wire format."""

    @overload
    def __init__(
        self,
        messages: Iterable[M_co] = _NO_MESSAGES,
        pinned: Iterable[bool] | None = None,
        meta: Mapping[str, JSONValue] | None = None,
    ) -> None: ...
    # mypy takes a list of both kinds of messages, or of messages and dicts, for a list of objects.
    @overload
    def __init__(
        self: ConversationSnapshot[Message],
        messages: Iterable[Message],
        pinned: Iterable[bool] | None = None,
        meta: Mapping[str, JSONValue] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: ConversationSnapshot[AnyMessage],
        messages: Iterable[NewMessage],
        pinned: Iterable[bool] | None = None,
        meta: Mapping[str, JSONValue] | None = None,
    ) -> None: ...
    def __init__(
        self,
        messages: Iterable[Any] = _NO_MESSAGES,
        pinned: Iterable[bool] | None = None,
        meta: Mapping[str, JSONValue] | None = None,
    ) -> None:
        if isinstance(messages, (str, bytes, Mapping, UserMessage, AssistantMessage)):
            raise SnapshotError("messages is an iterable of messages: put the one message into [...]")
        if not isinstance(messages, Iterable):
            raise SnapshotError(f"messages is an iterable of messages, not a {type(messages).__name__}: give a list")
        found = freeze_messages(list(messages))
        if not isinstance(pinned, (Iterable, type(None))):
            raise SnapshotError(f"pinned is one bool a message, not a {type(pinned).__name__}: give a list, or None")
        pins = [False] * len(found) if pinned is None else [_check_pin(pin) for pin in pinned]
        if len(pins) != len(found):
            raise SnapshotError(f"length mismatch: {len(found)} messages, {len(pins)} pins; give one pin a message")
        made = _make(found, pins, len(found), _check_meta(meta), _Lineage(None, 0))
        for name in _Parts.__slots__:
            object.__setattr__(self, name, getattr(made, name))

    @property
    def version(self) -> int:
        """The version of the seed's wire format: 1."""
        return self.VERSION

    @property
    def messages(self) -> tuple[M_co, ...]:
        """The messages, in order. They are read-only, plain ones too."""
        if self._message_tuple is None:
            object.__setattr__(self, "_message_tuple", tuple(self._message_list[: self._length]))
        return cast("tuple[M_co, ...]", self._message_tuple)

    @property
    def pinned(self) -> tuple[bool, ...]:
        """Which messages are pinned; as long as `messages`."""
        if self._pin_tuple is None:
            object.__setattr__(self, "_pin_tuple", tuple(self._pin_list[: self._length]))
        return cast("tuple[bool, ...]", self._pin_tuple)

    @property
    def meta(self) -> Mapping[str, JSONValue]:
        """The read-only mapping that is saved with the messages."""
        return self._meta

    @property
    def revision(self) -> Revision | None:
        """The revision it was loaded or last saved as, or grew from; None: it was built from scratch."""
        return self._lineage.revision()

    def copies(self) -> list[M_co]:
        """Return the messages in a new list, for code that changes them in place.

        Each plain message is a fresh, mutable copy to the bottom. Typed messages are immutable and stay as they are.
        """
        return [thaw(message) for message in self.messages]

    # Sound though M_co is covariant: it makes a new value, and any message may be added to any.
    @overload
    def append(self, *messages: M_co, pinned: bool = False) -> ConversationSnapshot[M_co]: ...  # type: ignore[misc]
    @overload
    def append(
        self: ConversationSnapshot[_Plain], *messages: NewMessage, pinned: bool = False
    ) -> ConversationSnapshot[AnyMessage]: ...
    def append(self, *messages: Any, pinned: bool = False) -> ConversationSnapshot[Any]:
        """Returns a snapshot with `messages` at its end; the old ones are shared, not copied.

        Raises:
            SnapshotError: A message is neither a typed message nor a JSON value.
        """
        if not messages:
            return self
        added: Sequence[Any] = messages
        if not TYPED.issuperset(map(type, messages)):
            added = freeze_messages(messages, self._length)
        pins = [_check_pin(pinned)] * len(messages)
        try:
            self._grow.pop()
        except IndexError:
            message_list, pin_list = self._message_list[: self._length], self._pin_list[: self._length]
        else:
            message_list, pin_list = self._message_list, self._pin_list
        message_list += added
        pin_list += pins
        length = self._length + len(messages)
        return _make(message_list, pin_list, length, self._meta, _Lineage(self._lineage, self._length))

    @overload
    def splice(
        self,
        start: int | None,
        stop: int | None,
        *messages: M_co,  # type: ignore[misc]
        pinned: bool = False,
    ) -> ConversationSnapshot[M_co]: ...
    @overload
    def splice(
        self: ConversationSnapshot[_Plain],
        start: int | None,
        stop: int | None,
        *messages: NewMessage,
        pinned: bool = False,
    ) -> ConversationSnapshot[AnyMessage]: ...
    def splice(
        self, start: int | None, stop: int | None, *messages: Any, pinned: bool = False
    ) -> ConversationSnapshot[Any]:
        """Returns a snapshot in which `messages` stand in place of those from `start` to `stop`.

        Args:
            start: Index of the first message to replace, as in a list slice.
            stop: Index after the last one, as in a list slice.
            *messages: What stands there instead; none: the old ones are dropped.
            pinned: Whether the new messages are pinned. The others keep their pins.

        Raises:
            SnapshotError: A message is neither a typed message nor a JSON value.
        """
        start, stop = slice_bounds(start, stop, self._length)
        added = freeze_messages(messages, start)
        pins = [_check_pin(pinned)] * len(messages)
        if start == stop and not messages:
            return self
        message_list = [*self._message_list[:start], *added, *self._message_list[stop : self._length]]
        pin_list = [*self._pin_list[:start], *pins, *self._pin_list[stop : self._length]]
        return _make(message_list, pin_list, len(message_list), self._meta, _Lineage(self._lineage, start))

    def with_meta(self, meta: Mapping[str, JSONValue]) -> ConversationSnapshot[M_co]:
        """Returns a snapshot with `meta` in place of the old mapping.

        Raises:
            SnapshotError: `meta` is not a mapping of str to JSON values.
        """
        lineage = _Lineage(self._lineage, self._length)
        message_list, pin_list = self._message_list[: self._length], self._pin_list[: self._length]
        return _make(message_list, pin_list, self._length, _check_meta(meta), lineage)

    def to_json(self, indent: int | None = None) -> bytes:
        """Returns the seed's JSON wire format, UTF-8.

        Args:
            indent: Spaces a level for pretty-printing; None: one line.

        Raises:
            SnapshotError: An integer has more digits than Python writes as text.
        """
        return json_format.dumps(self.to_dict(), indent)

    @classmethod
    def from_json(cls, data: bytes | str) -> ConversationSnapshot[M]:
        """Reads the seed's JSON wire format. Unknown fields of objects are ignored.

        Raises:
            SnapshotError: `data` is not that format; the text names the path.
            UnsupportedVersionError: It names a version other than 1.
        """
        return _snapshot_from_json(json_format.loads(data), "")

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True  # A snapshot without messages is a snapshot: only a missing run is None.

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConversationSnapshot):
            return NotImplemented
        return self.messages == other.messages and self.pinned == other.pinned and self._meta == other._meta

    __hash__ = None  # type: ignore[assignment]  # it would cost O(n) each time

    def __repr__(self) -> str:
        at = "" if self.revision is None else f", revision {brief(self.revision)}"
        return f"<ConversationSnapshot of {self._length:,} messages{at}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a ConversationSnapshot is frozen: make a new one with append, splice or with_meta ({name})"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a ConversationSnapshot is frozen ({name})")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Stores' memories stay behind: the revision alone still says what the snapshot descends from.
        known: dict[RunKey, Revision] = {}
        cell = self._lineage
        while True:
            for key, origin in list(cell.origins.items()):
                known.setdefault(key, origin.revision)
            if cell.back is None:
                break
            cell = cell.back[0]
        return _unpickle, (self.messages, self.pinned, self._meta, known, self.revision)


def _make(
    message_list: list[Any], pin_list: list[bool], length: int, meta: Mapping[str, JSONValue], lineage: _Lineage
) -> ConversationSnapshot[Any]:
    # A snapshot is frozen: filling it in through object.__setattr__ takes three times as long. What becomes one must
    # have the very slots of one, so ConversationSnapshot has none of its own.
    found: Any = _Parts()
    found._message_list = message_list
    found._pin_list = pin_list
    found._length = length
    found._meta = meta
    found._grow = [None]
    found._message_tuple = None
    found._pin_tuple = None
    found._lineage = lineage
    found.__class__ = ConversationSnapshot
    return cast("ConversationSnapshot[Any]", found)


def _unpickle(
    messages: tuple[Any, ...],
    pinned: tuple[bool, ...],
    meta: Mapping[str, JSONValue],
    known: dict[RunKey, Revision],
    latest: Revision | None,
) -> ConversationSnapshot[Any]:
    frozen = freeze_messages(messages)
    snapshot = _make(frozen, list(pinned), len(frozen), freeze_json(meta, "meta"), _Lineage(None, 0))
    for key, revision in known.items():
        snapshot._lineage.origins[key] = Origin(revision)
    snapshot._lineage.latest = latest
    return snapshot


_NO_META: Mapping[str, JSONValue] = freeze_json({}, "meta")


def _check_meta(meta: Mapping[str, JSONValue] | None) -> Mapping[str, JSONValue]:
    return _NO_META if meta is None else frozen_meta(meta)


# ---------------------------------------------------------------------- for stores, not for users


def slice_bounds(start: int | None, stop: int | None, length: int) -> tuple[int, int]:
    """Returns list-slice indices as a pair 0 <= start <= stop <= length."""
    try:
        low, high, _ = slice(start, stop).indices(length)
    except TypeError:
        raise SnapshotError("start and stop are whole numbers or None, as in a list slice") from None
    return low, max(low, high)


def frozen_meta(meta: object) -> Mapping[str, JSONValue]:
    """Return a read-only copy of a meta. To clear one, it has to be empty, not None.

    Raises:
        SnapshotError: `meta` is not a mapping of str to JSON values.
    """
    if not isinstance(meta, Mapping):
        raise SnapshotError(f"meta is a mapping of str to JSON values, not a {type(meta).__name__}")
    return cast("Mapping[str, JSONValue]", freeze_json(meta if type(meta) in _DICTS else dict(meta), "meta"))


_DICTS: Final = frozenset({dict, FrozenDict})


def from_parts(messages: list[Any], pinned: list[bool], meta: Mapping[str, JSONValue]) -> ConversationSnapshot[Any]:
    """Makes a snapshot of lists that the caller gives away and has checked."""
    return _make(messages, pinned, len(messages), meta, _Lineage(None, 0))


def parts(snapshot: ConversationSnapshot[Any]) -> tuple[list[Any], list[bool], int]:
    """Returns the lists behind a snapshot, to be read only, and how many of their items are its own."""
    return snapshot._message_list, snapshot._pin_list, snapshot._length


def find_origin(snapshot: ConversationSnapshot[Any], key: RunKey) -> tuple[Origin, int] | None:
    """Returns the revision of run `key` that `snapshot` descends from, and the leading messages they share."""
    return snapshot._lineage.find(key, snapshot._length)


def saved_as(snapshot: ConversationSnapshot[Any], key: RunKey) -> Revision | None:
    """Returns what `snapshot` itself, not what it grew from, was loaded or last saved as in run `key`."""
    origin = snapshot._lineage.origins.get(key)
    return origin.revision if origin is not None else None


def add_origin(snapshot: ConversationSnapshot[Any], key: RunKey, origin: Origin) -> None:
    """Notes that `snapshot` is run `key` at a revision."""
    snapshot._lineage.add(key, origin)


# ---------------------------------------------------------------------------------------- JSON forms


def _optional(value: Any, convert: Callable[[Any], Any]) -> Any:
    return None if value is None else convert(value)


def _meta_to_json(meta: Mapping[str, JSONValue]) -> Any:
    return json_format.value_to_json(dict(meta))


class _Fields:
    """Reads the fields of a value's JSON form; errors name the path."""

    def __init__(self, data: Any, path: str) -> None:
        if not isinstance(data, Mapping):
            raise SnapshotError(f"{path} is not an object: give what to_dict() returned")
        self._data = data
        self._path = path

    def read(self, name: str, *kinds: type, convert: Callable[[Any], Any] | None = None) -> Any:
        if name not in self._data:
            raise SnapshotError(f"{self._path}.{name} is missing")
        value = self._data[name]
        if type(value) not in kinds:
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise SnapshotError(f"{self._path}.{name} is a {type(value).__name__}, and not {names}")
        if convert is None or value is None:
            return value
        try:
            return convert(value)
        except (ValueError, OverflowError) as error:
            raise SnapshotError(f"{self._path}.{name}: {error}") from None

    def count(self, name: str, *or_none: type) -> Any:
        """Reads a whole number from 0, of no more digits than `Attempt.parse` takes."""
        return self.read(name, int, *or_none, convert=_count)

    def meta(self) -> Mapping[str, JSONValue]:
        return cast("Mapping[str, JSONValue]", self.read("meta", dict, convert=self._meta))

    def _meta(self, data: Any) -> Any:
        check_json(data, "meta")
        return _check_meta(json_format.value_from_json(data))


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("the time has no time zone")
    found.astimezone(UTC)  # an OverflowError at the ends of the calendar, which str(attempt) would raise
    return found


def _count(number: int) -> int:
    if not 0 <= number < 10**19:
        raise ValueError("give a whole number from 0, of at most 19 digits")
    return number


def _seconds(number: float) -> float:
    found = float(number)
    if not isfinite(found):
        raise ValueError(f"{found} is no number of seconds")
    return found


def _ticket(text: str) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != 16:
        raise ValueError("give 32 hex digits")
    return found


_NULL: Final = type(None)


def _lease_to_json(lease: LeaseInfo) -> dict[str, Any]:
    return {
        "holder": lease.holder,
        "fence": lease.fence,
        "since": iso(lease.since),
        "expires_in": lease.expires_in,
    }


def _lease_from_json(data: Any, path: str) -> LeaseInfo:
    fields = _Fields(data, path)
    return LeaseInfo(
        fields.read("holder", str, convert=lambda text: check_name(text, "holder")),
        fields.count("fence"),
        fields.read("since", str, convert=_moment),
        fields.read("expires_in", float, int, convert=_seconds),
    )


def _info_to_json(info: RunInfo) -> dict[str, Any]:
    return {
        "run_id": str(info.run_id),
        "revision": _optional(info.revision, str),
        "length": info.length,
        "size": info.size,
        "meta": _meta_to_json(info.meta),
        "created_at": _optional(info.created_at, iso),
        "saved_at": _optional(info.saved_at, iso),
        "expires_at": _optional(info.expires_at, iso),
        "lease": _optional(info.lease, _lease_to_json),
    }


def _info_from_json(data: Any, path: str) -> RunInfo:
    fields = _Fields(data, path)
    return RunInfo(
        fields.read("run_id", str, RunId, convert=RunId),
        fields.read("revision", str, _NULL, convert=Revision.parse),
        fields.count("length"),
        fields.count("size"),
        fields.meta(),
        fields.read("created_at", str, _NULL, convert=_moment),
        fields.read("saved_at", str, _NULL, convert=_moment),
        fields.read("expires_at", str, _NULL, convert=_moment),
        _optional(fields.read("lease", dict, _NULL), lambda lease: _lease_from_json(lease, f"{path}.lease")),
    )


def _snapshot_to_json(snapshot: ConversationSnapshot[Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "version": snapshot.VERSION,
        "messages": [json_format.message_to_json(message) for message in snapshot.messages],
        "pinned": list(snapshot.pinned),
    }
    if snapshot.meta:
        document["meta"] = json_format.value_to_json(snapshot.meta)
    return document


def _snapshot_from_json(document: Any, _path: str) -> ConversationSnapshot[Any]:
    if not isinstance(document, dict):
        raise SnapshotError('a snapshot is a JSON object with "version", "messages" and "pinned"')
    version = document.get("version")
    if type(version) is not int:
        raise SnapshotError("version is missing, or is not a number")
    if version != ConversationSnapshot.VERSION:
        raise UnsupportedVersionError(version, ConversationSnapshot.VERSION)
    for name in ("messages", "pinned"):
        if not isinstance(document.get(name), list):
            raise SnapshotError(f"{name} is missing, or is not an array")
    if len(document["messages"]) != len(document["pinned"]):
        raise SnapshotError(
            f"length mismatch: {len(document['messages'])} messages, {len(document['pinned'])} pins; "
            "give one pin a message"
        )
    messages = [json_format.message_from_json(item, f"messages[{i}]") for i, item in enumerate(document["messages"])]
    meta = json_format.value_from_json(document.get("meta", {}))
    if not isinstance(meta, dict):
        raise SnapshotError("meta is a mapping: write it as an object")
    return ConversationSnapshot(messages, document["pinned"], meta)


def _page_to_json(page: Page[Any]) -> dict[str, Any]:
    return {
        "messages": [json_format.message_to_json(message) for message in page.messages],
        "pinned": list(page.pinned),
        "start": page.start,
        "length": page.length,
        "meta": _meta_to_json(page.meta),
        "revision": str(page.revision),
    }


def _page_from_json(data: Any, path: str) -> Page[Any]:
    fields = _Fields(data, path)
    messages = [
        json_format.message_from_json(message, f"{path}.messages[{index}]")
        for index, message in enumerate(fields.read("messages", list))
    ]
    pinned = tuple(map(_check_pin, fields.read("pinned", list)))
    if len(pinned) != len(messages):
        raise SnapshotError(f"{path} has {len(messages)} messages and {len(pinned)} pins; give one pin a message")
    return Page(
        tuple(messages),
        pinned,
        fields.count("start"),
        fields.count("length"),
        fields.meta(),
        fields.read("revision", str, convert=Revision.parse),
    )


def _attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "kind": attempt.kind,
        "namespace": attempt.namespace,
        "run_id": str(attempt.run_id),
        "parent": _optional(attempt.parent, str),
        "revision": _optional(attempt.revision, str),
        **{name: getattr(attempt.revision, name, None) for name in ("fence", "length", "size")},
        "ticket": attempt.ticket.hex(),
        "made_at": _optional(attempt.made_at, iso),
    }


def _attempt_from_json(data: Any, path: str) -> Attempt:
    fields = _Fields(data, path)
    kind = fields.read("kind", str)
    if kind not in ("save", "delete"):
        raise SnapshotError(f'{path}.kind is "save" or "delete"')
    revision = fields.read("revision", str, _NULL, convert=Revision.parse)
    fence, length, size = (fields.count(name, _NULL) for name in ("fence", "length", "size"))
    if revision is not None:
        # What resolve() returns says them too.
        revision = Revision(revision.version, revision.etag, None, fence, length, size)
    return Attempt(
        kind,
        fields.read("namespace", str, convert=lambda text: check_name(text, "namespace")),
        fields.read("run_id", str, RunId, convert=RunId),
        fields.read("parent", str, _NULL, convert=Revision.parse),
        revision,
        fields.read("ticket", str, convert=_ticket),
        fields.read("made_at", str, _NULL, convert=_moment),
    )


register(RunId, str, lambda data, _path: RunId(data), "RUN_ID")
register(Revision, str, lambda data, _path: Revision.parse(data), "REVISION")
register(LeaseInfo, _lease_to_json, _lease_from_json, "LEASE_INFO")
register(RunInfo, _info_to_json, _info_from_json, "RUN_INFO")
register(ConversationSnapshot, _snapshot_to_json, _snapshot_from_json, "SNAPSHOT")
register(Page, _page_to_json, _page_from_json, "PAGE")
register(Attempt, _attempt_to_json, _attempt_from_json, "ATTEMPT")
