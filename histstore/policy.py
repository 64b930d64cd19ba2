"""The public policies: how often a call tries, and how durable a save has to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import BackendUnavailableError, SnapshotError
from .protocol.saves import RELIABLE


def _check_seconds(value: Any, name: str, minimum: float, *, exclusive: bool = False) -> None:
    if (
        type(value) not in (int, float)
        or not math.isfinite(value)
        or value < minimum
        or (exclusive and value == minimum)
    ):
        bound = f"more than {minimum:g}" if exclusive else f"{minimum:g} or more"
        raise SnapshotError(f"{name} is a number of seconds, {bound}")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limit how often, and for how long, a call tries again when the server fails it.

    Some failures pass, and have surely written nothing: the server is down, loading its data, a replica, busy or full
    of clients, or a slot moves. They are repeated until the deadline, so a call outlasts a failover. Other failures
    that may help to repeat, a lost reply for example, count as attempts.

    Attributes:
        attempts: Number of tries that may fail, the first included. Tries that end in a failure that passes do not
            count. With 1, the call makes one try, and repeats it after no failure at all.
        deadline: Seconds after which no try begins and no try is waited for. At most 840: a server remembers the
            outcome of a write for 15 minutes.
        base: Upper bound of the first pause in seconds. The bound doubles with each further pause.
        cap: Upper bound of every pause in seconds; 0.5 if that is less, after a failure that passes. Pauses are
            jittered over their whole length. From try number `attempts` on, each is 0.1 seconds at least, so a call
            makes ten tries a second at most during an outage.

    Raises:
        SnapshotError: A value is out of range.
    """

    attempts: int = 6
    deadline: float = 30.0
    base: float = 0.05
    cap: float = 2.0

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or self.attempts < 1:
            raise SnapshotError("RetryPolicy.attempts is a whole number from 1")
        _check_seconds(self.deadline, "RetryPolicy.deadline", 0, exclusive=True)
        if self.deadline > RELIABLE:
            raise SnapshotError(
                f"RetryPolicy.deadline is at most {RELIABLE:g} seconds, as long as servers surely remember what became "
                "of a write: to try for longer, catch the error and call again"
            )
        _check_seconds(self.base, "RetryPolicy.base", 0)
        _check_seconds(self.cap, "RetryPolicy.cap", 0)


def policy_of(given: object, default: RetryPolicy) -> RetryPolicy:
    """Return the policy that a call's `retry=` names, or the default for None.

    Raises:
        SnapshotError: It is neither a policy nor None.
    """
    if given is None:
        return default
    if not isinstance(given, RetryPolicy):
        raise SnapshotError(f"retry= is a RetryPolicy or None, not a {type(given).__name__}")
    return given


class Budget:
    """Share one policy's deadline between the requests of a call that sends several.

    Attributes:
        policy: The policy.

    Args:
        policy: The policy.
        name: Name of the call, for error texts.
        clock: Returns the time in seconds.
    """

    __slots__ = ("_clock", "_end", "_name", "policy")

    def __init__(self, policy: RetryPolicy, name: str, clock: Callable[[], float]) -> None:
        self.policy = policy
        self._name = name
        self._clock = clock
        self._end = clock() + policy.deadline

    def left(self) -> float:
        """Return the seconds that remain for the next request.

        Raises:
            BackendUnavailableError: The deadline has passed.
        """
        left = self._end - self._clock()
        if left <= 0:
            raise BackendUnavailableError(
                f"{self._name}: not done within {self.policy.deadline:g} s; nothing was written, repeating is safe: "
                "give it a RetryPolicy with a longer deadline if the conversation is large or the server slow"
            )
        return left


@dataclass(frozen=True, slots=True)
class Durability:
    """Name the confirmations that a save waits for after the primary has applied it.

    Attributes:
        replicas: Number of replicas that must have received the save.
        fsync: Whether the primary must have the save on disk. The command is WAITAOF, which needs Redis 7.2 or
            Valkey 7.2. As many replicas as `replicas` says must have it on disk as well.
        timeout: Timeout in seconds; then the save raises NotReplicatedError.

    Raises:
        SnapshotError: A value is out of range.
    """

    replicas: int = 0
    fsync: bool = False
    timeout: float = 1.0

    def __post_init__(self) -> None:
        if type(self.replicas) is not int or self.replicas < 0:
            raise SnapshotError("Durability.replicas is a whole number from 0")
        if type(self.fsync) is not bool:
            raise SnapshotError("Durability.fsync is True or False")
        # WAIT reads 0 milliseconds as "without a timeout".
        _check_seconds(self.timeout, "Durability.timeout", 0.001)

    @property
    def wanted(self) -> int:
        """The number of copies that must confirm a save, the primary's disk included."""
        return self.replicas + int(self.fsync)

    def command(self) -> tuple[str, ...]:
        """Return the command that waits for the confirmations."""
        milliseconds = str(math.ceil(self.timeout * 1000))
        if self.fsync:
            return ("WAITAOF", "1", str(self.replicas), milliseconds)
        return ("WAIT", str(self.replicas), milliseconds)

    def copies(self, reply: Any) -> int:
        """Return how many of the wanted copies a reply to `command` confirms, or 0 if the reply was lost.

        A surplus replica does not count in place of the primary's own disk.
        """
        match reply:
            case [int(local), int(replicas)]:
                return min(local, int(self.fsync)) + min(replicas, self.replicas)
            case int(replicas):
                return min(replicas, self.replicas)
        return 0
