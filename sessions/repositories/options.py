"""The options of each built-in backend, for type checkers: a misspelt one is an error there, too.

A test compares them with the settings models, which check them at run time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

from sessions.resilience import RetryConfig

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sessions.config import SslMode

__all__ = ["ChatsOptions", "MongoOptions", "PostgresOptions", "SqliteOptions"]

Password = str | Callable[[], str | Awaitable[str]]


class _Options(TypedDict, total=False):
    url: str | None
    retry: RetryConfig | None
    connection_manager: Any
    pool_size: int | None
    pool_timeout: float | None


class PostgresOptions(_Options, total=False):
    """What ``create_repository("postgres", …)`` takes; see `PostgresSettings`."""

    engine: AsyncEngine | None
    host: str | None
    port: int | None
    database: str | None
    username: str | None
    password: Password | None
    max_overflow: int | None
    connect_timeout: float | None
    statement_timeout: float | None
    ssl: bool | SslMode | None
    auto_migrate: bool | None
    schema: str | None
    pgbouncer: bool | None


class MongoOptions(_Options, total=False):
    """What ``create_repository("mongodb", …)`` takes; see `MongoSettings`."""

    client: Any
    host: str | None
    port: int | None
    database: str | None
    username: str | None
    password: Password | None
    auth_source: str | None
    connect_timeout: float | None
    timeout: float | None


class SqliteOptions(_Options, total=False):
    """What ``create_repository("sqlite", …)`` takes; see `SqliteSettings`."""

    engine: AsyncEngine | None
    path: str | PathLike[str] | None
    max_overflow: int | None
    busy_timeout: float | None
    auto_migrate: bool | None


class ChatsOptions(PostgresOptions, MongoOptions, SqliteOptions, total=False):
    """What `AsyncChats` and `Chats` take: the options of whichever backend it is."""
