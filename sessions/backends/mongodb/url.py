"""Parses and checks a MongoDB URL before the driver does, whose errors quote the URL."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from pymongo import errors, uri_parser

from sessions.core.failures import shown
from sessions.errors import ConfigurationError

__all__ = ["ESCAPE_HINT", "MongoUrl", "parse_url"]

ESCAPE_HINT = "percent-encode the user name and password"
KEY = "db.mongodb.url"
SCHEMES = ("mongodb://", "mongodb+srv://")
DEFAULT_PORT = 27017
_HOST_AND_PORT = re.compile(r"(\[[^]]+\]|[^:\[\]]*)(:\d+)?")


class MongoUrl:
    """The parts of a URL that error texts and options need.

    Attributes:
        addresses: ``host:port`` of each host; with ``mongodb+srv``, the host name of the SRV record.
        user: User name, or None.
        options: Values of the parameters, by name in lower case.
        database: Name of the database, or None.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        user: str | None,
        options: dict[str, str],
        database: str | None = None,
    ) -> None:
        self.addresses = addresses
        self.user = user
        self.options = options
        self.database = database


def parse_url(url: str) -> MongoUrl:
    """Parse a URL.

    Raises:
        ConfigurationError: It is not valid. The text names the part or the parameter, and no value.
    """
    scheme = next((scheme for scheme in SCHEMES if url.startswith(scheme)), None)
    if scheme is None:
        raise ConfigurationError(f"{KEY}: must start with {' or '.join(SCHEMES)}")
    authority, path, query = _parts(url.removeprefix(scheme))
    credentials, at, hosts = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    if any(re.search(r"[@:/?]|%(?![0-9A-Fa-f]{2})", part) for part in (user, password)):
        raise ConfigurationError(f"{KEY}: {ESCAPE_HINT}")
    is_srv = scheme == SCHEMES[1]
    addresses = tuple(_address(host, is_srv=is_srv) for host in hosts.split(","))
    database = unquote_plus(path).partition(".")[0] or None
    return MongoUrl(addresses, unquote_plus(user) if at and user else None, _options(query), database)


def _parts(rest: str) -> tuple[str, str, str]:
    before_query, _, query = rest.partition("?")
    authority, slash, database = before_query.partition("/")
    # A socket's path is percent-encoded, so no host follows the first of these characters. An "@" there ends
    # a password, unless it is in the value of a parameter.
    is_parameter = "=" in query.partition("@")[0]
    if "@" not in authority and ("@" in database or ("@" in query and not is_parameter)):
        raise ConfigurationError(f"{KEY}: {ESCAPE_HINT}")
    if "@" in database or ("@" in query and not is_parameter and not slash):
        raise ConfigurationError(f"{KEY}: {ESCAPE_HINT}")
    return authority, database, query


def _address(host: str, *, is_srv: bool) -> str:
    if host.lower().endswith(".sock"):
        return unquote_plus(host)
    found = _HOST_AND_PORT.fullmatch(host)
    if found is None or not found[1] or (found[2] and not 1 <= int(found[2][1:]) <= 65535):
        raise ConfigurationError(
            f"{KEY}: needs hosts with ports from 1 to 65535; if it has them, {ESCAPE_HINT}"
        )
    return host if is_srv or found[2] else f"{host}:{DEFAULT_PORT}"


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for parameter in filter(None, re.split("[&;]", query)):
        name, equals, value = parameter.partition("=")
        options[name.lower()] = value
        problem = None if equals else "has no value"
        if problem is None:
            problem = _problem(parameter)
        if problem is not None and "@" in query:
            raise ConfigurationError(f"{KEY}: {ESCAPE_HINT}")
        if problem is not None:
            raise ConfigurationError(f"{KEY}: the parameter {shown(name)} {problem}")
    if re.fullmatch(r"\s*[+-]?0+\s*", unquote_plus(options.get("w", ""))):
        raise ConfigurationError(f"{KEY}: the parameter w is 0: lost writes would not be reported")
    return options


def _problem(parameter: str) -> str | None:
    try:
        uri_parser.split_options(parameter, warn=False)
    except errors.ConfigurationError:
        return "is unknown to the driver"
    except OSError as error:
        return f"names a file that cannot be read ({type(error).__name__})"
    except (errors.PyMongoError, ValueError, TypeError):
        return "has a value of no use"
    return None
