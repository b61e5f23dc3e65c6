"""What tells the built-in connection managers apart, remembered for services that ask once a request."""

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

# Options, such as the URLs of as many tenants, whose keys are remembered.
MAX_REMEMBERED = 128

_remembered: dict[tuple[object, ...], tuple[Settings, Hashable]] = {}


def built_in_key(name: str, manager: Manager, options: dict[str, Any]) -> Hashable:
    """Return ``manager.cache_key(**options)``, without validating the same options again and again.

    The key follows from the options, from the settings as they are now, and for a file from the directories
    that a relative path and one with a ``~`` begin at.

    Args:
        name: The type that the class is registered as.
        manager: A built-in manager class.
        options: What the manager is to be made with.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """
    if options.get("engine") is not None or options.get("client") is not None:
        # Nothing here may keep a service's own alive.
        return manager.cache_key(**options)
    settings = load_settings()
    try:
        here = (os.getcwd(), os.path.expanduser("~")) if name == ConnectionType.SQLITE else ()
        # With their types: 1 and True are equal, and one of them is no number of connections.
        asked = (manager, id(settings), *here, *options.items(), *map(type, options.values()))
        found = _remembered.get(asked)
    except (TypeError, OSError):  # An option has no hash, or the working directory is gone.
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
        error: What a manager raised; its text is changed, and still shows no value.
        options: What the manager was to be made with; they are the caller's own, and no variable's.
    """
    found = re.match(r"(db\.\w+\.(\w+)): (.*)", str(error), re.DOTALL)
    if found is None or options.get(found[2]) is not None:
        return
    if variables := variables_of(found[1]):
        error.args = (f"{', '.join(variables)}: {found[3]} ({found[1]})",)
