"""JSON schemas of the forms that `to_dict` writes, for OpenAPI documents and their clients."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "integer", "minimum": 0}
BOOLEAN: Final[Schema] = {"type": "boolean"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
ANYTHING: Final[Schema] = {}


def either(*schemas: Schema) -> Schema:
    """Return the schema of a value that matches one of several."""
    return {"anyOf": list(schemas)}


def optional(schema: Schema) -> Schema:
    """Return the schema of a value or null."""
    return either(schema, {"type": "null"})


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def record(optional: dict[str, Schema] | None = None, /, **required: Schema) -> Schema:
    """Return the schema of an object with these fields. The fields in `optional` may be missing."""
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


def tagged(tag: str, body: Schema) -> Schema:
    """Return the schema of an externally tagged value: an object with one key."""
    return record(**{tag: body}) | {"additionalProperties": False}


def typed(name: str, **fields: Schema) -> Schema:
    """Return the schema of an object whose "type" is `name`."""
    return record(type={"const": name, "type": "string"}, **fields)


REVISION: Final[Schema] = {"type": "string", "pattern": "^[1-9][0-9]{0,15}-[0-9a-f]{32}$"}
RUN_ID: Final[Schema] = {"type": "string", "minLength": 1}

BASE64_SOURCE: Final = typed("base64", media_type=STRING, data=STRING)
URL_SOURCE: Final = typed("url", url=STRING)
FILE_SOURCE: Final = typed("file_id", id=STRING)
SOURCE: Final = either(BASE64_SOURCE, URL_SOURCE, FILE_SOURCE)
RESULT_TEXT: Final = typed("text", text=STRING)
RESULT_IMAGE: Final = typed("image", source=SOURCE)
RESULT_CONTENT: Final = record({"is_error": BOOLEAN}, blocks=array(either(RESULT_TEXT, RESULT_IMAGE)))
TEXT: Final = tagged("Text", record(text=STRING))
IMAGE: Final = tagged("Image", record(source=SOURCE))
DOCUMENT: Final = tagged("Document", record(source=SOURCE))
TOOL_RESULT: Final = tagged("ToolResult", record(call_id=STRING, content=RESULT_CONTENT))
TOOL_CALL: Final = tagged("ToolCall", record(id=STRING, name=STRING, args=ANYTHING))
REASONING: Final = tagged("Reasoning", record({"signature": optional(STRING)}, text=STRING))
REDACTED_REASONING: Final = tagged("RedactedReasoning", record(data=STRING))
USER: Final = tagged("User", record(blocks=array(either(TEXT, TOOL_RESULT, IMAGE, DOCUMENT))))
ASSISTANT: Final = tagged("Assistant", record(blocks=array(either(TEXT, TOOL_CALL, REASONING, REDACTED_REASONING))))
MESSAGE: Final = either(USER, ASSISTANT, tagged("Json", ANYTHING))

META: Final[Schema] = {"type": "object"}
LEASE_INFO: Final = record(holder=STRING, fence=NUMBER, since=TIME, expires_in={"type": "number"})
RUN_INFO: Final = record(
    run_id=RUN_ID,
    revision=optional(REVISION),
    length=NUMBER,
    size=NUMBER,
    meta=META,
    created_at=optional(TIME),
    saved_at=optional(TIME),
    expires_at=optional(TIME),
    lease=optional(LEASE_INFO),
)
SNAPSHOT: Final = record(
    {"meta": META}, version={"const": 1, "type": "integer"}, messages=array(MESSAGE), pinned=array(BOOLEAN)
)
PAGE: Final = record(
    messages=array(MESSAGE), pinned=array(BOOLEAN), start=NUMBER, length=NUMBER, meta=META, revision=REVISION
)
ATTEMPT: Final = record(
    kind={"enum": ["save", "delete"], "type": "string"},
    namespace=STRING,
    run_id=RUN_ID,
    parent=optional(REVISION),
    revision=optional(REVISION),
    fence=optional(NUMBER),
    length=optional(NUMBER),
    size=optional(NUMBER),
    ticket={"type": "string", "pattern": "^[0-9a-f]{32}$"},
    made_at=optional(TIME),
)
