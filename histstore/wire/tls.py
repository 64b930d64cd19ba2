"""TLS contexts, made from redis-py's options."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final

_CERT_REQS: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_CAS: Final = {"ssl_ca_certs": "cafile", "ssl_ca_path": "capath", "ssl_ca_data": "cadata"}
"""redis-py's options for the trusted CAs, and Python's names for them."""


class TlsOptionError(Exception):
    """A TLS option cannot be used. The text names it.

    Attributes:
        advice: The change that helps.
    """

    def __init__(self, cause: str, advice: str) -> None:
        super().__init__(cause)
        self.advice = advice


class TlsContexts:
    """Makes the TLS contexts of a backend's connections, so that each one uses the certificates that are on disk.

    It keeps a context that trusts the system's CAs for as long as its files are unchanged. Reading these CAs takes
    some 30 ms, during which an event loop stands still.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: tuple[object, ssl.SSLContext] | None = None

    def get(self, given: Mapping[str, Any]) -> ssl.SSLContext:
        """Return a context for a new connection.

        Args:
            given: redis-py's options by name.

        Raises:
            TlsOptionError: An option or its file cannot be used.
        """
        if any(given.get(name) for name in _CAS):
            return _make(given)
        # First the files' state, then their content: if one changes in between, the next connection reads it again.
        # A forked child makes its own context: a thread of its parent may hold a lock inside the parent's.
        options = {name: value for name, value in given.items() if name.startswith("ssl_")}
        state = (os.getpid(), options, [_state_of(path) for path in _files(given)])
        kept = self._kept
        if kept is None or kept[0] != state:
            kept = self._kept = (state, _make(given))
        return kept[1]


def _files(given: Mapping[str, Any]) -> list[str | None]:
    system = ssl.get_default_verify_paths()
    return [given.get("ssl_certfile"), given.get("ssl_keyfile"), system.cafile, system.capath]


def _state_of(path: str | None) -> tuple[object, ...] | None:
    if not path:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _make(given: Mapping[str, Any]) -> ssl.SSLContext:
    context = _trusting(given)
    required = given.get("ssl_cert_reqs", "required")
    mode = ssl.VerifyMode(_CERT_REQS.get(required, required) if required is not None else ssl.CERT_NONE)
    check = given.get("ssl_check_hostname")
    # The order matters: ssl refuses CERT_NONE while check_hostname is set.
    context.check_hostname = mode is not ssl.CERT_NONE and (check is None or bool(check))
    context.verify_mode = mode
    _set_flags(context, given)
    if given.get("ssl_certfile") or given.get("ssl_keyfile"):
        _show_certificate(context, given)
    if given.get("ssl_min_version") is not None:
        context.minimum_version = ssl.TLSVersion(int(given["ssl_min_version"]))
    if given.get("ssl_ciphers"):
        try:
            context.set_ciphers(given["ssl_ciphers"])
        except ssl.SSLError as error:
            raise TlsOptionError("ssl_ciphers names no cipher of this machine", "correct ssl_ciphers") from error
    return context


def _trusting(given: Mapping[str, Any]) -> ssl.SSLContext:
    """Return a context that trusts the given CAs and no other, or the system's if none is given."""
    places: dict[str, Any] = {argument: given.get(name) or None for name, argument in _CAS.items()}
    try:
        return ssl.create_default_context(**places)
    except (ssl.SSLError, ValueError, TypeError) as error:
        advice = "give the certificate of the CA, in PEM form"
        raise TlsOptionError(f"{_names(given, _CAS)} holds no CA ({_words(error)})", advice) from error
    except OSError as error:
        raise _unreadable(_names(given, _CAS), error) from error


def _set_flags(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    try:
        for flag in given.get("ssl_include_verify_flags") or ():
            context.verify_flags |= flag
        for flag in given.get("ssl_exclude_verify_flags") or ():
            context.verify_flags &= ~flag
    except (ValueError, TypeError) as error:
        raise TlsOptionError(
            "ssl_include_verify_flags or ssl_exclude_verify_flags holds no flag", "correct it"
        ) from error


def _show_certificate(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    """Have the context show the client's certificate."""
    certificate, key, password = given.get("ssl_certfile"), given.get("ssl_keyfile"), given.get("ssl_password")
    try:
        # Without a password argument OpenSSL would prompt for one at the terminal.
        context.load_cert_chain(certificate or "", key, password or "")
    except (OSError, ValueError, TypeError) as error:
        if not certificate:
            problem = TlsOptionError("ssl_keyfile is given without ssl_certfile", "give both")
        elif isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            files = [name for name in ("ssl_certfile", "ssl_keyfile") if not _is_readable(given.get(name))]
            problem = _unreadable(" and ".join(files) or "ssl_certfile", error)
        else:
            problem = _unusable(error, key or certificate, bool(password))
        raise problem from error


def _unusable(error: Exception, key: str, has_password: bool) -> TlsOptionError:
    """Return the error for a client's certificate and key that can be read but not used."""
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return TlsOptionError("the key of ssl_keyfile is not that of ssl_certfile", "give the certificate's own key")
    if _is_encrypted(key):
        if has_password:
            return TlsOptionError("ssl_password does not open the key of ssl_keyfile", "give the key's password")
        return TlsOptionError("the key of ssl_keyfile is encrypted", "give its password as ssl_password")
    return TlsOptionError("ssl_certfile and ssl_keyfile hold no certificate and key", "give both in PEM form")


def _unreadable(names: str, error: OSError) -> TlsOptionError:
    return TlsOptionError(f"{names} cannot be read ({_words(error)})", "correct the path or the file's permissions")


def _names(given: Mapping[str, Any], names: Iterable[str]) -> str:
    return " or ".join(name for name in names if given.get(name))


def _is_encrypted(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"ENCRYPTED" in file.read(1 << 16)
    except OSError:
        return False


def _is_readable(path: str | None) -> bool:
    return not path or os.access(path, os.R_OK)


def _words(error: Exception) -> str:
    match error:
        case ssl.SSLError():
            # An error that Python itself raises has no reason.
            return (error.reason or str(error.args[-1])).replace("_", " ").partition(" (")[0].lower()
        case OSError():
            return (error.strerror or str(error)).lower()
    return str(error)
