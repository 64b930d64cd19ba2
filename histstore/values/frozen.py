"""JSON values, frozen to the bottom.

The identity of a frozen value proves that its content has not changed, so a save skips the old messages of a
conversation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import is_dataclass
from typing import Any, Final, NoReturn

from .base_errors import SnapshotError
from .forms import JsonObject
from .text import type_name

MAX_DEPTH = 100
"""Maximum nesting depth of a JSON value, in levels. Rust readers of the JSON format stop at 128, and a value that nests
without end overflows the C stack of the CBOR encoder."""


def _refuse(self: Any, *_args: Any, **_kwargs: Any) -> NoReturn:
    raise TypeError(
        "a snapshot's messages do not change: copy.deepcopy() gives one that does, splice() puts it back "
        "(with_meta() puts back a meta)"
    )


class OpenDict(dict[str, Any]):
    """A dict that becomes a FrozenDict when its `__class__` is set: without a second copy, and without a check."""

    __slots__ = ()


class OpenList(list[Any]):
    """A list that becomes a FrozenList when its `__class__` is set."""

    __slots__ = ()


class FrozenDict(dict[str, Any]):
    """A read-only dict in a snapshot. It is equal to the plain dict with the same items, and is encoded like it.

    It holds JSON values only, frozen to the bottom. The library relies on that: it neither checks nor copies a
    FrozenDict. Therefore only the library makes one, and calling the class gives a plain dict.
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
        copied: dict[str, Any] = thaw(self)
        return copied


class FrozenList(list[Any]):
    """A read-only list in a snapshot. The rules of FrozenDict apply to it, too."""

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
        copied: list[Any] = thaw(self)
        return copied


FROZEN = frozenset({FrozenDict, FrozenList})


def thaw(value: Any) -> Any:
    """Return a plain, mutable copy of a frozen value, to the bottom. Return any other value as it is."""
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


# ---------------------------------------------------------------------------------------- freezing


def freeze_json(value: Any, path: str) -> Any:
    """Return a deep, read-only copy of a JSON value. A frozen value is returned as it is.

    A store returns a JSON value exactly as it was saved: same types, same values. A subclass (a StrEnum, a
    defaultdict) would come back as its base, so it is no JSON value.

    Args:
        value: Any value.
        path: The name of the value in error texts.

    Raises:
        SnapshotError: `value` is no JSON value. The text names the path and says how to correct it.
    """
    if type(value) in FROZEN:
        return value
    try:
        return try_freeze(value, MAX_DEPTH)
    except NotJsonError:
        pass
    _explain(value, path, MAX_DEPTH)
    raise SnapshotError(f"{path} was changed by another thread while it was copied, so repeat the call")


def check_json(value: Any, path: str) -> None:
    """Raise SnapshotError, with the path and the correction, unless `value` is a JSON value."""
    freeze_json(value, path)


_PLAIN_DICTS: Final = frozenset({dict, FrozenDict})


def freeze_meta(meta: object) -> Mapping[str, Any]:
    """Return a read-only copy of a meta. An empty mapping clears a meta; None is refused.

    Raises:
        SnapshotError: `meta` is not a mapping of str to JSON values.
    """
    if not isinstance(meta, Mapping):
        raise SnapshotError(f"meta is a mapping of str to JSON values, not a {type(meta).__name__}")
    frozen: Mapping[str, Any] = freeze_json(meta if type(meta) in _PLAIN_DICTS else dict(meta), "meta")
    return frozen


class NotJsonError(Exception):
    """A value is no JSON value. `freeze_json` raises an error that says why."""


def try_freeze(value: Any, depth: int) -> Any:
    """Return a deep, read-only copy of a JSON value that nests at most `depth` levels.

    Raises:
        NotJsonError: `value` is no such value.
    """
    # Containers are copied before they are checked: another thread may change the original meanwhile.
    kind = type(value)
    if kind is str:
        if value.isascii() or is_utf8(value):
            return value
    elif kind is dict:
        if depth:
            fields: Any = OpenDict(value)
            for key, item in fields.items():
                if type(key) is not str or not (key.isascii() or is_utf8(key)):
                    raise NotJsonError
                if type(item) is not str or not item.isascii():
                    fields[key] = try_freeze(item, depth - 1)
            fields.__class__ = FrozenDict
            return fields
    elif kind is list:
        if depth:
            items: Any = OpenList(value)
            for index, item in enumerate(items):
                if type(item) is not str or not item.isascii():
                    items[index] = try_freeze(item, depth - 1)
            items.__class__ = FrozenList
            return items
    elif kind is float:
        if math.isfinite(value):
            return value
    elif kind is int or kind is bool or value is None or kind is bytes or (kind in FROZEN and _fits(value, depth)):
        return value
    raise NotJsonError


def _fits(value: Any, depth: int) -> bool:
    """Return whether a frozen value nests at most `depth` levels."""
    if type(value) not in FROZEN:
        return True
    items = value.values() if type(value) is FrozenDict else value
    return depth > 0 and all(_fits(item, depth - 1) for item in items)


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can hold a text: a lone surrogate cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ------------------------------------------------------------------- why a value is no JSON value

LONE_SURROGATE: Final = (
    "has a lone surrogate, which UTF-8 cannot hold: join the chunks of a stream first, "
    'then use text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
)


def _explain(value: Any, path: str, depth: int) -> None:
    """Raise SnapshotError for the first part of `value` that is no JSON value."""
    kind = type(value)
    if kind in (dict, FrozenDict, list, FrozenList) and depth == 0:
        raise SnapshotError(f"{_clip(path)} nests more than {MAX_DEPTH} levels, or contains itself: flatten it")
    if kind in (dict, FrozenDict):
        for key, item in value.items():
            if type(key) is not str:
                raise SnapshotError(f"{_clip(path)} has a key of type {type_name(type(key))}: {_correct_key(key)}")
            if not is_utf8(key):
                raise SnapshotError(f"a key of {_clip(path)} {LONE_SURROGATE}")
            _explain(item, f"{path}[{key!r}]", depth - 1)
    elif kind in (list, FrozenList):
        for index, item in enumerate(value):
            _explain(item, f"{path}[{index}]", depth - 1)
    elif kind is str:
        if not is_utf8(value):
            raise SnapshotError(f"{_clip(path)} {LONE_SURROGATE}")
    elif kind is float:
        if not math.isfinite(value):
            raise SnapshotError(f"{_clip(path)} is {value}, which JSON cannot hold: use None or a str")
    elif kind not in (int, bool, bytes, type(None)):
        raise SnapshotError(f"{_clip(path)} is a {type_name(kind)}, not a JSON value: {_correct(value)}")


def _clip(path: str) -> str:
    return path if len(path) <= 100 else f"{path[:99]}…"


_CONVERTIBLE = frozenset({
    "array", "collections", "datetime", "decimal", "enum", "fractions", "ipaddress", "numpy", "pathlib", "re", "uuid",
})  # fmt: skip
"""Modules whose types, and the types derived from them, `jsonable` converts."""


def _is_convertible(value: Any) -> bool:
    """Return whether `jsonable` makes a JSON value of `value`, judging by its type."""
    kind = type(value)
    known = (JsonObject, str, int, float, complex, bytes, bytearray, memoryview, Mapping, Sequence, Set)
    # Not isinstance(): the `__class__` of a proxy may raise anything.
    if issubclass(kind, known) or is_dataclass(kind) or hasattr(kind, "__pydantic_serializer__"):
        return True
    return any(base.__module__.partition(".")[0] in _CONVERTIBLE for base in kind.__mro__)


def _correct(value: Any) -> str:
    """Return how to make a JSON value of `value`."""
    if _is_convertible(value):
        return "pass the whole value through histstore.jsonable(...)"
    return "convert it to dict, list, str, int, float, bool, bytes or None"


def _correct_key(key: Any) -> str:
    """Return how to make a key of a JSON object of `key`."""
    if key is None or _is_convertible(key):
        return "make the keys plain str, or pass the whole value through histstore.jsonable(...)"
    return "make the keys plain str"
