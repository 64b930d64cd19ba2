"""A signal's handler raises at each bytecode of a call of the blocking twin, once: what is told stays true.

Every bytecode takes minutes. `make test` tries a sample of them, another one for each call;
`HISTSTORE_INTERRUPTS=all make test ARGS="-k interrupts"` tries all.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import redis

from histstore import ANY, ConversationSnapshot, Revision
from histstore.sync import RedisBackend, RedisHistoryStore

from ..support.history import message, tokens_of
from ..support.interrupts import TimeLimitError, Tripwire
from .shells import FAST, GUARD, keys_of

# Sockets and files that redis-py has just opened, or whose close() is interrupted, Python closes when it frees them.
pytestmark = [pytest.mark.alone, pytest.mark.filterwarnings("ignore::ResourceWarning")]

STEP: Final = 1 if os.environ.get("HISTSTORE_INTERRUPTS") == "all" else 11
"""How many bytecodes further the next one stands that is tried."""
NEVER: Final = 10**9


@dataclass
class Scene:
    """A run of two messages, a store that knows it, and what looks on from outside.

    Attributes:
        mine: The backend whose call is interrupted.
        rival: Another worker's.
        raw: What looks behind the library's back.
        run: The run's id.
        store: The store whose call is interrupted.
        saved: What is to be saved, if it is a snapshot.
    """

    mine: RedisBackend
    rival: RedisBackend
    raw: redis.Redis
    run: str
    store: RedisHistoryStore[Any]
    saved: ConversationSnapshot[Any] | None = None

    def begin(self) -> None:
        self.store.append(message("a"))
        self.store.load()

    def now(self) -> list[str]:
        """Returns what a worker that knows nothing loads."""
        found = self.rival.store(self.run).load()
        return tokens_of(found.messages) if found is not None else []


def _save(scene: Scene) -> None:
    assert scene.saved is not None
    scene.store.save(scene.saved)


def _save_all(scene: Scene) -> None:
    assert scene.saved is not None
    scene.store.save(scene.saved, expected=ANY)


def _append(scene: Scene) -> None:
    scene.store.append(message("new"))


def _append_over_a_new_connection(scene: Scene) -> None:
    scene.store.append(message("new"))


def _splice(scene: Scene) -> None:
    scene.store.splice(0, 0, message("new"))


def _update(scene: Scene) -> None:
    scene.store.update(lambda snapshot: snapshot.append(message("new")))  # type: ignore[union-attr]


def _delete(scene: Scene) -> None:
    scene.store.delete()


def _load(scene: Scene) -> None:
    scene.store.load()


def _full_load(scene: Scene) -> None:
    assert len(scene.mine.store(scene.run).load()) == 1  # type: ignore[arg-type]


def _read(scene: Scene) -> None:
    assert scene.store.read(-1) is not None


def _turn(scene: Scene) -> None:
    with scene.store.turn(acquire_timeout=0) as turn:
        turn.append(message("new"))


def _lock(scene: Scene) -> None:
    with scene.store.lock(acquire_timeout=0) as lease:
        lease.check()


def _waiting_lock(scene: Scene) -> None:
    with scene.store.lock(acquire_timeout=30) as lease:
        lease.check()


def _resolve(scene: Scene) -> None:
    scene.store.resolve()


def _resolve_applied(scene: Scene) -> None:
    scene.store.resolve()


def _turn_again(scene: Scene) -> None:
    """A body that goes on after a save of its turn was interrupted, and saves again."""
    with scene.store.turn(acquire_timeout=0) as turn:
        turn.append(message("new"))
        try:
            turn.save()
        except TimeLimitError:
            turn.save()
            raise


CALLS: Final[dict[str, Callable[[Scene], None]]] = {
    "save": _save,
    "save all": _save_all,
    "append": _append,
    "splice": _splice,
    "update": _update,
    "delete": _delete,
    "load": _load,
    "full load": _full_load,
    "read": _read,
    "resolve": _resolve,
    "resolve applied": _resolve_applied,
    "turn": _turn,
    "turn again": _turn_again,
    "lock": _lock,
    "waiting lock": _waiting_lock,
}


NO_WRITES: Final = (_load, _full_load, _read, _lock, _waiting_lock)
ENTRY: Final = 16
"""Bytecodes, those of the test included, within which a write has begun."""


@pytest.fixture
def scenes(server_url: str, namespace: str, raw: redis.Redis) -> Iterator[Callable[[], Scene]]:
    """Makes scenes with runs of their own."""
    numbers = itertools.count()
    with (
        RedisBackend.from_url(f"{server_url}?max_connections=3", namespace=namespace, retry=FAST) as mine,
        RedisBackend.from_url(server_url, namespace=namespace, retry=FAST) as rival,
    ):

        def make() -> Scene:
            run = f"run {next(numbers)}"
            scene = Scene(mine, rival, raw, run, mine.store(run))
            scene.begin()
            return scene

        yield make


@pytest.mark.parametrize("name", CALLS)
def test_what_is_told_is_true_wherever_a_call_is_interrupted(name: str, scenes: Callable[[], Scene]) -> None:
    """The write is stored exactly if `resolve()` says so; the same store and another worker go on at once."""
    reached = _each_bytecode(CALLS[name], scenes, offset=list(CALLS).index(name) % STEP + 1)
    assert reached > 100 / STEP


def test_what_is_told_is_true_where_opening_a_connection_is_interrupted(scenes: Callable[[], Scene]) -> None:
    """The same; redis-py opens connections, which takes many more bytecodes."""
    _each_bytecode(_append_over_a_new_connection, scenes, offset=1, step=STEP * 20)


def test_whoever_waits_later_is_heard_where_waiting_is_interrupted(
    scenes: Callable[[], Scene], server_url: str, namespace: str
) -> None:
    """The first who waits opens the doorbell. Whatever became of that, the next who waits is told of a hand-over."""
    for after in itertools.count(400, STEP * 10):
        with RedisBackend.from_url(server_url, namespace=namespace, retry=FAST) as mine:
            scene = scenes()
            scene.mine, scene.store = mine, mine.store(scene.run)
            scene.store.load()
            tripwire = Tripwire(after)
            with tripwire.armed(), _holding(scene), contextlib.suppress(TimeLimitError):
                tripwire.run(functools.partial(_waiting_lock, scene))
            with _holding(scene):
                _waiting_lock(scene)
            assert not mine._leases.doorbell._waiters
        if not tripwire.fired:
            break


def test_closing_gives_up_what_an_interrupted_exit_has_left(
    scenes: Callable[[], Scene], server_url: str, namespace: str
) -> None:
    """The handler raises while the lease is given up, and again at once: then nobody but `close` is left to do it."""
    for after in itertools.count(1, STEP):
        with RedisBackend.from_url(server_url, namespace=namespace, retry=FAST) as mine:
            scene = scenes()
            scene.mine, scene.store = mine, mine.store(scene.run)
            scene.store.load()
            tripwire = Tripwire(after, 1)
            with tripwire.armed(), contextlib.suppress(TimeLimitError):
                # In a context of its own: this one would remember the lease.
                tripwire.run(functools.partial(contextvars.Context().run, _lock, scene))
        lease = keys_of(namespace, scene.run).lease
        assert not scene.raw.exists(lease), f"bytecode {after}"
        if not tripwire.fired:
            break


@pytest.mark.parametrize(
    "name",
    ["append", "delete", "lock", *(pytest.param(name, marks=pytest.mark.long) for name in ("turn", "waiting lock"))],
)
def test_a_second_signal_while_the_first_is_cleared_up_after(name: str, scenes: Callable[[], Scene]) -> None:
    """The same, where the handler raises again soon after it has raised."""
    for again in (1, 2, 3, 5, 8, 13, 21, 40, 80, 200):
        _each_bytecode(CALLS[name], scenes, offset=again % STEP + 1, again=again, step=STEP * 5)


def _each_bytecode(
    call: Callable[[Scene], None], scenes: Callable[[], Scene], *, offset: int, again: int = 0, step: int = STEP
) -> int:
    """Interrupts a call before every `step`-th of its bytecodes, and looks at the rest; returns how often."""
    if call in (_resolve, _resolve_applied):
        scenes = functools.partial(_left_open, scenes, call is _resolve_applied)
    _interrupt(call, scenes(), NEVER, 0)  # what is made once, connections say, is there already
    for tried in itertools.count():
        if not _interrupt(call, scenes(), offset + tried * step, again):
            return tried
    raise AssertionError


def _interrupt(call: Callable[[Scene], None], scene: Scene, after: int, again: int) -> bool:
    tripwire = Tripwire(after, again)
    holder = _holding(scene) if call is _waiting_lock else contextlib.nullcontext()
    before = scene.store.revision
    if call is _save:
        scene.saved = scene.store.load().append(message("new"))  # type: ignore[union-attr]
    elif call is _append_over_a_new_connection:
        scene.mine._runner.transport._connections._drop_idle()
    elif call is _save_all:
        scene.saved = ConversationSnapshot([message("new")])
    with tripwire.armed():
        try:
            with holder:
                tripwire.run(lambda: call(scene))
        except TimeLimitError as error:
            # Its traceback, with all that its frames hold, is alive meanwhile, as in a caller's `except`.
            _look(scene, call, before, after, f"bytecode {after}, {again}: {error!r}")
            return True
    _look(scene, call, before, after, f"bytecode {after}, {again}: it returned")
    return tripwire.fired > 0


def _left_open(scenes: Callable[[], Scene], applied: bool) -> Scene:
    """Returns a scene whose store was interrupted in an append, before it was sent or when it was answered."""
    for after in itertools.count(_OPENS[applied]):
        scene = scenes()
        tripwire = Tripwire(after)
        with tripwire.armed(), contextlib.suppress(TimeLimitError):
            tripwire.run(functools.partial(_append, scene))
        assert tripwire.fired
        if scene.store.unsettled is not None and ("new" in scene.now()) == applied:
            _OPENS[applied] = after - 10  # the next one may take a few steps less
            scene.mine.store("any").load()  # over a new connection
            return scene
    raise AssertionError


_OPENS: Final = {False: 1, True: 1}


@contextlib.contextmanager
def _holding(scene: Scene) -> Iterator[None]:
    """Lets another worker hold the run until somebody waits for it, or for a moment."""
    taken, over = threading.Event(), threading.Event()
    queue = keys_of(scene.mine.namespace, scene.run).queue

    def hold() -> None:
        with scene.rival.store(scene.run).lock():
            taken.set()
            while not scene.raw.llen(queue) and not over.wait(0.001):
                pass

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(GUARD)
    try:
        yield
    finally:
        over.set()
        thread.join()


def _until(condition: Callable[[], bool], note: str) -> None:
    end = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < end, note
        time.sleep(0.001)


def _look(scene: Scene, call: Callable[[Scene], None], before: Revision | None, after: int, note: str) -> None:
    store = scene.store
    settled = store.resolve()
    # A signal that comes before the call has done anything leaves what is known of the write before.
    told = store.revision is None if call is _delete else settled is not None and settled != before
    assert told or settled is None or after <= ENTRY or call in NO_WRITES, f"{note}: {settled} is the write before"
    found = scene.now()
    assert told == (found == [] if call is _delete else "new" in found), f"{note}; resolved: {settled}, stored: {found}"
    assert len(set(found)) == len(found), note
    assert store.unsettled is None, note
    assert store.resolve() == settled, note
    # The store goes on, with what it knows: no lock and no lease is left, and what it remembers is true.
    store.append(message("next"))
    assert scene.now() == [*found, "next"], note
    assert tokens_of(store.load().messages) == [*found, "next"], note  # type: ignore[union-attr]
    with scene.mine.store(scene.run).lock(acquire_timeout=0):
        pass
    with scene.rival.store(scene.run).lock(acquire_timeout=1.5):  # who leaves a queue is skipped in a second
        pass
    _until(lambda: scene.mine._runner.connections[0] == 0, note)  # a lease may be given up in the background
    assert gc.isenabled(), note
    leases = scene.mine._leases
    for left in (
        leases.registry.pending,
        leases.registry.held,
        leases.releaser.unfinished,
        leases.acquirer._lines,
        leases.doorbell._waiters,
    ):
        assert not left, note
