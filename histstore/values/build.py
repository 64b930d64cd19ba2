"""Frozen classes, and how the library fills in their objects fast.

The trick: an object is filled in as an *open* twin of its class, and setting its `__class__` freezes it. Setting the
fields of a frozen object through `object.__setattr__`, or through its slots, takes two to three times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, init: bool = True, repr: bool = True) -> Callable[[type[T]], type[T]]:
    """Make a class frozen and slotted, as `dataclass` does, but hide from others that it is a dataclass.

    FastAPI's jsonable_encoder, orjson and msgspec write a dataclass field by field before they look for its own JSON
    form. A message would lose its role, and an etag's bytes would fail.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, slots=True, init=init, repr=repr)(cls)
        del made.__dataclass_fields__, made.__dataclass_params__
        # The dataclass's own versions of these read the attributes that were just deleted.
        made.__getstate__, made.__setstate__, made.__replace__ = _getstate, _setstate, _replace
        return made  # type: ignore[no-any-return]

    return decorate


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__match_args__]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)


def _replace(self: Any, /, **changes: Any) -> Any:
    """Return a copy with other values in some fields. Python 3.13's copy.replace() calls it."""
    return type(self)(**{name: getattr(self, name) for name in self.__match_args__} | changes)


@cache
def open_twin(cls: type) -> Any:
    """Return a class whose objects may be filled in, and then become objects of a frozen, slotted class.

    Set every field, then `made.__class__ = cls`. Nothing is checked: fill in checked values only.
    """
    # CPython accepts the assignment only between classes of one layout: the same bases and the same slots.
    namespace = {"__slots__": cls.__dict__["__slots__"], "__module__": cls.__module__}
    if "__orig_bases__" in cls.__dict__:  # A generic class.
        namespace["__orig_bases__"] = cls.__dict__["__orig_bases__"]
    return type(f"Open{cls.__name__}", cls.__bases__, namespace)


def trusted(cls: type, *fields: Any) -> Any:
    """Return an object of a frozen class, made of checked fields in their order."""
    made = open_twin(cls)()
    for name, value in zip(cls.__match_args__, fields, strict=True):  # type: ignore[attr-defined]
        setattr(made, name, value)
    made.__class__ = cls
    return made
