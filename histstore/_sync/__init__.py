# Generated from histstore/_async/__init__.py by tools/unasync.py; do not edit.
"""The asyncio shell. tools/unasync.py generates its twin `_sync` from it."""
