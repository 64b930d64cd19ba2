# Generated from histstore/_async/transport/__init__.py by tools/unasync.py; do not edit.
"""Send requests: tries, connections, sockets. A router is another implementation of `transport.Transport`."""
