"""Requests and replies: one function to build a call, one to read its reply. No I/O."""
