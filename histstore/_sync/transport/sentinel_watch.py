# Generated from histstore/_async/transport/sentinel_watch.py by tools/unasync.py; do not edit.
"""Listening to one sentinel: it announces a new primary."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from redis import exceptions as redis_errors

from ...errors import BackendError
from ...wire.sentinels import CHANNEL, concerns
from ..compat import io, tasks
from ..compat.background import Routine
from .listening import open_listener
from .single_server import SingleServer
from .transport import Listener

CONNECT_TIMEOUT: Final = 1.0
"""Seconds that a sentinel has to accept a connection."""

log = logging.getLogger("histstore")


class SentinelWatch:
    """A subscription to one sentinel, which is made again whenever it is lost.

    Args:
        sentinel: The sentinel.
        service: The name of the service that it watches.
        look: Called when it may know another primary: it announces one, or announcements may have been missed.
    """

    def __init__(self, sentinel: SingleServer, service: str, look: Callable[[], None]) -> None:
        self._sentinel = sentinel
        self._service = service
        self._look = look
        self._routine = Routine(self._listen, "histstore-sentinel")
        self._guard = tasks.Guard()
        self._connection: Listener | None = None
        self._closing = tasks.Event()
        self._active = False
        self._warned = False

    def start(self) -> None:
        """Listen from now on, if it does not yet. Without a thread to do so, failing requests tell of a failover."""
        with self._guard:
            if self._active or self._closing.is_set():
                return
            self._active = True
            try:
                self._routine.start()
            except BackendError as error:
                self._active = False
                log.debug("nobody listens to the sentinel at %s: %s", self._sentinel.address, error)
            except BaseException:
                self._active = False
                raise

    def _listen(self) -> None:
        try:
            while not self._closing.is_set():
                self._listen_once()
        finally:
            self._active = False  # whatever ended it, the next connection to a server starts it again

    def _listen_once(self) -> None:
        try:
            connection = open_listener(self._subscribe, self._keep, pause=self._pause, unneeded=self._closing.is_set)
            connection.listen(("SUBSCRIBE", CHANNEL), self._receive)
        except (redis_errors.RedisError, OSError, BackendError) as error:
            log.debug("the sentinel at %s is silent: %s", self._sentinel.address, error)
        finally:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _subscribe(self) -> Listener:
        return self._sentinel.subscribe(io.monotonic() + CONNECT_TIMEOUT)

    def _keep(self, connection: Listener) -> bool:
        with self._guard:
            self._connection = connection
            return self._closing.is_set()

    def _pause(self, seconds: float) -> None:
        tasks.wait(self._closing, seconds)

    def _receive(self, message: Any) -> None:
        match message:
            case [b"subscribe", _, _]:
                self._look()
            case Exception():
                if not self._warned:
                    self._warned = True
                    log.warning("a failover may be noticed late, because a sentinel refuses to tell: %s", message)
            case _ if concerns(message, self._service):
                self._look()

    def stop(self) -> None:
        """Begin to close. One that is connecting goes on until it connects or gives up."""
        with self._guard:
            self._closing.set()

    def close(self) -> None:
        """Stop listening."""
        self.stop()
        self._routine.end(self._connection)
