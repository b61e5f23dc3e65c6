"""Makes a pool of redis-py from the settings."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import parse_url
from redis.credentials import CredentialProvider

from sessions.config import PasswordCallable, RedisSettings
from sessions.config.passwords import password_for_driver
from sessions.core.failures import shown
from sessions.errors import ConfigurationError

__all__ = ["new_pool", "place_of"]

KEY = "db.redis.url"
SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
ESCAPE_HINT = "percent-encode the user name and password"
# Parameters of a URL; everything else would reach a constructor of the driver.
PARAMETERS = {
    *("db", "client_name", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
}


class _Credentials(CredentialProvider):
    """Asks a callable password for each new connection."""

    def __init__(self, username: str | None, password: PasswordCallable) -> None:
        self._username = username
        self._password = password

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        raise NotImplementedError("only the asyncio client is used")

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        password = await self._password()
        return (self._username, password) if self._username else (password,)


def new_pool(settings: RedisSettings) -> ConnectionPool:
    """Return a pool, which has no connection yet.

    Raises:
        ConfigurationError: The URL is invalid. The text names the part or the parameter, and no value.
    """
    options = _options(settings)
    if isinstance(settings.password, PasswordCallable):
        options.pop("password", None)
        options["credential_provider"] = _Credentials(options.pop("username", None), settings.password)
    return ConnectionPool(
        max_connections=settings.pool_size,
        socket_connect_timeout=settings.connect_timeout,
        # An attempt has its own time limit.
        socket_timeout=None,
        socket_keepalive=True,
        protocol=2,
        **options,
    )


def place_of(settings: RedisSettings) -> tuple[str, str, str | None]:
    """Return the address, the number of the database and the user of the settings."""
    try:
        options = _options(settings)
    except ConfigurationError:
        return "", "", None
    address = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return address, str(options.get("db", 0)), options.get("username")


def _options(settings: RedisSettings) -> dict[str, Any]:
    if settings.url is not None:
        return _parse(settings.url.get_secret_value())
    options: dict[str, Any] = {"host": settings.host, "port": settings.port, "db": settings.db}
    if settings.username:
        options["username"] = settings.username
    if settings.password is not None and not isinstance(settings.password, PasswordCallable):
        options["password"] = password_for_driver(settings.password)
    return options


def _parse(url: str) -> dict[str, Any]:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigurationError(f"{KEY}: must start with redis://, rediss://, valkey:// or unix://")
    driver_scheme = SCHEMES[scheme.lower()]
    try:
        parts = urlsplit(f"{driver_scheme}://{rest}")
        _ = parts.port
        options: dict[str, Any] = dict(parse_url(f"{driver_scheme}://{rest}"))
    except ValueError:
        # Without the cause, which may quote the password.
        raise ConfigurationError(f"{KEY}: is not a URL of a server; {ESCAPE_HINT}") from None
    if parts.fragment or re.search(r"[@/?#]|%(?![0-9A-Fa-f]{2})", parts.password or ""):
        raise ConfigurationError(f"{KEY}: {ESCAPE_HINT}")
    for name in (parameter.partition("=")[0] for parameter in parts.query.split("&") if parameter):
        if unquote(name) not in PARAMETERS | ({"password"} if driver_scheme == "unix" else set()):
            raise ConfigurationError(f"{KEY}: the parameter {shown(name)} is unknown")
    if driver_scheme != "unix":
        database = unquote(parts.path).strip("/")
        if database and not re.fullmatch(r"\d{1,9}", database):
            raise ConfigurationError(f"{KEY}: the path must be the number of a database")
    elif "path" not in options:
        raise ConfigurationError(f"{KEY}: needs the path of the server's socket")
    return options
