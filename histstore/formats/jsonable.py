"""Other libraries' values as JSON values: models, dataclasses, enums, times, arrays.

The types of the standard library are converted here, so the result is the same with and without pydantic.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, MappingView, Sequence, Set
from datetime import date, datetime, time, timedelta
from enum import Enum
from math import isfinite
from typing import Any, Final, cast

from ..messages import JSONValue
from ..values.base_errors import SnapshotError
from ..values.forms import Formed, write
from ..values.frozen import MAX_DEPTH, check_json
from ..values.text import iso, type_name

_AS_THEY_ARE: Final = frozenset({str, int, float, bool, bytes, type(None)})
_LISTS: Final = (list, tuple, deque, Sequence, MappingView)
_ARRAYS: Final = {"array": ("array",)}
_TEXTS: Final = {
    "collections": ("UserString",),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "ipaddress": ("IPv4Address", "IPv4Network", "IPv6Address", "IPv6Network"),
    "pathlib": ("PurePath",),
    "uuid": ("UUID",),
}
"""Types whose JSON form is str(). Enums are not among them, because their str() is not their value."""
_NUMPY_SCALARS: Final = {"numpy": ("generic",)}
_NUMPY_ARRAYS: Final = {"numpy": ("ndarray",)}


class _RefusedError(Exception):
    """A value has no JSON form.

    Attributes:
        why: What the value is, and how to correct it.
        steps: The path to the value, innermost step first.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.steps: list[str] = []


def jsonable(value: Any) -> JSONValue:
    """Return `value` as new JSON values, which a snapshot accepts as a message or as a part of one.

    | from | to |
    |---|---|
    | pydantic model | `model_dump(mode="json", by_alias=True)`; bytes stay bytes |
    | OpenAI or Anthropic object | the fields that the API sent; unset fields are left out, as the client does |
    | dataclass, mapping | dict |
    | tuple, set, sequence, NumPy array | list; sets are sorted where they can be |
    | enum member | its value |
    | datetime, date, time, timedelta | ISO 8601 text |
    | UUID, Decimal, Fraction, path, IP address | text |
    | bytes, bytearray, memoryview | bytes |
    | NumPy scalar | number, text or ISO 8601 text |
    | histstore's values | the result of `to_dict()`, or text |

    Keys become text as in `json.dumps`. Keys that are enum members, UUIDs or dates become text, too.

    Args:
        value: Any value. It is not changed.

    Raises:
        SnapshotError: A part of the value has no JSON form, is NaN or infinite, has a lone surrogate, nests more than
            100 levels or contains itself. The text names the path.
    """
    try:
        found = _plain(value, MAX_DEPTH)
    except _RefusedError as refused:
        path = "value" + "".join(reversed(refused.steps))
        if len(path) > 120:
            path = f"{path[:119]}…"
        raise SnapshotError(f"{path} {refused.why}") from refused.__cause__
    check_json(found, "value")
    return cast("JSONValue", found)


def _plain(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    try:
        return _converted(value, kind, depth)
    except _RefusedError:
        raise
    except RecursionError as error:
        raise _RefusedError(_TOO_DEEP) from error
    except Exception as error:  # The methods of a value may raise anything: a proxy, a field that was never set.
        raise _RefusedError(
            f"is a {type_name(kind)} that cannot be read ({type(error).__name__}): mend it, or pick its parts yourself"
        ) from error


_TOO_DEEP: Final = f"nests more than {MAX_DEPTH} levels, or contains itself: flatten it"


def _converted(value: Any, kind: type, depth: int) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value, depth)
    leaf = _leaf(value)
    if leaf is not None:
        return leaf
    if depth == 0:
        raise _RefusedError(_TOO_DEEP)
    if isinstance(value, Formed):
        return write(value)
    if hasattr(kind, "__pydantic_serializer__"):
        return _plain(_dumped(value), depth)
    if isinstance(value, Mapping):
        return _items(value.items(), depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _items([(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)], depth)
    if isinstance(value, _LISTS) or _is_a(value, _ARRAYS):
        return _list(value, depth)
    if isinstance(value, Set):
        return _sorted(_list(value, depth))
    return _foreign(value, depth)


def _is_a(value: Any, types: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether a value is of one of these types. Modules that are not loaded are skipped."""
    return any(
        isinstance(value, getattr(sys.modules[module], name))
        for module, names in types.items()
        if module in sys.modules
        for name in names
    )


def _leaf(value: Any) -> Any:
    """Return the JSON form of a value without parts, or None if the value has parts."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, memoryview):
        return value.tobytes()
    if isinstance(value, (datetime, time)):
        return iso(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    if _is_a(value, _TEXTS):
        return str(value)
    if isinstance(value, complex):
        return str(value).strip("()")
    if isinstance(value, re.Pattern):
        return value.pattern
    return None


def _duration(value: timedelta) -> str:
    """Return a timedelta in ISO 8601 as pydantic writes and reads it: a year is 365 days."""
    sign, value = ("-", -value) if value < timedelta(0) else ("", value)
    years, days = divmod(value.days, 365)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    dates = [(years, "Y"), (days, "D")]
    times = [(hours, "H"), (minutes, "M"), (f"{seconds}{fraction}" if seconds or fraction else 0, "S")]
    day = "".join(f"{number}{unit}" for number, unit in dates if number)
    clock = "".join(f"{number}{unit}" for number, unit in times if number)
    return f"{sign}P{day}" + (f"T{clock}" if clock else "" if day else "T0S")


def _items(items: Any, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in items:
        name = _key(key)
        if name in found:
            raise _RefusedError(f"has two keys that become {name[:40]!r}: rename one of them")
        try:
            found[name] = _plain(item, depth - 1)
        except _RefusedError as refused:
            refused.steps.append(f"[{name!r}]")
            raise
    return found


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    if isinstance(key, Enum):
        return _key(key.value)
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if not isinstance(key, (bytes, bytearray, memoryview, complex)):
        found = _leaf(key)
        if found is None and _is_a(key, _NUMPY_SCALARS):
            return _key(_from_numpy_scalar(key))
        if isinstance(found, str):
            return found
        if isinstance(found, int) or (isinstance(found, float) and isfinite(found)):
            try:
                return repr(found)
            except ValueError as error:
                raise _RefusedError("has a key with more digits than Python writes as text: make it a str") from error
    raise _RefusedError(f"has a key of type {type_name(type(key))}, which JSON has no text for: make it a str")


def _list(values: Any, depth: int) -> list[Any]:
    found = []
    for index, item in enumerate(values):
        try:
            found.append(_plain(item, depth - 1))
        except _RefusedError as refused:
            refused.steps.append(f"[{index}]")
            raise
    return found


def _sorted(values: list[Any]) -> list[Any]:
    try:
        return sorted(values)  # Equal sets must give equal lists, or a save would see a change.
    except TypeError:
        return values


# ----------------------------------------------------------------------------- pydantic and NumPy


def _dumped(value: Any) -> Any:
    """Return pydantic's dump of a model or of a pydantic dataclass."""
    options: dict[str, Any] = {"by_alias": True, "warnings": False}
    if _is_api_object(type(value)):
        # As the clients themselves dump a response that they send back. An API may refuse a field that it never sent,
        # such as "tool_calls": null.
        options |= {"exclude_unset": True, "exclude": getattr(value, "__api_exclude__", None)}
    serializer = value.__pydantic_serializer__
    dump = value.model_dump if hasattr(value, "model_dump") else lambda **given: serializer.to_python(value, **given)
    try:
        python = dump(mode="python", **options)
        if not _loses(python):
            return dump(mode="json", **options)
        names = dump(mode="python", **options | {"by_alias": False})
        if not isinstance(python, dict) or not isinstance(names, dict) or len(names) != len(python):
            return python
        # Only the fields that would lose something: the form of the other fields must not depend on them.
        lost = {alias: name for name, (alias, item) in zip(names, python.items(), strict=True) if _loses(item)}
        options["exclude"] = {*lost.values(), *(options.get("exclude") or ())}
        try:
            found = dump(mode="json", **options)
        except UnicodeDecodeError:  # A custom model_serializer ignores `exclude`.
            return python
        return {alias: item if alias in lost else found.get(alias, item) for alias, item in python.items()}
    except RecursionError as error:
        raise _RefusedError(_TOO_DEEP) from error
    except Exception as error:  # Custom serializers may raise anything.
        if "ircular" in str(error) or "depth exceeded" in str(error):
            raise _RefusedError(_TOO_DEEP) from error
        raise _RefusedError(
            f"is a {type_name(type(value))} whose model_dump() fails ({type(error).__name__}): mend the model's fields "
            "or serializers"
        ) from error


def _is_api_object(kind: type) -> bool:
    """Return whether a model is a response of a generated API client. OpenAI, Anthropic and others share its shape."""
    to_dict = getattr(kind, "to_dict", None)
    return to_dict is not None and "use_api_names" in inspect.signature(to_dict).parameters


def _loses(value: Any) -> bool:
    """Return whether pydantic's JSON form would lose something: bytes become text or fail, NaN may become None."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return True
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_loses, value.values()))
    return isinstance(value, (list, tuple, Set, deque)) and any(map(_loses, value))


def _from_numpy_scalar(value: Any) -> Any:
    numpy: Any = sys.modules["numpy"]
    if isinstance(value, (numpy.datetime64, numpy.timedelta64)) and numpy.isnat(value):
        raise _RefusedError("is NaT, which JSON cannot hold: use None or a str")
    if isinstance(value, numpy.datetime64):
        return str(value)  # item() gives a number of nanoseconds.
    found = value.item()
    if isinstance(value, numpy.timedelta64) and isinstance(found, int):
        raise _RefusedError('is a timedelta64 that no timedelta can hold: convert it with .astype("timedelta64[us]")')
    if isinstance(found, numpy.generic):  # item() of a longdouble is a longdouble.
        found = complex(value) if isinstance(value, numpy.complexfloating) else float(value)
        if found != value and value == value:
            raise _RefusedError(f"is a {type_name(type(value))} that no float can hold: convert it with float(...)")
    return found


def _foreign(value: Any, depth: int) -> Any:
    """Return the JSON form of a value from a library that need not be installed."""
    if _is_a(value, _NUMPY_SCALARS):
        return _plain(_from_numpy_scalar(value), depth)
    if _is_a(value, _NUMPY_ARRAYS):
        if value.ndim == 0:
            return _plain(value[()], depth)
        # tolist() turns times in nanoseconds into numbers.
        return _list(value if value.dtype.kind in "mMOgG" else value.tolist(), depth)
    if isinstance(value, Iterator):
        raise _RefusedError(f"is a {type_name(type(value))}, which can be read only once: make it a list")
    try:
        from pydantic_core import to_jsonable_python

        return to_jsonable_python(value)
    except ImportError:
        cause: Exception | None = None
    except Exception as error:  # PydanticSerializationError, or any error from the methods of the value.
        cause = error
    raise _RefusedError(
        f"is a {type_name(type(value))}, which has no JSON form: "
        "convert it to dict, list, str, int, float, bool, bytes or None"
    ) from cause
