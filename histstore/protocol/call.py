"""A call: the commands of one request, and what the runner must know to send them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..attempt import Attempt
from .run import RunRef
from .scripts import Script, sha_of

Route = bytes | tuple[str, int] | None
"""Where a request goes in a cluster: to the owner of a key, to the server at an address, or (None) to any server."""

Command = tuple[bytes | str, ...]
"""A command and its arguments. Never an int: a signal handler that raises while hiredis packs one crashes Python."""

LARGE: Final = 1 << 16
"""Bytes of a request above which it gets a connection of its own, so that it does not delay others."""

# The number of keys, as EVALSHA expects it.
_COUNTS: Final = tuple(b"%d" % number for number in range(10))


@dataclass(slots=True)
class Call:
    """One request: commands that are sent together and answered together.

    Attributes:
        name: What it does ("save", "acquire"), for error texts and observers.
        batch: The commands of the first send.
        key: Routes it in a cluster.
        run: Namespace and id of the run that it is about, for observers; None: no single run.
        script: The script that is its only command; None: it runs no script.
        keys: The script's keys.
        implied: Keys that the script derives. They are declared only where a server demands it.
        args: The script's arguments.
        resend: Index of the argument that tells a resend from the first request; None: both are alike.
        write: Names the write whose outcome is unknown if the reply is lost; None: a read, or a write that may be
            repeated as it is.
        relaxed: The same reads outside of a transaction, which a server without free memory still answers; None: no
            transaction. Replies of different moments fail the proof of the chain, and are read again.
        durable: Whether it writes something that `Durability` is about.
        large: Whether the request is large, or its reply may be.
    """

    name: str
    batch: Sequence[Command]
    key: Route = None
    run: tuple[str, str] | None = None
    script: Script | None = None
    keys: tuple[bytes, ...] = ()
    args: Command = ()
    resend: int | None = None
    write: Callable[[], Attempt] | None = None
    relaxed: Sequence[Command] | None = None
    durable: bool = False
    large: bool = False
    implied: tuple[bytes, ...] = ()

    @property
    def attempt(self) -> Attempt | None:
        """The write whose outcome is unknown if the reply is lost; None: no such write."""
        return self.write() if self.write is not None else None

    def commands(self, may_be_copy: bool, in_full: bool, declare: bool = False) -> Sequence[Command]:
        """Return the commands to send.

        Args:
            may_be_copy: Whether an earlier copy of the request may have been applied.
            in_full: Whether to send the script's source, because the server does not know its digest.
            declare: Whether to declare the keys that the script derives.
        """
        script, resend, args = self.script, self.resend if may_be_copy else None, self.args
        declare = declare and bool(self.implied)
        if script is None or not (in_full or declare or resend is not None):
            return self.batch
        if resend is not None:
            args = (*args[:resend], "1", *args[resend + 1 :])
        keys = (*self.keys, *self.implied) if declare else self.keys
        verb, name = ("EVAL", script.source) if in_full else ("EVALSHA", sha_of(script.name))
        return [(verb, name, _COUNTS[len(keys)], *keys, *args)]


def script_call(
    where: RunRef,
    script: Script,
    keys: tuple[bytes, ...],
    args: Command,
    *,
    resend: int | None = None,
    write: Callable[[], Attempt] | None = None,
    durable: bool = False,
    large: bool = False,
    implied: tuple[bytes, ...] = (),
) -> Call:
    """Build the call of a script.

    Args:
        where: The run.
        script: The script. It must be safe to resend, because the runner resends.
        keys: Its keys.
        args: Its arguments.
        resend: Index of the argument that tells a resend from the first request; None: both are alike.
        write: Names the write, if its outcome is unknown when the reply is lost. Such a write is durable.
        durable: Whether it writes something that `Durability` is about.
        large: Whether the request is large.
        implied: Keys that the script derives.
    """
    if not script.resend_safe:
        raise ValueError(f"{script.name} must not be sent twice, and what goes through the runner may be")
    # `sha_of` is C code once it knows the script; the property would run Python code for each request.
    batch: list[Command] = [("EVALSHA", sha_of(script.name), _COUNTS[len(keys)], *keys, *args)]
    durable = durable or write is not None
    # By position: a class that is called with keywords takes twice as long, and every request makes a Call.
    name, key = script.name, where.key
    return Call(name, batch, keys[0], key, script, keys, args, resend, write, None, durable, large, implied)


def read_call(where: RunRef, name: str, *commands: Command, large: bool = False) -> Call:
    """Build a call that reads. The server answers all commands at one moment, or none.

    Args:
        where: The run.
        name: The public call that it serves.
        *commands: The commands.
        large: Whether the reply may be large.
    """
    batch = [("MULTI",), *commands, ("EXEC",)]
    return Call(name, batch, where.keys.head, where.key, None, (), (), None, None, commands, False, large)
