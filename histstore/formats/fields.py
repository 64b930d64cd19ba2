"""Reading the fields of a value's JSON form, with errors that name the path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, TypeVar

from ..messages import JSONValue
from ..values.base_errors import SnapshotError
from ..values.frozen import check_json, freeze_meta
from . import json_format

NULL: Final = type(None)

T = TypeVar("T")


def optional(value: Any, convert: Callable[[Any], T]) -> T | None:
    """Return `convert(value)`, or None for None."""
    return None if value is None else convert(value)


class Fields:
    """The fields of a value's JSON form.

    Args:
        data: The JSON form.
        path: The name of the value in error texts.

    Raises:
        SnapshotError: `data` is no mapping. The methods raise it for a field that is missing or wrong.
    """

    def __init__(self, data: Any, path: str) -> None:
        if not isinstance(data, Mapping):
            raise SnapshotError(f"{path} is not an object: give what to_dict() returned")
        self._data = data
        self._path = path

    def read(self, name: str, *kinds: type, convert: Callable[[Any], Any] | None = None) -> Any:
        """Return a field whose type is one of `kinds`, converted unless it is None."""
        if name not in self._data:
            raise SnapshotError(f"{self._path}.{name} is missing")
        value = self._data[name]
        if type(value) not in kinds:
            names = " or ".join("null" if kind is NULL else kind.__name__ for kind in kinds)
            raise SnapshotError(f"{self._path}.{name} is a {type(value).__name__}, and not {names}")
        if convert is None or value is None:
            return value
        try:
            return convert(value)
        except (ValueError, OverflowError) as error:
            raise SnapshotError(f"{self._path}.{name}: {error}") from None

    def count(self, name: str, *or_none: type) -> Any:
        """Return a whole number from 0, with no more digits than `Attempt.parse` accepts."""
        return self.read(name, int, *or_none, convert=_count)

    def time(self, name: str, *or_none: type) -> Any:
        """Return a datetime with a time zone."""
        return self.read(name, str, *or_none, convert=_time)

    def seconds(self, name: str) -> float:
        """Return a finite number of seconds."""
        seconds: float = self.read(name, float, int, convert=_seconds)
        return seconds

    def meta(self) -> Mapping[str, JSONValue]:
        """Return the frozen meta in the field `meta`."""
        meta: Mapping[str, JSONValue] = self.read("meta", dict, convert=_meta)
        return meta


def _count(number: int) -> int:
    if not 0 <= number < 10**19:
        raise ValueError("give a whole number from 0, of at most 19 digits")
    return number


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("the time has no time zone")
    time.astimezone(UTC)  # Raises OverflowError at the ends of the calendar; str(attempt) would raise it later.
    return time


def _seconds(number: float) -> float:
    seconds = float(number)
    if not isfinite(seconds):
        raise ValueError(f"{seconds} is no number of seconds")
    return seconds


def _meta(data: Any) -> Mapping[str, JSONValue]:
    check_json(data, "meta")
    return freeze_meta(json_format.value_from_json(data))
