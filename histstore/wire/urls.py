"""The URLs of several servers, as the URLs of single ones that redis-py reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import unquote

from ..errors import ConnectionOptionError
from .settings import ConnectionSettings, SentinelService
from .slots import HostMap

SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"
)  # fmt: skip
"""The schemes that `from_url` takes."""

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_YES_NO: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

Addresses = tuple[tuple[str, int], ...]
"""Host and port of each of several servers."""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a URL says of sentinels.

    Attributes:
        service: The name under which they know the primary.
        addresses: Host and port of each.
        username: Their user; None: they have none.
        password: Its password; None: they have none.
        tls: Whether they are reached with TLS.
    """

    service: str
    addresses: Addresses
    username: str | None
    password: str | None
    tls: bool

    def __repr__(self) -> str:
        return f"<SentinelUrl of {self.service!r}>"  # it holds the password


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """A URL, taken apart.

    Attributes:
        url: The URL of the server, or of the first one, in redis-py's form.
        seeds: Host and port of each server of a cluster that it names; empty: a single server.
        sentinel: The sentinels that know the server; None: its address is known.
    """

    url: str = field(repr=False)  # it may hold a password
    seeds: Addresses = ()
    sentinel: SentinelUrl | None = None

    def complete(self, first: ConnectionSettings, host_map: HostMap | None) -> ConnectionSettings:
        """Return the settings for all servers that it names.

        Args:
            first: The settings of the server that `url` names.
            host_map: Returns where a server is reached that the others know by another address.
        """
        sentinels = None
        if self.sentinel is not None:
            named = self.sentinel
            settings = first.of_sentinels(named.username, named.password, tls=named.tls)
            sentinels = SentinelService(named.service, named.addresses, settings)
        return replace(first, seeds=self.seeds, host_map=host_map, sentinels=sentinels)


def parse_url(url: str) -> ServerUrl:
    """Take a URL apart. Texts of errors do not quote it, because it may hold a password.

    Raises:
        ConnectionOptionError: The scheme is unknown, or the URL names no servers, or no service of the sentinels.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = scheme[:20] if "://" in url else "none"
        raise ConnectionOptionError(
            f"the URL's scheme is {known!r}: redis://, rediss://, unix://, redis+cluster://, rediss+cluster://, "
            "redis+sentinel:// and rediss+sentinel:// are supported"
        )
    scheme, _, kind = scheme.partition("+")
    if not kind:
        return ServerUrl(url)
    rest = url.partition("://")[2]
    cut = re.search(r"[/?#]", rest)
    place, tail = (rest[: cut.start()], rest[cut.start() :]) if cut else (rest, "")
    login, at, hosts = place.rpartition("@")
    before = f"{scheme}://{login}{at}"
    return _cluster(before, hosts, tail) if kind == "cluster" else _sentinels(before, hosts, tail)


def _cluster(before: str, hosts: str, tail: str) -> ServerUrl:
    seeds = tuple(
        _address(host, _PORT, "of a cluster names its servers", "redis+cluster://a:6379,b:6379")
        for host in hosts.split(",")
    )
    path, _, query = tail.removeprefix("/").partition("?")
    if path.rstrip("/") not in ("", "0") or re.search(r"(?:^|&)db=0*[1-9]", query):
        raise ConnectionOptionError("a cluster has database 0 only: leave the database out of the URL")
    return ServerUrl(f"{before}{hosts.split(',')[0]}{tail}", seeds)


def _sentinels(before: str, hosts: str, tail: str) -> ServerUrl:
    form = "redis+sentinel://a:26379,b:26379/service/0"
    addresses = tuple(
        _address(host, _SENTINEL_PORT, "of Sentinel names the sentinels", form) for host in hosts.split(",")
    )
    path, _, query = tail.partition("?")
    service, _, database = path.removeprefix("/").partition("/")
    # A name of Sentinel has no "@". What stands before one is the rest of a password that was cut short.
    if not service or "#" in tail or "@" in path:
        raise ConnectionOptionError(
            f"the URL of Sentinel names, after the sentinels, the service that they watch: {form}; percent-encode "
            "'/', '?' and '#' in a name or a password"
        )
    own: dict[str, str] = {}
    others = []
    for option in query.split("&") if query else ():
        name, _, value = option.partition("=")
        if name.startswith("sentinel_"):
            own[name] = unquote(value.replace("+", " "))
        else:
            others.append(option)
    unknown = own.keys() - {"sentinel_username", "sentinel_password", "sentinel_ssl"}
    tls = _YES_NO.get(own.get("sentinel_ssl", str(before.startswith("rediss"))).lower())
    if unknown or tls is None:
        raise ConnectionOptionError(
            "the options of sentinels are sentinel_username, sentinel_password and sentinel_ssl (true or false)"
        )
    host, port = addresses[0]
    first = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    server = f"{before}{first}/{database}" + ("?" + "&".join(others) if others else "")
    found = SentinelUrl(unquote(service), addresses, own.get("sentinel_username"), own.get("sentinel_password"), tls)
    return ServerUrl(server, sentinel=found)


def _address(text: str, default: int, what: str, example: str) -> tuple[str, int]:
    """Return the host and port of a text: `host`, `host:port`, `[::1]` or `[::1]:port`."""
    found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", text)
    port = int(found[3] or default) if found else 0
    if found is None or not 0 < port < 65536:
        raise ConnectionOptionError(f"the URL {what} as host:port, parted by commas: {example}")
    return found[1] or found[2], port
