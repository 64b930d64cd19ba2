"""A worker that takes turns: it answers each run whose last message is from the user.

Start as many as you like. A run's lease makes sure that one of them at a time works on it. Replace two functions with
your own code: `reply` calls your model, and `waiting_runs` asks your job queue which runs have work.

    python worker.py            work until SIGTERM
    python worker.py --check    exit with 0 if the worker of this container is ready, for a HEALTHCHECK
    python worker.py --drain    have it take no more turns, and return when its turns have ended, for a preStop hook

On SIGTERM or SIGINT, the worker takes no more turns. Turns that run have WORKER_DRAIN seconds to end. Then the worker
gives up the leases that it still holds, so that another worker can take these turns at once.

Environment:

    HISTSTORE_URL         the server, as for RedisBackend.from_url
    HISTSTORE_NAMESPACE   prefix of all keys (histstore)
    WORKER_PREFIX         only runs whose id starts with it (all)
    WORKER_TURNS          turns at once (8)
    WORKER_TURN_LIMIT     longest turn in seconds (60)
    WORKER_DRAIN          time that turns have to end when the worker is stopped, in seconds (WORKER_TURN_LIMIT)
    WORKER_LEASE          lifetime of a lease in seconds: how long a run waits for a worker that was killed (30)
    WORKER_POLL           pause between two looks for work in seconds (1)
    WORKER_PORT           port of /live and /ready (8080)
    WORKER_PID_FILE       where the worker writes its process id (/tmp/histstore-worker.pid)
    WORKER_REPLY_SECONDS  time that the example of `reply` takes (0.05)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from histstore import (
    BackendConfigError,
    CorruptSnapshotError,
    HistoryStoreError,
    JSONValue,
    LockError,
    RedisBackend,
    RetryPolicy,
    Revision,
)

LOG = logging.getLogger("worker")


def setting(name: str, default: str) -> str:
    """Return an environment variable, or the default if it is unset or empty."""
    return os.environ.get(name) or default


TURNS = int(setting("WORKER_TURNS", "8"))
TURN_LIMIT = float(setting("WORKER_TURN_LIMIT", "60"))
DRAIN = float(setting("WORKER_DRAIN", str(TURN_LIMIT)))
LEASE = float(setting("WORKER_LEASE", "30"))
POLL = float(setting("WORKER_POLL", "1"))
PORT = int(setting("WORKER_PORT", "8080"))
LOOK = RetryPolicy(deadline=5)
"""How long a look for work tries to reach the server. A worker that cannot reach it for so long is not ready."""
PID_FILE = Path(setting("WORKER_PID_FILE", "/tmp/histstore-worker.pid"))  # noqa: S108 (one worker a container)


async def reply(messages: Sequence[object]) -> dict[str, JSONValue]:
    """Return the answer to a conversation. Replace this with a call of your model."""
    await asyncio.sleep(float(setting("WORKER_REPLY_SECONDS", "0.05")))
    return {"role": "assistant", "content": f"This is message {len(messages) + 1}."}


async def waiting_runs(backend: RedisBackend, seen: dict[str, Revision]) -> AsyncIterator[str]:
    """Yield the runs that have changed since `seen`. Replace this with your job queue: it scans all keys."""
    async for info in backend.runs(prefix=setting("WORKER_PREFIX", ""), retry=LOOK):
        if info.revision is not None and info.lease is None and seen.get(info.run_id) != info.revision:
            yield info.run_id


@dataclass
class Worker:
    """One worker process.

    Attributes:
        backend: The connection to the server.
        turns: The turns that run, by run.
        seen: The revision at which each run needed no answer.
        draining: Set when the worker takes no more turns.
        stopping: Set when it is to end.
        drained_since: Time at which it began to drain.
        connected: Whether the server answered the last look for work.
    """

    backend: RedisBackend
    turns: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    seen: dict[str, Revision] = field(default_factory=dict)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    drained_since: float = 0.0
    connected: bool = False

    def drain(self) -> None:
        """Take no more turns."""
        if not self.draining.is_set():
            self.drained_since = time.monotonic()
            self.draining.set()
            LOG.info("draining: %d turns run", len(self.turns))

    def stop(self) -> None:
        """End when the turns have ended, and after WORKER_DRAIN seconds at the latest."""
        self.drain()
        self.stopping.set()

    @property
    def ready(self) -> bool:
        """Whether the worker takes turns, and the server answers."""
        return self.connected and not self.draining.is_set()

    # --------------------------------------------------------------------------------------------- turns

    async def work(self) -> None:
        """Take turns until the worker is drained.

        Raises:
            BackendConfigError: The settings are wrong. To repeat the call would not help.
        """
        while not self.draining.is_set():
            try:
                async for run in waiting_runs(self.backend, self.seen):
                    self.connected = True
                    await self.start(run)
                    if self.draining.is_set():
                        return
                self.connected = True
            except BackendConfigError:
                raise
            except CorruptSnapshotError as error:  # raised after all sound runs
                LOG.error("a run is damaged: %s", error)
            except HistoryStoreError as error:
                self.connected = False
                LOG.warning("the server cannot be used: %s", error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.draining.wait(), POLL)

    async def start(self, run: str) -> None:
        """Start a turn of a run, once fewer than WORKER_TURNS run."""
        while len(self.turns) >= TURNS:
            await asyncio.wait(self.turns.values(), return_when=asyncio.FIRST_COMPLETED)
        if run not in self.turns and not self.draining.is_set():
            self.turns[run] = task = asyncio.create_task(self.take_turn(run))
            task.add_done_callback(lambda _: self.turns.pop(run))

    async def take_turn(self, run: str) -> None:
        """Answer a run's last message if it is from the user and no other worker is at it."""
        try:
            async with asyncio.timeout(TURN_LIMIT):
                async with self.backend.store(run).turn(ttl=LEASE, acquire_timeout=0) as turn:
                    # Only now, under the lease: another worker may have answered since.
                    if turn.messages and is_from_user(turn.messages[-1]):
                        turn.append(await reply(turn.messages))
                    await turn.save()
                    if turn.revision is not None:
                        self.seen[run] = turn.revision
        except LockError as error:
            LOG.info("another worker has run %r: %s", run, error)
        except TimeoutError:
            LOG.error("a turn of run %r took longer than %g s", run, TURN_LIMIT)
        except HistoryStoreError as error:
            LOG.warning("no turn of run %r: %s", run, error)
        except Exception:
            LOG.exception("a turn of run %r failed", run)

    # -------------------------------------------------------------------------------------------- health

    async def answer_probe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one HTTP request: /live, /ready, or /turns with the number of turns that run."""
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(5):
                path = (await reader.readline()).split(b" ")[1:2]
                while (await reader.readline()).strip():
                    pass
                fine = self.ready if path == [b"/ready"] else path in ([b"/live"], [b"/turns"])
                text = b"%d\n" % len(self.turns)
                writer.write(b"HTTP/1.1 %s\r\n" % (b"200 OK" if fine else b"503 Service Unavailable"))
                writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text))
                await writer.drain()
        writer.close()

    # ----------------------------------------------------------------------------------------------- run

    async def run(self) -> None:
        """Work until a signal stops the worker.

        Raises:
            BackendConfigError: The settings are wrong.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGUSR1, self.drain)
        write_pid()
        probes = await asyncio.start_server(self.answer_probe, port=PORT)
        try:
            await self.work()
            # Drained by a preStop hook: answer probes until SIGTERM comes.
            await self.stopping.wait()
        finally:
            left = max(0.0, self.drained_since + DRAIN - time.monotonic()) if self.draining.is_set() else 0.0
            # Waits for the turns, then gives up the leases that are left.
            await self.backend.aclose(drain=left)
            await asyncio.gather(*self.turns.values(), return_exceptions=True)
            probes.close()
        LOG.info("stopped")


def write_pid() -> None:
    """Say who is to be signalled. From now on, the signal handlers are there."""
    PID_FILE.write_text(str(os.getpid()))


def is_from_user(message: object) -> bool:
    """Whether the user wrote a message, be it plain or typed."""
    role = message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
    return role == "user"


def ask(path: str) -> str | None:
    """Return what the worker of this container answers; None if it does not, or with an error."""
    url = f"http://127.0.0.1:{PORT}{path}"
    with suppress(OSError), urllib.request.urlopen(url, timeout=3) as answer:
        return str(answer.read().decode())
    return None


def drain() -> int:
    """Have the worker take no more turns. Return when its turns have ended, or their time is up."""
    end = time.monotonic() + DRAIN
    with suppress(OSError, ValueError):
        os.kill(int(PID_FILE.read_text()), signal.SIGUSR1)
        while time.monotonic() < end and int(ask("/turns") or 0) > 0:
            time.sleep(0.2)
        return 0
    return 1


def main() -> int:
    """Run the command line, and return the exit code."""
    if sys.argv[1:] == ["--check"]:
        return 0 if ask("/ready") is not None else 1
    if sys.argv[1:] == ["--drain"]:
        return drain()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        url, namespace = os.environ["HISTSTORE_URL"], setting("HISTSTORE_NAMESPACE", "histstore")
        backend = RedisBackend.from_url(url, namespace=namespace)
        asyncio.run(Worker(backend).run())
    except KeyError:
        LOG.error("set HISTSTORE_URL")
        return 2
    except BackendConfigError as error:
        LOG.error("the settings are wrong: %s", error)
        return 2
    finally:
        PID_FILE.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
