"""PostgreSQL: a pool of asyncpg, or a service's SQLAlchemy engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import asyncpg
from sqlalchemy import (
    Executable,
    Table,
    bindparam,
    delete,
    exc,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg as asyncpg_dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from sessions import migrations
from sessions.backends.postgres import errors as postgres_errors
from sessions.backends.postgres.connector import PostgresConnector, check_encoding
from sessions.backends.postgres.identity import identity_of
from sessions.backends.postgres.pool import PostgresPool
from sessions.backends.postgres.settings import (
    place_of,
    place_of_engine,
    resolved_settings,
    upgrade_command_of,
)
from sessions.backends.postgres.transaction import PostgresTransaction
from sessions.backends.sql.compiled import CompiledStatements, DriverStatement
from sessions.backends.sql.engine import NoAnswerError, SqlConnectionManager, SqlPool
from sessions.backends.sql.given_engine import engine_key
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS, AsyncBaseConnectionManager
from sessions.core.batches import GroupLimits, sends_within
from sessions.core.telemetry import PoolMeter, PoolUse, Target, target_of
from sessions.errors import SessionsError
from sessions.models.records import ChatMessageRecord, ChatSessionRecord

__all__ = ["PostgresConnectionManager"]

R = TypeVar("R")

# The server itself cancels a statement at `statement_timeout`; a server that does not respond gets this much
# more.
ANSWER_GRACE_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _OwnPool(SqlPool):
    """The connections of one event loop, and an engine that borrows from them."""

    driver: PostgresPool = field(kw_only=True)


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
        self.answer_timeout = self._settings.statement_timeout + ANSWER_GRACE_SECONDS
        self.checkout_timeout = (
            self._settings.pool_timeout + self._settings.connect_timeout + self.answer_timeout
        )
        self.one_transaction_at_a_time = self._settings.pgbouncer
        self._compiled = CompiledStatements(
            asyncpg_dialect(),  # type: ignore[no-untyped-call]
            self._settings.schema_name,
        )
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
        """Return the service's engine or the complete settings, with the normalized URL."""
        return engine_key(engine, resolved_settings(url, engine, settings))

    def _open_own(self) -> SqlPool:
        assert self._connector is not None
        meter = PoolMeter(self.target())
        driver = PostgresPool(
            self._connector,
            size=self._settings.pool_size,
            overflow=self._settings.max_overflow,
            checkout_timeout=self._settings.pool_timeout,
            one_transaction=self.one_transaction_at_a_time,
            start=self._pools.start,
            meter=meter,
        )
        return _OwnPool(self._engine_on(driver.lend_until_closed), meter, driver=driver)

    async def _prepare_schema(self, pool: SqlPool) -> None:
        if not self._own:
            async with self._lend(pool) as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                if isinstance(raw, asyncpg.Connection):  # psycopg is as good.
                    check_encoding(raw, self._place)
        await super()._prepare_schema(pool)

    async def _close(self, pool: SqlPool) -> None:
        if isinstance(pool, _OwnPool):
            await pool.driver.close()
            await pool.engine.dispose()

    def _engine_on(self, connect: Callable[[], Awaitable[Any]]) -> AsyncEngine:
        """Return an engine for migrations, which need SQLAlchemy's connections.

        Args:
            connect: Lends a connection, which the engine closes when it has been used.
        """
        proxied = self.one_transaction_at_a_time
        return create_async_engine(
            "postgresql+asyncpg://",
            # The URL is parsed by this package, so that all of libpq's forms work as in psql.
            async_creator=connect,
            execution_options=self._execution_options,
            isolation_level="READ COMMITTED" if proxied else "AUTOCOMMIT",
            # No named statements behind a pooler: the next transaction has another server connection.
            connect_args={"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
            if proxied
            else {},
            poolclass=NullPool,
            # Parameters hold the conversation, which must not be in error texts or logs.
            hide_parameters=True,
        )

    def _append_limits(self) -> GroupLimits:
        # A service's own pool has at least as many connections by default.
        size = self._settings.pool_size
        most = size + (self._settings.max_overflow if self._own else 0)
        # Reads do not wait behind appends for a connection.
        sends, slow_sends = sends_within(size, most)
        return GroupLimits(
            count=self._settings.append_batch_messages,
            size=self._settings.append_batch_bytes,
            sends=sends,
            slow_sends=slow_sends,
            seconds=self._settings.pool_timeout,
            queue_timeout=lambda: exc.TimeoutError("no connection became free in time"),
            no_answer=lambda: NoAnswerError("no answer in time"),
        )

    @contextlib.asynccontextmanager
    async def _connected(self, pool: SqlPool) -> AsyncIterator[AsyncConnection]:
        if not isinstance(pool, _OwnPool):
            async with super()._connected(pool) as connection:
                yield connection
            return
        # An engine for one connection: SQLAlchemy leaks a connection whose initial statements are cancelled.
        async with pool.driver.lend() as driver_connection:

            async def connect() -> Any:
                return driver_connection

            async with self._engine_on(connect).connect() as connection:
                yield connection

    def run_step(self, step: Callable[[], Awaitable[R]]) -> Awaitable[R]:
        """Await ``step()``; without a task for each call if the pool itself handles cancellation."""
        if self._schema_ready and self._own:
            return step()
        return super().run_step(step)

    async def _send(self, statement: Executable, parameters: Mapping[str, Any], *, rows: bool) -> Any:
        """Return the rows of a statement, or how many it wrote.

        On the driver's own pool. With a service's own engine its event listeners see each statement.
        """
        pool = await self._ready()
        if not isinstance(pool, _OwnPool):
            return await super()._send(statement, parameters, rows=rows)
        return await self._send_on(pool, statement, parameters, rows, self.answer_timeout)

    async def fetch_made(self, make: Callable[[], tuple[Executable, Mapping[str, Any]]]) -> Sequence[Any]:
        """Execute a statement that is made once there is a connection for it; return its rows.

        With a service's own engine it is made before.

        Args:
            make: Returns the statement and its parameters.
        """
        pool = await self._ready()
        if not isinstance(pool, _OwnPool):
            rows: Sequence[Any] = await super()._send(*make(), rows=True)
            return rows
        compiled: DriverStatement | None = None

        def statement() -> tuple[str, Sequence[Any]]:
            nonlocal compiled
            made, parameters = make()
            compiled = self._compiled(made)
            return compiled.query, compiled.arguments(parameters)

        found = await pool.driver.run_made(statement, seconds=self.answer_timeout)
        assert compiled is not None
        return compiled.rows(found)

    async def fetch_locked(
        self, lock: Executable, statement: Executable, parameters: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Execute a statement that locks rows, then one that sees the data as of that; return its rows.

        Args:
            lock: Executed first, in the same transaction, with the same parameters.
            statement: Executed when the rows are locked.
            parameters: Of both.
        """
        pool = await self._ready()
        if not isinstance(pool, _OwnPool):
            async with self._lend(pool) as connection:
                # Each statement of the transaction sees the data as of its own start.
                await connection.execution_options(isolation_level="READ COMMITTED")
                async with connection.begin():
                    await connection.execute(lock, parameters)
                    return (await connection.execute(statement, parameters)).all()
        compiled, first = self._compiled(statement), self._compiled(lock)
        rows = await pool.driver.run(
            compiled.query,
            compiled.arguments(parameters),
            rows=True,
            seconds=self.answer_timeout,
            first=(first.query, first.arguments(parameters)),
        )
        return compiled.rows(rows)

    async def in_transaction(self, work: Callable[[AsyncBaseConnectionManager], Awaitable[R]]) -> R:
        """Await ``work(manager)`` in one transaction; commit it, or roll it back on an error.

        Raises:
            NoAnswerError: It took longer than a statement may; the connection is closed.
        """
        pool = await self._ready()
        if not isinstance(pool, _OwnPool):
            return await super().in_transaction(work)

        def on(connection: asyncpg.Connection) -> Awaitable[R]:
            return work(PostgresTransaction(self, self._compiled, connection))

        return await pool.driver.run_in_transaction(on, seconds=self.answer_timeout)

    async def _send_on(
        self,
        pool: _OwnPool,
        statement: Executable,
        parameters: Mapping[str, Any],
        rows: bool,
        seconds: float,
    ) -> Any:
        compiled = self._compiled(statement)
        result = await pool.driver.run(
            compiled.query, compiled.arguments(parameters), rows=rows, seconds=seconds
        )
        return compiled.rows(result) if rows else result

    async def _is_current(self, pool: SqlPool) -> bool:
        if not isinstance(pool, _OwnPool):
            return await super()._is_current(pool)
        try:
            statement = migrations.version_statement(self._settings.schema_name)
            found = await self._send_on(pool, statement, {}, True, self.answer_timeout)
        except asyncpg.PostgresError as error:
            if postgres_errors.is_schema_missing(error):
                return False
            raise
        return [revision for (revision,) in found] == [migrations.HEAD]

    async def _upgrade(self, pool: SqlPool) -> None:
        if self._connector is None:
            await super()._upgrade(pool)
            return
        async with self._connector.while_it_answers():
            await super()._upgrade(pool)

    async def _check_writable(self) -> None:
        pool = await self._pools.get()
        if not isinstance(pool, _OwnPool):
            await super()._check_writable()
            return
        async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
            if not self._schema_ready and not await self._is_current(pool):
                await super()._check_writable()
                return
            absent = {"absent": str(uuid.uuid4())}
            try:
                await self._send_on(pool, _no_op_write(), absent, True, HEALTH_TIMEOUT_SECONDS)
            except asyncpg.PostgresError as error:
                if not postgres_errors.is_schema_missing(error):
                    raise
                await super()._check_writable()

    def _in_use(self, pool: SqlPool) -> int:
        return pool.driver.checked_out if isinstance(pool, _OwnPool) else super()._in_use(pool)

    def _use_of(self, pool: SqlPool) -> PoolUse:
        return pool.driver.use() if isinstance(pool, _OwnPool) else super()._use_of(pool)

    def target(self) -> Target:
        """Return the database, as telemetry names it: ``database|schema`` if the settings name a schema."""
        names = (self._place.database, self._settings.schema_name)
        namespace = "|".join(name for name in names if name) or None
        return target_of("postgresql", self._place, namespace=namespace)

    async def identity_from(self, source: Any) -> str | None:
        """Return the identity of the server, the database and its table; None if the role may not read it."""
        quote = asyncpg_dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
        names = (self._settings.schema_name, ChatSessionRecord.__tablename__)
        return await identity_of(source, ".".join(quote(name) for name in names if name))

    async def _may_migrate(self, connection: AsyncConnection) -> bool:
        read_only = func.current_setting("transaction_read_only") == "on"
        may_create = func.has_schema_privilege(func.current_schema(), "CREATE")
        if (schema := self._settings.schema_name) is not None:
            quoted = connection.dialect.identifier_preparer.quote(schema)
            # NULL for a missing schema: then the migration creates it.
            may_create = func.coalesce(
                func.has_schema_privilege(func.to_regnamespace(quoted), "CREATE"),
                func.has_database_privilege(func.current_database(), "CREATE"),
            )
        return bool(await connection.scalar(select(~read_only & may_create)))

    async def _try_write(self, connection: AsyncConnection) -> None:
        # On an absent session: the server checks every privilege, and writes nothing.
        await connection.execute(_no_op_write(), {"absent": str(uuid.uuid4())})

    def is_duplicate_key(self, error: BaseException) -> bool:
        """Return whether a row with the same primary key exists."""
        return postgres_errors.is_duplicate_key(error)

    def is_schema_missing(self, error: BaseException) -> bool:
        """Return whether a table, a column or a schema is missing, by SQLSTATE."""
        return postgres_errors.is_schema_missing(error)

    def is_outdated_plan(self, error: BaseException) -> bool:
        """Return whether the plan of a prepared statement is outdated by a change of a table."""
        return isinstance(postgres_errors.driver_error(error), asyncpg.InvalidCachedStatementError)

    def is_conflict(self, error: BaseException) -> bool:
        """Return whether the server rolled a statement back because of another transaction, by SQLSTATE."""
        return postgres_errors.is_conflict(error)

    def is_transient(self, error: BaseException) -> bool:
        """Return whether an error is transient, by SQLSTATE or class."""
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
    """Return a statement with every kind of write, on the absent session ``:absent``."""
    sessions: Table = ChatSessionRecord.__table__  # type: ignore[assignment]
    messages: Table = ChatMessageRecord.__table__  # type: ignore[assignment]
    is_absent = sessions.c.session_id == bindparam("absent", type_=sessions.c.session_id.type)
    found = update(sessions).where(is_absent).values(title=sessions.c.title).returning(sessions).cte("found")
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
        delete(sessions).where(is_absent).cte("gone"),
    )
