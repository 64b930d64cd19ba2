"""The public error of a call whose tries have failed."""

from __future__ import annotations

from typing import Final

from ..errors import BackendConfigError, BackendUnavailableError, OutcomeUnknownError
from ..log.unreadable import BrokenChainError
from ..protocol.call import Call
from .faults import classify, explain, is_damage

CLOSED: Final = (
    "this backend is closed: make a new one, or close it (aclose, the end of a `with`) only after its last use"
)


def failure_of(call: Call, error: Exception, *, ambiguous: bool) -> Exception:
    """Return the public error of a call.

    Args:
        call: The call.
        error: The error of its last try.
        ambiguous: Whether a try was sent and not answered, so that it may have been applied.
    """
    reason = explain([error], sent=True)
    fault = classify(error, sent=True)
    if call.write is not None and ambiguous:
        # Also after a definite refusal of a resend: it proves nothing about the earlier copy.
        return OutcomeUnknownError(call.write(), reason)
    if is_damage(error):
        return BrokenChainError(None, "a key of the run holds what histstore did not put there")
    if fault.config and not ambiguous:
        return BackendConfigError(f"{call.name}: {reason}; nothing was written")
    if ambiguous and call.script is not None:
        return BackendUnavailableError(f"{call.name}: {reason}; it may have been done, and repeating it is safe")
    return BackendUnavailableError(f"{call.name}: {reason}; nothing was written, repeating is safe")
