"""Statements for a driver itself, compiled by SQLAlchemy, with the processors of the types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Dialect, Executable, Uuid
from sqlalchemy.types import TypeEngine

__all__ = ["CompiledStatements", "DriverStatement"]

Processor = Callable[[Any], Any]


class DriverStatement:
    """One statement: its SQL, its parameters in their order, and the processors of its types.

    Attributes:
        query: SQL with the driver's own placeholders.
    """

    __slots__ = ("_binds", "_columns", "query")

    def __init__(
        self,
        query: str,
        binds: Sequence[tuple[str, Any, Processor | None]],
        columns: Sequence[Processor | None],
    ) -> None:
        self.query = query
        self._binds = tuple(binds)
        # By the place of their column.
        self._columns = [(place, process) for place, process in enumerate(columns) if process is not None]

    def arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the values of the parameters for the driver, in order."""
        return [
            parameters.get(name, default) if process is None else process(parameters.get(name, default))
            for name, default, process in self._binds
        ]

    def rows(self, records: Sequence[Any]) -> Sequence[Any]:
        """Return the driver's rows, with the result processors of the columns' types applied."""
        if not self._columns:
            return records
        rows = list(map(list, records))
        for place, process in self._columns:
            for row in rows:
                row[place] = process(row[place])
        return rows


class CompiledStatements:
    """Compiles each statement once.

    Args:
        dialect: Of the driver.
        schema: Schema of the tables; None for the default one.
        uuid: Faster than the dialect's result processor of UUIDs as texts; None where it has none.
    """

    def __init__(self, dialect: Dialect, schema: str | None = None, *, uuid: Processor | None = None) -> None:
        self._uuid = uuid
        self._schema_map: dict[str | None, str | None] | None = None if schema is None else {None: schema}
        self._dialect = dialect
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
        binds = []
        for name in compiled.positiontup:
            bind = compiled.binds[name]
            binds.append((name, bind.value, self._implementation(bind.type).bind_processor(self._dialect)))
        returned = getattr(construct, "exported_columns", ())
        columns = [self._result_processor(column.type) for column in returned]
        return self._compiled.setdefault(statement, DriverStatement(compiled.string, binds, columns))

    def _result_processor(self, type_: TypeEngine[Any]) -> Processor | None:
        if self._uuid is not None and isinstance(type_, Uuid):
            return self._uuid
        return self._implementation(type_).result_processor(self._dialect, None)

    def _implementation(self, type_: TypeEngine[Any]) -> TypeEngine[Any]:
        return type_.dialect_impl(self._dialect)
