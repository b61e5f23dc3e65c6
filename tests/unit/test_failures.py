from __future__ import annotations

import errno
import socket
import sqlite3
import ssl
import traceback
from pathlib import Path

import asyncpg
import pytest
from pymongo.errors import BulkWriteError, WriteError

from sessions import BackendUnavailableError, ConfigurationError
from sessions.core.failures import Place, masked_url, shown, upgrade_command, without_values

SECRET = "hunter2-Zq9"
CONTENT = "a very private thing to say"


def test_a_text_names_all_that_is_known_of_the_database() -> None:
    place = Place("PostgreSQL", ("one:5432", "two:5433"), "chats", "alice")
    error = place.unreachable("connection refused")
    assert isinstance(error, BackendUnavailableError)
    assert str(error) == (
        "cannot reach PostgreSQL at one:5432, two:5433, database chats, as user alice: connection refused"
    )


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("SQLite", ("/srv/chat.db",)), "SQLite at /srv/chat.db"),
        (Place("MongoDB", ("h:27017",), "chats"), "MongoDB at h:27017, database chats"),
        (Place("PostgreSQL"), "PostgreSQL"),
    ],
)
def test_what_is_not_known_is_left_out(place: Place, text: str) -> None:
    assert str(place) == text


def test_a_refused_setting_is_named_first() -> None:
    error = Place("PostgreSQL", ("h:1",), "nope", "u").refused("db.postgres.database", "there is none")
    assert isinstance(error, ConfigurationError)
    assert str(error) == (
        "db.postgres.database: cannot use PostgreSQL at h:1, database nope, as user u: there is none"
    )


def test_a_name_stays_on_one_line_and_ends() -> None:
    assert shown("a\nb\x1b[0m") == r"a\nb\x1b[0m"
    assert len(shown("x" * 10_000)) < 300


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"postgresql://u:{SECRET}@h:1/d?sslmode=require", "postgresql://u:***@h:1/d?sslmode=require"),
        (f"postgresql://u:x@{SECRET}@h/d", "postgresql://u:***@h/d"),
        (f"postgresql://u:x/{SECRET}@h/d", "postgresql://u:***@h/d"),
        (f"postgresql://u:x?{SECRET}@h/d", "postgresql://***"),
        (f"postgresql://u:x#{SECRET}@h/d", "postgresql://***"),
        (f"postgresql://h/d?user=u&password={SECRET}", "postgresql://h/d?user=u&password=***"),
        (f"postgresql://h/d?sslpassword={SECRET}&a=b", "postgresql://h/d?sslpassword=***&a=b"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("sqlite:////srv/chat.db", "sqlite:////srv/chat.db"),
        (f"mongodb://u:{SECRET}@h1:1,h2:2/d", "mongodb://u:***@h1:1,h2:2/d"),
        (SECRET, "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, masked: str) -> None:
    assert masked_url(url) == masked


def test_the_upgrade_command_repeats_the_option_that_was_given() -> None:
    assert upgrade_command("postgres") == "sessions db upgrade --backend postgres"
    assert upgrade_command("sqlite", url="sqlite:///chat.db") == "sessions db upgrade --url sqlite:///chat.db"
    assert upgrade_command("postgres", url=f"postgresql://u:{SECRET}@h/d?a=b") == (
        "sessions db upgrade --url 'postgresql://u:***@h/d?a=b'"
    )


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def rejected_row() -> BaseException:
    error = asyncpg.PostgresError.new(
        {"C": "23514", "M": "new row violates a check", "D": f"Failing row contains ({CONTENT}).", "n": "c"}
    )
    assert CONTENT in str(error)
    return raised(error)


def test_a_copy_of_a_servers_error_shows_no_row_and_the_error_stays_as_it_is() -> None:
    error = rejected_row()
    error.__context__ = ValueError(CONTENT)
    copy = without_values(error, hidden={"detail": None})
    assert type(copy) is asyncpg.CheckViolationError
    assert (copy.sqlstate, copy.constraint_name) == ("23514", "c")
    assert str(copy) == "new row violates a check"
    assert copy.__traceback__ is error.__traceback__ is not None
    assert CONTENT not in "".join(traceback.format_exception(copy))
    assert CONTENT in str(error)
    assert str(error.__context__) == CONTENT


@pytest.mark.parametrize(
    "error",
    [
        BulkWriteError({"writeErrors": [{"code": 121, "op": {"content": CONTENT}}]}),
        WriteError("Document failed validation", 121, {"op": {"content": CONTENT}}),
    ],
)
def test_a_copy_of_mongodbs_error_shows_no_document(error: WriteError | BulkWriteError) -> None:
    copy = without_values(error, text=lambda text: text.partition(", full error: ")[0])
    assert isinstance(copy, type(error))
    assert copy.code == error.code
    assert CONTENT not in f"{copy!s} {copy!r}"
    assert CONTENT in str(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/srv/s.PGSQL.5432"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        OSError("Multiple exceptions"),
        TimeoutError(),
        asyncpg.InterfaceError("closed", hint="open it"),
        sqlite3.OperationalError("unable to open database file"),
    ],
)
def test_a_copy_is_like_its_error(error: BaseException) -> None:
    error = raised(error)
    copy = without_values(error)
    assert copy is not error
    assert type(copy) is type(error)
    assert (str(copy), copy.args, vars(copy)) == (str(error), error.args, vars(error))
    if isinstance(error, OSError):
        assert isinstance(copy, OSError)
        assert (copy.errno, copy.strerror, copy.filename) == (error.errno, error.strerror, error.filename)


def test_a_copy_of_a_certificates_error_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message, error.verify_code, error.reason = "certificate has expired", 10, "FAILED"
    copy = without_values(error)
    assert isinstance(copy, ssl.SSLCertVerificationError)
    assert (copy.verify_message, copy.verify_code) == ("certificate has expired", 10)
