"""The options of each built-in backend, for type checkers, which report a misspelt one.

A test compares them with the settings models, which validate them at run time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import SecretStr

from sessions.resilience import RetryConfig

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from sessions.config import SslMode

__all__ = [
    "BuiltInOptions",
    "ChatsOptions",
    "MongoOptions",
    "PostgresOptions",
    "RedisOptions",
    "SqliteOptions",
]

Password = str | SecretStr | Callable[[], str | Awaitable[str]]


class _Keys(TypedDict, total=False):
    retry: RetryConfig | None
    pool_size: int | None
    pool_timeout: float | None
    append_batch_messages: int | None
    append_batch_bytes: int | None


class _PostgresKeys(_Keys, total=False):
    engine: AsyncEngine | None
    host: str | None
    port: int | None
    database: str | None
    username: str | None
    password: Password | None
    max_overflow: int | None
    connect_timeout: float | None
    statement_timeout: float | None
    tcp_keepalive: float | None
    tcp_user_timeout: float | None
    ssl: bool | SslMode | None
    auto_migrate: bool | None
    schema: str | None
    pgbouncer: bool | None


class _MongoKeys(_Keys, total=False):
    client: Any
    host: str | None
    port: int | None
    database: str | None
    username: str | None
    password: Password | None
    auth_source: str | None
    connect_timeout: float | None
    refused_timeout: float | None
    timeout: float | None


class _SqliteKeys(_Keys, total=False):
    engine: AsyncEngine | None
    path: str | PathLike[str] | None
    max_overflow: int | None
    busy_timeout: float | None
    auto_migrate: bool | None


class _RedisKeys(_Keys, total=False):
    client: Any
    host: str | None
    port: int | None
    db: int | None
    username: str | None
    password: Password | None
    cluster: bool | None
    prefix: str | None
    expire_after: float | None
    connect_timeout: float | None
    timeout: float | None
    require_durable: bool | None
    wait_replicas: int | None


class _Database(TypedDict, total=False):
    url: str | None
    connection_manager: Any


class PostgresOptions(_PostgresKeys, _Database, total=False):
    """Options of ``create_repository("postgres", …)``; `PostgresSettings` documents the keys."""


class MongoOptions(_MongoKeys, _Database, total=False):
    """Options of ``create_repository("mongodb", …)``; `MongoSettings` documents the keys."""


class SqliteOptions(_SqliteKeys, _Database, total=False):
    """Options of ``create_repository("sqlite", …)``; `SqliteSettings` documents the keys."""


class RedisOptions(_RedisKeys, _Database, total=False):
    """Options of ``create_repository("redis", …)``; `RedisSettings` documents the keys."""


class ChatsOptions(_PostgresKeys, _MongoKeys, _SqliteKeys, _RedisKeys, total=False):
    """Options of `AsyncChats` and `Chats`: those of all backends."""


class BuiltInOptions(ChatsOptions, _Database, total=False):
    """Options of ``create_repository`` if a type checker cannot infer the backend."""
