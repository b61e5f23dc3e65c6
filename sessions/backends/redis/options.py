"""Makes pools of redis-py from the settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.credentials import CredentialProvider

from sessions.config import PasswordCallable, RedisSettings
from sessions.config.passwords import password_for_driver
from sessions.core.failures import shown
from sessions.errors import ConfigurationError

__all__ = ["Servers", "new_pool", "place_of", "servers_of"]

KEY = "db.redis.url"
SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
KINDS = ("", "cluster", "sentinel")
# For a sentinel to name the primary; then another one is asked.
SENTINEL_SECONDS = 1.0
ESCAPE_HINT = "percent-encode the user name and password"
# Parameters of a URL; everything else would reach a constructor of the driver.
PARAMETERS = {
    *("db", "client_name", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
}
# Of the sentinels themselves, which may ask for another password than the server.
OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


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


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of the settings.

    Attributes:
        hosts: Host and port of the server, of nodes of a cluster, or of sentinels; none of a socket.
        options: Of a connection to the server, or to each node.
        is_cluster: Whether it is a cluster.
        service: The name under which sentinels know the server; None without them.
        of_sentinels: Of a connection to a sentinel.
        remap: Returns the address at which a node of a cluster is reached.
    """

    hosts: tuple[tuple[str, int], ...]
    options: dict[str, Any]
    is_cluster: bool = False
    service: str | None = None
    of_sentinels: dict[str, Any] = field(default_factory=dict)
    remap: Callable[[str, int], tuple[str, int]] | None = None


def new_pool(
    settings: RedisSettings, servers: Servers, host: tuple[str, int] | None = None
) -> ConnectionPool:
    """Return a pool, which has no connection yet.

    Args:
        settings: For the time limits, the size, and a callable password.
        servers: From `servers_of`.
        host: The node of a cluster.
    """
    options = dict(servers.options)
    if host is not None:
        options["host"], options["port"] = host if servers.remap is None else servers.remap(*host)
    if isinstance(settings.password, PasswordCallable) and "credential_provider" not in options:
        options.pop("password", None)
        options["credential_provider"] = _Credentials(options.pop("username", None), settings.password)
    options |= {
        "max_connections": settings.pool_size,
        "socket_connect_timeout": settings.connect_timeout,
        # An attempt has its own time limit.
        "socket_timeout": None,
        "protocol": 2,
        "decode_responses": True,
    }
    if servers.hosts:
        options["socket_keepalive"] = True
    if servers.service is None:
        return ConnectionPool(**options)
    seconds = min(settings.connect_timeout, SENTINEL_SECONDS)
    timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    of_sentinels = {**servers.of_sentinels, **timeouts, "protocol": 2}
    sentinel = Sentinel(servers.hosts, sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]
    is_tls = options.pop("connection_class", None) is SSLConnection
    return _SentinelPool(  # type: ignore[no-untyped-call]
        servers.service, sentinel, ssl=is_tls, **options
    )


class _SentinelPool(SentinelConnectionPool):
    """Connections to the primary that sentinels name."""

    async def aclose(self) -> None:
        await super().aclose()
        for client in self.sentinel_manager.sentinels:
            await client.aclose()


def place_of(settings: RedisSettings) -> tuple[str, str, str | None]:
    """Return the address, the number of the database and the user of the settings."""
    try:
        servers = servers_of(settings)
    except ConfigurationError:
        return "", "", None
    options = servers.options
    hosts = ",".join(f"{host}:{port}" for host, port in servers.hosts)
    address = options.get("path") or (f"{servers.service} of {hosts}" if servers.service else hosts)
    return address, str(options.get("db", 0)), options.get("username")


def servers_of(settings: RedisSettings) -> Servers:
    """Return the servers of the settings.

    Raises:
        ConfigurationError: The URL is invalid. The text names the part or the parameter, and no value.
    """
    if settings.url is not None:
        servers = _parse(settings.url.get_secret_value())
        key = KEY
    else:
        options: dict[str, Any] = {"db": settings.db}
        if settings.username:
            options["username"] = settings.username
        if settings.password is not None and not isinstance(settings.password, PasswordCallable):
            options["password"] = password_for_driver(settings.password)
        options |= {"host": settings.host, "port": settings.port}
        servers = Servers(((settings.host, settings.port),), options)
        key = "db.redis.db"
    if settings.cluster:
        if servers.service is not None or not servers.hosts:
            raise ConfigurationError("db.redis.cluster: needs the hosts of nodes, not a socket or sentinels")
        servers = replace(servers, is_cluster=True)
    if servers.is_cluster and servers.options.get("db", 0) != 0:
        raise ConfigurationError(f"{key}: a cluster has only the database 0")
    return servers


def _parse(url: str) -> Servers:
    scheme, separator, rest = url.partition("://")
    base, _, kind = scheme.lower().partition("+")
    if not separator or base not in SCHEMES or kind not in KINDS or (kind and base == "unix"):
        raise ConfigurationError(
            f"{KEY}: must start with redis://, rediss://, valkey:// or unix://, or redis+cluster:// or "
            "redis+sentinel://"
        )
    driver_scheme = SCHEMES[base]
    netloc, slash, path = rest.partition("/")
    user, at, hosts = netloc.rpartition("@")
    first, *others = hosts.split(",") if kind else [hosts]
    service = None
    if kind == "sentinel":
        service, _, path = path.partition("?")[0].partition("/")
        query = rest.partition("?")[2]
        path = f"{path}?{query}"
        slash = "/"
        service = unquote(service)
    one = f"{driver_scheme}://{user}{at}{first}{slash}{path}"
    try:
        parts = urlsplit(one)
        default = 26379 if kind == "sentinel" else 6379
        addresses = [
            (urlsplit(f"//{host}").hostname, urlsplit(f"//{host}").port) for host in (first, *others)
        ]
        options: dict[str, Any] = dict(parse_url(one))
    except ValueError:
        # Without the cause, which may quote the password.
        raise ConfigurationError(f"{KEY}: is not a URL of a server; {ESCAPE_HINT}") from None
    if parts.fragment or re.search(r"[@/?#]|%(?![0-9A-Fa-f]{2})", parts.password or ""):
        raise ConfigurationError(f"{KEY}: {ESCAPE_HINT}")
    known = PARAMETERS | ({"password"} if driver_scheme == "unix" else set())
    known |= OF_SENTINELS.keys() if kind == "sentinel" else set()
    for name in (parameter.partition("=")[0] for parameter in parts.query.split("&") if parameter):
        if unquote(name) not in known:
            raise ConfigurationError(f"{KEY}: the parameter {shown(name)} is unknown")
    of_sentinels = {
        option: options.pop(name) for name, option in OF_SENTINELS.items() if kind and name in options
    }
    if driver_scheme == "unix":
        if "path" not in options:
            raise ConfigurationError(f"{KEY}: needs the path of the server's socket")
        return Servers((), options)
    database = unquote(parts.path).strip("/")
    if database and not re.fullmatch(r"\d{1,9}", database):
        raise ConfigurationError(f"{KEY}: the path must be the number of a database")
    if service == "":
        raise ConfigurationError(f"{KEY}: needs the name of the primary after the sentinels: /mymaster")
    found = tuple((host or "localhost", port or default) for host, port in addresses)
    if kind == "sentinel":
        options.pop("host", None)
        options.pop("port", None)
        return Servers(found, options, service=service, of_sentinels=of_sentinels)
    return Servers(found, options, is_cluster=kind == "cluster")
