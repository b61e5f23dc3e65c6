"""The errors of this package: one root, and one class for each case that a caller can handle."""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "ConfigurationError",
    "InvalidInputError",
    "MessageConflictError",
    "MissingDependencyError",
    "SchemaOutdatedError",
    "SessionConflictError",
    "SessionNotFoundError",
    "SessionsError",
    "TurnConflictError",
    "UnknownRepositoryError",
    "VersionConflictError",
]


class SessionsError(Exception):
    """Root of all errors of this package."""


class ConfigurationError(SessionsError):
    """A setting is missing, unknown or wrong; the text names its key, never its value."""


class InvalidInputError(SessionsError, ValueError):
    """An argument is invalid; nothing was sent to the database.

    Attributes:
        argument: Name of the invalid argument, with the path inside it
            (``"metadata.tags[2]"``).
    """

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(f"{argument}: {reason}")
        self.argument = argument
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidInputError], tuple[str, str]]:
        # Exceptions pickle by their args, which hold the joined text here; process pools pickle errors.
        return type(self), (self.argument, self.reason)


class SessionNotFoundError(SessionsError, LookupError):
    """The session does not exist, or belongs to another user: the two look the same."""


class SessionConflictError(SessionsError):
    """The session id is already taken by another user's session."""


class MessageConflictError(SessionsError):
    """The message id is already taken by another message; nothing is stored."""


class VersionConflictError(SessionsError):
    """The session does not have the expected version; nothing is stored."""


class TurnConflictError(SessionsError):
    """Another turn has changed the conversation meanwhile, or is still under way; nothing is stored."""


class BackendUnavailableError(SessionsError):
    """The database cannot be reached or used, after all retries; the cause is chained."""


class SchemaOutdatedError(SessionsError):
    """The database schema is absent, older or newer than this package; the text names the command."""


class UnknownRepositoryError(SessionsError, LookupError):
    """No repository or connection manager is registered under that name; the text lists the known ones."""


class MissingDependencyError(SessionsError, ImportError):
    """An optional package is not installed; the text names the extra to install."""
