"""The backend: one server, its connections, and the calls about all of its runs."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from redis import exceptions as redis_errors

from ..arguments import check_drain
from ..errors import (
    BackendError,
    ConnectionOptionError,
    CorruptSnapshotError,
    SnapshotError,
)
from ..info import RunInfo
from ..messages import M
from ..observe import Observer
from ..options import DEFAULTS, Options, check_picklable
from ..policy import Durability, RetryPolicy, policy_of
from ..revision import ANY, RunId, check_name
from ..wire.settings import ConnectionSettings, check_url, connection_settings
from ..wire.slots import HostMap, checked
from ..wire.urls import parse_url
from .compat import clients, io
from .leases.table import LeaseTable
from .reads import Reads
from .run import Run
from .seats import Seats
from .store import RedisHistoryStore
from .terms import Terms
from .transport.runner import Runner
from .transport.single_server import SingleServer
from .walk import Walk
from .writes import Writes

if TYPE_CHECKING:
    from ..embedded import EmbeddedServer


class RedisBackend:
    """Conversations in one Redis or Valkey server. Make one, at module level if you like, and use it everywhere.

    Tasks, threads, event loops and forked processes may share a backend. Each event loop of each process has its own
    connections and leases, which are made when the loop first uses the backend. The connections are closed by
    `aclose`, or when the loop ends as `asyncio.run` ends it. A loop that is closed by hand (`loop.close()` without
    `shutdown_asyncgens()`) leaves them to the next loop that uses the backend.

    A forked process never touches the connections of its parent. A lease stays with the process and the loop that
    entered it: see `Lease`.

    A backend that was made by `from_url` can be pickled, for multiprocessing, Ray or Dask: as its URL and its options.
    The pickle holds the URL's password. A backend that was made by `embedded` with a path can be pickled for processes
    of the same machine.

    All threads and processes that use the backend share the objects in a client's settings. A credential provider, for
    example, must be safe for that.

    Args:
        client: A `redis.asyncio.Redis` or `redis.asyncio.RedisCluster` whose settings are copied. The client is neither
            changed nor closed. Its own retries do not apply: only `retry` decides.
        namespace: Prefix of all keys, which separates the runs of several backends. Default: "histstore".
        run_ttl: Lifetime of a run after its last save, in seconds. Default: None, which leaves lifetimes alone.
        keep_revisions: Number of past revisions that `load(at=)` can always reach. Default: 0.
        retry: How often, and for how many seconds, a call tries again. Default: None, which is `RetryPolicy()`.
        durability: The confirmations that a save waits for. Default: None, which is `Durability()`.
        max_snapshot_bytes: Size limit of a snapshot, in bytes of its encoded messages. Default: 64 MiB.
        observer: Receives an event for each call to the server and each of its tries. Default: None.

    Raises:
        SnapshotError: An option is out of range, or of the wrong type.
    """

    def __init__(
        self,
        client: clients.Redis | clients.RedisCluster,
        *,
        namespace: str = DEFAULTS.namespace,
        run_ttl: float | None = DEFAULTS.run_ttl,
        keep_revisions: int = DEFAULTS.keep_revisions,
        retry: RetryPolicy | None = None,
        durability: Durability | None = None,
        max_snapshot_bytes: int = DEFAULTS.max_snapshot_bytes,
        observer: Observer | None = None,
    ) -> None:
        settings = _settings_of(client)
        options = Options(
            namespace,
            run_ttl,
            keep_revisions,
            DEFAULTS.retry if retry is None else retry,
            durability=DEFAULTS.durability if durability is None else durability,
            max_snapshot_bytes=max_snapshot_bytes,
            observer=observer,
        )
        self._options = options
        self.namespace = options.namespace
        self.run_ttl = options.run_ttl
        self.ttl_ms = options.ttl_ms
        self.keep_revisions = options.keep_revisions
        self.max_snapshot_bytes = options.max_snapshot_bytes
        self.retry = options.retry
        self.durability = options.durability
        self.observer = options.observer
        self._seats = Seats(settings, self.durability, self.namespace, self.retry, self.observer)
        # The bound method itself, because every call looks its seat up.
        self._here = self._seats.here
        self._server: EmbeddedServer | None = None
        # How to make this backend again, for `pickle`. None: its client cannot be made elsewhere.
        self._source: _Source | None = None

    @classmethod
    def from_url(
        cls, url: str = "redis://localhost:6379/0", *,
        namespace: str = DEFAULTS.namespace, run_ttl: float | None = DEFAULTS.run_ttl,
        keep_revisions: int = DEFAULTS.keep_revisions, retry: RetryPolicy | None = None,
        durability: Durability | None = None, max_snapshot_bytes: int = DEFAULTS.max_snapshot_bytes,
        observer: Observer | None = None, host_map: HostMap | None = None,
    ) -> Self:  # fmt: skip
        """Make a backend for the server or the cluster at a URL. This does no I/O.

        Args:
            url: `redis://`, `rediss://` or `unix://`; for a cluster `redis+cluster://host:port,host:port`; for the
                primary that sentinels name `redis+sentinel://host:port,host:port/service/database`; with TLS
                `rediss+cluster://` and `rediss+sentinel://`. It takes redis-py's query options: `max_connections`
                bounds the backend's open connections to each server, `socket_connect_timeout` the time to connect, in
                seconds. `sentinel_username`, `sentinel_password` and `sentinel_ssl` are for the sentinels.
            namespace: Prefix of all keys, which separates applications that share the server. Default: "histstore".
            run_ttl: Lifetime of a run after its last save, in seconds. Default: None, which leaves lifetimes alone.
            keep_revisions: Number of past revisions that `load(at=)` can always reach. Default: 0.
            retry: How often, and for how many seconds, a call tries again. Default: None, which is `RetryPolicy()`.
            durability: The confirmations that a save waits for. Default: None, which is `Durability()`.
            max_snapshot_bytes: Size limit of a snapshot, in bytes of its encoded messages. Default: 64 MiB.
            observer: Receives an event for each call to the server and each of its tries. Default: None.
            host_map: Returns where a server is reached, by the host and port that its cluster or the sentinels know it
                by. Default: None, which is there.

        Raises:
            BackendConfigError: The URL cannot be used. The text does not quote it. It is a SnapshotError as well.
            SnapshotError: An option is out of range, or of the wrong type.
        """
        if not isinstance(url, str):
            raise SnapshotError(f"a URL is a str, not a {type(url).__name__}")
        parsed, mapped = parse_url(url), checked(host_map)
        check_url(parsed.url)
        try:
            pool = clients.ConnectionPool.from_url(parsed.url)
        except (ValueError, TypeError, UnicodeError, redis_errors.RedisError):
            # The error may quote the URL, and the URL may hold a password.
            raise ConnectionOptionError(
                "the URL is not one that redis-py can read: check host, port and query options"
            ) from None
        backend = cls(
            clients.Redis(connection_pool=pool),
            namespace=namespace, run_ttl=run_ttl, keep_revisions=keep_revisions, retry=retry,
            durability=durability, max_snapshot_bytes=max_snapshot_bytes, observer=observer,
        )  # fmt: skip
        backend._seats.settings = parsed.complete(backend._seats.settings, mapped)
        backend._source = _Source("from_url", url, more={} if host_map is None else {"host_map": host_map})
        return backend

    @classmethod
    def embedded(
        cls, path: str | os.PathLike[str] | None = None, *,
        namespace: str = DEFAULTS.namespace, run_ttl: float | None = DEFAULTS.run_ttl,
        keep_revisions: int = DEFAULTS.keep_revisions, retry: RetryPolicy | None = None,
        durability: Durability | None = None, max_snapshot_bytes: int = DEFAULTS.max_snapshot_bytes,
        observer: Observer | None = None,
    ) -> Self:  # fmt: skip
        """Make a backend that owns a local server, started at first use and stopped by `aclose`.

        Args:
            path: A folder for the data, which then survives kill -9 of this process and of the server. Processes that
                open the same folder share one server. None: a temporary server, which ends with the last process that
                has used it. A forked process that first uses it after that gets a BackendError.
            namespace: Prefix of all keys, which separates runs that share the server. Default: "histstore".
            run_ttl: Lifetime of a run after its last save, in seconds. Default: None, which keeps runs for ever.
            keep_revisions: Number of past revisions that `load(at=)` can always reach. Default: 0.
            retry: How often, and for how many seconds, a call tries again. Default: None, which is `RetryPolicy()`.
            durability: The confirmations that a save waits for. Default: None, which is `Durability()`.
            max_snapshot_bytes: Size limit of a snapshot, in bytes of its encoded messages. Default: 64 MiB.
            observer: Receives an event for each call to the server and each of its tries. Default: None.

        Raises:
            SnapshotError: An option is out of range, or of the wrong type.
            BackendError: This system is neither Linux nor macOS.
        """
        try:
            from ..embedded import EmbeddedServer  # needs fcntl, and loads subprocess and tempfile
        except ImportError as error:
            raise BackendError(
                f"embedded() needs Linux or macOS ({error}): run Redis or Valkey in Docker or WSL, and connect with "
                'RedisBackend.from_url("redis://localhost:6379/0")'
            ) from error
        server = EmbeddedServer(path)
        backend = cls(
            clients.Redis(unix_socket_path="/"),
            namespace=namespace, run_ttl=run_ttl, keep_revisions=keep_revisions, retry=retry,
            durability=durability, max_snapshot_bytes=max_snapshot_bytes, observer=observer,
        )  # fmt: skip
        backend._server = server
        backend._seats.prepare = backend._start
        backend._source = _Source("embedded", server.path, platform.node())
        return backend

    async def _start(self, transport: SingleServer) -> None:
        """Start the embedded server, and connect to it."""
        server = self._server
        assert server is not None
        await io.run_to_the_end(server.start)
        path = server.socket_path
        if self._seats.settings.kwargs.get("path") != path:
            settings = self._seats.settings
            self._seats.settings = replace(settings, kwargs={**settings.kwargs, "path": path})
        if transport.settings.path != path:
            await transport.reconnect(self._seats.settings)

    @property
    def _runner(self) -> Runner:
        """The runner of this process and event loop."""
        return self._seats.at().runner

    @property
    def _leases(self) -> LeaseTable:
        """The leases of this process and event loop."""
        return self._seats.at().leases

    async def __aenter__(self) -> Self:
        self._seats.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, drain: float = 5.0) -> None:
        """Close the backend: wait for locks and turns to end, give up the leases that are left, and disconnect.

        From now on no lock or turn begins: `lock` and `turn` raise BackendError, also in tasks that already wait.
        Bodies that run have `drain` seconds to save and release; `aclose` does not wait for a body that it is called
        in. Then the remaining leases are given up, so that the next worker enters at once. Their bodies are cancelled,
        as described at `lock`, and the server refuses their saves with LeaseLostError. An embedded server stops when
        its last user closes it.

        This closes the backend for all event loops of this process, but for no other process, parent or child. Other
        loops that run close their own part meanwhile. A stopped loop does so when it next runs; until then, this call
        gives up its leases. It also gives up the leases of loops that have ended.

        A closed backend stays closed. Calls may be repeated, and run at once. Cancelling one ends the wait, and the
        rest is done immediately.

        Args:
            drain: Longest wait for running bodies, in seconds.

        Raises:
            SnapshotError: `drain` is out of range.
        """
        check_drain(drain)
        try:
            await self._seats.close(drain)
        finally:
            if self._server is not None:
                await io.run_to_the_end(self._server.close)

    async def close(self, drain: float = 5.0) -> None:
        """Do the same as `aclose`."""
        await self.aclose(drain)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is None:
            raise BackendError(
                "a backend made from a client cannot be pickled: use RedisBackend.from_url(), or make one in each "
                "process"
            )
        if self._source.where is None:
            raise BackendError(
                "a temporary embedded server stays with its processes: give embedded() a path, or use from_url()"
            )
        check_picklable("observer", self.observer)
        check_picklable("host_map", self._source.more.get("host_map"))
        options = {option.name: getattr(self, option.name) for option in fields(Options)}
        return _remake, (type(self), self._source, options)

    def __repr__(self) -> str:
        return f"<RedisBackend with namespace {self.namespace!r}>"

    # ------------------------------------------------------------------------------------------ runs

    def store(self, run_id: str | uuid.UUID) -> RedisHistoryStore[M]:
        """Return a store for one run and one writer. This does no I/O.

        Its message type is `Message | JSONValue`, unless an annotation says otherwise:
        `store: RedisHistoryStore[MessageParam] = backend.store(run_id)`.

        Args:
            run_id: The run: any non-empty text, or a UUID.

        Raises:
            SnapshotError: The run id is empty, or no text.
        """
        return RedisHistoryStore(self._here, self._options, RunId(run_id))

    async def runs(self, *, prefix: str = "", retry: RetryPolicy | None = None) -> AsyncIterator[RunInfo]:
        """Yield every run whose id starts with `prefix`: each once, unordered, without its messages.

        A run that is leased and was never saved is yielded too, with the revision None. This is for maintenance, since
        it scans all keys of the server, or twice those of a cluster. A run that is written or deleted meanwhile may be
        yielded or not.

        Raises:
            CorruptSnapshotError: The head of a run is damaged; the error names the run. It is raised last, after all
                sound runs were yielded.
        """
        if prefix != "":
            check_name(prefix, "prefix")
        damaged: CorruptSnapshotError | None = None
        async for run_id in Walk(self._runner, self.namespace, prefix, policy_of(retry, self.retry)).run_ids():
            try:
                info = await self.store(run_id).info(retry=retry)
            except CorruptSnapshotError as error:
                if damaged is None:
                    damaged = error
                else:
                    damaged.add_note(str(error))
                continue
            if info is not None:
                yield info
        if damaged is not None:
            raise damaged

    async def delete(self, run_id: str | uuid.UUID, *, retry: RetryPolicy | None = None) -> bool:
        """Delete a run, damaged or not. A holder of its lease is fenced: the server refuses its later saves.

        A body under a lease of this backend is notified at once, as described at `lock`; any other at its next renewal.

        Returns:
            Whether there was a run to delete.

        Raises:
            OutcomeUnknownError: The run may have been deleted; `store(run_id).resolve(error.attempt)` says whether.
        """
        run = Run(self._here, self._options, RunId(run_id))
        with run.errors:
            held = [(table, table.registry.active(run.where)) for table in self._seats.leases()]
            deleted = await Writes(run, Reads(run)).delete(ANY, Terms(run.policy(retry)), force=True)
            for table, leases in held:
                table.revoke(leases)
            await self._leases.serve(run.where, retry)
            return deleted

    async def break_lease(self, run_id: str | uuid.UUID, *, retry: RetryPolicy | None = None) -> bool:
        """Take a run's lease from its holder, and hand the run to the next waiter.

        The holder is fenced: the server refuses its later saves. So is a holder whose lease has lapsed, if nobody took
        the run since. Use this against a worker that hangs and still renews. A body under a lease of this backend is
        notified at once, as described at `lock`; any other at its next renewal.

        Returns:
            Whether there was a holder.

        Raises:
            BackendUnavailableError: The server could not be used; repeating is safe.
        """
        run = Run(self._here, self._options, RunId(run_id))
        with run.errors:
            return await self._leases.break_lease(run.where, run.policy(retry))


def _settings_of(client: object) -> ConnectionSettings:
    """Copy the settings of a client.

    Raises:
        SnapshotError: It is no client of redis-py of this shell, or has an option of no use here.
    """
    if isinstance(client, clients.RedisCluster):
        return clients.cluster_settings(client)
    if not isinstance(client, clients.Redis):
        raise SnapshotError(
            f"RedisBackend takes a {clients.Redis.__module__}.{clients.Redis.__qualname__} or RedisCluster, "
            f"not a {type(client).__name__}: use from_url, or the client of the same flavour "
            "(histstore.sync has the blocking one)"
        )
    pool = client.connection_pool
    # A single URL's pool keeps its limit beside the other settings.
    given = {**pool.connection_kwargs, "max_connections": _pool_limit(pool)}
    if "connection_pool" not in given:
        return connection_settings(pool.connection_class, given, clients.KINDS)
    # redis-py's own reference to the pool of a Sentinel's client is weak: it ends with the client.
    settings = connection_settings(pool.connection_class, {**given, "connection_pool": pool}, clients.KINDS)
    sentinels, host_map = clients.sentinels_of(pool)
    return replace(settings, sentinels=sentinels, host_map=host_map)


class _Source:
    """How a backend was made, for `pickle`. Its `repr` hides the URL, which may hold a password.

    Args:
        how: The name of the constructor.
        where: Its first argument.
        machine: The only machine where that argument is valid; empty: any.
        more: Arguments of that constructor alone.
    """

    def __init__(self, how: str, where: str | None, machine: str = "", more: dict[str, Any] | None = None) -> None:
        self.how = how
        self.where = where
        self.machine = machine
        self.more = more or {}

    def __repr__(self) -> str:
        return f"<made by {self.how}>"


def _remake(cls: type[RedisBackend], source: _Source, options: dict[str, Any]) -> RedisBackend:
    """Make a backend again from its pickle."""
    if source.machine not in ("", platform.node()):
        raise BackendError(
            f"this backend was pickled on {source.machine}, where its embedded server has its data: run a server that "
            "both machines reach, and use from_url()"
        )
    made: RedisBackend = getattr(cls, source.how)(source.where, **options, **source.more)
    return made


def _pool_limit(pool: Any) -> int | None:
    """Return a pool's limit of connections; None if it has no practical one (older redis-py's default is 2**31)."""
    limit = getattr(pool, "max_connections", None)
    return limit if type(limit) is int and 0 < limit <= 10_000 else None
