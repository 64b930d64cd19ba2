"""Key names. All keys of a run share one hash tag, so that its scripts run in one cluster slot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from ..revision import RunId

# Braces would end the hash tag, % starts an escape, and : ends the namespace. SCAN's glob treats the next characters
# specially. Control characters would garble an operator's terminal.
_ESCAPED = re.compile(r"[{}%:*?\[\]\\^\x00-\x20\x7f-\x9f]")


def escape(text: str) -> str:
    """Return `text` in the form that keys use. The escape of a prefix is a prefix of the escape."""
    return _ESCAPED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def unescape(text: str) -> str:
    """Return the text that `escape` was given."""
    return unquote(text, errors="strict")


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one run."""

    head: bytes
    log: bytes
    etags: bytes
    marks: bytes
    lease: bytes
    queue: bytes


def run_keys(namespace: str, run_id: str) -> Keys:
    """Return the keys of run `run_id`."""
    prefix = f"{escape(namespace)}:{{{escape(run_id)}}}:".encode()
    return Keys(*(prefix + name for name in (b"head", b"log", b"etags", b"marks", b"lease", b"queue")))


def head_pattern(namespace: str, prefix: str) -> bytes:
    """Return the SCAN pattern of the heads of all runs whose id starts with `prefix`."""
    return f"{escape(namespace)}:{{{escape(prefix)}*}}:head".encode()


def run_of_head(namespace: str, key: bytes) -> RunId | None:
    """Return the run that a head's key belongs to. Return None for a foreign key."""
    return _run_of(namespace, key, b"}:head")


def run_of_lease(namespace: str, key: bytes) -> RunId | None:
    """Return the run that a lease's key belongs to. Return None for a foreign key."""
    return _run_of(namespace, key, b"}:lease")


def _run_of(namespace: str, key: bytes, end: bytes) -> RunId | None:
    start = f"{escape(namespace)}:{{".encode()
    if not key.startswith(start) or not key.endswith(end):
        return None
    try:
        return RunId(unescape(key[len(start) : -len(end)].decode()))
    except ValueError:
        return None
