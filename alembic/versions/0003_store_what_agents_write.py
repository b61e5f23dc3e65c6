"""Five roles; a message's metadata, payload and place among equal timestamps; a session's version.

The timestamps that the package assigns strictly increase within a session. Those that callers give may be
equal, and then the order of writing decides, whatever the ids look like: ``write_order`` holds it, 0 where
the package assigned the timestamp. So the index that holds a history in its order needs it before the id.

Services of the release before go on during the upgrade and after it: what they do not name has a default.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic.util import CommandError

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX = "idx_messages_session_id"
WIDE = ["session_id", "timestamp", "write_order", "message_id"]
NARROW = ["session_id", "timestamp", "message_id"]

ROLE_CHECK = "chat_messages_role_check"
WIDE_ROLES = "role IN ('user', 'assistant', 'system', 'developer', 'tool')"
NARROW_ROLES = "role IN ('user', 'assistant')"
# While a downgrade runs: what it could not keep is not written.
FITS_CHECK = "chat_messages_fits_0002_check"
FITS = "metadata = '{}' AND payload IS NULL"

# What revision 0002 cannot hold, and how it is counted.
LOST = {
    "with a role other than user and assistant": f"NOT ({NARROW_ROLES})",
    "with metadata": "metadata <> '{}'",
    "with a payload": "payload IS NOT NULL",
}

# On SQLite, where nothing can be looked at because the SQL is only printed: the table with these columns.
SQLITE_COLUMNS = "message_id, session_id, role, content, timestamp, metadata, payload, write_order"
SQLITE_TABLE = """
CREATE TABLE chat_messages (
    message_id CHAR(32) NOT NULL,
    session_id CHAR(32) NOT NULL,
    role VARCHAR(20) NOT NULL,
    content TEXT NOT NULL,
    timestamp DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    metadata JSON DEFAULT '{{}}' NOT NULL,
    payload TEXT,
    write_order BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT chat_messages_pkey PRIMARY KEY (message_id),
    CONSTRAINT chat_messages_session_id_fkey FOREIGN KEY(session_id)
        REFERENCES chat_sessions (session_id) ON DELETE CASCADE,
    CONSTRAINT chat_messages_role_check CHECK ({check})
)
"""

LOCK_NOT_AVAILABLE = "55P03"
LOCK_TRIES = 60
# Together a minute, of which writers have to wait for a third at the most, and never longer than this.
LOCK_TIMEOUT = "300ms"
LOCK_PAUSE_SECONDS = 0.7


def upgrade() -> None:
    """Add the columns, admit the roles, then replace the index without stopping writers."""
    if op.get_context().dialect.name == "sqlite":
        _upgrade_sqlite()
        return
    add_version = "ADD COLUMN IF NOT EXISTS version BIGINT NOT NULL DEFAULT 0"
    add_columns = (
        "ADD COLUMN IF NOT EXISTS metadata JSONB NOT NULL DEFAULT '{}'",
        "ADD COLUMN IF NOT EXISTS payload TEXT",
        "ADD COLUMN IF NOT EXISTS write_order BIGINT NOT NULL DEFAULT 0",
    )
    if _is_one_transaction() or _is_empty():
        op.execute("SET LOCAL lock_timeout = '5s'")
        op.execute(_alter("chat_sessions", add_version))
        op.execute(_alter("chat_messages", *add_columns, *_replace_checks(WIDE_ROLES)))
        _replace_index_at_once(WIDE)
        return
    # Each statement commits by itself, so no lock outlives it; each can be repeated, so an upgrade
    # that was interrupted is simply run again. A constant default writes no row.
    with op.get_context().autocommit_block():
        _in_a_free_moment(_alter("chat_sessions", add_version))
        _in_a_free_moment(_alter("chat_messages", *add_columns))
        _in_a_free_moment(_alter("chat_messages", *_replace_checks(WIDE_ROLES, validated=False)))
        op.execute(_alter("chat_messages", f"VALIDATE CONSTRAINT {ROLE_CHECK}"))
        _replace_index_concurrently(WIDE)


def downgrade() -> None:
    """Take all back, unless rows would lose what they hold.

    Versions are lost, and so is the order of messages whose timestamps were given and are equal: they then
    stand in the order of their ids.

    Raises:
        CommandError: There are messages that revision 0002 cannot hold; it says how many.
    """
    if op.get_context().dialect.name == "sqlite":
        _downgrade_sqlite()
        return
    drop_columns = [f"DROP COLUMN IF EXISTS {name}" for name in ("metadata", "payload", "write_order")]
    drop_version = "DROP COLUMN IF EXISTS version"
    if _is_one_transaction():
        op.execute("SET LOCAL lock_timeout = '5s'")
        op.execute(f"LOCK TABLE {_qualified('chat_messages')} IN ACCESS EXCLUSIVE MODE")
        _refuse_to_lose()
        _replace_index_at_once(NARROW)
        op.execute(_alter("chat_messages", *drop_columns, *_replace_checks(NARROW_ROLES)))
        op.execute(_alter("chat_sessions", drop_version))
        return
    with op.get_context().autocommit_block():
        _refuse_to_lose()
        if op.get_context().as_sql or _has_column("chat_messages", "payload"):
            fits = f"ADD CONSTRAINT {FITS_CHECK} CHECK ({FITS}) NOT VALID"
            _in_a_free_moment(_alter("chat_messages", *_replace_checks(NARROW_ROLES, validated=False), fits))
            _refuse_what_was_written_meanwhile()
            op.execute(
                _alter("chat_messages", f"VALIDATE CONSTRAINT {ROLE_CHECK}, VALIDATE CONSTRAINT {FITS_CHECK}")
            )
        _replace_index_concurrently(NARROW)
        # The check on the columns goes with them.
        _in_a_free_moment(_alter("chat_messages", *drop_columns))
        _in_a_free_moment(_alter("chat_sessions", drop_version))


# --- what would be lost ------------------------------------------------------------------------------


def _refuse_to_lose() -> None:
    """Raise an error if there are messages that revision 0002 cannot hold."""
    # In SQL that is only printed, validating the checks refuses.
    # Where a downgrade was interrupted in the end, the columns are gone.
    if op.get_context().as_sql or not _has_column("chat_messages", "payload"):
        return
    counts = ", ".join(f"count(CASE WHEN {condition} THEN 1 END)" for condition in LOST.values())
    found = op.get_bind().execute(sa.text(f"SELECT {counts} FROM {_qualified('chat_messages')}")).one()
    lost = [f"{count} {what}" for count, what in zip(found, LOST, strict=True) if count]
    if lost:
        raise CommandError(
            f"revision {down_revision} cannot hold all messages: there are {', '.join(lost)}; "
            "nothing was changed"
        )


def _has_column(table: str, name: str) -> bool:
    """Return whether a column is there; in SQL that is only printed, whether it is before this revision."""
    if op.get_context().as_sql:
        return False
    columns = sa.inspect(op.get_bind()).get_columns(table, schema=_schema())
    return any(column["name"] == name for column in columns)


def _refuse_what_was_written_meanwhile() -> None:
    try:
        _refuse_to_lose()
    except CommandError:
        _in_a_free_moment(_alter("chat_messages", *_replace_checks(WIDE_ROLES, validated=False)))
        op.execute(_alter("chat_messages", f"VALIDATE CONSTRAINT {ROLE_CHECK}"))
        raise


# --- PostgreSQL --------------------------------------------------------------------------------------


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
    tables = [sa.table(name, schema=_schema()) for name in ("chat_sessions", "chat_messages")]
    counts = [sa.select(sa.exists().select_from(table)) for table in tables]
    return not any(op.get_bind().execute(count).scalar_one() for count in counts)


def _schema() -> str | None:
    """Return the schema of the version table, which is the one of all our tables."""
    return op.get_context().version_table_schema


def _qualified(name: str) -> str:
    return op.get_context().dialect.identifier_preparer.format_table(sa.table(name, schema=_schema()))


def _alter(table: str, *changes: str) -> str:
    return f"ALTER TABLE {_qualified(table)} {', '.join(changes)}"


def _replace_checks(roles: str, *, validated: bool = True) -> tuple[str, ...]:
    # In one statement, so that there is never none.
    return (
        f"DROP CONSTRAINT IF EXISTS {FITS_CHECK}",
        f"DROP CONSTRAINT IF EXISTS {ROLE_CHECK}",
        f"ADD CONSTRAINT {ROLE_CHECK} CHECK ({roles}){'' if validated else ' NOT VALID'}",
    )


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


def _replace_index_concurrently(columns: list[str]) -> None:
    new, old = f"{INDEX}_new", f"{INDEX}_old"
    for leftover in (new, old):  # Of a run that was interrupted; the new one may be half built.
        _drop_concurrently(leftover)
    op.create_index(new, "chat_messages", columns, schema=_schema(), postgresql_concurrently=True)
    # Renamed first and dropped last: a service of release 0.1 that starts meanwhile creates the index
    # that it misses, and its writers would wait for that.
    _in_a_free_moment(f"ALTER INDEX IF EXISTS {_qualified(INDEX)} RENAME TO {old}")
    _in_a_free_moment(f"ALTER INDEX {_qualified(new)} RENAME TO {INDEX}")
    _drop_concurrently(old)


def _drop_concurrently(name: str) -> None:
    op.drop_index(name, "chat_messages", schema=_schema(), postgresql_concurrently=True, if_exists=True)


def _replace_index_at_once(columns: list[str]) -> None:
    _drop_index_at_once()
    op.create_index(INDEX, "chat_messages", columns, schema=_schema())


def _drop_index_at_once() -> None:
    for present in (f"{INDEX}_new", f"{INDEX}_old", INDEX):
        op.drop_index(present, "chat_messages", schema=_schema(), if_exists=True)


# --- SQLite, in one transaction ----------------------------------------------------------------------


def _upgrade_sqlite() -> None:
    # Where one table was lost and made again, the other one has its columns.
    if not _has_column("chat_sessions", "version"):
        op.execute("ALTER TABLE chat_sessions ADD COLUMN version BIGINT DEFAULT 0 NOT NULL")
    # Not while rows are copied: an index is built faster in the end.
    _drop_index_at_once()
    if not _has_column("chat_messages", "payload"):
        op.execute("ALTER TABLE chat_messages ADD COLUMN metadata JSON DEFAULT '{}' NOT NULL")
        op.execute("ALTER TABLE chat_messages ADD COLUMN payload TEXT")
        op.execute("ALTER TABLE chat_messages ADD COLUMN write_order BIGINT DEFAULT 0 NOT NULL")
        _replace_sqlite_check(NARROW_ROLES, WIDE_ROLES)
    op.create_index(INDEX, "chat_messages", WIDE)


def _downgrade_sqlite() -> None:
    _refuse_to_lose()
    _drop_index_at_once()
    _replace_sqlite_check(WIDE_ROLES, NARROW_ROLES)
    for column in ("write_order", "payload", "metadata"):
        op.execute(f"ALTER TABLE chat_messages DROP COLUMN {column}")
    op.create_index(INDEX, "chat_messages", NARROW)
    op.execute("ALTER TABLE chat_sessions DROP COLUMN version")


def _replace_sqlite_check(old: str, new: str) -> None:
    """Copy the messages into a table with another check, which SQLite cannot alter.

    The table is defined as it was, so that columns, indexes and triggers of other programs stay. Foreign keys
    are not enforced meanwhile: what refers to the messages would be deleted with the former table.
    """
    definition, columns, others = _sqlite_table(old)
    if definition.count(f"CHECK ({old})") != 1:
        raise CommandError(
            f"the table chat_messages has no CHECK ({old}), as revision {down_revision} made it"
        )
    definition = definition.replace(f"CHECK ({old})", f"CHECK ({new})")
    copy = definition.strip().replace("chat_messages", "chat_messages_new", 1)
    _execute_sqlite(
        "SAVEPOINT rebuild",
        copy,
        f"INSERT INTO chat_messages_new ({columns}) SELECT {columns} FROM chat_messages",
        "DROP TABLE chat_messages",
        # Names in other tables, views and triggers stay as they are.
        "PRAGMA legacy_alter_table=ON",
        "ALTER TABLE chat_messages_new RENAME TO chat_messages",
        "PRAGMA legacy_alter_table=OFF",
        *others,
        "RELEASE rebuild",
    )


def _sqlite_table(check: str) -> tuple[str, str, list[str]]:
    """Return the definition of the messages' table, its columns, and the definitions of what it has."""
    if op.get_context().as_sql:
        return SQLITE_TABLE.format(check=check), SQLITE_COLUMNS, []
    connection = op.get_bind()
    quote = connection.dialect.identifier_preparer.quote
    described = connection.execute(sa.text("SELECT name, hidden FROM pragma_table_xinfo('chat_messages')"))
    # Those that are generated cannot be written.
    columns = ", ".join(quote(name) for name, hidden in described if not hidden)
    found = connection.execute(
        sa.text(
            "SELECT type, sql FROM sqlite_master WHERE tbl_name = 'chat_messages' AND sql IS NOT NULL "
            "ORDER BY type DESC, rowid"
        )
    ).all()
    [definition] = [sql for kind, sql in found if kind == "table"]
    return definition, columns, [sql for kind, sql in found if kind != "table"]


def _execute_sqlite(*statements: str) -> None:
    for statement in statements:
        if op.get_context().as_sql:
            op.execute(statement)
        else:
            # As it is: a colon in another program's trigger is no parameter.
            op.get_bind().exec_driver_sql(statement)
