"""tools/containers.py: what is in the image, and the exit status where no container runs."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.servers import NoContainerError, shared_server
from tools import containers
from tools.containers import UnavailableError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="containers are of Linux")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace engine and tests. Yields what happened: engines by their driver, and images."""
    happened: list[str] = []

    @contextlib.contextmanager
    def started(driver: str) -> Iterator[None]:
        happened.append(driver)
        yield

    monkeypatch.setattr(containers.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(containers, "server_binary", lambda: sys.executable)
    monkeypatch.setattr(containers, "version", lambda: None)
    monkeypatch.setattr(containers, "started", started)
    monkeypatch.setattr(containers, "make_image", lambda program: happened.append("image"))
    monkeypatch.setattr(containers, "docker", lambda *arguments: "")
    monkeypatch.setattr(containers, "run_tests", lambda arguments: not arguments)
    return happened


def test_the_first_driver_that_works_is_used(engines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose containers do not run is given up for the next one. The tests decide about the exit status."""
    assert containers.main([]) == 0
    assert containers.main(["-k", "fails"]) == 1
    assert engines == ["overlay2", "image"] * 2

    def make_image(program: Path) -> None:
        if engines[-1] == "overlay2":
            raise UnavailableError("it does not run")

    monkeypatch.setattr(containers, "make_image", make_image)
    engines.clear()
    assert containers.main([]) == 0
    assert engines == ["overlay2", "vfs"]


def test_an_engine_that_answers_is_used(engines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """None is started beside it."""
    monkeypatch.setattr(containers, "version", lambda: "28.0")
    assert containers.main([]) == 0
    assert engines == ["image"]


def test_where_no_container_runs_it_says_why(
    engines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each reason once, and an exit status that is neither success nor failure."""

    @contextlib.contextmanager
    def started(driver: str) -> Iterator[None]:
        raise UnavailableError("only root can start one")
        yield

    monkeypatch.setattr(containers, "started", started)
    assert containers.main([]) == containers.SKIPPED
    assert capsys.readouterr().out.splitlines()[-1] == "skipped, no container runs here: only root can start one"


def test_the_image_holds_the_program_and_its_libraries() -> None:
    """The archive alone is a root file system in which the program runs."""
    program = Path(sys.executable).resolve()
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(containers.image_of(program))) as tar:
        names = {name: tar.getmember(name) for name in tar.getnames()}
    assert names["data"].isdir()
    assert names[containers.PROGRAM.lstrip("/")].size == program.stat().st_size
    libraries = {word for word in said.split() if word.startswith("/")}
    assert len(libraries) >= 2
    assert all(names[each.lstrip("/")].isfile() for each in libraries)


def test_an_image_that_was_named_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names an image wants that one tested: no local server serves in its place."""
    monkeypatch.setattr(servers.shutil, "which", lambda name: None)
    for name in ("HISTSTORE_TEST_REDIS_URL", "HISTSTORE_TEST_SERVER", "HISTSTORE_TEST_ACL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HISTSTORE_TEST_IMAGE", "none:latest")
    with pytest.raises(NoContainerError, match="docker"), shared_server():
        raise AssertionError("a server was started")
