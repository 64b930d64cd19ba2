"""Clients that use the public API at random, and write down each call before they make it and what it came to.

Which rules a run is checked by, its name says: "chain" runs keep all their versions; "fresh" ones do, too, and are new
all the time; of "window" runs old messages are cut away and trimmed; "mortal" ones are deleted and made again.
"""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from histstore import (
    ANY,
    SEEN,
    ConversationSnapshot,
    HistoryStoreError,
    NotReplicatedError,
    OutcomeUnknownError,
    RetryPolicy,
    Revision,
    RevisionGoneError,
)

from ..history import message, tokens_of
from .journal import Journal
from .truth import digest

DEADLINE = 8.0
"""Seconds that any call tries."""
PATIENT = RetryPolicy(attempts=8, deadline=DEADLINE, base=0.01, cap=0.3)
HASTY = RetryPolicy(attempts=1, deadline=2.0)

TTLS = (0.4, 0.8, 1.5)
LONGEST_TTL = max(TTLS)
IDLE = 2.0
"""Seconds after which a store is not used any more: what it has seen would be more saves ago than runs remember."""
WAITS = (0, 0, 0.05, 0.3, 1.5)

CHAINS = 6
WINDOWS = 2
MORTALS = 3


@dataclass(frozen=True)
class World:
    """Which runs there are.

    Attributes:
        began: When it began; by this, and not by chance, clients meet on the same new runs.
        fresh: Seconds that a fresh run is used.
        epoch: Seconds that a mortal run is used.
    """

    began: float
    fresh: float = 0.5
    epoch: float = 15.0

    @property
    def chains(self) -> list[str]:
        """The runs that are used all the time, and keep all their versions."""
        return [f"chain-{number}" for number in range(CHAINS)]

    def run(self, kind: str, rng: random.Random) -> str:
        """Returns a run of this kind."""
        past = time.monotonic() - self.began
        if kind == "chain":
            return rng.choice(self.chains)
        if kind == "window":
            return f"window-{rng.randrange(WINDOWS)}"
        if kind == "fresh":
            return f"fresh-{int(past / self.fresh)}"
        return f"mortal-{rng.randrange(MORTALS)}-{int(past / self.epoch)}"


class _LeaveError(Exception):
    """Leaves the body of a lock or turn."""


@dataclass
class Said:
    """What a call came to.

    Attributes:
        number: Its number in the journal.
        value: What it returned.
        error: What it raised.
        open: Whether a write's outcome is not known.
        before: The store's unsettled attempt when the call began.
    """

    number: int
    value: Any = None
    error: BaseException | None = None
    open: bool = False
    before: Any = None

    @property
    def fine(self) -> bool:
        return self.error is None


def facts_of(value: Any, *, whole: bool) -> dict[str, Any]:
    """Returns what to write down of what a call returned or raised."""
    if isinstance(value, NotReplicatedError):
        value = value.revision
    if isinstance(value, Revision):
        return {"version": value.version, "etag": value.etag.hex()}
    if isinstance(value, ConversationSnapshot):
        tokens = tokens_of(value.messages)
        facts = facts_of(value.revision, whole=whole) | {"digest": digest(tokens)}
        return facts | {"found": tokens} if whole else facts
    if isinstance(value, bool):
        return {"returned": value}
    if hasattr(value, "snapshot"):  # a turn
        snapshot = value.snapshot if value.revision is not None else None
        return facts_of(snapshot, whole=whole) | {"holder": value.lease.holder}
    if hasattr(value, "fence") and hasattr(value, "holder"):
        return {"holder": value.holder}
    if isinstance(value, RevisionGoneError):
        named = {"requested": value.requested, "newest": value.newest}
        versions = {name: getattr(each, "version", each) for name, each in named.items()}
        return versions | {"text": str(value)[:200]}
    if isinstance(value, HistoryStoreError):
        facts = {"holder": getattr(value, "holder", None), "text": str(value)[:200]}
        return {name: fact for name, fact in facts.items() if fact is not None}
    return {"absent": True} if value is None else {}


class Client:
    """One writer, in a task or a thread of its own.

    Args:
        name: Begins its tokens.
        blocking: Whether it is one of the blocking twin, whose calls nothing interrupts.
        keeping: A backend that keeps all revisions.
        trimming: One that keeps none.
        journal: Where it writes down its calls.
        world: The runs.
        rng: Chance.
        stop: Says when to stop.
        pace: Seconds between two calls, on average.
    """

    kinds: ClassVar[dict[str, int]] = {"chain": 10, "fresh": 3, "window": 3, "mortal": 4}

    def __init__(
        self,
        name: str,
        blocking: bool,
        keeping: Any,
        trimming: Any,
        journal: Journal,
        world: World,
        rng: random.Random,
        stop: Callable[[], bool],
        pace: float = 0.0,
    ) -> None:
        self.name = name
        self.interrupts = 0.0 if blocking else 0.03
        self.keeping, self.trimming = keeping, trimming
        self.journal = journal
        self.world = world
        self.rng = rng
        self.stop = stop
        self.pace = pace
        self.stores: dict[str, Any] = {}
        self.used: dict[str, float] = {}
        self.seen: dict[str, Any] = {}
        self.count = 0

    async def live(self) -> None:
        """Makes calls until it is told to stop."""
        while not self.stop():
            run = self.world.run(self._pick(*self.kinds.items()), self.rng)
            await self._pick(*self.deeds(run))(run)
            if self.pace:
                await asyncio.sleep(self.rng.expovariate(1 / self.pace))

    def deeds(self, run: str) -> tuple[tuple[Any, int], ...]:
        """Returns what it does to a run, and how often it does each."""
        kind = run.partition("-")[0]
        return (
            (self.load, 14), (self.append, 22), (self.save, 10), (self.update, 9), (self.turn, 7), (self.lock, 7),
            *(((self.splice, 7), (self.overwrite, 1), (self.look, 9)) if kind in ("chain", "fresh") else ()),
            *(((self.slide, 14), (self.trim, 2)) if kind == "window" else ()),
            *(((self.delete, 10), (self.break_lease, 1)) if kind == "mortal" else ()),
        )  # fmt: skip

    def _pick(self, *choices: tuple[Any, int]) -> Any:
        return self.rng.choices([what for what, _ in choices], [weight for _, weight in choices])[0]

    # ------------------------------------------------------------------------------------- calling

    def token(self) -> str:
        self.count += 1
        return f"{self.name}.{self.count}"

    def backend(self, run: str) -> Any:
        return self.keeping if run.startswith(("chain", "fresh")) else self.trimming

    def store(self, run: str) -> Any:
        """Returns the store that it uses for a run; now and then a new one, which has seen nothing."""
        now = time.monotonic()
        if now - self.used.get(run, 0.0) > IDLE or self.rng.random() < 0.1:
            if len(self.stores) > 30:
                self.stores.clear()
                self.used.clear()
                self.seen.clear()
            self.stores[run] = self.backend(run).store(run)
            self.seen.pop(run, None)
        self.used[run] = now
        return self.stores[run]

    def retry(self) -> RetryPolicy:
        return HASTY if self.rng.random() < 0.1 else PATIENT

    async def call(
        self,
        kind: str,
        run: str,
        make: Callable[[], Awaitable[Any]],
        *,
        store: Any = None,
        tokens: Iterable[str] = (),
        interrupts: bool = True,
        **facts: Any,
    ) -> Said:
        """Makes a call, perhaps interrupts it, and writes down both.

        Args:
            kind: What to call it.
            run: The run.
            make: Makes it.
            store: The store, of a write.
            tokens: What it adds.
            interrupts: Whether it may be interrupted.
            **facts: What else to write down.
        """
        if tokens:
            facts["tokens"] = list(tokens)
        whole = run.startswith(("window", "mortal"))
        before = store.unsettled if store is not None else None
        said = Said(self.journal.call(self.name, kind, run, **facts), before=before)
        try:
            if interrupts and self.rng.random() < self.interrupts:
                async with asyncio.timeout(self.rng.choice((0.0, 0.001, 0.005, 0.05))):
                    said.value = await make()
            else:
                said.value = await make()
        except HistoryStoreError as error:
            said.error = error
            said.open = isinstance(error, OutcomeUnknownError)
            self.journal.end(said.number, type(error).__name__, **facts_of(error, whole=whole))
        except TimeoutError as error:
            said.error, said.open = error, store is not None
            self.journal.end(said.number, "interrupted")
        except asyncio.CancelledError:
            self.journal.end(said.number, "cancelled")
            said.open = store is not None
            self.cancelled = said
            raise
        except Exception as error:
            said.error = error
            self.journal.end(said.number, type(error).__name__, text=traceback.format_exc()[-2000:])
        else:
            self.journal.end(said.number, "ok", **facts_of(said.value, whole=whole))
        return said

    async def settle(self, run: str, store: Any, said: Said) -> None:
        """Asks what became of a write whose outcome is open; now and then leaves it to the store's next write."""
        if not said.open or self.rng.random() < 0.1:
            return
        attempt = said.error.attempt if isinstance(said.error, OutcomeUnknownError) else None
        if attempt is None and store is not None and said.before is not None and store.unsettled == said.before:
            self.journal.settled(said.number, "never")  # it was interrupted before its own request
            return
        if attempt is not None and (store is None or self.rng.random() < 0.5):
            store = self.backend(run).store(run)  # whoever has the attempt may ask
        if store is None:
            return
        for _ in range(4):
            asked = await self.call(
                "resolve", run, lambda: store.resolve(attempt, retry=PATIENT), interrupts=False, about=said.number
            )
            found = asked.error.revision if isinstance(asked.error, NotReplicatedError) else asked.value
            if asked.fine or isinstance(asked.error, NotReplicatedError):
                self.journal.settled(
                    said.number, "never" if found is None else "applied", **facts_of(found, whole=False)
                )
                return
            if isinstance(asked.error, RevisionGoneError):
                self.journal.settled(said.number, "gone")
                return
            await asyncio.sleep(0.02)

    async def write(self, kind: str, run: str, store: Any, make: Callable[[], Awaitable[Any]], **facts: Any) -> Said:
        """Makes a call that writes, and sees to it that its outcome is known."""
        said = await self.call(kind, run, make, store=store, **facts)
        await self.settle(run, store, said)
        return said

    # --------------------------------------------------------------------------------------- reads

    async def load(self, run: str) -> None:
        await self._loaded(run, self.store(run))

    async def _loaded(self, run: str, store: Any) -> Any:
        said = await self.call("load", run, lambda: store.load(retry=PATIENT))
        if not said.fine:
            return None
        self.seen[run] = said.value
        return said.value if said.value is not None else ConversationSnapshot()

    async def look(self, run: str) -> None:
        """Reads a part, or a past revision, or what is known about the run."""
        store = self.store(run)
        what = self.rng.randrange(4)
        known = self.seen.get(run)
        if what == 0 and known is not None:
            await self.call("load(at=)", run, lambda: store.load(at=known.revision, retry=PATIENT))
        elif what == 1:
            await self.call("read", run, lambda: store.read(-self.rng.randrange(1, 9), retry=PATIENT))
        elif what == 2:

            async def newest() -> None:
                async for _ in store.revisions(limit=5, retry=PATIENT):
                    pass

            await self.call("revisions", run, newest)
        else:
            await self.call("info", run, lambda: store.info(retry=PATIENT))

    # -------------------------------------------------------------------------------------- writes

    async def append(self, run: str) -> None:
        store, retry = self.store(run), self.retry()
        tokens = [self.token() for _ in range(self.rng.choice((1, 1, 1, 2)))]
        messages = [message(token) for token in tokens]
        expected = self._pick((SEEN, 4), (ANY, 5), (None, 2 if run.startswith(("fresh", "mortal")) else 0))
        # An open outcome is settled first, which moves what the store has seen.
        builds = expected is SEEN and store.unsettled is None and store.revision is not None
        await self.write(
            "append", run, store, lambda: store.append(*messages, expected=expected, retry=retry), tokens=tokens,
            **({"onto": store.revision.etag.hex()} if builds else {}),
        )  # fmt: skip

    async def save(self, run: str) -> None:
        store, retry = self.store(run), self.retry()
        snapshot = self.seen.get(run)
        if snapshot is None or self.rng.random() < 0.6:
            snapshot = await self._loaded(run, store)
            if snapshot is None:
                return
        if self.rng.random() < 0.2:  # nothing to write: it only compares
            if snapshot.revision is not None:
                await self.write("save unchanged", run, store, lambda: store.save(snapshot, retry=retry))
            return
        token = self.token()
        longer = snapshot.append(message(token))
        builds = {"onto": snapshot.revision.etag.hex()} if snapshot.revision is not None else {}
        said = await self.write("save", run, store, lambda: store.save(longer, retry=retry), tokens=[token], **builds)
        if said.fine:
            self.seen[run] = longer

    async def overwrite(self, run: str) -> None:
        """Saves what is built from scratch over whatever is there."""
        store, retry, token = self.store(run), self.retry(), self.token()
        snapshot = ConversationSnapshot([message(token)])
        await self.write("save", run, store, lambda: store.save(snapshot, expected=ANY, retry=retry), tokens=[token])

    async def update(self, run: str) -> None:
        store, token = self.store(run), self.token()
        runs = 0

        def change(snapshot: Any) -> Any:
            nonlocal runs
            runs += 1
            return (snapshot or ConversationSnapshot()).append(message(token) | {"run": runs})

        async def changes(snapshot: Any) -> Any:
            await asyncio.sleep(0)
            return change(snapshot)

        fn = changes if self.interrupts and self.rng.random() < 0.5 else change
        await self.write("update", run, store, lambda: store.update(fn, retry=PATIENT), tokens=[token])

    async def splice(self, run: str) -> None:
        """Cuts the front away where it has become long, or replaces the last message."""
        store, retry, token = self.store(run), self.retry(), self.token()
        snapshot = await self._loaded(run, store)
        if snapshot is None:
            return
        bounds = (0, 30) if len(snapshot.messages) > 60 else (-1, None)
        expected = self._pick((SEEN, 3), (ANY, 1))
        await self.write(
            "splice", run, store,
            lambda: store.splice(*bounds, message(token), expected=expected, retry=retry), tokens=[token],
        )  # fmt: skip

    async def slide(self, run: str) -> None:
        """Cuts the front of a window away; what it removes is written down."""
        store, retry, token = self.store(run), self.retry(), self.token()
        snapshot = await self._loaded(run, store)
        if snapshot is None or snapshot.revision is None:
            return
        cut = max(1, len(snapshot.messages) - 12)
        removes = tokens_of(snapshot.messages[:cut])
        if self.rng.random() < 0.5:
            shorter = snapshot.splice(0, cut).append(message(token))
            await self.write(
                "save", run, store, lambda: store.save(shorter, retry=retry), tokens=[token], removes=removes
            )
        else:
            await self.write(
                "splice", run, store,
                lambda: store.splice(0, cut, expected=snapshot.revision, retry=retry), removes=removes,
            )  # fmt: skip

    async def trim(self, run: str) -> None:
        store = self.store(run)
        await self.write("trim", run, store, lambda: store.trim(retry=PATIENT))

    async def delete(self, run: str) -> None:
        store, retry = self.store(run), self.retry()
        how = self.rng.randrange(3)
        if how == 0:
            backend = self.backend(run)
            said = await self.call("backend.delete", run, lambda: backend.delete(run, retry=retry), interrupts=False)
            await self.settle(run, None, said)
        elif how == 1:
            await self.write("delete", run, store, lambda: store.delete(retry=retry))
        else:
            snapshot = await self._loaded(run, store)
            if snapshot is None or snapshot.revision is None:
                return
            revision, seen = snapshot.revision, tokens_of(snapshot.messages)
            await self.write("delete", run, store, lambda: store.delete(expected=revision, retry=retry), deletes=seen)

    async def break_lease(self, run: str) -> None:
        await self.call("break_lease", run, lambda: self.backend(run).break_lease(run, retry=PATIENT))

    # -------------------------------------------------------------------------------------- leases

    async def lock(self, run: str) -> None:
        store = self.store(run)
        ttl, wait = self.rng.choice(TTLS), self.rng.choice(WAITS)
        renew = self.rng.random() < 0.9
        scope = store.lock(ttl=ttl, acquire_timeout=wait, renew=renew, retry=PATIENT)
        entered = await self.call("lock", run, scope.__aenter__, ttl=ttl)
        if not entered.fine:
            return
        lease = entered.value
        doings: list[Said] = []
        error: BaseException | None = None
        try:
            for _ in range(self.rng.randrange(4)):
                await self._work(run, store, lease, doings)
                await asyncio.sleep(self.rng.choice((0.0, 0.0, 0.002, 0.02)))
            if self.rng.random() < 0.02:
                await asyncio.sleep(ttl * 1.3)
        except BaseException as raised:
            error = raised
        await self._leave("unlock", run, scope, lease, error, store=None)
        for said in doings:
            await self.settle(run, store, said)

    async def _work(self, run: str, store: Any, lease: Any, doings: list[Said]) -> None:
        if self.rng.random() < 0.15:
            renewed = await self.call("renew", run, lambda: lease.renew())
            if not renewed.fine:
                raise _LeaveError
            return
        token = self.token()
        expected = self._pick((SEEN, 1), (ANY, 4))
        try:
            said = await self.call(
                "append", run, lambda: store.append(message(token), expected=expected, retry=PATIENT),
                store=store, tokens=[token], fence=lease.fence,
            )  # fmt: skip
        except asyncio.CancelledError:
            doings.append(self.cancelled)
            raise
        if said.open:
            doings.append(said)
            raise _LeaveError
        if not said.fine and self.rng.random() < 0.5:
            raise _LeaveError

    async def turn(self, run: str) -> None:
        store = self.store(run)
        ttl, wait = self.rng.choice(TTLS), self.rng.choice(WAITS)
        scope = store.turn(ttl=ttl, acquire_timeout=wait, retry=self.retry())
        entered = await self.call("turn", run, scope.__aenter__, ttl=ttl)
        if not entered.fine:
            return
        turn = entered.value
        doings: list[Said] = []
        error: BaseException | None = None
        last: list[str] = []
        try:
            for _ in range(self.rng.randrange(3)):
                await self._turn_save(run, store, turn, doings)
                await asyncio.sleep(self.rng.choice((0.0, 0.002, 0.02)))
            if self.rng.random() < 0.8:
                token = self.token()
                turn.append(message(token))
                last.append(token)
        except BaseException as raised:
            error = raised
        left = await self._leave("end of turn", run, scope, turn.lease, error, store=store, tokens=last)
        if error is None:
            doings.append(left)
        for said in doings:
            await self.settle(run, store, said)

    async def _turn_save(self, run: str, store: Any, turn: Any, doings: list[Said]) -> None:
        token = self.token()
        turn.append(message(token))

        async def save() -> Any:
            try:
                return await turn.save()
            except OutcomeUnknownError as unknown:
                if self.rng.random() < 0.5:
                    raise
                try:
                    return await turn.save()  # settles it first
                except (OutcomeUnknownError, NotReplicatedError):
                    raise  # this tells of the second attempt: the first one was never applied, or is the one told of
                except HistoryStoreError:
                    raise unknown from None

        try:
            said = await self.call("turn.save", run, save, store=store, tokens=[token], fence=turn.lease.fence)
        except asyncio.CancelledError:
            doings.append(self.cancelled)
            raise
        if not said.fine:
            doings.append(said)
            raise _LeaveError

    async def _leave(
        self, kind: str, run: str, scope: Any, lease: Any, error: BaseException | None, **facts: Any
    ) -> Said:
        """Leaves a lock or turn; what came out of its body, unless it was a loss or a reason to leave, goes on."""
        trace = error.__traceback__ if error is not None else None
        left, lost = lease.remaining(), lease.lost
        said = await self.call(
            kind, run, lambda: scope.__aexit__(type(error) if error is not None else None, error, trace),
            holder=lease.holder, left=left, lost=lost, fence=lease.fence, **facts,
        )  # fmt: skip
        if said.fine and error is not None and not isinstance(error, _LeaveError):
            raise error
        return said


class Writer(Client):
    """One that writes without leases, to runs that keep all their versions."""

    kinds: ClassVar[dict[str, int]] = {"chain": 5, "fresh": 1}

    def deeds(self, run: str) -> tuple[tuple[Any, int], ...]:
        return (
            (self.load, 10),
            (self.append, 30),
            (self.save, 15),
            (self.update, 10),
            (self.splice, 10),
            (self.look, 5),
        )


class Locker(Client):
    """One that writes under leases that others want as well, to runs that keep all their versions."""

    kinds: ClassVar[dict[str, int]] = {"chain": 1}

    def deeds(self, run: str) -> tuple[tuple[Any, int], ...]:
        return ((self.lock, 1), (self.turn, 1))


ROLES: Final[dict[str, type[Client]]] = {"any": Client, "writer": Writer, "locker": Locker}
