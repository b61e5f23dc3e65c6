"""Checks of metadata, of changes to it, and of conditions on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sessions.errors import InvalidInputError
from sessions.validation.numbers import MAX_INTEGER, MIN_INTEGER, check_integer
from sessions.validation.text import check_text

__all__ = [
    "Scalar",
    "check_merge",
    "check_message_metadata",
    "check_metadata",
    "check_metadata_change",
    "check_remove",
    "check_where",
]

MAX_DEPTH = 100
MAX_METADATA_VALUES = 1_000_000
MAX_WHERE_KEYS = 20
MAX_WHERE_VALUES = 1000

Scalar = str | int | float | bool | None


class _MetadataCopier:
    """Copies a JSON object into plain Python values; rejects values that a backend cannot return equal."""

    def __init__(self, argument: str) -> None:
        self._argument = argument
        self._values = 0

    def copy(self, path: str, value: object, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_METADATA_VALUES:
            # A small graph that shares its parts can unfold without end.
            reason = f"must not hold more than {MAX_METADATA_VALUES} values"
            raise InvalidInputError(self._argument, reason)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return check_text(path, value)
        if isinstance(value, int):
            return check_integer(path, value, MIN_INTEGER, MAX_INTEGER)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidInputError(path, "must be a finite number")
            return float.__float__(value)
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                reason = f"must not be nested deeper than {MAX_DEPTH} levels"
                raise InvalidInputError(self._argument, reason)
            if isinstance(value, dict):
                return self._copy_object(path, value, depth)
            return [self.copy(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        raise InvalidInputError(path, f"must be JSON, not {type(value).__name__}")

    def _copy_object(self, path: str, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        copy = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(path, f"keys must be str, not {type(key).__name__}")
            name = check_text(f"{path} key", key)
            copy[name] = self.copy(f"{path}.{name[:50]}", item, depth + 1)
        if len(copy) != len(value):
            raise InvalidInputError(path, "two keys hold the same text")
        return copy


def check_metadata(value: object, argument: str = "metadata") -> dict[str, Any]:
    """Return a JSON object as a fresh dict of plain values.

    Finite numbers, integers of 64 bits, string keys, at most 100 levels of objects and lists (the
    object itself is the first) and a million values in all.
    """
    if not isinstance(value, dict):
        raise InvalidInputError(argument, f"must be dict, not {type(value).__name__}")
    copied: dict[str, Any] = _MetadataCopier(argument).copy(argument, value, 1)
    return copied


def check_message_metadata(value: object, argument: str = "metadata") -> dict[str, Any] | None:
    """Return the metadata of a message as `check_metadata` does; None for None."""
    return None if value is None else check_metadata(value, argument)


def check_merge(value: object, argument: str = "merge_metadata") -> dict[str, Any] | None:
    """Return the top-level keys to set in metadata; None if there are none."""
    return None if value is None else check_metadata(value, argument) or None


def check_remove(value: object, argument: str = "remove_metadata") -> tuple[str, ...]:
    """Return the top-level keys to remove from metadata, each once, in their order."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInputError(argument, f"must be a list of keys, not {type(value).__name__}")
    return tuple(dict.fromkeys(check_text(f"{argument}[{index}]", key) for index, key in enumerate(value)))


def check_metadata_change(
    metadata: dict[str, Any] | None, merge: object, remove: object = ()
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, tuple[str, ...]]:
    """Return the metadata to replace the old by, the keys to merge, and the keys to remove.

    Merged and removed keys apply to the metadata that replaces the old, if there is one: then it alone is
    returned.

    Args:
        metadata: Checked metadata that replaces the old one; None keeps it.
        merge: ``merge_metadata``.
        remove: ``remove_metadata``.

    Raises:
        InvalidInputError: Also if a key is both merged and removed.
    """
    merged, removed = check_merge(merge), check_remove(remove)
    if merged and not merged.keys().isdisjoint(removed):
        raise InvalidInputError("remove_metadata", "must not name a key of merge_metadata")
    if metadata is None or not (merged or removed):
        return metadata, merged, removed
    changed = {key: value for key, value in metadata.items() if key not in removed}
    return changed | (merged or {}), None, ()


def check_where(value: object) -> dict[str, tuple[Scalar, ...]] | None:
    """Return the accepted values for each top-level key of metadata; None if there is no condition.

    Each value of the mapping is a JSON scalar, or a list, tuple or set of accepted ones, of which none
    accepts nothing. At most 20 keys and 1000 values in all. None accepts an absent key and null.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidInputError("where", f"must be a mapping, not {type(value).__name__}")
    conditions: dict[str, tuple[Scalar, ...]] = {}
    count = 0
    for key, accepted in value.items():
        if not isinstance(key, str):
            raise InvalidInputError("where", f"keys must be str, not {type(key).__name__}")
        name = check_text("where key", key)
        if name in conditions:
            raise InvalidInputError("where", "two keys hold the same text")
        path = f"where.{name[:50]}"
        several = isinstance(accepted, list | tuple | set | frozenset)
        items = list(accepted) if several else [accepted]
        count += len(items)
        if len(conditions) == MAX_WHERE_KEYS or count > MAX_WHERE_VALUES:
            raise InvalidInputError(
                "where", f"must not have more than {MAX_WHERE_KEYS} keys and {MAX_WHERE_VALUES} values"
            )
        scalars = [
            _check_scalar(f"{path}[{index}]" if several else path, item) for index, item in enumerate(items)
        ]
        # By type, too: to Python True is 1.
        conditions[name] = tuple({(type(scalar) is bool, scalar): scalar for scalar in scalars}.values())
    return conditions or None


def _check_scalar(path: str, value: object) -> Scalar:
    if isinstance(value, dict | list):
        raise InvalidInputError(path, f"must be a text, a number, a bool or None, not {type(value).__name__}")
    scalar: Scalar = _MetadataCopier(path).copy(path, value, 1)
    return scalar
