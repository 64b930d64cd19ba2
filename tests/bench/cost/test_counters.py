"""What counts counts right: known work, known bytes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from ...support.servers import Server
from . import instructions, wire


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed; `make costs` demands it")
def test_the_same_work_is_the_same_number_of_instructions(tmp_path: Path) -> None:
    """Equal work counts equal to half a percent, whatever the interpreter does now and then; 2 % more is seen."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os\n"
        "def work(times):\n"
        "    for _ in range(times): str(1234)\n"
        "for _ in range(20): work(50)\n"  # Python specialises what it runs often
        "os.getppid()\n"  # the loader looks up what it calls
        "for times in (5000, 5000, 5100, 10000):\n"
        "    os.getppid(); work(times)\n"
        "os.getppid()\n"
    )
    _, _, once, again, more, twice = instructions.profile([sys.executable, str(program)])
    assert again == pytest.approx(once, rel=0.005)
    assert more == pytest.approx(1.02 * once, rel=0.005)
    assert twice == pytest.approx(2 * once, rel=0.005)


def test_a_file_that_counts_something_else_is_refused() -> None:
    """The total is that of instructions, or there is none."""
    assert instructions.read_total("events: Ir\nfn=(1)\n1 5\ntotals: 5\n") == 5
    for dump in ("events: Ir Dr\ntotals: 5 6\n", "events: Ge\ntotals: 5\n", "events: Ir\nfn=(1)\n1 5\n", ""):
        with pytest.raises(AssertionError, match="no total"):
            instructions.read_total(dump)


def test_instructions_are_told_in_their_shell_s_yardstick() -> None:
    counts = {("sync", "save", 10): 600.0, ("sync", "yardstick", 0): 100.0}
    counts |= {("async", "save", 10): 900.0, ("async", "yardstick", 0): 300.0}
    told = instructions.in_yardsticks(counts)
    assert (told["sync", "save", 10], told["async", "save", 10]) == (6.0, 3.0)
    assert (told["sync", "yardstick", 0], told["async", "yardstick", 0]) == (100.0, 300.0)


def test_valgrind_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is an error that names the package, and never a count that is left out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(instructions.MissingError, match="apt-get install valgrind"):
        instructions.profile([sys.executable, "-c", ""])


def test_the_relay_counts_what_goes_through_it(private_server: Callable[..., Server]) -> None:
    """Bytes as they are; a pipeline is one round trip, also where TCP carries it in pieces."""
    with wire.relay(private_server().url) as relay:
        client = redis.Redis.from_url(relay.url, single_connection_client=True, protocol=2)
        client.ping()
        relay.reset()
        client.set("key", "value")
        assert bytes(relay.sent) == b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"
        assert (bytes(relay.received), relay.trips) == (b"+OK\r\n", 1)
        relay.reset()
        connection = client.connection
        assert connection is not None
        for part in (b"*1\r\n$4\r\nPI", b"NG\r\n*1\r\n$4\r\nPING\r\n"):
            connection._sock.sendall(part)
            time.sleep(0.05)  # so that it arrives in pieces; if it does not, there is less to count wrong
        assert [connection.read_response(), connection.read_response()] == [b"PONG", b"PONG"]
        assert relay.trips <= 2
        client.get("key")
        client.get("key")
        trips = relay.trips
        client.get("key")
        assert relay.trips == trips + 1
        client.close()


def test_commands_inside_scripts_are_counted(private_server: Callable[..., Server]) -> None:
    """Each by itself; looking on is not counted."""
    with private_server().client() as raw:
        before = wire.calls(raw)
        raw.eval("redis.call('SET', KEYS[1], 1) redis.call('INCR', KEYS[1]) redis.call('INCR', KEYS[1])", 1, "key")
        assert dict(wire.calls(raw) - before) == {"eval": 1, "set": 1, "incr": 2}


def test_the_length_of_a_host_s_name_does_not_count() -> None:
    """Holders are named after host and process, which are longer on one machine than on the next."""
    said = b"*2 %b *3 %b"
    short, long = b"vm:77:abcdef", b"a-host-with-a-longer-name:4194303:abcdef"
    assert len(said % (short, short)) != len(said % (long, long))
    assert wire.without_places(said % (short, short), short.decode()) == wire.without_places(
        said % (long, long), long.decode()
    )
    assert wire.without_places(b"12345", "") == 5
