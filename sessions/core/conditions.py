"""Conditions on sessions that are read already."""

from __future__ import annotations

from typing import Any

from sessions.core.values import Where

__all__ = ["has_values"]


def has_values(metadata: dict[str, Any], where: Where | None) -> bool:
    """Return whether each key of metadata has one of its accepted values, as `list_sessions` does."""
    return where is None or all(
        any(_is_same(metadata.get(key), value) for value in accepted) for key, accepted in where.items()
    )


def _is_same(value: object, accepted: object) -> bool:
    # In Python, True equals 1.
    if isinstance(value, bool) or isinstance(accepted, bool):
        return value is accepted
    return value == accepted
