from __future__ import annotations

import ast
import asyncio
import logging
import re
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import uvloop

from sessions import ConfigurationError
from sessions.backends.postgres import connector
from sessions.backends.postgres import settings as postgres_settings
from sessions.backends.postgres.connector import PostgresConnector
from sessions.backends.postgres.parameters import PARAMETERS, SERVER_SETTINGS, TABLE, Use
from sessions.backends.postgres.settings import connect_arguments, resolved_settings, tcp_options
from sessions.backends.postgres.url import parse_url
from sessions.config import PostgresSettings
from tests.support.tls_postgres import TlsFront, tls_front

SECRET = "hunter2-Zq9"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _without_libpqs_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOST", "PORT", "USER", "PASSWORD", "DATABASE", "SSLMODE", "SSLROOTCERT", "APPNAME"):
        monkeypatch.delenv(f"PG{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def settings(url: str, **options: Any) -> PostgresSettings:
    return resolved_settings(url, None, options)


def arguments(url: str, **options: Any) -> dict[str, Any]:
    return connect_arguments(settings(url, **options))


def refusal(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        arguments(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None or SECRET not in repr(caught.value.__cause__)
    return str(caught.value)


# --- whom to connect to ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://h/d", ["h"], [5432]),
        ("postgresql://h:1/d", ["h"], [1]),
        ("postgresql://h:/d", ["h"], [5432]),
        ("postgresql://h1:1,h2,h3:3/d", ["h1", "h2", "h3"], [1, 5432, 3]),
        ("postgresql://u:p@h1,h2/d?port=7", ["h1", "h2"], [7, 7]),
        ("postgresql:///d?host=h1,h2&port=1,2", ["h1", "h2"], [1, 2]),
        ("postgresql:///d?host=h1:1&host=h2:2", ["h1", "h2"], [1, 2]),
        ("postgresql://:6000/d?host=h1", ["h1"], [6000]),
        ("postgresql://[::1]/d", ["::1"], [5432]),
        ("postgresql://u:p@[2001:db8::1]:7,h/d", ["2001:db8::1", "h"], [7, 5432]),
        ("postgresql://[fe80::1%25eth0]/d", ["fe80::1%eth0"], [5432]),
        ("postgresql:///d?host=::1&port=7", ["::1"], [7]),
        ("postgresql:///d?host=/var/run/postgresql", ["/var/run/postgresql"], [5432]),
        ("postgresql:///d?host=%2Fvar%2Frun&port=7", ["/var/run"], [7]),
        ("postgresql://u@%2Fvar%2Frun:7/d", ["/var/run"], [7]),
        ("postgresql://u:p@%2Fcloudsql%2Fp:r:i/d", ["/cloudsql/p:r:i"], [5432]),
        ("postgresql://h/d?hostaddr=192.0.2.1", ["192.0.2.1"], [5432]),
    ],
)
def test_every_form_of_hosts_and_ports_is_understood(url: str, hosts: list[str], ports: list[int]) -> None:
    found = arguments(url)
    assert (found["host"], found["port"]) == (hosts, ports)
    assert found["database"] == "d"


def test_absent_parts_of_a_url_are_left_to_the_driver() -> None:
    found = arguments("postgresql://")
    assert "host" not in found
    assert "port" not in found
    assert (found["user"], found["password"], found["database"]) == (None, None, None)


def test_the_default_port_is_libpqs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "7000")
    assert arguments("postgresql://h1,h2:1/d")["port"] == [7000, 1]
    monkeypatch.setenv("PGPORT", "seven")
    with pytest.raises(ConfigurationError, match="PGPORT"):
        arguments("postgresql://h/d")


@pytest.mark.parametrize(
    ("url", "user", "password", "database"),
    [
        ("postgresql://m%40e:p%2Fa%3As%23s%25@h/my%20db", "m@e", "p/a:s#s%", "my db"),
        ("postgresql://u:p:q@h/d", "u", "p:q", "d"),
        ("postgresql://u:[x]@h/d", "u", "[x]", "d"),
        ("postgresql://h/?user=u&password=p&dbname=d", "u", "p", "d"),
        ("postgresql://h/d?USER=u%40server&Password=p@ss", "u@server", "p@ss", "d"),
        ("postgresql://h?database=d", None, None, "d"),
        ("  postgresql://u:p@h/d\n", "u", "p", "d"),
        ("POSTGRES://u:p@h/d", "u", "p", "d"),
    ],
)
def test_every_form_of_user_and_database_is_understood(
    url: str, user: str | None, password: str | None, database: str
) -> None:
    found = arguments(url)
    assert (found["user"], found["password"], found["database"]) == (user, password, database)


def test_all_spellings_of_a_url_are_one_database() -> None:
    spellings = [f"{scheme}://u:p@h/d" for scheme in ("postgresql", "postgres", "POSTGRESQL+asyncpg")]
    assert len({settings(url) for url in (*spellings, " postgresql://u:p@h/d\n")}) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:p@{SECRET}@h/d",
        f"postgresql://u:@{SECRET}@h/d",
        f"postgresql://u:p/{SECRET}@h/d",
        f"postgresql://u:12/{SECRET}@h/d",
        f"postgresql://u:/{SECRET}@h/d",
        f"postgresql://u:p?{SECRET}@h/d",
        f"postgresql://u:12?{SECRET}=x@h/d",
        f"postgresql://u:p?user={SECRET}@h/d",
        f"postgresql://u:p#{SECRET}@h/d",
        f"postgresql://u:12#{SECRET}@h/d",
        f"postgresql://u:{SECRET}#@h/d",
        f"postgresql://u:{SECRET}%@h/d",
        f"postgresql://u:{SECRET}%zz@h/d",
        f"postgresql://{SECRET}/u:p@h/d",
        f"postgresql://u@e:{SECRET}@h/d",
        f"postgresql://u:{SECRET}@h:5432@d",
        f"postgresql://u:{SECRET}@h:port/d",
        f"postgresql://u:{SECRET}@h:99999/d",
        f"postgresql://u:{SECRET}",
        f"postgresql://u:p@s:{SECRET}/d",
        f"postgresql://u:p@[::1/{SECRET}",
        f"postgresql://u:p@h h/{SECRET}",
    ],
)
def test_unescaped_characters_are_reported_before_anything_is_sent(url: str) -> None:
    text = refusal(url)
    assert text.startswith("db.postgres.url: ")
    assert "percent-encode the user name and password" in text


# --- parameters ------------------------------------------------------------------------------------


def test_the_manual_has_the_table_of_parameters() -> None:
    page = (ROOT / "docs" / "reference" / "postgres-urls.md").read_text()
    rows = [tuple(cell.strip() for cell in row) for row in re.findall(r"^\|(.*)\|(.*)\|(.*)\|$", page, re.M)]
    table = [(", ".join(f"`{name}`" for name in row.names.split()), str(row.use), row.note) for row in TABLE]
    assert [row for row in rows if row[1] in tuple(Use)] == table
    assert len(PARAMETERS) == sum(len(row.names.split()) for row in TABLE), "one is there twice"


def parameters_of_asyncpg() -> set[str]:
    """Return the query parameters that the installed driver handles."""
    source = Path(asyncpg.__file__).with_name("connect_utils.py").read_text()
    comparisons = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare))
    return {
        node.left.value
        for node in comparisons
        if isinstance(node.left, ast.Constant)
        and isinstance(node.left.value, str)
        and any(isinstance(right, ast.Name) and right.id == "query" for right in node.comparators)
    }


def test_every_parameter_that_the_driver_knows_is_in_the_table() -> None:
    found = parameters_of_asyncpg()
    assert len(found) > 10
    assert found <= PARAMETERS.keys()


# Of libpq 18: https://www.postgresql.org/docs/18/libpq-connect.html
LIBPQ = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "require_auth",
    "channel_binding",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "replication",
    "gssencmode",
    "sslmode",
    "requiressl",
    "sslnegotiation",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslkeylogfile",
    "sslpassword",
    "sslcertmode",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "requirepeer",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "min_protocol_version",
    "max_protocol_version",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "service",
    "servicefile",
    "target_session_attrs",
    "load_balance_hosts",
]


@pytest.mark.parametrize("name", sorted({*LIBPQ, *PARAMETERS}))
def test_no_parameter_reaches_the_server_unless_it_is_meant_for_it(name: str, tmp_path: Path) -> None:
    meant = {*SERVER_SETTINGS.split(), "options", "application_name", "fallback_application_name"}
    row = PARAMETERS[name]
    value = sorted(row.only)[0] if row.only else "1"
    if name == "sslnegotiation":
        value = "postgres"  # The other one needs TLS.
    if name in ("sslcert", "sslkey", "sslrootcert", "sslcrl"):
        value = str(tmp_path / name)
        Path(value).touch()
    url = f"postgresql://u@h/d?{name}={value}"
    if row.use is Use.REFUSED:
        assert f"db.postgres.url: {name}: " in refusal(url)
        return
    if name in ("user", "dbname", "database", "host"):
        url = f"postgresql://?{name}={value}"
    sent = arguments(url)["server_settings"]
    assert sent.keys() - {"statement_timeout"} <= meant
    assert (name in sent) == (
        name in meant and name != "fallback_application_name"
    ) or name == "statement_timeout"


@pytest.mark.parametrize("name", ["nonsense", "ssl_mode", "my.setting", "work_mem_", "%73ecret"])
def test_an_unknown_parameter_is_refused_by_name(name: str) -> None:
    text = refusal(f"postgresql://u:{SECRET}@h/d?{name}={SECRET}")
    assert "db.postgres.url: " in text
    assert name.replace("%73", "s") in text


def test_a_misspelt_parameter_gets_a_suggestion() -> None:
    assert "sslmode?" in refusal("postgresql://h/d?ssl_mode=require")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (f"sslmode={SECRET}", "sslmode"),
        ("sslmode=disable&sslmode=require", "sslmode"),
        ("sslmode=disable&ssl=true", "ssl"),
        ("sslmode", "sslmode"),
        ("port=1&port=2", "port"),
        ("host=other", "host"),
        ("user=other", "user"),
        ("dbname=other", "dbname"),
        ("connect_timeout=soon", "connect_timeout"),
        ("statement_timeout=0", "statement_timeout"),
        ("statement_timeout=-5", "statement_timeout"),
        ("statement_timeout=1 fortnight", "statement_timeout"),
        ("options=-c%20statement_timeout%3D0", "statement_timeout"),
        ("keepalives=2", "keepalives"),
        ("keepalives_idle=-1", "keepalives_idle"),
        ("tcp_user_timeout=1.5", "tcp_user_timeout"),
        ("gssencmode=require", "gssencmode"),
        ("client_encoding=latin1", "client_encoding"),
        ("target_session_attrs=writer", "target_session_attrs"),
        ("hostaddr=192.0.2.1,192.0.2.2", "hostaddr"),
        ("pgbouncer=maybe", "pgbouncer"),
        ("pool_mode=statement", "pool_mode"),
        ("sslnegotiation=direct", "sslnegotiation"),
        ("sslmode=require&sslrootcert=system", "sslrootcert"),
        ("sslmode=verify-full", "sslrootcert"),
        ("schema=a;b", "schema"),
        ("prepared_statement_name_func=str", "prepared_statement_name_func"),
    ],
)
def test_an_invalid_value_is_rejected_by_the_parameters_name(query: str, name: str) -> None:
    text = refusal(f"postgresql://u:{SECRET}@h:5432/d?{query}")
    assert re.search(rf"\b{name}\b", text), text
    assert text.startswith("db.postgres.")


def test_empty_and_repeated_values_are_ignored() -> None:
    plain = arguments("postgresql://h/d")
    assert arguments("postgresql://h/d?") == plain
    assert arguments("postgresql://h/d?&sslmode=&channel_binding=&user=&") == plain
    assert arguments("postgresql://h/d?SSLMODE=DISABLE&sslmode=disable")["ssl"] == "disable"


@pytest.mark.parametrize(
    ("query", "option", "seconds"),
    [
        ("connect_timeout=3", 7, 3),
        ("CONNECT_TIMEOUT=2.5", 7, 2.5),
        ("connect_timeout=0", 7, 7),
        ("connect_timeout=-1", 7, 7),
        ("connect_timeout=", 7, 7),
        ("", 7, 7),
    ],
)
def test_connect_timeout_is_the_setting_and_the_url_wins(query: str, option: float, seconds: float) -> None:
    found = settings(f"postgresql://h/d?{query}", connect_timeout=option)
    assert found.connect_timeout == seconds
    assert connect_arguments(found)["timeout"] == seconds


@pytest.mark.parametrize(
    ("query", "seconds", "sent"),
    [
        ("statement_timeout=1234", 1.234, "1234"),
        ("statement_timeout=2s", 2, "2000"),
        ("statement_timeout=1min", 60, "60000"),
        ("options=-c%20statement_timeout%3D5s%20-c%20jit%3Doff", 5, "5000"),
        ("options=--statement-timeout%3D500", 0.5, "500"),
        ("", 7, "7000"),
    ],
)
def test_statement_timeout_is_the_setting_and_the_url_wins(query: str, seconds: float, sent: str) -> None:
    found = settings(f"postgresql://h/d?{query}", statement_timeout=7)
    assert found.statement_timeout == pytest.approx(seconds)
    assert connect_arguments(found)["server_settings"]["statement_timeout"] == sent


@pytest.mark.parametrize(
    ("url", "pgbouncer"),
    [
        ("postgresql://h/d?pgbouncer=true", True),
        ("postgresql://h/d?pgbouncer=1&connection_limit=1", True),
        ("postgresql://h/d?pool_mode=transaction", True),
        ("postgresql://h/d?pool_mode=session", False),
        ("postgresql://h/d", False),
        ("postgresql://ep-a-1-pooler.eu-central-1.aws.neon.tech/d?pgbouncer=false", False),
    ],
)
def test_pgbouncer_is_the_setting(url: str, pgbouncer: bool) -> None:
    found = settings(url)
    assert found.pgbouncer is pgbouncer
    given = connect_arguments(found)
    assert given.get("statement_cache_size") == (0 if pgbouncer else None)
    # A pooler refuses it.
    assert ("statement_timeout" in given["server_settings"]) is not pgbouncer


def test_the_schema_that_prisma_writes_is_the_setting() -> None:
    assert settings("postgresql://h/d?schema=chat").schema_name == "chat"
    assert settings("postgresql://h/d", schema="chat").schema_name == "chat"


def test_settings_of_the_server_are_sent_to_it() -> None:
    url = "postgresql://h/d?options=-c%20work_mem%3D8MB&lock_timeout=200&fallback_application_name=chat"
    assert arguments(url)["server_settings"] == {
        "options": "-c work_mem=8MB",
        "lock_timeout": "200",
        "application_name": "chat",
        "statement_timeout": "20000",
    }
    named = arguments(f"{url}&application_name=service")
    assert named["server_settings"]["application_name"] == "service"


def test_the_cache_of_statements_has_the_size_that_sqlalchemy_calls_it() -> None:
    for name in ("prepared_statement_cache_size", "statement_cache_size"):
        assert arguments(f"postgresql://h/d?{name}=7")["statement_cache_size"] == 7


def test_keepalives_become_options_of_the_socket() -> None:
    url = "postgresql://h/d?keepalives_idle=30&keepalives_count=0&tcp_user_timeout=5000"
    assert tcp_options(settings(url)) == [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000),
    ]
    without = tcp_options(settings("postgresql://h/d?keepalives=0&tcp_user_timeout=0"))
    assert without == [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)]
    assert tcp_options(settings("postgresql://h/d", tcp_keepalive=0, tcp_user_timeout=0)) == without
    by_settings = tcp_options(settings("postgresql://h/d", tcp_keepalive=40, tcp_user_timeout=2.5))
    assert (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 40) in by_settings
    assert (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2500) in by_settings


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_dropped_connection_is_detected_by_default(
    loop: str, tls: bool, postgres_url: str, tmp_path: Path
) -> None:
    factory = asyncio.new_event_loop if loop == "asyncio" else uvloop.new_event_loop

    async def found(query: str, front: TlsFront) -> list[int]:
        split = urlsplit(postgres_url)
        mode = "require" if tls else "disable"
        url = f"postgresql://{split.username}@127.0.0.1:{front.port}{split.path}?sslmode={mode}{query}"
        connection = await PostgresConnector(settings(url))()
        try:
            # As in `set_tcp_options`: asyncpg does not expose the socket.
            raw = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            told = [raw.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            return [raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), *told]
        finally:
            await connection.close()

    async def check() -> None:
        async with tls_front(postgres_url, tmp_path, plain=not tls) as front:
            assert await found("", front) == [1, 10, 2, 3, 1000]
            assert await found("&keepalives_idle=33&tcp_user_timeout=5000", front) == [1, 33, 2, 3, 5000]
            assert (await found("&keepalives=0", front))[0] == 0

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(check())


def test_hosts_that_share_the_load_are_attempted_in_any_order() -> None:
    url = "postgresql://h1:1,h2:2,h3:3/d?load_balance_hosts=random"
    seen = {
        tuple(zip(found["host"], found["port"], strict=True))
        for found in (arguments(url) for _ in range(200))
    }
    assert len(seen) == 6
    assert all(int(host[1]) == port for order in seen for host, port in order)
    assert arguments("postgresql://h1,h2/d?load_balance_hosts=disable")["host"] == ["h1", "h2"]


def test_an_ignored_parameter_is_logged_once_with_the_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_settings, "_logged", set())
    for _ in range(2):
        query = "channel_binding=require&gssencmode=prefer&sslsni=1&connection_limit=5"
        PostgresConnector(settings(f"postgresql://u:{SECRET}@h/d?{query}"))
        PostgresConnector(settings(f"postgresql://u:{SECRET}@h/d?channel_binding=prefer"))
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(" has no effect: ")[0] for text in texts] == [
        "db.postgres.url: channel_binding",
        "db.postgres.url: connection_limit",
    ]
    assert all(len(text.partition(" has no effect: ")[2]) > 10 for text in texts)
    assert SECRET not in caplog.text


# --- URLs as they are handed out -------------------------------------------------------------------

NEON = "ep-cool-darkness-123456{}.us-east-2.aws.neon.tech"
SUPABASE = "aws-0-eu-central-1.pooler.supabase.com"
RDS = "mydb.123456789012.us-east-1.rds.amazonaws.com"
AZURE = "mydemoserver.postgres.database.azure.com"


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "database", "pgbouncer", "tls"),
    [
        (
            f"postgresql://alex:p@{NEON.format('')}/neondb?sslmode=require&channel_binding=require",
            NEON.format(""),
            5432,
            "alex",
            "neondb",
            False,
            True,
        ),
        (
            f"postgresql://alex:p@{NEON.format('-pooler')}/neondb?sslmode=require&channel_binding=require",
            NEON.format("-pooler"),
            5432,
            "alex",
            "neondb",
            True,
            True,
        ),
        (
            "postgresql://postgres:p@db.abcdefghijklmnopqrst.supabase.co:5432/postgres",
            "db.abcdefghijklmnopqrst.supabase.co",
            5432,
            "postgres",
            "postgres",
            False,
            False,
        ),
        (
            f"postgres://postgres.abc:p@{SUPABASE}:5432/postgres",
            SUPABASE,
            5432,
            "postgres.abc",
            "postgres",
            False,
            False,
        ),
        (
            f"postgres://postgres.abc:p@{SUPABASE}:6543/postgres",
            SUPABASE,
            6543,
            "postgres.abc",
            "postgres",
            True,
            False,
        ),
        (
            f"postgres://postgres.abc:p@{SUPABASE}:6543/postgres?pgbouncer=true&connection_limit=1&sslmode=require"
            "&supa=base-pooler.x",
            SUPABASE,
            6543,
            "postgres.abc",
            "postgres",
            True,
            True,
        ),
        (
            f"postgresql://admin:p@{RDS}:5432/chat?sslmode=verify-full&sslrootcert=system",
            RDS,
            5432,
            "admin",
            "chat",
            False,
            True,
        ),
        (
            "postgresql+asyncpg://u:p@/chat?host=/cloudsql/project:europe-west1:instance",
            "/cloudsql/project:europe-west1:instance",
            5432,
            "u",
            "chat",
            False,
            False,
        ),
        (
            f"postgresql://me:p@{AZURE}:5432/postgres?sslmode=require",
            AZURE,
            5432,
            "me",
            "postgres",
            False,
            True,
        ),
        (
            f"postgresql://me%40mydemoserver:p@{AZURE}/postgres?sslmode=require",
            AZURE,
            5432,
            "me@mydemoserver",
            "postgres",
            False,
            True,
        ),
        (
            "postgres://u:p@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1?sslmode=require",
            "ec2-1-2-3-4.compute-1.amazonaws.com",
            5432,
            "u",
            "d1",
            False,
            True,
        ),
        (
            "postgresql://u:p@dpg-abc-a.oregon-postgres.render.com/d",
            "dpg-abc-a.oregon-postgres.render.com",
            5432,
            "u",
            "d",
            False,
            False,
        ),
        (
            "postgresql://postgres:p@postgres.railway.internal:5432/railway",
            "postgres.railway.internal",
            5432,
            "postgres",
            "railway",
            False,
            False,
        ),
        (
            "postgresql://u:p@a.cockroachlabs.cloud:26257/defaultdb?sslmode=verify-full&sslrootcert=system"
            "&options=--cluster%3Dname-123",
            "a.cockroachlabs.cloud",
            26257,
            "u",
            "defaultdb",
            False,
            True,
        ),
        (
            "postgresql://admin:p@a.aws.yugabyte.cloud:5433/yugabyte?ssl=true&sslmode=verify-full&sslrootcert=system",
            "a.aws.yugabyte.cloud",
            5433,
            "admin",
            "yugabyte",
            False,
            True,
        ),
    ],
)
def test_urls_of_cloud_providers_are_parsed(
    url: str, host: str, port: int, user: str, database: str, pgbouncer: bool, tls: bool
) -> None:
    found = settings(url)
    given = connect_arguments(found)
    assert (given["host"], given["port"]) == ([host], [port])
    assert (given["user"], given["password"], given["database"]) == (user, "p", database)
    assert found.pgbouncer is pgbouncer
    assert isinstance(given.get("ssl"), ssl.SSLContext) is tls
    if "verify-full" in url:
        assert given["ssl"].check_hostname
        assert given["ssl"].verify_mode is ssl.CERT_REQUIRED
    assert given["server_settings"].keys() <= {"statement_timeout", "options"}


def test_the_driver_takes_every_argument_that_it_is_given() -> None:
    import inspect

    taken = inspect.signature(asyncpg.connect).parameters.keys()
    url = (
        "postgresql://u:p@h1,h2/d?target_session_attrs=read-write&passfile=/p&krbsrvname=k&gsslib=gssapi"
        "&sslmode=require&sslnegotiation=direct&statement_cache_size=1"
    )
    assert arguments(url).keys() <= taken
    assert arguments("postgresql://h/d?sslmode=prefer&ssl_min_protocol_version=TLSv1.3").keys() <= taken


def test_parsing_reads_nothing_and_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector.asyncpg, "connect", lambda **_: pytest.fail("connects"))
    found = parse_url(f"postgresql://u:{SECRET}@h/d?sslmode=verify-full&sslrootcert=/no/such/file")
    assert found.parameters["sslrootcert"] == "/no/such/file"
    assert SECRET not in repr(found)
