"""A storm of signals whose handler raises, over the calls of the blocking twin; a process of its own.

    python -m tests.support.signal_storm URL NAMESPACE SECONDS SEED THREADS

The main thread makes calls of all kinds on runs of its own. A timer's signal comes every 0.2 to 5 milliseconds, and
its handler raises, unless the main thread is just writing down what it was told. THREADS times three other threads,
which Python spares the signals, share its backends and one of its stores, and contend with it for leases. At the end
the logs are held against what everybody was told. Prints what happened as JSON; a violation is an error, and a crash
the exit status.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from histstore import (
    ANY,
    ConflictError,
    ConversationSnapshot,
    Durability,
    NotReplicatedError,
    RetryPolicy,
    Revision,
)
from histstore.sync import RedisBackend, RedisHistoryStore

from .history import History, message, tokens_of

PATIENCE = 20.0
"""Seconds within which whatever is waited for has to come."""
RETRY = RetryPolicy(attempts=6, deadline=PATIENCE, base=0.002, cap=0.02)
LONGEST = 400
"""Messages of a run before the next one is begun."""


class TimeLimitError(Exception):
    """What a task queue raises in a worker that takes too long."""


class ShutdownError(BaseException):
    """What is raised to end a program, as KeyboardInterrupt is."""


class Storm:
    """The timer. While `hot` is true its signal raises."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.hot = False
        self.raised = 0
        signal.signal(signal.SIGALRM, self._strike)

    def begin(self) -> None:
        sys.unraisablehook = self._swallowed
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    def end(self) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def _strike(self, *_signal: Any) -> None:
        # Often it comes again while the last one is cleared up after.
        again = self._rng.uniform(0.0002, 0.005) if self._rng.random() < 0.8 else self._rng.uniform(0.00002, 0.0002)
        signal.setitimer(signal.ITIMER_REAL, again)
        if self.hot:
            self.raised += 1
            raise self._rng.choice((TimeLimitError, ShutdownError))

    def _swallowed(self, error: Any) -> None:
        """Notes what was raised where nobody can be told: in a finalizer of redis-py's, say."""
        if error.exc_type not in (TimeLimitError, ShutdownError, ResourceWarning):
            sys.__unraisablehook__(error)

    def over(self, call: Callable[[], Any]) -> tuple[bool, Any]:
        """Makes a call in the storm; returns whether it was interrupted, and what it returned."""
        try:
            self.hot = True
            found = call()
            self.hot = False
        except (TimeLimitError, ShutdownError):
            self.hot = False
            return True, None
        except BaseException:
            self.hot = False
            raise
        return False, found


class Main:
    """What the main thread does in the storm."""

    def __init__(self, storm: Storm, backends: list[RedisBackend], rival: RedisBackend, rng: random.Random) -> None:
        self.storm = storm
        self.backends = backends
        self.rival = rival
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self.logs: dict[str, History] = {}
        self.shared: RedisHistoryStore[Any] | None = None
        self._numbers = iter(range(10**9))
        self.stores = [self._begin(backend) for backend in backends]

    def _begin(self, backend: RedisBackend) -> RedisHistoryStore[Any]:
        run = f"main {next(self._numbers)}"
        self.logs[run] = History()
        return backend.store(run)

    def step(self) -> None:
        """Makes one call, and writes down what it was told."""
        place = self.rng.randrange(len(self.stores))
        store = self.stores[place]
        if self.rng.random() < 1 / LONGEST:
            store = self.stores[place] = self._begin(self.backends[place])
        kinds = (self._append, self._append, self._save, self._update, self._turn, self._turns_save)
        others = (self._load, self._read, self._lock, self._delete, *([self._elsewhere] if self.shared else []))
        kind = self.rng.choice((*kinds, *others))
        self.counts[kind.__name__] += 1
        kind(store)

    def _write(self, store: RedisHistoryStore[Any], call: Callable[[str], Any]) -> None:
        token = f"{next(self._numbers)}"
        before = store.revision
        note = self.logs[store.run_id].append("main", token)
        try:
            interrupted, _ = self.storm.over(lambda: call(token))
        except NotReplicatedError as error:
            note.saved(error.revision)
            return
        except BaseException:
            note.settle(None)
            raise
        if not interrupted:
            note.saved(None)
            return
        self.counts["interrupted"] += 1
        note.settle(self._resolved(store, before))

    def _resolved(self, store: RedisHistoryStore[Any], before: Revision | None) -> Revision | None:
        """Returns what became of an interrupted write, which may take some tries: they are interrupted, too."""
        while True:
            again = self.rng.random() < 0.5
            try:
                interrupted, found = self.storm.over(store.resolve) if again else (False, store.resolve())
            except NotReplicatedError as error:
                interrupted, found = False, error.revision
            if not interrupted:
                assert store.unsettled is None
                # One that was interrupted before it had done anything leaves the result of the write before.
                self.counts["not begun"] += found is not None and found == before
                return found if found != before else None

    def _free(self, store: RedisHistoryStore[Any]) -> None:
        """Asserts that an interrupted lock has left nothing behind."""
        with store.lock(acquire_timeout=0):
            pass

    def _append(self, store: RedisHistoryStore[Any]) -> None:
        self._write(store, lambda token: store.append(message(token)))

    def _save(self, store: RedisHistoryStore[Any]) -> None:
        snapshot = store.load() or ConversationSnapshot[Any]()
        self._write(store, lambda token: store.save(snapshot.append(message(token))))

    def _update(self, store: RedisHistoryStore[Any]) -> None:
        empty = ConversationSnapshot[Any]()
        self._write(store, lambda token: store.update(lambda old: (old or empty).append(message(token))))

    def _turn(self, store: RedisHistoryStore[Any]) -> None:
        def take(token: str) -> None:
            with store.turn(acquire_timeout=0, ttl=5) as turn:
                turn.append(message(token))

        self._write(store, take)
        self._free(store)

    def _turns_save(self, store: RedisHistoryStore[Any]) -> None:
        def take(token: str) -> None:
            with store.turn(acquire_timeout=0, ttl=5) as turn:
                turn.append(message(token))
                try:
                    turn.save()
                except TimeLimitError:
                    self.counts["saved again"] += 1
                    turn.save()

        self._write(store, take)
        self._free(store)

    def _load(self, store: RedisHistoryStore[Any]) -> None:
        anew = self.rng.random() < 0.3
        note = self.logs[store.run_id].load("main")
        reader = self.rng.choice(self.backends).store(store.run_id) if anew else store
        interrupted, found = self.storm.over(reader.load)
        if not interrupted:
            note.returned(found)

    def _read(self, store: RedisHistoryStore[Any]) -> None:
        self.storm.over(lambda: (store.read(-3), store.info(), list(store.revisions(limit=3))))

    def _lock(self, store: RedisHistoryStore[Any]) -> None:
        def hold() -> None:
            with store.lock(acquire_timeout=0, ttl=5) as lease:
                lease.check()
                lease.renew()

        self.storm.over(hold)
        self._free(store)

    def _delete(self, _store: RedisHistoryStore[Any]) -> None:
        store = self.rng.choice(self.backends).store(f"deleted {next(self._numbers)}")
        with contextlib.suppress(NotReplicatedError):
            store.append(message("x"))
        interrupted, _ = self.storm.over(store.delete)
        if interrupted:
            self._resolved(store, None)
        # A run that is there is as this store remembers it, and one that is gone is None to it.
        gone = self.rival.store(store.run_id).load() is None
        assert gone == (store.revision is None), "what a delete came to"
        assert gone or interrupted

    def _elsewhere(self, _store: RedisHistoryStore[Any]) -> None:
        """Waits for a lease that the threads want, too, and appends to the store that they share."""

        def hold() -> None:
            with self.backends[0].store("contended").lock(ttl=5, acquire_timeout=PATIENCE) as lease:
                lease.check()

        shared = self.shared
        assert shared is not None
        self.storm.over(hold)
        self.storm.over(lambda: shared.append(message("main"), expected=ANY))


class Others:
    """Threads that share the main thread's backends and one of its stores; no signal interrupts them."""

    def __init__(self, backend: RedisBackend, durable: RedisBackend, seconds: float, threads: int) -> None:
        self.backend = backend
        self.durable = durable.store("durable")
        self.shared = backend.store("shared")
        self.told: list[str] = []
        self.committed: list[str] = []
        self.errors: list[BaseException] = []
        self.turns = 0
        self._end = time.monotonic() + seconds
        works = (self._append, self._commit, self._hold) * threads
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in works]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE * 2)
            assert not thread.is_alive(), "a thread hangs"
        if self.errors:
            raise self.errors[0]

    def _guarded(self, work: Callable[[str], None]) -> None:
        number = 0
        try:
            while time.monotonic() < self._end:
                work(f"{threading.get_ident()} {number}")
                number += 1
        except BaseException as error:
            self.errors.append(error)

    def _append(self, token: str) -> None:
        try:
            self.shared.append(message(token), expected=ANY)
        except ConflictError:
            return
        self.told.append(token)
        time.sleep(0.005)

    def _commit(self, token: str) -> None:
        """Shares the connection for durable writes with the main thread, which may be the one that sends."""
        with contextlib.suppress(ConflictError):
            try:
                self.durable.append(message(token), expected=ANY)
            except NotReplicatedError:
                self.committed.append(token)

    def _hold(self, _token: str) -> None:
        # Who leaves the queue, or a lease, at the wrong moment keeps the others for a second or so.
        with self.backend.store("contended").turn(ttl=5, acquire_timeout=PATIENCE) as turn:
            turn.append(message("held"))
            self.turns += 1
        time.sleep(0.005)


def main(url: str, namespace: str, seconds: float, seed: int, threads: int) -> None:
    rng = random.Random(seed)
    storm = Storm(random.Random(seed + 1))
    options: dict[str, Any] = {"namespace": namespace, "retry": RETRY}
    durable = Durability(replicas=1, timeout=0.002)
    rival = RedisBackend.from_url(url, **options)
    plain = RedisBackend.from_url(f"{url}?max_connections=3", **options)
    waiting = RedisBackend.from_url(f"{url}?max_connections=2", durability=durable, **options)
    mine = Main(storm, [plain, plain, waiting], rival, rng)
    others = Others(plain, waiting, seconds, threads)
    mine.shared = others.shared if threads else None
    began = time.monotonic()
    others.begin()
    storm.begin()
    while time.monotonic() < began + seconds:
        mine.step()
    storm.end()
    others.join()
    assert gc.isenabled()
    for run, history in mine.logs.items():
        found = rival.store(run).load()
        history.check(tokens_of(found.messages) if found is not None else (), f"of {run}, seed {seed}")
    for run, told in (("shared", others.told), ("durable", others.committed)):
        found = rival.store(run).load()
        stored = Counter(tokens_of(found.messages) if found is not None else ())
        assert all(stored[token] == 1 for token in told), f"a thread's append to {run} is lost, or doubled"
    turns = rival.store("contended").load()
    assert (len(turns) if turns is not None else 0) == others.turns, "a thread's turn is lost, or doubled"
    for run in [*mine.logs, "contended", "shared"]:
        with rival.store(run).lock(acquire_timeout=PATIENCE):
            pass
    for backend in (plain, waiting, rival):
        end = time.monotonic() + PATIENCE
        while backend._runner.connections[0]:
            assert time.monotonic() < end, "a connection is in use for ever"
        backend.close()
        assert backend._runner.connections == (0, 0)
    end = time.monotonic() + PATIENCE
    while any(thread.name.startswith("histstore-") for thread in threading.enumerate()):
        assert time.monotonic() < end, f"threads are left: {threading.enumerate()}"
    print(
        json.dumps(
            {
                "seconds": seconds,
                "seed": seed,
                "raised": storm.raised,
                "appends": sum(map(len, (history.appends for history in mine.logs.values()))),
                "by threads": len(others.told) + len(others.committed) + others.turns,
                **dict(mine.counts),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
