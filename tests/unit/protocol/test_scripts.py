"""Finding, naming and reading the Lua scripts."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from histstore.protocol import scripts as _scripts
from histstore.protocol.scripts import ALL, SAVE, Script, load, strip

LUA = Path(__file__).resolve().parents[3] / "lua"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in an empty folder; sources read before are forgotten, now and afterwards."""
    package = tmp_path / "histstore"
    package.mkdir()
    monkeypatch.setattr(_scripts, "__file__", str(package / "protocol" / "scripts.py"))
    load.cache_clear()
    _scripts.sha_of.cache_clear()
    yield tmp_path
    load.cache_clear()
    _scripts.sha_of.cache_clear()


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.lua").write_bytes(text.encode())


def test_every_script_has_a_file_and_every_file_a_script() -> None:
    assert {script.name for script in ALL} == {path.stem for path in LUA.glob("*.lua")}


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
def test_the_source_is_the_file_with_what_it_includes(script: Script) -> None:
    """Byte for byte, but for the lines that include another file, which stands in their place."""
    expected = []
    for line in (LUA / f"{script.name}.lua").read_bytes().split(b"\n"):
        _, found, name = line.partition(b"-- include ")
        expected.append((LUA / "include" / f"{name.decode()}.lua").read_bytes().rstrip(b"\n") if found else line)
    assert script.source.encode() == b"\n".join(expected)


def test_every_included_file_is_included() -> None:
    wanted = {path.stem for path in (LUA / "include").glob("*.lua")}
    included = {
        line.removeprefix("-- include ")
        for path in LUA.glob("*.lua")
        for line in path.read_text().split("\n")
        if line.startswith("-- include ")
    }
    assert included == wanted


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
def test_the_sha_is_the_sha1_of_what_is_sent(script: Script) -> None:
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()


def test_a_resend_is_safe_only_where_it_is_declared() -> None:
    assert [script.name for script in ALL if not script.resend_safe] == ["probe"]


def test_a_script_is_a_frozen_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SAVE.name = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(SAVE)) == SAVE


def test_a_wheel_has_the_scripts_inside_the_package(checkout: Path) -> None:
    write(checkout / "histstore" / "lua", "save", "return 1")
    write(checkout / "lua", "save", "return 'somebody else'")
    assert SAVE.source == "return 1"


def test_a_checkout_has_the_scripts_beside_the_package(checkout: Path) -> None:
    write(checkout / "lua", "save", "return 2 -- ä\r\n")
    assert SAVE.source == "return 2 -- ä\r\n"
    assert SAVE.sha == hashlib.sha1("return 2 -- ä\r\n".encode()).hexdigest()


def test_a_source_is_read_once_and_not_before_it_is_needed(checkout: Path) -> None:
    script = Script("later", resend_safe=False)
    write(checkout / "lua", "later", "return 1")
    assert script.source == "return 1"
    write(checkout / "lua", "later", "return 2")
    assert script.source == "return 1"


def test_a_missing_script_is_an_error_that_names_where_it_was_looked_for(checkout: Path) -> None:
    with pytest.raises(ImportError, match="'save' is missing") as caught:
        _ = SAVE.source
    assert str(checkout / "histstore" / "lua" / "save.lua") in str(caught.value)
    assert str(checkout / "lua" / "save.lua") in str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("-- a\nreturn 1 -- b\n", "\nreturn 1\n"),
        ("a--[[ b\nc ]]d", "a\nd"),
        ("a --[==[ ]] ]==] d", "a   d"),
        ("x = '--' .. \"--\" -- c", "x = '--' .. \"--\""),
        (r"x = 'it\'s -- one' -- c", r"x = 'it\'s -- one'"),
        ("x = [[ -- one ]] -- c", "x = [[ -- one ]]"),
        ("x = t[t[1]] - -1 -- c", "x = t[t[1]] - -1"),
        ("-- it's\nx = 'a'", "\nx = 'a'"),
    ],
)
def test_strip_drops_comments_and_keeps_strings_and_line_numbers(source: str, expected: str) -> None:
    assert strip(source) == expected
