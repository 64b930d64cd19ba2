"""Messages: the seed's typed messages, and any JSON value.

A snapshot's messages are frozen to the bottom, typed or plain. The identity of an object then proves that its content
has not changed, so a save skips the old messages of a conversation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, TypeAlias

from .errors import SnapshotError
from .values.forms import JsonObject, JSONValueForm, frozen
from .values.forms import type_name as _name

if TYPE_CHECKING:
    JSONValue: TypeAlias = None | bool | int | float | str | bytes | list["JSONValue"] | dict[str, "JSONValue"]
else:
    # An alias that names itself sends pydantic, and so FastAPI, round for ever. `type` is Python 3.12's, and
    # TypeAliasType is in typing_extensions, which nothing else here needs.
    JSONValue = Annotated[
        None | bool | int | float | str | bytes | list[Any] | dict[str, Any],
        JSONValueForm(),
    ]

MAX_DEPTH = 100
"""Levels that a JSON value may nest. Rust readers of the JSON format stop at 128, and the CBOR encoder
overflows the C stack on a value that nests without end."""


def _refuse(self: Any, *_args: Any, **_kwargs: Any) -> NoReturn:
    raise TypeError(
        "a snapshot's messages do not change: copy.deepcopy() gives one that does, splice() puts it back "
        "(with_meta() puts back a meta)"
    )


class OpenDict(dict[str, Any]):
    """A FrozenDict in the making. Setting its `__class__` freezes it: no check and no second copy."""

    __slots__ = ()


class OpenList(list[Any]):
    """A FrozenList in the making."""

    __slots__ = ()


class FrozenDict(dict[str, Any]):
    """A read-only dict in a snapshot. Equal to, and encoded as, the plain dict with the same items.

    It holds JSON values only, frozen to the bottom. Everything that takes messages relies on that: it neither checks
    nor copies a FrozenDict. Therefore only this library makes one, and calling the class gives a plain dict.
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[misc]
        """Return a plain dict: `dataclasses.asdict` and other helpers that rebuild containers call `type(value)(…)`."""
        return dict(*args, **kwargs)

    __init__ = _refuse
    __setattr__ = __delattr__ = _refuse
    __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return dict, (), None, None, iter(self.items())

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, _memo: dict[int, Any]) -> dict[str, Any]:
        found: dict[str, Any] = thaw(self)
        return found


class FrozenList(list[Any]):
    """A read-only list in a snapshot. Equal to, and encoded as, the plain list with the same items.

    What FrozenDict says of itself is true of it, too.
    """

    __slots__ = ()

    def __new__(cls, *args: Any) -> list[Any]:  # type: ignore[misc]
        """Return a plain list."""
        return list(*args)

    __init__ = _refuse
    __setattr__ = __delattr__ = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return list, (), None, iter(self)

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, _memo: dict[int, Any]) -> list[Any]:
        found: list[Any] = thaw(self)
        return found


FROZEN = frozenset({FrozenDict, FrozenList})


def thaw(value: Any) -> Any:
    """Returns a plain, mutable copy of a frozen value, to the bottom; anything else as it is."""
    kind = type(value)
    if kind is FrozenDict:
        fields = dict(value)
        for key, item in fields.items():
            if type(item) in FROZEN:
                fields[key] = thaw(item)
        return fields
    if kind is FrozenList:
        return list(map(thaw, value))
    return value


# ------------------------------------------------------------------------------------------- JSON


def freeze_json(value: Any, path: str) -> Any:
    """Returns a deep, read-only copy of a JSONValue; raises SnapshotError that names the path for anything else.

    A JSONValue comes back from a store as it went in: same types, same values. Subclasses (a StrEnum, a defaultdict)
    are none, since they would come back as their base. What is frozen already is not copied.
    """
    kind = type(value)
    if kind in FROZEN:
        return value
    try:
        return _frozen(value, MAX_DEPTH)
    except _NotJsonError:
        pass
    _explain(value, path, MAX_DEPTH)
    raise SnapshotError(f"{path} was changed by another thread while it was copied, so repeat the call")


def check_json(value: Any, path: str) -> None:
    """Raises SnapshotError that names the path and the mend unless `value` is a JSONValue."""
    freeze_json(value, path)


class _NotJsonError(Exception):
    """A value is no JSONValue. `_explain` finds out why."""


def _frozen(value: Any, depth: int) -> Any:
    # Containers are copied before they are checked: their owner may change them meanwhile.
    kind = type(value)
    if kind is str:
        if value.isascii() or _is_utf8(value):
            return value
    elif kind is dict:
        if depth:
            fields: Any = OpenDict(value)
            for key, item in fields.items():
                if type(key) is not str or not (key.isascii() or _is_utf8(key)):
                    raise _NotJsonError
                if type(item) is not str or not item.isascii():
                    fields[key] = _frozen(item, depth - 1)
            fields.__class__ = FrozenDict
            return fields
    elif kind is list:
        if depth:
            items: Any = OpenList(value)
            for index, item in enumerate(items):
                if type(item) is not str or not item.isascii():
                    items[index] = _frozen(item, depth - 1)
            items.__class__ = FrozenList
            return items
    elif kind is float:
        if math.isfinite(value):
            return value
    elif kind is int or kind is bool or value is None or kind is bytes or (kind in FROZEN and _fits(value, depth)):
        return value
    raise _NotJsonError


def _fits(value: Any, depth: int) -> bool:
    """Returns whether a frozen value nests at most `depth` levels."""
    if type(value) not in FROZEN:
        return True
    items = value.values() if type(value) is FrozenDict else value
    return depth > 0 and all(_fits(item, depth - 1) for item in items)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_SURROGATE = (
    "has a lone surrogate, which UTF-8 cannot hold: join the chunks of a stream first, "
    'then use text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
)


def _explain(value: Any, path: str, depth: int) -> None:
    """Finds the first value that is not JSON and raises for it."""
    kind = type(value)
    if kind in (dict, FrozenDict, list, FrozenList) and depth == 0:
        raise SnapshotError(f"{_clip(path)} nests more than {MAX_DEPTH} levels, or contains itself: flatten it")
    if kind in (dict, FrozenDict):
        for key, item in value.items():
            if type(key) is not str:
                raise SnapshotError(f"{_clip(path)} has a key of type {_name(type(key))}: {_mend_key(key)}")
            if not _is_utf8(key):
                raise SnapshotError(f"a key of {_clip(path)} {_SURROGATE}")
            _explain(item, f"{path}[{key!r}]", depth - 1)
    elif kind in (list, FrozenList):
        for index, item in enumerate(value):
            _explain(item, f"{path}[{index}]", depth - 1)
    elif kind is str:
        if not _is_utf8(value):
            raise SnapshotError(f"{_clip(path)} {_SURROGATE}")
    elif kind is float:
        if not math.isfinite(value):
            raise SnapshotError(f"{_clip(path)} is {value}, which JSON cannot hold: use None or a str")
    elif kind not in (int, bool, bytes, type(None)):
        raise SnapshotError(f"{_clip(path)} is a {_name(kind)}, not a JSON value: {_mend(value)}")


def _clip(path: str) -> str:
    return path if len(path) <= 100 else f"{path[:99]}…"


_CONVERTIBLE = frozenset({
    "array", "collections", "datetime", "decimal", "enum", "fractions", "ipaddress", "numpy", "pathlib", "re", "uuid",
})  # fmt: skip
"""Modules whose types `jsonable` converts, and so those derived from them."""


def _converts(value: Any) -> bool:
    """Tells whether `jsonable` makes a JSON value of it, as far as can be seen from its type."""
    kind = type(value)
    known = (JsonObject, str, int, float, complex, bytes, bytearray, memoryview, Mapping, Sequence, Set)
    # By the type: a proxy's `__class__` may raise anything.
    if issubclass(kind, known) or is_dataclass(kind) or hasattr(kind, "__pydantic_serializer__"):
        return True
    return any(base.__module__.partition(".")[0] in _CONVERTIBLE for base in kind.__mro__)


def _mend(value: Any) -> str:
    if _converts(value):
        return "pass the whole value through histstore.jsonable(...)"
    return "convert it to dict, list, str, int, float, bool, bytes or None"


def _mend_key(key: Any) -> str:
    more = ", or pass the whole value through histstore.jsonable(...)" if key is None or _converts(key) else ""
    return f"make the keys plain str{more}"


# ---------------------------------------------------------------------------------- typed messages


def _text(value: Any, path: str) -> str:
    if type(value) is not str:
        more = ", which histstore.jsonable(...) makes of it" if isinstance(value, str) else ""
        raise SnapshotError(f"{path} is a {_name(type(value))}: give a plain str{more}")
    if not (value.isascii() or _is_utf8(value)):
        raise SnapshotError(f"{path} {_SURROGATE}")
    return value


class _Texts(JsonObject):
    """Checks, once and at construction, that every field is a str. Frozen values stay valid."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name in self.__match_args__:  # type: ignore[attr-defined]
            _text(getattr(self, name), f"{type(self).__name__}.{name}")


@frozen()
class Base64Source(_Texts):
    """Data in place: its media type and its base64 text."""

    media_type: str
    data: str


@frozen()
class UrlSource(_Texts):
    """Data behind a URL."""

    url: str


@frozen()
class FileSource(_Texts):
    """Data in a file that the model's provider holds under this id."""

    id: str


Source: TypeAlias = Base64Source | UrlSource | FileSource


def _source(value: Any, owner: str) -> None:
    if type(value) not in (Base64Source, UrlSource, FileSource):
        raise SnapshotError(
            f"{owner}.source is a {_name(type(value))}: give a Base64Source, a UrlSource or a FileSource"
        )


@frozen()
class Text(_Texts):
    """Plain text, from the user or from the model."""

    text: str


@frozen()
class Image(JsonObject):
    """An image from the user."""

    source: Source

    def __post_init__(self) -> None:
        _source(self.source, "Image")


@frozen()
class Document(JsonObject):
    """A document from the user."""

    source: Source

    def __post_init__(self) -> None:
        _source(self.source, "Document")


@frozen()
class ToolResultText(_Texts):
    """Text that a tool returned."""

    text: str


@frozen()
class ToolResultImage(JsonObject):
    """An image that a tool returned."""

    source: Source

    def __post_init__(self) -> None:
        _source(self.source, "ToolResultImage")


ToolResultBlock: TypeAlias = ToolResultText | ToolResultImage


@frozen(init=False)
class ToolResultContent(JsonObject):
    """What a tool returned. A str stands for one text block."""

    blocks: tuple[ToolResultBlock, ...]
    is_error: bool

    def __init__(self, blocks: str | Iterable[ToolResultBlock], is_error: bool = False) -> None:
        if type(is_error) is not bool:
            raise SnapshotError("ToolResultContent.is_error is not a bool: give True or False")
        object.__setattr__(self, "blocks", _blocks(blocks, ToolResultText, _TOOL_RESULT_BLOCKS, "ToolResultContent"))
        object.__setattr__(self, "is_error", is_error)


@frozen(init=False)
class ToolResult(JsonObject):
    """The answer to a tool call. A str as content stands for one text block."""

    call_id: str
    content: ToolResultContent

    def __init__(self, call_id: str, content: ToolResultContent | str) -> None:
        if isinstance(content, str):
            content = ToolResultContent(content)
        if type(content) is not ToolResultContent:
            raise SnapshotError(f"ToolResult.content is a {_name(type(content))}: give a str or a ToolResultContent")
        object.__setattr__(self, "call_id", _text(call_id, "ToolResult.call_id"))
        object.__setattr__(self, "content", content)


@frozen(init=False)
class ToolCall(JsonObject):
    """A tool call of the model. `args` is any JSON value, and is read-only here, to the bottom."""

    id: str
    name: str
    args: Any

    def __init__(self, id: str, name: str, args: JSONValue) -> None:
        object.__setattr__(self, "id", _text(id, "ToolCall.id"))
        object.__setattr__(self, "name", _text(name, "ToolCall.name"))
        object.__setattr__(self, "args", freeze_json(args, "ToolCall.args"))

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled and deep-copied, `args` becomes plain: the constructor freezes it again.
        return ToolCall, (self.id, self.name, self.args)


@frozen()
class Reasoning(JsonObject):
    """The model's reasoning, and the provider's signature over it, if any."""

    text: str
    signature: str | None = None

    def __post_init__(self) -> None:
        _text(self.text, "Reasoning.text")
        if self.signature is not None:
            _text(self.signature, "Reasoning.signature")


@frozen()
class RedactedReasoning(_Texts):
    """Reasoning that the provider encrypted."""

    data: str


UserBlock: TypeAlias = Text | ToolResult | Image | Document
AssistantBlock: TypeAlias = Text | ToolCall | Reasoning | RedactedReasoning

_TOOL_RESULT_BLOCKS = frozenset({ToolResultText, ToolResultImage})
_USER_BLOCKS = frozenset({Text, ToolResult, Image, Document})
_ASSISTANT_BLOCKS = frozenset({Text, ToolCall, Reasoning, RedactedReasoning})


def _blocks(blocks: Any, text: type, allowed: frozenset[type], owner: str) -> tuple[Any, ...]:
    if isinstance(blocks, str):
        return (text(blocks),)
    if type(blocks) in allowed:
        raise SnapshotError(f"{owner} takes a list of blocks: put the {type(blocks).__name__} into [...]")
    try:
        found = tuple(blocks)
    except TypeError:
        raise SnapshotError(f"{owner} takes a str or a list of blocks, not a {_name(type(blocks))}") from None
    for index, block in enumerate(found):
        if type(block) not in allowed:
            names = ", ".join(sorted(kind.__name__ for kind in allowed))
            raise SnapshotError(f"{owner}.blocks[{index}] is a {_name(type(block))}: give one of {names}")
    return found


@frozen(init=False)
class UserMessage(JsonObject):
    """A message to the model: text, tool results, images, documents. A str stands for one Text."""

    role: ClassVar[Literal["user"]] = "user"

    blocks: tuple[UserBlock, ...]

    def __init__(self, blocks: str | Iterable[UserBlock]) -> None:
        object.__setattr__(self, "blocks", _blocks(blocks, Text, _USER_BLOCKS, "UserMessage"))


@frozen(init=False)
class AssistantMessage(JsonObject):
    """A message from the model: text, tool calls, reasoning. A str stands for one Text."""

    role: ClassVar[Literal["assistant"]] = "assistant"

    blocks: tuple[AssistantBlock, ...]

    def __init__(self, blocks: str | Iterable[AssistantBlock]) -> None:
        object.__setattr__(self, "blocks", _blocks(blocks, Text, _ASSISTANT_BLOCKS, "AssistantMessage"))


Message: TypeAlias = UserMessage | AssistantMessage

TYPED = frozenset({UserMessage, AssistantMessage})
"""The types of typed messages."""


def setters(kind: Any) -> tuple[Callable[[Any, Any], None], ...]:
    """Returns what sets the fields of a new object of a frozen dataclass, in order, without any check.

    Its own way, through object.__setattr__, takes longer than all the rest of making one.
    """
    return tuple(kind.__dict__[name].__set__ for name in kind.__match_args__)


_SETTERS: dict[type, tuple[Callable[[Any, Any], None], ...]] = {
    kind: setters(kind)
    for kind in (
        Base64Source, UrlSource, FileSource, Text, Image, Document, ToolResultText, ToolResultImage,
        ToolResultContent, ToolResult, ToolCall, Reasoning, RedactedReasoning, UserMessage, AssistantMessage,
    )
}  # fmt: skip


def trusted(kind: type, *fields: Any) -> Any:
    """Makes a block or a message of fields that a decoder has checked. They are taken as they are."""
    made: Any = object.__new__(kind)
    for put, field in zip(_SETTERS[kind], fields, strict=True):
        put(made, field)
    return made


def freeze_messages(messages: Sequence[Any], start: int = 0) -> list[Any]:
    """Returns messages as a snapshot holds them: typed ones as they are, plain ones as read-only copies.

    Args:
        messages: Typed messages and JSON values.
        start: The index of the first of them, for an error's text.

    Raises:
        SnapshotError: One is neither, or a list.
    """
    if _LISTS.isdisjoint(map(type, messages)):
        try:
            return [message if type(message) in SETTLED else _frozen(message, MAX_DEPTH) for message in messages]
        except _NotJsonError:
            pass
    # One by one, to tell what is wrong with which.
    return [freeze_message(message, f"messages[{index}]") for index, message in enumerate(messages, start)]


_LISTS = frozenset({list, FrozenList})
SETTLED = TYPED | {FrozenDict}
"""The types of messages that stay as they are: they were checked when they were made, and never change."""


def freeze_message(message: Any, path: str) -> Any:
    """Returns one message as a snapshot holds it; raises SnapshotError that names the path."""
    if type(message) in TYPED:
        return message
    if type(message) in _LISTS:
        raise SnapshotError(f"{path} is a list: to add several messages, unpack it with *")
    return freeze_json(message, path)
