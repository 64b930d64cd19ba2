"""Connections that a fork has inherited, or whose event loop has ended: closed without a word to the server.

Ordinary means would harm the parent process. `shutdown()` and TLS's farewell reach the server over the socket that both
have. Unregistering a descriptor removes it from an epoll instance that both have. So the null device takes the
descriptor's place. Objects that still refer to the descriptor close the null device one day. Until then its number is
not given to another file.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Register(Generic[T]):
    """What is open in this process, for as long as somebody uses it. For threads, and a fork may interrupt it."""

    def __init__(self) -> None:
        # Its lists of references are made in one step, so that nobody changes it meanwhile.
        self._things: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, thing: T) -> None:
        """Adds one."""
        self._things[id(thing)] = thing

    def all(self) -> list[T]:
        """Returns all."""
        return [thing for reference in self._things.valuerefs() if (thing := reference()) is not None]


def after_fork(work: Callable[[], object]) -> None:
    """Have a function called in each forked child, before anything else is done there."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=work)


def sever(descriptors: Iterable[int]) -> None:
    """Close this process's end of sockets. Another process that has them, too, goes on using them.

    Args:
        descriptors: Of open sockets; negative ones stand for sockets that are closed already.
    """
    found = [descriptor for descriptor in descriptors if descriptor >= 0]
    if not found or os.name != "posix":
        return
    # Without a free descriptor, or in a chroot without /dev, they stay open: nobody reads or writes them.
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for descriptor in found:
                os.dup2(null, descriptor, inheritable=False)
        finally:
            os.close(null)
