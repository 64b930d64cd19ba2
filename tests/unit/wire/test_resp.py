"""What is packed, and what of a server's words is accepted, however it is cut up."""

from __future__ import annotations

import random
import resource
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
from redis.exceptions import ConnectionError, ResponseError

from histstore.wire import resp
from histstore.wire.resp import Replies, pack

SOUND = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":-12\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"+*99999999\r\n",
    b"*2\r\n$5\r\nsaved\r\n$13\r\n1764000000000\r\n",
    b"*2\r\n*3\r\n$1\r\n1\r\n:5\r\n$-1\r\n*1\r\n*2\r\n$3\r\n0-1\r\n*2\r\n$1\r\nb\r\n$2\r\n\r\n\r\n",
    b"*1\r\n*1200\r\n" + b":1\r\n" * 1200,
]
# Values that look like what is refused: at their beginning, at their end, all through, and as a line of their own.
SOUND += [
    b"$%d\r\n%s\r\n" % (len(value), value)
    for value in (
        b"", b"*2147483647\r\n", b"x\n*999999999\r\n\r\n", b"\n>99999999\r\n", b"*99999999", b"\r\n*4000\r\n" * 9,
        b"~99999999\r\n*99999999\r\n....", b"*9\r\n*99\r\n*999\r\n*9999", b">1234 is quoted\n* 5\n*6789",
    )
]  # fmt: skip
# Small enough to cost little where they are not refused.
HUGE = [kind + digits for kind in (b"*", b"~", b">") for digits in (b"10000000", b"20000000", b"99999999")]
HUGE += [b"*2147483647", b"*4294967295", b"*99999999999999999999", b">1000", b"~1000", b"\r\n".join([b"*1000"] * 5)]


def read(replies: Replies, data: bytes, sizes: list[int]) -> list[Any]:
    found: list[Any] = []
    at = 0
    while at < len(data):
        size = sizes.pop() if sizes else len(data)
        found += replies.read(data[at : at + size])
        at += size
    return found


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def plain(data: bytes) -> list[Any]:
    reader = hiredis.Reader(replyError=ResponseError)
    reader.feed(data)
    return list(iter(reader.gets, False))


def test_long_arrays_come_again_and_again() -> None:
    """One in each reply, over one connection: however they are cut, none counts for the next."""
    rng = random.Random(1)
    data = b"+OK\r\n*2\r\n*1\r\n:1\r\n*2000\r\n" + b"$1\r\nx\r\n" * 2000
    for sizes in ([], [len(data)] * 30, [rng.randrange(1, 9000) for _ in range(1000)]):
        assert len(read(Replies(), data * 30, sizes)) == 60


def same(found: list[Any], wanted: list[Any]) -> bool:
    return repr(found) == repr(wanted)


def test_replies_are_what_hiredis_reads_wherever_they_are_cut() -> None:
    """Also where values look like headers of huge arrays."""
    for seed in range(3000):
        rng = random.Random(seed)
        data = b"".join(rng.choices(SOUND, k=rng.randrange(1, 6)))
        sizes = [rng.randrange(1, 1 + rng.choice((1, 3, 20, 200))) for _ in range(len(data))]
        assert same(read(Replies(), data, sizes), plain(data)), (seed, data)


@pytest.fixture
def traced() -> Iterator[None]:
    """Count what is allocated, for `tracemalloc.get_traced_memory()`."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("header", HUGE)
def test_an_array_that_announces_millions_is_refused(header: bytes) -> None:
    """Before hiredis makes room for it: at the top, in an array, behind other replies, and cut anywhere."""
    for before in (b"", b"*2\r\n", b"+OK\r\n+QUEUED\r\n*2\r\n*1\r\n$1\r\na\r\n", b"*3\r\n$12\r\n*99999999\r\n.\r\n"):
        data = before + header + b"\r\n"
        for cut in range(1, len(data) + 1):
            replies = Replies()
            with pytest.raises(ConnectionError, match="no Redis server"):
                read(replies, data, [len(data), cut])
    assert tracemalloc.get_traced_memory()[1] < 4_000_000


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400\r\n", b"%1\r\n*0\r\n+a\r\n", b"*1\r\n" * 2000, b"$-5\r\n", b"*-5\r\n", b":" + b"9" * 5000 + b"\r\n",
     b",1e400\r\n", b"#x\r\n", b"=1\r\na\r\n", b"\x00\r\n"],
)  # fmt: skip
def test_nonsense_is_told_as_such(data: bytes) -> None:
    """Whatever hiredis, or the values that it makes, raise."""
    with pytest.raises(ConnectionError, match="no Redis server"):
        Replies().read(data)


def test_a_reply_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on and on is refused, and replies of any number that end are not."""
    monkeypatch.setattr(resp, "MAX_REPLY", 100_000)
    replies = Replies()
    for _ in range(50):
        assert len(read(replies, b"$9000\r\n" + b"x" * 9000 + b"\r\n", [1000, 1000, 1000])) == 1
    with pytest.raises(ConnectionError, match="100,000 bytes"):
        read(replies, b"$2000000000\r\n" + b"x" * 200_000, [5000] * 50)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it reads what Linux says of memory")
@pytest.mark.parametrize("end", [b"x" * 5000, b"\r\n*2147483647\r\n", b"\r\n?\r\n"])
def test_what_was_refused_is_freed(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors of all tries are kept for a while, and what was read for them must not be."""
    monkeypatch.setattr(resp, "MAX_REPLY", 4_000_000)
    value = b"x" * 3_999_000
    data = b"*2\r\n$%d\r\n%s%s" % (len(value), value, end)
    before, kept = _resident(), []
    for _ in range(20):
        with pytest.raises(ConnectionError) as caught:
            read(Replies(), data, [50_000] * 100)
        kept.append(caught.value)
    assert _resident() - before < 40_000_000, "80 MB were read"


def test_commands_of_one_word_are_packed_once() -> None:
    """What is sent is what hiredis packs."""
    commands: list[tuple[str | bytes, ...]] = [("MULTI",), ("HMGET", b"key", "field", b"\xff"), ("EXEC",), ("PING",)]
    for _ in range(2):
        assert pack(commands) == b"".join(map(hiredis.pack_command, commands))  # type: ignore[arg-type]
