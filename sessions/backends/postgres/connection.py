"""PostgreSQL through SQLAlchemy on asyncpg."""

from __future__ import annotations

import asyncio
import functools
import uuid
import weakref
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

import asyncpg
from sqlalchemy import (
    Engine,
    Executable,
    PoolProxiedConnection,
    Table,
    bindparam,
    delete,
    event,
    exc,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool
from sqlalchemy.util import greenlet_spawn

from sessions.backends.postgres import dialect as postgres_dialect
from sessions.backends.postgres import errors as postgres_errors
from sessions.backends.postgres.connector import PostgresConnector
from sessions.backends.postgres.pool import PostgresPool
from sessions.backends.postgres.settings import (
    place_of,
    place_of_engine,
    resolved_settings,
    upgrade_command_of,
)
from sessions.backends.sql.engine import SqlConnectionManager, Watch, cancellation_check, engine_key
from sessions.errors import SessionsError
from sessions.models.records import ChatMessageRecord, ChatSessionRecord

__all__ = ["PostgresConnectionManager"]

R = TypeVar("R")

# The server ends a statement itself, and says so; only one that keeps silent is given up on this much later.
SILENCE_SECONDS = 1.0
CLOSE_TIMEOUT_SECONDS = 2.0
# The driver gives up after two seconds by itself.
DISCARD_SECONDS = 3.0

_must_not_wait: ContextVar[bool] = ContextVar("sessions_must_not_wait", default=False)


class _WouldWaitError(Exception):
    """A connection of the pool has to be opened first."""


class PostgresConnectionManager(SqlConnectionManager):
    """One PostgreSQL database.

    Args:
        url: ``postgresql://`` or ``postgresql+asyncpg://``, with libpq's query parameters.
        engine: A service's own ``AsyncEngine``; used, never closed.
        **settings: Any key of ``db.postgres``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    dialect: ClassVar[str] = "postgresql"
    may_be_interrupted: ClassVar[bool] = True

    def __init__(self, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any) -> None:
        self._settings = resolved_settings(url, engine, settings)
        self._connector = PostgresConnector(self._settings) if engine is None else None
        self._place = place_of(self._settings) if engine is None else place_of_engine(engine)
        given = url is not None or bool(self._settings.PARTS & settings.keys())
        self._upgrade_command = upgrade_command_of(self._settings, engine, given=given)
        # What each of our engines has opened.
        self._opened: weakref.WeakKeyDictionary[AsyncEngine, weakref.WeakSet[asyncpg.Connection]] = (
            weakref.WeakKeyDictionary()
        )
        self.answer_timeout = self._settings.statement_timeout + SILENCE_SECONDS
        self.checkout_timeout = (
            self._settings.pool_timeout + self._settings.connect_timeout + self.answer_timeout
        )
        self.one_transaction_at_a_time = self._settings.pgbouncer
        self._compiled: dict[Executable, tuple[str, list[str]]] = {}
        super().__init__(
            engine=engine,
            auto_migrate=self._settings.auto_migrate,
            max_overflow=self._settings.max_overflow,
            upgrade_command=self._upgrade_command,
            schema=self._settings.schema_name,
        )

    @classmethod
    def cache_key(
        cls, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any
    ) -> Hashable:
        """Return the service's engine or the complete settings, with the URL in one spelling."""
        return engine_key(engine, resolved_settings(url, engine, settings))

    def _create_engine(self) -> AsyncEngine:
        opened: weakref.WeakSet[asyncpg.Connection] = weakref.WeakSet()
        connector = self._connector
        assert connector is not None

        def connect() -> Awaitable[asyncpg.Connection]:
            if _must_not_wait.get():
                raise _WouldWaitError
            return open_()

        async def open_() -> asyncpg.Connection:
            connection = await connector()
            opened.add(connection)
            return connection

        proxied = self.one_transaction_at_a_time
        engine = create_async_engine(
            postgres_dialect.URL,
            # asyncpg reads the URL itself, so that all of libpq's forms work as they do in psql.
            async_creator=connect,
            execution_options=self._execution_options,
            isolation_level="READ COMMITTED" if proxied else "AUTOCOMMIT",
            # Behind a proxy no named statement may stay: the next transaction has another connection.
            connect_args={"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
            if proxied
            else {},
            poolclass=PostgresPool,
            pool_size=self._settings.pool_size,
            max_overflow=self._settings.max_overflow,
            pool_timeout=self._settings.pool_timeout,
            # Nothing is left to take back: what begins a transaction ends it, too.
            pool_reset_on_return=None,
            # The connection that was used last: what it needs is in the caches, of its server process too.
            pool_use_lifo=True,
            # Parameters are the conversation; they belong in no error text and no log.
            hide_parameters=True,
        )
        self._opened[engine] = opened
        event.listen(engine.sync_engine, "checkout", _refuse_if_closed)
        return engine

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await ``step()``; where `_run` itself sees to a cancellation, without a task for each call."""
        if self._schema_ready and self._own and not self.one_transaction_at_a_time:
            return await step()
        return await super().run_step(step)

    async def _run(self, statement: Executable, parameters: Mapping[str, Any], *, rows: bool) -> Any:
        """Return the rows of a statement, or how many it wrote.

        On the driver's own connection: SQLAlchemy's takes about as long for a statement as PostgreSQL does. A
        service's own engine is used as it is, and its listeners see what is executed.
        """
        if not self._own or self.one_transaction_at_a_time:
            return await super()._run(statement, parameters, rows=rows)
        engine = (await self.connect()).sync_engine
        query, names = self._compiled.get(statement) or self._compile(statement, engine)
        arguments = [parameters[name] for name in names]
        pool: Any = engine.pool
        connection = await self._check_out(engine)
        try:
            with Watch(self, connection, self.answer_timeout):
                result = await _ask(connection.driver_connection, query, arguments, rows)
        except asyncio.CancelledError:
            # The driver asks the server to cancel it, too, which takes a moment: longer than the caller has.
            self._pools.start(self._discard, connection, pool)
            raise
        except BaseException as error:
            if not isinstance(error, Exception):
                connection.invalidate()
            await self._check_in(connection, pool)
            raise
        await self._check_in(connection, pool)
        await self._let_others_go_first(pool)
        return result

    async def _let_others_go_first(self, pool: Pool) -> None:
        """Do as the others' do, and where the pool knows whether somebody waits, only then."""
        if not isinstance(pool, PostgresPool):
            await super()._let_others_go_first(pool)
        elif pool.waiting:
            await asyncio.sleep(0)

    async def _check_out(self, engine: Engine) -> PoolProxiedConnection:
        pool: Any = engine.pool
        if pool.checkedin():
            # Nearly always one that is open: then there is nothing to wait for, and no need of a greenlet.
            without_waiting = _must_not_wait.set(True)
            try:
                return engine.raw_connection()
            except _WouldWaitError:
                pass
            finally:
                _must_not_wait.reset(without_waiting)
        check_cancelled = cancellation_check()
        async with asyncio.timeout(self.checkout_timeout):
            connection = await greenlet_spawn(engine.raw_connection)
            try:
                check_cancelled()
            except asyncio.CancelledError:
                await self._check_in(connection, pool)
                raise
        return connection

    async def _discard(self, connection: PoolProxiedConnection, pool: Any) -> None:
        """Close a connection whose statement was cancelled, and make room for another one."""
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                await greenlet_spawn(connection.invalidate)
        except TimeoutError:
            self._break(connection)
        finally:
            await self._check_in(connection, pool)

    async def _check_in(self, connection: PoolProxiedConnection, pool: Any) -> None:
        if pool.checkedin() < pool.size():
            connection.close()
        else:  # One too many, which is really closed.
            await greenlet_spawn(connection.close)

    def _compile(self, statement: Executable, engine: Engine) -> tuple[str, list[str]]:
        """Return a statement as the driver takes it, and its parameters' names in their order."""
        schema: Any = self._execution_options.get("schema_translate_map")
        construct: Any = statement
        compiled = construct.compile(
            dialect=engine.dialect, schema_translate_map=schema, render_schema_translate=schema is not None
        )
        return self._compiled.setdefault(statement, (compiled.string, compiled.positiontup))

    async def _close_idle(self, engine: AsyncEngine) -> None:
        # The pool would wait for the server's good-bye on each in turn, for ever where it keeps silent.
        opened = tuple(self._opened.get(engine, ()))
        closing = (connection.close(timeout=CLOSE_TIMEOUT_SECONDS) for connection in opened)
        await asyncio.gather(*closing, return_exceptions=True)

    def _break(self, connection: PoolProxiedConnection) -> None:
        raw = connection.driver_connection
        if raw is not None:
            raw.terminate()

    async def _may_migrate(self, connection: AsyncConnection) -> bool:
        read_only = func.current_setting("transaction_read_only") == "on"
        may_create = func.has_schema_privilege(func.current_schema(), "CREATE")
        if (schema := self._settings.schema_name) is not None:
            quoted = connection.dialect.identifier_preparer.quote(schema)
            # Nothing is known of a schema that is not there: then it has to be made first.
            may_create = func.coalesce(
                func.has_schema_privilege(func.to_regnamespace(quoted), "CREATE"),
                func.has_database_privilege(func.current_database(), "CREATE"),
            )
        return bool(await connection.scalar(select(~read_only & may_create)))

    async def _try_write(self, connection: AsyncConnection) -> None:
        # Of a session that there is not: every right is checked, and nothing is written.
        await connection.execute(_no_op_write(), {"nobody": str(uuid.uuid4())})

    def is_duplicate_key(self, error: BaseException) -> bool:
        """Return whether a row with the same primary key is there already."""
        return postgres_errors.is_duplicate_key(error)

    def is_schema_missing(self, error: BaseException) -> bool:
        """Return whether SQLSTATE says that a table, a column or a schema is not there."""
        return postgres_errors.is_schema_missing(error)

    def is_transient(self, error: BaseException) -> bool:
        """Return whether SQLSTATE or the kind of connection error promises better luck."""
        return postgres_errors.is_transient(error)

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether the connection was lost after a statement was sent on it."""
        return postgres_errors.outcome_is_unknown(error)

    def driver_error(self, error: BaseException) -> BaseException:
        """Return asyncpg's error, which SQLAlchemy wraps twice."""
        return postgres_errors.driver_error(error)

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of SQLAlchemy, asyncpg or the network."""
        return postgres_errors.translate(error, self._place, upgrade=self._upgrade_command)


@functools.cache
def _no_op_write() -> Executable:
    """Return a write of every kind to the session ``:nobody``."""
    sessions: Table = ChatSessionRecord.__table__  # type: ignore[assignment]
    messages: Table = ChatMessageRecord.__table__  # type: ignore[assignment]
    nobody = sessions.c.session_id == bindparam("nobody", type_=sessions.c.session_id.type)
    found = update(sessions).where(nobody).values(title=sessions.c.title).returning(sessions).cte("found")
    return select(literal_column("1")).add_cte(
        found,
        insert(sessions).from_select(list(found.c.keys()), select(found), include_defaults=False).cte("new"),
        insert(messages)
        .from_select(
            ["message_id", "session_id", "role", "content", "timestamp"],
            select(
                found.c.session_id,
                found.c.session_id,
                literal_column("'user'"),
                found.c.title,
                found.c.updated_at,
            ),
            include_defaults=False,
        )
        .cte("message"),
        delete(sessions).where(nobody).cte("gone"),
    )


async def _ask(driver_connection: Any, query: str, arguments: list[Any], rows: bool) -> Any:
    try:
        if rows:
            return await driver_connection.fetch(query, *arguments)
        status = await driver_connection.execute(query, *arguments)
    except postgres_errors.DRIVER_ERRORS as error:
        # The server's process ends with such an error, and the driver's state with one of its own.
        if getattr(error, "severity_en", None) in ("FATAL", "PANIC") or isinstance(
            error, asyncpg.InternalClientError
        ):
            driver_connection.terminate()
        # As SQLAlchemy does, too: it was raised after the statement was sent, and not while connecting.
        lost = driver_connection.is_closed()
        raise exc.DBAPIError(None, None, error, hide_parameters=True, connection_invalidated=lost) from error
    return int(status.rpartition(" ")[2])  # Such as "DELETE 3".


def _refuse_if_closed(dbapi_connection: object, record: Any, proxy: object) -> None:
    if record.driver_connection.is_closed():
        # All that were opened before are suspect, too.
        raise exc.InvalidatePoolError("the server has closed the connection")
