"""Fast access to the environment variables that each request reads."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["Variables"]

Raw = tuple[bytes | str | None, ...]


class Variables:
    """The environment variables of a settings file.

    ``os.environ.get`` takes more than a microsecond for an unset variable, and most of some forty are unset:
    too slow for settings that each request reads. So the values are read from the dict behind ``os.environ``,
    ``_data``, to which there is no public access. If it is missing (the environment was replaced, or Python
    changed it), the public API is used.

    Args:
        names: Names of the variables.
    """

    __slots__ = ("_encoded", "names")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._encoded = tuple(map(os.fsencode, self.names))

    def raw(self) -> Raw:
        """Return the current values, for comparison and hashing; None if not set."""
        behind = getattr(os.environ, "_data", None) if os.name == "posix" else None
        if type(behind) is dict:
            return tuple(map(behind.get, self._encoded))
        return tuple(map(os.environ.get, self.names))

    def decoded(self, raw: Raw) -> dict[str, str | None]:
        """Return the result of `raw` by name and as text."""
        return {
            name: value if value is None else os.fsdecode(value)
            for name, value in zip(self.names, raw, strict=True)
        }
