# Generated from histstore/_async/walk.py by tools/unasync.py; do not edit.
"""Walking over the heads of all runs, on every server that holds some."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import BackendUnavailableError
from ..policy import RetryPolicy
from ..protocol.backend import scan, time
from ..protocol.call import Route
from ..protocol.keys import run_of_head
from ..revision import RunId
from .transport.runner import Runner


class Walk:
    """Finds each run of a namespace once.

    Several servers are scanned twice. While a slot moves, its keys move one by one, and a key may leave a server before
    that is scanned for one that was scanned before. The second time finds it there.

    Args:
        runner: Sends the requests.
        namespace: The namespace.
        prefix: What the runs' ids start with.
        policy: When a request is tried again.
    """

    def __init__(self, runner: Runner, namespace: str, prefix: str, policy: RetryPolicy) -> None:
        self._runner = runner
        self._namespace = namespace
        self._prefix = prefix
        self._policy = policy

    def run_ids(self) -> Iterator[RunId]:
        """Yield the ids.

        Raises:
            BackendUnavailableError: A server could not be used.
        """
        seen: set[RunId] = set()
        servers = self._runner.transport.servers()
        if not servers:
            self._runner.run(time(), self._policy)  # it finds the servers
            servers = self._runner.transport.servers()
        for _ in range(1 if len(servers) == 1 else 2):
            for server in servers:
                try:
                    for run_id in self._scan(server):
                        if run_id not in seen:
                            seen.add(run_id)
                            yield run_id
                except BackendUnavailableError:
                    if server in self._runner.transport.servers():
                        raise
                    # Another server has taken its slots over, and is among those of the second time.
            servers = self._runner.transport.servers()

    def _scan(self, server: Route) -> Iterator[RunId]:
        cursor = 0
        while True:
            reply, _ = self._runner.run(scan(self._namespace, self._prefix, cursor, server), self._policy)
            try:
                cursor, keys = int(reply[0]), list(reply[1])
            except (TypeError, ValueError, LookupError):
                raise BackendUnavailableError("runs: what answers there is no Redis server") from None
            for key in keys:
                run_id = run_of_head(self._namespace, key)
                # Glob characters are escaped in keys, so the match is exact; SCAN may repeat a key.
                if run_id is not None:
                    yield run_id
            if cursor == 0:
                return
