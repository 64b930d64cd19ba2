"""A service of two workers, written from the README: concurrent clients, and what becomes of them and workers (row 32).

Each acknowledged message is in its chat once and in order, no lease outlives its ttl, and no answer is a 500.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from histstore import AssistantMessage, Page, RedisBackend, Revision, RunInfo, Text, UserMessage

from ..support import servers

# Its requests race: one of them was answered 409 when fifteen processes shared two cores.
pytestmark = pytest.mark.alone

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Service:
    """uvicorn with two workers, and the Redis server that they share."""

    redis: servers.Server
    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def wait_for_workers(self, count: int) -> None:
        """Waits until so many workers have started, from the beginning."""
        end = time.monotonic() + 60
        while self.log.read_text().count("Application startup complete") < count:
            assert time.monotonic() < end, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)


@contextmanager
def serve(log: Path) -> Iterator[Service]:
    """Runs the service; afterwards its log holds no error but those of requests that the shutdown cut off."""
    with servers.server() as redis:
        port = servers.free_port()
        command = [sys.executable, "-m", "uvicorn", "tests.support.service:app", "--workers", "2", "--port", str(port)]
        command += ["--timeout-graceful-shutdown", "1", "--no-access-log"]
        with log.open("wb") as file:
            environment = os.environ | {"CHAT_REDIS_URL": redis.url}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        try:
            running = Service(redis, process, log, port)
            running.wait_for_workers(2)
            yield running
            process.terminate()
            assert process.wait(30) == 0, log.read_text()
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    raised = set(
        re.findall(r"^[\w.]+(?:Error|Group|Disconnect|Warning)\b|never retrieved", log.read_text(), re.MULTILINE)
    )
    assert raised <= {"asyncio.exceptions.CancelledError"}, log.read_text()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Service]]:
    """Returns the service that runs, or starts one: two workers take seconds to start."""
    with ExitStack() as stack:
        found: list[Service] = []

        def start() -> Service:
            if not found or found[-1].process.poll() is not None:
                found.append(stack.enter_context(serve(tmp_path_factory.mktemp("service") / "log")))
            return found[-1]

        yield start


@pytest.fixture
def service(start: Callable[[], Service]) -> Service:
    """A service of two workers; its server has other tests' chats, too."""
    return start()


@dataclass
class Stream:
    """An answer on its way."""

    response: httpx.Response
    lines: AsyncIterator[str] | None = None
    saved: Revision | None = None
    tokens: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def worker(self) -> int:
        return int(self.response.headers["X-Worker"])

    async def first_word(self) -> None:
        async for _ in self.events():
            return

    async def rest(self) -> None:
        async for _ in self.events():
            pass

    async def events(self) -> AsyncIterator[str]:
        name = ""
        self.lines = self.lines or self.response.aiter_lines()  # closed, it would close the response
        async for line in self.lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if name == "token":
                    self.tokens.append(data)
                elif name == "saved":
                    self.saved = Revision.parse(data)
                else:
                    self.errors.append(data)
                yield name


class Clients:
    """Clients of the service. They remember what was acknowledged."""

    def __init__(self, port: int) -> None:
        # A connection for each request: so the workers share the load.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
        url = f"http://127.0.0.1:{port}"
        self.http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits)
        self.http.event_hooks["response"].append(self._note)
        self.statuses: list[int] = []
        self.workers: set[int] = set()
        self.acknowledged: list[tuple[str, int, str]] = []
        """The chat, the version that was acknowledged, and the text."""

    async def _note(self, response: httpx.Response) -> None:
        self.statuses.append(response.status_code)
        if "X-Worker" in response.headers:
            self.workers.add(int(response.headers["X-Worker"]))

    @asynccontextmanager
    async def stream(self, run: str, text: str | None, **params: Any) -> AsyncIterator[Stream]:
        """Posts a message, or asks for one more answer."""
        path, body = f"/chats/{run}/messages", None
        if text is None:
            path = f"/chats/{run}/again"
        else:
            body = UserMessage(text).to_dict()
        async with self.http.stream("POST", path, json=body, params=params) as response:
            stream = Stream(response)
            if text is not None and response.status_code == 200:
                self.acknowledged.append((run, Revision.parse(response.headers["X-Revision"]).version, text))
            yield stream
            if stream.saved is not None:
                self.acknowledged.append((run, stream.saved.version, " ".join(stream.tokens)))

    async def ask(self, run: str, text: str | None, **params: Any) -> Stream:
        """Reads the whole answer, too."""
        async with self.stream(run, text, **params) as stream:
            assert stream.response.status_code == 200, await stream.response.aread()
            await stream.rest()
        return stream

    async def leave(self, run: str, text: str | None, leave_after: float | None = None, **params: Any) -> None:
        """Leaves after the first word, or after some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(leave_after), self.stream(run, text, **params) as stream:
                await stream.first_word()

    async def info(self, run: str) -> RunInfo:
        return RunInfo.from_dict((await self.http.get(f"/chats/{run}/info")).json())

    async def until_free(self, *runs: str) -> None:
        """Waits until nobody holds a lease: a client is answered before the turn's exit gives it up."""
        while any([(await self.info(run)).lease is not None for run in runs]):
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def clients(service: Service) -> AsyncIterator[Clients]:
    made = Clients(service.port)
    async with made.http:
        yield made
    assert 500 not in made.statuses


async def check_chats(service: Service, clients: Clients, *runs: str) -> None:
    """Each acknowledged text once and in order, each answer right behind what it answers, and no lease."""
    async with RedisBackend.from_url(service.redis.url) as backend:
        for run in runs:
            store = backend.store(run)
            info, snapshot = await store.info(), await store.load()
            assert info is not None
            assert info.lease is None
            assert snapshot is not None
            assert snapshot.revision is not None
            texts = []
            for index, message in enumerate(snapshot.messages):
                if not isinstance(message, UserMessage | AssistantMessage):
                    continue
                [block] = message.blocks
                assert isinstance(block, Text)
                texts.append(block.text)
                if isinstance(message, AssistantMessage):
                    # The model says how many messages it has seen: nobody has come between.
                    words = block.text.split()
                    assert words[:2] == ["seen", str(index)]
                    assert snapshot.messages[index + 1] == {"role": "usage", "words": len(words)}
            assert len(set(texts)) == len(texts)
            told = sorted((version, text) for chat, version, text in clients.acknowledged if chat == run)
            assert [text for text in texts if text in {text for _, text in told}] == [text for _, text in told]
            assert told[-1][0] <= snapshot.revision.version


async def test_concurrent_clients(service: Service, clients: Clients) -> None:
    """Several chats, requests racing on one chat, and clients that leave in the middle of an answer."""
    chats = [f"chat-{number}" for number in range(4)]
    asked = [clients.ask(chat, f"{chat}: {number}") for chat in chats for number in range(4)]
    raced = [clients.ask("busy", f"question {number}") for number in range(8)]
    again = [clients.ask("busy", None) for _ in range(2)]
    left = [clients.leave("busy", f"left {number}", words=1000) for number in range(3)]
    left += [clients.leave("busy", None, words=1000) for _ in range(2)]
    left += [clients.leave(chat, f"left {chat}", words=1000) for chat in chats[:2]]
    # These wait in line when they leave.
    left += [clients.leave("busy", f"soon {number}", leave_after=0.2, words=1000) for number in range(2)]
    left += [clients.leave("busy", None, leave_after=0.2, words=1000) for _ in range(2)]
    rated = [clients.http.post("/chats/busy/feedback", json={"rating": "up", "comment": str(n)}) for n in range(10)]
    async with asyncio.timeout(60), clients.stream("busy", "first", words=20) as first:
        await first.first_word()
        os.kill(first.worker, signal.SIGSTOP)  # so that the other worker takes the next request: both are in the race
        try:
            waiting = asyncio.create_task(clients.ask("busy", None))
            while len(clients.workers) < 2:
                await asyncio.sleep(0.01)
        finally:
            os.kill(first.worker, signal.SIGCONT)
        done = await asyncio.gather(waiting, *asked, *raced, *again, *left, *rated)
        await first.rest()
    assert all(stream.saved is not None for stream in done if isinstance(stream, Stream))
    # Leases of 30 seconds: if a client that left still held one, this would be a 423.
    last = await asyncio.gather(*[clients.ask(chat, "last", wait=15) for chat in [*chats, "busy"]])
    assert all(stream.saved is not None for stream in last)
    assert set(clients.statuses) == {200}
    await clients.until_free(*chats, "busy")
    await check_chats(service, clients, *chats, "busy")

    runs = [RunInfo.from_dict(info) for info in (await clients.http.get("/chats", params={"prefix": "chat-"})).json()]
    assert {info.run_id for info in runs} == set(chats)
    given = (await clients.http.get("/chats/busy/feedback")).json()
    assert sorted(entry["comment"] for entry in given) == [str(number) for number in range(10)]
    info = await clients.info("busy")
    chat = (await clients.http.get("/chats/busy")).json()
    assert (chat["run"], chat["length"], chat["revision"]) == ("busy", info.length, str(info.revision))
    assert len(chat["messages"]) == info.length
    assert {"role": "usage", "words": 5} in chat["messages"]
    page = Page.from_dict((await clients.http.get("/chats/busy/page", params={"last": 2})).json())
    assert (page.revision, page.length) == (info.revision, info.length)
    assert [m.to_dict() if isinstance(m, AssistantMessage) else m for m in page.messages] == chat["messages"][-2:]


async def test_refusals(service: Service, clients: Clients) -> None:
    """Each error becomes a status, or an event of the stream, and names its run. Nothing was written."""
    body = UserMessage("no").to_dict()
    async with clients.stream("a", "hi", words=1000) as stream:
        await stream.first_word()
        first = Revision.parse(stream.response.headers["X-Revision"])
        told = [
            await clients.http.post("/chats/a/messages", json=body, params={"wait": 0}),
            await clients.http.delete("/chats/a"),
        ]
        assert [(answer.status_code, answer.json()["error"], answer.json()["run"]) for answer in told] == [
            (423, "LockTimeoutError", "a"),
            (423, "LockedError", "a"),
        ]
        late = await clients.ask("a", None, wait=0)
        assert [(error["error"], error["run"]) for error in late.errors] == [("LockTimeoutError", "a")]
        info = await clients.info("a")
        assert info.lease is not None
        assert (info.revision, info.lease.holder.split(":")[1]) == (first, str(stream.worker))
    await clients.ask("a", "and now?")

    stale = {"If-Match": str(first)}
    told = [
        await clients.http.post("/chats/a/messages", json=body, headers=stale),
        await clients.http.delete("/chats/a", headers=stale),
    ]
    for answer in told:
        assert (answer.status_code, answer.json()["error"], answer.json()["run"]) == (409, "ConflictError", "a")
    bad = await clients.http.post("/chats/a/messages", json=body, params={"ttl": 0})
    assert (bad.status_code, bad.json()["error"], bad.json()["run"]) == (422, "SnapshotError", "a")
    key = {"Idempotency-Key": "k-1"}
    posted = [await clients.http.post("/chats/once/messages", json=body, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in posted] == [200, 409]
    assert (await clients.info("once")).length == 3
    assert (await clients.http.post("/chats/a/messages", json={"role": "user"})).status_code == 422
    assert (await clients.http.delete("/chats/a", headers={"If-Match": "3"})).status_code == 422
    assert (await clients.http.get("/chats/none/info")).status_code == 404

    for text in ("to be broken", None):
        async with clients.stream("a", text, words=30) as stream:
            await stream.first_word()
            async with RedisBackend.from_url(service.redis.url) as backend:
                assert await backend.break_lease("a")
            assert [name async for name in stream.events()][-1] == "error"
        assert [(error["error"], error["run"]) for error in stream.errors] == [("LeaseLostError", "a")]
    await clients.until_free("a")
    await check_chats(service, clients, "a")
    now = Revision.parse((await clients.http.get("/chats/a")).json()["revision"])
    assert (await clients.http.delete("/chats/a", headers={"If-Match": str(now)})).status_code == 204
    assert (await clients.http.get("/chats/a")).status_code == 404


async def test_a_killed_worker(service: Service, clients: Clients) -> None:
    """A worker dies in the middle of a turn: the next turn follows when its lease ends; what was acknowledged stays."""
    await clients.ask("k", "first")
    async with clients.stream("k", "second", ttl=2, words=1000) as stream:
        await stream.first_word()
        os.kill(stream.worker, signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            await stream.rest()
    service.wait_for_workers(3)
    await asyncio.gather(*(clients.ask("k", f"third {number}") for number in range(4)))
    await clients.until_free("k")
    await check_chats(service, clients, "k")


async def test_an_outage(service: Service, clients: Clients) -> None:
    """Without its server the service says 503, and it goes on when the server is back."""
    await clients.ask("out", "hello")
    service.redis.kill()
    for method, path in (("GET", "/chats/out"), ("POST", "/chats/out/messages"), ("DELETE", "/chats/out")):
        body = UserMessage("no").to_dict() if method == "POST" else None
        answer = await clients.http.request(method, path, json=body)
        assert (answer.status_code, answer.json()["error"]) == (503, "BackendUnavailableError")
        assert answer.json()["run"] == "out"
    assert [error["error"] for error in (await clients.ask("out", None)).errors] == ["BackendUnavailableError"]
    service.redis.start()
    clients.acknowledged.clear()  # this server forgets
    assert (await clients.ask("out", "hello again")).saved is not None
    await clients.until_free("out")
    await check_chats(service, clients, "out")


async def test_a_shutdown(service: Service, clients: Clients) -> None:
    """SIGTERM: a short answer ends, long ones are cut off, leases are given up.

    The leases are of 30 seconds: a worker that ended without giving one up would leave it in the server.
    """

    async def cut_off(run: str, text: str | None) -> bool:
        try:
            return (await clients.ask(run, text, words=1000)).saved is None
        except httpx.RemoteProtocolError:
            return True

    long = [asyncio.create_task(cut_off("end-1", "long")), asyncio.create_task(cut_off("end-2", None))]
    short = asyncio.create_task(clients.ask("end-3", "short", words=10))
    while sum(info["lease"] is not None for info in (await clients.http.get("/chats")).json()) < 3:
        await asyncio.sleep(0.02)
    service.process.terminate()
    assert (await short).saved is not None
    assert await asyncio.gather(*long) == [True, True]
    while service.process.poll() is None:
        await asyncio.sleep(0.02)
    await check_chats(service, clients, "end-1", "end-3")
    async with RedisBackend.from_url(service.redis.url) as backend:
        assert [info.run_id async for info in backend.runs() if info.lease is not None] == []
