"""Parses a PostgreSQL URL as libpq does; errors name its parts without showing values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final
from urllib.parse import unquote, unquote_plus

from sessions.backends.postgres.parameters import FALSE, PARAMETERS, TRUE, Row, Use
from sessions.core.failures import shown
from sessions.errors import ConfigurationError

__all__ = ["ESCAPE_HINT", "PostgresUrl", "parse_url"]

KEY = "db.postgres.url"
SCHEMES: Final = ("postgresql", "postgresql+asyncpg", "postgres")
ESCAPE_HINT: Final = "percent-encode the user name and password"
LISTS: Final = frozenset({"host", "port", "hostaddr"})
# PostgreSQL's units of time, in seconds; without a unit, milliseconds.
UNITS: Final = {"us": 1e-6, "ms": 1e-3, "": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
NUMBERS: Final = frozenset(
    {
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "prepared_statement_cache_size",
        "statement_cache_size",
    }
)
IPV6: Final = r"[0-9A-Fa-f:.]+(?:%[\w.-]+)?"
# Values for false and true.
TRUTHS: Final = {"ssl": ("disable", "require"), "pgbouncer": ("0", "1")}
# Poolers in transaction mode, recognized by host name: Neon's, and Supabase's by port.
POOLERS: Final = re.compile(r"[^.]+-pooler\.(.+\.)?neon\.tech:\d+|.+\.supabase\.(com|co|red):6543")


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A parsed URL.

    Attributes:
        hosts: Names, addresses or socket directories; empty if the URL has none.
        ports: One for each host, or for the default host; None for the default port.
        user: None if the URL has none, as for all that follow.
        password: Decoded.
        database: Decoded.
        parameters: Honoured parameters by name in lower case, without the ones above. Booleans are "1" or
            "0".
        ignored: Names of parameters without effect.
    """

    hosts: tuple[str, ...] = ()
    ports: tuple[int | None, ...] = (None,)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    ignored: tuple[str, ...] = ()

    @property
    def connect_timeout(self) -> float | None:
        """Seconds; None if the URL sets no limit."""
        return float(self.parameters["connect_timeout"]) if "connect_timeout" in self.parameters else None

    @property
    def statement_timeout(self) -> float | None:
        """Seconds; None if the URL has none."""
        found = re.findall(
            r"(?:^|\s)(?:-c\s*|--)statement[-_]timeout\s*=\s*(\S+)", self.parameters.get("options", "")
        )
        text = self.parameters.get("statement_timeout") or (found[-1] if found else None)
        return None if text is None else _duration("statement_timeout", text.strip("'"))

    @property
    def through_pooler(self) -> bool | None:
        """Whether the server is behind a pooler in transaction mode; None if the URL does not say so."""
        said = self.parameters.get("pgbouncer")
        if said is not None:
            return said == "1"
        if (mode := self.parameters.get("pool_mode")) is not None:
            return mode == "transaction"
        addresses = zip(self.hosts, self.ports, strict=True) if self.hosts else ()
        known = any(POOLERS.fullmatch(f"{host.lower()}:{port or 5432}") for host, port in addresses)
        return True if known else None


def parse_url(url: str) -> PostgresUrl:
    """Parse a URL.

    Raises:
        ConfigurationError: It is not a PostgreSQL URL, or has a parameter that is not supported, which the
            text names. The text never shows the URL or a value of it.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise _error("must start with postgresql:// or postgresql+asyncpg://")
    before_query, _, query = rest.partition("?")
    authority, _, path = before_query.partition("/")
    _refuse_what_is_not_escaped(rest, authority, path, query)
    credentials, _, location = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    parameters, ignored = _parameters(query)
    hosts, ports = _addresses(location, parameters)

    def either(name: str, in_url: str, *also: str) -> str | None:
        given = {
            value for value in (unquote(in_url), *(parameters.pop(key, "") for key in (name, *also))) if value
        }
        if len(given) > 1:
            raise _error(f"{name}: is given twice, differently")
        return given.pop() if given else None

    return PostgresUrl(
        hosts=hosts,
        ports=ports,
        user=either("user", user),
        password=either("password", password),
        database=either("dbname", path, "database"),
        parameters=parameters,
        ignored=ignored,
    )


def _refuse_what_is_not_escaped(rest: str, authority: str, path: str, query: str) -> None:
    """Reject characters that are probably part of a password that is not percent-encoded."""
    escapes = "(@ is %40, / is %2F, ? is %3F, # is %23, % is %25)"
    if not rest.isprintable():
        raise _error("has a character that cannot be in a URL")
    unknown = any(
        "=" not in item or unquote_plus(item.partition("=")[0]).lower() not in PARAMETERS
        for item in filter(None, query.split("&"))
    )
    if (
        "#" in rest
        or re.search(r"%(?![0-9A-Fa-f]{2})", rest)
        or authority.count("@") > 1
        or "@" in path
        # A parameter may have an e-mail address as value, such as Azure's user@server.
        or ("@" in query and unknown)
    ):
        raise _error(f"has a character that must be escaped; {ESCAPE_HINT} {escapes}")


def _parameters(query: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the honoured parameters, checked, and the names of the ignored ones."""
    found: dict[str, str] = {}
    ignored: list[str] = []
    for item in filter(None, query.split("&")):
        written, equals, value = item.partition("=")
        name, value = unquote_plus(written).lower(), unquote_plus(value)
        row = PARAMETERS.get(name)
        if row is None:
            raise _error(_unknown(name))
        if not equals:
            raise _error(f"{name}: has no value; write {name}=…")
        if row.use is Use.REFUSED:
            raise _error(f"{name}: is not supported; {row.note.replace('`', '')}")
        if not value:
            continue  # As if it were absent, as in libpq.
        value = _checked(name, value, row)
        if row.use is Use.IGNORED:
            # The accepted values of the others describe the actual behaviour.
            if not row.only or (name, value) == ("channel_binding", "require"):
                ignored.append(name)
        elif name in LISTS and name in found:
            found[name] += f",{value}"
        elif found.setdefault(name, value) != value:
            raise _error(f"{name}: is given twice, differently")
    if found.get("connect_timeout") == "0":
        del found["connect_timeout"]
    if found.get("ssl") == "require" and found.get("sslmode") in ("verify-ca", "verify-full"):
        del found["ssl"]  # As in URLs of Yugabyte: sslmode is more specific.
    _join(found, "ssl", "sslmode")
    _join(found, "statement_cache_size", "prepared_statement_cache_size")
    return found, tuple(dict.fromkeys(ignored))


def _unknown(name: str) -> str:
    text = f"{shown(name[:60])}: is not a parameter that is known here"
    if close := get_close_matches(name, PARAMETERS, 1, 0.8):
        return f"{text}; {close[0]}?"
    return f"{text}; a setting of the server is written as options=-c%20name%3Dvalue"


def _checked(name: str, value: str, row: Row) -> str:
    """Return a normalized value."""
    if row.only:
        value = value.lower()
        if value not in row.only:
            why = f"; {row.note}" if row.use is Use.IGNORED else ""
            raise _error(f"{name}: must be one of {', '.join(sorted(row.only))}{why}")
    if name in NUMBERS and not re.fullmatch(r"\d{1,9}", value):
        raise _error(f"{name}: must be a whole number that is not negative")
    if name == "connect_timeout":
        if not re.fullmatch(r"-?\d{1,9}(\.\d{1,9})?", value):
            raise _error(f"{name}: must be a number of seconds")
        value = value if float(value) > 0 else "0"
    if name == "statement_timeout":
        _duration(name, value)
    if name in TRUTHS and value in TRUE | FALSE:
        value = TRUTHS[name][value in TRUE]
    return value


def _join(found: dict[str, str], other: str, name: str) -> None:
    """Store a parameter that has two names under one of them."""
    if (value := found.pop(other, None)) is not None and found.setdefault(name, value) != value:
        raise _error(f"{other} and {name}: say different things")


def _duration(name: str, text: str) -> float:
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)\s*(us|ms|s|min|h|d|)", text)
    if found is None or float(found[1]) == 0:
        raise _error(
            f"{name}: must be a time of more than 0, as milliseconds or with one of us, ms, s, min, h, d"
        )
    return float(found[1]) * UNITS[found[2]]


def _addresses(location: str, parameters: dict[str, str]) -> tuple[tuple[str, ...], tuple[int | None, ...]]:
    """Return the hosts and their ports, from the authority and from the query."""
    pairs = [_host_and_port(unquote(part)) for part in location.split(",")] if location else []
    if (listed := parameters.pop("host", None)) is not None:
        named = [_host_and_port(part, in_query=True) for part in listed.split(",")]
        if pairs and any(host for host, _ in pairs) and pairs != named:
            raise _error("host: is given twice, differently")
        # A port without a host, as in postgresql://:6543/?host=…
        pairs = [(host, port or _port_of(pairs)) for host, port in named]
    if len(pairs) > 1 and not all(host for host, _ in pairs):
        raise _error("host: one of several is empty")
    hosts = tuple(host for host, _ in pairs if host)
    ports = tuple(port for _, port in pairs) or (None,)
    if (listed := parameters.pop("port", None)) is not None:
        given = tuple(_port(text) for text in listed.split(","))
        given = given * len(ports) if len(given) == 1 else given
        if len(given) != len(ports):
            raise _error("port: there must be one, or one for each host")
        if any(old not in (None, new) for old, new in zip(ports, given, strict=True)):
            raise _error("port: is given twice, differently")
        ports = given
    addresses = parameters.get("hostaddr", "").split(",")
    if hosts and addresses != [""] and len(addresses) != len(hosts):
        raise _error("hostaddr: there must be one for each host")
    return hosts, ports


def _port_of(pairs: list[tuple[str, int | None]]) -> int | None:
    return pairs[0][1] if len(pairs) == 1 else None


def _host_and_port(text: str, *, in_query: bool = False) -> tuple[str, int | None]:
    if text.startswith("/"):
        # A socket's directory may have colons itself, such as Cloud SQL's.
        directory, _, port = text.rpartition(":")
        return (directory, _port(port)) if port.isdecimal() and directory and not in_query else (text, None)
    if bracketed := re.fullmatch(rf"\[({IPV6})\](?::(.*))?", text):
        return bracketed[1], _port(bracketed[2]) if bracketed[2] else None
    if in_query and text.count(":") > 1 and re.fullmatch(IPV6, text):
        return text, None
    host, _, port = text.partition(":")
    if not re.fullmatch(r"[^\s@:/?#\[\]\\]*", host):
        raise _error(f"host: is not a host's name; {ESCAPE_HINT}")
    return host, _port(port) if port else None


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text) or not 1 <= int(text) <= 65535:
        raise _error(f"port: must be a number from 1 to 65535; {ESCAPE_HINT}, if it is a part of them")
    return int(text)


def _error(reason: str) -> ConfigurationError:
    return ConfigurationError(f"{KEY}: {reason}")
