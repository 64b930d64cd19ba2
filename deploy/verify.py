"""Load every run of a server, and print a line for each: its revision, its number of messages, and its id.

    python verify.py URL [NAMESPACE] > before.txt

A load proves the whole run: each entry's hash, and that it follows the entry before it. A revision contains the hash of
the newest entry. So if a backup was restored and the lines are the same as before, every run is the same.

Exits with 1 if a run is damaged. Expired runs and runs in their first turn are not listed.
"""

from __future__ import annotations

import asyncio
import sys

from histstore import CorruptSnapshotError, RedisBackend


async def verify(url: str, namespace: str) -> int:
    """Print the runs in the order of their ids, and return the exit code."""
    damaged: list[str] = []
    sound: list[str] = []
    async with RedisBackend.from_url(url, namespace=namespace) as backend:
        try:
            async for info in backend.runs():
                sound.append(info.run_id)
        except CorruptSnapshotError as error:  # raised last, for all runs whose head is damaged
            damaged += [str(error), *getattr(error, "__notes__", ())]
        for run_id in sorted(sound):
            try:
                snapshot = await backend.store(run_id).load()
            except CorruptSnapshotError as error:
                damaged.append(str(error))
            else:
                if snapshot is not None:
                    print(snapshot.revision, len(snapshot.messages), run_id)
    print(*damaged, sep="\n", end="\n" if damaged else "", file=sys.stderr)
    return 1 if damaged else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(verify(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "histstore")))
