"""One run on a real server, driven request by request: the tests decide which copies arrive, and when."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from histstore.attempt import Attempt
from histstore.log.base import Base
from histstore.log.columns import read_entries
from histstore.log.head import read_meta
from histstore.log.plan import Target, Writer, plan_save
from histstore.log.replay import replay
from histstore.log.unreadable import BrokenChainError
from histstore.protocol import deletes, leases, reads, saves
from histstore.protocol.call import Call, Command
from histstore.protocol.heads import fold
from histstore.protocol.keys import run_keys
from histstore.protocol.leases import Ticket
from histstore.protocol.run import NO_LEASE, LeaseToken, RunRef
from histstore.revision import RunId

from ..support.generations import expires_at
from .doorbell import Process
from .sending import SOURCES, Delete, Reply, Save, exchange

MINUTE_MS = 60_000
QUARTER_MS = 15 * MINUTE_MS


@dataclass
class World:
    """A run and the scripts that work on it.

    Attributes:
        client: A client with every permission.
        namespace: The namespace of the test.
        sources: Scripts to run in place of the real ones.
        elsewhere: A client of the cluster's other node, if there is a cluster.
        replies: Script and first word of every reply so far.
        applied: The acknowledged saves, once for each acknowledged copy.
    """

    client: redis.Redis
    namespace: str
    sources: Mapping[str, str] = field(default_factory=dict)
    elsewhere: redis.Redis | None = None
    replies: set[tuple[str, str]] = field(default_factory=set)
    applied: list[Save] = field(default_factory=list)

    def __post_init__(self) -> None:
        run_id = RunId.new()
        self.where = RunRef(self.namespace, run_id, run_keys(self.namespace, run_id))
        self.keys = self.where.keys

    # ------------------------------------------------------------------------------------- sending

    def send(self, what: Save | Delete | Call, resend: bool = False, by: redis.Redis | None = None) -> Reply:
        """Deliver one copy of a request. An error of the server is an AssertionError."""
        reply = self.try_(what, resend, by)
        if isinstance(reply, Exception):
            raise AssertionError(f"the script raised: {reply}")
        return reply

    def try_(
        self, what: Save | Delete | Call, resend: bool = False, by: redis.Redis | None = None
    ) -> Reply | ResponseError:
        """Deliver one copy of a request. Return an error of the server instead of raising it."""
        call = what if isinstance(what, Call) else what.call
        client = by or self.client
        ((_, sha, *rest),) = call.commands(resend, False)
        (reply,) = exchange(
            client, self.in_full(call, resend) if call.name in self.sources else ("EVALSHA", sha, *rest)
        )
        if isinstance(reply, NoScriptError):
            (reply,) = exchange(client, self.in_full(call, resend))
        if isinstance(reply, ResponseError):
            if "compil" in str(reply):
                raise RuntimeError(f"the mutated script is no Lua: {reply}")
            return reply
        assert type(reply) is list, reply
        reply[0] = reply[0].decode()
        self.replies.add((call.name, reply[0]))
        if isinstance(what, Save) and reply[0] == "saved":
            self.applied.append(what)
        return reply

    def in_full(self, call: Call, resend: bool = False) -> Command:
        """Return the command that sends a request with its script."""
        ((_, _, *rest),) = call.commands(resend, False)
        return "EVAL", self.sources.get(call.name, SOURCES[call.name]), *rest

    # -------------------------------------------------------------------------------------- saves

    def plan(
        self,
        onto: Base | None,
        *messages: str,
        lease: LeaseToken = NO_LEASE,
        ttl: int | None = None,
        keep: int = 0,
        full: bool = False,
        meta: Mapping[str, Any] | None = None,
    ) -> Save:
        """Make a save that adds messages, but send no copy of it. `full`: make it a full checkpoint."""
        before = onto.messages() if onto is not None else []
        pins = onto.pins[: onto.length] if onto is not None else []
        old_meta = read_meta(onto.head.meta) if onto is not None else {}
        target = Target(
            [*before, *messages],
            [*pins, *[False] * len(messages)],
            len(before) + len(messages),
            old_meta if meta is None else meta,
        )
        parent = onto.head if onto is not None else None
        plan = plan_save(parent, onto, target, Writer(os.urandom(16), lease.fence, 1 << 26), full=full)
        assert plan is not None, "nothing to save"
        revision = parent.revision if parent is not None else None
        return Save(saves.save(self.where, plan, revision, lease, ttl=ttl, keep=keep, now=time.time()), plan, onto)

    def save(self, onto: Base | None, *messages: str, **options: Any) -> Base:
        """Make a save, send it once, and return the content that it made."""
        save = self.plan(onto, *messages, **options)
        reply = self.send(save)
        assert reply[0] == "saved", reply
        return save.after

    def saves(self, onto: Base | None, count: int, **options: Any) -> Base:
        """Save `count` times, one message each."""
        for number in range(count):
            onto = self.save(onto, f"message {number}", **options)
        assert onto is not None
        return onto

    # ---------------------------------------------------------------------------- the other scripts

    def resolve(self, what: Save | Delete, by: redis.Redis | None = None) -> Reply:
        assert what.call.attempt is not None
        return self.send(saves.resolve(self.where, what.call.attempt), by=by)

    def compare(self, at: Base, lease: LeaseToken = NO_LEASE, ttl: int | None = None) -> Reply:
        return self.send(saves.compare(self.where, at.head.revision, lease, ttl))

    def deletion(
        self, at: Base | None, lease: LeaseToken = NO_LEASE, force: bool = False, read: bytes | None = None
    ) -> Delete:
        """Make a delete, but send no copy of it. `at=None`: of a damaged run, whose head's etag is `read`."""
        revision = at.head.revision if at is not None else None
        attempt = Attempt(
            "delete",
            self.namespace,
            self.where.run_id,
            revision,
            revision,
            os.urandom(16),
        )
        return Delete(deletes.delete(self.where, attempt, revision.etag if revision else read or b"", lease, force))

    def delete(self, at: Base | None, **options: Any) -> None:
        reply = self.send(self.deletion(at, **options))
        assert reply == ["deleted"], reply

    # --------------------------------------------------------------------------------------- leases

    def acquire(
        self, ticket: Ticket, queue: bool = True, uncounted: bool = False, by: redis.Redis | None = None
    ) -> Reply:
        return self.send(leases.acquire(self.where, ticket, queue=queue, uncounted=uncounted), by=by)

    def renew(self, lease: LeaseToken, ttl: int = MINUTE_MS, by: redis.Redis | None = None) -> Reply:
        return self.send(leases.renew(self.where, lease, ttl), by=by)

    def release(self, holder: str, place: str = "", by: redis.Redis | None = None, **options: bool) -> Reply:
        return self.send(leases.release(self.where, holder, place, **options), by=by)

    def grant(self, holder: str, ttl: int = MINUTE_MS) -> LeaseToken:
        """Take the lease, which is free."""
        reply = self.acquire(Ticket(holder, ttl, ""), queue=False)
        assert reply[0] == "granted", reply
        return LeaseToken(int(reply[1]), holder)

    def queue(self, holder: str, channel: str, ttl: int = MINUTE_MS) -> Ticket:
        """Take a place in the queue for the lease, which another holds."""
        ticket = Ticket(holder, ttl, channel)
        reply = self.acquire(ticket)
        assert reply[0] == "queued", reply
        return ticket

    def leased(self) -> LeaseToken | None:
        """Return the live lease, or None if the run is free. A lease without an expiry is an AssertionError."""
        holder, fence = self.client.hmget(self.keys.lease, "holder", "fence")  # type: ignore[misc]
        if holder is None or fence is None:
            assert not self.client.exists(self.keys.lease), "a lease without holder or fence"
            return None
        assert self.client.pttl(self.keys.lease) != -1, "a lease without an end"
        return LeaseToken(int(fence), holder.decode())

    def waiting(self) -> list[str]:
        """Return the queue, first come first. A queue without an expiry is an AssertionError."""
        assert self.client.pttl(self.keys.queue) != -1, "a queue without an end"
        return [place.decode() for place in self.client.lrange(self.keys.queue, 0, -1)]

    @contextmanager
    def process(self, *names: str) -> Iterator[Process]:
        """Yield a process that waits for leases; with `names`, several that share a subscription."""
        channels = [f"{self.namespace}:doorbell:{name or uuid.uuid4().hex}" for name in names or ("",)]
        subscription = self.client.pubsub()
        try:
            subscription.subscribe(*channels)
            for _ in channels:
                confirmation = subscription.get_message(timeout=20)
                assert confirmation is not None, "SUBSCRIBE is not confirmed"
                assert confirmation["type"] == "subscribe", confirmation
            yield Process(self.client, self.keys.lease, channels, subscription)
        finally:
            subscription.close()

    # ---------------------------------------------------------------------- behind the scripts' back

    def plant(self, holder: str, fence: int, remember: bool = True) -> LeaseToken:
        """Write a lease with a made-up fence; `remember`: write it into the head too."""
        self.client.hset(self.keys.lease, mapping={"holder": holder, "fence": fence, "since": 1})
        self.client.pexpire(self.keys.lease, MINUTE_MS)
        if remember:
            self.client.hset(self.keys.head, mapping={"fence": fence, "holder": holder})
        return LeaseToken(fence, holder)

    def lapse(self) -> None:
        """Let the lease expire."""
        self.client.pexpire(self.keys.lease, 1)
        while self.client.exists(self.keys.lease):
            pass

    def now(self) -> int:
        """Return the server's clock, in milliseconds."""
        seconds, micros = self.client.time()  # type: ignore[misc]
        return int(seconds) * 1000 + int(micros) // 1000

    @property
    def all_keys(self) -> tuple[bytes, ...]:
        return (*self.data_keys, self.keys.marks, self.keys.lease, self.keys.queue)

    @property
    def data_keys(self) -> tuple[bytes, bytes, bytes]:
        return self.keys.head, self.keys.log, self.keys.etags

    def dump(self) -> dict[bytes, bytes | None]:
        """Return the contents of the run's data keys, byte for byte."""
        return {key: self.client.dump(key) for key in self.data_keys}

    def restore(self, dump: Mapping[bytes, bytes | None]) -> None:
        """Restore the data keys, as a failover to a lagging replica does."""
        for key, value in dump.items():
            self.client.delete(key)
            if value is not None:
                self.client.restore(key, 0, value)

    def vanish(self) -> None:
        """Remove the data keys without a trace, as DEL, FLUSHALL or expiry do."""
        self.client.delete(*self.data_keys)

    def head(self, name: str) -> bytes | None:
        return self.client.hget(self.keys.head, name)  # type: ignore[return-value]

    def etags(self) -> list[bytes]:
        """Return the applied etags and delete tickets that the run remembers, oldest first."""
        return self.client.lrange(self.keys.etags, 0, -1)  # type: ignore[return-value]

    def marked(self, what: Save | Delete) -> bool:
        """Return whether a write is marked as never to be applied."""
        ticket = what.etag if isinstance(what, Save) else what.ticket
        return (self.client.hget(self.keys.marks, ticket) or b"")[:1] == b"1"  # type: ignore[index]

    def deadlines(self) -> list[int]:
        """Return when head, log and etags expire; -1: never, -2: the key does not exist."""
        return [expires_at(self.client, key) for key in self.data_keys]

    def expire_alike(self, before: Sequence[int], label: str = "") -> None:
        """Check that the `deadlines` of the data keys are what they were.

        A script restores a lifetime by reading the time left and setting it. On a server whose clock advances
        meanwhile (7.0), the deadline is late by that much. The deadlines of a test differ by a minute at least.
        """
        after = self.deadlines()
        for old, new in zip(before, after, strict=True):
            same = old == new if min(old, new) < 0 else abs(old - new) < 10_000
            assert same, f"{label}: deadlines were {list(before)}, and are {after}"

    @contextmanager
    def moving(
        self,
    ) -> Iterator[tuple[Callable[[Sequence[bytes], bool], None], Callable[[Save, bool], Reply | ResponseError]]]:
        """Migrate the run's slot for a while. Yields two functions.

        The first moves keys to the other node (`True`) or back. The second delivers a copy of a save to the other
        node, as a client does after an ASK redirection.
        """
        owner, other = self.client, self.elsewhere
        assert other is not None
        slot = owner.execute_command("CLUSTER", "KEYSLOT", self.keys.head)
        owner_id, other_id = (node.execute_command("CLUSTER", "MYID") for node in (owner, other))

        def move(keys: Sequence[bytes], there: bool) -> None:
            # A node that gives a slot away takes no key of it back.
            owner.execute_command("CLUSTER", "SETSLOT", slot, *(("MIGRATING", other_id) if there else ("STABLE",)))
            source, target = (owner, other) if there else (other, owner)
            at = target.connection_pool.connection_kwargs
            source.execute_command("MIGRATE", at["host"], at["port"], "", 0, 20_000, "KEYS", *keys)

        def ask(save: Save, resend: bool) -> Reply | ResponseError:
            *_, reply = exchange(other, ("ASKING",), self.in_full(save.call, resend))
            return reply  # type: ignore[no-any-return]

        other.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", owner_id)
        try:
            yield move, ask
        finally:
            other.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")

    @contextmanager
    def watching(self, *keys: bytes) -> Iterator[Callable[[], bool]]:
        """Yield a function that returns whether anything was written to `keys` since."""
        with self.client.pipeline() as watcher:
            watcher.watch(*keys)  # type: ignore[no-untyped-call]

            def written() -> bool:
                watcher.multi()
                watcher.ping()
                try:
                    watcher.execute()
                except redis.WatchError:
                    return True
                return False

            yield written

    def foreign(self, *keys: bytes) -> int:
        """Replace `keys` by values of a foreign type."""
        for key in keys:
            self.client.set(key, b"not ours")
        return len(keys)

    # -------------------------------------------------------------------------------------- reading

    def load(self, at: int | None = None) -> list[Any] | None:
        """Return the messages, verified, or None if the run is absent. A damaged run is an AssertionError."""
        call = reads.all_entries(self.where) if at is None else reads.entries_up_to(self.where, at)
        *_, reply = exchange(self.client, *call.commands(False, False))
        try:
            loaded = reads.read_loaded(reply)
            if loaded.head is None:
                assert not loaded.items, "there is a log, but no head"
                return None
            entries = read_entries(loaded.items)
            if at is None:
                return fold(loaded.head, entries, None).messages()
            assert entries, f"version {at} is not there"
            assert entries[-1].version == at, f"version {at} is not there"
            return replay([e for e in entries if e.version >= entries[-1].checkpoint]).messages()
        except BrokenChainError as error:
            raise AssertionError(f"the run is not readable: {error.reason}") from error

    # ----------------------------------------------------------------------------------- permissions

    @contextmanager
    def limited(self) -> Iterator[Callable[[Sequence[str]], redis.Redis]]:
        """Yield a function that returns a client of a user without the permission for the named commands.

        "channels": the user may publish, but to no channel.
        """
        name = f"{self.namespace}-{uuid.uuid4().hex[:8]}"
        password = uuid.uuid4().hex
        rules = ("reset", "on", f">{password}", "~*", "+@all")
        exchange(self.client, ("ACL", "SETUSER", name, *rules))
        own = self.client.connection_pool.connection_kwargs | {"username": name, "password": password}
        pool = redis.ConnectionPool(self.client.connection_pool.connection_class, **own)
        client = redis.Redis(connection_pool=pool)

        def without(commands: Sequence[str]) -> redis.Redis:
            denied = ["resetchannels" if name == "channels" else f"-{name.lower()}" for name in commands]
            self.client.execute_command("ACL", "SETUSER", name, "+@all", "allchannels", *denied)
            return client

        try:
            yield without
        finally:
            client.close()
            pool.disconnect()
            exchange(self.client, ("ACL", "DELUSER", name))
