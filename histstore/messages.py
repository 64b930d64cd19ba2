"""Messages: the seed's typed messages, and any JSON value.

A snapshot's messages are frozen to the bottom, typed or plain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from .values.base_errors import SnapshotError
from .values.build import frozen
from .values.forms import JsonObject, JSONValueForm
from .values.frozen import (
    LONE_SURROGATE,
    MAX_DEPTH,
    FrozenDict,
    FrozenList,
    NotJsonError,
    freeze_json,
    is_utf8,
    try_freeze,
)
from .values.text import type_name

if TYPE_CHECKING:
    JSONValue: TypeAlias = None | bool | int | float | str | bytes | list["JSONValue"] | dict[str, "JSONValue"]
else:
    # An alias that refers to itself makes pydantic, and so FastAPI, recurse without end. The `type` statement is
    # Python 3.12's, and TypeAliasType is in typing_extensions, which nothing else here needs.
    JSONValue = Annotated[
        None | bool | int | float | str | bytes | list[Any] | dict[str, Any],
        JSONValueForm(),
    ]


def _check_text(value: Any, path: str) -> str:
    if type(value) is not str:
        more = ", which histstore.jsonable(...) makes of it" if isinstance(value, str) else ""
        raise SnapshotError(f"{path} is a {type_name(type(value))}: give a plain str{more}")
    if not (value.isascii() or is_utf8(value)):
        raise SnapshotError(f"{path} {LONE_SURROGATE}")
    return value


class _Texts(JsonObject):
    """Base of blocks whose fields are all str. Checks them once, at construction: a frozen value stays valid."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name in self.__match_args__:  # type: ignore[attr-defined]
            _check_text(getattr(self, name), f"{type(self).__name__}.{name}")


@frozen()
class Base64Source(_Texts):
    """Data in the message itself: a media type and base64 text."""

    media_type: str
    data: str


@frozen()
class UrlSource(_Texts):
    """Data behind a URL."""

    url: str


@frozen()
class FileSource(_Texts):
    """Data in a file that the model's provider stores under this id."""

    id: str


Source: TypeAlias = Base64Source | UrlSource | FileSource


def _check_source(value: Any, owner: str) -> None:
    if type(value) not in (Base64Source, UrlSource, FileSource):
        raise SnapshotError(
            f"{owner}.source is a {type_name(type(value))}: give a Base64Source, a UrlSource or a FileSource"
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
        _check_source(self.source, "Image")


@frozen()
class Document(JsonObject):
    """A document from the user."""

    source: Source

    def __post_init__(self) -> None:
        _check_source(self.source, "Document")


@frozen()
class ToolResultText(_Texts):
    """Text that a tool returned."""

    text: str


@frozen()
class ToolResultImage(JsonObject):
    """An image that a tool returned."""

    source: Source

    def __post_init__(self) -> None:
        _check_source(self.source, "ToolResultImage")


ToolResultBlock: TypeAlias = ToolResultText | ToolResultImage


@frozen(init=False)
class ToolResultContent(JsonObject):
    """The content that a tool returned. A str stands for one text block."""

    blocks: tuple[ToolResultBlock, ...]
    is_error: bool

    def __init__(self, blocks: str | Iterable[ToolResultBlock], is_error: bool = False) -> None:
        if type(is_error) is not bool:
            raise SnapshotError("ToolResultContent.is_error is not a bool: give True or False")
        object.__setattr__(
            self, "blocks", _check_blocks(blocks, ToolResultText, _TOOL_RESULT_BLOCKS, "ToolResultContent")
        )
        object.__setattr__(self, "is_error", is_error)


@frozen(init=False)
class ToolResult(JsonObject):
    """The result of a tool call. A str as content stands for one text block."""

    call_id: str
    content: ToolResultContent

    def __init__(self, call_id: str, content: ToolResultContent | str) -> None:
        if isinstance(content, str):
            content = ToolResultContent(content)
        if type(content) is not ToolResultContent:
            raise SnapshotError(
                f"ToolResult.content is a {type_name(type(content))}: give a str or a ToolResultContent"
            )
        object.__setattr__(self, "call_id", _check_text(call_id, "ToolResult.call_id"))
        object.__setattr__(self, "content", content)


@frozen(init=False)
class ToolCall(JsonObject):
    """A tool call by the model. `args` is any JSON value; it is frozen to the bottom."""

    id: str
    name: str
    args: Any

    def __init__(self, id: str, name: str, args: JSONValue) -> None:
        object.__setattr__(self, "id", _check_text(id, "ToolCall.id"))
        object.__setattr__(self, "name", _check_text(name, "ToolCall.name"))
        object.__setattr__(self, "args", freeze_json(args, "ToolCall.args"))

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled or deep-copied `args` is plain. The constructor freezes it again.
        return ToolCall, (self.id, self.name, self.args)


@frozen()
class Reasoning(JsonObject):
    """The model's reasoning, with the provider's signature over it, if any."""

    text: str
    signature: str | None = None

    def __post_init__(self) -> None:
        _check_text(self.text, "Reasoning.text")
        if self.signature is not None:
            _check_text(self.signature, "Reasoning.signature")


@frozen()
class RedactedReasoning(_Texts):
    """Reasoning that the provider encrypted."""

    data: str


UserBlock: TypeAlias = Text | ToolResult | Image | Document
AssistantBlock: TypeAlias = Text | ToolCall | Reasoning | RedactedReasoning

_TOOL_RESULT_BLOCKS = frozenset({ToolResultText, ToolResultImage})
_USER_BLOCKS = frozenset({Text, ToolResult, Image, Document})
_ASSISTANT_BLOCKS = frozenset({Text, ToolCall, Reasoning, RedactedReasoning})


def _check_blocks(blocks: Any, text: type, allowed: frozenset[type], owner: str) -> tuple[Any, ...]:
    if isinstance(blocks, str):
        return (text(blocks),)
    if type(blocks) in allowed:
        raise SnapshotError(f"{owner} takes a list of blocks: put the {type(blocks).__name__} into [...]")
    try:
        checked = tuple(blocks)
    except TypeError:
        raise SnapshotError(f"{owner} takes a str or a list of blocks, not a {type_name(type(blocks))}") from None
    for index, block in enumerate(checked):
        if type(block) not in allowed:
            names = ", ".join(sorted(kind.__name__ for kind in allowed))
            raise SnapshotError(f"{owner}.blocks[{index}] is a {type_name(type(block))}: give one of {names}")
    return checked


@frozen(init=False)
class UserMessage(JsonObject):
    """A message to the model: text, tool results, images, documents. A str stands for one Text."""

    role: ClassVar[Literal["user"]] = "user"

    blocks: tuple[UserBlock, ...]

    def __init__(self, blocks: str | Iterable[UserBlock]) -> None:
        object.__setattr__(self, "blocks", _check_blocks(blocks, Text, _USER_BLOCKS, "UserMessage"))


@frozen(init=False)
class AssistantMessage(JsonObject):
    """A message from the model: text, tool calls, reasoning. A str stands for one Text."""

    role: ClassVar[Literal["assistant"]] = "assistant"

    blocks: tuple[AssistantBlock, ...]

    def __init__(self, blocks: str | Iterable[AssistantBlock]) -> None:
        object.__setattr__(self, "blocks", _check_blocks(blocks, Text, _ASSISTANT_BLOCKS, "AssistantMessage"))


Message: TypeAlias = UserMessage | AssistantMessage

TYPED = frozenset({UserMessage, AssistantMessage})
"""The types of typed messages."""

SETTLED = TYPED | {FrozenDict}
"""The types of messages that a snapshot takes as they are: checked when they were made, and never changed since."""
_LISTS = frozenset({list, FrozenList})

# ----------------------------------------------------------------- the types of messages in stores

AnyMessage: TypeAlias = Message | JSONValue
"""The message type of a snapshot or a store without an annotation."""

NewMessage: TypeAlias = Message | JSONValue | Mapping[str, object]
"""The type of a message that such a snapshot or store accepts.

It is wider than the type that they return. `dict` is invariant, so `dict[str, str]` is not a `dict[str, JSONValue]`. To
type checkers a TypedDict is a `Mapping[str, object]` and nothing narrower. The content is checked when it is added.
"""

PlainMessage: TypeAlias = Message | None | bool | int | float | str | bytes | list[Any] | dict[str, Any]
"""`AnyMessage`, as type checkers see it after they inferred a dict's type from its items. No TypedDict is one."""

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    _Bound: TypeAlias = Message | None | bool | int | float | str | bytes | list[Any] | Mapping[str, object]
    # Not the recursive union itself: with it, mypy infers types of list items that do not fit together.
    M = TypeVar("M", bound=_Bound, default=AnyMessage)
    M_co = TypeVar("M_co", bound=_Bound, default=AnyMessage, covariant=True)
else:
    from typing import TypeVar

    M = M_co = TypeVar("M")  # Only type checkers know defaults of type parameters before Python 3.13.

# ---------------------------------------------------------------------------------------- freezing


def freeze_messages(messages: Sequence[Any], start: int = 0) -> list[Any]:
    """Return messages as a snapshot holds them: typed ones as they are, plain ones as read-only copies.

    Args:
        messages: Typed messages and JSON values.
        start: The index of the first of them, for error texts.

    Raises:
        SnapshotError: A message is neither, or is a list.
    """
    if _LISTS.isdisjoint(map(type, messages)):
        try:
            return [message if type(message) in SETTLED else try_freeze(message, MAX_DEPTH) for message in messages]
        except NotJsonError:
            pass
    # One by one, so that the error names the message.
    return [freeze_message(message, f"messages[{index}]") for index, message in enumerate(messages, start)]


def freeze_message(message: Any, path: str) -> Any:
    """Return one message as a snapshot holds it. Raise SnapshotError with the path if it is no message."""
    if type(message) in TYPED:
        return message
    if type(message) in _LISTS:
        raise SnapshotError(f"{path} is a list: to add several messages, unpack it with *")
    return freeze_json(message, path)


def check_pin(pin: Any) -> bool:
    """Return `pin` if it is a bool. Raise SnapshotError otherwise."""
    if type(pin) is not bool:
        raise SnapshotError(f"pinned is made of True and False, not of {type(pin).__name__}")
    return pin
