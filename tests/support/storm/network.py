"""A network of its own for each server, so that servers can be cut off from each other. Needs root on Linux.

Each server gets a network namespace with an address on a bridge. Routes that drop packets (`blackhole`) partition them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass

_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Place:
    """A network namespace.

    Attributes:
        name: Its name.
        host: Its address. This machine reaches it, too.
    """

    name: str
    host: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words that run a command there."""
        return ("ip", "netns", "exec", self.name)


class Network:
    """Namespaces on one bridge.

    Attributes:
        places: The namespaces.

    Args:
        count: How many there are.

    Raises:
        OSError: They cannot be made here.
    """

    def __init__(self, count: int) -> None:
        if shutil.which("ip") is None:
            raise OSError("there is no program `ip`")
        # The name of an interface has 15 characters at most.
        self._stem = f"hs{os.getpid() % 10**7}-{next(_NUMBERS)}"
        self.places: list[Place] = []
        self._gate = ""
        try:
            self._make(count)
        except BaseException:
            self.close()
            raise

    def _make(self, count: int) -> None:
        subnet = self._free_subnet()
        self._gate = f"{subnet}.254"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._gate}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number in range(1, count + 1):
            place = Place(f"{self._stem}-{number}", f"{subnet}.{number}")
            _ip("netns", "add", place.name)
            self.places.append(place)
            inner = ("-n", place.name)
            _ip("link", "add", f"{self._stem}.{number}", "type", "veth", "peer", "name", "eth0", "netns", place.name)
            _ip("link", "set", f"{self._stem}.{number}", "master", self._bridge, "up")
            _ip(*inner, "addr", "add", f"{place.host}/24", "dev", "eth0")
            _ip(*inner, "link", "set", "eth0", "up")
            _ip(*inner, "link", "set", "lo", "up")

    def _free_subnet(self) -> str:
        known = _ip("-4", "-o", "addr", "show")
        for number in range(256):
            subnet = f"10.213.{(os.getpid() + number) % 256}"
            if f" {subnet}." not in known:
                return subnet
        raise OSError("no subnet is free")

    @property
    def _bridge(self) -> str:
        return f"{self._stem}.b"

    def cut(self, host: str, *, clients: bool) -> None:
        """Drop all packets between a server and the other servers.

        Args:
            host: The server's address.
            clients: Whether it is cut off from this machine, and so from its clients, as well.
        """
        (alone,) = (place for place in self.places if place.host == host)
        for place in self.places:
            if place is not alone:
                _ip("-n", place.name, "route", "add", "blackhole", f"{alone.host}/32")
                _ip("-n", alone.name, "route", "add", "blackhole", f"{place.host}/32")
        if clients:
            _ip("-n", alone.name, "route", "add", "blackhole", f"{self._gate}/32")

    def heal(self) -> None:
        """Undo every `cut`."""
        for place in self.places:
            for line in _ip("-n", place.name, "route", "show", "type", "blackhole").splitlines():
                _ip("-n", place.name, "route", "del", "blackhole", line.split()[1])

    def close(self) -> None:
        """Remove the namespaces and the bridge. The servers in them must have ended."""
        for place in self.places:
            with contextlib.suppress(OSError):
                _ip("netns", "del", place.name)
        with contextlib.suppress(OSError):
            _ip("link", "del", self._bridge)


def _ip(*words: str) -> str:
    ran = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if ran.returncode:
        raise OSError(f"ip {' '.join(words)}: {ran.stderr.strip()}")
    return ran.stdout
