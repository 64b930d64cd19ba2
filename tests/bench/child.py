"""A contender in a process of its own: `python -m tests.bench.child MODULE`.

The process reads one request a line, `{"do": …, …}`, and answers each with a line. It imports no more than its
contender needs, for peers run it in an environment that has not got this library.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from .driver import Driver

ROOT = Path(__file__).resolve().parents[2]


class ChildError(Exception):
    """The contender failed; the text says how."""


class Child:
    """The parent's end."""

    def __init__(self, process: asyncio.subprocess.Process, said: Any) -> None:
        self._process, self._said = process, said
        self._killed = False

    async def hear(self, within: float = 300.0) -> Any:
        """Returns the answer to the oldest request that has none.

        Raises:
            ChildError: It failed, or ended, or said nothing.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within):
                line = await self._process.stdout.readline()
        except TimeoutError:
            self.kill()  # its answer may come yet, and would be taken for another's
            raise ChildError(f"no answer within {within:.0f} s") from None
        if not line:
            self._said.seek(0)
            last = self._said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise ChildError(last or "the process ended")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer["value"]

    def tell(self, do: str, **arguments: Any) -> None:
        """Sends a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Sends a request and returns the answer."""
        self.tell(do, **arguments)
        return await self.hear()

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return not self._killed and self._process.returncode is None

    def kill(self) -> None:
        """kill -9, also of what it forked."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def child(python: str | Path, module: str, url: str | None = None, root: Path = ROOT) -> AsyncIterator[Child]:
    """Runs a contender in a process that ends with the context, connected to the server at `url` if there is one.

    Args:
        python: The interpreter.
        module: The contender's module.
        url: The server.
        root: The folder whose `histstore` and `tests` it imports.

    Raises:
        ChildError: It did not start.
    """
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            str(python),
            "-W",
            "ignore",
            "-m",
            "tests.bench.child",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            cwd=root,
            env={**os.environ, "OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false"},
            limit=1 << 26,
            start_new_session=True,
        )
        running = Child(process, said)
        try:
            await running.hear()
            if url is not None:
                await running.ask("connect", url=url)
            yield running
        finally:
            running.kill()
            await process.communicate()


# ---------------------------------------------------------------------------------- the child's end


async def _driver(module: str, url: str, seed: int) -> Driver:
    """Makes a contender inside the event loop that it is to live in."""
    return Driver(module, url, seed)


def _run(module: str, url: str, seed: int, warm: str | None, barrier: Callable[[], None], **request: Any) -> list[Any]:
    """Makes a contender in an event loop of its own, and does one request some times, each after the barrier."""

    async def work() -> list[Any]:
        driver = await _driver(module, url, seed)
        if warm is not None:
            await driver.warm(warm)
        times, values = request.pop("times", 1), []
        for _ in range(times):
            barrier()
            values.append(await driver.ask(**request))
        await driver.close()
        return values

    return asyncio.run(work())


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def together(
    module: str, url: str, requests: list[dict[str, Any]], warm: str | None = None, times: int = 1
) -> list[Any]:
    """Does each request in a process of its own, all at once and `times` times; returns the values, time by time.

    The processes are forked, so that they need not import all that the contender imports once more.

    Raises:
        RuntimeError: A process failed.
    """
    running = []
    for seed, request in enumerate(requests):
        (go, let), (read, write) = os.pipe(), os.pipe()
        if os.fork() == 0:

            def barrier(ready: int = write, go: int = go) -> None:
                os.write(ready, b"\n")
                os.read(go, 1)

            answer: dict[str, Any] = {"error": "the process was interrupted"}
            try:
                answer = {"value": _run(module, url, seed, warm, barrier, times=times, **request)}
            except Exception as error:  # any: the parent tells it
                answer = {"error": _text(error)}
            finally:  # whatever happens, a copy of the parent must not go on with the parent's work
                os.write(write, json.dumps(answer).encode() + b"\n")
                os._exit(0)
        os.close(write)
        os.close(go)
        running.append((os.fdopen(read), let))
    for _ in range(times):
        for said, _let in running:
            _expect(said.readline(), "\n")
        for _said, let in running:
            os.write(let, b".")
    answers = [_expect(said.readline()) for said, _let in running]
    for said, let in running:
        said.close()
        os.close(let)
        os.wait()
    return [json.loads(answer)["value"] for answer in answers]


def _expect(line: str, this: str | None = None) -> str:
    """Returns the line of a process unless it tells of an error, or is not what was to come."""
    if not line or "error" in line[:9] or (this is not None and line != this):
        raise RuntimeError(json.loads(line)["error"] if line.strip() else "a process ended")
    return line


def main() -> None:
    """Answers requests until there are no more."""
    # What a library prints goes elsewhere: standard output is for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    (module,) = sys.argv[1:]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    url = ""
    driver: Any = None

    def answer(request: dict[str, Any]) -> Any:
        nonlocal driver, url
        match request.pop("do"):
            case "connect":
                if driver is not None:
                    loop.run_until_complete(driver.close())
                url = request["url"]
                driver = loop.run_until_complete(_driver(module, url, 1))
                return None
            case "together":
                return together(module, url, **request)
            case do:
                return loop.run_until_complete(driver.ask(do, **request))

    importlib.import_module(f"{__package__}.contenders.{module}")
    print(json.dumps({"value": "ready"}), file=answers, flush=True)
    for line in sys.stdin.buffer:
        try:
            said = {"value": answer(json.loads(line))}
        except Exception as error:  # any: the parent tells it
            said = {"error": _text(error)}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
