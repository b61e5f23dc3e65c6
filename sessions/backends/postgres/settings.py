"""Resolves the settings of PostgreSQL to connection arguments."""

from __future__ import annotations

import getpass
import math
import os
import random
import socket
from typing import Any

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from sessions.backends.postgres.parameters import PARAMETERS, SERVER_SETTINGS
from sessions.backends.postgres.tls import tls_arguments
from sessions.backends.postgres.url import PostgresUrl, parse_url
from sessions.config import PasswordCallable, PostgresSettings, load_settings
from sessions.config.passwords import password_for_driver
from sessions.core.failures import Place, upgrade_command
from sessions.correlation import logger_of
from sessions.errors import ConfigurationError

__all__ = [
    "connect_arguments",
    "log_ignored",
    "place_of",
    "place_of_engine",
    "resolved_settings",
    "tcp_options",
    "upgrade_command_of",
]

logger = logger_of(__name__)

SCHEME = "postgresql"
NAME = "PostgreSQL"
# Parameters with an argument of `asyncpg.connect`.
ARGUMENTS = ("passfile", "krbsrvname", "gsslib")
# A dropped connection is detected while it is idle, and by a call within a second.
TCP_DEFAULTS = {"keepalives_interval": "2", "keepalives_count": "3"}
# By parameter of libpq; not every system has all of them.
TCP_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}

_logged: set[str] = set()


def resolved_settings(
    url: str | None, engine: AsyncEngine | None, overrides: dict[str, Any]
) -> PostgresSettings:
    """Return the settings: parameters of the URL win over a caller's options, those over the configuration.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """
    settings = load_settings()
    if engine is not None:
        # The configured database is not used, so an unset variable there is not an error.
        return settings.db.postgres.with_overrides(**overrides)
    resolved = settings.backend("postgres", url=url, **overrides)
    if resolved.url is not None:
        return _with_url(resolved)
    if "@" in resolved.host or "://" in resolved.host:
        # Without the value: it probably holds a password.
        raise ConfigurationError("db.postgres.host: is not a host's name; a URL is db.postgres.url")
    return resolved


def _with_url(settings: PostgresSettings) -> PostgresSettings:
    """Return settings with the URL's own, and the URL normalized."""
    assert settings.url is not None
    url = settings.url.get_secret_value()
    said = parse_url(url)
    own = {
        "connect_timeout": said.connect_timeout,
        "statement_timeout": said.statement_timeout,
        "schema": said.parameters.get("schema"),
        "pgbouncer": said.through_pooler,
    }
    # Normalized, so that equivalent URLs share one manager.
    one_spelling = SecretStr(f"{SCHEME}://{url.strip().partition('://')[2]}")
    return settings.with_overrides(**own).model_copy(update={"url": one_spelling})


def _said(settings: PostgresSettings) -> PostgresUrl:
    """Return the parsed URL, or one made from its parts in the settings."""
    if settings.url is not None:
        return parse_url(settings.url.get_secret_value())
    return PostgresUrl(
        hosts=(settings.host,),
        ports=(settings.port,),
        user=settings.username,
        database=settings.database,
    )


def connect_arguments(settings: PostgresSettings) -> dict[str, Any]:
    """Return the arguments of ``asyncpg.connect``.

    Called for each connection, so that replaced certificate files are read again.

    Returns:
        The arguments; ``host`` and ``port``, if present, are lists of the same length.

    Raises:
        ConfigurationError: A file cannot be read; the text names the parameter and the file.
    """
    said = _said(settings)
    parameters = said.parameters
    asked_for = settings.url is None or isinstance(settings.password, PasswordCallable)
    arguments: dict[str, Any] = {
        "timeout": settings.connect_timeout,
        "user": said.user,
        "password": password_for_driver(settings.password) if asked_for else said.password,
        "database": said.database,
        "server_settings": _server_settings(settings, said),
    }
    hosts, ports, names = _reached_by(said)
    if hosts:
        arguments |= {"host": hosts, "port": ports}
    elif ports[0] is not None:
        arguments["port"] = ports[0]
    mode = settings.ssl if settings.ssl is not None else parameters.get("sslmode")
    arguments |= tls_arguments(mode, parameters, names)
    arguments |= {name: parameters[name] for name in ARGUMENTS if name in parameters}
    if (wanted := parameters.get("target_session_attrs")) is not None:
        arguments["target_session_attrs"] = wanted
    if settings.pgbouncer:
        arguments["statement_cache_size"] = 0
    elif (size := parameters.get("prepared_statement_cache_size")) is not None:
        arguments["statement_cache_size"] = int(size)
    return arguments


def tcp_options(settings: PostgresSettings) -> list[tuple[int, int, int]]:
    """Return the socket options of a connection: level, option and value, for ``setsockopt``.

    Parameters of the URL win over the settings; 0 keeps the default of the system, as in libpq.
    """
    own = {
        "keepalives": str(int(settings.tcp_keepalive > 0)),
        "keepalives_idle": str(math.ceil(settings.tcp_keepalive)),
        "tcp_user_timeout": str(math.ceil(settings.tcp_user_timeout * 1000)),
    }
    parameters = {**TCP_DEFAULTS, **own, **_said(settings).parameters}
    keepalives = int(parameters["keepalives"])
    found = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, keepalives)]
    for name, option in TCP_OPTIONS.items():
        value = int(parameters[name]) if keepalives or not name.startswith("keepalives") else 0
        if value > 0 and (number := getattr(socket, option, None)) is not None:
            found.append((socket.IPPROTO_TCP, number, value))
    return found


def _server_settings(settings: PostgresSettings, said: PostgresUrl) -> dict[str, str]:
    parameters = said.parameters
    names = ("options", *SERVER_SETTINGS.split())
    found = {name: parameters[name] for name in names if name in parameters}
    name = parameters.get("application_name") or os.environ.get("PGAPPNAME")
    if name := name or parameters.get("fallback_application_name"):
        found["application_name"] = name
    if not settings.pgbouncer:
        # Not through a pooler, which rejects it; there only the wait for the response is limited.
        found["statement_timeout"] = str(max(1, math.ceil(settings.statement_timeout * 1000)))
    return found


def _reached_by(said: PostgresUrl) -> tuple[list[str], list[int | None], dict[str, str]]:
    """Return the hosts to connect to in turn, their ports, and the names of those that are addresses."""
    hosts = list(said.hosts)
    names: dict[str, str] = {}
    if (listed := said.parameters.get("hostaddr")) is not None:
        addresses = listed.split(",")
        names = dict(zip(addresses, hosts, strict=False))
        hosts = addresses
    default = _default_port() if hosts else None
    ports = [port or default for port in said.ports]
    ports = ports * len(hosts) if len(ports) == 1 and hosts else ports
    if said.parameters.get("load_balance_hosts") == "random" and len(hosts) > 1:
        order = random.sample(range(len(hosts)), len(hosts))
        hosts, ports = [hosts[index] for index in order], [ports[index] for index in order]
    return hosts, ports, names


def _default_port() -> int:
    text = os.environ.get("PGPORT") or "5432"
    if not text.isdecimal():
        raise ConfigurationError("PGPORT: must be a number")
    return int(text)


def place_of(settings: PostgresSettings) -> Place:
    """Return the addresses, database and user of the settings, for the text of an error."""
    said = _said(settings)
    hosts = said.hosts
    ports = said.ports if len(said.ports) == len(hosts) else said.ports * len(hosts)
    addresses = tuple(
        _address(host, port)
        for host, port in zip(hosts, (port or _default_port() for port in ports), strict=True)
    )
    user = said.user or os.environ.get("PGUSER") or _login()
    database = said.database or os.environ.get("PGDATABASE") or user
    return Place(NAME, addresses or (os.environ.get("PGHOST") or "localhost",), database, user)


def _address(host: str, port: int) -> str:
    if host.startswith("/"):
        return f"{host}/.s.PGSQL.{port}"  # The socket file of PostgreSQL.
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def place_of_engine(engine: AsyncEngine) -> Place:
    """Return the address, database and user in the URL of a service's own engine."""
    url = engine.url
    addresses = (f"{url.host}:{url.port or 5432}",) if url.host else ()
    return Place(NAME, addresses, url.database, url.username)


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # A user id without a name; the class depends on the version.
        return None


def upgrade_command_of(settings: PostgresSettings, engine: AsyncEngine | None, *, given: bool) -> str:
    """Return the command that upgrades the schema of a database.

    Args:
        settings: Resolved settings.
        engine: A service's own engine, or None.
        given: Whether a caller, not the configuration, chose the database.
    """
    if engine is not None:
        url = engine.url.render_as_string(hide_password=True) if engine.url.host else "postgresql://…"
        return upgrade_command("postgres", url=url)
    if not given:
        return upgrade_command("postgres")
    if settings.url is not None:
        return upgrade_command("postgres", url=settings.url.get_secret_value())
    # The password is masked in any case.
    host = f"[{settings.host}]" if ":" in settings.host else settings.host.replace("/", "%2F")
    secret = ":-" if settings.password else ""
    return upgrade_command(
        "postgres",
        url=f"{SCHEME}://{settings.username}{secret}@{host}:{settings.port}/{settings.database}",
    )


def log_ignored(settings: PostgresSettings) -> None:
    """Log, once in a process for each of them, that a parameter of the URL has no effect."""
    for name in _said(settings).ignored:
        if name not in _logged:
            _logged.add(name)
            logger.warning(
                "db.postgres.url: %s has no effect: %s", name, PARAMETERS[name].note.replace("`", "")
            )
