"""What a signal's handler raises in the midst of a call of the blocking twin: a task queue's time limit, say.

The storm takes a minute by `HISTSTORE_STORM_SECONDS=60 make test ARGS="-k storm"`, with another seed each time by
`HISTSTORE_STORM_SEED`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from histstore import BackendUnavailableError, ConversationSnapshot
from histstore.sync import JsonFileHistoryStore, RedisBackend

from ..support.history import message, tokens_of
from ..support.interrupts import TimeLimitError
from ..support.servers import Server
from .shells import GUARD

SECONDS: Final = os.environ.get("HISTSTORE_STORM_SECONDS")
SEED: Final = os.environ.get("HISTSTORE_STORM_SEED", "9")
ROOT: Final = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def alarm(handler: Callable[[], object], seconds: float) -> Iterator[None]:
    """Lets the handler run in so many seconds, once."""
    before = signal.signal(signal.SIGALRM, lambda *_signal: handler())
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_time_limit_leaves_the_write_unsettled(private_server: Callable[..., Server]) -> None:
    """It comes out as it is; the write that had been sent is still known to be open, and is settled next."""
    server = private_server()

    def over() -> None:
        raise TimeLimitError

    with RedisBackend.from_url(server.url) as backend:
        store = backend.store("run")
        store.save(ConversationSnapshot([message("a")]))
        server.freeze()
        try:
            with alarm(over, 0.3), pytest.raises(TimeLimitError):
                store.append(message("b"))
            assert store.unsettled is not None
            # Its answer comes later, over a connection that nobody uses any more.
            threading.Timer(0.2, server.thaw).start()
            settled = store.resolve()
        finally:
            server.thaw()
        found = backend.store("run").load()
        assert found is not None
        assert (len(found) == 2) == (settled is not None)
        assert store.unsettled is None


def test_a_handler_that_calls_what_it_has_interrupted_is_told_at_once(private_server: Callable[..., Server]) -> None:
    """It would wait for itself. The call that it has interrupted goes on, and so does one of another store."""
    server = private_server()
    found: list[Any] = []

    def called() -> None:
        with pytest.raises(BackendUnavailableError, match="a signal's handler") as caught:
            store.load()
        found.append(caught.value)
        threading.Timer(0.1, server.thaw).start()
        found.append(other.append(message("x")))

    with RedisBackend.from_url(server.url) as backend:
        store, other = backend.store("run"), backend.store("other")
        store.append(message("a"))
        other.load()
        server.freeze()
        with alarm(called, 0.1):
            assert store.append(message("b")).version == 2
        assert len(found) == 2
        assert tokens_of(store.load().messages) == ["a", "b"]  # type: ignore[union-attr]
        assert store.unsettled is None


def test_a_handler_that_calls_a_file_store_which_it_has_interrupted_is_told_at_once(tmp_path: Path) -> None:
    """The same: this thread holds the store's lock, as if a handler ran inside of one of its calls."""
    store: JsonFileHistoryStore[Any] = JsonFileHistoryStore(tmp_path / "run.json")
    with store._calls.lock:
        for call in (store.load, lambda: store.save(ConversationSnapshot())):
            with pytest.raises(BackendUnavailableError, match="a signal's handler"):
                call()
    store.save(ConversationSnapshot([message("a")]))


@pytest.mark.parametrize("threads", [0, 1], ids=["alone", "threads"])
def test_a_storm_of_signals(threads: int, private_server: Callable[..., Server]) -> None:
    """Handlers raise at random times over saves, turns, locks, loads and deletes, alone and beside other threads.

    No loss, no lie, nothing left behind, and no crash: see `tests/support/signal_storm.py`.
    """
    seconds = SECONDS or ("3", "5")[threads]
    server = private_server(hz="500")  # it looks as often whether a WAIT is over
    arguments = [server.url, "storm", seconds, SEED, str(threads)]
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.support.signal_storm", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            out, problems = child.communicate(timeout=float(seconds) + 2 * GUARD)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGABRT)  # where each thread stands is what there is to know of a hang
            out, problems = child.communicate()
    assert child.returncode == 0, f"status {child.returncode}\n{out}\n{problems}"
    told = json.loads(out)
    print(told)
    assert told["interrupted"] > 20


CALLS: Final = """
import contextlib, sys
from histstore import ANY, Durability, HistoryStoreError, RetryPolicy
from histstore.sync import RedisBackend

url, nobody = sys.argv[1:]
backends = [
    RedisBackend.from_url(url),
    RedisBackend.from_url(url, durability=Durability(replicas=1, timeout=0.01)),
    RedisBackend.from_url(nobody, retry=RetryPolicy(attempts=3, deadline=0.2)),
]
before = set(sys.modules)
for backend in backends:
    with backend:
        store = backend.store("run")
        for call in (
            lambda: store.append({"n": 1}, expected=ANY),
            lambda: store.save(store.load().append({"n": 2})),
            lambda: backend.store("run").append({"n": 3}),
            lambda: store.update(lambda snapshot: snapshot.append({"n": 4})),
            lambda: store.splice(0, 1),
            lambda: store.load(at=1),
            lambda: (store.read(-1), store.info(), list(store.revisions()), list(backend.runs())),
            lambda: (store.resolve(), store.trim(), backend.break_lease("run"), store.delete()),
        ):
            with contextlib.suppress(HistoryStoreError):
                call()
        with contextlib.suppress(HistoryStoreError), store.turn(acquire_timeout=1.0) as turn:
            turn.append({"n": 5})
            turn.lease.renew()
print(*sorted(set(sys.modules) - before))
"""


def test_no_call_imports_anything(private_server: Callable[..., Server]) -> None:
    """A handler that raises in the midst of an import leaves the module's lock held: other threads hang for good."""
    server = private_server()
    urls = [f"redis://localhost:{server.port}/0", "redis://localhost:1/0"]
    ran = subprocess.run([sys.executable, "-c", CALLS, *urls], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.split() == []
