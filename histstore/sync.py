"""The blocking twin of `histstore`: the same names and signatures, without async and await.

Values and errors are the same classes in both. No call starts an event loop. Only `lock` and `turn` start a thread,
which renews leases and waits for them in the background.
"""

from . import __version__ as __version__
from ._sync.backend import RedisBackend
from ._sync.json_file import JsonFileHistoryStore
from ._sync.leases.lease import Lease
from ._sync.memory import InMemoryHistoryStore
from ._sync.store import RedisHistoryStore
from ._sync.trait import HistoryStore
from ._sync.turn import Turn
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
from .formats.jsonable import jsonable
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
from .policy import Durability, RetryPolicy
from .revision import ANY, KEEP, SEEN, Expect, Keep, Revision, RunId
from .snapshot import ConversationSnapshot

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
