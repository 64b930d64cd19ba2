"""100,000 random and mutated bodies, entries, JSON files, URLs and run ids (row 18).

Each is read as a valid value or refused with the error that is documented for it; nothing hangs, crashes, or takes
memory that its own size does not explain.
"""

from __future__ import annotations

import gc
import random
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from histstore import (
    AssistantMessage,
    ConversationSnapshot,
    Reasoning,
    RedisBackend,
    RunId,
    SnapshotError,
    Text,
    ToolCall,
    UnsupportedVersionError,
    UserMessage,
)
from histstore.log.body import Body, decode_body, encode_body
from histstore.log.entry import read_entry
from histstore.log.header import ABSENT
from histstore.log.message_codec import decode, decode_meta, encode, encode_meta
from histstore.log.unreadable import BrokenChainError
from histstore.protocol.keys import run_keys, run_of_head

from ..support.entries import make_entry

DATA = Path(__file__).parent.parent / "data"
MIB = 1 << 20

BODIES, MESSAGES, ENTRIES, FILES, URLS, NAMES = 40_000, 26_000, 15_000, 10_000, 1_500, 7_500
assert BODIES + MESSAGES + ENTRIES + FILES + URLS + NAMES == 100_000

SAMPLES: list[Any] = [
    UserMessage("hello"),
    AssistantMessage([Text("well"), ToolCall("1", "look", {"a": [1, None, 2.5, b"\xff"]}), Reasoning("hm", "sig")]),
    {"role": "user", "content": [{"type": "text", "text": "grüße"}], "n": -(2**70)},
    "plain",
    b"\x00\x01",
    17,
    None,
]


NASTY = [
    b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",  # an array of 2**63 - 1 items
    b"\x5b\x00\x00\x00\x7f\xff\xff\xff\xff",  # bytes of 512 GiB
    b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x7b\x00\x00\x00\x10\x00\x00\x00\x00",
    b"\x9a\x7f\xff\xff\xff",
    b"\x81" * 3000,
    b"\x9f" * 3000,
    b"\xa1\x61a" * 2000,
    b"\xc2\x59\x0f\xa0" + b"\xff" * 4000,  # a big integer
    b"\xd8\x1c\x81\xd8\x1d\x00",  # a list that holds itself
    b"\xf7",
    b"\xf9\x7e\x00",  # NaN
    b"\xa1\x80\x01",
    b"\xff",
    b"\xc0\x01",
    b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\x7f\x61a\xff",
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Returns random bytes, or `data` with up to four random changes."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(200))
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(7):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = rng.randrange(256)
            case 2:
                del changed[at : at + rng.randrange(20)]
            case 3:
                changed[at:at] = rng.randbytes(rng.randrange(9))
            case 4:
                changed[at:at] = rng.choice(NASTY)
            case 5:
                changed[at:at] = changed[rng.randrange(len(changed) + 1) :][:50]
            case _:
                del changed[at:]
    return bytes(changed)


ENCODED = [encode(sample) for sample in SAMPLES]


def valid_body(rng: random.Random) -> bytes:
    parts = [rng.choice(ENCODED) for _ in range(rng.randrange(5))]
    fills = [(rng.randrange(9), rng.random() < 0.5, rng.choice(ENCODED)) for _ in range(rng.randrange(3))]
    meta = encode_meta({"job": rng.randrange(9)}) if rng.random() < 0.3 else None
    return encode_body(Body(parts, [rng.randrange(5)] if rng.random() < 0.3 else (), meta, fills))


def run_all(seed: str, count: int, one: Callable[[random.Random], bool]) -> None:
    """Runs `one` with seeded numbers; of its two results, value and refusal, both must occur."""
    accepted = 0
    problems: dict[str, str] = {}
    gc.collect()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(count):
        if index == count * 9 // 10:
            tracemalloc.start()  # it trebles the time: the last tenth only
        note = f"{seed} {index}"
        try:
            accepted += one(random.Random(note))
        except Exception as error:
            problems.setdefault(f"{type(error).__name__}: {str(error)[:40]}", f"seed {note!r}: {error!r}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # No input is larger than some KB.
    assert peak < 32 * MIB
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) * 1024 < 256 * MIB
    assert not problems, "\n".join([f"{len(problems)} kinds of problem", *list(problems.values())[:10]])
    assert 0 < accepted < count, f"{accepted} of {count} accepted"


def test_bodies() -> None:
    """A body is parts, pins, meta and fills, or ValueError."""

    def one(rng: random.Random) -> bool:
        data = mutate(rng, valid_body(rng))
        try:
            body = decode_body(data)
        except ValueError:
            return False
        assert all(index >= 0 for index in body.flips)
        assert sum(map(len, body.added)) + sum(len(part) for _, _, part in body.fills) < len(data)
        if body.meta is not None:
            _meta(body.meta)
        _messages([*body.added, *(part for _, _, part in body.fills)])
        return True

    run_all("body", BODIES, one)


def _meta(data: bytes) -> None:
    try:
        meta = decode_meta(data)
    except ValueError:
        return
    assert all(type(key) is str for key in meta)


def _messages(slices: list[Any]) -> bool:
    try:
        found = decode(slices)
    except ValueError:
        return False
    assert len(found) == len(slices)
    for item in found:
        # Of plain values it is the etag that proves that they were checked when they were saved.
        assert type(item) is not list
        if isinstance(item, (UserMessage, AssistantMessage)):
            assert decode([encode(item)]) == [item]
    return True


def test_messages() -> None:
    """Encoded messages are messages, or ValueError; a typed one is one that could be saved again."""

    def one(rng: random.Random) -> bool:
        slices = [rng.choice(ENCODED) for _ in range(rng.randrange(1, 4))]
        at = rng.randrange(len(slices))
        slices[at] = mutate(rng, slices[at])
        return _messages(slices)

    run_all("message", MESSAGES, one)


def test_entries() -> None:
    """A stream entry proves its etag, or is BrokenChainError."""

    def one(rng: random.Random) -> bool:
        body, op, version = valid_body(rng), rng.randbytes(16), rng.randrange(1, 10**6)
        header = make_entry(version, ABSENT, op, (0, 1), 1, 2, 1, 3, 0, body).header.pack()
        item: Any = [f"0-{version}".encode(), [b"h", header, b"t", b"1700000000000", b"b", body]]
        match rng.randrange(8):
            case 0:
                item[0] = mutate(rng, item[0])
            case 1 | 2 | 3:
                item[1][1] = mutate(rng, header)
            case 4 | 5:
                item[1][5] = mutate(rng, body)
            case 6:
                item[1] = item[1][: rng.randrange(6)]
            case _:
                item = rng.choice([None, [], [b"0-1"], [b"0-1", None], b"0-1", 7, [7, item[1]], [item[0], [None] * 6]])
        try:
            entry = read_entry(item)
        except BrokenChainError:
            return False
        assert entry.sound()
        entry.revision()
        return True

    run_all("entry", ENTRIES, one)


def test_json_files() -> None:
    """A JSON file is a snapshot that can be written and read again, or SnapshotError or UnsupportedVersionError."""
    seeds = [path.read_bytes() for path in sorted(DATA.glob("*.json"))]
    plain = [message for message in SAMPLES if not isinstance(message, (UserMessage, AssistantMessage))]
    seeds.append(ConversationSnapshot([*plain, {"$bytes": "x"}], None, {"meta": b"1"}).to_json())
    words = [
        b"null",
        b"NaN",
        b"1e999",
        b"[" * 3000,
        b'{"a":' * 3000,
        b'"\\ud800"',
        b"9" * 5000,
        b"-0.0",
        b"{}",
        b"true",
    ]

    def one(rng: random.Random) -> bool:
        data = rng.choice(seeds)
        if rng.random() < 0.5:
            at = rng.randrange(len(data))
            data = data[:at] + rng.choice(words) + data[at + rng.randrange(12) :]
        else:
            data = mutate(rng, data)
        try:
            snapshot = ConversationSnapshot.from_json(data)
        except (SnapshotError, UnsupportedVersionError):
            return False
        assert ConversationSnapshot.from_json(snapshot.to_json()) == snapshot
        return True

    run_all("file", FILES, one)


def test_urls() -> None:
    """A URL makes a backend, or SnapshotError that does not quote the password."""
    seeds = [
        "redis://localhost:6379/0", "rediss://user:hunter2@host:1/2?ssl_cert_reqs=none", "unix:///tmp/s?db=1",
        "redis://:hunter2@[::1]:6380/3?socket_timeout=2&max_connections=7&health_check_interval=3",
        "redis://u:hunter2@h?protocol=3&client_name=x&retry_on_timeout=yes",
    ]  # fmt: skip
    words = [
        "://",
        "%",
        "%zz",
        "%00",
        "[",
        "]",
        "@",
        ":",
        "?",
        "&",
        "=",
        "99999",
        "-1",
        "nan",
        "\n",
        "é",
        "\ud800",
        "/",
    ]
    names = ["db", "timeout", "max_connections", "retry", "host", "parser_class", "connection_class", "cache", "ssl_x"]

    def one(rng: random.Random) -> bool:
        url = rng.choice(seeds)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(url) + 1)
            match rng.randrange(4):
                case 0:
                    url = url[:at] + rng.choice(words) + url[at:]
                case 1:
                    url = url[:at] + url[at + rng.randrange(4) :]
                case 2:
                    url += (
                        f"{rng.choice('?&')}{rng.choice(names)}={rng.choice(['1', '0', '-1', 'x', '', 'nan', '1e9'])}"
                    )
                case _:
                    url = url[:at] + chr(rng.randrange(1, 300)) + url[at + 1 :]
        try:
            backend = RedisBackend.from_url(url)
        except SnapshotError as error:
            assert "hunter2" not in str(error)
            assert "hunter2" not in repr(error.__cause__)
            return False
        assert "hunter2" not in repr(backend)
        return True

    run_all("url", URLS, one)


def test_run_ids_and_namespaces() -> None:
    """Any text names a run, comes back from its key, and no two share a key; what is no text is SnapshotError."""
    owners: dict[bytes, tuple[str, str]] = {}
    alphabet = "ab{}%:*?[]\\^\x00\x1f \x7f\x9f/-7Fe\u00e9\U0001f600\u200b\ud800"

    def one(rng: random.Random) -> bool:
        namespace = "".join(rng.choices(alphabet[:-1], k=rng.randrange(1, 6)))
        text = "".join(rng.choices(alphabet, weights=[9] * (len(alphabet) - 1) + [1], k=rng.randrange(12)))
        given: Any = text if rng.random() < 0.95 else rng.choice([None, 7, b"x", [], 1.5])
        try:
            run = RunId(given)
        except SnapshotError:
            assert given == "" or not isinstance(given, str) or "\ud800" in given
            return False
        keys = run_keys(namespace, run)
        assert run_of_head(namespace, keys.head) == run == text
        assert owners.setdefault(keys.head, (namespace, text)) == (namespace, text)
        tag = keys.head.partition(b"{")[2].partition(b"}")[0]
        assert all(
            key.count(b"{") == key.count(b"}") == 1 and b"{" + tag + b"}" in key for key in (keys.log, keys.queue)
        )
        assert min(keys.head) > 0x20
        return True

    run_all("name", NAMES, one)
