# Generated from histstore/_async/transport/sentinel.py by tools/unasync.py; do not edit.
"""The transport to the primary that sentinels name. It follows when they name another one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from redis import exceptions as redis_errors

from ...protocol.call import Route
from ...wire.sending import SendState
from ...wire.sentinels import Answer, behind, questions, read_answer, unfound
from ...wire.settings import ConnectionSettings, SentinelService
from ...wire.slots import HostMap, ServerAddress
from ..compat import io, tasks
from ..compat.background import Background
from .sentinel_watch import SentinelWatch
from .single_server import SingleServer

ASK_TIMEOUT: Final = 1.0
"""Seconds that one sentinel has to answer, before another one is asked."""


class PrimaryOfSentinels(SingleServer):
    """Sends every request to the primary that sentinels name.

    Each new connection asks them. When they name another primary, all connections to the old one are replaced.

    Args:
        settings: How to connect, and the sentinels.
        durable: Whether writes wait for confirmations.
    """

    def __init__(self, settings: ConnectionSettings, *, durable: bool) -> None:
        assert settings.sentinels is not None
        self._sentinels = Sentinels(settings.sentinels, settings.host_map, self._leave_primary)
        super().__init__(replace(settings, finder=self._sentinels), durable=durable)

    @property
    def address(self) -> str:
        """The service, and the addresses of the sentinels."""
        return str(self._sentinels)

    def _leave_primary(self) -> None:
        super().drop()

    def leave(self, key: Route) -> None:
        """Drop the connections to the primary: another server may be that by now."""
        self._leave_primary()

    def drop(self) -> None:
        """Close all connections, those to the sentinels too. Pending requests are answered first."""
        self._leave_primary()
        self._sentinels.drop()

    def close(self) -> None:
        """Close the connections for good. Pending requests are answered first, or fail."""
        self._sentinels.close()
        super().close()


class Sentinels:
    """Asks sentinels for the primary of one service, and listens to all of them.

    Sentinels number their failovers. An answer with a smaller number than one heard before is out of date: that
    sentinel, and perhaps the old primary too, is cut off from the others.

    Args:
        service: The service, and the sentinels.
        host_map: Returns where a server is reached that the sentinels know by another address; None: by that one.
        follow: Called after they have named another primary.
    """

    def __init__(self, service: SentinelService, host_map: HostMap | None, follow: Callable[[], None]) -> None:
        self._service = service
        self._host_map = host_map
        self._follow = follow
        settings = service.settings
        bounded = replace(
            settings,
            try_timeout=min(ASK_TIMEOUT, settings.try_timeout),
            connect_timeout=min(ASK_TIMEOUT, settings.connect_timeout),
            max_connections=2,  # one to ask, one to listen
        )
        self._sentinels = {address: SingleServer(bounded.at(address), durable=False) for address in service.addresses}
        # The one that gave the latest answer comes first.
        self._order = list(self._sentinels)
        self._believed: ServerAddress | None = None
        self._latest: Answer | None = None
        self._guard = tasks.Guard()  # over `_latest`
        self._found = -math.inf
        self._lock = io.Lock()
        self._background = Background("histstore-sentinel")
        self._watches = [
            SentinelWatch(sentinel, service.name, partial(self._background.start, partial(self._look, address)))
            for address, sentinel in self._sentinels.items()
        ]

    @property
    def latest(self) -> ServerAddress | None:
        """The primary that was named last, where it is reached; None: none was yet."""
        address = self._latest.address if self._latest else None
        return address if self._host_map is None or address is None else self._host_map(address)

    def __str__(self) -> str:
        places = ",".join(f"{host}:{port}" for host, port in self._sentinels)
        return f"{self._service.name} of the sentinels {places}"

    def find(self, end: float) -> ServerAddress:
        """Return the primary's host and port. Whoever asks meanwhile waits for the same answer.

        Raises:
            redis.exceptions.RedisError: No sentinel named it until `end`.
        """
        before = self._found
        timeout = max(0.001, end - io.monotonic())
        with io.Held(self._lock, timeout, redis_errors.TimeoutError, "no sentinel answered in time"):
            if self._latest is None or self._found <= before:
                self._ask_in_turn(end)
                self._found = io.monotonic()
            found = self.latest
        assert found is not None
        for watch in self._watches:
            watch.start()
        return found

    def doubt(self) -> None:
        """Have another sentinel asked first: the server that the latest one named cannot be used.

        Several connections may have failed because of the same answer, so a second call must not bring it back.
        """
        doubted = self._believed
        self._order = sorted(self._order, key=lambda each: each == doubted)

    def _ask_in_turn(self, end: float) -> None:
        """Believe the first answer that is not out of date."""
        failures: list[tuple[ServerAddress, Exception]] = []
        outdated: list[tuple[ServerAddress, Answer]] = []
        order = list(self._order)
        for place, address in enumerate(order):
            left = end - io.monotonic()
            if left <= 0:
                break
            try:
                answer = self._ask(address, io.monotonic() + min(ASK_TIMEOUT, left / (len(order) - place)))
            except (redis_errors.RedisError, OSError) as error:
                failures.append((address, error))
                continue
            if self._accept(answer):
                self._prefer(address)
                return
            outdated.append((address, answer))
        if len(outdated) == len(order):
            # All of them agree, so they have been set up anew, and count from the beginning.
            address, self._latest = max(outdated, key=lambda each: each[1].epoch)
            self._prefer(address)
            return
        if outdated:
            raise behind(self._service.name)
        failures.sort(key=lambda failure: self._service.addresses.index(failure[0]))
        raise unfound(self._service.name, failures)

    def _accept(self, answer: Answer) -> bool:
        """Take an answer for the latest one, unless it is out of date. Return whether it was taken."""
        with self._guard:
            if self._latest is not None and answer.epoch < self._latest.epoch:
                return False
            self._latest = answer
            return True

    def _ask(self, address: ServerAddress, end: float) -> Answer:
        commands = questions(self._service.name)
        replies = self._sentinels[address].exchange(None, commands, end, SendState())
        return read_answer(replies, self._service.min_others)

    def _prefer(self, address: ServerAddress) -> None:
        self._believed = address
        # A new list, because other threads of the blocking twin may be reading this one.
        self._order = sorted(self._order, key=lambda each: each != address)

    def _look(self, address: ServerAddress) -> None:
        """Ask one sentinel, which may know another primary, and follow it."""
        try:
            try:
                answer = self._ask(address, io.monotonic() + ASK_TIMEOUT)
            except (redis_errors.RedisError, OSError):
                # The connection to ask may have been lost unseen, long after the last question. This one is new.
                answer = self._ask(address, io.monotonic() + ASK_TIMEOUT)
        except (redis_errors.RedisError, OSError):
            return  # whoever needs the primary asks the others
        with self._guard:
            latest = self._latest
            if latest is None:
                return
            moved = answer.address != latest.address
            # A sentinel whose user may not ask for the number gives 0. Its announcements have to count.
            if answer.epoch <= latest.epoch and not (moved and answer.epoch == latest.epoch == 0):
                return
            # Also if the primary is the same again: what was said between two failovers is out of date now.
            self._latest = answer
        if moved:
            self._prefer(address)
            self._follow()

    def drop(self) -> None:
        """Close the connections to the sentinels. Others are opened when needed."""
        for sentinel in self._sentinels.values():
            sentinel.drop()

    def close(self) -> None:
        """Stop listening, and close the connections to the sentinels."""
        # All of them first, because each thread of the blocking twin may wait for a sentinel that is frozen.
        for watch in self._watches:
            watch.stop()
        for watch in self._watches:
            watch.close()
        self._background.end()
        for sentinel in self._sentinels.values():
            sentinel.close()
