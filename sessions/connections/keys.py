"""Cache keys of the built-in connection managers, cached for services that need one in each request."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from typing import Any

from sessions.config import Settings, load_settings
from sessions.config.settings import variables_of
from sessions.connections.base import AsyncBaseConnectionManager, BaseConnectionManager, ConnectionType
from sessions.errors import ConfigurationError

__all__ = ["built_in_key", "name_variables"]

Manager = type[BaseConnectionManager] | type[AsyncBaseConnectionManager]

# Number of cached keys, such as of the URLs of tenants.
MAX_REMEMBERED = 128

_remembered: dict[tuple[object, ...], tuple[Settings, Hashable]] = {}


def built_in_key(name: str, manager: Manager, options: dict[str, Any]) -> Hashable:
    """Return ``manager.cache_key(**options)``, without validating the same options each time.

    The key depends on the options, the current settings, and for a file the working directory and the home
    directory.

    Args:
        name: Registered type of the class.
        manager: A built-in manager class.
        options: Options of the manager.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """
    if options.get("engine") is not None or options.get("client") is not None:
        # The cache must not keep a service's own engine or client alive.
        return manager.cache_key(**options)
    settings = load_settings()
    try:
        here = (os.getcwd(), os.path.expanduser("~")) if name == ConnectionType.SQLITE else ()
        # With their types: 1 and True are equal, and True is not a number of connections.
        asked = (manager, id(settings), *here, *options.items(), *map(type, options.values()))
        found = _remembered.get(asked)
    except (TypeError, OSError):  # An option is not hashable, or the working directory is deleted.
        return manager.cache_key(**options)
    if found is not None and found[0] is settings:
        return found[1]
    key = manager.cache_key(**options)
    if load_settings() is settings:
        if len(_remembered) >= MAX_REMEMBERED:
            _remembered.clear()
        _remembered[asked] = (settings, key)
    return key


def name_variables(error: ConfigurationError, options: dict[str, Any]) -> None:
    """Let an error about a key (``db.postgres.url: …``) name the environment variable that the value is from.

    Args:
        error: Error of a manager; its text is changed, and still shows no value.
        options: Options of the manager, which do not come from a variable.
    """
    found = re.match(r"(db\.\w+\.(\w+)): (.*)", str(error), re.DOTALL)
    if found is None or options.get(found[2]) is not None:
        return
    if variables := variables_of(found[1]):
        error.args = (f"{', '.join(variables)}: {found[3]} ({found[1]})",)
