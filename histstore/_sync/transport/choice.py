# Generated from histstore/_async/transport/choice.py by tools/unasync.py; do not edit.
"""Which transport a backend uses."""

from __future__ import annotations

from ...wire.settings import ConnectionSettings
from .cluster import ClusterTransport
from .sentinel import PrimaryOfSentinels
from .single_server import SingleServer


def make_transport(settings: ConnectionSettings, *, durable: bool) -> ClusterTransport | SingleServer:
    """Make the transport for the servers that the settings name."""
    if settings.seeds:
        return ClusterTransport(settings, durable=durable)
    if settings.sentinels is not None:
        return PrimaryOfSentinels(settings, durable=durable)
    return SingleServer(settings, durable=durable)
