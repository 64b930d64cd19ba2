"""Frozen values that have a JSON form, and how pydantic and FastAPI come by it.

A value's form is registered by the module that knows it. pydantic is imported only when it asks for a schema.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, dataclass_transform

from ..errors import UnsupportedVersionError

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


class Form(NamedTuple):
    """How a value is written as JSON.

    Attributes:
        write: Returns the JSON form of a value.
        read: Takes the JSON form and the path that errors name; raises SnapshotError.
        schema: The name of the form's JSON schema in `schemas`, which is loaded when pydantic asks for one.
    """

    write: Callable[[Any], Any]
    read: Callable[[Any, str], Any]
    schema: str


_FORMS: dict[object, Form] = {}


def register(kind: object, writer: Callable[[Any], Any], reader: Callable[[Any, str], Any], schema: str) -> None:
    """Sets the JSON form of the values of a type."""
    _FORMS[kind] = Form(writer, reader, schema)


def write(found: Any) -> Any:
    """Returns the JSON form of a value."""
    return _FORMS[type(found)].write(found)


# ------------------------------------------------------------------------------------------ values


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(*, init: bool = True, repr: bool = True) -> Callable[[type[T]], type[T]]:
    """Makes a frozen, slotted value of a class, as `dataclass` does, that is no dataclass to others.

    FastAPI's jsonable_encoder, orjson and msgspec write a dataclass field by field before they ask it anything:
    without a message's role, and with an etag's bytes.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, slots=True, init=init, repr=repr)(cls)
        del made.__dataclass_fields__, made.__dataclass_params__
        # dataclass's own look at the fields that are gone.
        made.__getstate__, made.__setstate__, made.__replace__ = _getstate, _setstate, _replace
        return made  # type: ignore[no-any-return]

    return decorate


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__match_args__]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, found in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, found)


def _replace(self: Any, /, **changes: Any) -> Any:
    """Returns a copy with other values in some fields; copy.replace() calls it (Python 3.13)."""
    return type(self)(**{name: getattr(self, name) for name in self.__match_args__} | changes)


def type_name(kind: type) -> str:
    """Returns the name of a type as error texts have it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def iso(moment: datetime | time) -> str:
    """Returns a time in ISO 8601, with "Z" for UTC as pydantic writes it."""
    text = moment.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


# ---------------------------------------------------------------------------------------- pydantic


def _core_schema(kind: Any, name: str, is_one: Callable[[Any], bool], ref: str | None) -> Any:
    """Returns pydantic's schema of a value: it takes the value or its form, and gives the form."""
    from pydantic_core import PydanticSerializationUnexpectedValue, core_schema

    form = _FORMS[kind]

    def validate(found: Any) -> Any:
        if isinstance(kind, type) and isinstance(found, kind):
            return found
        try:
            return form.read(found, name)
        except UnsupportedVersionError as error:
            raise ValueError(str(error)) from error  # of other errors pydantic makes none of its own

    def serialize(found: Any) -> Any:
        if not is_one(found):
            # In a union pydantic then asks the next type.
            raise PydanticSerializationUnexpectedValue(f"expected {name}, not {type(found).__name__}")
        return form.write(found)

    written = core_schema.plain_serializer_function_ser_schema(serialize)
    return core_schema.no_info_plain_validator_function(validate, ref=ref, serialization=written)


def _json_schema(kind: object) -> dict[str, Any]:
    from . import schemas

    return dict(getattr(schemas, _FORMS[kind].schema))


class _Serializer:
    """pydantic's serializer of a value that stands where a model says `Any`. Made when pydantic asks for it."""

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}

    def __get__(self, instance: object, owner: type) -> Any:
        found = self._made.get(owner)
        if found is None:
            try:
                from pydantic_core import SchemaSerializer, core_schema
            except ImportError:
                raise AttributeError("__pydantic_serializer__") from None
            written = core_schema.plain_serializer_function_ser_schema(_FORMS[owner].write)
            found = self._made[owner] = SchemaSerializer(core_schema.any_schema(serialization=written))
        return found


class Formed:
    """Base of what has a JSON form."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        return _core_schema(cls, cls.__name__, lambda found: isinstance(found, cls), f"histstore.{cls.__name__}")

    @classmethod
    def __get_pydantic_json_schema__(cls, _core_schema: Any, _handler: Any) -> dict[str, Any]:
        return {"title": cls.__name__, **_json_schema(cls)}


class FormedValue(Formed):
    """Base of values that are no JSON values themselves and have a JSON form."""

    __slots__ = ()

    if not TYPE_CHECKING:
        __pydantic_serializer__ = _Serializer()

        @property
        def __dict__(self) -> Any:
            # What FastAPI's jsonable_encoder falls back to: vars(). It takes any JSON value, so a Revision gives text.
            return write(self)


class JsonObject(FormedValue):
    """Base of values whose JSON form is an object."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON values: new dicts and lists, bytes as `{"$bytes": base64}`."""
        found: dict[str, Any] = write(self)
        return found

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read what `to_dict` wrote; ignore unknown fields.

        Args:
            data: The dict that `to_dict` returned, or json.loads() of its JSON text.

        Raises:
            SnapshotError: `data` is not that form. The text names the path.
        """
        found: Self = _FORMS[cls].read(data, cls.__name__)
        return found


class JSONValueForm:
    """What pydantic makes of an annotation `JSONValue`, whose recursion it cannot follow by itself.

    Bytes are `{"$bytes": base64}` in the form; only an object that could be taken for that gains a "$".
    """

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        plain = (dict, list, str, int, float, bool, bytes, type(None))
        return _core_schema(JSONValueForm, "value", lambda found: isinstance(found, plain), None)

    def __get_pydantic_json_schema__(self, _core_schema: Any, _handler: Any) -> dict[str, Any]:
        return _json_schema(JSONValueForm)

    def __repr__(self) -> str:
        return "JSONValueForm()"
