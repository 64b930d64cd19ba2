"""`python -m histstore.demo`: the command line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import uuid
from pathlib import Path

from redis.exceptions import RedisError

from histstore import HistoryStoreError, RedisBackend, RetryPolicy

from . import report
from .errors import DemoError, UsageError
from .server import remove, server
from .supervisor import Script, Supervisor
from .transcripts import Transcript, bundled, load

RIGHT, WRONG, UNUSABLE = 0, 1, 2


class _StoppedError(Exception):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m histstore.demo",
        description="Worker processes take the turns of many conversations at once. One is killed, one is frozen, one "
        "is frozen with a lease that another then takes over, and rivals collide. Then every message is accounted for. "
        "Exit status 0: each is stored once, in order, and no stale save was taken.",
    )
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help='conversations, one {"run": name, "messages": [...]} a line'
    )
    parser.add_argument(
        "--workers", type=_workers, default=8, metavar="N", help="worker processes, 2 to 64 (default 8)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="repeat the choices of an earlier demonstration")
    parser.add_argument("--url", help="use this Redis or Valkey server instead of an embedded one; it is left clean")
    return parser.parse_args()


def _workers(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("a number from 2 to 64 (one is killed, and one is frozen)")
    return int(text)


async def _demonstrate(script: Script, transcripts: list[Transcript], url: str) -> int:
    namespace = f"histstore-demo-{uuid.uuid4().hex[:8]}"
    progress = report.Progress(sum(each.turns for each in transcripts))
    try:
        # One try: whoever mistyped the URL should not wait for a server to appear.
        async with RedisBackend.from_url(url, namespace=namespace, retry=RetryPolicy(attempts=1, deadline=5)) as probe:
            await probe.store("probe").info()
    except HistoryStoreError as error:
        raise UsageError(f"cannot use the server: {error}") from None
    demo = Supervisor(script, transcripts, url, namespace, progress.tell, progress.tick)
    try:
        await demo.run()
        await demo.check()
        await demo.measure()
    finally:
        progress.close()
        with contextlib.suppress(RedisError, OSError):  # the server may be what broke
            await remove(url, namespace)
    print(report.table(demo))
    found = report.problems(demo)
    for problem in found:
        print(f"WRONG: {problem}")
    return WRONG if found else RIGHT


async def _until_stopped(script: Script, transcripts: list[Transcript], url: str) -> int:
    """Runs the demonstration; the first signal to stop cancels it, and it cleans up."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(_demonstrate(script, transcripts, url))
    stopped: list[int] = []

    def stop(number: int) -> None:
        if not stopped:
            stopped.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped:
            raise
        raise _StoppedError(stopped[0]) from None


def main() -> int:
    """Runs the demonstration and returns the exit status."""
    arguments = _arguments()
    try:
        transcripts = bundled() if arguments.input is None else load(arguments.input)
        turns = [each.turns for each in transcripts]
        seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
        script = Script.write(seed, arguments.workers, turns)
        messages = sum(len(each.messages) for each in transcripts)
        print(
            f"{len(transcripts):,} conversations, {messages:,} messages, {sum(turns):,} turns; "
            f"{script.workers} worker processes, seed {seed}",
            file=sys.stderr,
        )
        with server(arguments.url) as url:
            return asyncio.run(_until_stopped(script, transcripts, url))
    except UsageError as error:
        print(f"histstore.demo: {error}", file=sys.stderr)
        return UNUSABLE
    except (DemoError, HistoryStoreError) as error:
        print(f"histstore.demo: {error}", file=sys.stderr)
        return WRONG
    except _StoppedError as stopped:
        print("stopped; the workers and the server have been ended", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        print("stopped before the workers were started", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
