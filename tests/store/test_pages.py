"""Parts of a conversation: what they cost, and what comes in between while they are read. In both shells."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import histstore.sync
from histstore import (
    ANY,
    BackendUnavailableError,
    ConversationSnapshot,
    CorruptSnapshotError,
    RetryPolicy,
    Revision,
    RevisionGoneError,
)
from histstore.protocol.keys import run_keys

from ..support.proxy import Proxy
from ..support.samples import user
from ..support.shells import Shell, threaded_proxy
from .conftest import Backends

Snapshot = ConversationSnapshot[Any]
GUARD = 60.0
"""Seconds after which a page that rivals keep from its end fails. Nothing is expected to take a tenth of it."""


@pytest.fixture
def wire(server_url: str) -> Iterator[Proxy]:
    with threaded_proxy(server_url) as running:
        yield running


@pytest.fixture
def rival(server_url: str, namespace: str) -> Iterator[Any]:
    """A store of the same run in another process, as it were. Not over the proxy."""
    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        yield backend.store("run")


def before_each(wire: Proxy, act: Callable[[int], object]) -> list[int]:
    """Lets `act` happen before each request that goes over the proxy arrives; returns the list of their numbers.

    After `GUARD` seconds nothing happens any more.
    """
    numbers: list[int] = []
    end = time.monotonic() + GUARD

    def delay() -> float:
        numbers.append(len(numbers) + 1)
        if time.monotonic() < end:
            act(numbers[-1])
        return 0.0

    wire.delay = delay
    return numbers


def small_steps(monkeypatch: pytest.MonkeyPatch, shell: Shell, size: int) -> None:
    """Makes a reader ask for about `size` bytes of the log at a time."""
    monkeypatch.setattr(importlib.import_module(f"histstore._{shell.name}.pages"), "CHUNK", size)


async def lone(backends: Backends, url: str, **options: Any) -> Any:
    """A backend that has made its connections: for small requests, and for large ones."""
    backend = backends(url, **options)
    await backend.store("another").append("x", expected=ANY)
    await backend.store("another").load()
    await backend.store("another").read(-1)
    return backend


async def cost(wire: Proxy, call: Any) -> tuple[Any, int, int]:
    """Returns what a call comes to, and the bytes received and round trips of it."""
    wire.reset_counts()
    found = await call
    return found, wire.received, wire.trips


# ------------------------------------------------------------------------------------------- its cost


@pytest.mark.parametrize("keep", [0, 500])
@pytest.mark.parametrize("count", [3, 300])
async def test_no_page_costs_more_than_a_load(
    backends: Backends, wire: Proxy, rival: Any, count: int, keep: int
) -> None:
    """In bytes; in round trips one more at most, where it cannot be known beforehand how far back the page lies."""
    for number in range(count):
        rival.append(user(number, 500))
    backend = await lone(backends, wire.url, keep_revisions=keep)
    truth, loaded, trips = await cost(wire, backend.store("run").load())
    slices = [
        (None, None),
        (0, None),
        (1, None),
        (None, -1),
        (0, 10),
        (5, 9),
        (count // 2, None),
        (-20, None),
        (-2, -1),
    ]
    for start, stop in slices:
        page, received, tripped = await cost(wire, backend.store("run").read(start, stop))
        assert page.messages == truth.messages[start:stop]
        assert (page.revision, page.length) == (truth.revision, count)
        assert received < loaded + 200, (start, stop)
        assert tripped <= (trips if count < 10 or start == -20 else 2), (start, stop)
    if keep == 0:
        assert (await cost(wire, backend.store("run").read()))[2] == trips == 1
    assert (await cost(wire, backend.store("run").read(-2)))[1:] < (3000, 2)


async def test_a_page_of_what_is_remembered_costs_an_unchanged_load(
    backends: Backends, wire: Proxy, rival: Any
) -> None:
    """Whichever page; what rivals have added since is read along, and remembered as a load remembers it."""
    for number in range(100):
        rival.append(user(number, 500))
    backend = await lone(backends, wire.url)
    store = backend.store("run")
    await store.load()
    _, unchanged, _ = await cost(wire, store.load())
    for start, stop in [(None, None), (0, 5), (-5, None)]:
        page, received, trips = await cost(wire, store.read(start, stop))
        assert page.messages == tuple(user(number, 500) for number in range(100))[start:stop]
        assert (received, trips) == (unchanged, 1)
    for number in range(100, 105):
        rival.append({"n": number}, pinned=True, meta={"n": number})
    page, received, trips = await cost(wire, store.read(98))
    assert page.messages == (user(98, 500), user(99, 500), *({"n": number} for number in range(100, 105)))
    assert page.pinned == (False, False, True, True, True, True, True)
    assert (page.meta, page.revision, store.revision) == ({"n": 104}, rival.revision, rival.revision)
    assert trips == 1
    assert await cost(wire, store.load()) == (rival.load(), unchanged, 1)


async def test_what_is_remembered_is_let_be_when_rivals_are_far_ahead(
    backends: Backends, wire: Proxy, rival: Any
) -> None:
    """One request finds out, and none after that: a tail costs the tail, also to who loaded long ago."""
    for number in range(10):
        rival.append(user(number, 500))
    backend = await lone(backends, wire.url)
    store = backend.store("run")
    await store.load()
    for number in range(10, 60):
        rival.append(user(number, 500))
    trips = [(await cost(wire, store.read(-2)))[2] for _ in range(3)]
    assert trips == [2, 1, 1]
    assert (await store.read(-2)).messages == (user(58, 500), user(59, 500))
    assert len(await store.load()) == 60


async def test_the_plain_messages_of_a_page_do_not_change(backend: Any) -> None:
    """An attempt to change one page, or load, changes no other."""
    store = backend.store("run")
    await store.append({"n": [0]}, {"n": [1]}, {"n": [2]})
    for reader in (store, backend.store("run")):
        await reader.load()
        for start, stop in [(None, None), (0, 2), (1, None)]:
            for _ in range(2):
                page = await reader.read(start, stop)
                assert page.messages == ({"n": [0]}, {"n": [1]}, {"n": [2]})[start:stop]
                with pytest.raises(TypeError, match="do not change"):
                    page.messages[0]["n"].append("mine")
        assert (await reader.load()).messages == ({"n": [0]}, {"n": [1]}, {"n": [2]})


# ---------------------------------------------------------------------------------- what comes between


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (None, None), (150, None), (-250, -240)])
async def test_rivals_do_not_starve_a_page(
    shell: Shell, backends: Backends, wire: Proxy, rival: Any, monkeypatch: pytest.MonkeyPatch, start: Any, stop: Any
) -> None:
    """Somebody saves before each request of the reader arrives: the page costs what it costs when nobody does.

    It is of one moment: that of the call's first answer.
    """
    for number in range(300):
        rival.append(user(number, 500))
    backend = await lone(backends, wire.url)
    small_steps(monkeypatch, shell, 40_000)
    _, quiet, _ = await cost(wire, backend.store("run").read(start, stop))
    made: list[Revision] = []
    before_each(wire, lambda number: made.append(rival.append(user(299 + number, 500))))
    wire.reset_counts()
    store = backend.store("run")
    page = await store.read(start, stop)
    assert page.messages == tuple(user(number, 500) for number in range(301))[start:stop]
    assert (page.revision, page.length) == (made[0], 301)
    assert store.revision == made[0]
    assert wire.received < 1.1 * quiet
    wire.delay = 0.0
    assert (await store.read(-1)).revision == made[-1]


@pytest.mark.parametrize("always", [False, True])
async def test_a_page_whose_entries_are_trimmed_meanwhile(
    shell: Shell, backends: Backends, wire: Proxy, rival: Any, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    """It is read anew, by one request that nothing can come between; it is of that request's moment."""
    for number in range(200):
        rival.append(user(number, 500))
    backend = await lone(backends, wire.url)
    small_steps(monkeypatch, shell, 20_000)
    made: list[Revision] = []

    def trim(number: int) -> None:
        if always or number == 3:
            rival.append(user(200, 500))
            rival.trim()
            # So many that who begins anew at the end is overtaken anew.
            for each in range(80):
                made.append(rival.append(user(each, 500)))

    numbers = before_each(wire, trim)
    page = await backend.store("run").read(0, 10)
    assert page.messages == tuple(user(number, 500) for number in range(10))
    assert (page.revision, page.length) == (made[-1], made[-1].length)
    assert len(numbers) <= 4


@pytest.mark.parametrize("successor", [0, 5, 400])
async def test_a_run_that_is_deleted_while_a_page_is_read(
    shell: Shell, backends: Backends, wire: Proxy, rival: Any, monkeypatch: pytest.MonkeyPatch, successor: int
) -> None:
    """The page is of the run that came after it, whether that is shorter or longer; or there is none."""
    for number in range(200):
        rival.append(user(number, 500))
    backend = await lone(backends, wire.url)
    small_steps(monkeypatch, shell, 20_000)

    def replace(number: int) -> None:
        if number == 3:
            rival.delete()
            for count in range(successor):
                rival.append(f"new {count}")

    before_each(wire, replace)
    store = backend.store("run")
    page = await store.read(0, 3)
    if successor:
        assert page.messages == ("new 0", "new 1", "new 2")
        assert (page.revision, page.length) == (rival.revision, successor)
    else:
        assert page is None
        assert store.revision is None


async def test_damage_is_told_while_rivals_save(
    shell: Shell, backends: Backends, wire: Proxy, rival: Any, raw: redis.Redis, namespace: str
) -> None:
    """A byte that was changed far below is damage, though each look at it is at another head; looks are counted."""
    for number in range(120):
        rival.append(user(number, 500))
    damage(raw, namespace, 20)
    backend = await lone(backends, wire.url, retry=RetryPolicy(attempts=3))
    numbers = before_each(wire, lambda number: rival.append(user(number)))
    with pytest.raises(CorruptSnapshotError) as caught:
        await backend.store("run").read(10, 12)
    assert caught.value.version == 20
    assert len(numbers) <= 2 * 4
    assert (await backend.store("run").read(-5)).messages[-1] == user(len(numbers))


def damage(raw: redis.Redis, namespace: str, version: int) -> None:
    """Flips a bit of the body of one entry of the run."""
    log = run_keys(namespace, "run").log
    items: Any = raw.xrange(log)
    raw.delete(log)
    for stream_id, fields in items:
        if stream_id == b"0-%d" % version:
            fields[b"b"] = fields[b"b"][:-1] + bytes([fields[b"b"][-1] ^ 1])
        raw.xadd(log, fields, id=stream_id)


# --------------------------------------------------------------------------------------- the deadline


BRIEF = RetryPolicy(attempts=1, deadline=1.0)
"""Requests that take 0.6 s each: one is done in time, and two are not."""


async def slow(backends: Backends, wire: Proxy, **options: Any) -> Any:
    backend = await lone(backends, wire.url, **options)
    wire.reset_counts()
    wire.delay = 0.6
    return backend


async def test_the_deadline_bounds_a_page(
    shell: Shell, backends: Backends, wire: Proxy, rival: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, not each request: then nothing was written, and the error says that repeating is safe."""
    for number in range(200):
        rival.append(user(number, 500))
    small_steps(monkeypatch, shell, 20_000)
    backend = await slow(backends, wire)
    assert (await backend.store("run").read(-2, retry=BRIEF)).messages == (user(198, 500), user(199, 500))
    wire.reset_counts()
    with pytest.raises(BackendUnavailableError, match="nothing was written, repeating is safe"):
        await backend.store("run").read(0, 10, retry=BRIEF)
    assert wire.requests <= 2


@pytest.mark.parametrize("what", ["read", "load at"])
async def test_the_deadline_bounds_the_second_look(
    backends: Backends, wire: Proxy, rival: Any, raw: redis.Redis, namespace: str, what: str
) -> None:
    """What does not add up is looked at again, and that has what is left of the time."""
    for number in range(5):
        rival.append(user(number))
    damage(raw, namespace, 2)
    backend = await slow(backends, wire)
    store = backend.store("run")

    async def call(policy: RetryPolicy) -> Any:
        return await (store.read(retry=policy) if what == "read" else store.load(at=3, retry=policy))

    with pytest.raises(BackendUnavailableError, match="nothing was written, repeating is safe"):
        await call(BRIEF)
    assert wire.requests <= 2
    wire.delay = 0.0
    with pytest.raises(CorruptSnapshotError):
        await call(BRIEF)


async def test_the_deadline_bounds_each_step_of_revisions(backends: Backends, wire: Proxy, rival: Any) -> None:
    """A step that takes two requests, since the run was made anew meanwhile, has one deadline for both."""
    for number in range(100):
        rival.append(user(number, 500))
    backend = await slow(backends, wire)
    listed = backend.store("run").revisions(retry=BRIEF)
    for _ in range(64):
        await anext(listed)
    rival.delete()
    for number in range(100):
        rival.append(user(number, 500))
    wire.reset_counts()
    with pytest.raises(BackendUnavailableError, match="nothing was written, repeating is safe"):
        await anext(listed)
    assert wire.requests <= 2


async def test_the_callers_time_between_revisions_does_not_count(backends: Backends, wire: Proxy, rival: Any) -> None:
    """Who holds an iterator for longer than the deadline gets the next ones all the same, or the true reason."""
    for number in range(150):
        rival.append(user(number, 500))
    backend = await lone(backends, wire.url)
    policy = RetryPolicy(attempts=1, deadline=0.5)
    listed = backend.store("run").revisions(retry=policy)
    for number in range(150):
        if number in (64, 128):
            await asyncio.sleep(0.6)
        assert (await anext(listed)).version == 150 - number
    listed = backend.store("run").revisions(retry=policy)
    for _ in range(64):
        await anext(listed)
    rival.delete()
    for number in range(100):
        rival.append(user(number, 500))
    await asyncio.sleep(0.6)
    with pytest.raises(RevisionGoneError):
        await anext(listed)
