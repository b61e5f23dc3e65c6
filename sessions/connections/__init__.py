"""Connections: managers and their factory."""

from sessions.connections.base import (
    AsyncBaseConnectionManager,
    BaseConnectionManager,
    ConnectionType,
)
from sessions.connections.factory import ConnectionFactory, register_connection_manager

__all__ = [
    "AsyncBaseConnectionManager",
    "BaseConnectionManager",
    "ConnectionFactory",
    "ConnectionType",
    "register_connection_manager",
]
