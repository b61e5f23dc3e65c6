"""Error texts for settings: they name the key or variable at fault, and show no secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr, ValidationError

from sessions.config.interpolation import variables
from sessions.errors import ConfigurationError

__all__ = ["Origin", "OriginOf", "configuration_error", "find_origin", "secrets_of"]

SECRET_KEYS = ("password", "url")
MAX_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Origin:
    """The environment variables that a value comes from.

    Attributes:
        variables: Their names; at least one.
        value: The value, if it may be shown, else None.
    """

    variables: tuple[str, ...]
    value: str | None = None


OriginOf = Callable[[Sequence[Any]], Origin | None]


def find_origin(
    location: Sequence[Any],
    tree: Any,
    environment: Mapping[str, str | None],
    secrets: frozenset[str] = frozenset(),
) -> Origin | None:
    """Return the variables that the value of a key comes from; None if it comes from none.

    Args:
        location: The key, from the top (``("db", "postgres", "port")``).
        tree: Content of the settings file, not interpolated.
        environment: The variables.
        secrets: Texts that may not be shown.
    """
    text = tree
    for name in location:
        text = text.get(name) if isinstance(text, dict) else None
    names = tuple(dict.fromkeys(name for name in variables(text) if environment.get(name)))
    if not names or not isinstance(text, str):
        return None
    value = environment[names[0]]
    assert value is not None
    # A value with an @ may be a URL, with a password, in the wrong variable.
    is_secret = location[-1] in SECRET_KEYS or "@" in value or any(secret in value for secret in secrets)
    # With other text around the placeholder, the variable's value is only a part of the setting.
    is_whole = re.fullmatch(r"\$\{\w+(:[^}]*)?\}", text) is not None
    return Origin(names, value if is_whole and not is_secret else None)


def secrets_of(tree: Any) -> frozenset[str]:
    """Return the texts of an interpolated tree that are passwords, or URLs, which may hold one."""
    if not isinstance(tree, dict):
        return frozenset()
    found: set[str] = set()
    for name, item in tree.items():
        if name in SECRET_KEYS and isinstance(item, str | SecretStr):
            found.add(item if isinstance(item, str) else item.get_secret_value())
        found |= secrets_of(item)
    return frozenset(found)


def configuration_error(
    error: ValidationError, *, source: str = "", key: str = "", origin_of: OriginOf = lambda _: None
) -> ConfigurationError:
    """Turn pydantic's error into ours, with the dotted keys, and with values of environment variables alone.

    Args:
        error: From a model with ``hide_input_in_errors``, since callers chain it as the cause.
        source: Name of the file that the values come from; empty if they come from a caller, or only from
            variables through the file of the package.
        key: Dotted key of the validated model; empty for the whole settings.
        origin_of: Returns the variables that the value of a key comes from.

    Returns:
        The error to raise; its text is ``VARIABLE: 'value' is not … (key)`` for what came from a variable,
        ``file: key: reason`` for the rest, all joined by ``"; "``.
    """
    of_variables, of_file = [], []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join([key, *map(str, detail["loc"])] if key else map(str, detail["loc"]))
        reason = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"]
        origin = origin_of(detail["loc"])
        if origin is None:
            of_file.append(f"{path}: {reason}")
        else:
            where = f"{path} in {source}" if source else path
            of_variables.append(f"{', '.join(origin.variables)}: {_is_not(origin, reason)} ({where})")
    reasons = [*of_variables]
    if of_file:
        reasons.append(": ".join(filter(None, [source, "; ".join(of_file)])))
    return ConfigurationError("; ".join(reasons))


def _is_not(origin: Origin, reason: str) -> str:
    wanted = re.sub(r", (unable|got) .*", "", reason)
    if not wanted.startswith("Input should be "):
        return reason if origin.value is None else f"{_shown(origin.value)}: {reason}"
    wanted = wanted.removeprefix("Input should be ").replace("a valid integer", "an integer")
    return f"{'its value' if origin.value is None else _shown(origin.value)} is not {wanted}"


def _shown(value: str) -> str:
    return repr(value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…")
