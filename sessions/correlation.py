"""What the log records of one operation, or of one request, have in common.

Each record of this package has the attributes ``operation`` and ``correlation_id``, for a structured
formatter. `CorrelationFilter` gives them to the records of other loggers, too.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar, Token
from typing import Any

from sessions.errors import InvalidInputError

__all__ = [
    "ContextLogger",
    "CorrelationFilter",
    "Running",
    "begin_operation",
    "correlate",
    "correlation_id",
    "end_operation",
    "find_trace_id_with",
    "logger_of",
    "running_operation",
]

MAX_CHARACTERS = 255


class Running:
    """An operation under way.

    Args:
        name: Its public name.
    """

    __slots__ = ("generated", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        # The id of its records, made by the first one.
        self.generated: str | None = None


_running: ContextVar[Running | None] = ContextVar("sessions_running", default=None)
_given: ContextVar[str | None] = ContextVar("sessions_correlation_id", default=None)


def _no_trace() -> str | None:
    return None


_find_trace_id: Callable[[], str | None] = _no_trace


def find_trace_id_with(find: Callable[[], str | None] | None) -> None:
    """Let a function return the id of the current trace; None for no traces."""
    global _find_trace_id
    _find_trace_id = find or _no_trace


def begin_operation(name: str) -> Token[Running | None]:
    """Begin an operation in this context; its records have its name."""
    return _running.set(Running(name))


def end_operation(token: Token[Running | None]) -> None:
    """End what `begin_operation` began."""
    _running.reset(token)


def running_operation() -> str | None:
    """Return the public name of the operation under way in this context; None for none."""
    running = _running.get()
    return None if running is None else running.name


def correlation_id() -> str | None:
    """Return the id of the current request.

    It is that of `correlate`; else the id of the current trace, with OpenTelemetry; else a generated one for
    each operation; None outside of operations.
    """
    found = _given.get() or _find_trace_id()
    if found is None and (running := _running.get()) is not None:
        if running.generated is None:
            running.generated = uuid.uuid4().hex
        found = running.generated
    return found


@contextlib.contextmanager
def correlate(correlation_id: str | None = None) -> Iterator[str]:
    """Give the records of a block one id, such as that of a request's header.

    Args:
        correlation_id: 1 to 255 printable ASCII characters without spaces; None for a generated one.

    Yields:
        The id.

    Raises:
        InvalidInputError: It is not such a text: a line feed of a client would begin another record.
    """
    chosen = uuid.uuid4().hex if correlation_id is None else correlation_id
    is_plain = isinstance(chosen, str) and chosen.isascii() and chosen.isprintable() and " " not in chosen
    if not is_plain or not 0 < len(chosen) <= MAX_CHARACTERS:
        reason = f"must be 1 to {MAX_CHARACTERS} printable ASCII characters without spaces"
        raise InvalidInputError("correlation_id", reason)
    token = _given.set(chosen)
    try:
        yield chosen
    finally:
        _given.reset(token)


class CorrelationFilter(logging.Filter):
    """Gives each record that a handler handles ``operation`` and ``correlation_id``, None if there is none.

    Add it to a handler; a filter of a logger does not see the records of the loggers below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what a record does not have yet."""
        for name, value in _context().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds ``operation`` and ``correlation_id`` to each record."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add them to what the caller gives."""
        kwargs["extra"] = _context() | (kwargs.get("extra") or {})
        return msg, kwargs


def logger_of(module: str) -> ContextLogger:
    """Return the logger of a module of this package."""
    return ContextLogger(logging.getLogger(module), None)


def _context() -> dict[str, Any]:
    return {"operation": running_operation(), "correlation_id": correlation_id()}
