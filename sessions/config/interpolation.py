"""``${VAR}`` and ``${VAR:default}`` in the values of a settings file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sessions.errors import ConfigurationError

__all__ = ["Unset", "interpolate", "variables"]

_PLACEHOLDER = re.compile(r"\$\{(\w+)(?::([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Unset:
    """Placeholder for a value whose environment variables are unset and have no default.

    It is an error only when the backend is used, so the placeholder is kept until then.

    Attributes:
        key: Dotted key of the value (``"db.postgres.password"``).
        variables: Names of the variables that are missing.
        source: File with the placeholders.
    """

    key: str
    variables: tuple[str, ...]
    source: str

    def error(self) -> ConfigurationError:
        """Return the error that names the file, the key and the variables."""
        names = ", ".join(self.variables)
        noun, verb = ("variable", "is") if len(self.variables) == 1 else ("variables", "are")
        return ConfigurationError(f"{self.source}: {self.key}: environment {noun} {names} {verb} not set")


def variables(value: Any) -> Iterator[str]:
    """Yield the name of each variable in the values of a tree, once for each placeholder."""
    if isinstance(value, dict):
        for item in value.values():
            yield from variables(item)
    elif isinstance(value, list):
        for item in value:
            yield from variables(item)
    elif isinstance(value, str):
        for match in _PLACEHOLDER.finditer(value):
            yield match[1]


def interpolate(value: Any, *, source: str, environment: Mapping[str, str | None], key: str = "") -> Any:
    """Replace the placeholders in all values of a tree; keys are left alone.

    Args:
        value: What the YAML parser returned: mappings, lists, text, None.
        source: Name of the file, for error texts.
        environment: The variables. An empty one counts as unset. Their values are not interpolated,
            so a password may contain ``${``.
        key: Dotted key of ``value``; empty at the top.

    Returns:
        A new tree. Its mappings omit values that are None or, after interpolation, empty text, and mappings
        of only such values: the defaults of the models apply. An `Unset` replaces a value whose variable is
        unset and has no default.

    Raises:
        ConfigurationError: A default contains ``${``, which would be replaced in part.
    """
    if isinstance(value, dict):
        tree = {
            str(name): interpolate(
                item, source=source, key=f"{key}.{name}" if key else str(name), environment=environment
            )
            for name, item in value.items()
        }
        return {
            name: item
            for (name, item), written in zip(tree.items(), value.values(), strict=True)
            # An empty mapping in the file is significant: retries with their defaults.
            if item is not None and item != "" and (item != {} or written == {})
        }
    if isinstance(value, list):
        return [
            interpolate(item, source=source, key=f"{key}.{index}", environment=environment)
            for index, item in enumerate(value)
        ]
    if isinstance(value, str) and "${" in value:
        return _interpolate_text(value, source, key, environment)
    return value


def _interpolate_text(text: str, source: str, key: str, environment: Mapping[str, str | None]) -> str | Unset:
    missing: list[str] = []

    def replace(match: re.Match[str]) -> str:
        variable, default = match.groups()
        if default is not None and "${" in default:
            raise ConfigurationError(f"{source}: {key}: a default inside ${{{variable}:…}} cannot hold ${{")
        found = environment.get(variable) or default
        if found is None:
            missing.append(variable)
            return ""
        return found

    replaced = _PLACEHOLDER.sub(replace, text)
    return Unset(key, tuple(dict.fromkeys(missing)), source) if missing else replaced
