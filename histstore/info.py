"""Descriptions of runs and leases, and pages of messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic

from .formats.fields import NULL, Fields, optional
from .formats.json_format import message_from_json, message_to_json, value_to_json
from .messages import JSONValue, M_co, check_pin, freeze_messages
from .revision import Revision, RunId, brief, check_name
from .values.base_errors import SnapshotError
from .values.build import frozen
from .values.forms import JsonObject, register
from .values.frozen import freeze_meta
from .values.text import iso, quoted


@frozen()
class LeaseInfo(JsonObject):
    """The lease of a run, as the server sees it.

    Attributes:
        holder: The holder's name.
        fence: The fencing token.
        since: Time at which the lease was granted, in UTC, on the server's clock.
        expires_in: Seconds until the lease expires unless it is renewed.
    """

    holder: str
    fence: int
    since: datetime
    expires_in: float

    def __repr__(self) -> str:
        return f"<LeaseInfo: fence {self.fence}, held by {quoted(self.holder)}, expires in {self.expires_in:.1f} s>"


@frozen()
class RunInfo(JsonObject):
    """The description of a run, without its messages. All times are in UTC, on the server's clock.

    An absent run has one while somebody holds its lease, during its first turn for example.

    Attributes:
        run_id: The run.
        revision: The current revision; None if the run is absent.
        length: Number of messages.
        size: Size of the encoded messages in bytes.
        meta: The mapping saved with the messages.
        created_at: Time of the first save; None if the run is absent.
        saved_at: Time of the save of this revision; None if the run is absent.
        expires_at: Time at which the run expires unless it is saved again; None if it never expires. For an absent
            run, the time at which its fence expires.
        lease: The lease; None if nobody holds one.
    """

    run_id: RunId
    revision: Revision | None
    length: int
    size: int
    meta: Mapping[str, JSONValue]
    created_at: datetime | None
    saved_at: datetime | None
    expires_at: datetime | None
    lease: LeaseInfo | None

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickle_info, tuple(getattr(self, name) for name in self.__match_args__)

    def __repr__(self) -> str:
        held = "" if self.lease is None else f", held by {quoted(self.lease.holder)}"
        content = f"{self.length:,} messages, {self.size:,} bytes"
        return f"<RunInfo of run {quoted(self.run_id)} at {brief(self.revision)}: {content}{held}>"


@frozen()
class Page(JsonObject, Generic[M_co]):
    """A part of a run's messages. It cannot be saved, because it is not the whole conversation.

    Attributes:
        messages: The requested messages.
        pinned: Whether each of them is pinned.
        start: The index of the first of them in the run.
        length: Number of messages in the whole run.
        meta: The run's meta.
        revision: The revision that the page was read from.
    """

    messages: tuple[M_co, ...]
    pinned: tuple[bool, ...]
    start: int
    length: int
    meta: Mapping[str, JSONValue]
    revision: Revision

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpickle_page, (self.messages, self.pinned, self.start, self.length, self.meta, self.revision)

    def __repr__(self) -> str:
        part = f"{len(self.messages):,} of {self.length:,} messages, from {self.start:,}"
        return f"<Page of {part}, at {brief(self.revision)}>"


# Pickled and deep-copied messages and metas are plain. These constructors freeze them again.


def _unpickle_info(run_id: RunId, revision: Revision | None, length: int, size: int, meta: Any, *rest: Any) -> RunInfo:
    return RunInfo(run_id, revision, length, size, freeze_meta(meta), *rest)


def _unpickle_page(
    messages: Sequence[Any], pinned: tuple[bool, ...], start: int, length: int, meta: Any, revision: Revision
) -> Page[Any]:
    return Page(tuple(freeze_messages(messages)), pinned, start, length, freeze_meta(meta), revision)


# ---------------------------------------------------------------------------------------- JSON forms


def _lease_to_json(lease: LeaseInfo) -> dict[str, Any]:
    return {
        "holder": lease.holder,
        "fence": lease.fence,
        "since": iso(lease.since),
        "expires_in": lease.expires_in,
    }


def _lease_from_json(data: Any, path: str) -> LeaseInfo:
    fields = Fields(data, path)
    return LeaseInfo(
        fields.read("holder", str, convert=lambda text: check_name(text, "holder")),
        fields.count("fence"),
        fields.time("since"),
        fields.seconds("expires_in"),
    )


def _info_to_json(info: RunInfo) -> dict[str, Any]:
    return {
        "run_id": str(info.run_id),
        "revision": optional(info.revision, str),
        "length": info.length,
        "size": info.size,
        "meta": value_to_json(dict(info.meta)),
        "created_at": optional(info.created_at, iso),
        "saved_at": optional(info.saved_at, iso),
        "expires_at": optional(info.expires_at, iso),
        "lease": optional(info.lease, _lease_to_json),
    }


def _info_from_json(data: Any, path: str) -> RunInfo:
    fields = Fields(data, path)
    return RunInfo(
        fields.read("run_id", str, RunId, convert=RunId),
        fields.read("revision", str, NULL, convert=Revision.parse),
        fields.count("length"),
        fields.count("size"),
        meta=fields.meta(),
        created_at=fields.time("created_at", NULL),
        saved_at=fields.time("saved_at", NULL),
        expires_at=fields.time("expires_at", NULL),
        lease=optional(fields.read("lease", dict, NULL), lambda lease: _lease_from_json(lease, f"{path}.lease")),
    )


def _page_to_json(page: Page[Any]) -> dict[str, Any]:
    return {
        "messages": [message_to_json(message) for message in page.messages],
        "pinned": list(page.pinned),
        "start": page.start,
        "length": page.length,
        "meta": value_to_json(dict(page.meta)),
        "revision": str(page.revision),
    }


def _page_from_json(data: Any, path: str) -> Page[Any]:
    fields = Fields(data, path)
    messages = [
        message_from_json(message, f"{path}.messages[{index}]")
        for index, message in enumerate(fields.read("messages", list))
    ]
    pinned = tuple(map(check_pin, fields.read("pinned", list)))
    if len(pinned) != len(messages):
        raise SnapshotError(f"{path} has {len(messages)} messages and {len(pinned)} pins; give one pin a message")
    return Page(
        tuple(messages),
        pinned,
        fields.count("start"),
        fields.count("length"),
        fields.meta(),
        fields.read("revision", str, convert=Revision.parse),
    )


register(LeaseInfo, _lease_to_json, _lease_from_json, "LEASE_INFO")
register(RunInfo, _info_to_json, _info_from_json, "RUN_INFO")
register(Page, _page_to_json, _page_from_json, "PAGE")
