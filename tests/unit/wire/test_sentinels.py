"""What sentinels say, and what their failures mean together."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from histstore.wire.faults import OpeningError, OpeningTimeoutError, classify, mistake
from histstore.wire.opening import USE_PLAIN, USE_TLS
from histstore.wire.sentinels import Answer, concerns, questions, read_answer, unfound

NAMED = [b"10.0.0.1", b"6379"]
MASTER = [b"name", b"main", b"config-epoch", b"7", b"num-other-sentinels", b"2"]
DENIED = ResponseError("NOPERM this user has no permissions to run the 'sentinel|master' command")


@pytest.mark.parametrize(
    ("replies", "epoch"),
    [
        ([NAMED, MASTER], 7),
        ([NAMED, DENIED], 0),
        ([NAMED, [b"name", b"main"]], 0),
        ([NAMED, [b"config-epoch", b"many"]], 0),
        ([NAMED, [b"config-epoch"]], 0),
        ([NAMED, None], 0),
    ],
)
def test_an_answer(replies: list[Any], epoch: int) -> None:
    assert read_answer(replies, 0) == Answer(("10.0.0.1", 6379), epoch)


def test_the_questions_name_the_service() -> None:
    assert [command[2] for command in questions("main")] == ["main", "main"]


@pytest.mark.parametrize(
    ("replies", "text", "final"),
    [
        ([None, ResponseError("ERR No such master with that name")], "knows no such service", False),
        ([[], MASTER], "knows no such service", False),
        ([[b"10.0.0.1", b"x"], MASTER], "knows no such service", False),
        ([b"OK", MASTER], "knows no such service", False),
        ([ResponseError("ERR unknown command 'SENTINEL', with args beginning with"), MASTER], "SENTINEL", True),
        ([ResponseError("ERR unknown command `SENTINEL`, with args beginning with"), MASTER], "SENTINEL", True),
        ([ResponseError("NOAUTH Authentication required."), MASTER], "NOAUTH", True),
    ],
)
def test_what_is_no_answer(replies: list[Any], text: str, final: bool) -> None:
    with pytest.raises((OpeningError, ResponseError), match=text) as caught:
        read_answer(replies, 0)
    assert classify(caught.value, sent=False).retry is not final


def test_a_sentinel_without_enough_others_does_not_count() -> None:
    assert read_answer([NAMED, MASTER], 2).epoch == 7
    for details in (MASTER, DENIED):
        with pytest.raises(OpeningError, match="fewer than 3"):
            read_answer([NAMED, details], 3)


@pytest.mark.parametrize(
    ("message", "about"),
    [
        ([b"message", b"+switch-master", b"main 10.0.0.1 1 10.0.0.2 2"], True),
        ([b"message", b"+switch-master", b"mainly 10.0.0.1 1 10.0.0.2 2"], False),
        ([b"message", b"+switch-master", b""], False),
        ([b"subscribe", b"+switch-master", 1], False),
        (ResponseError("NOPERM"), False),
        (None, False),
    ],
)
def test_which_announcements_matter(message: Any, about: bool) -> None:
    assert concerns(message, "main") is about


def test_failures_are_told_together() -> None:
    """Each cause once, with the sentinels that have it; a mistake decides whether to try again."""
    down = RedisConnectionError("connection refused")
    error = unfound("main", [(("a", 1), down), (("b", 2), down), (("c", 3), OpeningError("it knows no such service"))])
    assert (
        str(error)
        == "no sentinel names the primary of 'main' (a:1, b:2: connection refused; c:3: it knows no such service)"
    )
    assert classify(error, sent=False).passing
    wrong = OpeningError("log-in (c:3): WRONGPASS", mistake("check the password"))
    error = unfound("main", [(("a", 1), down), (("c", 3), wrong)])
    fault = classify(error, sent=False)
    assert not fault.retry
    assert "sentinel_password" in fault.advice
    assert "(a:1: connection refused; c:3: WRONGPASS)" in str(error)
    assert classify(unfound("main", []), sent=False).passing


def test_nothing_but_timeouts_is_a_timeout() -> None:
    """The runner then prefers the failure of an earlier try, which had more time."""
    late = RedisTimeoutError("no answer within 0.01 s")
    down = RedisConnectionError("connection refused")
    assert isinstance(unfound("main", [(("a", 1), late), (("b", 2), late)]), OpeningTimeoutError)
    assert isinstance(unfound("main", [(("a", 1), late), (("b", 2), down)]), OpeningError)


@pytest.mark.parametrize(("advice", "option"), [(USE_PLAIN, "sentinel_ssl=false"), (USE_TLS, "sentinel_ssl=true")])
def test_sentinels_with_and_without_tls(advice: str, option: str) -> None:
    """The servers may differ from them, so the URL's scheme is not the remedy."""
    error = unfound("main", [(("a", 1), OpeningError("log-in (a:1): the wrong one", mistake(advice)))])
    assert option in classify(error, sent=False).advice
