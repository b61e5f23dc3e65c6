"""Changes of metadata, and conditions on it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sessions.models.records import ChatSessionRecord
from sessions.queries.columns import bind, optional

__all__ = ["changed_metadata", "has_values", "json_parameter"]

METADATA: Any = ChatSessionRecord.session_metadata


def json_parameter(name: str, *, postgres: bool) -> ColumnElement[Any]:
    """Return a parameter that carries JSON text; NULL if it is not given."""
    text = optional(name, Text())
    return cast(text, JSONB) if postgres else text


def changed_metadata(*, postgres: bool) -> ColumnElement[Any]:
    """Return the new metadata of a session.

    The parameter ``metadata`` replaces the old. In PostgreSQL, ``merge`` sets top-level keys of the old, and
    ``remove``, an array of texts, removes some. Parameters that are NULL change nothing.
    """
    new = json_parameter("metadata", postgres=postgres)
    if not postgres:
        return func.coalesce(new, _TEXT)
    merge, remove = json_parameter("merge", postgres=True), optional("remove", ARRAY(Text()))
    # An old row may hold no object.
    old = case((func.jsonb_typeof(METADATA) == literal_column("'object'"), METADATA), else_=_EMPTY)
    merged = old.op("||")(func.coalesce(merge, _EMPTY)).self_group()
    kept = merged.op("-")(func.coalesce(remove, literal_column("'{}'::text[]")))
    return case(
        (new.is_not(None), new),
        (and_(merge.is_(None), remove.is_(None)), METADATA),
        else_=kept,
    )


def has_values(keys: int, metadata: Any = METADATA, *, postgres: bool) -> list[ColumnElement[bool]]:
    """Return the conditions that top-level keys of a session's metadata have one of the accepted values.

    For each key, a parameter ``key_0`` and so on carries its name, and ``accepted_0`` and so on a JSON array
    of strings, numbers, booleans and nulls. Null accepts an absent key, too.

    Args:
        keys: Number of keys.
        metadata: The column; in SQLite always that of the table.
        postgres: Whether the dialect is PostgreSQL's.
    """
    parameters = [
        (bind(f"key_{number}", Text()), bind(f"accepted_{number}", Text())) for number in range(keys)
    ]
    if postgres:
        return [_has_value(metadata, *one) for one in parameters]
    return [_has_value_in_sqlite(*one) for one in parameters]


def _has_value(metadata: Any, key: Any, accepted: Any) -> ColumnElement[bool]:
    # In a subselect, so that the text is parsed once and not for each row. The value is in an array of its
    # own: an array contains an array only as an element, and NULL, of an absent key, becomes null.
    parsed = select(cast(accepted, JSONB)).scalar_subquery()
    value = func.jsonb_build_array(metadata.op("->")(key))
    contains: ColumnElement[bool] = parsed.op("@>", is_comparison=True)(value)
    return contains


def _has_value_in_sqlite(key: Any, accepted: Any) -> ColumnElement[bool]:
    columns = ("key", "type", "atom")
    found: Any = func.json_each(_TEXT).table_valued(*columns, name="found").alias("found")
    wanted: Any = func.json_each(accepted).table_valued(*columns, name="wanted").alias("wanted")
    # By type, too: the atom of true is 1.
    is_same = or_(
        and_(found.c.type == wanted.c.type, found.c.atom.is_not_distinct_from(wanted.c.atom)),
        and_(
            found.c.type.op("IN")(_NUMBERS), wanted.c.type.op("IN")(_NUMBERS), found.c.atom == wanted.c.atom
        ),
    )
    accepts_null = wanted.c.type == literal_column("'null'")
    is_absent = not_(exists(select(literal_column("1")).select_from(found).where(found.c.key == key)))
    return or_(
        exists(
            select(literal_column("1")).select_from(found.join(wanted, is_same)).where(found.c.key == key)
        ),
        and_(is_absent, exists(select(literal_column("1")).select_from(wanted).where(accepts_null))),
    )


_TEXT: Any = literal_column("chat_sessions.metadata")
_NUMBERS: Any = literal_column("('integer', 'real')")
_EMPTY: Any = cast(literal_column("'{}'"), JSONB)
