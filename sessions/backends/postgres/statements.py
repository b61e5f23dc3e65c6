"""Statements for asyncpg, compiled by SQLAlchemy, with the bind and result processors of the types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql import asyncpg as dialect_module
from sqlalchemy.types import TypeEngine

__all__ = ["CompiledStatements", "DriverStatement"]

Processor = Callable[[Any], Any]


class DriverStatement:
    """One statement: its SQL, its parameters in their order, and the processors of its types.

    Attributes:
        query: SQL with ``$1`` and so on.
    """

    __slots__ = ("_binds", "_columns", "query")

    def __init__(
        self,
        query: str,
        binds: Sequence[tuple[str, Processor | None]],
        columns: Sequence[Processor | None],
    ) -> None:
        self.query = query
        self._binds = tuple(binds)
        self._columns = tuple(columns) if any(columns) else ()

    def arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the values of the parameters for the driver, in order."""
        return [
            parameters[name] if process is None else process(parameters[name])
            for name, process in self._binds
        ]

    def rows(self, records: Sequence[Any]) -> Sequence[Any]:
        """Return the driver's rows, with the result processors of the columns' types applied."""
        if not self._columns:
            return records
        return [
            tuple(
                value if process is None else process(value)
                for value, process in zip(record, self._columns, strict=True)
            )
            for record in records
        ]


class CompiledStatements:
    """Compiles each statement once.

    Args:
        schema: Schema of the tables; None for the ``search_path``.
    """

    def __init__(self, schema: str | None) -> None:
        self._schema_map: dict[str | None, str | None] | None = None if schema is None else {None: schema}
        self._dialect = dialect_module.dialect()  # type: ignore[no-untyped-call]
        self._compiled: dict[Executable, DriverStatement] = {}

    def __call__(self, statement: Executable) -> DriverStatement:
        """Return a compiled statement, from the cache after the first time."""
        return self._compiled.get(statement) or self._compile(statement)

    def _compile(self, statement: Executable) -> DriverStatement:
        construct: Any = statement
        compiled = construct.compile(
            dialect=self._dialect,
            schema_translate_map=self._schema_map,
            render_schema_translate=self._schema_map is not None,
        )
        binds = [
            (name, self._implementation(compiled.binds[name].type).bind_processor(self._dialect))
            for name in compiled.positiontup
        ]
        returned = getattr(construct, "exported_columns", ())
        columns = [
            self._implementation(column.type).result_processor(self._dialect, None) for column in returned
        ]
        return self._compiled.setdefault(statement, DriverStatement(compiled.string, binds, columns))

    def _implementation(self, type_: TypeEngine[Any]) -> TypeEngine[Any]:
        return type_.dialect_impl(self._dialect)
