"""What a run's log says, version by version: read from the server's bytes, without the library's own replay."""

from __future__ import annotations

import hashlib
import io
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cbor2
import redis

PAGE = 1000
"""Entries that are read at once."""

_HEADER = struct.Struct(">16s16s16sIIIQQQQ")


def digest(tokens: Sequence[str]) -> str:
    """Returns a short name of a conversation's content."""
    return hashlib.blake2b("\n".join(tokens).encode(), digest_size=8).hexdigest()


@dataclass
class Version:
    """One entry of a log.

    Attributes:
        version: Its number.
        etag: Its etag, in hex.
        fence: The fence that its save carried; 0: none.
        content: The tokens of the whole conversation after it.
        added: Those that were not there before.
    """

    version: int
    etag: str
    fence: int
    content: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def digest(self) -> str:
        return digest(self.content)


@dataclass
class Chain:
    """All versions of a run, from 1 on.

    Attributes:
        versions: The versions.
        problems: What is wrong with them as they stand.
    """

    versions: list[Version]
    problems: list[str]

    def at(self, version: int) -> Version | None:
        """Returns a version; None: there is none."""
        return self.versions[version - 1] if 0 < version <= len(self.versions) else None

    @property
    def added(self) -> list[str]:
        """All tokens that were ever added, in the order in which they were."""
        return [token for version in self.versions for token in version.added]


def read_log(client: redis.Redis, key: bytes) -> list[Any]:
    """Returns all entries of a log, page by page."""
    found: list[Any] = []
    while page := client.xrange(key, min=b"(" + found[-1][0] if found else "-", count=PAGE):
        found += page  # type: ignore[operator]
    return found


def read_chain(items: Sequence[Any]) -> Chain:
    """Reads a run's whole log, as XRANGE returns it. The log must not have been trimmed."""
    found: list[Version] = []
    problems: list[str] = []
    content: list[str] = []
    ever: set[str] = set()
    doubled: set[str] = set()
    parent = bytes(16)
    for number, (stream_id, fields) in enumerate(items, 1):
        before, etag, _, i, j, length, _, _, _, fence = _HEADER.unpack(fields[b"h"])
        if stream_id != b"0-%d" % number or before != parent:
            problems.append(f"entry {number} of the log is {stream_id!r}, whose parent is {before.hex()}")
            break  # what follows builds on what is not known
        kept = content[:i] + content[j:]
        there = Counter(content)
        content = kept + _tokens(fields[b"b"], length - len(kept))
        added = tuple((Counter(content) - there).elements())
        for token, count in Counter(content).items():
            if count > 1 and token not in doubled:
                doubled.add(token)
                problems.append(f"version {number} holds {token!r} {count} times")
        again = set(added) & ever - doubled
        if again:
            problems.append(f"version {number} brings back {sorted(again)}")
        ever.update(added)
        found.append(Version(number, etag.hex(), fence, tuple(content), added))
        parent = etag
    return Chain(found, problems)


def _tokens(body: bytes, count: int) -> list[str]:
    decoder = cbor2.CBORDecoder(io.BytesIO(body))
    decoder.decode()  # sizes, pins, meta and fills
    return [decoder.decode()["content"] for _ in range(count)]
