"""The one fact about a request that decides whether it may be repeated: whether a byte of it may have left."""

from __future__ import annotations


class SendState:
    """Record whether a byte of a request may have been sent.

    Attributes:
        sent: Whether a byte may have left. It is set before the write, because an interruption can come between the
        two.
    """

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False
