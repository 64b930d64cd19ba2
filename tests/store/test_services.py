"""A FastAPI service behind a real server: what endpoints return, take and document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
import httpx
import pydantic
import pytest
import uvicorn
from fastapi.responses import StreamingResponse

import histstore
from histstore import (
    ANY,
    AssistantMessage,
    ConversationSnapshot,
    JSONValue,
    Message,
    Page,
    Revision,
    RunId,
    RunInfo,
    ToolCall,
    UserMessage,
)

ASSISTANT = AssistantMessage([ToolCall("1", "f", {"raw": b"\xff"})])
PLAIN = {"role": "user", "content": "hé"}


class Said(pydantic.BaseModel):
    """A request or a response that holds messages."""

    messages: list[Message | dict[str, JSONValue]]
    at: Revision | None = None


def make_app(backend: histstore.RedisBackend) -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post("/runs/{run_id}/messages")
    async def say(run_id: RunId, said: Said) -> Revision:
        return await backend.store(run_id).append(*said.messages, expected=ANY)

    @app.post("/runs/{run_id}/one")
    async def say_one(run_id: RunId, message: Annotated[Message, fastapi.Body()]) -> RunInfo | None:
        store = backend.store(run_id)
        await store.append(message, expected=ANY, meta={"raw": b"\xff"})
        return await store.info()

    @app.get("/runs/{run_id}")
    async def info(run_id: RunId) -> RunInfo | None:
        return await backend.store(run_id).info()

    @app.get("/runs/{run_id}/bare")
    async def bare(run_id: RunId):  # type: ignore[no-untyped-def]  # without an annotation: jsonable_encoder
        store = backend.store(run_id)
        snapshot = await store.load()
        assert snapshot is not None
        return {
            "info": await store.info(),
            "revision": store.revision,
            "last": snapshot.messages[-1],
            "snapshot": snapshot,
            "page": await store.read(-1),
        }

    @app.get("/runs/{run_id}/any")
    async def anything(run_id: RunId) -> dict[str, Any]:
        found: dict[str, Any] = await bare(run_id)
        return found

    @app.get("/runs/{run_id}/messages")
    async def messages(run_id: RunId) -> list[Message | JSONValue]:
        snapshot = await backend.store(run_id).load()
        return [] if snapshot is None else list(snapshot.messages)

    @app.get("/runs/{run_id}/typed", response_model=list[Message])
    async def typed(run_id: RunId) -> Any:
        snapshot = await backend.store(run_id).load()
        return [] if snapshot is None else [m for m in snapshot.messages if isinstance(m, Message)]

    @app.get("/runs/{run_id}/page")
    async def page(run_id: RunId) -> Page[Any] | None:
        return await backend.store(run_id).read(-2)

    @app.get("/runs/{run_id}/snapshot")
    async def snapshot(run_id: RunId) -> ConversationSnapshot[Any] | None:
        return await backend.store(run_id).load()

    @app.get("/runs/{run_id}/events")
    async def events(run_id: RunId) -> StreamingResponse:
        snapshot = await backend.store(run_id).load()
        assert snapshot is not None

        async def stream() -> AsyncIterator[str]:
            for message in snapshot.messages:
                if isinstance(message, (UserMessage, AssistantMessage)):
                    yield f"event: {message.role}\ndata: {json.dumps(message.to_dict())}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


@pytest.fixture
async def client(server_url: str, namespace: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, which runs in a server of its own on a free port."""
    async with histstore.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        config = uvicorn.Config(make_app(backend), host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.get_running_loop().create_task(server.serve())
        try:
            while not server.started:
                assert not serving.done()
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


async def test_a_service(client: httpx.AsyncClient) -> None:
    """Messages keep their role and their bytes on the way in and out; facts about runs are JSON."""
    said = {"messages": [UserMessage("hé").to_dict(), ASSISTANT.to_dict(), PLAIN, {"raw": {"$bytes": "/w=="}}]}
    posted = await client.post("/runs/a/messages", json=said)
    assert posted.status_code == 200, posted.text
    revision = Revision.parse(posted.json())
    assert revision.version == 1

    posted = await client.post("/runs/a/one", json=UserMessage("more").to_dict())
    assert posted.status_code == 200, posted.text
    info = RunInfo.from_dict(posted.json())
    assert (info.run_id, info.length, info.meta, info.lease) == ("a", 5, {"raw": b"\xff"}, None)
    assert info.revision is not None
    assert info.revision.version == 2
    assert posted.json()["meta"] == {"raw": {"$bytes": "/w=="}}
    assert (await client.get("/runs/a")).json() == posted.json()

    wanted = [UserMessage("hé").to_dict(), ASSISTANT.to_dict(), PLAIN, {"raw": {"$bytes": "/w=="}}]
    wanted.append(UserMessage("more").to_dict())
    assert (await client.get("/runs/a/messages")).json() == wanted
    assert (await client.get("/runs/a/typed")).json() == [wanted[0], wanted[1], wanted[4]]

    bare = (await client.get("/runs/a/bare")).json()
    assert bare["info"] == posted.json()
    assert bare["revision"] == str(info.revision)
    assert bare["last"] == UserMessage("more").to_dict()
    snapshot = ConversationSnapshot.from_dict(bare["snapshot"])
    assert snapshot.messages == (UserMessage("hé"), ASSISTANT, PLAIN, {"raw": b"\xff"}, UserMessage("more"))
    assert Page.from_dict(bare["page"]).messages == (UserMessage("more"),)
    assert (await client.get("/runs/a/any")).json() == bare
    assert (await client.get("/runs/a/snapshot")).json() == bare["snapshot"]
    page = Page.from_dict((await client.get("/runs/a/page")).json())
    assert (page.messages, page.start, page.length) == (({"raw": b"\xff"}, UserMessage("more")), 3, 5)
    assert page.revision == info.revision

    events = (await client.get("/runs/a/events")).text.split("\n\n")
    assert events[0] == f"event: user\ndata: {json.dumps(UserMessage('hé').to_dict())}"
    assert [event.split("\n")[0] for event in events[:-1]] == ["event: user", "event: assistant", "event: user"]
    assert (await client.get("/runs/none")).json() is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/runs/a/one", {"User": {"blocks": [{"Text": {}}]}}),
        ("/runs/a/one", PLAIN),
        ("/runs/a/messages", {"messages": [3]}),
        ("/runs/a/messages", {"messages": [], "at": "3"}),
    ],
)
async def test_a_bad_request_is_the_clients_mistake(client: httpx.AsyncClient, path: str, body: Any) -> None:
    """422 that says what is wrong, and not 500."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


async def test_the_openapi_document_names_the_types(client: httpx.AsyncClient) -> None:
    """Clients can be generated from it."""
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"UserMessage", "AssistantMessage", "RunInfo", "Revision", "Page", "ConversationSnapshot"} <= schemas.keys()
    assert schemas["Revision"]["type"] == "string"
    body = document["paths"]["/runs/{run_id}/one"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"$ref": "#/components/schemas/UserMessage"} in body["anyOf"]
    answer = document["paths"]["/runs/{run_id}/messages"]["post"]["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Revision"}
