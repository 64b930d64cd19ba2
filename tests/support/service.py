"""A chat service, written from the README: FastAPI, answers streamed by server-sent events, any number of workers.

`CHAT_REDIS_URL=redis://… uvicorn tests.support.service:app --workers 2`. All workers share the runs of one server.
mypy --strict checks this file, and tests/faults/test_service.py runs it.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, Literal

from fastapi import Body, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from typing_extensions import TypedDict

from histstore import (
    ANY,
    KEEP,
    AssistantMessage,
    BackendConfigError,
    BackendUnavailableError,
    ConflictError,
    Durability,
    Expect,
    HistoryStoreError,
    JSONValue,
    Keep,
    LeaseLostError,
    LockedError,
    LockTimeoutError,
    Message,
    OutcomeUnknownError,
    Page,
    RedisBackend,
    RedisHistoryStore,
    RetryPolicy,
    Revision,
    RevisionGoneError,
    RunId,
    RunInfo,
    SnapshotError,
    Turn,
    UserMessage,
)

RUN_TTL: Final[float] = 86_400
RETRY: Final[RetryPolicy] = RetryPolicy(attempts=4, deadline=3.0)
DURABILITY: Final[Durability] = Durability()
LEASE_TTL: Final = 30.0

# One for the process. It connects with the first call, in the event loop of the worker.
backend: Final = RedisBackend.from_url(
    os.environ["CHAT_REDIS_URL"], run_ttl=RUN_TTL, keep_revisions=20, retry=RETRY, durability=DURABILITY
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await backend.aclose(drain=3.0)


app = FastAPI(lifespan=lifespan)
log: Final = logging.getLogger("chat")


# --------------------------------------------------------------------------------------- errors

STATUS: Final[dict[type[HistoryStoreError], int]] = {
    ConflictError: 409,
    LeaseLostError: 409,
    RevisionGoneError: 410,
    SnapshotError: 422,
    LockedError: 423,
    LockTimeoutError: 423,
    BackendConfigError: 503,
    BackendUnavailableError: 503,
    OutcomeUnknownError: 504,
}


class Problem(BaseModel):
    """The body of an error."""

    error: str
    detail: str
    run: str | None


def problem(error: HistoryStoreError) -> Problem:
    return Problem(error=type(error).__name__, detail=str(error), run=error.run_id)


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HistoryStoreError)
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse(problem(error).model_dump(), status)


app.add_exception_handler(HistoryStoreError, answer_error)


# ---------------------------------------------------------------------------------------- turns


async def model(messages: tuple[Message | JSONValue, ...], words: int) -> AsyncIterator[str]:
    """Stands for a model: names how many messages it has seen, a word at a time."""
    for word in ["seen", str(len(messages)), *("so" for _ in range(words))]:
        await asyncio.sleep(0.02)
        yield word


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def answer(turn: Turn, words: int) -> AsyncIterator[str]:
    """Streams an answer and saves it: the "saved" event is its acknowledgement."""
    said = []
    async for word in model(turn.messages, words):
        said.append(word)
        yield event("token", word)
    turn.append(AssistantMessage(" ".join(said)), {"role": "usage", "words": len(said)})
    yield event("saved", str(await turn.save()))


async def with_errors(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """The status has gone out before the stream: an error becomes an event."""
    try:
        async for part in events:
            yield part
    except HistoryStoreError as error:
        yield event("error", problem(error).model_dump())


def stream(events: AsyncIterator[str], headers: dict[str, str]) -> StreamingResponse:
    return StreamingResponse(
        with_errors(events), media_type="text/event-stream", headers=headers | {"X-Worker": str(os.getpid())}
    )


async def enter_turn(
    run: str, if_match: Annotated[Revision | None, Header()] = None, ttl: float = LEASE_TTL, wait: float = 20.0
) -> AsyncIterator[Turn]:
    """A turn that lasts as long as the response: FastAPI ends it when the stream has."""
    expected: Revision | Expect = ANY if if_match is None else if_match
    store = backend.store(run)
    answered = False
    try:
        async with store.turn(ttl=ttl, acquire_timeout=wait, expected=expected, cancel=False) as turn:
            yield turn
            answered = True
    except HistoryStoreError as error:
        if not answered:
            raise
        log.warning("after the answer: %s", error)  # as the stream has said


@app.post("/chats/{run}/messages")
async def post_message(
    turn: Annotated[Turn, Depends(enter_turn)],
    message: Annotated[UserMessage, Body()],
    idempotency_key: Annotated[str | None, Header()] = None,
    words: int = 3,
) -> StreamingResponse:
    """Saves the message, then streams the answer. A key that the last message came with is a request sent twice."""
    if idempotency_key is not None and turn.meta.get("key") == idempotency_key:
        raise HTTPException(409, "this message is in the chat")
    meta: Mapping[str, JSONValue] | Keep = KEEP if idempotency_key is None else {"key": idempotency_key}
    turn.append(message, meta=meta)
    revision = await turn.save()
    return stream(answer(turn, words), {"X-Revision": str(revision)})


@app.post("/chats/{run}/again")
async def answer_again(run: str, words: int = 3, ttl: float = LEASE_TTL, wait: float = 20.0) -> StreamingResponse:
    """Streams one more answer. The whole turn is in the stream, and so are its errors."""

    async def events() -> AsyncIterator[str]:
        async with backend.store(run).turn(ttl=ttl, acquire_timeout=wait, cancel=False) as turn:
            async for part in answer(turn, words):
                yield part

    return stream(events(), {})


# ----------------------------------------------------------------------------------------- runs


class Chat(BaseModel):
    """A part of a chat, typed messages and plain ones side by side."""

    run: RunId
    revision: Revision
    start: int
    length: int
    messages: list[Message | JSONValue]


async def find_page(run: RunId, last: int) -> Page:
    page = await backend.store(run).read(-last)
    if page is None:
        raise HTTPException(404, f"no chat {run!r}")
    return page


@app.get("/chats/{run}")
async def read_chat(run: RunId, last: Annotated[int, Query(ge=1)] = 1000) -> Chat:
    page = await find_page(run, last)
    return Chat(run=run, revision=page.revision, start=page.start, length=page.length, messages=list(page.messages))


@app.get("/chats/{run}/page")
async def read_page(run: RunId, last: Annotated[int, Query(ge=1)] = 20) -> Page:
    return await find_page(run, last)


@app.get("/chats/{run}/info")
async def read_info(run: RunId) -> RunInfo:
    info = await backend.store(run).info()
    if info is None:
        raise HTTPException(404, f"no chat {run!r}")
    return info


@app.get("/chats")
async def list_chats(prefix: str = "") -> list[RunInfo]:
    return [info async for info in backend.runs(prefix=prefix)]


@app.delete("/chats/{run}")
async def delete_chat(run: RunId, if_match: Annotated[Revision | None, Header()] = None) -> Response:
    """Deletes a chat; with If-Match, only as of that revision."""
    expected: Revision | Expect = ANY if if_match is None else if_match
    found = await backend.store(run).delete(expected=expected)
    return Response(status_code=204 if found else 404)


# ------------------------------------------------------------------------------------- feedback


class Feedback(TypedDict):
    """A plain message of one's own."""

    rating: Literal["up", "down"]
    comment: str


def feedback_of(run: RunId) -> RedisHistoryStore[Feedback]:
    return backend.store(f"feedback:{run}")


@app.post("/chats/{run}/feedback")
async def give_feedback(run: RunId, feedback: Feedback) -> Revision:
    """Adds to whatever is there: no lease, and no conflict."""
    return await feedback_of(run).append(feedback, expected=ANY)


@app.get("/chats/{run}/feedback")
async def read_feedback(run: RunId) -> list[Feedback]:
    snapshot = await feedback_of(run).load()
    return [] if snapshot is None else list(snapshot.messages)
