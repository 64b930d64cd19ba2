"""Snapshots of conversations, and the values that come with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, NoReturn, overload

from .attempt import Attempt
from .formats import json_format
from .info import LeaseInfo, Page, RunInfo
from .lineage import Lineage, Origin, RunKey
from .messages import (
    TYPED,
    AnyMessage,
    AssistantMessage,
    JSONValue,
    M,
    M_co,
    Message,
    NewMessage,
    PlainMessage,
    UserMessage,
    check_pin,
    freeze_messages,
)
from .revision import ANY, KEEP, SEEN, Expect, Keep, Revision, RunId, brief
from .values.base_errors import SnapshotError, UnsupportedVersionError
from .values.build import open_twin
from .values.forms import JsonObject, register
from .values.frozen import freeze_json, freeze_meta, thaw

__all__ = [
    "ANY",
    "KEEP",
    "SEEN",
    "Attempt",
    "ConversationSnapshot",
    "Expect",
    "Keep",
    "LeaseInfo",
    "Page",
    "Revision",
    "RunId",
    "RunInfo",
]

# Typed Any, so that type checkers accept the empty conversation as one of any message type.
_NO_MESSAGES: Any = ()

_NO_META: Mapping[str, JSONValue] = freeze_json({}, "meta")


def _freeze_meta(meta: Mapping[str, JSONValue] | None) -> Mapping[str, JSONValue]:
    return _NO_META if meta is None else freeze_meta(meta)


class ConversationSnapshot(JsonObject, Generic[M_co]):
    """A conversation at one moment: its messages, which of them are pinned, and a small mapping.

    A snapshot is a frozen value. `append`, `splice` and `with_meta` return new ones that share the old messages.

    Plain messages are frozen copies of the messages you pass: dicts and lists whose mutators raise TypeError. They are
    instances of dict and list, equal to the originals. `pickle` and `copy.deepcopy` give plain ones. `copies()` returns
    messages that you can change; `splice` puts them back.

    Python cannot stop C code that changes a dict or a list past its methods: `obj.__dict__ = message`,
    `eval(text, message)`, `heapq`. A save does not see such changes. Pass `copies()` to such code.

    A save does not look at the old messages of a snapshot that grew from a loaded or saved one. It compares a snapshot
    that you built from scratch with the run, message by message: O(n).

    Args:
        messages: Typed messages or JSON values, in order.
        pinned: One bool per message; None pins no message.
        meta: A small mapping that is saved with the messages.

    Raises:
        SnapshotError: A message is neither, or `pinned` is not as long as `messages`.
    """

    __slots__ = ("_grow", "_length", "_lineage", "_message_list", "_message_tuple", "_meta", "_pin_list", "_pin_tuple")

    # A snapshot shares its two lists with the snapshots that grew from it; each sees the first `_length` items.
    # `_grow` holds one token, and only its taker may extend the lists in place. pop() takes it atomically: of two
    # threads that append to one snapshot, one extends and the other copies.
    _message_list: list[M_co]
    _pin_list: list[bool]
    _length: int
    _meta: Mapping[str, JSONValue]
    _grow: list[None]
    _message_tuple: tuple[M_co, ...] | None
    _pin_tuple: tuple[bool, ...] | None
    _lineage: Lineage

    VERSION: ClassVar[int] = 1
    """The version of the JSON wire format."""

    @overload
    def __init__(
        self,
        messages: Iterable[M_co] = _NO_MESSAGES,
        pinned: Iterable[bool] | None = None,
        meta: Mapping[str, JSONValue] | None = None,
    ) -> None: ...
    # Without these overloads mypy infers list[object] for a list of both message types, or of messages and dicts.
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
        frozen = freeze_messages(list(messages))
        if not isinstance(pinned, (Iterable, type(None))):
            raise SnapshotError(f"pinned is one bool a message, not a {type(pinned).__name__}: give a list, or None")
        pins = [False] * len(frozen) if pinned is None else [check_pin(pin) for pin in pinned]
        if len(pins) != len(frozen):
            raise SnapshotError(f"length mismatch: {len(frozen)} messages, {len(pins)} pins; give one pin a message")
        made = _make(frozen, pins, len(frozen), _freeze_meta(meta), Lineage(None, 0))
        for name in ConversationSnapshot.__slots__:
            object.__setattr__(self, name, getattr(made, name))

    @property
    def version(self) -> int:
        """The version of the JSON wire format: 1."""
        return self.VERSION

    @property
    def messages(self) -> tuple[M_co, ...]:
        """The messages, in order. All are read-only, plain ones too."""
        messages = self._message_tuple
        if messages is None:
            messages = tuple(self._message_list[: self._length])
            object.__setattr__(self, "_message_tuple", messages)
        return messages

    @property
    def pinned(self) -> tuple[bool, ...]:
        """Whether each message is pinned. As long as `messages`."""
        pins = self._pin_tuple
        if pins is None:
            pins = tuple(self._pin_list[: self._length])
            object.__setattr__(self, "_pin_tuple", pins)
        return pins

    @property
    def meta(self) -> Mapping[str, JSONValue]:
        """The read-only mapping that is saved with the messages."""
        return self._meta

    @property
    def revision(self) -> Revision | None:
        """The revision that it was loaded or last saved as, or grew from; None if it was built from scratch."""
        return self._lineage.revision()

    def copies(self) -> list[M_co]:
        """Return the messages in a new list, for code that changes them in place.

        Plain messages are deep, mutable copies. Typed messages are immutable and stay as they are.
        """
        return [thaw(message) for message in self.messages]

    # Sound although M_co is covariant: append makes a new value, and a snapshot accepts any message.
    @overload
    def append(self, *messages: M_co, pinned: bool = False) -> ConversationSnapshot[M_co]: ...  # type: ignore[misc]
    @overload
    def append(
        self: ConversationSnapshot[PlainMessage], *messages: NewMessage, pinned: bool = False
    ) -> ConversationSnapshot[AnyMessage]: ...
    def append(self, *messages: Any, pinned: bool = False) -> ConversationSnapshot[Any]:
        """Return a snapshot with `messages` at its end. It shares the old messages, and copies none of them.

        Raises:
            SnapshotError: A message is neither a typed message nor a JSON value.
        """
        if not messages:
            return self
        added: Sequence[Any] = messages
        if not TYPED.issuperset(map(type, messages)):
            added = freeze_messages(messages, self._length)
        pins = [check_pin(pinned)] * len(messages)
        try:
            self._grow.pop()
        except IndexError:
            message_list, pin_list = self._message_list[: self._length], self._pin_list[: self._length]
        else:
            message_list, pin_list = self._message_list, self._pin_list
        message_list += added
        pin_list += pins
        length = self._length + len(messages)
        return _make(message_list, pin_list, length, self._meta, Lineage(self._lineage, self._length))

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
        self: ConversationSnapshot[PlainMessage],
        start: int | None,
        stop: int | None,
        *messages: NewMessage,
        pinned: bool = False,
    ) -> ConversationSnapshot[AnyMessage]: ...
    def splice(
        self, start: int | None, stop: int | None, *messages: Any, pinned: bool = False
    ) -> ConversationSnapshot[Any]:
        """Return a snapshot in which `messages` replace the messages from `start` to `stop`.

        Args:
            start: Index of the first message to replace, as in a list slice.
            stop: Index after the last one, as in a list slice.
            *messages: The new messages. Without any, the old ones are removed.
            pinned: Whether the new messages are pinned. The others keep their pins.

        Raises:
            SnapshotError: A message is neither a typed message nor a JSON value.
        """
        start, stop = slice_bounds(start, stop, self._length)
        added = freeze_messages(messages, start)
        pins = [check_pin(pinned)] * len(messages)
        if start == stop and not messages:
            return self
        message_list = [*self._message_list[:start], *added, *self._message_list[stop : self._length]]
        pin_list = [*self._pin_list[:start], *pins, *self._pin_list[stop : self._length]]
        return _make(message_list, pin_list, len(message_list), self._meta, Lineage(self._lineage, start))

    def with_meta(self, meta: Mapping[str, JSONValue]) -> ConversationSnapshot[M_co]:
        """Return a snapshot with `meta` in place of the old mapping.

        Raises:
            SnapshotError: `meta` is not a mapping of str to JSON values.
        """
        lineage = Lineage(self._lineage, self._length)
        message_list, pin_list = self._message_list[: self._length], self._pin_list[: self._length]
        return _make(message_list, pin_list, self._length, _freeze_meta(meta), lineage)

    def to_json(self, indent: int | None = None) -> bytes:
        """Return the snapshot in the JSON wire format, in UTF-8.

        Args:
            indent: Number of spaces per level for pretty-printing; None writes one line.

        Raises:
            SnapshotError: An integer has more digits than Python writes as text.
        """
        return json_format.dumps(self.to_dict(), indent)

    @classmethod
    def from_json(cls, data: bytes | str) -> ConversationSnapshot[M]:
        """Return the snapshot that the JSON wire format describes. Ignore unknown fields of objects.

        Raises:
            SnapshotError: `data` is not in that format. The text names the path.
            UnsupportedVersionError: The format's version is not 1.
        """
        return _from_document(json_format.loads(data), "")

    def __len__(self) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True  # Also without messages: `if snapshot` asks whether the run exists.

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConversationSnapshot):
            return NotImplemented
        return self.messages == other.messages and self.pinned == other.pinned and self._meta == other._meta

    __hash__ = None  # type: ignore[assignment]  # It would cost O(n) each time.

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
        # Without the bases that stores remember: the revision alone says what the snapshot descends from.
        return _unpickle, (self.messages, self.pinned, self._meta, self._lineage.known(), self.revision)


_OpenSnapshot: Final = open_twin(ConversationSnapshot)


def _make(
    message_list: list[Any], pin_list: list[bool], length: int, meta: Mapping[str, JSONValue], lineage: Lineage
) -> ConversationSnapshot[Any]:
    """Return a snapshot of checked parts."""
    made: Any = _OpenSnapshot()
    made._message_list = message_list
    made._pin_list = pin_list
    made._length = length
    made._meta = meta
    made._grow = [None]
    made._message_tuple = None
    made._pin_tuple = None
    made._lineage = lineage
    made.__class__ = ConversationSnapshot
    snapshot: ConversationSnapshot[Any] = made
    return snapshot


def _unpickle(
    messages: tuple[Any, ...],
    pinned: tuple[bool, ...],
    meta: Mapping[str, JSONValue],
    known: dict[RunKey, Revision],
    latest: Revision | None,
) -> ConversationSnapshot[Any]:
    frozen = freeze_messages(messages)
    snapshot = _make(frozen, list(pinned), len(frozen), freeze_meta(meta), Lineage(None, 0))
    for key, revision in known.items():
        snapshot._lineage.origins[key] = Origin(revision)
    snapshot._lineage.latest = latest
    return snapshot


# ---------------------------------------------------------------------- for stores, not for users


def slice_bounds(start: int | None, stop: int | None, length: int) -> tuple[int, int]:
    """Return list-slice indices as a pair 0 <= start <= stop <= length. Raise SnapshotError for other types."""
    try:
        low, high, _ = slice(start, stop).indices(length)
    except TypeError:
        raise SnapshotError("start and stop are whole numbers or None, as in a list slice") from None
    return low, max(low, high)


def from_parts(messages: list[Any], pinned: list[bool], meta: Mapping[str, JSONValue]) -> ConversationSnapshot[Any]:
    """Return a snapshot that takes over lists which the caller has checked, and changes no more."""
    return _make(messages, pinned, len(messages), meta, Lineage(None, 0))


def parts(snapshot: ConversationSnapshot[Any]) -> tuple[list[Any], list[bool], int]:
    """Return the lists behind a snapshot, and how many of their items belong to it. Do not change the lists."""
    return snapshot._message_list, snapshot._pin_list, snapshot._length


def find_origin(snapshot: ConversationSnapshot[Any], key: RunKey) -> tuple[Origin, int] | None:
    """Return the origin of `snapshot` in run `key`, and the number of leading messages that they share."""
    return snapshot._lineage.find(key, snapshot._length)


def add_origin(snapshot: ConversationSnapshot[Any], key: RunKey, origin: Origin) -> None:
    """Record that `snapshot` was loaded from or saved to run `key` as `origin`."""
    snapshot._lineage.add(key, origin)


# -------------------------------------------------------------------------------------- JSON form


def _to_document(snapshot: ConversationSnapshot[Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "version": snapshot.VERSION,
        "messages": [json_format.message_to_json(message) for message in snapshot.messages],
        "pinned": list(snapshot.pinned),
    }
    if snapshot.meta:
        document["meta"] = json_format.value_to_json(snapshot.meta)
    return document


def _from_document(document: Any, _path: str) -> ConversationSnapshot[Any]:
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


register(ConversationSnapshot, _to_document, _from_document, "SNAPSHOT")
