"""The settings as models: immutable, hashable, with strict keys and types."""

from __future__ import annotations

import functools
import os
import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sessions.config.passwords import PasswordCallable, check_password
from sessions.config.reasons import configuration_error
from sessions.errors import ConfigurationError
from sessions.resilience import RetryConfig, RetryStrategy

__all__ = [
    "BackendSettings",
    "CacheSettings",
    "DatabaseSettings",
    "MongoSettings",
    "PostgresSettings",
    "RedisSettings",
    "SessionsSettings",
    "SqliteSettings",
    "SslMode",
]

# PostgreSQL's limit for identifiers, in bytes.
MAX_NAME_BYTES = 63

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


def _refuse_bool(value: object) -> object:
    # Pydantic accepts True as 1.
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def _check_ssl(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    # One error text for the key; pydantic would report each member of the union.
    try:
        return handler(value)
    except ValidationError:
        modes = ", ".join(get_args(SslMode))
        raise PydanticCustomError("ssl", f"Input should be a boolean or one of {modes}") from None


def _check_schema(value: str) -> str:
    # Rejects names that PostgreSQL truncates, or that need different escapes in different contexts.
    if not re.fullmatch(r"[\w $-]+", value) or len(value.encode()) > MAX_NAME_BYTES:
        raise PydanticCustomError(
            "schema", "Input should be a name of letters, digits, spaces, _, $ and -, of 63 bytes at most"
        )
    return value


def _path_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


_Text = Annotated[str, Field(min_length=1)]
_Path = Annotated[_Text, BeforeValidator(_path_text)]
_Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_refuse_bool)]
_Count = Annotated[int, Field(ge=0), BeforeValidator(_refuse_bool)]
_PositiveCount = Annotated[int, Field(ge=1), BeforeValidator(_refuse_bool)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_refuse_bool)]
# Always finite: the time limits keep a lost server from blocking the caller.
_PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_refuse_bool)]
_Password = Annotated[SecretStr | PasswordCallable | None, WrapValidator(check_password)]
_SecretUrl = Annotated[SecretStr, Field(min_length=1)]
_Schema = Annotated[str, AfterValidator(_check_schema)]
# Braces would be another hash tag.
_Prefix = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^{}\x00-\x20]+$")]
_Ssl = Annotated[bool | SslMode | None, WrapValidator(_check_ssl)]


class _Model(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """Hashable; type checkers need ``frozen=True`` in each subclass."""


class BackendSettings(_Model, frozen=True):
    """The settings of all backends.

    Attributes:
        pool_size: Connections kept open for each event loop.
        pool_timeout: Seconds to wait for a free connection.
        append_batch_messages: How many messages of concurrent calls are written together, at most.
        append_batch_bytes: About how many bytes of them, at most.
    """

    KEY: ClassVar[str]
    """Dotted key of the model in the file."""
    PARTS: ClassVar[frozenset[str]]
    """The keys that ``url`` wins over."""

    pool_size: _PositiveCount = 10
    pool_timeout: _PositiveSeconds = 10.0
    append_batch_messages: _PositiveCount = 500
    append_batch_bytes: _PositiveCount = 2**20

    @classmethod
    def file_keys(cls) -> frozenset[str]:
        """Return the keys as they are written in a file."""
        return frozenset(field.alias or name for name, field in cls.model_fields.items())

    def with_overrides(self, **overrides: object) -> Self:
        """Return these settings with some values replaced, validated like those from a file.

        Args:
            **overrides: New values by key; None keeps the present one.

        Raises:
            ConfigurationError: A key is unknown, a value has the wrong type, or a part such as ``host`` is
                given while a configured ``url`` wins over it. The text names the key, never the value.
        """
        given = {key: value for key, value in overrides.items() if value is not None}
        if not given:
            return self
        options = tuple(given.items())
        try:
            hash(options)
        except TypeError:
            return self._replaced(given)
        # With their types: 1 and True are equal, but True is not a number of connections.
        replaced: Self = _replaced_once(self, options, tuple(map(type, given.values())))
        return replaced

    def _replaced(self, given: dict[str, Any]) -> Self:
        fields = type(self).model_fields.items()
        values = {field.alias or name: getattr(self, name) for name, field in fields} | given
        try:
            replaced = type(self).model_validate(values)
        except ValidationError as error:
            raise configuration_error(error, key=self.KEY) from error
        losers = sorted(self.PARTS & given.keys())
        if callable(given.get("password")):
            losers.remove("password")  # It is used with a URL that has the user and the host.
        if losers and "url" not in given and values["url"] is not None:
            # Ignoring it would store data in another database than the caller asked for.
            raise ConfigurationError(
                f"{self.KEY}.{losers[0]}: has no effect, as {self.KEY}.url is configured; pass url instead"
            )
        return replaced


@functools.lru_cache(maxsize=128)
def _replaced_once(settings: BackendSettings, options: tuple[tuple[str, Any], ...], _types: Any) -> Any:
    return settings._replaced(dict(options))


class PostgresSettings(BackendSettings, frozen=True):
    """PostgreSQL, ``db.postgres``.

    Attributes:
        host: Server name, address or socket directory.
        port: 1 to 65535.
        database: Name of the database.
        username: Role to log in as.
        password: None for peer, trust or ``.pgpass`` authentication. As an option also a callable, or an
            async one, that is called for each new connection.
        url: ``postgresql://user:password@host:port/database``; wins over the five above.
        max_overflow: Connections opened beyond ``pool_size`` while all are checked out, and closed after some
            seconds without use.
        connect_timeout: Seconds to wait for the server to accept a connection.
        statement_timeout: Seconds that a statement may take, and that the server may not respond.
        tcp_keepalive: Seconds after which an idle connection is probed; 0 keeps the system's default.
        tcp_user_timeout: Seconds that sent data may remain unacknowledged before the connection is closed; 0
            keeps the system's default.
        ssl: A boolean, or libpq's ``sslmode``; None for the mode of the URL or the driver.
        auto_migrate: Whether to upgrade the schema to head on first use.
        schema_name: ``schema`` in a file and as an option: the schema of the tables, created if it is
            missing; None for the first one of the role's ``search_path``.
        pgbouncer: Whether the server is behind a pooler in transaction mode, such as pgbouncer.
    """

    KEY = "db.postgres"
    PARTS = frozenset({"host", "port", "database", "username", "password"})

    host: _Text = "localhost"
    port: _Port = 5432
    database: _Text = "agenthub"
    username: _Text = "postgres"
    password: _Password = None
    url: _SecretUrl | None = None
    max_overflow: _Count = 10
    connect_timeout: _PositiveSeconds = 10.0
    # Less than `max_elapsed`, so that the server itself cancels a slow statement.
    statement_timeout: _PositiveSeconds = 20.0
    tcp_keepalive: _Seconds = 10.0
    tcp_user_timeout: _Seconds = 1.0
    ssl: _Ssl = None
    auto_migrate: bool = True
    # Pydantic reserves the name "schema".
    schema_name: _Schema | None = Field(default=None, alias="schema")
    pgbouncer: bool = False


class MongoSettings(BackendSettings, frozen=True):
    """MongoDB, ``db.mongodb``.

    Attributes:
        host: Server name or address.
        port: 1 to 65535.
        database: Name of the database; also used when the URL names none.
        username: None for a server without authentication.
        password: Requires ``username``. As an option also a callable, or an async one, that is called for
            each new client.
        auth_source: Database that holds the user; None for the driver's default.
        url: ``mongodb://…`` or ``mongodb+srv://…``; wins over the six above.
        pool_size: PyMongo's ``maxPoolSize``, for each event loop.
        pool_timeout: Seconds to wait for a free connection.
        connect_timeout: Seconds to wait for a suitable server, and for it to accept a connection.
        refused_timeout: Seconds to wait if all servers refuse connections, as during a restart.
        timeout: Seconds that an attempt of an operation may take, PyMongo's ``timeoutMS``; the URL's wins.
    """

    KEY = "db.mongodb"
    PARTS = frozenset({"host", "port", "database", "username", "password", "auth_source"})

    host: _Text = "localhost"
    port: _Port = 27017
    database: _Text = "agenthub"
    username: str | None = None
    password: _Password = None
    auth_source: str | None = None
    url: _SecretUrl | None = None
    connect_timeout: _PositiveSeconds = 10.0
    refused_timeout: _PositiveSeconds = 4.0
    timeout: _PositiveSeconds = 30.0


class SqliteSettings(BackendSettings, frozen=True):
    """SQLite, ``db.sqlite``.

    Attributes:
        path: The database file, relative to the working directory, or ``:memory:``.
        url: ``sqlite:///path``; wins over ``path``.
        max_overflow: Connections opened beyond ``pool_size`` while all are checked out, then closed.
        busy_timeout: Seconds to wait for another writer to finish.
        auto_migrate: Whether to upgrade the schema to head on first use.
    """

    KEY = "db.sqlite"
    PARTS = frozenset({"path"})

    path: _Path = "sessions.db"
    # Not in the repr: it may be a server's URL that was passed to the wrong backend.
    url: _Text | None = Field(default=None, repr=False)
    pool_size: _PositiveCount = 5
    max_overflow: _Count = 10
    busy_timeout: _PositiveSeconds = 10.0
    auto_migrate: bool = True


class RedisSettings(BackendSettings, frozen=True):
    """Redis or Valkey, ``db.redis``.

    Attributes:
        host: Server name or address.
        port: 1 to 65535.
        db: Number of the database.
        username: User of the server's ACL; None for the default user.
        password: None for a server without one. As an option also a callable, or an async one, that is
            called for each new connection.
        url: ``redis://``, ``rediss://``, ``valkey://`` or ``unix://``; ``redis+cluster://`` or
            ``redis+sentinel://`` with one or more hosts; wins over the five above.
        cluster: Whether the host, or those of the URL, are nodes of a cluster.
        prefix: The first part of all keys.
        expire_after: Seconds after its last change at which a session is deleted; None keeps it.
        connect_timeout: Seconds to wait for the server to accept a connection.
        timeout: Seconds that the server may not respond.
        require_durable: Refuse a server that acknowledges writes which a crash loses: one without
            ``appendonly yes`` and ``appendfsync always``.
        wait_replicas: How many replicas have to receive a write before it is acknowledged.
    """

    KEY = "db.redis"
    PARTS = frozenset({"host", "port", "db", "username", "password"})

    host: _Text = "localhost"
    port: _Port = 6379
    db: _Count = 0
    username: str | None = None
    password: _Password = None
    url: _SecretUrl | None = None
    cluster: bool = False
    prefix: _Prefix = "sessions"
    expire_after: _PositiveSeconds | None = None
    connect_timeout: _PositiveSeconds = 10.0
    timeout: _PositiveSeconds = 20.0
    require_durable: bool = False
    wait_replicas: _Count = 0


class DatabaseSettings(_Model, frozen=True):
    """The top-level key ``db``: one entry for each built-in backend."""

    mongodb: MongoSettings = MongoSettings()
    postgres: PostgresSettings = PostgresSettings()
    sqlite: SqliteSettings = SqliteSettings()
    redis: RedisSettings = RedisSettings()


class _RetryKeys(_Model, frozen=True):
    max_attempts: _PositiveCount = 0
    base_delay: _Seconds = 0.0
    max_delay: _Seconds = 0.0
    strategy: RetryStrategy = RetryStrategy.EXPONENTIAL
    jitter: bool = True
    max_elapsed: _PositiveSeconds = 1.0

    def config(self) -> RetryConfig:
        # Only given keys, so that only RetryConfig has the defaults.
        return RetryConfig(**self.model_dump(exclude_unset=True))


class _RetrySchema:
    """Validates a mapping with `_RetryKeys` and returns the `RetryConfig`, a plain dataclass."""

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            _RetryKeys.config, handler.generate_schema(_RetryKeys)
        )


class CacheSettings(_Model, frozen=True):
    """The cache in front of repositories, ``sessions.cache``.

    Attributes:
        url: ``memory://``, or ``redis://``, ``rediss://``, ``valkey://`` or ``unix://``; None for no cache.
        ttl: Seconds for which a value is valid.
        max_bytes: How much memory a cache in memory takes at most, about.
        max_value_bytes: Larger values are not stored.
        prefix: The first part of all keys on a Redis server.
        namespace: Tells the databases of a cache apart, with their kind and name; None for what each says
            itself.
        timeout: Seconds that a read waits for a Redis server.
    """

    url: _SecretUrl | None = None
    ttl: _PositiveSeconds = 60.0
    max_bytes: _PositiveCount = 64 * 2**20
    max_value_bytes: _PositiveCount = 2**20
    prefix: _Prefix = "sessions-cache"
    namespace: _Prefix | None = None
    timeout: _PositiveSeconds = 0.25

    def with_url(self, url: str) -> Self:
        """Return these settings with another URL."""
        return self.model_copy(update={"url": SecretStr(url)})


class SessionsSettings(_Model, frozen=True):
    """The top-level key ``sessions``.

    Attributes:
        default_repository: Registered name that ``get_default_repository()`` creates.
        cache: The cache that repositories of the factory have.
        retry: Retries for all backends; None for the defaults of each backend.
    """

    default_repository: _Text = "mongodb"
    cache: CacheSettings = CacheSettings()
    retry: Annotated[RetryConfig, _RetrySchema()] | None = None
