"""The test of a server before the first call, on servers that lack a command altogether."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from histstore import BackendConfigError, Durability

from ..support.samples import user
from ..support.servers import Server
from ..support.shells import Shell


@pytest.fixture
def lacking(private_server: Callable[..., Server], tmp_path: Path) -> Callable[[str], Server]:
    """Return a function that starts a server without a command."""

    def start(command: str) -> Server:
        settings = tmp_path / "lacking.conf"
        settings.write_text(f'rename-command {command} ""\n')
        return private_server(include=str(settings))

    return start


@pytest.mark.parametrize("command", ["EXEC", "SCAN", "WAIT", "CLIENT", "SUBSCRIBE"])
async def test_a_missing_command_is_named_by_the_first_call(
    shell: Shell, lacking: Callable[[str], Server], command: str
) -> None:
    """Before anything is written, and each time: without EXEC the connection is left in a transaction."""
    server = lacking(command)
    durability = Durability(replicas=1, timeout=0.1)
    async with shell.from_url(f"{server.url}?client_name=app", durability=durability) as backend:
        for _ in range(3):
            with pytest.raises(BackendConfigError, match=f"ERR unknown command .{command}.*: use Redis 6"):
                await backend.store("run").append(user(0))
    with server.client() as client:
        assert client.keys() == []


@pytest.mark.parametrize("command", ["WAIT", "CLIENT", "INFO", "SELECT"])
async def test_a_command_that_nobody_asks_for_is_not_missed(
    shell: Shell, lacking: Callable[[str], Server], command: str
) -> None:
    """Without Durability no WAIT, without a name no CLIENT; without INFO there is one warning less."""
    async with shell.from_url(lacking(command).url) as backend:
        revision = await backend.store("run").append(user(0))
        assert (await backend.store("run").load()).revision == revision
