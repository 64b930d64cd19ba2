"""Opening a connection to listen on, for as long as somebody needs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ...errors import BackendError
from ...wire.retrying import listening_options
from ..compat import io
from .transport import Listener


async def open_listener(
    subscribe: Callable[[], Awaitable[Listener]],
    keep: Callable[[Listener], bool],
    *,
    pause: Callable[[float], Awaitable[None]],
    unneeded: Callable[[], bool],
) -> Listener:
    """Return a connection to listen on. Try again until one is open, or nobody needs it.

    Args:
        subscribe: Opens one.
        keep: Records it for whoever closes it, and returns whether that was done before.
        pause: Waits for some seconds between two tries.
        unneeded: Whether nobody needs it any more.

    Raises:
        RedisError: None could be opened while somebody needed it.
        BackendError: It is closed already.
    """
    async for attempt in io.Retrying(sleep=pause, **listening_options(unneeded)):
        with attempt:
            connection = await subscribe()
            # `close` ends the listening through the connection. If it saw none yet, nobody else would end it.
            if keep(connection):
                raise BackendError("this backend was closed")
            return connection
    raise AssertionError("tenacity ends with a result or an error")
