"""The map of slots: what servers say, what is kept, and where a redirection leads."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ResponseError

from histstore import BackendConfigError
from histstore.protocol.keys import run_keys
from histstore.wire.slots import SLOTS, Redirect, SlotMap, checked, redirect_of, slot_of

A, B, C = ("10.0.0.1", 7000), ("10.0.0.2", 7000), ("10.0.0.3", 7000)


def entry(low: int, high: int, *servers: tuple[Any, int]) -> list[Any]:
    return [low, high, *[[host.encode() if isinstance(host, str) else host, port, b"id"] for host, port in servers]]


def test_the_keys_of_a_run_share_a_slot() -> None:
    for run in ("a", "b{c}", "ü", "x" * 300):
        keys = run_keys("n", run)
        assert len({slot_of(key) for key in (keys.head, keys.log, keys.etags, keys.marks, keys.lease, keys.queue)}) == 1


def test_a_map_names_owners_primaries_and_replicas() -> None:
    slots = SlotMap()
    slots.learn([entry(0, 8191, A, C), entry(8192, SLOTS - 1, B)], A, None)
    assert (slots.owner(0), slots.owner(8191), slots.owner(8192), slots.owner(SLOTS - 1)) == (A, A, B, B)
    assert slots.primaries == [A, B]
    assert slots.replicas == [C]


@pytest.mark.parametrize("host", ["", "?", None])
def test_a_server_that_does_not_know_its_host_is_the_one_that_was_asked(host: str | None) -> None:
    slots = SlotMap()
    slots.learn([entry(0, SLOTS - 1, (host, 7001))], A, lambda _address: B)
    assert slots.owner(5) == ("10.0.0.1", 7001)


def test_a_host_map_says_where_servers_are_reached() -> None:
    slots = SlotMap()
    slots.learn([entry(0, SLOTS - 1, A)], C, {A: B}.__getitem__)
    assert slots.owner(5) == B
    assert redirect_of([ResponseError("MOVED 5 10.0.0.1:7000")], C, {A: B}.__getitem__) == Redirect(5, B, asking=False)


def test_no_slot_is_dropped_on_one_servers_word() -> None:
    slots = SlotMap()
    slots.learn([entry(0, 8191, A), entry(8192, SLOTS - 1, B)], A, None)
    slots.learn([entry(0, 8191, C)], C, None)
    assert (slots.owner(0), slots.owner(8192)) == (C, B)
    slots.learn([], A, None)
    assert slots.primaries == [C, B]


@pytest.mark.parametrize(
    "reply",
    [
        b"x",
        5,
        [5],
        [[0]],
        [[0, 1]],
        [[0, SLOTS, [b"h", 1]]],
        [[5, 1, [b"h", 1]]],
        [[0, 5, [b"h", b"x"]]],
        [[0, 5, b"h"]],
    ],
    ids=repr,
)
def test_nonsense_is_no_map(reply: Any) -> None:
    slots = SlotMap()
    slots.learn([entry(0, SLOTS - 1, A)], A, None)
    with pytest.raises(ValueError, match="no cluster"):
        slots.learn(reply, A, None)
    assert slots.owner(0) == A


@pytest.mark.parametrize(
    ("replies", "wanted"),
    [
        ([ResponseError("MOVED 7 10.0.0.2:7000")], Redirect(7, B, asking=False)),
        ([ResponseError("ASK 7 10.0.0.2:7000")], Redirect(7, B, asking=True)),
        ([ResponseError("MOVED 7 :7009")], Redirect(7, ("10.0.0.1", 7009), asking=False)),
        ([ResponseError("MOVED 7 ?:7009")], Redirect(7, ("10.0.0.1", 7009), asking=False)),
        ([ResponseError("MOVED 7 ::1:7009")], Redirect(7, ("::1", 7009), asking=False)),
        ([b"OK", ResponseError("ASK 7 10.0.0.2:7000"), ResponseError("EXECABORT …")], Redirect(7, B, asking=True)),
        ([[b"saved"]], None),
        ([ResponseError("MOVEDX 7 10.0.0.2:7000")], None),
        ([ResponseError("MOVED 99999 10.0.0.2:7000")], None),
        ([ResponseError("MOVED seven 10.0.0.2:7000")], None),
        ([ResponseError("MOVED 7 nowhere")], None),
        ([ResponseError("TRYAGAIN Multiple keys request during rehashing of slot")], None),
        ([b"MOVED 7 10.0.0.2:7000"], None),
    ],
    ids=repr,
)
def test_where_a_redirection_leads(replies: list[Any], wanted: Redirect | None) -> None:
    assert redirect_of(replies, A, None) == wanted


@pytest.mark.parametrize(
    "given",
    [lambda _address: None, lambda _address: ("h",), lambda _address: ("", 1), lambda _address: ("h", "1"),
     lambda _address: ("h", 70000), lambda _address: 1 / 0],
    ids=["None", "one", "no host", "text", "too large", "raises"],
)  # fmt: skip
def test_a_host_map_of_no_use_says_so(given: Any) -> None:
    """Also by whoever asks: no other error leaves."""
    mapped = checked(given)
    assert mapped is not None
    with pytest.raises(BackendConfigError, match=r"host_map= .* for 10\.0\.0\.1:7000: make it return"):
        mapped(A)


def test_a_host_map_is_a_function() -> None:
    assert checked(None) is None
    with pytest.raises(BackendConfigError, match="host_map= is a function"):
        checked("localhost")
