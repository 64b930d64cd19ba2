"""The asyncio shell. tools/unasync.py generates its twin `_sync` from it."""
