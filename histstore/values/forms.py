"""The JSON forms of values, and how pydantic and FastAPI find them.

The module that defines a form registers it. pydantic is imported only when it asks for a schema.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .base_errors import UnsupportedVersionError

if TYPE_CHECKING:
    from typing import Self


class Form(NamedTuple):
    """How to write a value as JSON, and how to read it.

    Attributes:
        write: Returns the JSON form of a value.
        read: Returns the value of a JSON form; also takes the path for error texts. Raises SnapshotError.
        schema: The name of the form's JSON schema in `schemas`, which is loaded when pydantic asks for one.
    """

    write: Callable[[Any], Any]
    read: Callable[[Any, str], Any]
    schema: str


_FORMS: dict[object, Form] = {}


def register(kind: object, writer: Callable[[Any], Any], reader: Callable[[Any, str], Any], schema: str) -> None:
    """Register the JSON form of the values of a type."""
    _FORMS[kind] = Form(writer, reader, schema)


def write(value: Any) -> Any:
    """Return the JSON form of a value."""
    return _FORMS[type(value)].write(value)


# ---------------------------------------------------------------------------------------- pydantic


def _core_schema(kind: Any, name: str, is_one: Callable[[Any], bool], ref: str | None) -> Any:
    """Return pydantic's schema of a value. It accepts the value or its form, and writes the form."""
    from pydantic_core import PydanticSerializationUnexpectedValue, core_schema

    form = _FORMS[kind]

    def validate(value: Any) -> Any:
        if isinstance(kind, type) and isinstance(value, kind):
            return value
        try:
            return form.read(value, name)
        except UnsupportedVersionError as error:
            raise ValueError(str(error)) from error  # pydantic turns only a ValueError into a ValidationError.

    def serialize(value: Any) -> Any:
        if not is_one(value):
            # In a union, pydantic then tries the next type.
            raise PydanticSerializationUnexpectedValue(f"expected {name}, not {type(value).__name__}")
        return form.write(value)

    written = core_schema.plain_serializer_function_ser_schema(serialize)
    return core_schema.no_info_plain_validator_function(validate, ref=ref, serialization=written)


def _json_schema(kind: object) -> dict[str, Any]:
    from . import schemas

    return dict(getattr(schemas, _FORMS[kind].schema))


class _Serializer:
    """pydantic's serializer for a value in a field of type `Any`. It is made when pydantic asks for it."""

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}

    def __get__(self, instance: object, owner: type) -> Any:
        serializer = self._made.get(owner)
        if serializer is None:
            try:
                from pydantic_core import SchemaSerializer, core_schema
            except ImportError:
                raise AttributeError("__pydantic_serializer__") from None
            written = core_schema.plain_serializer_function_ser_schema(_FORMS[owner].write)
            serializer = self._made[owner] = SchemaSerializer(core_schema.any_schema(serialization=written))
        return serializer


class Formed:
    """Base of everything that has a JSON form."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        return _core_schema(cls, cls.__name__, lambda value: isinstance(value, cls), f"histstore.{cls.__name__}")

    @classmethod
    def __get_pydantic_json_schema__(cls, _core_schema: Any, _handler: Any) -> dict[str, Any]:
        return {"title": cls.__name__, **_json_schema(cls)}


class FormedValue(Formed):
    """Base of values that have a JSON form and are no JSON values themselves."""

    __slots__ = ()

    if not TYPE_CHECKING:
        __pydantic_serializer__ = _Serializer()

        @property
        def __dict__(self) -> Any:
            # FastAPI's jsonable_encoder falls back to vars(). It takes any JSON value, so a Revision may give text.
            return write(self)


class JsonObject(FormedValue):
    """Base of values whose JSON form is an object."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the value as JSON values: new dicts and lists, bytes as `{"$bytes": base64}`."""
        form: dict[str, Any] = write(self)
        return form

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Return the value that `to_dict` wrote. Ignore unknown fields.

        Args:
            data: The dict that `to_dict` returned, or the result of json.loads() for its JSON text.

        Raises:
            SnapshotError: `data` is not that form. The text names the path.
        """
        value: Self = _FORMS[cls].read(data, cls.__name__)
        return value


class JSONValueForm:
    """The form that pydantic uses for the annotation `JSONValue`, whose recursion it cannot follow by itself.

    The form writes bytes as `{"$bytes": base64}`. Only an object that looks like that gains a "$".
    """

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        plain = (dict, list, str, int, float, bool, bytes, type(None))
        return _core_schema(JSONValueForm, "value", lambda value: isinstance(value, plain), None)

    def __get_pydantic_json_schema__(self, _core_schema: Any, _handler: Any) -> dict[str, Any]:
        return _json_schema(JSONValueForm)

    def __repr__(self) -> str:
        return "JSONValueForm()"
