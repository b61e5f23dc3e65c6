"""SQLAlchemy's asyncpg dialect, without the questions that the driver's connection can answer itself.

SQLAlchemy asks a server four of them when an engine first connects, before anything of use is sent. What
PostgreSQL announces to every client at login answers all but one: which schema is searched first.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine.interfaces import IsolationLevel

__all__ = ["URL", "AnnouncedSettingsDialect"]

NAME = "postgresql.agenthub_sessions"
URL = NAME.replace(".", "+") + "://"
"""For ``create_async_engine``; what to connect to comes from ``async_creator``."""


class AnnouncedSettingsDialect(PGDialect_asyncpg):
    """Reads the server's version and settings from what it announced at login."""

    # SQLAlchemy takes it from no parent: a dialect that compiles nothing of its own may be cached.
    supports_statement_cache = True

    def _get_server_version_info(self, connection: Connection) -> tuple[int, int]:
        version = _driver_connection(connection).get_server_version()
        return version.major, version.micro  # The driver writes 18.3 as 18.0.3.

    def _set_backslash_escapes(self, connection: Connection) -> None:
        announced = _driver_connection(connection).get_settings()
        self._backslash_escapes = getattr(announced, "standard_conforming_strings", "on") == "off"

    def get_default_isolation_level(self, dbapi_conn: object) -> IsolationLevel:
        """Return what an engine without a level of its own would go back to; ours have one."""
        return "READ COMMITTED"


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection


registry.register(NAME, __name__, AnnouncedSettingsDialect.__name__)
