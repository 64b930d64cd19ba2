"""tools/servers.py: the table and the exit status of `make servers`. Running it tests the servers themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import servers
from tools.servers import MissingError, Outcome, Source


@pytest.fixture
def tested(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Replace servers and tests. Yields the runs by server: a folder, and "acl" if it ran as the user of a file."""
    runs: dict[str, list[str]] = {}

    def run_tests(path: Path, arguments: list[str], **environment: str) -> Outcome:
        what = Path(arguments[0]).stem + " acl" * ("HISTSTORE_TEST_ACL" in environment)
        runs.setdefault(path.name, []).append(what)
        return Outcome("1 failed", False) if path.name == "7.4" and what == "lua" else Outcome("2 passed", True)

    monkeypatch.setattr(servers, "install", lambda source: Path(source.name))
    monkeypatch.setattr(servers, "version", lambda path: f"Redis {path.name}.0")
    monkeypatch.setattr(servers, "run_tests", run_tests)
    return runs


def make(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["servers.py", *arguments])
    return servers.main()


def test_one_failure_is_a_failure(
    tested: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All servers are tested all the same, and the table names the one."""
    assert make(monkeypatch) == 1
    assert tested == {name: ["store", "lua", "deploy"] for name in servers.NAMES}
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "FAILED" in line] == [line for line in lines if line.startswith("| Redis 7.4 ")]
    assert make(monkeypatch, "--only", "6.2", "8.2") == 0


def test_the_form_for_ci(tested: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest and the newest in full, one of them as the user of the ACL file; the contract on all others."""
    assert make(monkeypatch, "--ci") == 0
    assert tested.pop("6.2") == ["store", "lua", "deploy"]
    assert tested.pop("valkey-9.1") == ["store acl", "lua", "deploy"]
    assert set(map(tuple, tested.values())) == {("test_contract", "deploy")}


def test_a_server_that_cannot_be_had_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table says why. No other server is tested in its place."""

    def install(source: Source) -> Path:
        raise MissingError(f"no {source.name} here")

    monkeypatch.setattr(servers, "install", install)
    for option in ("--contract", "--install"):
        assert make(monkeypatch, option, "--only", "7.0") == 1
        assert "missing: no 7.0 here" in capsys.readouterr().out
