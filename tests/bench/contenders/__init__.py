"""Ways to store conversations, to lock runs and to call scripts, one module each, behind small interfaces."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender, before its module is imported: peers live in an environment of their own.

    Attributes:
        name: What tables, plots and the results call it.
        module: The module here whose `make(url)` makes one.
        distribution: What it comes in, on PyPI; None: this checkout, or redis-py alone.
        modules: Server modules that it needs.
    """

    name: str
    module: str
    distribution: str | None = None
    modules: frozenset[str] = frozenset()


MODULES = frozenset({"search", "ReJSON"})
"""What the peers that search need."""

STORES = (
    Entry("histstore", "histstore_async"),
    Entry("histstore, dicts", "histstore_dicts"),
    Entry("histstore.sync", "histstore_sync"),
    Entry("raw redis-py", "raw_turn"),
    Entry("whole snapshot", "whole_snapshot"),
    Entry("OpenAI Agents RedisSession", "openai_agents", "openai-agents"),
    Entry("langgraph-checkpoint-plainredis", "langgraph_plainredis", "langgraph-checkpoint-plainredis"),
    Entry("langgraph-checkpoint-redis", "langgraph_redis", "langgraph-checkpoint-redis", MODULES),
    Entry("langchain-redis", "langchain_history", "langchain-redis", MODULES),
    Entry("agent-framework-redis", "agent_framework_history", "agent-framework-redis"),
    Entry("google-adk-community", "google_adk", "google-adk-community"),
)

LOCKS = (
    Entry("histstore", "lease_async"),
    Entry("histstore.sync", "lease_sync"),
    Entry("redis-py asyncio Lock", "redis_py_lock"),
    Entry("python-redis-lock", "python_redis_lock", "python-redis-lock"),
)

CLIENTS = (
    Entry("histstore", "calls_histstore"),
    Entry("redis-py RedisCluster", "calls_redis_py"),
    Entry("valkey-glide", "calls_glide", "valkey-glide"),
    Entry("coredis", "calls_coredis", "coredis"),
)
"""Clients of a cluster that send script calls."""


def make(module: str, url: str) -> Any:
    """Imports a contender's module and makes one for the server at `url`."""
    return importlib.import_module(f"{__name__}.{module}").make(url)
