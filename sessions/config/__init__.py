"""Settings of the package and of the built-in backends."""

from sessions.config.files import config_file
from sessions.config.models import (
    BackendSettings,
    CacheSettings,
    DatabaseSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    SessionsSettings,
    SqliteSettings,
    SslMode,
)
from sessions.config.passwords import PasswordCallable
from sessions.config.settings import Settings, load_settings

__all__ = [
    "BackendSettings",
    "CacheSettings",
    "DatabaseSettings",
    "MongoSettings",
    "PasswordCallable",
    "PostgresSettings",
    "RedisSettings",
    "SessionsSettings",
    "Settings",
    "SqliteSettings",
    "SslMode",
    "config_file",
    "load_settings",
]
