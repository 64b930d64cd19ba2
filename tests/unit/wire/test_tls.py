"""TLS contexts: whom they trust, which files they notice, and which option an error names."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histstore.wire.tls import TlsContexts, TlsOptionError

from ...support.tls import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def system(certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the system's CAs, with one CA."""
    file, folder = tmp_path / "system.ca", tmp_path / "certs"
    folder.mkdir()
    file.write_bytes(certificates.path("ours.ca").read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    return file


def cas(context: ssl.SSLContext) -> set[bytes]:
    return set(context.get_ca_certs(binary_form=True))


def test_without_a_ca_the_systems_are_trusted(system: Path) -> None:
    assert len(cas(TlsContexts().get({}))) == 1


def test_a_given_ca_is_the_only_one_that_is_trusted(system: Path, certificates: Certificates) -> None:
    """The system's may have hundreds. Whoever names one for a server of their own means no other."""
    ours = TlsContexts().get({})
    text = certificates.path("other.ca").read_text()
    for given in ({"ssl_ca_certs": str(certificates.path("other.ca"))}, {"ssl_ca_data": text}):
        found = cas(TlsContexts().get(given))
        assert len(found) == 1
        assert not found & cas(ours)


def test_the_systems_cas_are_read_once(system: Path) -> None:
    contexts = TlsContexts()
    assert contexts.get({}) is contexts.get({})


@pytest.mark.parametrize("renewed", ["system", "certificate", "key", "folder", "option", "process"])
def test_a_new_context_is_made_when_something_has_changed(
    system: Path, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renewed: str
) -> None:
    """A file that was renewed on disk counts at once. A forked child does not use its parent's context."""
    files = {"certificate": tmp_path / "client.crt", "key": tmp_path / "client.key", "system": system}
    for name in ("certificate", "key"):
        files[name].write_bytes(certificates.path(f"ours{files[name].suffix}").read_bytes())
    given: dict[str, Any] = {"ssl_certfile": str(files["certificate"]), "ssl_keyfile": str(files["key"])}
    contexts = TlsContexts()
    before = contexts.get(given)
    assert contexts.get({**given, "host": "another"}) is before
    if renewed == "folder":
        (tmp_path / "certs" / "12345678.0").write_bytes(certificates.path("other.ca").read_bytes())
    elif renewed == "option":
        given["ssl_check_hostname"] = False
    elif renewed == "process":
        monkeypatch.setattr(os, "getpid", lambda: -1)
    else:
        file = files[renewed]
        fresh = file.with_suffix(".new")
        fresh.write_bytes(file.read_bytes() + b"\n")
        fresh.replace(file)
    after = contexts.get(given)
    assert after is not before
    assert contexts.get(given) is after


WRONG: dict[str, tuple[Callable[[Certificates], dict[str, Any]], str]] = {
    "a CA's file is missing": (lambda c: {"ssl_ca_certs": str(c.path("nobody.ca"))}, "ssl_ca_certs cannot be read"),
    "a CA's file is none": (lambda c: {"ssl_ca_certs": str(c.path("ours.key"))}, "ssl_ca_certs holds no CA"),
    "a CA's text is none": (lambda _c: {"ssl_ca_data": "nonsense"}, "ssl_ca_data holds no CA"),
    "a certificate is missing": (lambda c: c.client("nobody", "ours"), "ssl_certfile cannot be read"),
    "a key is missing": (lambda c: c.client("ours", "nobody"), "ssl_keyfile cannot be read"),
    "both are missing": (lambda c: c.client("nobody", "nobody"), "ssl_certfile and ssl_keyfile cannot be read"),
    "a key without a certificate": (lambda c: {"ssl_keyfile": str(c.path("ours.key"))}, "without ssl_certfile"),
    "a certificate without a key": (lambda c: {"ssl_certfile": str(c.path("ours.crt"))}, "hold no certificate and key"),
    "another certificate's key": (lambda c: c.client("ours", "other"), "is not that of ssl_certfile"),
    "an encrypted key": (lambda c: c.client("ours", "locked"), "is encrypted"),
    "a wrong password": (
        lambda c: {**c.client("ours", "locked"), "ssl_password": "s3cret1"}, "ssl_password does not open the key",
    ),
    "a cipher": (lambda _c: {"ssl_ciphers": "nonsense"}, "ssl_ciphers"),
    "a flag": (lambda _c: {"ssl_include_verify_flags": ["nonsense"]}, "ssl_include_verify_flags"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_option_that_cannot_be_used_is_named(certificates: Certificates, name: str) -> None:
    """The text says what to change, and quotes neither a password nor a path."""
    given, text = WRONG[name]
    with pytest.raises(TlsOptionError) as caught:
        TlsContexts().get(given(certificates))
    assert text in str(caught.value)
    assert caught.value.advice
    assert "s3cret" not in str(caught.value)
    assert str(certificates.folder) not in str(caught.value)


def test_an_encrypted_key_with_its_password(certificates: Certificates) -> None:
    TlsContexts().get({**certificates.client("ours", "locked"), "ssl_password": "s3cret"})
