"""Opens a connection to PostgreSQL, and checks that it is usable."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from sessions.backends.postgres.internals import socket_of
from sessions.backends.postgres.settings import connect_arguments, log_ignored, place_of, tcp_options
from sessions.config import PasswordCallable, PostgresSettings
from sessions.core.failures import Place, shown, without_values
from sessions.errors import ConfigurationError
from sessions.resilience import time_left

__all__ = ["PostgresConnector", "check_encoding", "pooler_error"]

# SQLSTATE classes for a rejected startup parameter: its value, its name, the privilege to set it.
SETTING_REFUSED = ("22", "42", "55")
# Seconds between two looks at a server that works on something long.
WATCH_SECONDS = 5.0


class PostgresConnector:
    """Opens the connections of one database.

    Args:
        settings: Resolved settings.

    Attributes:
        place: The database, as error texts name it.
    """

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self.place = place_of(settings)
        # Whether a server, or a pooler before it, has ever accepted the startup parameters.
        self._was_let_in = False
        log_ignored(settings)

    async def __call__(self, **options: Any) -> asyncpg.Connection:
        """Return a new connection.

        Args:
            **options: Options of ``asyncpg.connect``; they override those from the settings.

        Raises:
            ConfigurationError: The driver or the server rejects a setting.
            OSError: The server cannot be reached.
            asyncpg.PostgresError: The server refuses the connection.
        """
        arguments = connect_arguments(self._settings) | options
        arguments["timeout"] = time_left(arguments["timeout"])
        if isinstance(password := arguments["password"], PasswordCallable):
            # Not called by the driver: an error in the callable is not a driver error.
            async with asyncio.timeout(arguments["timeout"]):
                arguments["password"] = await password()
        try:
            connection = await _connect_in_turn(arguments)
        except ssl.SSLError:
            raise  # SSLCertVerificationError is also a ValueError.
        except asyncpg.PostgresError as error:
            failure = None if self._was_let_in else await self._refused_setting(error, arguments)
            if failure is None:
                raise
            raise failure from without_values(error)
        except (ValueError, OverflowError) as error:
            problem = type(error).__name__
        else:
            self._was_let_in = True
            try:
                check_encoding(connection, self.place)
                set_tcp_options(connection, self._settings)
            except BaseException:
                connection.terminate()
                raise
            return connection
        # Without cause: asyncpg quotes the rejected part of the settings, which may be from the password.
        raise ConfigurationError(f"{self._key}: is not valid ({problem})")

    async def _refused_setting(
        self, error: asyncpg.PostgresError, arguments: dict[str, Any]
    ) -> ConfigurationError | None:
        """Return the error for a rejected startup parameter, or None.

        No conversation is sent on connecting, so the server's message may be shown.
        """
        sqlstate, said = error.sqlstate or "", shown(str(error.args[0]))
        is_pooler = isinstance(error, asyncpg.ProtocolViolationError)
        if is_pooler and not self._settings.pgbouncer:
            # A pooler's error for a startup parameter that it does not track.
            return pooler_error(self.place, sqlstate, said)
        names = [name for name in arguments["server_settings"] if name != "statement_timeout"]
        if not names or not (is_pooler or sqlstate.startswith(SETTING_REFUSED)):
            return None
        # A pooler reports the same if it cannot reach the server, so connect without the parameters.
        bare = arguments | {"server_settings": {}, "timeout": time_left(self._settings.connect_timeout)}
        try:
            connection = await _connect_in_turn(bare)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
        connection.terminate()
        return self.place.refused(
            self._key, f"{', '.join(names)}: is refused on connecting: {said} (SQLSTATE {sqlstate})"
        )

    @contextlib.asynccontextmanager
    async def while_it_answers(self) -> AsyncIterator[None]:
        """Run the body without a time limit, but cancel it if the server accepts no new connection.

        For a migration: that nothing comes from the server for an hour may mean an index of that size.

        Raises:
            TimeoutError: A new connection takes longer than ``connect_timeout``.
        """
        bound = asyncio.timeout(None)

        async def watch() -> None:
            while True:
                await asyncio.sleep(WATCH_SECONDS)
                try:
                    (await self()).terminate()
                except TimeoutError:
                    bound.reschedule(asyncio.get_running_loop().time())
                    return
                except Exception:
                    continue

        async with bound:
            # In a context of its own, where no call's `max_elapsed` is running out.
            watching = asyncio.get_running_loop().create_task(watch(), context=contextvars.Context())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    @property
    def _key(self) -> str:
        return "db.postgres.url" if self._settings.url is not None else "db.postgres"


async def _connect_in_turn(arguments: dict[str, Any]) -> asyncpg.Connection:
    """Connect to the first suitable host; each attempt gets an equal share of the remaining time."""
    arguments = dict(arguments)
    hosts, ports = arguments.get("host", []), arguments.get("port", [])
    if len(hosts) < 2:
        return await asyncpg.connect(**arguments)
    wanted = arguments.pop("target_session_attrs", os.environ.get("PGTARGETSESSIONATTRS", "any"))
    # The driver would connect to all hosts and choose one; here it connects to one at a time.
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    attempts = [
        (host, port, attribute) for attribute in rounds for host, port in zip(hosts, ports, strict=True)
    ]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + arguments.pop("timeout")
    last: BaseException | None = None
    for number, (host, port, attribute) in enumerate(attempts):
        share = max(0.0, deadline - loop.time()) / (len(attempts) - number)
        place = {"host": host, "port": port, "target_session_attrs": attribute}
        try:
            return await asyncpg.connect(**arguments | place, timeout=share)
        # The errors after which the driver continues with the next host.
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched) as error:
            last = error
    assert last is not None
    raise last


def pooler_error(place: Place, sqlstate: str, reason: str = "") -> ConfigurationError:
    """Return the error for a pooler in transaction mode that is not configured as one."""
    said = f": {reason}" if reason else ""
    return place.refused(
        "db.postgres.pgbouncer",
        f"it is reached through a connection pooler in transaction mode (SQLSTATE {sqlstate}{said}); set "
        "POSTGRES_PGBOUNCER=true, pgbouncer=True, or ?pgbouncer=true in the URL; an engine of your own also "
        "needs what SQLAlchemy's page on asyncpg says of PGBouncer",
    )


def check_encoding(connection: Any, place: Place) -> None:
    """Reject a database that cannot store all of Unicode.

    Args:
        connection: Connection of asyncpg, which has the server's parameters.
        place: The database.

    Raises:
        ConfigurationError: The encoding is not UTF-8; the text names it.
    """
    encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
    if encoding != "UTF8":
        raise place.refused(
            "db.postgres.database",
            f"its encoding is {shown(encoding)}, and must be UTF8; make it with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
        )


def set_tcp_options(connection: Any, settings: PostgresSettings) -> None:
    """Set TCP options, so that the system detects a dropped connection soon."""
    wanted = tcp_options(settings)
    if not wanted:
        return
    raw = socket_of(connection)
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        for level, option, value in wanted:
            raw.setsockopt(level, option, value)
