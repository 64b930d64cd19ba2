"""A worker process: takes turns of whatever conversation is not finished, together with its rivals.

Nobody tells it which turn is next, and it asks no other worker: the run itself says how far it is. Of most runs it
takes turns as they come, and a rival may be faster. Of some it takes them under the run's lease, one worker at a time.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from dataclasses import replace
from typing import Any

from histstore import (
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    HistoryStoreError,
    JSONValue,
    LeaseLostError,
    OutcomeUnknownError,
    RedisBackend,
    RedisHistoryStore,
    RetryPolicy,
    Revision,
    Turn,
)

from .job import Event, Hold, Job
from .transcripts import TURN, Transcript, parse

CROWDED = 0.15
"""The part of its choices in which a worker goes where its rivals go: to the first unfinished run."""

QUEUED = 0.05
"""The part in which it goes to the first unfinished run of those that are worked on under their lease."""

LEASE_TTL = 1.0
"""Seconds that a lease lives without being renewed: the longest time for which a run waits for a frozen worker."""

RUN_TTL = 3600.0
"""Seconds after which a server forgets what a demonstration that was killed left there."""

ONE_TRY = RetryPolicy(attempts=1)
"""A lost answer shows at once, so that the demonstration can count it; by default the store tries again first."""


class Worker:
    """One worker.

    Args:
        job: What it was told.
        transcripts: Where the messages come from that a model would make.
        backend: Its connection to the server.
    """

    def __init__(self, job: Job, transcripts: list[Transcript], backend: RedisBackend) -> None:
        self.job = job
        self.transcripts = transcripts
        self.stores: list[RedisHistoryStore[dict[str, Any]]] = [backend.store(each.run) for each in transcripts]
        self.choices = random.Random(f"{job.seed} {job.worker}")  # noqa: S311 (no secret)
        self.started = 0
        self.lapsed = False

    async def work(self) -> None:
        """Takes turns until every run is finished, or until its lease was left to lapse: then others do."""
        unfinished = list(range(len(self.transcripts)))
        random.Random(self.job.seed).shuffle(unfinished)  # noqa: S311 (the same order for all)
        while unfinished and not self.lapsed:
            run = self.choose(unfinished)
            take = self.take_leased_turn if run in self.job.leased else self.take_turn
            if await take(run):
                unfinished.remove(run)

    def choose(self, unfinished: list[int]) -> int:
        """Chooses a run to take a turn of."""
        leased = [run for run in unfinished if run in self.job.leased]
        raced = [run for run in unfinished if run not in self.job.leased]
        hold, crowd = self.job.hold, self.choices.random()
        if hold is not None and self.started < hold.at:
            if hold.leased:
                return leased[0]  # a rival will soon be there, too
            leased, unfinished = [], raced
        if leased and crowd < QUEUED:
            return leased[0]
        if raced and crowd < QUEUED + CROWDED:
            return raced[0]
        return self.choices.choice(unfinished)

    def next(self, run: int, snapshot: ConversationSnapshot[dict[str, Any]]) -> tuple[Event, list[dict[str, Any]]]:
        """Returns what to tell about the turn that is next, and its messages; none: the run is finished."""
        done = len(snapshot.messages)
        version = snapshot.revision.version if snapshot.revision is not None else 0
        return Event("", run, done // TURN, version), self.transcripts[run].messages[done : done + TURN]

    async def think(self) -> None:
        """Takes the time that a model takes."""
        await asyncio.sleep(self.choices.uniform(0, 2 * self.job.pace))

    async def take_turn(self, run: int) -> bool:
        """Takes a run's next turn, whichever that is by then; returns whether there was none left."""
        retry = False
        while True:
            snapshot = await self.stores[run].load() or ConversationSnapshot[dict[str, Any]]()
            event, messages = self.next(run, snapshot)
            if not messages:
                return True
            if retry:
                say(replace(event, kind="retry"))
            await self.think()
            if await self.save(event, snapshot, messages):
                return False
            retry = True

    async def take_leased_turn(self, run: int) -> bool:
        """Waits in line for a run, then takes its next turn; returns whether there was none left."""
        turn: Turn[dict[str, Any]] | None = None
        event, loaded, asked = Event("", run), None, time.monotonic()
        try:
            async with self.stores[run].turn(ttl=LEASE_TTL) as turn:
                event, messages = self.next(run, turn.snapshot)
                loaded = turn.revision
                if not messages:
                    return True
                say(replace(event, kind="granted", waited=time.monotonic() - asked))
                await self.think()
                turn.append(*messages)
                turn.replace(turn.snapshot.with_meta(meta_of(event.turn, self.job.worker)))
                if self.starts() is not None:
                    say(replace(event, kind="holding"))
                    wait()  # here it is frozen: nobody renews its lease
                    self.lapsed = True
            outcome = "saved"
        except HistoryStoreError as error:
            outcome = await self.met(run, error)
            if turn is not None and turn.revision != loaded:
                outcome = "saved"  # and lost after that, at the end of the turn
        say(replace(event, kind=outcome))
        return False

    def starts(self) -> Hold | None:
        """Counts a turn that is about to be saved; returns where it stands still in it, if it does."""
        self.started += 1
        hold = self.job.hold
        return hold if hold is not None and hold.at == self.started else None

    async def save(
        self, event: Event, snapshot: ConversationSnapshot[dict[str, Any]], messages: list[dict[str, Any]]
    ) -> bool:
        """Saves a turn onto the revision that was loaded; returns whether it is stored."""
        store = self.stores[event.run]
        sending: asyncio.Task[Revision] | None = None
        hold = self.starts()
        if hold is not None:
            if hold.sent:
                sending = asyncio.create_task(self.send(store, event.turn, snapshot, messages))
                while store.unsettled is None and not sending.done():
                    await asyncio.sleep(0)  # the step in which it is sent, and no further
            say(replace(event, kind="holding"))
            wait()  # here it is killed, or frozen: nothing in this process moves
        try:
            await (sending or self.send(store, event.turn, snapshot, messages))
            outcome = "saved"
        except HistoryStoreError as error:
            outcome = await self.met(event.run, error)
        say(replace(event, kind=outcome))
        return outcome in ("saved", "applied")

    async def met(self, run: int, error: HistoryStoreError) -> str:
        """Returns what a turn came to whose save, or whose lease, failed."""
        match error:
            case ConflictError():
                return "conflict"
            case LeaseLostError():
                return "lost"
            case OutcomeUnknownError():
                return "applied" if await self.stores[run].resolve(error.attempt) is not None else "never"
            case BackendUnavailableError():
                return "unavailable"
        raise error

    async def send(
        self,
        store: RedisHistoryStore[dict[str, Any]],
        turn: int,
        snapshot: ConversationSnapshot[dict[str, Any]],
        messages: list[dict[str, Any]],
    ) -> Revision:
        """Saves a turn: the snapshot grown by it, or the turn alone. On the wire the two are alike."""
        meta = meta_of(turn, self.job.worker)
        if turn % 2:
            return await store.save(snapshot.append(*messages).with_meta(meta), retry=ONE_TRY)
        return await store.append(*messages, meta=meta, expected=snapshot.revision, retry=ONE_TRY)


def meta_of(turn: int, worker: int) -> dict[str, JSONValue]:
    """Returns what is saved with a turn: which it is, and who took it."""
    return {"turn": turn, "worker": worker}


def say(event: Event) -> None:
    """Tells the supervisor; at once, since this process may be killed at any moment."""
    data = event.dump()
    while data:
        data = data[os.write(1, data) :]


def wait() -> None:
    """Waits for the supervisor's word, and ends when the supervisor has gone."""
    if not sys.stdin.buffer.readline():
        raise BrokenPipeError


async def main() -> None:
    """Reads the job and the transcripts, works, and says what happened."""
    job = Job.parse(sys.stdin.buffer.readline())
    count = int(sys.stdin.buffer.readline())
    text = b"".join(sys.stdin.buffer.readline() for _ in range(count)).decode()
    transcripts = parse(text, "transcripts")
    kept = max(each.turns for each in transcripts)  # so that it can be told afterwards who took which turn
    async with RedisBackend.from_url(job.url, namespace=job.namespace, run_ttl=RUN_TTL, keep_revisions=kept) as backend:
        worker = Worker(job, transcripts, backend)
        await worker.stores[0].info()  # connects
        say(Event("ready"))
        wait()
        await worker.work()
    say(Event("finished"))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except BrokenPipeError:
        os._exit(1)
    except HistoryStoreError as error:
        say(Event("failed", text=f"{type(error).__name__}: {error}"))
        sys.exit(1)
