# Generated from histstore/_async/__init__.py by tools/unasync.py; do not edit.
"""The asyncio shell. Its twin `_sync` is generated from it by tools/unasync.py, but for what stands in tools/unasync.py, HANDWRITTEN."""
