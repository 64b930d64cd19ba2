"""Requests and replies: one function builds a call, and one reads its reply. No I/O."""
