"""What a signal's handler raises in the midst of a call of the blocking twin: a task queue's time limit, say."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from histstore import ConversationSnapshot
from histstore.sync import RedisBackend

from ..support.history import message
from ..support.servers import Server


class TimeLimitError(Exception):
    """What a task queue raises in a worker that takes too long."""


def test_a_time_limit_leaves_the_write_unsettled(private_server: Callable[..., Server]) -> None:
    """It comes out as it is; the write that had been sent is still known to be open, and is settled next."""
    server = private_server()

    def over(*_args: Any) -> None:
        raise TimeLimitError

    with RedisBackend.from_url(server.url) as backend:
        store = backend.store("run")
        store.save(ConversationSnapshot([message("a")]))
        before = signal.signal(signal.SIGALRM, over)
        try:
            server.freeze()
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(TimeLimitError):
                store.append(message("b"))
            assert store.unsettled is not None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            server.thaw()
        settled = store.resolve()
        found = backend.store("run").load()
        assert found is not None
        assert (len(found) == 2) == (settled is not None)
        assert store.unsettled is None
