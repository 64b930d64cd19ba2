"""TLS before a real server, certificates to go with it, and ports that answer nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import trustme
from cryptography.hazmat.primitives import serialization


class Certificates:
    """A CA, a server's certificate for localhost and 127.0.0.1, a client's, and a stranger's CA and client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours, other = trustme.CA(), trustme.CA()
        self.ca = ours
        self.server = ours.issue_cert("localhost", "127.0.0.1")
        self.expired = ours.issue_cert("localhost", "127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
        self._write(ours, "ours")
        self._write(other, "other")
        key = serialization.load_pem_private_key((folder / "ours.key").read_bytes(), None)
        (folder / "locked.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"s3cret"),
            )
        )

    def _write(self, ca: trustme.CA, name: str) -> None:
        ca.cert_pem.write_to_path(str(self.folder / f"{name}.ca"))
        client = ca.issue_cert(f"{name}.client")
        client.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))
        client.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.crt"))

    def query(self, ca: str | None = "ours", client: str | None = "ours") -> str:
        """Returns the query of a URL: which CA to trust, and which client certificate to show."""
        options = {} if ca is None else {"ssl_ca_certs": str(self.folder / f"{ca}.ca")}
        if client is not None:
            options["ssl_certfile"] = str(self.folder / f"{client}.crt")
            options["ssl_keyfile"] = str(self.folder / f"{client}.key")
        return urlencode(options)


class Relay:
    """Speaks TLS to clients, wants their certificates, and relays what they say to a server.

    Args:
        port: The server's.
        certificates: Whom to trust, and what to show.
        shown: The certificate to show instead.

    Attributes:
        port: Where it listens.
        accepted: Connections that came.
    """

    def __init__(self, port: int, certificates: Certificates, shown: trustme.LeafCert | None = None) -> None:
        self.accepted = 0
        self._target = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (shown or certificates.server).configure_cert(self._context)
        certificates.ca.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("0.0.0.0", 0))
        self._sockets: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), raw, self._context.wrap_socket(raw, server_side=True) as near:
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [near, far]
            up = threading.Thread(target=_carry, args=(near, far), daemon=True)
            up.start()
            _carry(far, near)
            up.join(5)

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """Yields a port whose packets are dropped: the queue of a listener that accepts nobody is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect(("127.0.0.1", port))
            yield port


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Yields a port that is connected to and answers nothing, as a frozen server's does."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield int(listener.getsockname()[1])
