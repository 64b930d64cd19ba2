"""What an observer sees of the calls to the server, and that it cannot harm them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from histstore import (
    ANY,
    BackendConfigError,
    BackendError,
    BackendUnavailableError,
    ConflictError,
    Event,
    Observer,
    OutcomeUnknownError,
    RetryPolicy,
    SnapshotError,
)

from ..support.generations import skip_without_min_replicas
from ..support.history import message
from ..support.servers import Server
from ..support.shells import Shell, threaded_proxy, until

FAST = RetryPolicy(attempts=3, deadline=10.0, base=0.001, cap=0.01)


class Recorder(Observer):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []

    def started(self, event: Event) -> None:
        self.events.append(("started", event))

    def tried(self, event: Event) -> None:
        self.events.append(("tried", event))

    def finished(self, event: Event) -> None:
        self.events.append(("finished", event))

    def take(self) -> list[tuple[str, Event]]:
        """Returns the events since the last time, and forgets them."""
        found, self.events = self.events, []
        return found


def shapes(events: list[tuple[str, Event]]) -> list[tuple[str, int, str | None]]:
    return [(kind, event.tries, event.outcome) for kind, event in events]


ONE_TRY = [("started", 0, None), ("tried", 1, "answered"), ("finished", 1, "answered")]


async def test_a_save_that_is_answered(shell: Shell, server_url: str, namespace: str) -> None:
    """Three events share a number: they name the script, its answer, the server, and count bytes and time."""
    seen = Recorder()
    async with shell.from_url(server_url, namespace=namespace, observer=seen) as backend:
        assert backend.observer is seen
        await backend.store("run").append(message("a" * 1000))
        events = seen.take()
        assert shapes(events) == ONE_TRY
        [started, tried, finished] = [event for _, event in events]
        assert started.call == tried.call == finished.call
        assert started.operation == "save"
        assert started.seconds == 0.0
        assert started.server == server_url.partition("://")[2].partition("/")[0].rpartition("@")[2]
        assert started.error is None
        assert 1000 < finished.bytes_sent < 3000
        assert finished.bytes_received > 5
        assert tried.answer == finished.answer == "saved"
        assert 0 < tried.seconds <= finished.seconds < 60
        assert "aaaa" not in repr(events)
        await backend.store("run").load()
        [(_, event), *_] = events = seen.take()
        assert shapes(events) == ONE_TRY
        assert event.operation == "MULTI"
        assert event.call > started.call
        assert events[-1][1].bytes_received > 1000
        assert events[-1][1].answer is None


async def test_a_conflict_is_an_answer(shell: Shell, server_url: str, namespace: str) -> None:
    """A script's refusal is no failure of the call: the answer names it."""
    seen = Recorder()
    async with shell.from_url(server_url, namespace=namespace, observer=seen) as backend:
        await backend.store("run").append(message("a"))
        seen.take()
        with pytest.raises(ConflictError):
            await backend.store("run").append(message("b"), expected=None)
        assert shapes(seen.events) == ONE_TRY
        assert seen.events[-1][1].answer == "conflict"


async def test_tries_are_counted(shell: Shell, server_url: str, namespace: str) -> None:
    """A save whose first answer is lost is tried twice, and finished once."""
    seen = Recorder()
    with threaded_proxy(server_url) as between:
        async with shell.from_url(between.url, namespace=namespace, retry=FAST, observer=seen) as backend:
            store = backend.store("run")
            await store.append(message("a"))
            [*_, (_, before)] = seen.take()
            between.lose_replies(1)
            await store.append(message("b"))
            events = seen.take()
    assert shapes(events) == [
        ("started", 0, None),
        ("tried", 1, "failed"),
        ("tried", 2, "answered"),
        ("finished", 2, "answered"),
    ]
    assert isinstance(events[1][1].error, redis.ConnectionError)
    assert events[-1][1].error is None
    assert events[-1][1].bytes_sent > 1.5 * before.bytes_sent


async def test_a_refusal_by_the_server_is_a_failure_with_its_code(
    shell: Shell, private_server: Callable[..., Server]
) -> None:
    """Each try that the server refuses is seen with the server's code; so is the call that gives up."""
    seen = Recorder()
    running = private_server()
    async with shell.from_url(running.url, retry=FAST, observer=seen) as backend:
        await backend.store("run").append(message("a"))
        seen.take()
        with running.client() as raw:
            skip_without_min_replicas(raw)
            raw.config_set("min-replicas-to-write", "1")
        with pytest.raises(BackendUnavailableError) as raised:
            await backend.store("run").append(message("b"))
        assert shapes(seen.events) == [
            ("started", 0, None),
            ("tried", 1, "failed"),
            ("tried", 2, "failed"),
            ("tried", 3, "failed"),
            ("finished", 3, "failed"),
        ]
        assert {event.answer for _, event in seen.events[1:]} == {"NOREPLICAS"}
        assert seen.events[-1][1].error is raised.value


async def test_a_wrong_setting_is_a_failure_after_one_try(shell: Shell, private_server: Callable[..., Server]) -> None:
    """A call that cannot be mended by trying again is tried once."""
    seen = Recorder()
    running = private_server(requirepass="s3cret")
    async with shell.from_url(running.url, retry=FAST, observer=seen) as backend:
        with pytest.raises(BackendConfigError):
            await backend.store("run").load()
    assert shapes(seen.events) == [("started", 0, None), ("tried", 1, "failed"), ("finished", 1, "failed")]
    assert "s3cret" not in repr(seen.events)


async def test_an_unknown_outcome(shell: Shell, server_url: str, namespace: str) -> None:
    """A write without an answer fails its try, and its outcome is unknown."""
    seen = Recorder()
    with threaded_proxy(server_url) as between:
        url, once = between.url, RetryPolicy(attempts=1, deadline=10.0)
        async with shell.from_url(url, namespace=namespace, retry=once, observer=seen) as backend:
            store = backend.store("run")
            await store.append(message("a"))
            seen.take()
            between.lose_replies(1)
            with pytest.raises(OutcomeUnknownError):
                await store.append(message("b"))
            assert shapes(seen.take()) == [("started", 0, None), ("tried", 1, "failed"), ("finished", 1, "unknown")]
            await store.resolve()
            assert [event.operation for kind, event in seen.take() if kind == "started"] == ["resolve"]


async def test_a_cancelled_call(server_url: str, namespace: str) -> None:
    """A caller that is cancelled ends the try and the call."""
    import histstore

    seen = Recorder()
    with threaded_proxy(server_url) as between:
        async with histstore.RedisBackend.from_url(between.url, namespace=namespace, observer=seen) as backend:
            store = backend.store("run")
            await store.append(message("a"))
            seen.take()
            between.stall()
            call = asyncio.create_task(store.load())
            await until(lambda: between.stalled)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            events = seen.take()
            between.from_outside(between.go_on)
    assert shapes(events) == [("started", 0, None), ("tried", 1, "cancelled"), ("finished", 1, "cancelled")]
    assert isinstance(events[-1][1].error, asyncio.CancelledError)


def test_an_interrupted_call(server_url: str, namespace: str) -> None:
    """In the blocking twin an interruption is seen as a cancellation."""
    import histstore.sync

    seen = Recorder()

    def interrupt(_end: float) -> None:
        raise KeyboardInterrupt

    with histstore.sync.RedisBackend.from_url(server_url, namespace=namespace, observer=seen) as backend:
        store = backend.store("run")
        store.append(message("a"))
        seen.take()
        runner = backend._runner
        runner._exchange = lambda *_args: interrupt(0.0)
        with pytest.raises(KeyboardInterrupt):
            store.load()
        del runner._exchange
    assert shapes(seen.take()) == [("started", 0, None), ("tried", 1, "cancelled"), ("finished", 1, "cancelled")]


async def test_a_call_that_meets_the_closing_of_its_backend(
    shell: Shell, private_server: Callable[..., Server]
) -> None:
    """A call whose backend is closed between two tries ends as closed."""
    seen = Recorder()
    running = private_server()
    patient = RetryPolicy(attempts=100, deadline=20.0, base=0.05, cap=0.05)
    async with shell.from_url(running.url, retry=patient, observer=seen) as backend:
        await backend.store("run").append(message("a"))
        seen.take()
        with running.client() as raw:
            skip_without_min_replicas(raw)
            raw.config_set("min-replicas-to-write", "1")
        call = shell.apart(_append(backend))
        await until(lambda: sum(kind == "tried" for kind, _ in seen.events) >= 2)
        await backend.aclose()
        with pytest.raises(BackendError):
            await call
    assert [kind for kind, _ in seen.events].count("finished") == 1
    assert (seen.events[-1][0], seen.events[-1][1].outcome) == ("finished", "closed")


async def _append(backend: Any) -> None:
    await backend.store("run").append(message("b"))


async def test_leases_are_seen(shell: Shell, server_url: str, namespace: str) -> None:
    """Taking, renewing and giving up a lease are calls, each with an answer."""
    seen = Recorder()
    async with shell.from_url(server_url, namespace=namespace, observer=seen) as backend:
        async with backend.store("run").lock(ttl=0.6):
            await until(lambda: "renew" in {event.operation for _, event in seen.events})

        def all_finished() -> bool:
            begun = {event.call for _, event in seen.events}
            finished = {event.call: event.operation for kind, event in seen.events if kind == "finished"}
            return set(finished) == begun and {"acquire", "renew", "release"} <= set(finished.values())

        await until(all_finished)
        events = seen.take()
    assert {event.outcome for kind, event in events if kind == "finished"} == {"answered"}
    assert {event.answer for kind, event in events if kind == "finished" and event.operation == "acquire"} == {
        "granted"
    }
    by_call = {event.call: [kind for kind, each in events if each.call == event.call] for _, event in events}
    assert set(map(tuple, by_call.values())) == {("started", "tried", "finished")}


class Failing(Observer):
    """Fails at every event."""

    def started(self, event: Event) -> None:
        raise ValueError("started")

    def tried(self, event: Event) -> None:
        raise ValueError("tried")

    def finished(self, event: Event) -> None:
        raise ValueError("finished")


async def test_an_observer_that_fails_harms_no_call(
    shell: Shell, server_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls go on, and the failure is logged once for the backend."""
    caplog.set_level(logging.WARNING, logger="histstore")
    async with shell.from_url(server_url, namespace=namespace, observer=Failing()) as backend:
        store = backend.store("run")
        await store.append(message("a"))
        assert (await store.load()).messages == (message("a"),)
        with pytest.raises(ConflictError):
            await store.append(message("b"), expected=None)
    records = [record for record in caplog.records if "observer" in record.getMessage()]
    assert len(records) == 1
    assert records[0].exc_info is not None


async def test_an_observer_that_sees_nothing_needs_no_method(shell: Shell, server_url: str, namespace: str) -> None:
    """The base class ignores every event."""
    async with shell.from_url(server_url, namespace=namespace, observer=Observer()) as backend:
        await backend.store("run").append(message("a"), expected=ANY)


def test_what_is_no_observer_is_refused(shell: Shell) -> None:
    """An observer is an object of a subclass of Observer, so that later events reach older observers."""
    for wrong in (print, Recorder, object()):
        with pytest.raises(SnapshotError, match="observer="):
            shell.from_url("redis://localhost", observer=wrong)


class Unpicklable(Observer):
    """Holds a lock, as an exporter may."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Reduced(Unpicklable):
    """Says how it is made anew, as the error advises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def test_a_backend_is_pickled_with_its_observer(shell: Shell) -> None:
    """An observer that cannot be pickled is named by the error, with what to do."""
    for kind in (Recorder, Reduced):
        backend = shell.module.RedisBackend.from_url("redis://localhost", observer=kind())
        assert isinstance(pickle.loads(pickle.dumps(backend)).observer, kind)
    backend = shell.module.RedisBackend.from_url("redis://localhost", observer=Unpicklable())
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(BackendError, match=r"observer of this backend cannot be pickled \(TypeError\)"):
            copied(backend)


def test_an_event_is_a_value() -> None:
    """An event can be compared and pickled, and cannot be changed."""
    event = Event(1, "save", "save", ("histstore", "run"), "localhost:6379", tries=1, outcome="answered")
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(AttributeError):
        event.tries = 2  # type: ignore[misc]
