from __future__ import annotations

import dataclasses
import errno
import functools
import logging
import os
import pickle
import re
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

import sessions.config.files
from sessions.config import (
    MongoSettings,
    PasswordCallable,
    PostgresSettings,
    RedisSettings,
    Settings,
    SqliteSettings,
    config_file,
    load_settings,
)
from sessions.errors import ConfigurationError
from sessions.resilience import RetryConfig, RetryStrategy

SECRET = "hunter2-Zq9"

EXISTING_USER_FILE = """
db:
  mongodb: {host: "${MONGODB_HOST:localhost}", port: "${MONGODB_PORT:27017}",
            database: "${MONGODB_DB:agenthub}", username: "${MONGODB_USER:}",
            password: "${MONGODB_PASSWORD:}"}
  postgres: {host: "${POSTGRES_HOST:localhost}", port: "${POSTGRES_PORT:5432}",
             database: "${POSTGRES_DB:agenthub}", username: "${POSTGRES_USER:postgres}",
             password: "${POSTGRES_PASSWORD}", pool_size: 10}
"""

Configure = Callable[[str], Path]


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("MONGODB_", "POSTGRES_", "SQLITE_", "SESSIONS_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write a settings file and name it in SESSIONS_CONFIG."""

    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        monkeypatch.setenv("SESSIONS_CONFIG", str(path))
        return path

    return write


def secret(value: object) -> str | None:
    return value.get_secret_value() if value is not None else None  # type: ignore[attr-defined]


# --- which file ------------------------------------------------------------------------------------


def test_shipped_file_gives_the_defaults_of_the_models() -> None:
    settings = load_settings()

    assert config_file() == Path(sessions.config.files.__file__).with_name("application-db.yaml")
    assert settings.backend("postgres") == PostgresSettings()
    assert settings.backend("mongodb") == MongoSettings()
    assert settings.backend("sqlite") == SqliteSettings()
    assert settings.backend("redis") == RedisSettings()
    assert settings.sessions.default_repository == "mongodb"
    assert settings.sessions.retry is None
    assert settings == Settings()


def test_defaults_are_the_historical_ones() -> None:
    postgres, mongodb, sqlite = PostgresSettings(), MongoSettings(), SqliteSettings()

    assert (postgres.host, postgres.port, postgres.database) == ("localhost", 5432, "agenthub")
    assert (postgres.username, postgres.password, postgres.url) == ("postgres", None, None)
    assert (mongodb.host, mongodb.port, mongodb.database) == ("localhost", 27017, "agenthub")
    assert (mongodb.username, mongodb.password, mongodb.url) == (None, None, None)
    assert (sqlite.path, sqlite.url) == ("sessions.db", None)
    assert (postgres.pool_size, postgres.max_overflow, postgres.auto_migrate) == (10, 10, True)


@pytest.mark.parametrize(
    ("variable", "backend", "key", "text", "value"),
    [
        ("POSTGRES_HOST", "postgres", "host", "pg.example", "pg.example"),
        ("POSTGRES_PORT", "postgres", "port", "6543", 6543),
        ("POSTGRES_DB", "postgres", "database", "chats", "chats"),
        ("POSTGRES_USER", "postgres", "username", "app", "app"),
        ("POSTGRES_PASSWORD", "postgres", "password", "007", "007"),
        ("POSTGRES_URL", "postgres", "url", "postgresql://a:b@c:1/d", "postgresql://a:b@c:1/d"),
        ("MONGODB_HOST", "mongodb", "host", "mongo.example", "mongo.example"),
        ("MONGODB_PORT", "mongodb", "port", "27018", 27018),
        ("MONGODB_DB", "mongodb", "database", "chats", "chats"),
        ("MONGODB_USER", "mongodb", "username", "app", "app"),
        ("MONGODB_PASSWORD", "mongodb", "password", "1e5", "1e5"),
        ("MONGODB_URL", "mongodb", "url", "mongodb://a:b@c:1/d", "mongodb://a:b@c:1/d"),
        ("SQLITE_PATH", "sqlite", "path", "/var/chats.db", "/var/chats.db"),
    ],
)
def test_shipped_file_reads_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, backend: str, key: str, text: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)

    settings = load_settings().backend(backend)  # type: ignore[call-overload]
    found = getattr(settings, key)

    assert (secret(found) if key in ("password", "url") else found) == value
    others = type(settings)().model_dump(exclude={key})
    assert settings.model_dump(exclude={key}) == others


EXCEPTIONS = {
    "db.mongodb.database": "MONGODB_DB",
    "db.mongodb.username": "MONGODB_USER",
    "db.postgres.database": "POSTGRES_DB",
    "db.postgres.username": "POSTGRES_USER",
    "db.redis.username": "REDIS_USER",
}


def every_key() -> Iterator[str]:
    """Yield each key that the models know, so that none can be forgotten in the shipped file."""

    def walk(prefix: str, model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            key = f"{prefix}{field.alias or name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from walk(f"{key}.", field.annotation)
            elif key == "sessions.retry":
                yield from (f"{key}.{part.name}" for part in dataclasses.fields(RetryConfig))
            else:
                yield key

    yield from walk("", Settings)


def variable_of(key: str) -> str:
    return EXCEPTIONS.get(key, key.removeprefix("db.").replace(".", "_").upper())


def value_of(key: str, settings: Settings) -> Any:
    found: Any = settings
    for name in key.split("."):
        found = getattr(found, "schema_name" if name == "schema" else name, None)
    return found


def test_every_key_has_a_variable_of_its_name_in_the_shipped_file() -> None:
    tree = yaml.safe_load(config_file().read_text("utf-8"))

    def leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
        for name, item in value.items():
            if isinstance(item, dict):
                yield from leaves(f"{prefix}{name}.", item)
            else:
                yield f"{prefix}{name}", re.sub(r"^\$\{(\w+):[^}]*\}$", r"\1", item)

    assert dict(leaves("", tree)) == {key: variable_of(key) for key in every_key()}


@pytest.mark.parametrize("key", list(every_key()))
def test_the_variable_of_every_key_is_read(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    def read(text: str) -> Settings | None:
        monkeypatch.setenv(variable_of(key), text)
        try:
            return load_settings()
        except ConfigurationError:
            return None

    default = value_of(key, Settings())
    # The first of these values that the key accepts, and that is not its default.
    texts = ("7", "require", "linear", "true", "false")
    text, changed = next(
        (text, found) for text in texts if (found := read(text)) and value_of(key, found) != default
    )
    assert value_of(key, changed) in (int(text) if text.isdigit() else text, text, text == "true") or (
        secret(value_of(key, changed)) == text
    )
    unchanged = {other for other in every_key() if not (other.startswith("sessions.retry") or other == key)}
    for other in unchanged:
        assert value_of(other, changed) == value_of(other, Settings()), other

    monkeypatch.setenv(variable_of(key), "")
    assert load_settings() == Settings()


def test_one_variable_of_the_retries_leaves_the_others_at_their_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SESSIONS_RETRY_MAX_ATTEMPTS", "7")

    assert load_settings().sessions.retry == RetryConfig(max_attempts=7)


WRONG = "one of seven"
TEXTS = {
    "host",
    "database",
    "username",
    "password",
    "auth_source",
    "url",
    "schema",
    "path",
    "prefix",
    "namespace",
}


@pytest.mark.parametrize(
    "key", [key for key in every_key() if key.rpartition(".")[2] not in TEXTS | {"default_repository"}]
)
def test_a_wrong_value_names_its_variable_and_is_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(variable_of(key), WRONG)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    text = str(caught.value)
    assert text.startswith(f"{variable_of(key)}: '{WRONG}' is not ")
    assert text.endswith(f"({key})")
    assert str(Path(sessions.__file__).parent) not in text


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("POSTGRES_PORT", "abc", "'abc' is not an integer (db.postgres.port)"),
        ("MONGODB_PORT", "0", "'0' is not greater than or equal to 1 (db.mongodb.port)"),
        (
            "POSTGRES_PORT",
            "tcp://10.0.0.1:5432",
            "'tcp://10.0.0.1:5432' is not an integer (db.postgres.port)",
        ),
        ("POSTGRES_POOL_TIMEOUT", "soon", "'soon' is not a valid number (db.postgres.pool_timeout)"),
        ("SQLITE_AUTO_MIGRATE", "maybe", "'maybe' is not a valid boolean (db.sqlite.auto_migrate)"),
        (
            "SESSIONS_RETRY_STRATEGY",
            "twice",
            "'twice' is not 'exponential', 'linear' or 'constant' (sessions.retry.strategy)",
        ),
        (
            "POSTGRES_SSL",
            "x\ny",
            "'x\\ny' is not a boolean or one of disable, allow, prefer, require, verify-ca, verify-full"
            " (db.postgres.ssl)",
        ),
        ("MONGODB_PORT", "9" * 100, f"'{'9' * 60}…' is not less than or equal to 65535 (db.mongodb.port)"),
        # It may be a URL in the wrong variable.
        ("POSTGRES_PORT", "a:b@h:5432", "its value is not an integer (db.postgres.port)"),
    ],
)
def test_what_is_wrong_with_a_variable_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(caught.value) == f"{variable}: {text}"


def test_a_variable_of_a_file_of_ones_own_is_named_with_the_file(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configure(
        "db: {postgres: {port: '${A_PORT}', pool_size: '1${A_SIZE:}', max_overflow: '${UNSET:x}'}}"
    )
    monkeypatch.setenv("A_PORT", "a")
    monkeypatch.setenv("A_SIZE", "b")

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    size, port, overflow = str(caught.value).split("; ")
    assert port == f"A_PORT: 'a' is not an integer (db.postgres.port in {path})"
    assert size == f"A_SIZE: its value is not an integer (db.postgres.pool_size in {path})"
    assert overflow.startswith(f"{path}: db.postgres.max_overflow: Input should be a valid integer")


def test_the_value_of_a_variable_is_not_shown_where_it_is_also_a_password(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(f"db: {{postgres: {{port: '${{A_PORT}}'}}, mongodb: {{password: {SECRET}}}}}")
    monkeypatch.setenv("A_PORT", f"={SECRET}")

    with pytest.raises(ConfigurationError, match=r"^A_PORT: its value is not an integer") as caught:
        load_settings()

    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("replaced", [False, True])
def test_the_environment_is_read_whole_and_as_it_is_now(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    # Fails too if Python changes the internals of os.environ: reading settings would be slow again.
    assert isinstance(os.environ._data, dict)  # type: ignore[attr-defined]
    assert os.fsencode("PATH") in os.environ._data  # type: ignore[attr-defined]
    if replaced:
        monkeypatch.setattr(os, "environ", dict(os.environ))
    configure("db: {sqlite: {path: '${A_PATH:none}'}}")
    if replaced:
        os.environ["SESSIONS_CONFIG"] = "settings.yaml"
    paths = []
    for value in ("ünïcode😀", "two"):
        os.environ["A_PATH"] = value
        paths.append(load_settings().backend("sqlite").path)
    del os.environ["A_PATH"]

    assert [*paths, load_settings().backend("sqlite").path] == ["ünïcode😀", "two", "none"]


def test_shipped_file_reads_the_default_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "sqlite")

    assert load_settings().sessions.default_repository == "sqlite"


def test_resources_file_in_the_working_directory_is_picked_up(tmp_path: Path) -> None:
    local = tmp_path / "resources" / "application-db.yaml"
    local.parent.mkdir()
    local.write_text("db: {sqlite: {path: local.db}}")

    assert config_file() == local
    assert load_settings().backend("sqlite").path == "local.db"


def test_resources_file_is_looked_up_again_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "resources").mkdir(parents=True)
        (tmp_path / name / "resources" / "application-db.yaml").write_text(
            f"db: {{sqlite: {{path: {name}}}}}"
        )

    paths = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        paths.append(load_settings().backend("sqlite").path)

    assert paths == ["one", "two"]


def test_sessions_config_goes_before_the_resources_file(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "application-db.yaml").write_text("db: {sqlite: {path: local.db}}")
    named = configure("db: {sqlite: {pool_size: 3}}")

    assert config_file() == named
    # No merging: the path is the model's default, not the other file's.
    assert load_settings().backend("sqlite") == SqliteSettings(pool_size=3)


def test_sessions_config_may_be_relative_to_the_working_directory(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configure("db: {sqlite: {path: named.db}}")
    monkeypatch.setenv("SESSIONS_CONFIG", path.name)

    assert load_settings().backend("sqlite").path == "named.db"


def test_an_empty_sessions_config_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONS_CONFIG", "")

    assert load_settings() == Settings()


def test_a_missing_named_file_is_an_error_that_names_variable_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_CONFIG", str(tmp_path / "absent.yaml"))

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert "SESSIONS_CONFIG" in str(caught.value)
    assert str(tmp_path / "absent.yaml") in str(caught.value)


def test_a_directory_in_place_of_the_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_CONFIG", str(tmp_path))

    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        load_settings()

    assert str(tmp_path) in str(caught.value)


def test_an_unreadable_file_is_an_error(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    path = configure("db: {}")

    def refuse(_: Path) -> bytes:
        # What chmod(0) would do, also to root.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(caught.value) == f"{path}: cannot be read: Permission denied"
    assert isinstance(caught.value.__cause__, PermissionError)


def test_a_settings_file_whose_link_leads_nowhere_is_an_error(configure: Configure) -> None:
    path = configure("")
    path.unlink()
    path.symlink_to(path.with_name("gone.yaml"))

    with pytest.raises(ConfigurationError, match="there is no file"):
        load_settings()


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "db:\nsessions:\n", "db: {}\n", "db:\n  postgres:\n", "{}"]
)
def test_an_empty_file_or_section_gives_the_defaults(configure: Configure, text: str) -> None:
    configure(text)

    assert load_settings() == Settings()


@pytest.mark.parametrize("text", ["- db", "just text", "'5'"])
def test_a_file_without_a_mapping_is_an_error(configure: Configure, text: str) -> None:
    path = configure(text)

    with pytest.raises(ConfigurationError, match="must hold a mapping") as caught:
        load_settings()

    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_ignored(configure: Configure) -> None:
    path = configure("")
    path.write_bytes(b"\xef\xbb\xbfdb: {sqlite: {path: bom.db}}")

    assert load_settings().backend("sqlite").path == "bom.db"


# --- the files that users have ---------------------------------------------------------------------


def test_an_existing_user_file_loads_as_it_is(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(EXISTING_USER_FILE)
    monkeypatch.setenv("POSTGRES_PASSWORD", "12345")

    postgres = load_settings().backend("postgres")

    assert secret(postgres.password) == "12345"
    assert postgres == PostgresSettings(password="12345")
    assert load_settings().backend("mongodb") == MongoSettings()


def test_a_variable_that_the_file_does_not_ask_for_is_not_read(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(EXISTING_USER_FILE)
    monkeypatch.setenv("POSTGRES_PASSWORD", "p")
    monkeypatch.setenv("POSTGRES_URL", "postgresql://elsewhere/x")
    monkeypatch.setenv("DB", '{"postgres": {"host": "elsewhere"}}')

    postgres = load_settings().backend("postgres")

    assert postgres.url is None
    assert postgres.host == "localhost"


def test_merge_keys_still_work(configure: Configure) -> None:
    configure(
        """
        db:
          postgres: &pool {pool_size: 4, pool_timeout: 2}
          mongodb: {<<: *pool, port: 27019}
        """
    )

    assert load_settings().backend("mongodb") == MongoSettings(pool_size=4, pool_timeout=2, port=27019)


# --- types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["007", "12345", "1e5", "0x1F", "true", "no", "2024-01-01", "1_000", "=", ".5", "12:30", "ünïcode😀"],
)
@pytest.mark.parametrize("way", ["file", "quoted", "variable", "default"])
def test_a_password_stays_the_text_it_is(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, text: str, way: str
) -> None:
    monkeypatch.setenv("PASSWORD_OF_TEST", text if way == "variable" else "")
    written = {
        "file": text,
        "quoted": f"'{text}'",
        "variable": "${PASSWORD_OF_TEST}",
        "default": f"${{PASSWORD_OF_TEST:{text}}}",
    }[way]
    configure(f"db:\n  postgres:\n    password: {written}\n")

    assert secret(load_settings().backend("postgres").password) == text


def test_values_take_the_type_of_their_field(configure: Configure) -> None:
    configure(
        """
        db:
          postgres: {port: 6000, pool_size: "20", max_overflow: 0, pool_timeout: 2.5, connect_timeout: 3,
                     ssl: require, auto_migrate: false, database: 123}
          sqlite: {busy_timeout: 0.25, auto_migrate: "no"}
        """
    )
    postgres, sqlite = load_settings().backend("postgres"), load_settings().backend("sqlite")

    assert postgres == PostgresSettings(
        port=6000,
        pool_size=20,
        max_overflow=0,
        pool_timeout=2.5,
        connect_timeout=3.0,
        ssl="require",
        auto_migrate=False,
        database="123",
    )
    assert isinstance(postgres.pool_size, int)
    assert isinstance(postgres.pool_timeout, float)
    assert (sqlite.busy_timeout, sqlite.auto_migrate) == (0.25, False)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("verify-full", "verify-full"), ("''", None)]
)
def test_ssl_is_a_boolean_or_a_mode(configure: Configure, text: str, value: object) -> None:
    configure(f"db: {{postgres: {{ssl: {text}}}}}")

    assert (
        load_settings().backend("postgres").ssl is value or load_settings().backend("postgres").ssl == value
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("db.postgres.port", "tcp://10.0.0.1:5432"),
        ("db.postgres.port", "0"),
        ("db.postgres.port", "65536"),
        ("db.postgres.pool_size", "0"),
        ("db.postgres.pool_size", "many"),
        ("db.postgres.pool_size", "2.5"),
        ("db.postgres.max_overflow", "-1"),
        ("db.postgres.pool_timeout", "0"),
        ("db.postgres.pool_timeout", "inf"),
        ("db.postgres.pool_timeout", "nan"),
        ("db.postgres.connect_timeout", "soon"),
        ("db.postgres.ssl", "maybe"),
        ("db.postgres.auto_migrate", "perhaps"),
        ("db.postgres.host", "[a, b]"),
        ("db.postgres.password", "{a: b}"),
        ("db.mongodb.port", "x"),
        ("db.mongodb.pool_size", "0"),
        ("db.sqlite.busy_timeout", "-1"),
        ("db.sqlite", "sessions.db"),
        ("db", "postgresql://u:p@h/d"),
        ("sessions.default_repository", "[mongodb]"),
        ("sessions.retry", "3"),
        ("sessions.retry.max_attempts", "0"),
        ("sessions.retry.base_delay", "-1"),
        ("sessions.retry.max_delay", "inf"),
        ("sessions.retry.max_elapsed", "0"),
        ("sessions.retry.strategy", "fibonacci"),
        ("sessions.retry.jitter", "some"),
        ("database", "x"),
        ("DB", "{}"),
        ("_env_file", "x"),
        ("tree", "{}"),
        ("db.oracle", "{host: h}"),
        ("db.postgres.user", "x"),
        ("db.mongodb.max_overflow", "1"),
        ("db.sqlite.5", "x"),
        ("sessions.defualt_repository", "sqlite"),
        ("sessions.retry.attempts", "3"),
    ],
)
def test_a_wrong_type_or_an_unknown_key_is_an_error_that_names_file_and_key(
    configure: Configure, key: str, text: str
) -> None:
    *parents, name = key.split(".")
    lines = [f"{'  ' * depth}{parent}:" for depth, parent in enumerate(parents)]
    path = configure("\n".join([*lines, f"{'  ' * len(parents)}{name}: {text}"]))

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(caught.value).startswith(f"{path}: {key}: ")
    assert str(caught.value).count(key + ":") == 1


def test_an_unknown_key_is_called_unknown(configure: Configure) -> None:
    configure("db: {postgres: {pol_size: 5}}")

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.pol_size: unknown key$"):
        load_settings()


def test_all_wrong_keys_are_named_at_once(configure: Configure) -> None:
    configure("db: {postgres: {port: x}, mongodb: {bogus: y}}")

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert "db.postgres.port: " in str(caught.value)
    assert "db.mongodb.bogus: unknown key" in str(caught.value)


# --- interpolation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${SET_A}", "alpha"),
        ("${SET_A:other}", "alpha"),
        ("${NOT_SET:other}", "other"),
        ("${EMPTY:other}", "other"),
        ("pre-${SET_A}-mid-${NOT_SET:x}-${SET_B}", "pre-alpha-mid-x-${SET_A}"),
        ("${NOT_SET:mongodb://localhost:27017}", "mongodb://localhost:27017"),
        ("${NOT_SET:}x", "x"),
        ("${SET_B}", "${SET_A}"),
        ("$SET_A {SET_A} $ {x}", "$SET_A {SET_A} $ {x}"),
        ("${NOT-A-NAME}", "${NOT-A-NAME}"),
        ("${NOT_SET: spaced }", " spaced "),
    ],
)
def test_placeholders_are_replaced_anywhere_in_a_value(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.setenv("SET_A", "alpha")
    monkeypatch.setenv("SET_B", "${SET_A}")
    monkeypatch.setenv("EMPTY", "")
    configure(f"db: {{postgres: {{database: '{text}'}}}}")

    assert load_settings().backend("postgres").database == expected


def test_keys_are_not_interpolated(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_NAME", "host")
    configure("db: {postgres: {'${KEY_NAME}': x}}")

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.\$\{KEY_NAME\}: unknown key"):
        load_settings()


@pytest.mark.parametrize("written", ["''", "", "~", "${EMPTY:}", "'${EMPTY:}${EMPTY:}'"])
def test_an_empty_value_takes_the_default_of_the_model(configure: Configure, written: str) -> None:
    configure(f"db:\n  postgres:\n    username: {written}\n    port: {written}\n    password: {written}\n")

    assert load_settings().backend("postgres") == PostgresSettings()


def test_a_default_that_holds_a_placeholder_is_an_error(configure: Configure) -> None:
    configure("db: {postgres: {host: '${A_HOST:${B_HOST:localhost}}'}}")

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.host: .*A_HOST"):
        load_settings()


def test_a_change_of_the_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []
    for host in ("one", "two", ""):
        monkeypatch.setenv("POSTGRES_HOST", host)
        hosts.append(load_settings().backend("postgres").host)

    assert hosts == ["one", "two", "localhost"]


def test_a_change_of_the_file_is_seen(configure: Configure) -> None:
    path = configure("db: {sqlite: {path: a.db}}")
    assert load_settings().backend("sqlite").path == "a.db"

    path.write_text("db: {sqlite: {path: b.db}}")
    os.utime(path, ns=(1, 1))  # the same size, another time

    assert load_settings().backend("sqlite").path == "b.db"


def test_an_unchanged_file_is_parsed_once(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(EXISTING_USER_FILE)
    load_settings()
    monkeypatch.setattr("sessions.config.files.yaml.load", pytest.fail)
    monkeypatch.setenv("POSTGRES_PASSWORD", "p")

    assert secret(load_settings().backend("postgres").password) == "p"


def test_unchanged_settings_are_not_built_again() -> None:
    assert load_settings() is load_settings()


# --- variables that are not set --------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_variable_is_an_error_only_when_its_backend_is_used(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    path = configure(EXISTING_USER_FILE)
    if value is not None:
        monkeypatch.setenv("POSTGRES_PASSWORD", value)
    settings = load_settings()

    assert settings.backend("mongodb") == MongoSettings()
    with pytest.raises(ConfigurationError) as caught:
        settings.backend("postgres")
    assert (
        str(caught.value)
        == f"{path}: db.postgres.password: environment variable POSTGRES_PASSWORD is not set"
    )


def test_all_unset_variables_of_a_value_are_named(configure: Configure) -> None:
    configure("db: {mongodb: {url: 'mongodb://${NO_USER}:${NO_PASS}@h/${NO_USER}'}}")

    with pytest.raises(
        ConfigurationError, match=r"db\.mongodb\.url: environment variables NO_USER, NO_PASS are"
    ):
        load_settings().backend("mongodb")


def test_a_url_makes_unset_parts_unneeded(configure: Configure) -> None:
    configure("db: {postgres: {url: 'postgresql://h/d', host: '${NO_HOST}', password: '${NO_PASSWORD}'}}")

    assert secret(load_settings().backend("postgres").url) == "postgresql://h/d"


def test_a_url_does_not_make_an_unset_pool_size_unneeded(configure: Configure) -> None:
    configure("db: {postgres: {url: 'postgresql://h/d', pool_size: '${NO_POOL}'}}")

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.pool_size: environment variable NO_POOL"):
        load_settings().backend("postgres")


def test_an_unset_url_is_an_error_beside_parts(configure: Configure) -> None:
    configure("db: {postgres: {url: '${NO_URL}', host: h}}")

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.url: environment variable NO_URL"):
        load_settings().backend("postgres")


@pytest.mark.parametrize("overrides", [{"url": "postgresql://h/d"}, {"password": "given"}])
def test_an_override_makes_the_unset_variable_unneeded(
    configure: Configure, overrides: dict[str, object]
) -> None:
    configure(EXISTING_USER_FILE)
    (key,) = overrides

    assert secret(getattr(load_settings().backend("postgres", **overrides), key)) == overrides[key]


def test_an_override_of_none_leaves_the_variable_needed(configure: Configure) -> None:
    configure(EXISTING_USER_FILE)

    with pytest.raises(ConfigurationError, match="POSTGRES_PASSWORD"):
        load_settings().backend("postgres", password=None, url=None)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("sessions: {default_repository: '${NO_NAME}'}", "sessions.default_repository"),
        ("sessions: {retry: {max_attempts: '${NO_NAME}'}}", "sessions.retry.max_attempts"),
        ("db: '${NO_NAME}'", "db"),
        ("db: {postgres: '${NO_NAME}'}", "db.postgres"),
    ],
)
def test_an_unset_variable_outside_the_backends_is_an_error_at_once(
    configure: Configure, text: str, key: str
) -> None:
    path = configure(text)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(caught.value) == f"{path}: {key}: environment variable NO_NAME is not set"


def test_an_unknown_key_is_reported_though_its_variable_is_unset(configure: Configure) -> None:
    configure("db: {postgres: {bogus: '${NO_NAME}'}}")

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.bogus: unknown key"):
        load_settings()


def test_an_unknown_backend_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="mongodb, postgres, sqlite, redis"):
        load_settings().backend("oracle")  # type: ignore[call-overload]


# --- overrides -------------------------------------------------------------------------------------


def test_overrides_replace_values_and_keep_the_others(configure: Configure) -> None:
    configure("db: {postgres: {host: filed, pool_size: 3, password: p}}")
    configured = load_settings().backend("postgres")

    replaced = configured.with_overrides(pool_size=7, url=None, auto_migrate=False)

    assert replaced == PostgresSettings(
        host="filed",
        pool_size=7,
        password="p",
        auto_migrate=False,
    )
    assert configured.pool_size == 3


def test_a_path_object_is_taken_for_sqlite(tmp_path: Path) -> None:
    assert SqliteSettings().with_overrides(path=tmp_path / "x.db").path == str(tmp_path / "x.db")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pool_size", 0),
        ("pool_size", True),
        ("pool_size", "many"),
        ("pool_timeout", float("inf")),
        ("host", 5),
        ("host", ""),
        ("url", ""),
        ("url", 5),
        ("ssl", "maybe"),
        ("dsn", "postgresql://h/d"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_the_key(key: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings().backend("postgres", **{key: value})

    assert str(caught.value).startswith(f"db.postgres.{key}: ")
    assert isinstance(caught.value.__cause__, ValidationError)


def test_an_override_of_a_part_is_refused_where_the_configured_url_would_win(configure: Configure) -> None:
    configure("db: {postgres: {url: 'postgresql://h/d'}, sqlite: {url: 'sqlite:///a.db'}}")
    settings = load_settings()

    with pytest.raises(ConfigurationError, match=r"^db\.postgres\.host: .* db\.postgres\.url"):
        settings.backend("postgres", host="other", pool_size=3)
    with pytest.raises(ConfigurationError, match=r"^db\.sqlite\.path: "):
        settings.backend("sqlite", path="b.db")
    assert (
        secret(settings.backend("postgres", url="postgresql://i/d", host="other").url) == "postgresql://i/d"
    )
    assert settings.backend("postgres", pool_size=3).pool_size == 3


# --- callable passwords ----------------------------------------------------------------------------


class Token:
    """Returns tokens from a method; compared by value, and so not hashable."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and other.text == self.text

    def read(self) -> str:
        return self.text

    __call__ = read


async def token_of_test() -> str:
    return SECRET


async def ask(settings: PostgresSettings | MongoSettings) -> str:
    assert isinstance(settings.password, PasswordCallable)
    return await settings.password()


@pytest.mark.parametrize("backend", ["postgres", "mongodb"])
@pytest.mark.parametrize("password", [lambda: SECRET, token_of_test, Token(SECRET), Token(SECRET).read])
async def test_a_password_may_be_a_callable(backend: Any, password: Any) -> None:
    settings = load_settings().backend(backend, password=password)

    assert await ask(settings) == SECRET
    assert settings == load_settings().backend(backend, password=password)
    assert hash(settings) == hash(load_settings().backend(backend, password=password))
    assert settings != load_settings().backend(backend, password=lambda: SECRET)
    assert settings.with_overrides(pool_size=3).password == settings.password


def test_the_same_method_of_the_same_object_is_the_same_password() -> None:
    token = Token(SECRET)

    first, again, other = (
        PostgresSettings().with_overrides(password=read) for read in (token.read, token.read, Token("x").read)
    )

    assert first == again != other
    assert len({first, again, other}) == 2


def test_what_a_password_callable_holds_is_not_shown() -> None:
    settings = PostgresSettings().with_overrides(password=functools.partial(str, SECRET))

    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.password)):
        assert SECRET not in shown


async def test_a_callable_that_returns_no_text_is_an_error_that_does_not_show_it() -> None:
    settings = PostgresSettings().with_overrides(password=lambda: [SECRET])

    with pytest.raises(ConfigurationError, match=r"^password: the callable returned list, not str$"):
        await ask(settings)


def test_a_password_callable_goes_with_a_configured_url(configure: Configure) -> None:
    configure("db: {postgres: {url: 'postgresql://iam@h/d'}}")

    settings = load_settings().backend("postgres", password=token_of_test)

    assert (secret(settings.url), callable(settings.password)) == ("postgresql://iam@h/d", True)


@pytest.mark.parametrize("value", [5, ["x"], {"k": "x"}])
def test_a_password_is_text_or_a_callable(value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresSettings().with_overrides(password=value)

    text = "db.postgres.password: Input should be a string, or a callable that returns one"
    assert str(caught.value) == text


# --- retry -----------------------------------------------------------------------------------------


def test_retry_keys_give_a_retry_config(configure: Configure) -> None:
    configure(
        "sessions: {retry: {max_attempts: 7, base_delay: 0.1, max_delay: 2, strategy: linear, jitter: false, "
        "max_elapsed: 9}}"
    )

    assert load_settings().sessions.retry == RetryConfig(
        max_attempts=7,
        base_delay=0.1,
        max_delay=2.0,
        strategy=RetryStrategy.LINEAR,
        jitter=False,
        max_elapsed=9.0,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{max_attempts: 2}", RetryConfig(max_attempts=2)), ("{}", RetryConfig()), ("", None)],
)
def test_missing_retry_keys_take_the_defaults_of_retry_config(
    configure: Configure, text: str, expected: RetryConfig | None
) -> None:
    configure(f"sessions:\n  retry: {text}\n")

    assert load_settings().sessions.retry == expected


# --- models as cache keys --------------------------------------------------------------------------


def test_equal_settings_are_one_cache_key_however_they_came_about(configure: Configure) -> None:
    configure("db: {postgres: {host: localhost, port: '5432', password: p, url: '${NO_URL:}'}}")
    loaded = load_settings().backend("postgres")
    made = PostgresSettings(password="p")

    assert loaded == made == PostgresSettings().with_overrides(password="p")
    assert len({loaded, made, loaded.with_overrides(pool_size=10)}) == 1
    assert len({loaded, loaded.with_overrides(password="q")}) == 2
    assert hash(load_settings()) == hash(load_settings())


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().backend("postgres").host = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().sessions = None  # type: ignore[misc, assignment]


# --- secrets ---------------------------------------------------------------------------------------


def everything_shown(error: BaseException) -> str:
    chain = [error]
    while (linked := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(linked)
    texts = [text for link in chain for text in (str(link), repr(link))]
    return "\n".join([*texts, *traceback.format_exception(error)])


def test_no_secret_is_in_the_representation_of_settings(configure: Configure) -> None:
    configure(
        f"""
        db:
          postgres: {{password: {SECRET}, url: 'postgresql://u:{SECRET}@h/d'}}
          mongodb: {{password: {SECRET}, url: 'mongodb://u:{SECRET}@h/d'}}
          sqlite: {{url: 'postgresql://u:{SECRET}@h/d'}}
        """
    )
    settings = load_settings()

    for shown in (
        settings,
        settings.db,
        *(getattr(settings.db, name) for name in ("postgres", "mongodb", "sqlite")),
    ):
        assert SECRET not in repr(shown)
        assert SECRET not in str(shown)
        assert SECRET not in f"{shown}"
    assert SECRET not in settings.db.postgres.model_dump_json()


@pytest.mark.parametrize(
    "text",
    [
        "db: {postgres: {password: S, port: x}}",
        "db: {postgres: {password: S, bogus: S}}",
        "db: {postgres: {passwrod: S}}",
        "db: {postgres: {password: [S]}}",
        "db: {postgres: {password: {k: S}}}",
        "db: {postgres: {port: S, pool_size: S, pool_timeout: S, ssl: S, auto_migrate: S}}",
        "db: {postgres: 'postgresql://u:S@h/d'}",
        "db: 'postgresql://u:S@h/d'",
        "db: [S]",
        "password: S",
        "sessions: {retry: {strategy: S, max_attempts: S}}",
        "sessions: {default_repository: [S]}",
        "sessions: S",
    ],
)
def test_no_secret_is_in_an_error_about_a_value(configure: Configure, text: str) -> None:
    configure(text.replace("S", SECRET))

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert SECRET not in everything_shown(caught.value)
    assert isinstance(caught.value.__cause__, ValidationError)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("db:\n  postgres:\n    password: S: x\n", 3),
        ("db:\n  postgres: {password: 'S\n", 3),
        ("db:\n  postgres:\n    password: *S\n", 3),
        ("db:\n  postgres:\n    password: !S x\n", 3),
        ("db:\n  postgres:\n    password: !!python/name:S x\n", 3),
        ('db:\n  postgres:\n    password: "\\SS"\n', 3),
        ("db:\n\tpassword: S\n", 2),
        ("a: 1\n---\npassword: S\n", 2),
        ("password: S\nS\n", 3),
    ],
)
def test_a_syntax_error_gives_file_and_line_and_no_secret(
    configure: Configure, content: str, line: int
) -> None:
    path = configure("")
    path.write_text(content.replace("S", SECRET))

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(caught.value).startswith(f"{path}:{line}: is not valid YAML: ")
    assert SECRET not in everything_shown(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"password: {SECRET}\xff".encode("latin-1"), "is not UTF-8 text"),
        (f"password: {SECRET}\x00".encode(), "is not valid YAML"),
        (f"password: !!int {SECRET}".encode(), "is not valid YAML"),
        (b"a: " + b"[" * 5000, "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_text_or_no_yaml_is_an_error_without_secret(
    configure: Configure, content: bytes, reason: str
) -> None:
    path = configure("")
    path.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(caught.value).startswith(f"{path}: {reason}")
    assert SECRET not in everything_shown(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "overrides",
    [
        {"password": SECRET, "port": SECRET},
        {"passwrod": SECRET},
        {"url": [SECRET]},
        {"password": {"k": SECRET}},
        {"ssl": SECRET, "url": f"postgresql://u:{SECRET}@h/d"},
    ],
)
def test_no_secret_is_in_an_error_about_an_override(overrides: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresSettings().with_overrides(**overrides)

    assert SECRET not in everything_shown(caught.value)


def test_no_secret_is_in_an_error_about_a_variable(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_PORT", SECRET)
    monkeypatch.setenv("MONGODB_PASSWORD", SECRET)

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.port") as caught:
        load_settings()

    assert SECRET not in everything_shown(caught.value)


def test_no_secret_is_logged_while_pydantic_settings_is_debugged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    monkeypatch.setenv("POSTGRES_PASSWORD", SECRET)
    monkeypatch.setenv("MONGODB_URL", f"mongodb://u:{SECRET}@h/d")

    with caplog.at_level(logging.DEBUG):
        settings = load_settings()

    assert secret(settings.backend("postgres").password) == SECRET
    assert SECRET not in caplog.text


def test_configuration_errors_survive_pickling(configure: Configure) -> None:
    configure("db: {postgres: {port: x}}")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- what is loaded --------------------------------------------------------------------------------


def test_settings_load_no_database_library() -> None:
    program = """
        import sys
        import sessions.config
        sessions.config.load_settings()
        databases = {"sqlalchemy", "alembic", "asyncpg", "aiosqlite", "beanie", "pymongo", "bson", "motor"}
        loaded = databases & set(sys.modules)
        assert not loaded, loaded
    """

    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
