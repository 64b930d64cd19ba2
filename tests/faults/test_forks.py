"""A backend that a process had used before it forked, and a pickled one in processes that were spawned (row 16)."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import histstore
import histstore.sync
from histstore import ANY, LockedError, LockError
from histstore.protocol.scripts import SAVE

from ..support.history import message, tokens_of
from ..support.proxy import Proxy
from .conftest import Patience
from .shells import GUARD, PERSISTENT, carries


class Child:
    """A forked child that runs one function, and says what it returned or raised."""

    def __init__(self, work: Callable[[], Any], fork: Callable[[], int] = os.fork) -> None:
        reading, writing = os.pipe()
        with warnings.catch_warnings(action="ignore"):  # Python warns of threads that are gone in the child
            self.pid = fork()
        if self.pid == 0:
            try:
                os.close(reading)
                signal.alarm(int(GUARD))  # a child that hangs ends
                said: Any = work()
            except BaseException:
                said = traceback.format_exc()
            try:
                os.write(writing, json.dumps(said).encode()[:60_000])
                os.close(writing)
            finally:
                os._exit(0)
        os.close(writing)
        self._reading = reading

    def said(self) -> Any:
        with os.fdopen(self._reading, "rb") as pipe:
            text = pipe.read()
        os.waitpid(self.pid, 0)
        assert text, "the child was killed, for it hung"
        return json.loads(text)


def in_a_fork(work: Callable[[], Any], fork: Callable[[], int] = os.fork) -> Any:
    """Runs `work` in a forked child, and returns what it returned, or the traceback of what it raised."""
    return Child(work, fork).said()


class Parent:
    """A backend of either shell that was used, in a process that goes on using it."""

    def __init__(self, shell: str, url: str, namespace: str) -> None:
        self.shell = shell
        self._runner = asyncio.Runner() if shell == "async" else None
        module = histstore if shell == "async" else histstore.sync
        self.backend: Any = module.RedisBackend.from_url(url, namespace=namespace)  # type: ignore[attr-defined]

    def do(self, call: Callable[[], Any]) -> Any:
        """Makes a call of the backend as its owner does: in the one loop, or in this thread."""
        if self._runner is None:
            return call()

        async def main() -> Any:
            return await call()

        return self._runner.run(main())

    def do_in_child(self, call: Callable[[], Any]) -> Any:
        """Makes a call as a forked child does: with a loop of its own."""
        if self.shell == "sync":
            return call()

        async def main() -> Any:
            return await call()

        return asyncio.run(main())

    def tokens(self, run: str, child: bool = False) -> list[str]:
        found = (self.do_in_child if child else self.do)(lambda: self.backend.store(run).load())
        return tokens_of(found.messages) if found is not None else []

    def close(self) -> None:
        self.do(lambda: self.backend.aclose())
        if self._runner is not None:
            self._runner.close()


@pytest.fixture
def parent(shell: str, server_url: str, namespace: str) -> Iterator[Parent]:
    """A parent process that has used its backend."""
    made = Parent(shell, server_url, namespace)
    made.do(lambda: made.backend.store("run").append(message("parent")))
    yield made
    made.close()


def connections(raw: redis.Redis) -> set[str]:
    return {each["id"] for each in raw.client_list()}  # type: ignore[union-attr]


def test_children_and_parent_work_side_by_side(parent: Parent, raw: redis.Redis, until: Patience) -> None:
    """Four prefork children of a parent that goes on working: every message once, and no reply is another's."""
    before = connections(raw)

    def work(name: str, call: Callable[[Callable[[], Any]], Any], child: bool) -> list[str]:
        mine = parent.backend.store(name)
        for number in range(20):
            call(lambda number=number: mine.append(message(f"{name}-{number}"), expected=ANY))  # type: ignore[misc]
            call(
                lambda number=number: parent.backend.store("shared").append(  # type: ignore[misc]
                    message(f"{name}-{number}"), expected=ANY, retry=PERSISTENT
                )
            )
            assert parent.tokens(name, child) == [f"{name}-{each}" for each in range(number + 1)]
        return [name]

    children = [Child(lambda name=name: work(name, parent.do_in_child, True)) for name in "abcd"]  # type: ignore[misc]
    work("p", parent.do, False)
    assert [child.said() for child in children] == [["a"], ["b"], ["c"], ["d"]]
    assert sorted(parent.tokens("shared")) == sorted(f"{name}-{number}" for name in "abcdp" for number in range(20))
    # The parent has the connections that it had, and perhaps another one of its own. The children's are gone.
    (seat,) = parent.backend._seats.all()
    until(lambda: len(connections(raw)) == len(before) - 1 + sum(seat.runner.connections), "the others are gone")
    assert before <= connections(raw)


def test_a_child_that_closes_disturbs_nobody(parent: Parent, raw: redis.Redis) -> None:
    """Closing, throwing away what it inherited, or simply ending: the parent's connections stay and answer."""
    before = connections(raw)
    store = parent.backend.store("run")

    def close() -> None:
        parent.do_in_child(lambda: parent.backend.aclose())

    def use_and_close() -> None:
        parent.do_in_child(lambda: parent.backend.store("run").append(message("child"), expected=ANY))
        close()

    def throw_away() -> None:
        with warnings.catch_warnings(action="ignore"):
            seats = parent.backend._seats
            seats._taken.clear()
            seats._last = None
            parent.__dict__.clear()
            gc.collect()

    for work in (close, use_and_close, throw_away):
        assert in_a_fork(work) is None
        parent.do(lambda: store.append(message("parent"), expected=ANY))
        assert before <= connections(raw), work
    assert parent.tokens("run") == ["parent", "parent", "child", "parent", "parent"]


def test_a_child_lets_go_of_inherited_connections_at_once(parent: Parent, raw: redis.Redis, until: Patience) -> None:
    """Else the server would believe that a parent listens that is gone, for as long as the child lives."""
    before = connections(raw)
    with contextlib.ExitStack() as stack:
        ready, done = os.pipe(), os.pipe()

        def live() -> None:
            os.write(ready[1], b".")
            os.read(done[0], 1)

        child = Child(live)
        stack.callback(child.said)
        stack.callback(os.write, done[1], b".")
        assert os.read(ready[0], 1)
        assert connections(raw) == before
        parent.do(lambda: parent.backend.aclose())
        until(lambda: len(connections(raw)) == len(before) - 1, "the server sees the parent's connection end")
    for end in (*ready, *done):
        os.close(end)


@pytest.mark.parametrize("shell", ["sync"])
def test_a_fork_while_another_thread_is_in_a_call(
    parent: Parent, server_url: str, namespace: str, wire: Callable[[str], Proxy], until: Patience
) -> None:
    """The child hangs on no lock of a thread that is gone, and settles no write that its parent is waiting for."""
    between = wire(server_url)
    outcome: list[Any] = []
    with histstore.sync.RedisBackend.from_url(between.url, namespace=namespace) as backend:
        store = backend.store("run")
        store.load()

        def call() -> None:
            try:
                outcome.append(store.append(message("thread")))
            except histstore.HistoryStoreError as error:
                outcome.append(error)

        between.delay = 1.0
        sent = between.sent
        calling = threading.Thread(target=call)
        calling.start()
        until(lambda: store.unsettled is not None and between.sent > sent, "the write is on its way")
        between.delay = 0.0

        def child() -> list[str]:
            assert store.unsettled is not None
            store.update(lambda old: old)  # settles what is open first
            assert store.unsettled is None
            backend.close()
            return tokens_of(parent.backend.store("run").load().messages)

        assert in_a_fork(child) == ["parent"]
        calling.join(GUARD)
    # Had the child settled it, the parent's write would have been refused: it was never to be applied.
    assert isinstance(outcome[0], histstore.Revision), outcome
    assert parent.tokens("run") == ["parent", "thread"]


def test_a_fork_inside_a_lock(parent: Parent, raw: redis.Redis, namespace: str) -> None:
    """The child neither holds the lease nor gives it up, and is told so by name; leaving the body there is harmless."""
    store = parent.backend.store("run")
    scope = store.lock(ttl=3600) if parent.shell == "sync" else parent.do(lambda: made(store))
    lease = parent.do(scope.__enter__ if parent.shell == "sync" else scope.__aenter__)

    def child() -> list[str]:
        said = []

        def told(call: Callable[[], Any]) -> None:
            try:
                parent.do_in_child(call)
            except LockError as error:
                assert type(error) is LockError, error
                said.append(str(error))

        told(lambda: store.append(message("x"), lease=lease))
        told(lambda: lease.renew())
        told(lambda: lease.wait_lost())
        with pytest.raises(LockError):
            lease.check()
        assert lease.remaining() == 0
        if parent.shell == "sync":
            # The context came along.
            told(lambda: store.append(message("x")))
            told(lambda: parent.backend.store("run").lock().__enter__())
            scope.__exit__(None, None, None)
        else:
            parent.do_in_child(lambda: scope.__aexit__(None, None, None))
        with pytest.raises(LockedError):
            parent.do_in_child(lambda: parent.backend.store("run").append(message("x"), expected=ANY))
        parent.do_in_child(lambda: parent.backend.store("other").append(message("child")))
        parent.do_in_child(lambda: parent.backend.aclose())
        return said

    said = in_a_fork(child)
    assert len(said) == (5 if parent.shell == "sync" else 3), said
    for text in said:
        assert f"entered in process {os.getpid()}, of which this is a fork" in text
        assert "start this work outside of that lock" in text
        assert len(text) < 300
    assert not lease.lost
    parent.do(lambda: lease.renew())
    parent.do(lambda: store.append(message("held"), lease=lease, expected=ANY))
    parent.do(lambda: leave(scope))
    assert not raw.keys(f"{namespace}:*:lease")
    assert parent.tokens("run") == ["parent", "held"]
    assert parent.tokens("other") == ["child"]


async def made(store: Any) -> Any:
    return store.lock(ttl=3600, cancel=False)


def leave(scope: Any) -> Any:
    return (scope.__aexit__ if hasattr(scope, "__aexit__") else scope.__exit__)(None, None, None)


@pytest.mark.parametrize("shell", ["sync"])
def test_a_fork_inside_a_turn(parent: Parent) -> None:
    """What the child had to save in it is refused by name; a child with nothing to save leaves it like any body."""
    backend = parent.backend

    def fall_through(append: bool) -> str:
        with backend.store("run").turn(ttl=3600) as turn:
            turn.append(message("turn"))
            turn.save()
            reading, writing = os.pipe()
            with warnings.catch_warnings(action="ignore"):
                child = os.fork()
            if child == 0:
                try:
                    said = "left"
                    try:
                        with contextlib.ExitStack() as stack:
                            stack.push(turn_exit(turn))
                            if append:
                                turn.append(message("child"))
                    except LockError as error:
                        said = str(error)
                    os.write(writing, said.encode())
                finally:
                    os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as pipe:
                said = pipe.read()
            os.waitpid(child, 0)
            turn.append(message("parent"))
        return said

    def turn_exit(turn: Any) -> Any:
        # The very scope that the parent is in.
        (scope,) = [each for each in gc.get_objects() if type(each).__name__ == "TurnScope" and each._turn is turn]
        return scope.__exit__

    assert fall_through(append=False) == "left"
    assert "of which this is a fork" in fall_through(append=True)
    assert parent.tokens("run") == ["parent", "turn", "parent", "turn", "parent"]


@pytest.mark.parametrize("shell", ["sync"])
def test_a_child_leaves_a_lock_whose_guards_another_thread_held(parent: Parent) -> None:
    """A thread that is gone in the child may have been inside of the parent's books of leases, or of a store's lock."""
    store = parent.backend.store("run")
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        leases = parent.backend._leases
        with leases.registry.guard, leases.renewer.alarm._guard, leases.doorbell._guard, store._run.calls.lock:
            inside.set()
            done.wait(GUARD)

    with store.lock(ttl=3600) as lease:
        holding = threading.Thread(target=hold)
        holding.start()
        assert inside.wait(GUARD)

        def child() -> str:
            leave(scope)
            return tokens_of(store.load().messages)[-1]

        (scope,) = [each for each in gc.get_objects() if type(each).__name__ == "LeaseScope" and each._lease is lease]
        try:
            assert in_a_fork(child) == "parent"
        finally:
            done.set()
            holding.join(GUARD)


def test_a_child_leaves_what_was_open_to_its_parent(
    shell: str, server_url: str, namespace: str, wire: Callable[[str], Proxy]
) -> None:
    """A write of unknown outcome: the child's writes do not settle it. By name it can be settled in either."""
    between = wire(server_url)
    parent = Parent(shell, between.url, namespace)
    store = parent.backend.store("run")
    parent.do(lambda: store.append(message("a")))
    between.lose_replies(1, carries(SAVE))
    with pytest.raises(histstore.OutcomeUnknownError):
        parent.do(lambda: store.append(message("b"), retry=histstore.RetryPolicy(attempts=1)))

    def child() -> list[Any]:
        attempt = store.unsettled
        assert attempt is not None
        parent.do_in_child(lambda: store.append(message("c"), expected=ANY))
        assert store.unsettled is None
        return [parent.do_in_child(lambda it=it: store.resolve(it)).version for it in (None, attempt)]  # type: ignore[misc]

    assert in_a_fork(child) == [3, 2]
    assert store.unsettled is not None
    assert parent.do(lambda: store.resolve()).version == 2
    assert parent.tokens("run") == ["a", "b", "c"]
    parent.close()


def test_a_child_that_was_forked_without_hooks(parent: Parent, raw: redis.Redis) -> None:
    """Code in C forks without Python's hooks, as some application servers do: the process id gives it away."""
    before = connections(raw)

    def work(name: str, call: Callable[[Callable[[], Any]], Any], child: bool) -> None:
        for number in range(20):
            call(lambda: parent.backend.store(name).append(message(str(number)), expected=ANY))  # noqa: B023
            assert parent.tokens(name, child) == [str(each) for each in range(number + 1)]

    def in_child() -> None:
        work("child", parent.do_in_child, True)
        parent.do_in_child(lambda: parent.backend.aclose())

    seat = parent.backend._seats.all()[0]
    child = Child(in_child, ctypes.PyDLL(None).fork)
    work("parent", parent.do, False)
    assert child.said() is None
    work("later", parent.do, False)
    assert before <= connections(raw)

    def has_the_parents_seat() -> bool:
        async def here() -> Any:
            return parent.backend._seats.here()

        return (parent.backend._seats.here() if parent.shell == "sync" else asyncio.run(here())) is seat

    assert in_a_fork(has_the_parents_seat, ctypes.PyDLL(None).fork) is False


def test_a_child_with_a_reused_process_id(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descendant may have the id of an ancestor that is gone: the fork itself puts away what is not its own."""
    own = os.getpid()
    module: Any = histstore._async if parent.shell == "async" else histstore._sync  # type: ignore[attr-defined]
    seat = parent.backend._seats.all()[0]

    def child() -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: own)
            patch.setattr(module.seats, "getpid", lambda: own)
            assert not seat.leases.registry.here
            parent.do_in_child(lambda: parent.backend.store("run").append(message("child"), expected=ANY))
            assert parent.backend._seats._taken
            assert seat not in parent.backend._seats._taken.values()
            return parent.tokens("run", child=True)

    assert in_a_fork(child) == ["parent", "child"]


def test_fork_in_a_running_loop(server_url: str, namespace: str) -> None:
    """multiprocessing's "fork" in a coroutine: the child makes a loop of its own, inside of the parent's frames."""
    backend = histstore.RedisBackend.from_url(server_url, namespace=namespace)

    async def work(name: str) -> None:
        for number in range(10):
            await backend.store(name).append(message(f"{name}-{number}"), expected=ANY)

    async def main() -> list[Any]:
        await work("before")
        await asyncio.gather(*[backend.store("before").load() for _ in range(5)])
        children = [Child(lambda name=name: asyncio.run(work(name))) for name in "ab"]  # type: ignore[misc]
        await work("parent")
        for child in children:
            assert await asyncio.to_thread(child.said) is None
        found = [await backend.store(name).load() for name in ("before", "parent", "a", "b")]
        await backend.aclose()
        return [len(each.messages) for each in found if each is not None]

    assert asyncio.run(main()) == [10, 10, 10, 10]


# ----------------------------------------------------------------------------------- embedded servers


@pytest.mark.parametrize("kept", [True, False], ids=["folder", "temporary"])
def test_a_child_shares_the_embedded_server(shell: str, tmp_path: Any, kept: bool) -> None:
    """It works on the same runs; neither its end nor its `close` stops the server under its parent."""
    module: Any = histstore if shell == "async" else histstore.sync
    parent = Parent(shell, "redis://127.0.0.1:1", "x")
    parent.backend = module.RedisBackend.embedded(tmp_path / "data" if kept else None)
    parent.do(lambda: parent.backend.store("run").append(message("parent")))

    def use(close: bool) -> None:
        parent.do_in_child(lambda: parent.backend.store("run").append(message("child"), expected=ANY))
        if close:
            parent.do_in_child(lambda: parent.backend.aclose())

    for work in (lambda: use(True), lambda: use(False), lambda: parent.do_in_child(lambda: parent.backend.aclose())):
        assert in_a_fork(work) is None
        time.sleep(0.3)  # more than a keeper needs to see that nobody is left
        parent.do(lambda: parent.backend.store("run").append(message("parent"), expected=ANY))
    assert parent.tokens("run") == ["parent", "child", "parent", "child", "parent", "parent"]
    parent.close()


def test_a_child_that_comes_too_late_for_a_temporary_server_is_told(shell: str) -> None:
    """A new server in its place would be empty, and "no such conversation" would be a lie."""
    module: Any = histstore if shell == "async" else histstore.sync
    parent = Parent(shell, "redis://127.0.0.1:1", "x")
    parent.backend = module.RedisBackend.embedded()
    parent.do(lambda: parent.backend.store("run").append(message("parent")))
    go = os.pipe()

    def late() -> str:
        os.read(go[0], 1)
        with pytest.raises(histstore.BackendError, match="has ended with the process that started it") as caught:
            parent.do_in_child(lambda: parent.backend.store("run").load())
        assert len(str(caught.value)) < 300
        return "told"

    child = Child(late)
    parent.close()
    os.write(go[1], b".")
    assert child.said() == "told"
    for end in go:
        os.close(end)
