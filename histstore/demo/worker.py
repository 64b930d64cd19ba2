"""A worker process: takes turns of whatever conversation is not finished, together with its rivals.

Nobody tells it which turn is next, and it asks no other worker: the run itself says how far it is.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from typing import Any

from histstore import (
    BackendUnavailableError,
    ConflictError,
    ConversationSnapshot,
    HistoryStoreError,
    JSONValue,
    OutcomeUnknownError,
    RedisBackend,
    RedisHistoryStore,
    RetryPolicy,
    Revision,
)

from .job import Event, Job
from .transcripts import TURN, Transcript, parse

CROWDED = 0.15
"""The part of its choices in which a worker goes where its rivals go: to the first unfinished run."""

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

    async def work(self) -> None:
        """Takes turns until every run is finished."""
        unfinished = list(range(len(self.transcripts)))
        random.Random(self.job.seed).shuffle(unfinished)  # noqa: S311 (the same order for all)
        while unfinished:
            run = unfinished[0] if self.choices.random() < CROWDED else self.choices.choice(unfinished)
            if await self.take_turn(run):
                unfinished.remove(run)

    async def take_turn(self, run: int) -> bool:
        """Takes a run's next turn, whichever that is by then; returns whether there was none left."""
        retry = False
        while True:
            snapshot = await self.stores[run].load() or ConversationSnapshot[dict[str, Any]]()
            done = len(snapshot.messages)
            messages = self.transcripts[run].messages[done : done + TURN]
            if not messages:
                return True
            turn = done // TURN
            if retry:
                say(Event("retry", run, turn))
            await asyncio.sleep(self.choices.uniform(0, 2 * self.job.pace))  # the model's time
            if await self.save(run, turn, snapshot, messages):
                return False
            retry = True

    async def save(
        self, run: int, turn: int, snapshot: ConversationSnapshot[dict[str, Any]], messages: list[dict[str, Any]]
    ) -> bool:
        """Saves a turn onto the revision that was loaded; returns whether it is stored."""
        store = self.stores[run]
        version = snapshot.revision.version if snapshot.revision is not None else 0
        self.started += 1
        sending: asyncio.Task[Revision] | None = None
        hold = self.job.hold
        if hold is not None and hold.at == self.started:
            if hold.sent:
                sending = asyncio.create_task(self.send(store, turn, snapshot, messages))
                while store.unsettled is None and not sending.done():
                    await asyncio.sleep(0)  # the step in which it is sent, and no further
            say(Event("holding", run, turn, version))
            wait()  # here it is killed, or frozen: nothing in this process moves
        try:
            await (sending or self.send(store, turn, snapshot, messages))
        except ConflictError:
            outcome = "conflict"
        except OutcomeUnknownError as error:
            outcome = "applied" if await store.resolve(error.attempt) is not None else "never"
        except BackendUnavailableError:
            outcome = "unavailable"
        else:
            outcome = "saved"
        say(Event(outcome, run, turn, version))
        return outcome in ("saved", "applied")

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
    async with RedisBackend.from_url(job.url, namespace=job.namespace, run_ttl=RUN_TTL) as backend:
        worker = Worker(job, parse(text, "transcripts"), backend)
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
