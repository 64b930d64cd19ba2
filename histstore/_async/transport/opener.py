"""Opens connections, and remembers why the latest one could not be opened."""

from __future__ import annotations

from redis import exceptions as redis_errors

from ...wire.settings import ConnectionSettings
from .connection import Connection


class Opener:
    """Opens connections to one server.

    Attributes:
        latest: The connection that is being opened or could not be opened, or None if the latest one was opened.
    """

    def __init__(self) -> None:
        self.latest: Connection | None = None

    async def open(self, settings: ConnectionSettings, timeout: float) -> Connection:
        """Open a connection within `timeout` seconds.

        Raises:
            OpeningError: It failed; the text names the phase and the cause.
            OpeningTimeoutError: It took too long. An earlier attempt with more time may give the reason.
        """
        connection = Connection(settings)
        before = self.latest
        if before is None:
            before = self.latest = connection
        try:
            await connection.open(timeout)
        except redis_errors.TimeoutError as error:
            explained = connection.opening.explained_by(before.opening, error)
            if explained is error:
                self.latest = connection
            raise explained from None
        except BaseException:
            self.latest = connection
            raise
        self.latest = None
        return connection
