"""Why a connection could not be opened: the phase, the cause, and the advice."""

from __future__ import annotations

import copy
import math
import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from redis import exceptions as redis_errors

from .faults import FAULTS, Fault, OpeningError, OpeningTimeoutError, mistake, passes, unquoted
from .health import is_replica
from .settings import ConnectionSettings
from .tls import TlsOptionError

SENTINELS: Final = "sentinels"
LOOK_UP: Final = "look-up"
CONNECT: Final = "connect"
TLS: Final = "TLS"
CREDENTIALS: Final = "credentials"
LOG_IN: Final = "log-in"
SELECT: Final = "select"

PROBE_AFTER: Final = 1.0
"""Seconds without an answer to the TLS handshake after which the port is probed for Redis without TLS."""
LOOK_UP_PAUSE: Final = 0.1
"""Seconds between two look-ups of an unknown name, which may be about to be published."""
FRESH: Final = 60.0
"""Seconds for which the failure of one connection explains why another one is not open."""
MAX_CAUSE: Final = 120
"""Longest cause in characters. A server's text may be long and have several lines."""

_RETRYABLE: Final = passes()
_READONLY: Final = replace(FAULTS["READONLY"], advice="wait until the sentinels agree on the primary")

_TIMEOUTS: Final = {
    SENTINELS: ("no answer from the sentinels", "check that they run, and that no firewall drops the packets"),
    LOOK_UP: ("no answer from the resolver", "check the host's name and the machine's DNS settings"),
    CONNECT: ("no answer", "check host and port, and that no firewall drops the packets"),
    TLS: ("no answer to the TLS greeting", "check that the port speaks TLS: redis:// is for one without"),
    CREDENTIALS: ("no answer from the credential provider", "look at what it asks, or raise socket_connect_timeout"),
    LOG_IN: ("no answer to the first command", "check that a Redis or Valkey server listens there and is not frozen"),
}

_NO_PASSWORD: Final = mistake("the server knows no password: leave it out of the URL, or set one there")

_CONNECTION_REFUSALS: Final = (
    "ERR max number of clients reached", "ERR max number of clients + cluster connections reached", "DENIED",
)  # fmt: skip
"""First words of a server that refuses a connection, and then closes it."""

# First words of a server's reply to the first commands: the phase, and the fault.
_ANSWERS: Final[Sequence[tuple[str, str, Fault]]] = (
    ("WRONGPASS", LOG_IN, mistake("check the user and the password")),
    ("NOAUTH", LOG_IN, mistake("give the URL a user and a password")),
    ("ERR invalid password", LOG_IN, mistake("check the password")),
    ("ERR AUTH ", LOG_IN, _NO_PASSWORD),
    ("ERR Client sent AUTH", LOG_IN, _NO_PASSWORD),
    ("ERR Client names ", LOG_IN, mistake("choose a client_name without spaces")),
    ("ERR wrong number of arguments", LOG_IN, mistake("use Redis 6.2, Valkey 7.2 or later, which know users")),
    *((words, LOG_IN, FAULTS[words]) for words in _CONNECTION_REFUSALS),
    ("ERR DB index", SELECT, mistake("choose a database that the server has, or raise its setting databases")),
    ("ERR invalid DB index", SELECT, mistake("give the database as a whole number")),
    ("ERR SELECT is not allowed in cluster mode", SELECT, mistake("a cluster has database 0 only: leave it out")),
)  # fmt: skip

# TLS alerts of a server that refuses the client's certificate, or requires one.
_CERTIFICATE: Final = re.compile(r"ALERT_(CERTIFICATE|BAD_CERT|UNKNOWN_CA|HANDSHAKE|ACCESS_DENIED|NO_CERT|DECRYPT)")
_PLAIN: Final = re.compile(r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|HTTP_REQUEST|UNKNOWN_PROTOCOL|PACKET_LENGTH")
_VERSION: Final = re.compile(r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|NO_PROTOCOLS|NO_CIPHER|NO_SHARED_CIPHER")

USE_PLAIN: Final = "use redis:// there, or the server's port for TLS"
USE_TLS: Final = "use rediss:// there, or the server's port without TLS"
_WANTS_CERTIFICATE: Final = "give the client certificate that it wants: ssl_certfile and ssl_keyfile"


class Opening:
    """One attempt to open a connection: its phase, and the error to raise if it fails.

    Attributes:
        phase: The current phase.
        seconds: Timeout of the attempt in seconds.
        address: The server's address, for error texts.
        last_error: The last failure that was tried again.
        greeted: Whether the TLS handshake has succeeded and the server has said nothing since.
        ended: When the attempt failed, by the shell's clock; infinite until then.
    """

    __slots__ = ("address", "ended", "greeted", "last_error", "phase", "seconds")

    def __init__(self, settings: ConnectionSettings, seconds: float) -> None:
        self.seconds = seconds
        self.phase = CONNECT if settings.kind == "unix" else LOOK_UP if settings.finder is None else SENTINELS
        self.last_error: Exception | None = None
        self.greeted = False
        self.ended = math.inf
        self.address = ""
        self.set_address(settings.path or (settings.address if settings.finder is None else str(settings.finder)))

    def set_address(self, address: str | tuple[str, int]) -> None:
        """Set the address that error texts name."""
        text = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self.address = text if len(text) <= 60 else f"…{text[-59:]}"

    def found(self, address: tuple[str, int]) -> None:
        """Record the server that the sentinels name."""
        self.set_address(address)
        self.phase = LOOK_UP

    def timeout_error(self) -> Exception:
        """Return the error of a connection that is not open by now. Each caller gets its own copy."""
        return copy.copy(self.error(self.last_error or TimeoutError()))

    def explained_by(self, before: Opening, error: Exception) -> Exception:
        """Return the error to raise for `error`: an earlier attempt that had more time knows the cause better."""
        if (
            isinstance(error, OpeningTimeoutError)
            and self.seconds < before.seconds / 2
            and before.ended > self.ended - FRESH
        ):
            return before.timeout_error()
        return error

    def error(self, error: Exception) -> Exception:
        """Return the error to raise for `error`, which ended the attempt."""
        if isinstance(error, OpeningError | OpeningTimeoutError):
            return error
        if isinstance(error, TlsOptionError):
            self.phase = TLS
            return OpeningError(self._text(str(error)), mistake(error.advice))
        if isinstance(error, redis_errors.ConnectionError) and isinstance(error.__cause__, OSError):
            error = error.__cause__
        if isinstance(error, TimeoutError | redis_errors.TimeoutError):
            if self.last_error is not None:
                return self.error(self.last_error)
            cause, advice = _TIMEOUTS[self.phase]
            return OpeningTimeoutError(
                self._text(f"{cause} within {self.seconds:.3g} s"), replace(_RETRYABLE, advice=advice)
            )
        if isinstance(error, OSError | redis_errors.RedisError | UnicodeError):
            cause, fault = self._cause(error)
            error = OpeningError(self._text(cause), fault)
        return error  # an error of the credential provider reaches the caller unchanged

    def refused(self, replies: Sequence[Any], commands: Sequence[Sequence[Any]]) -> Exception | None:
        """Return the error for a server's replies to the first commands, or None if it accepts them."""
        for command, reply in zip(commands, replies, strict=True):
            if command[0] == b"INFO":
                # Only where sentinels named the server: the one that was asked may be behind. Whether the user may use
                # INFO does not matter here, but a server that is full refuses the first command, whatever it is.
                if is_replica(reply):
                    return OpeningError(self._text("the server that the sentinels name is a replica"), _READONLY)
                known_error = self._answer(str(reply)) if isinstance(reply, Exception) else None
                if known_error is not None:
                    return known_error
                continue
            if not isinstance(reply, Exception):
                continue
            self.phase = SELECT if command[0] == b"SELECT" else LOG_IN
            known_error = self._answer(str(reply))
            # Any reply to PING is enough: a loading or full server gives a better reason to the call itself.
            if command[0] != "PING" or known_error is not None:
                return known_error or OpeningError(self._text(str(reply)), self._named(str(reply)))
        return None

    def needs_plain(self) -> Exception:
        """Return the error for a port that speaks Redis without TLS."""
        return OpeningError(self._text("the server answers without TLS"), mistake(USE_PLAIN))

    def needs_tls(self) -> Exception:
        """Return the error for a port that speaks TLS."""
        return OpeningError(self._text("the server's port speaks TLS"), mistake(USE_TLS))

    def _answer(self, text: str) -> Exception | None:
        for begin, phase, fault in _ANSWERS:
            if text.startswith(begin):
                self.phase = phase
                return OpeningError(self._text(text), fault)
        return None

    def _named(self, text: str) -> Fault:
        return next((fault for words, fault in FAULTS.items() if text.startswith(words)), _RETRYABLE)

    def _cause(self, error: Exception) -> tuple[str, Fault]:
        if self.phase == CREDENTIALS:
            return self._provider(error)
        text = str(error)
        match error:
            case socket.gaierror():
                # In Kubernetes a name appears when its pod is ready, so it was looked up for the whole timeout. More
                # tries would hardly help after that.
                known = error.errno != socket.EAI_NONAME
                fault = Fault(True, known, advice="check the host's name", passing=known)
                return (error.strerror or text).lower(), fault
            case UnicodeError():
                return "no valid host name", mistake("check the host's name")
            case ssl.SSLCertVerificationError():
                return self._verification(error)
            case ssl.SSLEOFError():
                return self._broken("the server closed the connection")
            case ssl.SSLError():
                return self._tls(error)
            case PermissionError() if self.phase == CONNECT:
                return "permission denied", mistake("allow this user to use the socket or the address")
            case redis_errors.ResponseError() | redis_errors.ConnectionError():
                known_error = self._answer(text)
                if isinstance(known_error, OpeningError):
                    return text, known_error.fault
                if isinstance(error, redis_errors.ConnectionError) and self.phase in (LOG_IN, SELECT):
                    return self._broken(text)
                return text, self._named(text)
            case OSError() if "path too long" in text:
                return text, mistake("choose a shorter path")
            case OSError() if self.phase not in (LOOK_UP, CONNECT):
                return self._broken(_words(error))
            case OSError():
                return _words(error), replace(_RETRYABLE, advice="check that the server runs there")
        return text, _RETRYABLE

    def _provider(self, error: Exception) -> tuple[str, Fault]:
        # The provider's text is not shown: it may quote a token, or the address that the token came from.
        if isinstance(error, UnicodeError):
            return "they cannot be encoded", mistake("check what the credential provider returns")
        cause = f"the credential provider failed ({type(error).__name__})"
        return cause, replace(_RETRYABLE, advice="look at the cause of this error")

    def _verification(self, error: ssl.SSLCertVerificationError) -> tuple[str, Fault]:
        message = error.verify_message.rstrip(".")
        if error.verify_code in (62, 63, 64):
            advice = "connect by a name that it holds, or have it issued for this one"
        elif "expired" in message or "not yet" in message:
            advice = "renew it, and check this machine's clock"
        else:
            advice = "give the CA that signed it as ssl_ca_certs"
        return f"the server's certificate is not accepted ({message})", mistake(advice)

    def _tls(self, error: ssl.SSLError) -> tuple[str, Fault]:
        reason = _reason(error)
        words = reason.lower().replace("_", " ")
        if _PLAIN.search(reason):
            return "the server answers without TLS", mistake(USE_PLAIN)
        if _CERTIFICATE.search(reason):
            self.phase = TLS
            return f"the server does not accept this client ({words})", mistake(_WANTS_CERTIFICATE)
        if _VERSION.search(reason):
            return f"no common protocol ({words})", mistake("check ssl_min_version and ssl_ciphers on both sides")
        return words, replace(_RETRYABLE, advice="check that the port speaks TLS")

    def _broken(self, cause: str) -> tuple[str, Fault]:
        if self.phase == TLS:
            return f"{cause} during the TLS greeting", replace(
                _RETRYABLE, advice="check that the port speaks TLS, and that the server is not full (maxclients)"
            )
        if self.greeted:
            self.phase = TLS
            cause = f"{cause} right after the TLS greeting"
            return cause, replace(_RETRYABLE, advice=f"check the server; {_WANTS_CERTIFICATE}")
        return f"{cause} at the first command", replace(
            _RETRYABLE, advice="check that a Redis or Valkey server listens there, without TLS"
        )

    def _text(self, cause: str) -> str:
        # A server that does not know AUTH repeats its arguments.
        cause = " ".join(unquoted(cause).split())
        return f"{self.phase} ({self.address}): {cause if len(cause) <= MAX_CAUSE else cause[: MAX_CAUSE - 1] + '…'}"


def refusal(replies: Sequence[Any]) -> redis_errors.ResponseError | None:
    """Return the first reply if it refuses the connection. The server then has read no request, and closes."""
    if replies and isinstance(replies[0], redis_errors.ResponseError):
        return replies[0] if str(replies[0]).startswith(_CONNECTION_REFUSALS) else None
    return None


def probe_context() -> ssl.SSLContext:
    """Return a TLS context to find out whether a port speaks TLS. It verifies nothing: send no secret with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def is_plain_redis(data: bytes) -> bool:
    """Return whether a port's answer to a PING without TLS is a Redis server's."""
    return data[:1] in (b"+", b"-")


def _reason(error: ssl.SSLError) -> str:
    # An error that Python itself raises has no reason.
    return getattr(error, "reason", None) or str(error.args[-1] if error.args else error)


def _words(error: OSError) -> str:
    # asyncio's text for a refused connection repeats the address.
    return os.strerror(error.errno).lower() if error.errno else str(error) or type(error).__name__
