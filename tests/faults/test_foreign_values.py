"""Keys of a run hold what histstore did not put there (row 17): foreign types, hostile values, strange messages.

Each foreign type stands in each key of a run once, and each hostile value in each field; then every public method of
both shells is called. Only HistoryStoreErrors may come out, in bounded time, and a delete clears the damage.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis

from histstore import (
    ANY,
    Attempt,
    ConversationSnapshot,
    CorruptSnapshotError,
    HistoryStoreError,
    RetryPolicy,
    Revision,
    UnsupportedVersionError,
)
from histstore.log.head import Head
from histstore.log.header import ABSENT
from histstore.protocol.keys import Keys
from histstore.protocol.replies import number

from ..support.entries import make_entry
from ..support.shells import SHELLS, Shell
from .shells import GUARD, keys_of
from .test_fuzz import NASTY

QUICK = RetryPolicy(attempts=2, deadline=5.0, base=0.001, cap=0.002)
RUN = "run"
PARTS = ("head", "log", "etags", "marks", "lease", "queue")
OWN = {"head": "hash", "log": "stream", "etags": "list", "marks": "hash", "lease": "hash", "queue": "list"}

Damage = Callable[[redis.Redis, Keys], object]

TYPES: dict[str, Callable[[redis.Redis, bytes], object]] = {
    "string": lambda raw, key: raw.set(key, "somebody else's"),
    "list": lambda raw, key: raw.rpush(key, "", "somebody else's", b"\xff\x00"),
    "set": lambda raw, key: raw.sadd(key, "somebody else's"),
    "zset": lambda raw, key: raw.zadd(key, {"somebody else's": 1}),
    "hash": lambda raw, key: raw.hset(key, "somebody", "else's"),
    "stream": lambda raw, key: raw.xadd(key, {"somebody": "else's"}),
    "short stream": lambda raw, key: raw.xadd(key, {"h": "", "t": "", "b": ""}, id="0-1"),
    "hyperloglog": lambda raw, key: raw.pfadd(key, "somebody else's"),
    "geo": lambda raw, key: raw.geoadd(key, (1.0, 2.0, "somebody else's")),
}

VALUES: dict[str, bytes] = {
    "nothing": b"",
    "text": b"text",
    "negative": b"-1",
    "zero": b"0",
    "20 nines": b"9" * 20,
    "400 nines": b"9" * 400,
    "5000 digits": b"9" * 5000,
    "infinity": b"1e400",
    "nan": b"nan",
    "fraction": b"1.5",
    "exponent": b"1e3",
    "NUL": b"1\x00",
    "no UTF-8": b"\xff\xfe",
    "a megabyte": b"x" * 1_000_000,
}

HEAD_FIELDS = (
    "format", "version", "etag", "length", "size", "checkpoint", "logged", "check", "first", "spans", "created",
    "saved", "meta", "fence", "holder",
)  # fmt: skip


def _typed(part: str, kind: str) -> Damage:
    def damage(raw: redis.Redis, keys: Keys) -> None:
        key = getattr(keys, part)
        raw.delete(key)
        TYPES[kind](raw, key)
        if kind == "hash" and part == "lease":
            raw.pexpire(key, 600_000)

    return damage


def _field(part: str, name: str, value: bytes) -> Damage:
    return lambda raw, keys: raw.hset(getattr(keys, part), name, value)  # type: ignore[arg-type, return-value]


def _lease(name: str, value: bytes) -> Damage:
    def damage(raw: redis.Redis, keys: Keys) -> None:
        raw.hset(keys.lease, mapping={"holder": "other", "fence": "7", "since": "1764000000000", name: value})  # type: ignore[dict-item]
        raw.pexpire(keys.lease, 600_000)

    return damage


def _queued(item: bytes) -> Damage:
    def damage(raw: redis.Redis, keys: Keys) -> None:
        raw.rpush(keys.queue, item, item)
        raw.pexpire(keys.queue, 600_000)

    return damage


def _entry(place: int, value: bytes) -> Damage:
    """Puts a value in place of the newest entry's header, time or body."""

    def damage(raw: redis.Redis, keys: Keys) -> None:
        ((stream_id, fields),) = raw.xrevrange(keys.log, count=1)  # type: ignore[misc]
        parts = [part for pair in fields.items() for part in pair]
        parts[place] = value
        raw.xdel(keys.log, stream_id)
        # Behind the id that was deleted nothing can be added any more: the stream is made anew.
        kept = raw.xrange(keys.log)
        raw.delete(keys.log)
        for each, others in kept:  # type: ignore[union-attr]
            raw.xadd(keys.log, others, id=each)
        raw.execute_command("XADD", keys.log, stream_id, *parts)

    return damage


def _extra_entry(stream_id: str, **fields: bytes) -> Damage:
    return lambda raw, keys: raw.xadd(keys.log, fields, id=stream_id)  # type: ignore[arg-type]


def _forged(body: bytes, meta: bytes | None) -> Damage:
    """Makes a run of one entry whose etag and check are right, of a body, or a meta, that is hostile."""

    def damage(raw: redis.Redis, keys: Keys) -> None:
        raw.delete(keys.head, keys.log, keys.etags)
        entry = make_entry(1, ABSENT, b"o" * 16, (0, 0), 1, 1, 1, len(body) + 100, 0, body)
        held = b"\xa0" if meta is None else meta
        head = Head(Revision(1, entry.etag), 1, 1, 1, len(body) + 100, held)
        raw.xadd(keys.log, {"h": entry.header.pack(), "t": b"1764000000000", "b": body}, id="0-1")
        raw.rpush(keys.etags, entry.etag)
        raw.hset(keys.head, mapping={
            "format": b"1", "version": b"1", "etag": entry.etag, "length": b"1", "size": b"1", "checkpoint": b"1",
            "logged": b"%d" % (len(body) + 100), "check": head.check(), "first": b"1", "spans": b"1:1",
            "created": b"1764000000000", "saved": b"1764000000000", "meta": held,
        })  # fmt: skip

    return damage


def _lasting(part: str) -> Damage:
    def damage(raw: redis.Redis, keys: Keys) -> None:
        raw.hset(keys.lease, mapping={"holder": "other", "fence": "7", "since": "1764000000000"})
        if part != "lease":
            raw.pexpire(keys.lease, 600_000)
            raw.pexpireat(getattr(keys, part), 9_000_000_000_000_000)

    return damage


def _cases() -> dict[str, Damage]:
    found: dict[str, Damage] = {}
    for part in PARTS:
        for kind in TYPES:
            found[f"{part} is a {kind}"] = _typed(part, kind)
    for what, value in VALUES.items():
        for name in HEAD_FIELDS:
            found[f"head {name}: {what}"] = _field("head", name, value)
        for name in ("holder", "fence", "since"):
            found[f"lease {name}: {what}"] = _lease(name, value)
        for place, name in ((1, "h"), (3, "t"), (5, "b")):
            found[f"entry {name}: {what}"] = _entry(place, value)
        found[f"marks: {what}"] = _field("marks", value.decode("latin-1"), value)
        found[f"etags: {what}"] = lambda raw, keys, value=value: raw.lset(keys.etags, -1, value)  # type: ignore[misc]
        found[f"queue: {what}"] = _queued(value)
        found[f"queue ttl: {what}"] = _queued(value + b" channel holder")
        found[f"queue channel: {what}"] = _queued(b"1000 " + value + b" holder")
        found[f"queue holder: {what}"] = _queued(b"1000 channel " + value)
    for at, bomb in enumerate(NASTY):
        found[f"body bomb {at}"] = _forged(b"\x81\x81\x01" + bomb, None)
        found[f"body header bomb {at}"] = _forged(bomb, None)
        found[f"meta bomb {at}"] = _forged(b"\x81\x81\x01\x00", bomb)
        found[f"head meta bomb {at}"] = _field("head", "meta", bomb)
    found["an entry far ahead"] = _extra_entry("0-18446744073709551615", h=b"", t=b"", b=b"")
    found["an entry of another time"] = _extra_entry("18446744073709551615-1", h=b"", t=b"", b=b"")
    found["an entry of other fields"] = _extra_entry("0-9", a=b"")
    found["a lease that never ends"] = _lasting("lease")
    found["a head that ends in 285,000 years"] = _lasting("head")
    return found


CASES = _cases()


def _message(text: str) -> dict[str, str]:
    return {"text": text}


class Run:
    """A sound run under one name, which can be put there again and again, and damaged."""

    def __init__(self, raw: redis.Redis, namespace: str) -> None:
        self.raw = raw
        self.keys = keys_of(namespace, RUN)
        self.namespace = namespace
        self.dumps: dict[str, bytes] = {}
        self.attempt = Attempt("save", namespace, RUN, None, Revision(1, b"x" * 16), b"x" * 16)  # type: ignore[arg-type]

    async def make(self, backend: Any) -> None:
        store = backend.store(RUN)
        for place in range(6):
            await store.append(_message(str(place)), meta={"n": place}, pinned=place == 2)
        self.dumps = {part: self.raw.dump(getattr(self.keys, part)) for part in ("head", "log", "etags")}  # type: ignore[misc]

    def put(self) -> None:
        with self.raw.pipeline(transaction=False) as pipe:
            pipe.delete(*(getattr(self.keys, part) for part in PARTS))
            for part, dump in self.dumps.items():
                pipe.restore(getattr(self.keys, part), 0, dump)
            pipe.execute()


async def _drain(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


async def _under_lock(store: Any) -> None:
    async with store.lock(ttl=0.5, acquire_timeout=0.02) as lease:
        await lease.renew()
        await store.append(_message("locked"), expected=ANY, lease=lease)


async def _turn(store: Any) -> None:
    async with store.turn(ttl=0.5, acquire_timeout=0.02) as turn:
        turn.append(_message("turn"))
        await turn.save()
        turn.append(_message("the end"))


READS: dict[str, Callable[[Any, Any, Run], Awaitable[Any]]] = {
    "load": lambda backend, store, run: store.load(),
    "load(at=2)": lambda backend, store, run: store.load(at=2),
    "load(at=6)": lambda backend, store, run: store.load(at=6),
    "read": lambda backend, store, run: store.read(),
    "read(-2)": lambda backend, store, run: store.read(-2),
    "info": lambda backend, store, run: store.info(),
    "revisions": lambda backend, store, run: _drain(store.revisions()),
    "runs": lambda backend, store, run: _drain(backend.runs()),
}

WRITES: dict[str, Callable[[Any, Any, Run], Awaitable[Any]]] = {
    "save": lambda backend, store, run: store.save(ConversationSnapshot([_message("a")]), expected=ANY),
    "first save": lambda backend, store, run: store.append(_message("a"), expected=None),
    "append": lambda backend, store, run: store.append(_message("a"), expected=ANY),
    "splice": lambda backend, store, run: store.splice(0, 1, _message("a"), expected=ANY),
    "update": lambda backend, store, run: store.update(lambda snapshot: snapshot.append(_message("a"))),
    "trim": lambda backend, store, run: store.trim(),
    "delete": lambda backend, store, run: store.delete(),
    "resolve": lambda backend, store, run: store.resolve(run.attempt),
    "lock": lambda backend, store, run: _under_lock(store),
    "turn": lambda backend, store, run: _turn(store),
    "break_lease": lambda backend, store, run: backend.break_lease(RUN),
    "backend.delete": lambda backend, store, run: backend.delete(RUN),
}


class Held:
    """What a group of cases has found out."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.told: set[type[BaseException]] = set()

    async def call(self, note: str, work: Awaitable[Any]) -> BaseException | None:
        try:
            async with asyncio.timeout(GUARD / 3):
                await work
        except HistoryStoreError as error:
            self.told.add(type(error))
            if isinstance(error, CorruptSnapshotError) and error.run_id != RUN:
                self.problems.append(f"{note}: the run is not named: {error!r}")
            if len(str(error)) > 2000:
                self.problems.append(f"{note}: a text of {len(str(error))} characters")
            return error
        except Exception as error:
            self.problems.append(f"{note}: {error!r}"[:300])
            return error
        return None


async def _case(shell: Shell, backend: Any, run: Run, name: str, held: Held) -> None:
    damage = CASES[name]
    run.put()
    warm = backend.store(RUN)
    await warm.load()
    damage(run.raw, run.keys)
    for call, work in READS.items():
        await held.call(f"{name}, {call}", work(backend, backend.store(RUN), run))
    await held.call(f"{name}, load by a store that had loaded", warm.load())
    await held.call(f"{name}, append by a store that had loaded", warm.append(_message("a")))
    for call, work in WRITES.items():
        run.put()
        damage(run.raw, run.keys)
        await held.call(f"{name}, {call}", work(backend, backend.store(RUN), run))
    run.put()
    await held.call(f"{name}, inside a lock", _inside(backend, run, damage, held, name))
    # Deleting clears the damage.
    run.put()
    damage(run.raw, run.keys)
    await held.call(f"{name}, delete", backend.delete(RUN))
    for call, work in {
        "append": lambda: backend.store(RUN).append(_message("new"), expected=None),
        "turn": lambda: _turn(backend.store(RUN)),
        "lock": lambda: _under_lock(backend.store(RUN)),
        "info": lambda: backend.store(RUN).info(),
        "break_lease": lambda: backend.break_lease(RUN),
    }.items():
        error = await held.call(f"{name}, {call} after the delete", work())
        if error is not None:
            held.problems.append(f"{name}, {call} after the delete: {error!r}"[:300])
    with contextlib.suppress(HistoryStoreError):
        loaded = await backend.store(RUN).load()
        if loaded is None or [message["text"] for message in loaded.messages] != ["new", "turn", "the end", "locked"]:
            held.problems.append(f"{name}: after the delete the run holds {loaded}"[:300])


async def _inside(backend: Any, run: Run, damage: Damage, held: Held, name: str) -> None:
    """Damages the run while its lease is held."""
    store = backend.store(RUN)
    async with store.lock(ttl=0.5, acquire_timeout=0.02) as lease:
        damage(run.raw, run.keys)
        await held.call(f"{name}, renew inside", lease.renew())
        await held.call(f"{name}, save inside", store.append(_message("a"), expected=ANY, lease=lease))
        await held.call(f"{name}, delete inside", store.delete(lease=lease))


def _groups() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in CASES:
        found.setdefault(name.split(":")[0] if ":" in name else "types" if " is a " in name else "others", []).append(
            name
        )
    return found


GROUPS = _groups()


def _by_shell() -> Iterator[Any]:
    for flavour in SHELLS:
        for group in GROUPS:
            # Of the same source, the blocking shell reads the same fields: `make long` tries them there.
            again = flavour is not SHELLS[0] and group not in ("types", "others")
            yield pytest.param(flavour, group, id=f"{flavour.name}-{group}", marks=[pytest.mark.long] if again else [])


@pytest.mark.parametrize(("flavour", "group"), list(_by_shell()))
async def test_nothing_but_our_own_errors(
    flavour: Shell, group: str, server_url: str, raw: redis.Redis, namespace: str
) -> None:
    """Every public method, of a run one of whose keys or fields is somebody else's."""
    held = Held()

    async def work() -> None:
        async with flavour.from_url(server_url, namespace=namespace, retry=QUICK) as backend:
            run = Run(raw, namespace)
            await run.make(backend)
            for name in GROUPS[group]:
                await _case(flavour, backend, run, name, held)
            await backend.delete(RUN)
            raw.delete(run.keys.lease, run.keys.queue)

    async with asyncio.timeout(GUARD * 10):
        await flavour.apart(work())
    assert not held.problems, "\n".join([f"{len(held.problems)} problems", *held.problems[:40]])


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_body_of_a_newer_writer_is_not_told_as_damage(
    flavour: Shell, server_url: str, raw: redis.Redis, namespace: str
) -> None:
    """Who lacks the codec of a body is told to upgrade or to give the option; what needs no body works."""
    async with asyncio.timeout(GUARD), flavour.from_url(server_url, namespace=namespace, retry=QUICK) as backend:
        _forged(b"\x28" + b"compressed", None)(raw, keys_of(namespace, RUN))
        for name, work in READS.items():
            if name not in ("load", "read", "read(-2)"):
                continue
            with pytest.raises(UnsupportedVersionError, match=r"body codec 0x28.*upgrade histstore, or give") as caught:
                await work(backend, backend.store(RUN), None)  # type: ignore[arg-type]
            assert caught.value.run_id == RUN, name
        with pytest.raises(UnsupportedVersionError):
            await backend.store(RUN).load(at=1)
        info = await backend.store(RUN).info()
        assert info is not None
        assert info.revision.version == 1
        await backend.store(RUN).append(_message("an append needs no base"), expected=ANY)
        assert await backend.delete(RUN)


STRANGE = [
    b"", b" ", b"-", b"\x00", b"\xff" * 100, b"text", b"1 2 3 4 5", b"1 2 3 4 5 6 7", b"a b c d e f", b"- - - - - -",
    b"-1 0 - 0 0 %s", b"1e400 0 - 0 0 %s", b"%d 0 - 0 0 %%s" % 10**400, b"9" * 5000 + b" 0 - 0 0 %s",
    b"1000 " + b"9" * 400 + b" - 0 0 %s", b"1000 0 - " + b"9" * 5000 + b" 0 %s", b"1000 0 - 0 -1 %s",
    b"1000 0 \xff 1 1 %s", b"1000 -5 - 0 0 %s", b"x" * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_strange_messages_of_the_doorbell(
    flavour: Shell, server_url: str, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What others publish on a waiter's channel ends neither the subscription nor the wait."""
    lease_key = keys_of(namespace, RUN).lease

    async def wait() -> None:
        backend = flavour.from_url(server_url, namespace=namespace)
        async with backend, backend.store(RUN).lock(ttl=60.0, acquire_timeout=GUARD):
            pass

    async with asyncio.timeout(GUARD), flavour.from_url(server_url, namespace=namespace) as backend:
        async with backend.store(RUN).lock(ttl=60.0):
            waiter = flavour.apart(wait())
            while not (channels := raw.pubsub_channels(f"{namespace}:doorbell:*")):
                await asyncio.sleep(0.005)
            (channel,) = channels
            (listener,) = [each["id"] for each in raw.client_list(_type="pubsub")]
            for message in STRANGE:
                assert raw.publish(channel, message.replace(b"%s", lease_key)) == 1, message[:50]
            await asyncio.sleep(0.05)
            assert [each["id"] for each in raw.client_list(_type="pubsub")] == [listener], "it was connected anew"
        await waiter
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("flavour", SHELLS, ids=lambda shell: shell.name)
async def test_a_lease_that_never_ends_is_not_waited_for(
    flavour: Shell, server_url: str, raw: redis.Redis, namespace: str
) -> None:
    """Nobody would ever be served: it is told as damage, and breaking it or deleting the run frees it."""
    async with flavour.from_url(server_url, namespace=namespace) as backend, asyncio.timeout(GUARD):
        for free in (backend.break_lease, backend.delete):
            _lasting("lease")(raw, keys_of(namespace, RUN))
            with pytest.raises(CorruptSnapshotError, match="never ends"):
                async with backend.store(RUN).lock(acquire_timeout=GUARD):
                    pass
            await free(RUN)
            async with backend.store(RUN).lock(acquire_timeout=0):
                pass


@pytest.mark.parametrize(
    "value", [None, b"", b"x", b"-1", b"1.5", b"%d" % 2**53, b"0" * 21, b"9" * 5000, -1, 2**53, 1.0, True, [], "1"]
)
def test_what_is_no_number_of_ours(value: object) -> None:
    """One place reads all numbers of keys and answers; nothing else than ValueError comes out of it."""
    with pytest.raises(ValueError, match=r"number|range|invalid"):
        number(value)


def test_what_is_a_number_of_ours() -> None:
    """From 0 to what Lua can count to, and less where less is said."""
    assert [number(value) for value in (b"0", b"17", 17, b"%d" % (2**53 - 1))] == [0, 17, 17, 2**53 - 1]
    assert number(b"9", 10) == 9
    with pytest.raises(ValueError, match="range"):
        number(b"10", 10)
