"""The parameters of a PostgreSQL URL, and how they are used: one table, which the manual repeats."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["PARAMETERS", "SERVER_SETTINGS", "TABLE", "Row", "Use"]


class Use(StrEnum):
    """How a parameter is used."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    REFUSED = "refused"


class Row(NamedTuple):
    """Parameters that are used in the same way.

    Attributes:
        names: Separated by spaces.
        use: How they are used.
        note: Their meaning, or why they are not used.
        only: Accepted values in lower case; empty for any. Others are rejected.
    """

    names: str
    use: Use
    note: str
    only: frozenset[str] = frozenset()


def _values(text: str) -> frozenset[str]:
    return frozenset(text.split())


SSL_MODES: Final = _values("disable allow prefer require verify-ca verify-full")
TRUE: Final = _values("1 true on yes")
FALSE: Final = _values("0 false off no")

SERVER_SETTINGS: Final = (
    "search_path role default_transaction_read_only default_transaction_isolation default_tablespace "
    "lock_timeout idle_in_transaction_session_timeout idle_session_timeout transaction_timeout "
    "synchronous_commit timezone work_mem maintenance_work_mem temp_buffers jit plan_cache_mode "
    "client_min_messages row_security"
)

TABLE: Final[tuple[Row, ...]] = (
    # Whom to connect to.
    Row("host port", Use.HONOURED, "several are separated by commas, or the parameter is repeated"),
    Row(
        "hostaddr",
        Use.HONOURED,
        "IP addresses of the hosts; certificates are verified against the names in `host`",
    ),
    Row("dbname database", Use.HONOURED, "the database"),
    Row("user password", Use.HONOURED, "the role to log in as, and its password"),
    Row("passfile", Use.HONOURED, "the password file, instead of `~/.pgpass`"),
    Row(
        "target_session_attrs",
        Use.HONOURED,
        "which of several hosts is accepted",
        _values("any primary standby prefer-standby read-write read-only"),
    ),
    Row("load_balance_hosts", Use.HONOURED, "the order in which hosts are tried", _values("disable random")),
    Row(
        "connect_timeout",
        Use.HONOURED,
        "the setting `connect_timeout`; 0 keeps it, because no wait is unlimited",
    ),
    # TLS.
    Row("sslmode", Use.HONOURED, "unless the setting `ssl` is given", SSL_MODES),
    Row("ssl", Use.HONOURED, "SQLAlchemy's `sslmode`; `true` is `require`", SSL_MODES | TRUE | FALSE),
    Row("sslrootcert", Use.HONOURED, "the file with the certificate authorities, or `system`"),
    Row(
        "sslcert sslkey sslpassword",
        Use.HONOURED,
        "the client certificate, its key, and the password of the key",
    ),
    Row("sslcrl", Use.HONOURED, "the certificate revocation list"),
    Row("sslnegotiation", Use.HONOURED, "`direct` needs PostgreSQL 17", _values("postgres direct")),
    Row(
        "ssl_min_protocol_version ssl_max_protocol_version",
        Use.HONOURED,
        "the allowed TLS versions",
        _values("tlsv1 tlsv1.1 tlsv1.2 tlsv1.3"),
    ),
    # The server's session.
    Row("application_name fallback_application_name", Use.HONOURED, "the name in `pg_stat_activity`"),
    Row("options", Use.HONOURED, "server settings: `options=-c%20work_mem%3D8MB`"),
    Row("statement_timeout", Use.HONOURED, "the setting `statement_timeout`, in milliseconds or with a unit"),
    Row(SERVER_SETTINGS, Use.HONOURED, "server settings, in the form that asyncpg takes"),
    # The connection.
    Row("keepalives", Use.HONOURED, "TCP keepalive; default 1", _values("0 1")),
    Row(
        "keepalives_idle keepalives_interval keepalives_count",
        Use.HONOURED,
        "on systems that support them; default: the setting `tcp_keepalive`, 2 seconds, 3 probes",
    ),
    Row(
        "tcp_user_timeout",
        Use.HONOURED,
        "milliseconds, on systems that support it; default: the setting `tcp_user_timeout`",
    ),
    Row("krbsrvname", Use.HONOURED, "the service name for GSSAPI"),
    Row("gsslib", Use.HONOURED, "the library for GSSAPI", _values("gssapi sspi")),
    Row(
        "prepared_statement_cache_size statement_cache_size",
        Use.HONOURED,
        "SQLAlchemy's and asyncpg's: how many prepared statements a connection caches",
    ),
    # Poolers, and what others write for themselves.
    Row("pgbouncer", Use.HONOURED, "the setting `pgbouncer`", TRUE | FALSE),
    Row(
        "pool_mode",
        Use.HONOURED,
        "`transaction` is the setting `pgbouncer`; `statement` is not supported",
        _values("session transaction"),
    ),
    Row("schema", Use.HONOURED, "Prisma's: the setting `schema`"),
    Row(
        "channel_binding",
        Use.IGNORED,
        "asyncpg does not support it; `sslmode=verify-full` also prevents eavesdropping",
        _values("disable prefer require"),
    ),
    Row("gssencmode", Use.IGNORED, "asyncpg encrypts with TLS only", _values("disable prefer")),
    Row("client_encoding", Use.IGNORED, "it is always UTF-8", _values("auto utf8 utf-8 unicode")),
    Row("sslsni", Use.IGNORED, "the host name is always sent", _values("1")),
    Row("sslcompression gssdelegation", Use.IGNORED, "asyncpg does neither", _values("0")),
    Row("replication", Use.IGNORED, "this package does not use replication connections", FALSE),
    Row("async_fallback", Use.IGNORED, "SQLAlchemy's; blocking calls need no option here"),
    Row("connection_limit pool_timeout socket_timeout", Use.IGNORED, "Prisma's; `pool_size` is the setting"),
    Row("supa workaround", Use.IGNORED, "markers of Supabase's dashboard, without effect on the server"),
    Row("service servicefile", Use.REFUSED, "write the content of the service file into the URL"),
    Row("require_auth", Use.REFUSED, "asyncpg uses any authentication method that the server requests"),
    Row("requirepeer", Use.REFUSED, "asyncpg cannot determine the owner of the server behind a Unix socket"),
    Row("requiressl", Use.REFUSED, "write `sslmode=require`"),
    Row("sslcertmode sslcrldir sslkeylogfile", Use.REFUSED, "not supported"),
    Row("sslaccept sslidentity", Use.REFUSED, "Prisma's; write `sslmode` and `sslcert`"),
    Row("min_protocol_version max_protocol_version", Use.REFUSED, "asyncpg uses protocol version 3.0"),
    Row("prepared_statement_name_func", Use.REFUSED, "SQLAlchemy's, and a function; use `pgbouncer=true`"),
    Row("timeout command_timeout", Use.REFUSED, "write `connect_timeout` or `statement_timeout`"),
    Row("currentschema", Use.REFUSED, "write `schema`"),
)

PARAMETERS: Final[dict[str, Row]] = {name: row for row in TABLE for name in row.names.split()}
