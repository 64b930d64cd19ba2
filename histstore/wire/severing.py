"""Close inherited connections, and those of ended event loops, without sending anything to the server.

An ordinary close would harm the parent process. `shutdown()` and the TLS close message reach the server over the socket
that both processes share. Unregistering a descriptor removes it from an epoll instance that both share. So the null
device replaces the socket under the same descriptor number. Objects that still refer to the descriptor close the null
device later. Until then no other file gets the number.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Register(Generic[T]):
    """Objects that are in use in this process, held weakly. Threads may share it, and a fork may interrupt it."""

    def __init__(self) -> None:
        # `valuerefs` copies the references in one step, so no other thread can change the dict meanwhile.
        self._members: weakref.WeakValueDictionary[int, T] = weakref.WeakValueDictionary()

    def add(self, member: T) -> None:
        """Add an object."""
        self._members[id(member)] = member

    def all(self) -> list[T]:
        """Return all objects that are still in use."""
        return [member for reference in self._members.valuerefs() if (member := reference()) is not None]


def after_fork(work: Callable[[], object]) -> None:
    """Register a function that each forked child calls before anything else."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=work)


def sever(descriptors: Iterable[int]) -> None:
    """Close this process's copies of sockets. Another process that shares them can still use them.

    Args:
        descriptors: File descriptors of sockets. A negative one is a socket that is closed already.
    """
    open_descriptors = [descriptor for descriptor in descriptors if descriptor >= 0]
    if not open_descriptors or os.name != "posix":
        return
    # Without a free descriptor, or in a chroot without /dev, they stay open. Nobody reads or writes them any more.
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for descriptor in open_descriptors:
                os.dup2(null, descriptor, inheritable=False)
        finally:
            os.close(null)
