# Generated from histstore/_async/compat/__init__.py by tools/unasync.py; do not edit.
"""What differs between the two shells; written by hand in both."""
