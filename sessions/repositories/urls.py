"""The backend of a URL."""

from __future__ import annotations

from sessions.connections.built_in import BUILT_IN
from sessions.errors import ConfigurationError
from sessions.repositories.session_repository_factory import SessionRepositoryType

__all__ = ["repository_type_of"]


def repository_type_of(url: str, *, argument: str = "url") -> SessionRepositoryType:
    """Return the built-in backend of a URL, by its scheme.

    Args:
        url: Such as ``postgresql://user@host/database``.
        argument: Name of the URL in an error text.

    Raises:
        ConfigurationError: The URL has no scheme of a built-in backend. The text does not show it: it may
            hold a password.
    """
    scheme, separator, _ = url.partition("://")
    for found, built_in in BUILT_IN.items():
        if separator and scheme.lower().startswith(built_in.scheme):
            return found
    raise ConfigurationError(f"{argument}: must start with postgresql://, mongodb://, sqlite:// or redis://")
