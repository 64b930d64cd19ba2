# Generated from histstore/_async/leases/__init__.py by tools/unasync.py; do not edit.
"""Leases: taking, renewing, losing and releasing them."""
