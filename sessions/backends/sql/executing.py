"""Transactions of several statements as blocking functions.

Such a function gets an `Executor`. It runs as a whole where the connection is: in the thread of one of this
package's own connections, or in the greenlet of a connection of SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, Executable

__all__ = ["ConnectionExecutor", "Executor", "Parameters"]

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Executor(Protocol):
    """Executes the statements of one transaction."""

    def rows(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute a statement and return its rows, each with its columns in order."""
        ...

    def write(self, statement: Executable, parameters: Parameters) -> int:
        """Execute a statement, once for each of several sets of parameters; return how many rows it wrote."""
        ...

    def write_text(self, sql: str, values: tuple[Any, ...]) -> None:
        """Execute SQL with the driver's placeholders, and values as they are stored."""
        ...

    def write_rows(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """Execute SQL as `write_text` does, once for each of several rows of values."""
        ...


class ConnectionExecutor:
    """Executes statements on a connection of SQLAlchemy.

    Args:
        connection: In a transaction.
        options: Execution options of the statements.
    """

    def __init__(self, connection: Connection, options: Mapping[str, Any]) -> None:
        self._connection = connection
        self._options = options

    def rows(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute a statement and return its rows, each with its columns in order."""
        return self._connection.execute(statement, parameters, execution_options=self._options).all()

    def write(self, statement: Executable, parameters: Parameters) -> int:
        """Execute a statement, once for each of several sets of parameters; return how many rows it wrote."""
        result = self._connection.execute(statement, parameters, execution_options=self._options)
        return result.rowcount

    def write_text(self, sql: str, values: tuple[Any, ...]) -> None:
        """Execute SQL with the driver's placeholders, and values as they are stored."""
        self._connection.exec_driver_sql(sql, values, execution_options=self._options)

    def write_rows(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """Execute SQL as `write_text` does, once for each of several rows of values."""
        self._connection.exec_driver_sql(sql, rows, execution_options=self._options)
