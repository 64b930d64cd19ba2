"""The demonstration, run as people run it: in processes of its own that are really killed and frozen."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

import histstore
from histstore import ANY, sync
from histstore.demo import report
from histstore.demo.checks import Account
from histstore.demo.errors import UsageError
from histstore.demo.job import Event
from histstore.demo.supervisor import Script, Story, Supervisor
from histstore.demo.transcripts import TURN, Transcript, bundled, dump, encode, load, parse

pytestmark = pytest.mark.slow

PATIENCE = 120.0
"""Seconds after which a process hangs. Nothing here takes a tenth of that."""

PACKAGE = Path(histstore.__file__).parents[1]
"""Where the package is."""

Demo = Callable[..., "subprocess.Popen[str]"]


def processes(folder: Path) -> list[str]:
    """The command lines of all processes that were told to keep their temporary files in `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """Starts demonstrations; afterwards neither a process nor a file of theirs is there."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONWARNINGS": "error", "COLUMNS": "80"}
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path, stderr: int = subprocess.PIPE, package: Path = PACKAGE) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "histstore.demo", *map(str, arguments)],
            env={**environment, "PYTHONPATH": str(package)},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            process_group=0,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()
    # A supervisor that was killed leaves the rest to the kernel and to the server's keeper, which take a moment.
    end = time.monotonic() + PATIENCE
    while (left := processes(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    assert not list(folder.iterdir())


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits for a demonstration; returns its exit status and what it wrote."""
    out, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in (err or ""), err
    return process.returncode, out, err


def rows(out: str) -> dict[str, tuple[str, str]]:
    """The table's rows: name → value and note."""
    found = {}
    for line in out.splitlines():
        if line.startswith("  "):
            name, value, *note = re.split(r" {2,}", line.strip())
            found[name] = (value, note[0] if note else "")
    return found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three short conversations with an odd number of messages, some of them alike."""
    runs = [
        Transcript(f"run {n}", [{"role": "user", "content": f"{k % 3} ÄÖ🚲"} for k in range(length)])
        for n, length in enumerate((9, 5, 14))
    ]
    path = tmp_path / "small.jsonl"
    path.write_bytes(b"".join(dump(runs)))
    return path


def turns_of(path: Path) -> list[int]:
    """How many turns each of a file's conversations has."""
    return [each.turns for each in load(path)]


def seed_of(sent: bool, workers: int, turns: list[int]) -> int:
    """A seed with which the killed worker's save was sent, or was not."""
    return next(seed for seed in range(1000) if Script.write(seed, workers, turns).kill.sent is sent)


@pytest.mark.long
def test_carried_conversations(demo: Demo) -> None:
    """Without options, each message of the package's conversations is stored once, in order; the table adds up."""
    transcripts = bundled()
    messages = sum(len(each.messages) for each in transcripts)
    turns = sum(each.turns for each in transcripts)
    status, out, err = finish(demo())
    table = rows(out)
    assert status == 0, (out, err)
    assert table["conversations"][0] == str(len(transcripts))
    assert table["messages"] == (f"{messages} of {messages}", "each once, in order")
    assert [table[name][0] for name in ("lost", "doubled", "out of order")] == ["0", "0", "0"]
    assert table["saves"][0] == str(turns)
    assert int(table["conflicts"][0]) >= int(table["retries"][0]) > 0
    assert [table[name][0] for name in ("killed", "frozen", "zombie", "new holder")] == ["1", "1", "1", "1"]
    assert table["frozen"][1].endswith("its stale save refused")
    assert table["zombie"][1].endswith("its save refused, lease lost")
    assert table["new holder"][1].endswith("its turn stands")
    assert 0 < int(table["leased turns"][0]) < turns
    assert "no conflict" in table["leased turns"][1]
    assert "measured" in table["saves alone"][1]
    assert "computed" in table["rewriting"][1]
    assert re.search(r"worker \d+ killed \(SIGKILL\) in turn \d+ of", err)
    assert re.search(r"worker \d+ stopped \(SIGSTOP\) in turn \d+ of .*, before its save", err)
    assert re.search(r"worker 9 stopped \(SIGSTOP\) in turn \d+ of .*, holding the lease", err)
    assert re.search(r"seed \d+", table["conversations"][1])


@pytest.mark.parametrize("sent", [True, pytest.param(False, marks=pytest.mark.long)])
def test_input_from_a_file(demo: Demo, small: Path, sent: bool) -> None:
    """A file's messages are stored exactly once, whether the worker is killed before its save or after sending it."""
    seed = seed_of(sent, 3, turns_of(small))
    status, out, err = finish(demo("--input", small, "--workers", "3", "--seed", str(seed)))
    table = rows(out)
    assert status == 0, (seed, out, err)
    assert table["conversations"] == ("3", f"by 3 worker processes, seed {seed}")
    assert table["messages"] == ("28 of 28", "each once, in order"), seed
    assert table["saves"][0] == "15", seed
    assert ("with its save sent" in table["killed"][1]) is sent, seed
    assert ("before its save" in table["killed"][1]) is not sent, seed


@pytest.mark.parametrize("runs", [1, pytest.param(2, marks=pytest.mark.long)])
def test_one_message_each_on_a_named_server(
    demo: Demo, tmp_path: Path, server_url: str, raw: redis.Redis, runs: int
) -> None:
    """Even a single turn is fought over, the only leased one, too; a server that --url names is left clean."""
    path = tmp_path / "short.jsonl"
    path.write_bytes(b"\n".join(dump([Transcript(f"run {n}", [{"role": "user"}]) for n in range(runs)])))
    status, out, err = finish(demo("--input", path, "--workers", "2", "--url", server_url))
    table = rows(out)
    assert status == 0, (out, err)
    assert table["messages"] == (f"{runs} of {runs}", "each once, in order"), out
    assert [table[name][0] for name in ("saves", "killed", "frozen")] == [str(runs), "1", "1"], out
    assert int(table["conflicts"][0]) >= 1, out
    assert ("zombie" in table) is ("leased turns" in table) is (runs == 2), out
    assert not list(raw.scan_iter(match="histstore-demo-*", count=1000))


@pytest.mark.long
def test_stopping_leaves_a_named_server_clean(demo: Demo, server_url: str, raw: redis.Redis) -> None:
    """Stopped while a zombie holds a lease and rivals wait for it, it leaves neither the lease nor the queue behind."""
    process = demo("--url", server_url)
    end = time.monotonic() + PATIENCE
    while not list(raw.scan_iter(match="histstore-demo-*:queue", count=1000)):
        assert time.monotonic() < end
    process.terminate()
    status, out, err = finish(process)
    assert (status, out) == (128 + signal.SIGTERM, ""), err
    assert not list(raw.scan_iter(match="histstore-demo-*", count=1000))


@pytest.mark.long
def test_zombie_that_no_lease_stops_is_found(demo: Demo, tmp_path: Path, small: Path) -> None:
    """With a save script that does not look at the lease, the demonstration fails, and says why."""
    package = tmp_path / "package"
    for name in ("histstore", "lua"):
        shutil.copytree(PACKAGE / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = package / "lua" / "save.lua"
    source = script.read_text()
    for guard in ("if lease[1] and not (carries and", "if carries and (fence < head_fence or"):
        assert source.count(guard) == 1
        source = source.replace(guard, guard.replace("if ", "if false and "))
    script.write_text(source)
    status, out, _ = finish(demo("--input", small, "--workers", "2", package=package))
    assert status == 1, out
    assert "NOT" in rows(out)["zombie"][1], out
    assert "WRONG: the zombie's save was not refused for the lease that it had lost: conflict" in out


def test_what_does_not_belong_there_is_found(demo: Demo, small: Path, server_url: str, raw: redis.Redis) -> None:
    """A message that somebody else puts into a conversation makes the demonstration fail, and say why."""
    process = demo("--input", small, "--workers", "2", "--seed", "1", "--url", server_url)
    leased = Script.write(1, 2, turns_of(small)).leased  # there it would be refused
    free = next(each.run for n, each in enumerate(load(small)) if n not in leased)
    end = time.monotonic() + PATIENCE
    while not (heads := list(raw.scan_iter(match="histstore-demo-*:head", count=1000))):
        assert time.monotonic() < end
    namespace = heads[0].decode().partition(":")[0]
    with sync.RedisBackend.from_url(server_url, namespace=namespace) as backend:
        backend.store(free).append({"role": "user", "content": "intruder"}, expected=ANY)
    status, out, _ = finish(process)
    assert status == 1, out
    assert rows(out)["foreign"][0] == "1", out
    assert rows(out)["messages"][1] == "NOT each once, in order", out
    assert "WRONG: what is stored is not what was said" in out
    assert re.search(r"WRONG: \d+ saves were acknowledged, and \d+ are stored", out), out


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "worker processes"), (signal.SIGINT, "stopped (SIGSTOP)"), (signal.SIGTERM, "killed (SIGKILL)")],
)
def test_stopping_leaves_nothing(demo: Demo, number: signal.Signals, moment: str) -> None:
    """Ctrl-C, or a polite kill, ends workers, frozen ones too, and the server, without a traceback."""
    process = demo()
    assert process.stderr is not None
    for line in process.stderr:
        if moment in line:
            break
    time.sleep(random.uniform(0, 0.3))  # wherever that is
    process.send_signal(number)
    status, out, err = finish(process)
    assert (status, out) == (128 + number, ""), err
    assert "stopped" in err


def test_killed_supervisor_leaves_nothing(demo: Demo) -> None:
    """When the demonstration itself is killed -9, its workers, the frozen one too, and its server end by themselves."""
    process = demo()
    assert process.stderr is not None
    for line in process.stderr:
        if "stopped (SIGSTOP)" in line:
            break
    process.kill()
    process.wait(timeout=PATIENCE)


def test_terminal_shows_one_changing_line(demo: Demo, small: Path) -> None:
    """On a terminal, progress is one line that is written over, and is gone at the end."""
    leader, follower = os.openpty()
    try:
        process = demo("--input", small, "--workers", "2", stderr=follower)
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says EIO when the other side has closed
            while data := os.read(leader, 4096):
                shown += data
        assert process.wait(timeout=PATIENCE) == 0
    finally:
        os.close(leader)
    assert re.search(rb"\r\x1b\[K +\d+\.\d s  \d+ of 15 turns, conflicts: \d+\r\x1b\[K", shown), shown
    assert shown.endswith(b"\r\x1b[K"), shown


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--input", "missing.jsonl"], "cannot read missing.jsonl: No such file or directory"),
        (["--input", "bad.jsonl"], "bad.jsonl, line 2: "),
        (["--workers", "1"], "a number from 2 to 64"),
        (["--url", "http://localhost"], "the URL's scheme is 'http'"),
        (["--url", "unix:///nowhere/server.sock"], "cannot use the server"),
    ],
)
def test_what_cannot_be_used_is_told(demo: Demo, tmp_path: Path, arguments: list[str], text: str) -> None:
    """Input or a server that cannot be used is a sentence on standard error, and exit status 2."""
    (tmp_path / "bad.jsonl").write_text('{"run": "a", "messages": [{}]}\n{"run": "b"}\n')
    status, out, err = finish(demo(*arguments))
    assert (status, out) == (2, ""), err
    assert text in err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no conversations"),
        ("\n \n", "holds no conversations"),
        ("{", "line 1: "),
        ("[]", "line 1: not"),
        ('{"run": 1, "messages": [{}]}', "line 1: not"),
        ('{"run": "a", "messages": []}', "line 1: not"),
        ('{"run": "a", "messages": "hello"}', "line 1: not"),
        ('{"run": "", "messages": [{}]}', "line 1: a run id is not empty"),
        ('{"run": "a", "messages": ["hello"]}', "each message must be an object"),
        ('{"run": "a", "messages": [{}]}\n{"run": "a", "messages": [{}]}', "line 2: run 'a' stands on an earlier"),
        ('{"run": "a", "messages": [{"content": NaN}]}', "line 1: NaN is no JSON"),
        ('{"run": "a", "messages": [{"content": "\\ud800"}]}', "line 1: run 'a': "),
        ("[" * 100_000, "line 1: nested too deeply"),
    ],
)
def test_bad_lines(text: str, complaint: str) -> None:
    """A line that is no conversation is named, with what is wrong with it."""
    with pytest.raises(UsageError) as caught:
        parse(text, "file")
    assert complaint in str(caught.value)
    assert "file" in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    """A folder, bytes that are no text, and a path that no file can have are told as such."""
    (tmp_path / "latin").write_bytes('{"run": "ä"}'.encode("latin-1"))
    for path, complaint in ((tmp_path, "Is a directory"), (tmp_path / "latin", "not UTF-8"), (Path("\0"), "null")):
        with pytest.raises(UsageError, match=complaint):
            load(path)


# ----------------------------------------------------------------------------------------------------------- its parts


def test_carried_conversations_are_worth_replaying() -> None:
    """The package carries a dozen conversations of 10 to 40 messages with tool calls, each result after its call."""
    transcripts = bundled()
    assert len(transcripts) >= 12
    assert sum(len(encode(message)) for each in transcripts for message in each.messages) < 150_000
    calls = 0
    for each in transcripts:
        assert 10 <= len(each.messages) <= 40, each.run
        open_: set[str] = set()
        for message in each.messages:
            if message["role"] == "tool":
                open_.remove(message["tool_call_id"])
            assert not open_ or message["role"] == "tool", each.run
            found = [call["id"] for call in message.get("tool_calls", [])]
            assert all(
                isinstance(json.loads(call["function"]["arguments"]), dict) for call in message.get("tool_calls", [])
            )
            open_.update(found)
            calls += len(found)
        assert not open_, each.run
    assert calls > 50


def test_transcripts_survive_the_way_to_a_worker() -> None:
    """What a worker is sent is what was read."""
    transcripts = bundled()
    assert parse(b"".join(dump(transcripts)).decode(), "sent") == transcripts


def test_cost_of_rewriting() -> None:
    """Rewriting costs, at each turn, all messages so far."""
    messages: list[dict[str, Any]] = [{"n": n} for n in range(5)]  # {"n":0} is 7 bytes
    assert TURN == 2
    assert Transcript("run", messages).rewriting() == 7 * (2 + 4 + 5)
    assert Transcript("run", messages[:4]).rewriting() == 7 * (2 + 4)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("abcda", Account(5, 5, 5, 0, 0, 0, 0)),
        ("", Account(5, 0, 0, 5, 0, 0, 0)),
        ("abcd", Account(5, 4, 4, 1, 0, 0, 0)),
        ("bcda", Account(5, 4, 0, 1, 0, 0, 0)),
        ("abccda", Account(5, 6, 3, 0, 1, 0, 0)),
        ("abcdaabcda", Account(5, 10, 5, 0, 5, 0, 0)),
        ("acbda", Account(5, 5, 3, 0, 0, 1, 0)),
        ("abxda", Account(5, 5, 4, 1, 0, 0, 1)),
        ("abcdax", Account(5, 6, 5, 0, 0, 0, 1)),
        ("aabcd", Account(5, 5, 1, 0, 0, 1, 0)),
    ],
)
def test_accounts(stored: str, expected: Account) -> None:
    """Of messages, some of them alike, each that is lost, doubled, out of order or foreign is counted as that."""
    found = Account.of(list("abcda"), list(stored))
    assert found == expected
    assert found.perfect is (stored == "abcda")


def test_accounts_tell_alike_values_apart() -> None:
    """A number that became another kind of number is not the same message."""
    for one, other in ((1, True), (1, 1.0), (0.0, -0.0), (None, "null")):
        assert not Account.of([{"n": one}], [{"n": other}]).perfect


def test_all_always_meet_their_fate() -> None:
    """However little there is to do, all come to their place with a turn left to take there, whatever the seed."""
    for seed in range(300):
        for turns in ([1], [2], [3], [1, 1], [11], [1, 3, 1], [4] * 12, [100] * 200):
            script = Script.write(seed, 2 + seed % 7, turns)
            leased = sum(turns[run] for run in script.leased)
            assert len({script.killed, script.frozen, script.zombie}) == 3
            assert {script.killed, script.frozen} <= set(range(1, script.workers + 1))
            before = script.kill.at - (not script.kill.sent) + script.freeze.at - 1
            assert before < sum(turns) - leased, (seed, turns)
            if len(turns) == 1:
                assert (script.zombie, script.doze, script.leased) == (0, None, ())
            else:
                assert script.doze is not None
                assert script.doze.at <= leased, (seed, turns)
                assert len(set(script.leased)) == -(-len(turns) // 10)
            assert set(script.cast) - {script.zombie} == set(range(1, script.workers + 1))
            assert script == Script.write(seed, script.workers, turns)


def test_verdict() -> None:
    """All is right only if the zombie's save was refused for its lost lease, and the new holder's turn is stored."""
    script = Script.write(1, 8, [1, 1])
    good = Story(
        kills=1, freezes=1, stale="conflict", account=Account(4, 4, 4), versions=2, arrived=True,
        zombies=1, heir=2, undead="lost", stands=True, held={script.zombie: Event("holding", 0)},
    )  # fmt: skip
    good.count["saved"] = 1

    def told(**changes: Any) -> list[str]:
        demo = Supervisor(script, bundled(), "", "", lambda _: None, lambda *_: None)
        demo.story = replace(good, **changes)
        found = report.problems(demo)
        assert ("NOT" in report.table(demo)) is bool(found), found
        return found

    assert told() == []
    for undead in ("saved", "conflict", "unavailable", "never", ""):
        (problem,) = told(undead=undead)
        assert undead in problem
    assert told(stands=False) == ["the turn of the zombie's new holder is not what is stored"]
    assert len(told(heir=None, stands=False, zombies=0, undead="")) == 2
    assert len(told(leased=Counter(conflict=1))) == 1
    assert len(told(stale="saved")) == 1
