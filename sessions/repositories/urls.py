"""Which backend a URL is for."""

from __future__ import annotations

from sessions.errors import ConfigurationError
from sessions.repositories.session_repository_factory import SessionRepositoryType

__all__ = ["repository_type_of"]

# The beginning of the scheme, which a driver may follow: postgresql+asyncpg, mongodb+srv.
_SCHEMES = {
    "mongodb": SessionRepositoryType.MONGODB,
    "postgres": SessionRepositoryType.POSTGRES,
    "sqlite": SessionRepositoryType.SQLITE,
}


def repository_type_of(url: str, *, argument: str = "url") -> SessionRepositoryType:
    """Return the built-in backend that a URL is for, by its scheme.

    Args:
        url: Such as ``postgresql://user@host/database``.
        argument: What an error calls the URL.

    Raises:
        ConfigurationError: The URL has no scheme of a built-in backend. The text does not show it: it may
            hold a password.
    """
    scheme, separator, _ = url.partition("://")
    for prefix, found in _SCHEMES.items():
        if separator and scheme.lower().startswith(prefix):
            return found
    raise ConfigurationError(f"{argument}: must start with postgresql://, mongodb:// or sqlite://")
