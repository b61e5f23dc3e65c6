"""Parses a SQLite URL: the file, and how to open it. A query never becomes part of a file name."""

from __future__ import annotations

import functools
import math
import os
import re
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import quote, unquote_to_bytes

from sessions.config import SqliteSettings
from sessions.errors import ConfigurationError

__all__ = ["SqliteTarget", "sqlite_target", "url_of"]

Mode = Literal["ro", "rw", "rwc"]

KEY = "db.sqlite.url"
SCHEMES = ("sqlite://", "sqlite+aiosqlite://")
MEMORY = ":memory:"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
# Parameters of SQLite, Python's driver and SQLAlchemy that this package does not support, and why.
REFUSED = {
    "cache": "only private is supported, as readers of a shared cache lock writers out",
    "cached_statements": "is the driver's own matter",
    "detect_types": "types are the package's own matter",
    "isolation_level": "transactions are the package's own matter",
    "nolock": "two processes would write at the same time",
    "uri": "a file: URI is always read as one",
    "vfs": "only SQLite's default one is supported",
}


@dataclass(frozen=True, slots=True)
class SqliteTarget:
    """A database file, or a temporary one.

    Attributes:
        path: Absolute; None for a temporary database.
        mode: SQLite's mode: read-only, read-write, or read-write and create.
        immutable: Whether the file never changes, so it is read without locks.
        busy_timeout: Seconds, if the URL sets it.
    """

    path: str | None
    mode: Mode = "rwc"
    immutable: bool = False
    busy_timeout: float | None = None

    @property
    def read_only(self) -> bool:
        """Whether every write is rejected."""
        return self.mode == "ro"

    def uri(self, path: str, mode: Mode) -> str:
        """Return the URI of this database for SQLite, at a path and in a mode."""
        immutable = "&immutable=1" if self.immutable else ""
        return f"file:{quote(os.fsencode(path))}?mode={mode}{immutable}"


def sqlite_target(settings: SqliteSettings) -> SqliteTarget:
    """Return the database file of the settings.

    Raises:
        ConfigurationError: The URL is wrong, or has a parameter that is not supported; the text names it.
    """
    if settings.url is not None:
        found = _parsed(settings.url)
    elif settings.path.startswith("file:"):
        found = _parsed_uri(settings.path, "db.sqlite.path")
    else:
        if re.match(r"[A-Za-z][A-Za-z0-9+]*://", settings.path):
            raise ConfigurationError(f"db.sqlite.path: is a URL; set {KEY} instead")
        path = _checked(settings.path, "db.sqlite.path")
        found = SqliteTarget(None if path == MEMORY else path)
    if found.path is None:
        return found
    # Fixed now, so that a later chdir does not start another database.
    path = os.path.abspath(os.path.expanduser(found.path))
    return SqliteTarget(path, found.mode, found.immutable, found.busy_timeout)


def url_of(path: str) -> str:
    """Return the URL of a file."""
    return f"sqlite:///{quote(os.fsencode(path))}"


@functools.lru_cache(maxsize=256)
def _parsed(url: str) -> SqliteTarget:
    if url.startswith("file:"):
        return _parsed_uri(url, KEY)
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise ConfigurationError(f"{KEY}: must start with sqlite:/// or sqlite+aiosqlite:///")
    rest = url.removeprefix(scheme)
    path, _, query = rest.partition("?")
    if path and not path.startswith("/"):
        raise ConfigurationError(f"{KEY}: has a host; write sqlite:///file.db, three slashes")
    path = path.removeprefix("/")
    if path.startswith("file:"):
        return _parsed_uri(f"{path}?{query}" if query else path, KEY)
    return _target(path, query, KEY)


def _parsed_uri(uri: str, key: str) -> SqliteTarget:
    path, _, query = uri.removeprefix("file:").partition("?")
    if path.startswith("//"):
        host, slash, path = path.removeprefix("//").partition("/")
        if host not in ("", "localhost"):
            raise ConfigurationError(f"{key}: a file: URI of another host")
        path = slash + path
    return _target(path, query, key)


def _target(path: str, query: str, key: str) -> SqliteTarget:
    if "#" in path or "#" in query:
        raise ConfigurationError(f"{key}: has a fragment; write a # of the file's name as %23")
    parameters = _parameters(query, key)
    if (mode := parameters.get("mode", "rwc")) not in ("ro", "rw", "rwc", "memory"):
        raise ConfigurationError(f"{key}: mode: must be ro, rw, rwc or memory")
    immutable = _flag("immutable", parameters, key)
    name = _decoded(path, key)
    temporary = name in ("", MEMORY) or mode == "memory"
    if temporary and (mode in ("ro", "rw") or immutable):
        parameter = "immutable" if immutable else "mode"
        raise ConfigurationError(
            f"{key}: {parameter}: a temporary database is new, and so must be written to"
        )
    return SqliteTarget(
        None if temporary else name,
        "ro" if immutable else "rwc" if mode == "memory" else cast(Mode, mode),
        immutable,
        _timeout(parameters, key),
    )


def _parameters(query: str, key: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, value = (_decoded(text, key) for text in part.partition("="))
        if name in parameters:
            raise ConfigurationError(f"{key}: {name[:40]!r} is given twice")
        parameters[name] = value
    for name, value in parameters.items():
        # Without effect: connections are private, a URI is read as one, and a thread is not tied to one.
        harmless = (name, value.lower()) in {("cache", "private"), *(("uri", word) for word in TRUE)}
        if name in REFUSED and not harmless:
            raise ConfigurationError(f"{key}: {name}: {REFUSED[name]}")
        if name not in {*REFUSED, "check_same_thread", "immutable", "mode", "timeout"}:
            raise ConfigurationError(
                f"{key}: {name[:40]!r} is not known; known are immutable, mode and timeout (write a ? of the "
                "file's name as %3F)"
            )
    # Has no effect, as each connection has a thread of its own.
    _flag("check_same_thread", parameters, key)
    return parameters


def _flag(name: str, parameters: dict[str, str], key: str) -> bool:
    value = parameters.get(name, "0").lower()
    if value not in (*TRUE, *FALSE):
        raise ConfigurationError(f"{key}: {name}: must be 1 or 0")
    return value in TRUE


def _timeout(parameters: dict[str, str], key: str) -> float | None:
    if "timeout" not in parameters:
        return None
    try:
        seconds = float(parameters["timeout"])
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:  # False for NaN, too.
        raise ConfigurationError(f"{key}: timeout: must be a number of seconds greater than 0")
    return seconds


def _decoded(text: str, key: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ConfigurationError(f"{key}: write a % of the file's name as %25")
    return _checked(os.fsdecode(unquote_to_bytes(text)), key)


def _checked(path: str, key: str) -> str:
    if "\0" in path:
        raise ConfigurationError(f"{key}: has a NUL character")
    if not re.match(r"/?[A-Za-z]:[\\/]", path):
        return path
    if os.name != "nt":
        raise ConfigurationError(f"{key}: is a path of Windows, and this system is not")
    return path.removeprefix("/")
