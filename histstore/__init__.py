"""Agent conversations in Redis or Valkey, saved exactly once. The blocking twin is `histstore.sync`."""

from typing import TYPE_CHECKING

from .attempt import Attempt
from .errors import (
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    CorruptSnapshotError,
    HistoryStoreError,
    LeaseLostError,
    LockedError,
    LockError,
    LockTimeoutError,
    NotReplicatedError,
    OutcomeUnknownError,
    RevisionGoneError,
    SnapshotError,
    SnapshotTooLargeError,
    UnsupportedVersionError,
)
from .info import LeaseInfo, Page, RunInfo
from .messages import (
    AssistantBlock,
    AssistantMessage,
    Base64Source,
    Document,
    FileSource,
    Image,
    JSONValue,
    Message,
    Reasoning,
    RedactedReasoning,
    Source,
    Text,
    ToolCall,
    ToolResult,
    ToolResultContent,
    ToolResultImage,
    ToolResultText,
    UrlSource,
    UserBlock,
    UserMessage,
)
from .observe import Event, Observer
from .revision import ANY, KEEP, SEEN, Expect, Keep, Revision, RunId
from .snapshot import ConversationSnapshot

if TYPE_CHECKING:
    from ._async.backend import RedisBackend
    from ._async.json_file import JsonFileHistoryStore
    from ._async.leases.lease import Lease
    from ._async.memory import InMemoryHistoryStore
    from ._async.store import RedisHistoryStore
    from ._async.trait import HistoryStore
    from ._async.turn import Turn
    from .formats.jsonable import jsonable
    from .policy import Durability, RetryPolicy
else:
    # Imported when they are first used, because they need redis-py and asyncio, which load a hundred more modules.
    # A program that uses only the values, or only histstore.sync, never loads the asyncio shell.
    _LAZY = {
        "Durability": "policy",
        "HistoryStore": "_async.trait",
        "InMemoryHistoryStore": "_async.memory",
        "JsonFileHistoryStore": "_async.json_file",
        "Lease": "_async.leases.lease",
        "RedisBackend": "_async.backend",
        "RedisHistoryStore": "_async.store",
        "RetryPolicy": "policy",
        "Turn": "_async.turn",
        "jsonable": "formats.jsonable",
    }

    def __getattr__(name):
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        return value

    def __dir__():
        return sorted({*globals(), *_LAZY})


__version__ = "0.1.0"

__all__ = [
    "ANY",
    "KEEP",
    "SEEN",
    "AssistantBlock",
    "AssistantMessage",
    "Attempt",
    "BackendConfigError",
    "BackendError",
    "BackendUnavailableError",
    "Base64Source",
    "ConflictError",
    "ConversationSnapshot",
    "CorruptSnapshotError",
    "Document",
    "Durability",
    "Event",
    "Expect",
    "FileSource",
    "HistoryStore",
    "HistoryStoreError",
    "Image",
    "InMemoryHistoryStore",
    "JSONValue",
    "JsonFileHistoryStore",
    "Keep",
    "Lease",
    "LeaseInfo",
    "LeaseLostError",
    "LockError",
    "LockTimeoutError",
    "LockedError",
    "Message",
    "NotReplicatedError",
    "Observer",
    "OutcomeUnknownError",
    "Page",
    "Reasoning",
    "RedactedReasoning",
    "RedisBackend",
    "RedisHistoryStore",
    "RetryPolicy",
    "Revision",
    "RevisionGoneError",
    "RunId",
    "RunInfo",
    "SnapshotError",
    "SnapshotTooLargeError",
    "Source",
    "Text",
    "ToolCall",
    "ToolResult",
    "ToolResultContent",
    "ToolResultImage",
    "ToolResultText",
    "Turn",
    "UnsupportedVersionError",
    "UrlSource",
    "UserBlock",
    "UserMessage",
    "jsonable",
]
