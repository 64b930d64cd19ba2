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

from .cluster import Cluster, cluster
from .servers import Server, server, tls_binary

NAMES = ("localhost", "127.0.0.1")
BIND = "127.0.0.1 127.0.0.2"
"""Addresses of servers with TLS. Their certificates do not hold the second one."""


class Certificates:
    """A CA, a server's certificate for localhost and 127.0.0.1, a client's, and a stranger's CA and client.

    Attributes:
        folder: Where the files are: NAME.ca, NAME.crt and NAME.key of "ours" and of "other", the server's, and
            "locked.key", which is the client's key, encrypted with the password "s3cret".
        ca: Our CA.
        server: The server's certificate.
        expired: One that is not valid any more.
        early: One that is not valid yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours, other = trustme.CA(), trustme.CA()
        self.ca = ours
        now, day = datetime.now(UTC), timedelta(days=1)
        self.server = ours.issue_cert(*NAMES)
        self.expired = ours.issue_cert(*NAMES, not_after=now - day)
        self.early = ours.issue_cert(*NAMES, not_before=now + day)
        self._write_leaf(self.server, "server")
        for ca, name in ((ours, "ours"), (other, "other")):
            ca.cert_pem.write_to_path(str(self.path(f"{name}.ca")))
            self._write_leaf(ca.issue_cert(f"{name}.client"), name)
        key = serialization.load_pem_private_key(self.path("ours.key").read_bytes(), None)
        self.path("locked.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"s3cret"),
            )
        )

    def _write_leaf(self, leaf: trustme.LeafCert, name: str) -> None:
        leaf.private_key_pem.write_to_path(str(self.path(f"{name}.key")))
        leaf.cert_chain_pems[0].write_to_path(str(self.path(f"{name}.crt")))

    def path(self, name: str) -> Path:
        return self.folder / name

    def client(self, certificate: str = "ours", key: str = "ours") -> dict[str, str]:
        """Returns the options of a URL that show a client certificate."""
        return {
            "ssl_certfile": str(self.path(f"{certificate}.crt")),
            "ssl_keyfile": str(self.path(f"{key}.key")),
        }

    def query(self, ca: str | None = "ours", client: str | None = "ours", key: str | None = None) -> str:
        """Returns the query of a URL: which CA to trust, and which client certificate to show."""
        options = {} if ca is None else {"ssl_ca_certs": str(self.path(f"{ca}.ca"))}
        if client is not None:
            options |= self.client(client, key or client)
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


@contextlib.contextmanager
def tls_server(certificates: Certificates, **options: str) -> Iterator[tuple[Server, int]]:
    """Runs a server that wants client certificates; yields it and its port with TLS.

    Options are those of `server`. If no server program of this machine knows TLS, a relay speaks it.
    """
    if tls_binary() is not None:
        with server(certificates, bind=BIND, **options) as running:
            yield running, running.tls_port
        return
    with server(**options) as running, contextlib.closing(Relay(running.port, certificates)) as relay:
        yield running, relay.port


@contextlib.contextmanager
def tls_cluster(certificates: Certificates) -> Iterator[tuple[Cluster, dict[int, int]]]:
    """Runs three primaries that want client certificates; yields them, and their ports with TLS by those without.

    If no server program of this machine knows TLS, relays speak it. The cluster itself then knows the ports without.
    """
    if tls_binary() is not None:
        with cluster(certificates=certificates, bind=BIND) as made:
            yield made, {each.port: each.tls_port for each in made.servers}
        return
    with cluster() as made, contextlib.ExitStack() as stack:
        ports = [each.port for each in made.servers]
        yield made, {port: stack.enter_context(contextlib.closing(Relay(port, certificates))).port for port in ports}


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
