"""Addresses of a host, as the resolver gives them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from typing import Any

Address = tuple[int, Any]
"""An address family, and an address of it."""


def numeric_addresses(host: str, port: int, family: int) -> list[Address] | None:
    """Return the addresses of a host that is written in digits, or None for a name. This asks no resolver."""
    with contextlib.suppress(socket.gaierror):
        flags = socket.AI_NUMERICHOST
        return addresses_of(socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags))
    return None


def addresses_of(answers: Sequence[tuple[Any, ...]]) -> list[Address]:
    """Return the family and address of each of the resolver's answers."""
    return [(each[0], each[4]) for each in answers]
