"""The transport to a cluster: each request goes to the server that owns its slot, wherever that is by now."""

from __future__ import annotations

import math
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from redis import exceptions as redis_errors

from ...protocol.call import Command, Route
from ...wire.sending import SendState
from ...wire.settings import ConnectionSettings
from ...wire.slots import NoClusterError, Redirect, ServerAddress, SlotMap, redirect_of, slot_of
from ..compat import io
from ..compat.together import together
from .cluster_listener import ClusterListener
from .self_test import TEST_EVERY
from .single_server import SingleServer
from .transport import Examine, Listener

T = TypeVar("T")

MAX_HOPS: Final = 16
"""Redirections that one request follows. More of them mean that servers contradict each other."""
REFRESH_EVERY: Final = 0.1
"""Seconds between two requests for the map of slots. While a cluster elects a primary, the map changes seldom."""
ASK_TIMEOUT: Final = 1.0
"""Seconds that one server has to answer with the map of slots, before another one is asked."""


class ClusterTransport:
    """Sends each request to the server that owns its slot, over connections of that server.

    A redirected request did not run, so it is sent again at once. Whatever else fails, the runner decides. A server
    that does not answer has the map of slots asked for again, by the next request.

    Attributes:
        try_timeout: Timeout of one try in seconds.
        declares_keys: Scripts declare all keys, because a server whose slot is on the move refuses the others.

    Args:
        settings: How to connect, and the seeds.
        durable: Whether writes wait for confirmations.
    """

    declares_keys: Final = True

    def __init__(self, settings: ConnectionSettings, *, durable: bool) -> None:
        self.try_timeout = settings.try_timeout
        self._settings = settings
        self._host_map = settings.host_map
        self._durable = durable
        self._map = SlotMap()
        self._nodes: dict[ServerAddress, SingleServer] = {}
        # Servers that own no slot any more. A request that chose one just before may open a connection to it again.
        self._former: list[SingleServer] = []
        # When each server is examined; infinite: it has passed.
        self._examine_at: dict[ServerAddress, float] = {}
        self._examine: Examine | None = None
        self._stale = True
        self._failed: ServerAddress | None = None
        self._refreshed = -math.inf
        self._lock = io.Lock()
        self._listeners: weakref.WeakSet[ClusterListener] = weakref.WeakSet()
        self._closed = False

    # ----------------------------------------------------------------------------------- for people

    @property
    def address(self) -> str:
        """The addresses of the seeds."""
        return ",".join(f"{host}:{port}" for host, port in self._settings.seeds)

    @property
    def may_listen(self) -> bool:
        """Whether a connection may be opened for listening, beside the one for requests."""
        return self._settings.max_connections > 1

    @property
    def count(self) -> tuple[int, int]:
        """The number of connections in use, and of idle ones, over all servers."""
        counts = [node.count for node in list(self._nodes.values())]
        return sum(busy for busy, _ in counts), sum(idle for _, idle in counts)

    def opening_error(self, now: float) -> Exception | None:
        """Return why a connection could not be opened a short time ago, or None. Each caller gets its own error."""
        errors = (node.opening_error(now) for node in list(self._nodes.values()))
        return next((error for error in errors if error is not None), None)

    # ------------------------------------------------------------------------------------- requests

    def examines(self, examine: Examine) -> bool:
        """Have each server examined before its first request, as `Transport.examines` says."""
        self._examine = examine
        return True

    async def exchange(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState, large: bool = False
    ) -> list[Any]:
        """Send commands to the server that owns the key, as `Transport.exchange` says."""
        redirect = None
        owner = self._examined_owner(key)
        if owner is not None:
            # The short way, which nearly every call takes.
            try:
                replies = await self._node(owner).exchange(key, commands, end, state, large)
            except (redis_errors.RedisError, OSError):
                self._lose(owner)
                raise
            if type(replies[-1]) is list:
                return replies
            redirect = self._follow(replies, owner, state)
            if redirect is None:
                return replies

        async def send(node: SingleServer, asking: bool) -> list[Any]:
            # ASKING holds for the command after it, or for the transaction that this one begins.
            replies = await node.exchange(key, [_ASKING, *commands] if asking else commands, end, state, large)
            return replies[1:] if asking else replies

        return await self._deliver(key, end, state, send, _replies_of_exchange, redirect)

    async def commit(
        self, key: Route, commands: Sequence[Command], end: float, state: SendState,
        *, wait: Command, patience: float, large: bool,
    ) -> tuple[list[Any], Any]:  # fmt: skip
        """Send a durable write and the WAIT that covers it to the owner of the key, as `Transport.commit` says."""

        async def send(node: SingleServer, asking: bool) -> tuple[list[Any], Any]:
            replies, acked = await node.commit(
                key, [_ASKING, *commands] if asking else commands, end, state,
                wait=wait, patience=patience, large=large,
            )  # fmt: skip
            return (replies[1:] if asking else replies), acked

        return await self._deliver(key, end, state, send, _replies_of_commit)

    async def exchange_batch(
        self, batch: Sequence[tuple[bytes, Sequence[Command]]], end: float, state: SendState
    ) -> list[list[Any] | Exception]:
        """Send requests to the owners of their keys, to all servers at once, as `Transport.exchange_batch` says."""
        if not self._map.primaries:
            await self._refresh(end)
        shares: dict[ServerAddress | None, list[int]] = {}
        for place, (key, _) in enumerate(batch):
            shares.setdefault(self._map.owner(slot_of(key)), []).append(place)
        found: list[list[Any] | Exception] = [[] for _ in batch]

        async def send(owner: ServerAddress | None, places: list[int]) -> None:
            try:
                address = await self._find(batch[places[0]][0], end)
                node = await self._ready(address, end)
                parts = await node.exchange_batch([batch[place] for place in places], end, state)
            except Exception as error:
                if owner is not None:
                    # Whoever only renews a lease sends nothing else that would notice.
                    self._lose(owner)
                for place in places:
                    found[place] = error
                return
            for place, part in zip(places, parts, strict=True):
                moved = not isinstance(part, Exception) and redirect_of(part, address, self._host_map)
                found[place] = await self._again(batch[place], end, state) if moved else part

        await together([partial(send, owner, places) for owner, places in shares.items()])
        return found

    async def _again(
        self, request: tuple[bytes, Sequence[Command]], end: float, state: SendState
    ) -> list[Any] | Exception:
        """Send one request of a batch by itself: its slot has moved, and the others were answered."""
        try:
            return await self.exchange(*request, end, state)
        except (redis_errors.RedisError, OSError) as error:
            return error

    async def _deliver(
        self, key: Route, end: float, state: SendState,
        send: Callable[[SingleServer, bool], Awaitable[T]], replies_of: Callable[[T], list[Any]],
        redirect: Redirect | None = None,
    ) -> T:  # fmt: skip
        """Send a request to the owner of its key, and wherever it is sent on to, until a server runs it.

        Args:
            key: Where the request goes.
            end: When to stop waiting, by `monotonic`.
            state: Records whether a byte may have been sent.
            send: Sends it to a server, after ASKING or not.
            replies_of: Returns the replies in what `send` returns.
            redirect: The answer of the owner, if that was asked already.

        Raises:
            redis.exceptions.TryAgainError: Too many servers send it elsewhere.
            redis.exceptions.RedisError: There is no connection, it broke, or no complete answer came in time.
        """
        hops = 0 if redirect is None else 1
        while hops <= MAX_HOPS:
            if redirect is None:
                address, asking = await self._find(key, end), False
            else:
                address, asking = redirect.address, redirect.asking
            node = await self._ready(address, end)
            try:
                answer = await send(node, asking)
            except (redis_errors.RedisError, OSError):
                self._lose(address)
                raise
            redirect = self._follow(replies_of(answer), address, state)
            if redirect is None:
                return answer
            hops += 1
        raise redis_errors.TryAgainError(f"TRYAGAIN {MAX_HOPS} servers in turn sent the request elsewhere")

    def _follow(self, replies: list[Any], asked: ServerAddress, state: SendState) -> Redirect | None:
        """Return the redirection in the replies of a server, and record a new owner; None: there is none.

        ASK tells of no owner, but may tell of a server that is not known yet.
        """
        redirect = redirect_of(replies, asked, self._host_map)
        if redirect is None:
            return None
        state.sent = False  # the servers so far did not run it
        if redirect.asking:
            self._stale = self._stale or redirect.address not in self._nodes
        else:
            self._map.move(redirect.slot, redirect.address)
            self._stale = True
            self._follow_topology()
        return redirect

    def _examined_owner(self, key: Route) -> ServerAddress | None:
        """Return the owner of a key, if the map need not be asked for and the server need not be examined first."""
        if self._stale or type(key) is not bytes:
            return None
        owner = self._map.owner(slot_of(key))
        return owner if owner is not None and self._examine_at.get(owner) == math.inf else None

    async def _find(self, key: Route, end: float) -> ServerAddress:
        """Return the server for a key, by the map of slots."""
        if self._stale and io.monotonic() >= self._refreshed + REFRESH_EVERY:
            await self._refresh(end)
        owner = self._owner(key)
        if owner is None:
            await self._refresh(end)
            owner = self._owner(key)
            if owner is None:
                raise redis_errors.ClusterDownError("CLUSTERDOWN no server owns the slot")
        return owner

    def _owner(self, key: Route) -> ServerAddress | None:
        """Return the server for a key, or None if it is not known."""
        if isinstance(key, bytes):
            return self._map.owner(slot_of(key))
        return next(iter(self._map.primaries), None) if key is None else key

    async def _ready(self, address: ServerAddress, end: float) -> SingleServer:
        """Return a server that was examined, or that is examined now."""
        node = self._node(address)
        due = self._examine_at.get(address, -math.inf)
        if due == math.inf or io.monotonic() < due:
            return node
        passed = self._examine is None or await self._examine(node.exchange, partial(self._owns, address), end)
        # Without success it is loading, full or read-only. The request itself may still succeed.
        self._examine_at[address] = math.inf if passed else io.monotonic() + TEST_EVERY
        return node

    def _owns(self, address: ServerAddress, key: bytes) -> bool:
        return self._map.owner(slot_of(key)) in (address, None) or address not in self._map.primaries

    def _node(self, address: ServerAddress) -> SingleServer:
        node = self._nodes.get(address)
        if node is None:
            if self._closed:
                raise redis_errors.ConnectionError("the backend is closed")
            settings = self._settings.at(address)
            node = self._nodes.setdefault(address, SingleServer(settings, durable=self._durable))
        return node

    # -------------------------------------------------------------------------------- the map of slots

    def _lose(self, address: ServerAddress) -> None:
        """Have the map asked for again: a server did not answer. The others are asked first."""
        self._stale = True
        self._failed = address

    async def _refresh(self, end: float) -> None:
        """Ask for the map of slots. Whoever needs it meanwhile waits for the same answer.

        Raises:
            redis.exceptions.RedisError: No server answered, and no earlier map is known.
        """
        before = self._refreshed
        timeout = max(0.001, end - io.monotonic())
        async with io.Held(self._lock, timeout, redis_errors.TimeoutError, "no server gave the map of slots in time"):
            if self._refreshed > before:
                return
            error: Exception | None = None
            for address in self._askable():
                now = io.monotonic()
                if now >= end:
                    break
                try:
                    await self._ask_for_map(address, min(end, now + ASK_TIMEOUT))
                except (redis_errors.RedisError, OSError) as failure:
                    error = error or failure
                    continue
                self._stale = False
                break
            else:
                if error is not None and not self._map.primaries:
                    raise error
            self._refreshed = io.monotonic()
        await self._forget_others()

    def _askable(self) -> list[ServerAddress]:
        """Return the servers to ask for the map, the one that failed last."""
        found = dict.fromkeys([*self._map.primaries, *self._settings.seeds, *self._map.replicas])
        return sorted(found, key=lambda address: address == self._failed)

    async def _ask_for_map(self, address: ServerAddress, end: float) -> None:
        (reply,) = await self._node(address).exchange(None, [("CLUSTER", "SLOTS")], end, SendState())
        if isinstance(reply, Exception):
            raise reply
        try:
            self._map.learn(reply, address, self._host_map)
        except NoClusterError as error:
            raise redis_errors.ConnectionError(str(error)) from error
        self._follow_topology()

    def _follow_topology(self) -> None:
        """Have those who listen do so at the primaries of now."""
        primaries = set(self._map.primaries)
        for listener in list(self._listeners):
            if listener.addresses != primaries:
                listener.interrupt()

    async def _forget_others(self) -> None:
        """Close the connections to servers that own no slot any more."""
        primaries = self._map.primaries
        for address in [each for each in list(self._nodes) if each not in primaries]:
            node = self._nodes.pop(address, None)
            self._examine_at.pop(address, None)
            if node is not None:
                self._former = [each for each in self._former if each.count != (0, 0)]
                self._former.append(node)
                await node.drop()

    def servers(self) -> list[Route]:
        """Return the primaries, as far as they are known."""
        return list(self._map.primaries)

    # ------------------------------------------------------------------------------------- listening

    async def subscribe(self, end: float) -> ClusterListener:
        """Open a connection to listen on to each primary. A script's PUBLISH counts the listeners of its own server.

        Raises:
            redis.exceptions.RedisError: None could be opened until `end`.
        """
        await self._find(None, end)
        primaries = self._map.primaries
        opened: dict[ServerAddress, Listener] = {}

        async def open_at(address: ServerAddress) -> None:
            opened[address] = await self._node(address).subscribe(end)

        try:
            errors = await together([partial(open_at, address) for address in primaries])
        except BaseException:
            # It was cancelled. Nobody else knows of those that are open.
            for each in opened.values():
                await each.close()
            raise
        for address, error in zip(primaries, errors, strict=True):
            if error is not None:
                self._lose(address)
                if not opened:
                    raise error
        listener = ClusterListener(opened, set(primaries), self._is_owner)
        self._listeners.add(listener)
        return listener

    def _is_owner(self, address: ServerAddress, key: bytes) -> bool:
        return self._map.owner(slot_of(key)) == address

    # --------------------------------------------------------------------------------------- closing

    async def leave(self, key: Route) -> None:
        """Have the map asked for again: the owner of the key says that it is none."""
        address = self._owner(key)
        if address is not None:
            self._lose(address)
            node = self._nodes.get(address)
            if node is not None:
                await node.drop()

    async def drop(self) -> None:
        """Close all connections, each after its pending requests are answered. Others are opened when needed."""
        self._stale = True
        for node in list(self._nodes.values()):
            await node.drop()

    async def close(self) -> None:
        """Close the connections for good. Pending requests are answered first, or fail."""
        self._closed = True
        for node in [*self._nodes.values(), *self._former]:
            await node.close()


_ASKING: Final = ("ASKING",)


def _replies_of_exchange(replies: list[Any]) -> list[Any]:
    return replies


def _replies_of_commit(answer: tuple[list[Any], Any]) -> list[Any]:
    return answer[0]


def cluster_of(server: SingleServer) -> ClusterTransport:
    """Make the transport to the cluster that a server belongs to."""
    settings = server.settings
    found = None if settings.finder is None else settings.finder.latest
    seeds = (found or settings.address,)
    return ClusterTransport(replace(settings, seeds=seeds, sentinels=None, finder=None), durable=server.durable)
