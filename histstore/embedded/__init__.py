"""A local Valkey server that belongs to the processes that use it."""

from .server import EmbeddedServer

__all__ = ["EmbeddedServer"]
