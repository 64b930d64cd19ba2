"""The URLs of several servers, as the URLs of single ones that redis-py reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..errors import ConnectionOptionError

SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
"""The schemes that `from_url` takes."""

_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A URL, taken apart.

    Attributes:
        url: The URL of the server, or of the first one, in redis-py's form.
        seeds: Host and port of each server of a cluster that it names; empty: a single server.
    """

    url: str
    seeds: tuple[tuple[str, int], ...] = ()


def parse_url(url: str) -> ServerUrl:
    """Take a URL apart. Texts of errors do not quote it, because it may hold a password.

    Raises:
        ConnectionOptionError: The scheme is unknown, or the URL names no servers.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = scheme[:20] if "://" in url else "none"
        raise ConnectionOptionError(
            f"the URL's scheme is {known!r}: "
            "redis://, rediss://, unix://, redis+cluster:// and rediss+cluster:// are supported"
        )
    if not scheme.endswith("+cluster"):
        return ServerUrl(url)
    rest = url.partition("://")[2]
    cut = re.search(r"[/?#]", rest)
    place, tail = (rest[: cut.start()], rest[cut.start() :]) if cut else (rest, "")
    login, at, hosts = place.rpartition("@")
    seeds = tuple(_address(host) for host in hosts.split(","))
    path, _, query = tail.removeprefix("/").partition("?")
    if path.rstrip("/") not in ("", "0") or re.search(r"(?:^|&)db=0*[1-9]", query):
        raise ConnectionOptionError("a cluster has database 0 only: leave the database out of the URL")
    first = hosts.split(",")[0]
    return ServerUrl(f"{scheme.removesuffix('+cluster')}://{login}{at}{first}{tail}", seeds)


def _address(text: str) -> tuple[str, int]:
    """Return the host and port of a text: `host`, `host:port`, `[::1]` or `[::1]:port`."""
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", text)
    port = int(found[3] or _PORT) if found else 0
    if found is None or not 0 < port < 65536:
        raise ConnectionOptionError(
            "the URL of a cluster names its servers as host:port, parted by commas: redis+cluster://a:6379,b:6379"
        )
    return found[1] or found[2], port
