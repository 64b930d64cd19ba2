"""The message types of other libraries, checked by mypy --strict and by pyright's strict mode. It is never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from anthropic import AsyncAnthropic
from anthropic.types import MessageParam
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageParam, ChatCompletionUserMessageParam

import histstore.sync
from histstore import ConversationSnapshot, RedisBackend, RedisHistoryStore


async def with_openai(backend: RedisBackend, client: AsyncOpenAI) -> None:
    store: RedisHistoryStore[ChatCompletionMessageParam] = backend.store("run")
    async with store.turn() as turn:
        turn.append({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"})
        answer = await client.chat.completions.create(model="gpt", messages=turn.messages)
        turn.append({"role": "assistant", "content": answer.choices[0].message.content})
    snapshot = await store.load() or ConversationSnapshot()
    for message in snapshot.messages:
        if message["role"] == "tool":
            print(message["tool_call_id"])
    await store.append({"role": "user"})  # type: ignore[typeddict-item]


async def with_anthropic(backend: RedisBackend, client: AsyncAnthropic) -> None:
    store: RedisHistoryStore[MessageParam] = backend.store("run")
    async with store.turn() as turn:
        turn.append({"role": "user", "content": "hi"})
        answer = await client.messages.create(model="claude", max_tokens=100, messages=turn.messages)
        turn.append({"role": "assistant", "content": [{"type": "text", "text": str(answer.content)}]})
    await store.append({"role": "nobody", "content": "hi"})  # type: ignore[misc,arg-type]


async def without_an_annotation(
    backend: RedisBackend,
    user: ChatCompletionUserMessageParam,
    many: list[ChatCompletionMessageParam],
    params: list[MessageParam],
    model: ChatCompletionMessage,
) -> None:
    store = backend.store("run")
    await store.append(user, *many, *params)
    await store.save(ConversationSnapshot(many).append(user))
    await store.save(ConversationSnapshot(params))
    async with store.turn() as turn:
        turn.append(user, *many, *params)
        turn.append(model.model_dump())
        turn.append(model)  # type: ignore[call-overload]


def blocking(backend: histstore.sync.RedisBackend) -> None:
    store: histstore.sync.RedisHistoryStore[MessageParam] = backend.store("run")
    store.append({"role": "user", "content": "hi"})
    store.append({"role": "nobody", "content": "hi"})  # type: ignore[misc,arg-type]
