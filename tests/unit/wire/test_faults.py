"""What each failure says about a request, row by row."""

from __future__ import annotations

import re

import pytest
import redis.exceptions as redis_errors

from histstore.protocol.scripts import ALL
from histstore.wire.faults import FAULTS, UNDECLARED, Fault, OpeningError, UndoneError, classify, describe

LATER, NEVER = Fault(definite=True, retry=True), Fault(definite=True, retry=False)
UNKNOWN = Fault(definite=False, retry=True)

# What real servers say, and what it means for a request that was sent.
ROWS: list[tuple[str, Fault]] = [
    ("NOSCRIPT No matching script. Please use EVAL.", LATER),
    ("READONLY You can't write against a read only replica.", LATER),
    ("MOVED 3999 127.0.0.1:6381", LATER),
    ("ASK 3999 127.0.0.1:6381", LATER),
    ("LOADING Redis is loading the dataset in memory", LATER),
    ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", LATER),
    ("CLUSTERDOWN The cluster is down", LATER),
    ("TRYAGAIN Multiple keys request during rehashing of slot", LATER),
    ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", LATER),
    ("NOREPLICAS Not enough good replicas to write.", LATER),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", LATER),
    ("OOM command not allowed when used memory > 'maxmemory'.", LATER),
    ("ERR max number of clients reached", LATER),
    ("ERR max number of clients + cluster connections reached", LATER),
    ("NOAUTH Authentication required.", NEVER),
    ("WRONGPASS invalid username-password pair or user is disabled.", NEVER),
    ("NOPERM this user has no permissions to run the 'evalsha' command", NEVER),
    ("ERR unknown command 'MULTI', with args beginning with: ", NEVER),
    ("ERR unknown command `MULTI`, with args beginning with: ", NEVER),
    ("ERR unknown command 'WAITAOF', with args beginning with: '1' '0' '1'", NEVER),
    ("WAITAOF, for Durability(fsync=True): ERR unknown command 'WAITAOF'", NEVER),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", NEVER),
    ("WRONGTYPE Operation against a key script: 4ca238, on @user_script:1.", NEVER),
    ("CROSSSLOT Keys in request don't hash to the same slot", NEVER),
    ("DENIED Redis is running in protected mode because protected mode is enabled and no password is set", NEVER),
    ("UNBLOCKED client unblocked via CLIENT UNBLOCK", UNKNOWN),
    ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", UNKNOWN),
    # Inside a script a server says these at its first write or not at all. Redis 6 wraps them.
    ("OOM command not allowed when used memory > 'maxmemory'. script: 4ca238, on @user_script:1.", LATER),
    ("READONLY You can't write against a read only replica. script: 4ca238, on @user_script:9.", LATER),
    ("MISCONF Redis is configured to save RDB snapshots script: 4ca238, on @user_script:9.", LATER),
    ("NOREPLICAS Not enough good replicas to write. script: 4ca238, on @user_script:9.", LATER),
    ("ERR Error running script (call to f_4ca238): @user_script:1: -OOM command not allowed", LATER),
    ("ERR Error running script (call to f_4ca238): @user_script:12: -READONLY You can't write", LATER),
    ("ERR Can not execute the command on a stale replica script: 4ca238, on @user_script:9.", LATER),
    # The first command of save.lua, and no later one, may be refused so: Redis 8, Dragonfly, an older Dragonfly.
    (
        "ERR Unable to execute command 'exists' in script because undeclared keys were accessed during rehashing of "
        "the slot script: 4ca238, on @user_script:41.",
        LATER,
    ),
    (
        "ERR Error running script (call to 4ca238): @user_script:41: script tried accessing undeclared key, key: k",
        NEVER,
    ),
    ("Error running script (call to 4ca238): @user_script:41: script tried accessing undeclared key", NEVER),
    # A script may have removed the key itself, after other writes: Redis 6.2, 7.0 and Valkey 9.
    (
        "ERR Error running script (call to f_4ca238): @user_script:1: @user_script: 1: Lua script attempted to access "
        "a non local key in a cluster node",
        UNKNOWN,
    ),
    ("ERR Script attempted to access a non local key in a cluster node script: 4ca238, on @user_script:1.", UNKNOWN),
    ("ERR Attempted to access a non local key in a cluster node script: on @user_script:1.", UNKNOWN),
    # From the middle of a script, which does not roll back: not known.
    ("ERR Error running script (call to f_4ca238): @user_script:1: -NOPERM this user has no permissions", UNKNOWN),
    ("BUSY somebody's words script: 4ca238, on @user_script:9.", UNKNOWN),
    ("NOPERM this user has no permissions script: 4ca238, on @user_script:9.", UNKNOWN),
    ("ERR user_script:7: attempt to compare nil with number", UNKNOWN),
    ("ERR Error running script (call to f_4ca238): @user_script:1: oops", UNKNOWN),
    ("ERR something new", UNKNOWN),
    ("NOVELTY of a later server", UNKNOWN),
]


@pytest.mark.parametrize(("text", "fault"), ROWS)
def test_error_replies(text: str, fault: Fault) -> None:
    """Each reply of a server to a request that was sent."""
    assert classify(redis_errors.ResponseError(text), sent=True) == fault


UNDONE: list[tuple[str, Fault]] = [
    ("READONLY You can't write against a read only replica.", LATER),
    ("@user_script: 12: -READONLY You can't write against a read only replica.", LATER),
    ("OOM command not allowed when used memory > 'maxmemory'.", LATER),
    ("ERR The ID specified in XADD is equal or smaller than the target stream top item", LATER),
    ("@user_script: 41: Lua script attempted to access a non local key in a cluster node", LATER),
    ("ERR Script attempted to access a non local key in a cluster node", LATER),
    ("ERR Attempted to access a non local key in a cluster node", LATER),
    ("ERR Unable to execute command 'del' in script because undeclared keys were accessed during rehashing", LATER),
    ("script tried accessing undeclared key, key: k", NEVER),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", NEVER),
    # A command, and a key, in the words of Redis 6, Redis 7 and Valkey.
    ("@user_script: 1: The user executing the script can't run this command or subcommand", NEVER),
    ("@user_script: 1: The user executing the script can't access at least one of the keys mentioned", NEVER),
    ("ERR The user executing the script can't run this command or subcommand", NEVER),
    ("ERR The user executing the script can't access at least one of the keys mentioned", NEVER),
    ("ERR ACL failure in script: User u has no permissions to run the 'ltrim' command", NEVER),
    ("ERR ACL failure in script: No permissions to access a key", NEVER),
]


@pytest.mark.parametrize(("text", "fault"), UNDONE)
def test_what_a_script_undid(text: str, fault: Fault) -> None:
    """What failed between a script's writes was undone, so it is definite; only what somebody must change is final."""
    for sent in (False, True):
        assert classify(UndoneError(text), sent=sent) == fault


@pytest.mark.parametrize(("text", "fault"), ROWS)
def test_error_replies_before_the_request(text: str, fault: Fault) -> None:
    """The same while connecting: no request was sent, so it is definite whatever it says."""
    assert classify(redis_errors.ResponseError(text), sent=False).definite is True
    if fault.definite:
        assert classify(redis_errors.ResponseError(text), sent=False) == fault


def test_every_row_of_the_table_is_tested_here() -> None:
    """A new row needs a server's text above, and each row means what its text was found to mean."""
    assert {words for words in FAULTS if not any(text.startswith(words) for text, _ in ROWS)} == set()
    for words, fault in FAULTS.items():
        assert classify(redis_errors.ResponseError(words), sent=True) == fault


@pytest.mark.parametrize("text", [text for text, _ in ROWS + UNDONE])
def test_which_refusals_end_the_connection(text: str) -> None:
    """Those that say that another server may be the right one by now; inside a script as outside of it."""
    error = redis_errors.ResponseError(text)
    words = ("READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED", "stale replica")
    elsewhere = any(word in text for word in words)
    assert classify(error, sent=True).elsewhere is elsewhere
    assert classify(UndoneError(text), sent=True).elsewhere is elsewhere


def test_each_refusal_that_somebody_can_mend_says_how() -> None:
    """What goes by itself, and what is told as damage, needs no advice."""
    assert {words for words, fault in FAULTS.items() if not fault.advice} == {"NOSCRIPT", "TRYAGAIN", "WRONGTYPE"}
    assert all(fault.advice for fault in UNDECLARED.values())


PASSING = {
    "READONLY", "MOVED", "ASK", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY",
    "ERR max number of clients reached", "ERR max number of clients + cluster connections reached",
}  # fmt: skip
MOVING = ("access a non local key", "undeclared keys were accessed")


def test_which_refusals_only_the_deadline_bounds() -> None:
    """States of the server that end without a change of settings."""
    assert {words for words, fault in FAULTS.items() if fault.passing} == PASSING
    assert {words for words, fault in UNDECLARED.items() if fault.passing} == {
        words for words in UNDECLARED if words.startswith(MOVING)
    }


@pytest.mark.parametrize("text", [text for text, _ in ROWS + UNDONE])
@pytest.mark.parametrize("kind", [redis_errors.ResponseError, UndoneError])
@pytest.mark.parametrize("sent", [False, True])
def test_no_try_that_may_have_been_applied_is_repeated_until_the_deadline(
    text: str, kind: type[Exception], sent: bool
) -> None:
    """Each would leave one more copy that may still arrive."""
    fault = classify(kind(text), sent=sent)
    assert not fault.passing or (fault.definite and fault.retry)


SEVERAL = re.compile(r"redis\.call\(\s*'(DEL|EXISTS|UNLINK|TOUCH|MGET|MSET|RENAME|COPY|LMOVE|\w+STORE)'\s*,([^)]*)\)")


def test_one_command_of_the_scripts_names_several_keys_and_is_not_undone() -> None:
    """So its refusal is definite wherever it is told: it is the first command of its script."""
    found = []
    for script in ALL:
        code = re.sub(r"--[^\n]*", "", script.source)
        for match in SEVERAL.finditer(code):
            if len({key.strip() for key in match[2].split(",")}) > 1:
                found.append((script.name, match[1]))
                assert "redis." not in code[: match.start()]
    assert found == [("save", "EXISTS")]


BROKEN = [
    redis_errors.ConnectionError("the server closed the connection"),
    redis_errors.TimeoutError("no answer within 5 s"),
    ConnectionResetError(104, "reset by peer"),
    BrokenPipeError(32, "broken pipe"),
    OSError(113, "no route to host"),
    redis_errors.RedisError("something else"),
]


@pytest.mark.parametrize("error", BROKEN, ids=repr)
def test_broken_connections(error: Exception) -> None:
    """Before the request left, nothing was written; afterwards it may have been. Both may be tried again."""
    assert classify(error, sent=False) == LATER
    assert classify(error, sent=True) == UNKNOWN
    # An outage passes. What redis-py refuses to send does not.
    assert classify(error, sent=False).passing is (type(error) is not redis_errors.RedisError)
    assert classify(error, sent=True).passing is False


def test_a_connection_that_cannot_be_opened_passes_unless_a_setting_is_wrong() -> None:
    """Nothing was sent over it, whatever the request's state says."""
    for sent in (False, True):
        assert classify(OpeningError("connection refused"), sent=sent).passing
        assert not classify(OpeningError("wrong password", FAULTS["WRONGPASS"]), sent=sent).passing


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (redis_errors.NoScriptError("No matching script."), LATER),
        (redis_errors.ReadOnlyError("You can't write"), LATER),
        (redis_errors.MovedError("1 127.0.0.1:1"), LATER),
        (redis_errors.AskError("1 127.0.0.1:1"), LATER),
        (redis_errors.BusyLoadingError("loading"), LATER),
        (redis_errors.MasterDownError("down"), LATER),
        (redis_errors.ClusterDownError("down"), LATER),
        (redis_errors.TryAgainError("again"), LATER),
        (redis_errors.ClusterCrossSlotError("Keys in request"), NEVER),
        (redis_errors.OutOfMemoryError("used memory"), LATER),
        (redis_errors.NoPermissionError("this user has no permissions"), NEVER),
        (redis_errors.AuthenticationError("invalid password"), NEVER),
        (redis_errors.AuthorizationError("not allowed"), NEVER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_redis_py_s_own_classes(error: Exception, fault: Fault) -> None:
    """redis-py cuts the first word off some texts; the class says the same."""
    assert classify(error, sent=False) == fault
    assert classify(error, sent=True) == fault


def test_describe_quotes_no_arguments() -> None:
    """A server quotes the arguments of an unknown command; they may be a conversation."""
    error = redis_errors.ResponseError("ERR unknown command 'X', with args beginning with: 'secret'")
    assert describe(error) == "ERR unknown command 'X'"
    assert describe(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize("end", [f"script: {'4ca2' * 10}, on @user_script:9.", "script: on @user_script:93."])
def test_describe_leaves_out_which_script_it_was(end: str) -> None:
    """The latter is how Valkey 9.1 words it."""
    assert describe(redis_errors.ResponseError(f"READONLY You can't write. {end}")) == "READONLY You can't write."
