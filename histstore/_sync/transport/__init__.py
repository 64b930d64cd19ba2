# Generated from histstore/_async/transport/__init__.py by tools/unasync.py; do not edit.
"""Sending requests: tries, connections, sockets."""
