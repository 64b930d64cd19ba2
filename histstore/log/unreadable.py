"""The errors about a log that this reader cannot read: damage, or a format that is newer than the reader."""

from __future__ import annotations

from typing import Final

from ..errors import UnsupportedVersionError

FORMAT: Final = 1
"""The format of a run's keys that this library reads and writes."""


class BrokenChainError(Exception):
    """Stored bytes are not what was saved. The shells turn it into CorruptSnapshotError.

    Attributes:
        version: The version of the entry or head that is wrong; None: unknown.
        reason: What is wrong with it.
    """

    def __init__(self, version: int | None, reason: str) -> None:
        self.version = version
        self.reason = reason
        super().__init__(reason)


class UnknownCodecError(ValueError):
    """The first byte of a body names a codec that this reader does not have.

    Attributes:
        codec: The byte.
    """

    def __init__(self, codec: int) -> None:
        self.codec = codec
        super().__init__(f"a body of the unknown codec 0x{codec:02x}")


def unreadable(version: int | None, error: ValueError) -> BrokenChainError | UnsupportedVersionError:
    """Return the error to raise for the body of a proven entry that does not decode.

    The etag covers the body, so an unknown codec byte is what the writer wrote. It is never reported as damage.

    Args:
        version: The entry's version; None: unknown.
        error: What the decoder raised.
    """
    if isinstance(error, UnknownCodecError):
        return UnsupportedVersionError(
            f"{FORMAT} with body codec 0x{error.codec:02x}",
            FORMAT,
            mend="upgrade histstore, or give the backend the options that the run was written with",
        )
    return BrokenChainError(version, str(error))
