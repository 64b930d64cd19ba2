"""What travels when a store has not looked for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from histstore.protocol.reads import DELTA

from ..support.history import message
from ..support.proxy import Proxy
from .shells import contents

Make = Callable[..., Any]


async def test_who_is_far_behind_reads_what_is_missing_and_no_more(
    shell: str, backends: Make, between: Proxy, namespace: str
) -> None:
    """Also where more is missing than fits into one short answer."""
    writer = backends(shell, between.url, namespace=namespace).store("run")
    await writer.append(*[message("x" * 100) for _ in range(1000)])
    reader = backends(shell, between.url, namespace=namespace).store("run")
    await reader.load()
    for number in range(DELTA + 8):
        await writer.append(message(str(number)))
    before = between.received
    assert (await contents(reader))[1000:] == [str(number) for number in range(DELTA + 8)]
    # The whole is 100,000 bytes; an entry of a few bytes takes about 200.
    assert between.received - before < 2 * 200 * (DELTA + 8)
