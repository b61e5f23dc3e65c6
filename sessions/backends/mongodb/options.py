"""Makes a client of the driver from the settings."""

from __future__ import annotations

import contextlib
import math
from importlib.metadata import version
from typing import Any

from pymongo import errors

from sessions.backends.mongodb.url import parse_url
from sessions.config import MongoSettings, PasswordCallable
from sessions.config.passwords import password_for_driver
from sessions.core.failures import shown
from sessions.errors import ConfigurationError

__all__ = ["client_class", "database_of", "new_client", "place_of", "pool_of"]

MAX_IDLE_SECONDS = 60
# Stands for a pool without a limit.
UNLIMITED_POOL = 100


def client_class() -> Any:
    """Return PyMongo's asyncio client, or Motor's where Beanie 1 is installed."""
    if version("beanie").startswith("1."):
        from motor.motor_asyncio import AsyncIOMotorClient  # pyright: ignore[reportMissingImports]

        return AsyncIOMotorClient
    from pymongo import AsyncMongoClient

    return AsyncMongoClient


def new_client(settings: MongoSettings, password: str | None = None) -> Any:
    """Return a client, which is not connected yet.

    Args:
        settings: The settings of MongoDB.
        password: The result of a callable password; the client uses it until it is closed.

    Raises:
        ConfigurationError: A setting or a parameter of the URL is invalid. The text names it, without its
            value.
    """
    options = _options(settings, password)
    try:
        return client_class()(**options)
    except (errors.PyMongoError, ValueError, OSError) as error:
        # Without the cause: the driver may quote the part of the URL that it rejects. Single parameters are
        # checked before.
        raise _refused_together(settings, options, error) from None


def _refused_together(
    settings: MongoSettings, options: dict[str, Any], error: Exception
) -> ConfigurationError:
    """Return which parameters are fine by themselves, and which the driver refuses together."""
    parameters = {} if settings.url is None else parse_url(settings.url.get_secret_value()).options
    pool_size = options.get("maxPoolSize")
    if pool_size and int(parameters.get("minpoolsize", 0)) > pool_size:
        reason = f"the parameter minPoolSize is more than pool_size ({pool_size}); set that, or maxPoolSize"
    else:
        what = "user, password or database"
        if parameters:
            what = f"combination of parameters ({shown(', '.join(sorted(parameters)))}), or its {what}"
        reason = f"the driver refuses this {what} ({type(error).__name__})"
    return ConfigurationError(f"db.mongodb.{'url' if settings.url else 'host'}: {reason}")


def place_of(settings: MongoSettings) -> tuple[tuple[str, ...], str | None]:
    """Return the addresses of the servers in the settings, and the user."""
    if settings.url is None:
        return (f"{settings.host}:{settings.port}",), settings.username
    try:
        url = parse_url(settings.url.get_secret_value())
    except ConfigurationError:
        return (), None
    return url.addresses, url.user


def database_of(settings: MongoSettings) -> str:
    """Return the name of the database in the settings; that of the URL wins."""
    url = None
    if settings.url is not None:
        with contextlib.suppress(ConfigurationError):  # Reported when the client is made.
            url = parse_url(settings.url.get_secret_value())
    return (url and url.database) or settings.database


def pool_of(settings: MongoSettings, client: Any = None) -> tuple[int, float]:
    """Return the size of the pool, and the seconds that an operation waits for a free connection.

    Args:
        settings: The settings of MongoDB.
        client: A service's own client, whose options win.
    """
    size: int | None = settings.pool_size
    timeout: float | None = settings.pool_timeout
    if client is not None:
        options = client.options.pool_options
        size, timeout = options.max_pool_size, options.wait_queue_timeout
    elif settings.url is not None:
        parameters: dict[str, str] = {}
        with contextlib.suppress(ConfigurationError):  # Reported when the client is made.
            parameters = parse_url(settings.url.get_secret_value()).options
        size = int(parameters.get("maxpoolsize") or settings.pool_size)
        if "waitqueuetimeoutms" in parameters:
            timeout = int(parameters["waitqueuetimeoutms"]) / 1000
    # The driver takes 0 for no limit.
    return size or UNLIMITED_POOL, timeout or math.inf


def _options(settings: MongoSettings, password: str | None) -> dict[str, Any]:
    seconds = {
        "serverSelectionTimeoutMS": settings.connect_timeout,
        "connectTimeoutMS": settings.connect_timeout,
        "waitQueueTimeoutMS": settings.pool_timeout,
    }
    options: dict[str, Any] = {name: max(1, int(value * 1000)) for name, value in seconds.items()}
    options |= {"maxPoolSize": settings.pool_size, "appname": "agenthub-sessions"}
    # Shorter than the idle timeout of load balancers, which drop a connection without closing it: a command
    # on it would wait until it times out.
    options |= {"maxIdleTimeMS": MAX_IDLE_SECONDS * 1000}
    # As many as the pool holds: with fewer, and with deadlines, the driver (4.20) may block all further
    # connects after a connection is lost.
    options |= {"maxConnecting": settings.pool_size}
    if settings.url is not None:
        url = settings.url.get_secret_value()
        # Parameters of the URL win; in the driver, arguments would win.
        parsed = parse_url(url)
        options = {name: value for name, value in options.items() if name.lower() not in parsed.options}
        if password is not None:
            options |= {"username": parsed.user, "password": password}
        return {"host": url} | options
    options |= {"host": settings.host, "port": settings.port}
    if settings.username:
        options["username"] = settings.username
        is_callable = isinstance(settings.password, PasswordCallable)
        options["password"] = password if is_callable else password_for_driver(settings.password)
        if settings.auth_source:
            options["authSource"] = settings.auth_source
    return options
