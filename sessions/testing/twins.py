"""Pairs the async and the blocking name of each operation, and compares their signatures."""

from __future__ import annotations

import collections.abc
import inspect
from typing import Any, get_args, get_origin

__all__ = ["ASYNC_NAMES", "SYNC_NAMES", "find_twin_mismatches", "pairs_of"]

# The operations whose plain name is blocking, with their async twins.
ASYNC_NAMES = {
    "create_session": "create_session_async",
    "update_session": "update_session_async",
    "list_paginated_sessions": "list_paginated_sessions_async",
    "delete_session": "delete_session_async",
}
# The plain name of all others is async; these blocking twins have no suffix "_sync".
SYNC_NAMES = {name: name for name in ASYNC_NAMES} | {"aclose": "close"}

_ITERATORS = (
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterator,
    collections.abc.Generator,
    collections.abc.Iterator,
)


def pairs_of(repository: type[Any]) -> list[tuple[str, str]]:
    """Return the ``(async name, sync name)`` of all public async methods, with or without twin."""
    plain_names = {async_name: name for name, async_name in ASYNC_NAMES.items()}
    pairs = []
    for name, method in inspect.getmembers(repository, inspect.isfunction):
        if not name.startswith("_") and _is_async(method):
            plain = plain_names.get(name, name)
            pairs.append((name, SYNC_NAMES.get(plain, f"{plain}_sync")))
    return pairs


def find_twin_mismatches(repository: type[Any]) -> list[str]:
    """Return the differences between the async and the blocking operations of a repository class.

    Twins have the same parameters (names, kinds, defaults, annotations) and the same return type; the twin of
    an async iterator returns an iterator over the same type.
    """
    mismatches = []
    pairs = pairs_of(repository)
    for async_name, sync_name in pairs:
        twin = getattr(repository, sync_name, None)
        if twin is None or _is_async(twin):
            mismatches.append(f"{async_name} has no sync twin {sync_name}")
            continue
        ours = inspect.signature(getattr(repository, async_name), eval_str=True)
        theirs = inspect.signature(twin, eval_str=True)
        if list(ours.parameters.values()) != list(theirs.parameters.values()):
            mismatches.append(f"{async_name}{ours} takes other arguments than {sync_name}{theirs}")
        if _returned(ours) != _returned(theirs):
            mismatches.append(f"{async_name}{ours} returns something else than {sync_name}{theirs}")
    paired = {name for pair in pairs for name in pair}
    mismatches += [
        f"{name} has no async twin"
        for name, _ in inspect.getmembers(repository, inspect.isfunction)
        if name not in paired and (name.endswith(("_sync", "_async")) or name in SYNC_NAMES.values())
    ]
    return mismatches


def _is_async(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def _returned(signature: inspect.Signature) -> object:
    annotation = signature.return_annotation
    if get_origin(annotation) in _ITERATORS:
        return "iterator", get_args(annotation)[0]
    return annotation
