"""The hook that telemetry uses: an `Observer` sees each call to the server, and each of its tries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["answered", "failed", "unknown", "cancelled", "closed"]
"""How a call or a try ended.

- "answered": The server answered. A refusal by a script is an answer, too: see `Event.answer`.
- "failed": An error was raised, and nothing was written. A try that failed may be followed by another.
- "unknown": The call may have been applied: OutcomeUnknownError.
- "cancelled": The caller was cancelled or interrupted. A write that was sent may still be applied.
- "closed": The backend was closed.
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One moment of a call to the server: it started, a try ended, or the call finished.

    One public call, `load` for example, may make several calls to the server. No event holds a message's content, a key
    or a password; an `error` may quote the server.

    Attributes:
        call: A number that the events of one call share. It is unique in the process.
        name: What it does: "save", "load", "acquire" (for a lock or a turn), "renew", "release" and so on.
        operation: The script that runs, or the first command where there is none: "save", "MULTI", "SCAN".
        run: The namespace and the run id, or None for a call about no single run.
        server: The server's address: host and port, or the path of its socket.
        tries: Number of tries so far, this one included.
        bytes_sent: Bytes of the commands' arguments, counted once for each try. The protocol's framing is not counted.
        bytes_received: Bytes of the answer's values. The protocol's framing is not counted.
        outcome: How the call or the try ended, or None when it starts.
        answer: The script's answer ("saved", "conflict", "locked" and so on), or the code of the server's error
            ("READONLY"), or None where there is neither.
        error: The error that the call raises, or that the try failed with; None if there is none.
        seconds: Duration of the try (in `tried`) or of the whole call with its pauses (in `finished`), in seconds.
    """

    call: int
    name: str
    operation: str
    run: tuple[str, str] | None
    server: str
    tries: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    outcome: Outcome | None = None
    answer: str | None = None
    error: BaseException | None = None
    seconds: float = 0.0


class Observer:
    """Base class of observers. Each method does nothing; override those that you need.

    A backend calls them in the task or thread of the call, so context variables are the caller's. They must be fast and
    must not block: the call waits for them. They may be called by several threads at once. An exception that one raises
    does not reach the call. It is logged, once for each backend. In the blocking twin that includes an exception of a
    signal handler that interrupts an observer, except KeyboardInterrupt and its like.
    """

    def started(self, event: Event) -> None:
        """Receive the start of a call."""

    def tried(self, event: Event) -> None:
        """Receive the end of a try. The lock or the write that it belongs to may be tried again."""

    def finished(self, event: Event) -> None:
        """Receive the end of a call, whatever ended it. It comes exactly once for each `started`."""
