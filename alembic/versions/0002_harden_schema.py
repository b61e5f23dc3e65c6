"""NOT NULL where the code relies on it; indexes that hold each list page and each history as one range.

Revision: 0002, after 0001
"""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# By table: its columns, and what a row from before gets that has none.
REQUIRED = {
    "chat_sessions": {
        "created_at": "COALESCE(created_at, updated_at, CURRENT_TIMESTAMP)",
        "updated_at": "COALESCE(updated_at, created_at, CURRENT_TIMESTAMP)",
        "metadata": "COALESCE(metadata, '{}')",
    },
    # Whose a message without a session was, nobody can say: such a row stops the upgrade.
    "chat_messages": {"timestamp": "COALESCE(timestamp, CURRENT_TIMESTAMP)", "session_id": None},
}
WIDE = (
    ("idx_sessions_user_id", "chat_sessions", ["user_id", sa.text("updated_at DESC"), "session_id"]),
    ("idx_messages_session_id", "chat_messages", ["session_id", "timestamp", "message_id"]),
)
NARROW = (
    ("idx_sessions_user_id", "chat_sessions", ["user_id"]),
    ("idx_messages_session_id", "chat_messages", ["session_id"]),
)

LOCK_NOT_AVAILABLE = "55P03"
LOCK_TRIES = 60
# Together a minute, of which writers have to wait for a third at the most, and never longer than this.
LOCK_TIMEOUT = "300ms"
LOCK_PAUSE_SECONDS = 0.7


def upgrade() -> None:
    """Fill and require the columns, then widen the indexes without stopping writers."""
    if op.get_context().dialect.name == "sqlite":
        _replace_indexes_at_once(WIDE)
        return
    if _is_one_transaction() or _is_empty():
        op.execute("SET LOCAL lock_timeout = '5s'")
        for table in REQUIRED:
            _fill(table)
            op.execute(_alter(table, *_drop_checks(table), *_set_not_null(table)))
        _replace_indexes_at_once(WIDE)
        return
    # Each statement commits by itself, so no lock outlives it; each can be repeated, so an upgrade
    # that was interrupted is simply run again.
    with op.get_context().autocommit_block():
        for table in REQUIRED:
            _require(table)
        _replace_indexes_concurrently(WIDE)


def downgrade() -> None:
    """Take both back."""
    if op.get_context().dialect.name == "sqlite":
        _replace_indexes_at_once(NARROW)
        return
    if _is_one_transaction():
        op.execute("SET LOCAL lock_timeout = '5s'")
        for table in REQUIRED:
            op.execute(_alter(table, *_drop_not_null(table)))
        _replace_indexes_at_once(NARROW)
        return
    with op.get_context().autocommit_block():
        for table in REQUIRED:
            _in_a_free_moment(_alter(table, *_drop_not_null(table)))
        _replace_indexes_concurrently(NARROW)


def _is_one_transaction() -> bool:
    """Return whether a transaction-pooling proxy forbids to leave the transaction."""
    config = op.get_context().config
    return config is not None and bool(config.attributes.get("one_transaction"))


def _is_empty() -> bool:
    """Return whether nothing is stored, so that there is nothing to wait for.

    An index that is built concurrently has to wait for every transaction of the database, and those of
    another service may take hours.
    """
    if op.get_context().as_sql:
        return False
    tables = [sa.table(name, schema=_schema()) for name in REQUIRED]
    counts = [sa.select(sa.exists().select_from(table)) for table in tables]
    return not any(op.get_bind().execute(count).scalar_one() for count in counts)


def _schema() -> str | None:
    """Return the schema of the version table, which is the one of all our tables."""
    return op.get_context().version_table_schema


def _qualified(name: str) -> str:
    return op.get_context().dialect.identifier_preparer.format_table(sa.table(name, schema=_schema()))


def _alter(table: str, *changes: str) -> str:
    return f"ALTER TABLE {_qualified(table)} {', '.join(changes)}"


def _fill(table: str) -> None:
    """Give rows from before what they lack."""
    defaults = {column: default for column, default in REQUIRED[table].items() if default is not None}
    values = ", ".join(f"{column} = {default}" for column, default in defaults.items())
    lacking = " OR ".join(f"{column} IS NULL" for column in defaults)
    op.execute(f"UPDATE {_qualified(table)} SET {values} WHERE {lacking}")


def _set_not_null(table: str) -> list[str]:
    return [f"ALTER {column} SET NOT NULL" for column in REQUIRED[table]]


def _drop_not_null(table: str) -> list[str]:
    return [f"ALTER {column} DROP NOT NULL" for column in REQUIRED[table]]


def _checks(table: str) -> dict[str, str]:
    # Not named like PostgreSQL names NOT NULL itself, which would then have to take another name.
    return {column: f"{table}_{column}_is_set" for column in REQUIRED[table]}


def _drop_checks(table: str) -> list[str]:
    return [f"DROP CONSTRAINT IF EXISTS {check}" for check in _checks(table).values()]


def _require(table: str) -> None:
    """SET NOT NULL without its scan under an exclusive lock: a CHECK that is validated first, which
    lets writers go on, tells PostgreSQL that there is nothing to find.
    """
    checks = _checks(table)
    add = [f"ADD CONSTRAINT {name} CHECK ({column} IS NOT NULL) NOT VALID" for column, name in checks.items()]
    # Before, because the CHECK would refuse any change of such a row; after, for those that came between.
    _fill(table)
    _in_a_free_moment(_alter(table, *_drop_checks(table), *add))
    _fill(table)
    op.execute(_alter(table, *(f"VALIDATE CONSTRAINT {name}" for name in checks.values())))
    _in_a_free_moment(_alter(table, *_set_not_null(table)))
    _in_a_free_moment(_alter(table, *_drop_checks(table)))


def _in_a_free_moment(statement: str) -> None:
    """Execute what needs a table for itself, without making all others wait for a long reader before it.

    Such a lock is waited for in a queue, and who comes later, waits behind it. So it is asked for again
    and again, for a moment each time.
    """
    if op.get_context().as_sql:
        op.execute(statement)
        return
    for tries_left in reversed(range(LOCK_TRIES)):
        op.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        try:
            op.execute(statement)
            return
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or not tries_left:
                raise
        finally:
            op.execute("RESET lock_timeout")
        op.execute(f"SELECT pg_sleep({LOCK_PAUSE_SECONDS})")


def _replace_indexes_concurrently(indexes: tuple[tuple[str, str, list[object]], ...]) -> None:
    for name, table, columns in indexes:
        new, old = f"{name}_new", f"{name}_old"
        for leftover in (new, old):  # Of a run that was interrupted; the new one may be half built.
            _drop_concurrently(leftover, table)
        op.create_index(new, table, columns, schema=_schema(), postgresql_concurrently=True)
        # Renamed first and dropped last: a service from before that starts meanwhile creates the index
        # that it misses, and its writers would wait for that.
        _in_a_free_moment(f"ALTER INDEX IF EXISTS {_qualified(name)} RENAME TO {old}")
        _in_a_free_moment(f"ALTER INDEX {_qualified(new)} RENAME TO {name}")
        _drop_concurrently(old, table)


def _drop_concurrently(name: str, table: str) -> None:
    op.drop_index(name, table, schema=_schema(), postgresql_concurrently=True, if_exists=True)


def _replace_indexes_at_once(indexes: tuple[tuple[str, str, list[object]], ...]) -> None:
    for name, table, columns in indexes:
        for present in (f"{name}_new", f"{name}_old", name):
            op.drop_index(present, table, schema=_schema(), if_exists=True)
        op.create_index(name, table, columns, schema=_schema())
