"""Messages of every kind, and what it takes to see that they came back as they went in."""

from __future__ import annotations

import math
from typing import Any

from histstore import (
    AssistantMessage,
    Base64Source,
    Document,
    FileSource,
    Image,
    Reasoning,
    RedactedReasoning,
    Text,
    ToolCall,
    ToolResult,
    ToolResultContent,
    ToolResultImage,
    ToolResultText,
    UrlSource,
    UserMessage,
)

ARGS = {"path": "a.txt", "limit": 2**64 - 1, "ratio": 0.1, "raw": b"\x00\xff", "deep": [None, True, -1, {"$x": []}]}

TYPED: list[Any] = [
    UserMessage("hi"),
    UserMessage(""),
    UserMessage([]),
    UserMessage(
        [
            Text("élève 👋\x00"),
            Image(Base64Source("image/png", "iVBORw0KGgo=")),
            Image(UrlSource("https://example.com/a.png")),
            Document(FileSource("file_1")),
        ]
    ),
    AssistantMessage("hello"),
    AssistantMessage(
        [
            Reasoning("think", "sig"),
            Reasoning("", None),
            RedactedReasoning("ZW5j"),
            Text("reading"),
            ToolCall("t1", "read", ARGS),
            ToolCall("t2", "none", None),
            ToolCall("t3", "list", []),
        ]
    ),
    UserMessage(
        [
            ToolResult("t1", "done"),
            ToolResult("t2", ToolResultContent([], is_error=True)),
            ToolResult(
                "t3",
                ToolResultContent([ToolResultText("404"), ToolResultImage(UrlSource("https://e.com/c.png"))], True),
            ),
        ]
    ),
]

PLAIN: list[Any] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "args": "{}"}], "index": 0},
    {},
    {"nested": {"list": [1, 2.5, "x", None, True, False, b"", b"\x00\xff", [], {}]}},
    {"big": 2**64, "bigger": -(2**200), "edge": -(2**64) - 1, "max": 2**63},
    {"zero": 0.0, "minus": -0.0, "int": 0, "no": False, "one": 1, "yes": True, "float": 1.0, "tiny": 5e-324},
    {"$bytes": "aGk="},
    {"$$bytes": "aGk="},
    {"$bytes": 3},
    {"$ref": "x"},
    {"$a": 1, "$b": 2},
    {"": ""},
    "text",
    "",
    b"",
    b"\xff\x00",
    0,
    -0.0,
    0.0,
    True,
    False,
    None,
    1,
    1.0,
    "\u2028\U0001f600\x00\x7f",
]


def faithful(value: Any) -> Any:
    """Returns what two values share only if they are of the same types and values, to the bottom.

    Python calls 1, 1.0 and True equal, and 0.0 and -0.0.
    """
    if isinstance(value, dict):
        return ("dict", [(key, faithful(item)) for key, item in value.items()])
    if isinstance(value, list):
        return ("list", [faithful(item) for item in value])
    if isinstance(value, float):
        return ("float", value, math.copysign(1, value))
    if isinstance(value, (str, bytes, int)) or value is None:
        return (type(value).__name__, value)
    if isinstance(value, tuple):
        return ("tuple", [faithful(item) for item in value])
    fields = value.__match_args__ if hasattr(value, "__match_args__") else value.__slots__
    return (type(value).__name__, [faithful(getattr(value, name)) for name in fields])


def user(number: int, size: int = 0) -> UserMessage:
    """Returns a typed message that says its number, padded to `size` characters."""
    return UserMessage(f"message {number} ".ljust(size, "x"))


def plain(number: int) -> dict[str, Any]:
    """Returns a plain message that says its number."""
    return {"role": "user", "content": f"message {number}"}
