"""The fault table: what each failure proves about the request that was sent, and what somebody has to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import redis.exceptions as redis_errors

from ..values.text import one_line


@dataclass(frozen=True, slots=True)
class Fault:
    """Describe what a failure proves about the request that it answered.

    Attributes:
        definite: Whether the request was certainly not applied.
        retry: Whether another try may help.
        elsewhere: Whether another server may be the right one by now. The caller then drops its connections, so that
            the next try looks the server's name up again.
        advice: What somebody has to do about it.
        config: Whether a setting of the client or the server is wrong. Such a fault is no outage.
        passing: Whether the server is in a state that ends without a change of settings, a failover for example. The
            policy's deadline bounds the tries that end so, and not its attempts. Only a definite fault may be passing:
            each try after a lost reply leaves one more copy that may still arrive.
    """

    definite: bool
    retry: bool
    elsewhere: bool = field(default=False, compare=False)
    advice: str = field(default="", compare=False)
    config: bool = field(default=False, compare=False)
    passing: bool = field(default=False, compare=False)


_UNKNOWN: Final = Fault(definite=False, retry=True)
_UNSENT: Final = Fault(definite=True, retry=True, passing=True)


def mistake(advice: str) -> Fault:
    """Return the fault of a request that failed because of a wrong setting."""
    return Fault(definite=True, retry=False, advice=advice, config=True)


def passes(advice: str = "", *, elsewhere: bool = False) -> Fault:
    """Return the fault of a request that the server refused for a state that ends."""
    return Fault(definite=True, retry=True, elsewhere=elsewhere, advice=advice, passing=True)


_NO_TRANSACTIONS: Final = mistake("for a sentinel, use redis+sentinel://; a proxy has to let transactions through")

FAULTS: Final[dict[str, Fault]] = {
    # The server refused before it ran anything. Its state changes during and after a failover, or while slots move.
    "READONLY": passes("the server is a replica: connect to the primary", elsewhere=True),
    "MOVED": passes("the servers of the cluster contradict each other: look at CLUSTER NODES"),
    "ASK": passes("the servers of the cluster contradict each other: look at CLUSTER NODES"),
    "LOADING": passes("wait until the server has loaded its data", elsewhere=True),
    "MASTERDOWN": passes("the server is a replica without a primary: connect to the primary", elsewhere=True),
    "CLUSTERDOWN": passes("look at CLUSTER INFO: the cluster serves no keys", elsewhere=True),
    "TRYAGAIN": passes(),
    # The state ends with somebody else's script, usually within seconds. The server answers BUSY to everybody without
    # running anything, so further tries delay no one.
    "BUSY": passes("a script of somebody else's runs for too long: SCRIPT KILL ends it"),
    # The server closes the connection with these words, before it reads a request. Clients come and go.
    "ERR max number of clients reached": passes("raise the server's maxclients"),
    "ERR max number of clients + cluster connections reached": passes(
        "raise the server's maxclients: the connections between the nodes count, too"
    ),
    # The runner has sent the script's source in the same try, so this is a server that forgets scripts at once.
    "NOSCRIPT": Fault(True, True),
    # The server refused before it ran anything, too. These last until somebody acts, and a caller should learn of them
    # long before the deadline.
    "MISCONF": Fault(True, True, advice="the server cannot write to its disk: its log says why"),
    "NOREPLICAS": Fault(True, True, advice="connect the replicas that min-replicas-to-write asks for"),
    "OOM": Fault(True, True, advice="the server's memory is full: raise maxmemory, or delete runs"),
    # Not definite. CLIENT PAUSE holds scripts up. If somebody then unblocks the client, Redis 6.2 and 7.0 answer so and
    # run the script all the same. Its own reply follows later, so the connection must not be used again. A server that
    # becomes a replica ends a WAIT so, and closes the connection.
    "UNBLOCKED": Fault(False, True, True, "CLIENT UNBLOCK, or a change of the server's role, ended a wait"),
    # A retry is useless until somebody changes a setting.
    "NOAUTH": mistake("give the URL a user and a password"),
    "WRONGPASS": mistake("check the user and the password"),
    "NOPERM": mistake("allow the user what deploy/users.acl lists"),
    # Redis 6.2 quotes the command otherwise than later servers do.
    "ERR unknown command 'MULTI'": _NO_TRANSACTIONS,
    "ERR unknown command `MULTI`": _NO_TRANSACTIONS,
    "ERR unknown command": mistake("use Redis 6.2, Valkey 7.2 or later, with no command renamed"),
    # The server compares the slots of the declared keys before it runs a script. The keys of a run share a hash tag.
    "CROSSSLOT": mistake("use a server that honours hash tags: the keys of a run share one, so they share a slot"),
    # Said to a new connection, before the server reads a request.
    "DENIED": mistake("the server is in protected mode: set a password there, or bind it to an address"),
    "WAITAOF": mistake("use Redis 7.2, Valkey 7.2 or later with appendonly yes, or Durability(fsync=False)"),
    # Our scripts read every key before they write any, or they undo their writes.
    "WRONGTYPE": Fault(True, False),
}
"""Faults by the first words of the server's error reply, valid for a request that was sent once.

The outcome of every other error is unknown. The error may come from the middle of a script, and Redis does not roll
scripts back.
"""

_MOVING: Final = passes("wait until the run's slot has moved to another node")
_NOT_HERE: Final = "access a non local key in a cluster node"

UNDECLARED: Final[dict[str, Fault]] = {
    # A key that is not on this node. A key that the script itself has just removed is one, too: release.lua deletes
    # the lease and may grant it anew. Then the script has written, so this is definite only if the script undid it.
    _NOT_HERE: _MOVING,
    # Some keys of one command are here and some are not. Only one command of our scripts names several keys and is not
    # undone: the EXISTS with which save.lua begins.
    "undeclared keys were accessed during rehashing": _MOVING,
    # Dragonfly compares each command with the keys that the script declares, whatever the state of the server. Only
    # save.lua uses undeclared keys, and its first command names them all.
    "script tried accessing undeclared key": mistake("start Dragonfly with --default_lua_flags=allow-undeclared-keys"),
}
"""Faults by a part of the text in which a server refuses a script a key that the script has not declared.

Redis 6.2, Redis 7 and Valkey 9 word the first one differently.
"""

_BEFORE_THE_FIRST_WRITE: Final = frozenset({"READONLY", "MISCONF", "NOREPLICAS", "OOM"})
"""Errors that a server raises inside a script at its first write or not at all.

The server's role, a broken disk and missing replicas do not change while a script runs, and they refuse all of its
writes. Full memory refuses no write of a script that has already written.
"""

_STALE: Final = "Can not execute the command on a stale replica"
"""The wording of MASTERDOWN inside a script. The server refuses the script's first read, so nothing was written."""

# Redis 6 wraps an error that a script raised: "ERR Error running script (call to f_4ca238): @user_script:1: -OOM
# command not …".
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
    (redis_errors.ClusterCrossSlotError, "CROSSSLOT"),
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.AuthenticationError, "NOAUTH"),
    (redis_errors.AuthorizationError, "NOAUTH"),
)


def classify(error: Exception, *, sent: bool) -> Fault:
    """Return what `error` proves about a request.

    Args:
        error: The error from sending the request or from reading its reply.
        sent: Whether a byte of the request may have been sent.
    """
    if isinstance(error, OpeningError | OpeningTimeoutError):
        return error.fault
    for kind, word in _NAMED_BY_TYPE:
        if isinstance(error, kind):
            # The first word, if it is still there, is more precise: a missing and a wrong password share one class.
            first = str(error).split(" ", 1)[0]
            return FAULTS.get(first, FAULTS[word])
    if not isinstance(error, redis_errors.ResponseError):
        if sent:
            return _UNKNOWN
        # Anything else than an outage, a command that cannot be packed for example, does not pass.
        outage = isinstance(error, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError)
        return _UNSENT if outage else replace(_UNSENT, passing=False)
    text = str(error)
    if "WRONGTYPE" in text:
        # A script meets a foreign type before its first write.
        return FAULTS["WRONGTYPE"]
    if _STALE in text:
        return FAULTS["MASTERDOWN"]
    undone = isinstance(error, UndoneError)
    definite = undone or not sent
    for words, fault in UNDECLARED.items():
        if words in text:
            return replace(fault, definite=False, passing=False) if words == _NOT_HERE and not definite else fault
    # An error from inside a script names the script. Then it is definite only if our script has undone its writes.
    inside = "script: " in text or "user_script" in text
    wrapped = _WRAPPED.search(text)
    for words, fault in FAULTS.items():
        if (wrapped is not None and wrapped[1] == words) or text.startswith(words):
            if undone or not inside or words == "NOSCRIPT" or words in _BEFORE_THE_FIRST_WRITE:
                return fault if sent else replace(fault, definite=True)
            break
    # Servers word it as NOPERM, "… permissions …", "… can't run this command …" or "… can't access … keys …".
    denied = any(words in text for words in ("NOPERM", "permission", "can't run this command", "can't access"))
    if denied:
        return Fault(definite, not definite, advice=FAULTS["NOPERM"].advice)
    return Fault(definite, retry=True)


class OpeningError(redis_errors.ConnectionError):
    """Report a connection that could not be opened. No request was sent over it.

    Attributes:
        fault: Whether another try may help, and what to do.
    """

    def __init__(self, text: str, fault: Fault = _UNSENT) -> None:
        super().__init__(text)
        self.fault = fault


class OpeningTimeoutError(redis_errors.TimeoutError):
    """Report a connection that was not open in time. No request was sent over it.

    Attributes:
        fault: Whether another try may help, and what to do.
    """

    def __init__(self, text: str, fault: Fault = _UNSENT) -> None:
        super().__init__(text)
        self.fault = fault


class UndoneError(redis_errors.ResponseError):
    """Report a script that failed half-way and has undone its writes."""


def is_damage(error: Exception) -> bool:
    """Return whether a server's error proves that a key holds something that histstore did not write.

    A foreign type is such an error. So is a script that cannot compute with the value it read: "attempt to compare
    nil with …".
    """
    text = str(error)
    return isinstance(error, redis_errors.ResponseError) and (
        "WRONGTYPE" in text or ("user_script" in text and "attempt to " in text)
    )


def describe(error: BaseException) -> str:
    """Return an error's text without any quoted part of a command and without a script's digest."""
    return unquoted(str(error)) or type(error).__name__


def unquoted(text: str) -> str:
    """Return a server's text without the quoted part of a command, which may be a password or a message."""
    return _QUOTED.split(text, 1)[0]


_FOLLOWS: Final = re.compile(
    r"EXECABORT|ERR (?:EXEC|DISCARD) without MULTI|ERR MULTI calls can ?not be nested"
    r"|ERR Command (?:'\w+' )?not allowed inside a transaction"
)
"""Errors that only follow from an earlier refusal. Some of them quote that refusal once more.

The last two follow from a refused EXEC: the transaction is still open.
"""

SHOWN: Final = 170
"""Longest quotation of a server's message in characters, so that the advice after it is never cut."""


def explain(problems: Sequence[Exception], sent: bool) -> str:
    """Return one text for failures with one cause: the first failure's text, and each piece of advice once."""
    causes = [problem for problem in problems if not _FOLLOWS.match(str(problem))] or problems
    reasons = list(dict.fromkeys(describe(problem) for problem in causes))
    advice = dict.fromkeys(classify(problem, sent=sent).advice for problem in causes)
    more = f" (and {len(reasons) - 1} more of this kind)" if len(reasons) > 1 else ""
    return ": ".join([one_line(reasons[0].rstrip("."), SHOWN) + more, *filter(None, advice)])
