"""What PostgreSQL's settings come to: where to connect, and how."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qsl

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from sessions.config import PasswordCallable, PostgresSettings, load_settings
from sessions.config.passwords import password_for_driver
from sessions.errors import ConfigurationError

__all__ = ["connect_arguments", "resolved_settings"]

# Of a URL; the first is the one that asyncpg takes.
SCHEMES = ("postgresql", "postgresql+asyncpg", "postgres")


def resolved_settings(
    url: str | None, engine: AsyncEngine | None, overrides: dict[str, Any]
) -> PostgresSettings:
    """Return the configured settings with a caller's over them.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """
    settings = load_settings()
    if engine is not None:
        # The configured database is not meant, so a variable that is unset there is no error.
        return settings.db.postgres.with_overrides(**overrides)
    resolved = settings.backend("postgres", url=url, **overrides)
    scheme, separator, rest = (
        resolved.url.get_secret_value().partition("://") if resolved.url else ("", "", "")
    )
    if separator and scheme in SCHEMES[1:]:
        # One spelling, so that all of them share one manager.
        resolved = resolved.model_copy(update={"url": SecretStr(f"{SCHEMES[0]}://{rest}")})
    return resolved


def connect_arguments(settings: PostgresSettings) -> dict[str, Any]:
    """Return what ``asyncpg.connect`` is given.

    Raises:
        ConfigurationError: The URL is not one of PostgreSQL.
    """
    arguments: dict[str, Any] = {"timeout": settings.connect_timeout}
    url = settings.url.get_secret_value() if settings.url else ""
    if settings.pgbouncer:
        arguments["statement_cache_size"] = 0
    elif "statement_timeout" not in dict(parse_qsl(url.partition("?")[2])):
        # Not through pgbouncer, which refuses what it cannot keep apart; there only silence is bounded.
        milliseconds = max(1, math.ceil(settings.statement_timeout * 1000))
        arguments["server_settings"] = {"statement_timeout": str(milliseconds)}
    if settings.ssl is not None:
        arguments["ssl"] = settings.ssl
    if settings.url is None:
        return arguments | {
            "host": settings.host,
            "port": settings.port,
            "database": settings.database,
            "user": settings.username,
            "password": password_for_driver(settings.password),
        }
    if not url.startswith(f"{SCHEMES[0]}://"):
        # The URL itself is not shown: it holds the password.
        raise ConfigurationError("db.postgres.url: must start with postgresql:// or postgresql+asyncpg://")
    if isinstance(settings.password, PasswordCallable):
        arguments["password"] = settings.password
    return arguments | {"dsn": url}
