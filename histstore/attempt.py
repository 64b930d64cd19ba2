"""An attempt: one write whose outcome is unknown."""

from __future__ import annotations

import re
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from .formats.fields import NULL, Fields, optional
from .revision import Revision, RunId, brief, check_name
from .values.base_errors import SnapshotError
from .values.build import frozen
from .values.forms import JsonObject, register
from .values.text import iso, quoted


@frozen()
class Attempt(JsonObject):
    """One write whose outcome is unknown. `resolve` settles it, in this process or another.

    `str(attempt)` is one line of printable ASCII, for a log, a queue or a column; `Attempt.parse` reads it. It holds
    only what `resolve` needs: no secret and no content.

    Attributes:
        kind: "save" or "delete".
        namespace: The backend's namespace.
        run_id: The run.
        parent: The revision that the write expected; None if it expected an absent run.
        revision: The revision that the save makes, or that the delete deletes. None for the delete of a run so damaged
            that its revision could not be read.
        ticket: 16 bytes that identify the write to the server.
        made_at: Time at which the write was made, in UTC, on the clock of the process that made it; None if it is not
            known.
    """

    kind: str
    namespace: str
    run_id: RunId
    parent: Revision | None
    revision: Revision | None
    ticket: bytes
    made_at: datetime | None = field(default=None, compare=False)

    def __str__(self) -> str:
        made_at = "" if self.made_at is None else f"{self.made_at.astimezone(UTC):{_MADE_AT}}"
        # strftime writes a year before 1000 with fewer digits than strptime reads.
        made_at = made_at.rjust(23, "0") if made_at else ""
        revision, details = self.revision, ["", "", ""]
        if revision is not None:
            known = (revision.fence, revision.length, revision.size)
            details = ["" if value is None else str(value) for value in known]
        parts = [
            self.kind,
            quote(self.namespace, safe=""),
            quote(self.run_id, safe=""),
            "" if self.parent is None else str(self.parent),
            "" if revision is None else str(revision),
            *details,
            self.ticket.hex(),
            made_at,
        ]
        return ":".join(parts)

    def __repr__(self) -> str:
        made = "" if self.revision is None else f" as {brief(self.revision)}"
        if self.kind == "delete":
            return f"<Attempt to delete run {quoted(self.run_id)} at {brief(self.parent)}>"
        return f"<Attempt to {self.kind} run {quoted(self.run_id)}{made}, onto {brief(self.parent)}>"

    @classmethod
    def parse(cls, text: str) -> Attempt:
        """Return the attempt that `str()` wrote. `resolve` gives the same result for it as for the original.

        Raises:
            SnapshotError: `text` is not an attempt.
        """
        match = _ATTEMPT.fullmatch(text) if isinstance(text, str) else None
        try:
            if match is None:
                raise ValueError("no attempt")
            kind, namespace, run_id, parent, revision, fence, length, size, ticket, made_at = match.groups()
            made = Revision.parse(revision) if revision else None
            if made is not None:
                known = [None if digits == "" else int(digits) for digits in (fence, length, size)]
                made = Revision(made.version, made.etag, None, *known)
            elif fence or length or size:
                raise ValueError("details of no revision")
            return cls(
                kind,
                check_name(unquote(namespace, errors="strict"), "namespace"),
                RunId(unquote(run_id, errors="strict")),
                Revision.parse(parent) if parent else None,
                revision=made,
                ticket=bytes.fromhex(ticket),
                made_at=datetime.fromisoformat(made_at) if made_at else None,
            )
        except ValueError:
            raise SnapshotError(
                'an attempt is written as str(attempt) writes it, "save:namespace:run:…": give that text, unchanged'
            ) from None


_MADE_AT: Final = "%Y%m%dT%H%M%S.%fZ"

_ATTEMPT: Final = re.compile(
    # kind, namespace, run
    r"(save|delete):([\w.~%-]+):([\w.~%-]+)"
    # parent, revision, and the latter's fence, length and size
    r":([0-9a-f-]*):([0-9a-f-]*):([0-9]{0,19}):([0-9]{0,19}):([0-9]{0,19})"
    # ticket, time
    r":([0-9a-f]{32}):([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)?",
    re.ASCII,
)


def _ticket(text: str) -> bytes:
    ticket = bytes.fromhex(text)
    if len(ticket) != 16:
        raise ValueError("give 32 hex digits")
    return ticket


def _attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "kind": attempt.kind,
        "namespace": attempt.namespace,
        "run_id": str(attempt.run_id),
        "parent": optional(attempt.parent, str),
        "revision": optional(attempt.revision, str),
        **{name: getattr(attempt.revision, name, None) for name in ("fence", "length", "size")},
        "ticket": attempt.ticket.hex(),
        "made_at": optional(attempt.made_at, iso),
    }


def _attempt_from_json(data: Any, path: str) -> Attempt:
    fields = Fields(data, path)
    kind = fields.read("kind", str)
    if kind not in ("save", "delete"):
        raise SnapshotError(f'{path}.kind is "save" or "delete"')
    revision = fields.read("revision", str, NULL, convert=Revision.parse)
    fence, length, size = (fields.count(name, NULL) for name in ("fence", "length", "size"))
    if revision is not None:
        # resolve() returns these details, too.
        revision = Revision(revision.version, revision.etag, None, fence, length, size)
    return Attempt(
        kind,
        fields.read("namespace", str, convert=lambda text: check_name(text, "namespace")),
        fields.read("run_id", str, RunId, convert=RunId),
        fields.read("parent", str, NULL, convert=Revision.parse),
        revision=revision,
        ticket=fields.read("ticket", str, convert=_ticket),
        made_at=fields.time("made_at", NULL),
    )


register(Attempt, _attempt_to_json, _attempt_from_json, "ATTEMPT")
