"""When to try again: the policy, and what each failure says about a request that was sent."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis.exceptions as redis_errors
from tenacity import retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from .errors import BackendUnavailableError, SnapshotError, one_line
from .protocol.requests import RELIABLE


def _seconds(value: Any, name: str, minimum: float, exclusive: bool = False) -> None:
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
    """How often, and for how long, a call tries when the server fails it.

    Attributes:
        attempts: Tries in all, the first included.
        deadline: Seconds after which no further try is made, and no try is waited for. At most 840: a server
            remembers for 15 minutes what became of a write.
        base: Seconds that the first pause is at most; each further pause may be twice as long.
        cap: Seconds that any pause is at most. Pauses are jittered over their whole length.

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
        _seconds(self.deadline, "RetryPolicy.deadline", 0, exclusive=True)
        if self.deadline > RELIABLE:
            raise SnapshotError(
                f"RetryPolicy.deadline is at most {RELIABLE:g} seconds, as long as servers surely remember what became "
                "of a write: to try for longer, catch the error and call again"
            )
        _seconds(self.base, "RetryPolicy.base", 0)
        _seconds(self.cap, "RetryPolicy.cap", 0)


def policy_of(given: object, default: RetryPolicy) -> RetryPolicy:
    """Return the policy that a call's `retry=` names: the default for None.

    Raises:
        SnapshotError: It is neither a policy nor None.
    """
    if given is None:
        return default
    if not isinstance(given, RetryPolicy):
        raise SnapshotError(f"retry= is a RetryPolicy or None, not a {type(given).__name__}")
    return given


class Budget:
    """The time of one call that asks more than once: each request gets what is left of the policy's deadline.

    Attributes:
        policy: The policy.

    Args:
        policy: The policy.
        name: What the call does, for error texts.
        clock: Returns the time, in seconds.
    """

    __slots__ = ("_clock", "_end", "_name", "policy")

    def __init__(self, policy: RetryPolicy, name: str, clock: Callable[[], float]) -> None:
        self.policy = policy
        self._name = name
        self._clock = clock
        self._end = clock() + policy.deadline

    def left(self) -> float:
        """Returns the seconds that are left for what is asked next.

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
    """What a save waits for after it was applied on the primary.

    Attributes:
        replicas: Replicas that must have received it.
        fsync: Whether the primary must have it on disk (WAITAOF: Redis 7.2, Valkey 7.2 and later), and
            as many replicas as `replicas` says.
        timeout: Seconds to wait; then NotReplicatedError.

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
        # WAIT takes 0 milliseconds for "for ever".
        _seconds(self.timeout, "Durability.timeout", 0.001)

    @property
    def wanted(self) -> int:
        """Copies, the primary's disk included, that must confirm a save."""
        return self.replicas + int(self.fsync)

    def command(self) -> tuple[str, ...]:
        """Returns the command that waits."""
        milliseconds = str(math.ceil(self.timeout * 1000))
        if self.fsync:
            return ("WAITAOF", "1", str(self.replicas), milliseconds)
        return ("WAIT", str(self.replicas), milliseconds)

    def copies(self, reply: Any) -> int:
        """Returns how many of the copies wanted a reply to `command` confirms; 0 when its answer was lost.

        A replica more does not stand in for the primary's own disk.
        """
        match reply:
            case [int(local), int(replicas)]:
                return min(local, int(self.fsync)) + min(replicas, self.replicas)
            case int(replicas):
                return min(replicas, self.replicas)
        return 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What a failure says about the request that it answered.

    Attributes:
        definite: The request was certainly not applied.
        retry: Trying again may help.
        elsewhere: Another server may be the right one by now: drop the connections, and look the name up again.
        advice: What somebody has to do about it.
        config: A mistake in the settings of the client or the server, and no outage.
    """

    definite: bool
    retry: bool
    elsewhere: bool = field(default=False, compare=False)
    advice: str = field(default="", compare=False)
    config: bool = field(default=False, compare=False)


_UNKNOWN: Final = Fault(definite=False, retry=True)
_UNSENT: Final = Fault(definite=True, retry=True)


def mistake(advice: str) -> Fault:
    """Return what is said of a request that failed by a mistake in the settings."""
    return Fault(definite=True, retry=False, advice=advice, config=True)


FAULTS: Final[dict[str, Fault]] = {
    # The server refused before it ran anything, and may accept later or elsewhere.
    "NOSCRIPT": Fault(True, True),
    "READONLY": Fault(True, True, True, "the server is a replica: connect to the primary"),
    "MOVED": Fault(True, True, advice="Redis Cluster is not supported: connect to a single server"),
    "ASK": Fault(True, True, advice="Redis Cluster is not supported: connect to a single server"),
    "LOADING": Fault(True, True, True, "wait until the server has loaded its data"),
    "MASTERDOWN": Fault(True, True, True, "the server is a replica without a primary: connect to the primary"),
    "CLUSTERDOWN": Fault(True, True, True, "look at CLUSTER INFO: the cluster serves no keys"),
    "TRYAGAIN": Fault(True, True),
    "MISCONF": Fault(True, True, advice="the server cannot write to its disk: its log says why"),
    "NOREPLICAS": Fault(True, True, advice="connect the replicas that min-replicas-to-write asks for"),
    "BUSY": Fault(True, True, advice="a script of somebody else's runs for too long: SCRIPT KILL ends it"),
    "OOM": Fault(True, True, advice="the server's memory is full: raise maxmemory, or delete runs"),
    "ERR max number of clients reached": Fault(True, True, advice="raise the server's maxclients"),
    # Somebody must change something first.
    "NOAUTH": mistake("give the URL a user and a password"),
    "WRONGPASS": mistake("check the user and the password"),
    "NOPERM": mistake("allow the user what deploy/users.acl lists"),
    "ERR unknown command": mistake("use Redis 6.2, Valkey 7.2 or later, with no command renamed"),
    "WAITAOF": mistake("use Redis 7.2, Valkey 7.2 or later with appendonly yes, or Durability(fsync=False)"),
    # The scripts read every key that they will write before they write any, or undo what they wrote.
    "WRONGTYPE": Fault(True, False),
}
"""First words of a server's error reply, and what they say of a first send.

Whatever is not here is unknown: it may come from the middle of a script, and scripts do not roll back.
"""

_BEFORE_THE_FIRST_WRITE: Final = frozenset({"READONLY", "MISCONF", "NOREPLICAS", "OOM"})
"""Errors that a server raises inside a script at its first write or not at all.

A role, a broken disk and missing replicas do not change while a script runs, and they refuse all of its writes; full
memory refuses none once the script has written.
"""

_STALE: Final = "Can not execute the command on a stale replica"
"""How a server words MASTERDOWN inside a script: for its first read, so nothing was written."""

# Redis 6 wraps what a script raised: "ERR Error running script (call to f_4ca238): @user_script:1: -OOM command not …".
_WRAPPED: Final = re.compile(r"user_script: ?\d+: -?([A-Z]+)\b")

# Valkey 9.1 leaves the digest out: "… script: on @user_script:93."
_QUOTED: Final = re.compile(r", with args beginning| script: (?:[0-9a-f]{40}|on @user_script)")

_NAMED_BY_TYPE: Final[tuple[tuple[type[Exception], str], ...]] = (
    # redis-py cuts the first word off the texts of the errors that it has classes for.
    (redis_errors.NoScriptError, "NOSCRIPT"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.MovedError, "MOVED"),
    (redis_errors.AskError, "ASK"),
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.MasterDownError, "MASTERDOWN"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.TryAgainError, "TRYAGAIN"),
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.AuthenticationError, "NOAUTH"),
    (redis_errors.AuthorizationError, "NOAUTH"),
)


def classify(error: Exception, *, sent: bool) -> Fault:
    """Tells what `error` says about a request.

    Args:
        error: What sending, or reading the answer, raised.
        sent: Whether a byte of the request may have left.
    """
    if isinstance(error, OpeningError | OpeningTimeoutError):
        return error.fault
    for kind, word in _NAMED_BY_TYPE:
        if isinstance(error, kind):
            # Where the first word is still there it says more: one class stands for a missing and for a wrong password.
            said = str(error).split(" ", 1)[0]
            return FAULTS.get(said, FAULTS[word])
    if not isinstance(error, redis_errors.ResponseError):
        return _UNKNOWN if sent else _UNSENT
    text = str(error)
    if "WRONGTYPE" in text:
        # A foreign type is met before a script's first write.
        return FAULTS["WRONGTYPE"]
    if _STALE in text:
        return FAULTS["MASTERDOWN"]
    undone = isinstance(error, UndoneError)
    # An error from inside a script names the script; only what our scripts undo is definite then.
    inside = "script: " in text or "user_script" in text
    wrapped = _WRAPPED.search(text)
    for words, fault in FAULTS.items():
        if (wrapped is not None and wrapped[1] == words) or text.startswith(words):
            if undone or not inside or words == "NOSCRIPT" or words in _BEFORE_THE_FIRST_WRITE:
                return fault
            break
    # Servers word it as NOPERM, "… permissions …", "… can't run this command …" or "… can't access … keys …".
    denied = any(words in text for words in ("NOPERM", "permission", "can't run this command", "can't access"))
    definite = undone or not sent
    if denied:
        return Fault(definite, not definite, advice=FAULTS["NOPERM"].advice)
    return Fault(definite, retry=True)


class OpeningError(redis_errors.ConnectionError):
    """A connection could not be opened. No request was sent over it.

    Attributes:
        fault: Whether another try may help, and what to do.
    """

    def __init__(self, text: str, fault: Fault = _UNSENT) -> None:
        super().__init__(text)
        self.fault = fault


class OpeningTimeoutError(redis_errors.TimeoutError):
    """A connection was not open in time. No request was sent over it.

    Attributes:
        fault: Whether another try may help, and what to do.
    """

    def __init__(self, text: str, fault: Fault = _UNSENT) -> None:
        super().__init__(text)
        self.fault = fault


class UndoneError(redis_errors.ResponseError):
    """A script failed half-way, and undid what it had written."""


def is_damage(error: Exception) -> bool:
    """Tells whether a server's error says that a key holds what histstore did not put there.

    A foreign type says so, and so does a script that cannot reckon with what it read: "attempt to compare nil with …".
    """
    text = str(error)
    return isinstance(error, redis_errors.ResponseError) and (
        "WRONGTYPE" in text or ("user_script" in text and "attempt to " in text)
    )


def describe(error: BaseException) -> str:
    """Returns an error's text without what it may quote of a command, and without a script's digest."""
    return unquoted(str(error)) or type(error).__name__


def unquoted(text: str) -> str:
    """Return a server's text without what it quotes of a command. That may be a password, or content."""
    return _QUOTED.split(text, 1)[0]


_FOLLOWS: Final = re.compile(r"EXECABORT|ERR EXEC without MULTI|ERR DISCARD without MULTI")
"""How servers word what is only the consequence of a refusal before it. Some quote that refusal once more."""

SHOWN: Final = 170
"""Characters that a text shows of a server's message at most, so that the advice after it is never cut."""


def explain(problems: Sequence[Exception], sent: bool) -> str:
    """Returns what failures that have one cause come to: the first one's text, and what to do, each of them once."""
    causes = [problem for problem in problems if not _FOLLOWS.match(str(problem))] or problems
    found = list(dict.fromkeys(describe(problem) for problem in causes))
    advice = dict.fromkeys(classify(problem, sent=sent).advice for problem in causes)
    more = f" (and {len(found) - 1} more of this kind)" if len(found) > 1 else ""
    return ": ".join([one_line(found[0].rstrip("."), SHOWN) + more, *filter(None, advice)])


class RetryableError(Exception):
    """Carries a failure that may be tried again through tenacity."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(str(cause))


def tenacity_options(policy: RetryPolicy, left: float) -> dict[str, Any]:
    """Returns what to give tenacity for the tries after a first one that failed.

    Args:
        policy: The policy.
        left: Seconds until the call has to be over.
    """
    left = max(0.0, left)
    jitter = wait_random_exponential(multiplier=policy.base, max=policy.cap)

    def wait(state: Any) -> float:
        # At most half of what is left, so that a try comes after the pause.
        return float(min(jitter(state), max(0.0, left - state.seconds_since_start) / 2))

    return {
        "stop": stop_after_attempt(policy.attempts) | stop_after_delay(left),
        "wait": wait,
        "retry": retry_if_exception_type(RetryableError),
        "reraise": True,
    }


def listening_options(stop: Callable[[], bool]) -> dict[str, Any]:
    """Returns what to give tenacity for connecting the doorbell: again and again, until `stop` says so."""
    return {
        "stop": lambda _state: stop(),
        "wait": wait_random_exponential(multiplier=0.05, max=2.0),
        "retry": retry_if_exception_type((redis_errors.RedisError, OSError)),
        "reraise": True,
    }
