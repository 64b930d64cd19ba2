"""The JSON file store where the contract tests do not look: killed writers, other writers, the file itself."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from histstore import ConflictError, ConversationSnapshot, CorruptSnapshotError, UserMessage
from histstore.sync import JsonFileHistoryStore

WRITER = """
import sys
from histstore import ConversationSnapshot, UserMessage
from histstore.sync import JsonFileHistoryStore
store = JsonFileHistoryStore(sys.argv[1])
number = 0
while True:
    number += 1
    store.save(ConversationSnapshot([UserMessage(f"{number} " + "x" * 4_000_000)], meta={"number": number}))
    print(number, flush=True)
"""


def test_kill_9_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """A writer killed at 12 moments: the file is whole, and no older than the last save that returned."""
    path = tmp_path / "conversation.json"
    rng = random.Random(8)
    left_behind = leftovers = 0
    for turn in range(12):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(1, 4)):
                acknowledged = int(writer.stdout.readline())
                leftovers = 0  # a save sweeps what an earlier writer left
            if turn % 2:
                time.sleep(rng.uniform(0, 0.1))  # anywhere
            else:
                end = time.monotonic() + 1
                while len(list(tmp_path.iterdir())) == leftovers + 1 and time.monotonic() < end:
                    pass  # until the next save has begun to write
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        found = JsonFileHistoryStore(path).load()
        assert found is not None, f"turn {turn}"
        number = found.meta["number"]
        assert number in (acknowledged, acknowledged + 1), f"turn {turn}"
        assert found.messages == (UserMessage(f"{number} " + "x" * 4_000_000),), f"turn {turn}"
        leftovers = len(list(tmp_path.iterdir())) - 1
        left_behind += leftovers
    assert left_behind > 0, "no writer was killed in the middle of a save: this proves nothing"
    JsonFileHistoryStore(path).save(ConversationSnapshot(["after"]))
    assert list(tmp_path.iterdir()) == [path], "what killed writers left is swept by the next save"


def test_a_file_that_another_writer_changed_is_not_overwritten(tmp_path: Path) -> None:
    """A store that has seen the file notices; one that has seen nothing overwrites, as the trait says."""
    path = tmp_path / "conversation.json"
    mine, theirs = JsonFileHistoryStore(path), JsonFileHistoryStore(path)
    mine.save(ConversationSnapshot(["a"]))
    loaded = mine.load()
    assert loaded is not None
    theirs.save(ConversationSnapshot(["b"]))
    with pytest.raises(ConflictError):
        mine.save(loaded.append("c"))
    with pytest.raises(ConflictError):
        mine.save(ConversationSnapshot(["d"]))
    assert theirs.load() == ConversationSnapshot(["b"])


def test_the_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    """Replacing it changes neither who may read it nor where a link leads; unchanged content is not written."""
    real = tmp_path / "real.json"
    link = tmp_path / "link.json"
    store = JsonFileHistoryStore(real)
    store.save(ConversationSnapshot(["a"]))
    real.chmod(0o640)
    link.symlink_to(real)
    JsonFileHistoryStore(link).save(ConversationSnapshot(["b"]))
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    before = real.stat().st_ino
    JsonFileHistoryStore(link).save(ConversationSnapshot(["b"]))
    assert real.stat().st_ino == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"version": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_not_a_new_conversation(tmp_path: Path, damage: bytes) -> None:
    """What does not read as a snapshot is an error that names the file."""
    path = tmp_path / "conversation.json"
    path.write_bytes(damage)
    with pytest.raises(CorruptSnapshotError) as caught:
        JsonFileHistoryStore(path).load()
    assert caught.value.run_id == str(path)
    assert path.read_bytes() == damage
