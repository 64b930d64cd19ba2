"""The JSON file store and the file system: paths that are none, files that cannot be read or written, links.

In both shells. Nothing but a HistoryStoreError leaves `load` or `save`; it names the file and says what to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from histstore import (
    BackendUnavailableError,
    ConversationSnapshot,
    HistoryStoreError,
    NotReplicatedError,
    SnapshotError,
    UserMessage,
)

from ..support.shells import Shell, until

ONE = ConversationSnapshot([UserMessage("one")])
TWO = ConversationSnapshot([UserMessage("two")])


def open_store(shell: Shell, path: Any) -> Any:
    return shell.dress(shell.module.JsonFileHistoryStore(path))


def run(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).resolve().parents[2]).returncode


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def contents(folder: Path) -> dict[str, Any]:
    """What stands in a folder, and in its files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = stat.S_IFMT(path.lstat().st_mode)
        found[os.fspath(path)] = (kind, path.read_bytes() if kind == stat.S_IFREG else None)
    return found


async def refused(shell: Shell, path: Any, kind: type[HistoryStoreError], *words: str, load: bool = True) -> None:
    """Both calls raise an error of a class that names the path, says something to do, and can be shipped."""
    store = open_store(shell, path)
    calls = [store.save(ONE), store.load()] if load else [store.save(ONE)]
    for call in calls:
        with pytest.raises(kind) as caught:
            await call
        text = str(caught.value)
        assert caught.value.run_id == os.fspath(path)
        named = repr(os.fspath(path))
        assert named in text or (len(named) > 120 and named[:60] in text and named[-30:] in text)
        assert len(text) < 300
        for word in words:
            assert word in text
        text.encode()
        assert str(pickle.loads(pickle.dumps(caught.value))) == text
    assert store.revision is None


# ------------------------------------------------------------------------------------ paths of no file


def loop(folder: Path) -> Path:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return folder / "a"


def own_loop(folder: Path) -> Path:
    (folder / "me").symlink_to("me")
    return folder / "me"


def loop_on_the_way(folder: Path) -> Path:
    return loop(folder) / "x.json"


def through_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "x.json"


def a_folder(folder: Path) -> Path:
    (folder / "folder").mkdir()
    return folder / "folder"


def link_to_a_folder(folder: Path) -> Path:
    (folder / "link").symlink_to(a_folder(folder))
    return folder / "link"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def a_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(folder / "socket"))
    return folder / "socket"


def a_device(folder: Path) -> Path:
    (folder / "zero").symlink_to("/dev/zero")
    return folder / "zero"


NO_FILES: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: folder / "a\0b", "is no path"),
    (lambda folder: folder / "a\ud800b", "is no path"),
    (lambda folder: folder / ("x" * 256), "choose a shorter path"),
    (lambda folder: folder / ("é" * 128), "choose a shorter path"),
    (lambda folder: folder.joinpath(*["x" * 200] * 30), "choose a shorter path"),
    (loop, "lead in a circle"),
    (own_loop, "lead in a circle"),
    (loop_on_the_way, "lead in a circle"),
    (through_a_file, "a part of the path is a file"),
    (a_folder, "name a file in that folder"),
    (link_to_a_folder, "name a file in that folder"),
    (lambda folder: Path("/"), "name a file in that folder"),
    (lambda folder: Path(), "name a file in that folder"),
    (a_pipe, "regular file"),
    (a_socket, "regular file"),
    (a_device, "regular file"),
]


@pytest.mark.parametrize(("make", "words"), NO_FILES, ids=[f"{n} {words}" for n, (_, words) in enumerate(NO_FILES)])
async def test_a_path_of_no_file_is_bad_input(
    shell: Shell, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    """Whatever it is instead: SnapshotError, at once, and nothing is written or put in its place."""
    path = make(tmp_path)
    before = contents(tmp_path)
    await refused(shell, path, SnapshotError, words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("path", [None, 5, b"x.json", ["x.json"]])
def test_what_is_no_path(shell: Shell, path: Any) -> None:
    """A file descriptor or bytes name no file here: bad input, told when the store is made."""
    with pytest.raises(SnapshotError, match="path is a str"):
        open_store(shell, path)


# ------------------------------------------------------------------------------------ missing folders


async def test_a_missing_folder_is_not_a_new_conversation(shell: Shell, tmp_path: Path) -> None:
    """Where a volume is not mounted, say: an error, until the folder is there. A missing file in it loads as None."""
    path = tmp_path / "volume" / "x.json"
    await refused(shell, path, BackendUnavailableError, "its folder is not there: make it")
    (tmp_path / "link").symlink_to(path)
    await refused(shell, tmp_path / "link", BackendUnavailableError, "its folder is not there: make it")
    path.parent.mkdir()
    assert await open_store(shell, path).load() is None
    await open_store(shell, tmp_path / "link").save(ONE)
    assert await open_store(shell, path).load() == ONE


async def test_a_folder_that_was_removed(shell: Shell, tmp_path: Path) -> None:
    """Between two calls: an error of both; the store goes on when it is there again."""
    path = tmp_path / "folder" / "x.json"
    path.parent.mkdir()
    store = open_store(shell, path)
    await store.save(ONE)
    shutil.rmtree(path.parent)
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="make it"):
            await store.load()
        with pytest.raises(BackendUnavailableError, match="make it"):
            await store.save(TWO)
    path.parent.mkdir()
    assert await store.load() is None
    await store.save(TWO)
    assert await store.load() == TWO


async def test_a_working_folder_that_was_removed(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path then leads nowhere, which is told by the calls and not by the constructor."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    await refused(shell, "x.json", BackendUnavailableError, "its folder is not there")


@pytest.mark.parametrize("again", [False, True])
async def test_a_folder_that_is_removed_while_a_save_waits(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Nothing is written: not into another folder that has taken its name either, whose lock is not held."""
    path = tmp_path / "folder" / "x.json"
    path.parent.mkdir()
    descriptor = os.open(path.parent, os.O_RDONLY)
    waits = threading.Event()
    flock = fcntl.flock

    def wait(*args: Any) -> None:
        waits.set()
        flock(*args)

    try:
        flock(descriptor, fcntl.LOCK_EX)
        monkeypatch.setattr(fcntl, "flock", wait)
        store = open_store(shell, path)

        async def save() -> None:
            await store.save(ONE)

        saving = shell.apart(save())
        await until(waits.is_set)
        path.parent.rmdir()
        if again:
            path.parent.mkdir()
    finally:
        os.close(descriptor)
    with pytest.raises(BackendUnavailableError, match="repeat the call"):
        await saving
    if again:
        assert names(path.parent) == []
        await store.save(ONE)
        assert await store.load() == ONE


# -------------------------------------------------------------------------------- rights, and no space


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of somebody whom rights concern; the test is them."""
    folder = Path(tempfile.mkdtemp(prefix="histstore-rights-"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for each in (folder, *folder.iterdir()):
            each.chmod(0o700)
        shutil.rmtree(folder)


async def test_a_folder_without_rights(shell: Shell, unprivileged: Path) -> None:
    """Unreadable, or to be read only: an error of the calls that it forbids, and the file is as it was."""
    folder = unprivileged / "folder"
    folder.mkdir()
    path = folder / "x.json"
    store = open_store(shell, path)
    await store.save(ONE)
    folder.chmod(0)
    await refused(shell, path, BackendUnavailableError, "let this process read and write")
    folder.chmod(0o500)
    assert await store.load() == ONE
    with pytest.raises(BackendUnavailableError, match="is as it was: Permission denied; let this process"):
        await store.save(TWO)
    assert names(folder) == ["x.json"]
    folder.chmod(0o700)
    assert await store.load() == ONE
    await store.save(TWO)


async def test_a_file_without_rights(shell: Shell, unprivileged: Path) -> None:
    """It cannot be compared with what is expected, so it is not replaced either."""
    path = unprivileged / "x.json"
    path.write_bytes(ONE.to_json())
    path.chmod(0)
    await refused(shell, path, BackendUnavailableError, "let this process read and write")
    path.chmod(0o600)
    assert await open_store(shell, path).load() == ONE


async def test_a_file_that_grows_too_large(shell: Shell, tmp_path: Path) -> None:
    """A limit that ends a write half-way leaves the old file, and nothing beside it."""
    path = tmp_path / "x.json"
    store = open_store(shell, path)
    await store.save(ONE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(BackendUnavailableError, match=r"is as it was: .*File too large; raise the limit") as caught:
            await store.save(ConversationSnapshot(["x" * 100_000]), expected=store.revision)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value.__cause__, OSError)
    assert await store.load() == ONE
    assert names(tmp_path) == [path.name]
    await store.save(TWO)


async def test_a_full_disk(shell: Shell, tmp_path: Path) -> None:
    """The old file stays, nothing is left beside it, and a save goes through when there is space again."""
    if run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", os.fspath(tmp_path)):
        pytest.skip("this user may not mount a file system")
    try:
        path = tmp_path / "x.json"
        store = open_store(shell, path)
        await store.save(ONE)
        for _ in range(3):
            with pytest.raises(BackendUnavailableError, match="is as it was: No space left on device; free some space"):
                await store.save(ConversationSnapshot(["x" * 400_000]), expected=store.revision)
            assert await store.load() == ONE
            assert names(tmp_path) == [path.name]
        await store.save(ConversationSnapshot(["x" * 100_000]), expected=store.revision)
    finally:
        assert run("umount", os.fspath(tmp_path)) == 0


# ---------------------------------------------------------------------------------- names and links


NAMES = [
    *("x" * count for count in (1, 233, 240, 244, 245, 246, 254, 255)),
    "é" * 127,
    os.fsdecode(b"\xff\xfe not utf-8 \x80.json"),
    "[*]?.json",
    "new\nline \x7f.json",
    " ",
    "-rf",
    ".hidden",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{len(os.fsencode(name))} {name[:12]!a}")
async def test_any_name_of_a_file(shell: Shell, tmp_path: Path, name: str) -> None:
    """As long as the file system allows, in whatever bytes: saved, saved again, loaded, and nothing beside it.

    What a writer that died has left of this file is swept, and not what one of another file is writing.
    """
    store, other = open_store(shell, tmp_path / name), open_store(shell, tmp_path / "other")
    before = contents(tmp_path)
    assert await store.load() is None
    for snapshot in (ONE, TWO, TWO):
        await store.save(snapshot)
        assert await open_store(shell, tmp_path / name).load() == snapshot
    assert await other.load() is None
    await other.save(ONE)
    assert set(names(tmp_path)) == {name, "other"}
    assert before == {}


async def test_a_save_sweeps_what_a_dead_writer_of_the_same_file_left(shell: Shell, tmp_path: Path) -> None:
    """A process that dies before the file is put in its place leaves a part of it: the next save removes that.

    It does not touch what the writer of another file is writing.
    """
    for name in ("one", "two"):
        code = DYING.format(path=os.fspath(tmp_path / name))
        assert run(sys.executable, "-c", code) == 9
    first, second = names(tmp_path)
    await open_store(shell, tmp_path / "one").save(ONE)
    left = names(tmp_path)
    assert len(left) == 2
    assert left[0] in (first, second)
    assert left[1] == "one"
    await open_store(shell, tmp_path / "two").save(ONE)
    assert names(tmp_path) == ["one", "two"]


DYING = """
import os
from histstore import ConversationSnapshot
from histstore.sync import JsonFileHistoryStore
os.replace = lambda *_, **__: os._exit(9)
JsonFileHistoryStore({path!r}).save(ConversationSnapshot(["x"]))
"""


async def test_a_chain_of_links(shell: Shell, tmp_path: Path) -> None:
    """However long it is, relative or not, through other folders: load and save follow it, and it stays."""
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real.json"
    link = tmp_path / "0"
    link.symlink_to("far/real.json")
    for number in range(1, 60):  # the kernel follows 40
        (tmp_path / f"{number}").symlink_to(f"{number - 1}" if number % 2 else tmp_path / f"{number - 1}")
        link = tmp_path / f"{number}"
    store = open_store(shell, link)
    assert await store.load() is None
    for snapshot in (ONE, TWO):
        await store.save(snapshot)
        assert await open_store(shell, link).load() == await open_store(shell, real).load() == snapshot
    assert all((tmp_path / f"{number}").is_symlink() for number in range(60))
    assert not real.is_symlink()
    assert names(real.parent) == ["real.json"]


async def test_a_dangling_link(shell: Shell, tmp_path: Path) -> None:
    """There is no file yet: it loads as None, and a save makes the file that it leads to."""
    link = tmp_path / "link"
    link.symlink_to("real")
    store = open_store(shell, link)
    assert await store.load() is None
    await store.save(ONE, expected=None)
    assert link.is_symlink()
    assert await open_store(shell, tmp_path / "real").load() == ONE
    (tmp_path / "real").unlink()
    assert await store.load() is None


# --------------------------------------------------------------------------------------- on disk


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and put in place, in order."""
    found: list[str] = []
    fsync, put = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        found.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        fsync(descriptor)

    def replace(*paths: Any, **folders: Any) -> None:
        found.append("put")
        put(*paths, **folders)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    return found


async def test_a_save_is_on_disk(shell: Shell, tmp_path: Path, steps: list[str]) -> None:
    """The file before it is put in its place, and then the folder. What is there already is synced all the same."""
    (tmp_path / "link").symlink_to("x.json")
    for name in ("x.json", "link"):
        store = open_store(shell, tmp_path / name)
        await store.save(ONE if name == "x.json" else TWO, expected=await seen(store))
        assert steps == ["sync file", "put", "sync folder"]
        steps.clear()
    await store.save(TWO)
    assert steps == ["sync file", "sync folder"]


async def seen(store: Any) -> Any:
    await store.load()
    return store.revision


async def test_a_disk_that_does_not_confirm(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was replaced, so "nothing was written" would be a lie: NotReplicatedError, and the store has moved on.

    Saving the same again syncs again; saving what grew from it does not conflict.
    """
    store = open_store(shell, tmp_path / "x.json")
    first = await store.save(ONE)
    loaded = await store.load()
    broken = True
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if broken and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    grown = loaded.append(UserMessage("more"))
    for _ in range(2):
        with pytest.raises(NotReplicatedError) as caught:
            await store.save(grown)
        assert caught.value.revision == store.revision != first
        assert "save again" in caught.value.__notes__[0]
        assert isinstance(caught.value.__cause__, OSError)
    broken = False
    assert await store.save(grown) == caught.value.revision
    await store.save(grown.append(UserMessage("and more")))
    assert len(await store.load()) == 3


async def test_a_disk_that_refuses_the_content(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the file is put in its place: nothing was written, and nothing is left."""
    path = tmp_path / "x.json"
    store = open_store(shell, path)
    await store.save(ONE)

    def fsync(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(BackendUnavailableError, match="is as it was: Input/output error; mend that"):
            await store.save(TWO)
    assert await store.load() == ONE
    assert names(tmp_path) == [path.name]
