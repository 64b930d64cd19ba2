"""Sending requests: tries, connections, sockets."""
