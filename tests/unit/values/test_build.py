"""Frozen classes, and objects that the library fills in before it freezes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from histstore import ConversationSnapshot, Revision, Text, ToolCall, UserMessage
from histstore.messages import Reasoning
from histstore.revision import known_revision
from histstore.values.build import frozen, open_twin, trusted


@frozen()
class Point:
    """A point."""

    x: int
    y: int = 0


def test_a_frozen_class_is_a_dataclass_to_its_user_only() -> None:
    """It has the constructor, the equality and the repr of a dataclass, refuses changes, and is no dataclass."""
    point = Point(1)
    assert point == Point(1, 0)
    assert repr(point) == "Point(x=1, y=0)"
    assert not dataclasses.is_dataclass(Point)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2  # type: ignore[misc]


@pytest.mark.parametrize("cls", [Point, Text, ToolCall, UserMessage, Revision, ConversationSnapshot])
def test_an_open_twin_becomes_an_object_of_its_class(cls: type) -> None:
    """Its fields can be set until its class is."""
    made = open_twin(cls)()
    fields = cls.__dict__["__slots__"]
    for name in fields:
        setattr(made, name, None)
    made.__class__ = cls
    assert type(made) is cls
    with pytest.raises(AttributeError):
        setattr(made, fields[0], 1)


@pytest.mark.parametrize(
    ("made", "checked"),
    [
        (trusted(Text, "hi"), Text("hi")),
        (trusted(Reasoning, "why", None), Reasoning("why")),
        (known_revision(3, bytes(16), None, 7, 2, 90), Revision(3, bytes(16), None, 7, 2, 90)),
    ],
    ids=["text", "reasoning", "revision"],
)
def test_what_is_made_without_checks_is_what_the_constructor_makes(made: Any, checked: Any) -> None:
    """Equal, of one type, and with every field set."""
    assert made == checked
    assert type(made) is type(checked)
    assert [getattr(made, name) for name in made.__match_args__] == [
        getattr(checked, name) for name in checked.__match_args__
    ]


def test_a_trusted_object_has_all_of_its_fields() -> None:
    """A missing field is an error of the decoder, and not an object without it."""
    with pytest.raises(ValueError, match="shorter"):
        trusted(Reasoning, "why")
