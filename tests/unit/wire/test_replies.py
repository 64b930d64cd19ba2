"""Readings of replies that every call needs."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError, ResponseError

from histstore import RunId
from histstore.protocol.call import read_call
from histstore.protocol.keys import run_keys
from histstore.protocol.run import RunRef
from histstore.wire.replies import check_transaction, is_complete, is_error, last_reply

WHERE = RunRef("ns", RunId("run"), run_keys("ns", "run"))
ABORTED = ResponseError("EXECABORT Transaction discarded because of previous errors.")
CAUSE = ResponseError("OOM command not allowed")


@pytest.mark.parametrize(
    ("replies", "last"),
    [
        ([b"OK", [b"x"]], [b"x"]),
        ([b"OK", CAUSE, ABORTED], CAUSE),
        ([b"OK", ABORTED], ABORTED),
        ([b"OK", CAUSE], CAUSE),
        ([None], None),
    ],
    ids=["a list", "an aborted transaction", "aborted without a cause", "an error", "nothing"],
)
def test_the_reply_that_counts(replies: list[Any], last: Any) -> None:
    """It is the last one, or what made the server abort."""
    assert last_reply(replies) is last or last_reply(replies) == last


def test_an_error_is_known_by_its_first_word() -> None:
    """Other replies are not printed: they may nest too deeply."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert is_error(CAUSE, "OOM")
    assert not is_error(CAUSE, "NOSCRIPT")
    assert not is_error(b"OOM", "OOM")
    assert not is_error(deep, "OOM")
    while deep:
        deep = deep.pop()


def test_a_transaction_is_complete_or_says_why_not() -> None:
    """A foreign type is left to the readers, which report it as damage."""
    call = read_call(WHERE, "load", ("GET", "a"), ("GET", "b"))
    assert call.relaxed is not None
    wrong = ResponseError("WRONGTYPE Operation against a key")
    assert is_complete([b"x", None], call.relaxed)
    assert not is_complete([b"x"], call.relaxed)
    assert not is_complete([b"x", wrong], call.relaxed)
    check_transaction(call, [b"x", wrong])
    with pytest.raises(ResponseError, match="OOM"):
        check_transaction(call, [wrong, CAUSE])
    for reply in ([], [b"x"], b"OK", None):
        with pytest.raises(ConnectionError, match="no Redis server"):
            check_transaction(call, reply)
