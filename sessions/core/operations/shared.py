"""The operations with one signature in both interfaces: `AsyncChats` and the repositories."""

from __future__ import annotations

from sessions.core.operations.editing import EditingOperations
from sessions.core.operations.history import HistoryOperations
from sessions.core.operations.lifecycle import LifecycleOperations
from sessions.core.operations.lists import ListOperations
from sessions.core.operations.retention import RetentionOperations
from sessions.core.operations.searching import SearchOperations

__all__ = ["SharedOperations"]


class SharedOperations(
    ListOperations,
    HistoryOperations,
    EditingOperations,
    SearchOperations,
    RetentionOperations,
    LifecycleOperations,
):
    """The operations with one signature in both interfaces.

    Raises:
        InvalidInputError: From every operation: an argument is invalid; nothing was sent.
        BackendUnavailableError: From every operation: the database cannot be used, after the retries.
        SchemaOutdatedError: From every operation: the schema is not at head and ``auto_migrate`` is off.
        ConfigurationError: From every operation: the database refuses the user or the database name.
    """
