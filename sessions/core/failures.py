"""Error texts of all backends, in one pattern, and causes without values."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sessions.errors import BackendUnavailableError, ConfigurationError

__all__ = ["Place", "masked_url", "shown", "upgrade_command", "without_values"]

MAX_SHOWN_CHARACTERS = 200
MASK = "***"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is, as the text of an error names it. Holds no secret.

    Attributes:
        server: The product, such as "PostgreSQL".
        addresses: All addresses of the server: ``host:port``, or the path of a socket or a file.
        database: Name of the database; None if there is none, or it is not known.
        user: User name; None if there is none, or it is not known.
    """

    server: str
    addresses: tuple[str, ...] = ()
    database: str | None = None
    user: str | None = None

    def __str__(self) -> str:
        parts = [self.server]
        if self.addresses:
            parts[0] += f" at {', '.join(map(shown, self.addresses))}"
        if self.database is not None:
            parts.append(f"database {shown(self.database)}")
        if self.user is not None:
            parts.append(f"as user {shown(self.user)}")
        return ", ".join(parts)

    def unreachable(self, reason: str) -> BackendUnavailableError:
        """Return the error for a database that does not respond: "cannot reach PostgreSQL at …: reason"."""
        return BackendUnavailableError(f"cannot reach {self}: {reason}")

    def unusable(self, reason: str) -> BackendUnavailableError:
        """Return the error for a database that responds with an error."""
        return BackendUnavailableError(f"cannot use {self}: {reason}")

    def refused(self, key: str, reason: str) -> ConfigurationError:
        """Return the error for a setting that the database, or its driver, does not accept.

        Args:
            key: Dotted key of the setting at fault, with the URL's parameter if it is one.
            reason: Without any secret.
        """
        return ConfigurationError(f"{key}: cannot use {self}: {reason}")


def shown(text: str) -> str:
    """Return a name for an error text: on one line, with a maximum length."""
    printable = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    if len(printable) <= MAX_SHOWN_CHARACTERS:
        return printable
    return printable[:MAX_SHOWN_CHARACTERS] + "…"


def upgrade_command(backend: str, *, url: str | None = None) -> str:
    """Return the command that upgrades a schema, with the option that chose the database.

    Args:
        backend: Value of ``--backend``; without a URL, of the configured database.
        url: URL in place of the settings. Its password is masked.
    """
    option = f"--backend {backend}" if url is None else f"--url {shlex.quote(masked_url(url))}"
    return f"sessions db upgrade {option}"


def masked_url(url: str) -> str:
    """Return a URL with ``***`` for the password, wherever one may be."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return MASK
    before_query, question, query = rest.partition("?")
    # The last one, so that a password that is not percent-encoded is masked as a whole.
    credentials, at, location = before_query.rpartition("@")
    user, colon, _ = credentials.partition(":")
    if colon:
        credentials = f"{user}:{MASK}"
    if "@" in query or "#" in rest:
        return f"{scheme}://{MASK}"  # Probably part of a password.
    parameters = (
        f"{name}={MASK}" if "password" in name.lower() and value else parameter
        for parameter in query.split("&")
        for name, _, value in [parameter.partition("=")]
    )
    return f"{scheme}://{credentials}{at}{location}{question}{'&'.join(parameters)}"


def without_values(
    error: BaseException, *, text: Callable[[str], str] | None = None, hidden: Mapping[str, Any] | None = None
) -> BaseException:
    """Return a copy of a driver's error for a chain of causes that is logged.

    A driver's error may quote the row or the parameters, and so the conversation, and its context may be a
    caller's own error. So neither is modified: callers see a copy without cause and context.

    Args:
        error: Error of a driver or of the system.
        text: Returns the part of the error's text that may be shown.
        hidden: Values of attributes in the copy.
    """
    arguments: Any = error.__reduce__()[1] if isinstance(error, OSError) else error.args
    if text is not None and arguments and isinstance(arguments[0], str):
        arguments = (text(arguments[0]), *arguments[1:])
    # Without `__init__`: its parameters differ between classes, and not all store them.
    copy: BaseException = type(error).__new__(type(error), *arguments)
    copy.args = error.args if isinstance(error, OSError) else arguments
    copy.__dict__.update(error.__dict__, **(hidden or {}))
    return copy.with_traceback(error.__traceback__)
