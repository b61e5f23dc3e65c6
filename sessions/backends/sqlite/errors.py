"""Classifies SQLite's result codes, and explains them for an administrator: the file and the reason."""

from __future__ import annotations

import os
import sqlite3

from sqlalchemy import exc

__all__ = ["MissingFileError", "driver_error", "is_transient", "reason", "result_code"]

# https://www.sqlite.org/rescode.html
REASONS = {
    sqlite3.SQLITE_ABORT: "the process was forked while it was in use",
    sqlite3.SQLITE_AUTH: "the driver refuses the statement",
    sqlite3.SQLITE_BUSY: "another connection kept it locked for longer than busy_timeout",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; see PRAGMA integrity_check, and restore a backup",
    sqlite3.SQLITE_FULL: "the disk is full, or max_page_count is reached",
    sqlite3.SQLITE_IOERR: "the disk, or the file system, reports an error",
    sqlite3.SQLITE_LOCKED: "another connection of this process keeps it locked",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database, or is encrypted",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_PROTOCOL: "another connection kept it locked for too long",
    sqlite3.SQLITE_TOOBIG: "a value is larger than SQLite stores",
}
TRANSIENT_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


class MissingFileError(sqlite3.OperationalError):
    """The file does not exist, and opening it must not create it."""

    sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    sqlite_errorname = "SQLITE_CANTOPEN"


def driver_error(error: BaseException) -> BaseException:
    """Return the error of sqlite3 itself."""
    return error.orig if isinstance(error, exc.DBAPIError) and error.orig else error


def result_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code."""
    code = getattr(driver_error(error), "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def is_transient(error: BaseException) -> bool:
    """Return whether another connection held the lock for longer than the busy timeout."""
    return result_code(error) in TRANSIENT_CODES


def reason(error: BaseException, path: str | None, *, read_only: bool) -> str:
    """Return the reason of an error, by the result code and the state of the file system.

    Args:
        error: Error of SQLAlchemy, sqlite3 or the system.
        path: The database file; None if it is not known.
        read_only: Whether the URL opens it read-only.
    """
    code, of_driver = result_code(error), driver_error(error)
    name = getattr(of_driver, "sqlite_errorname", None) or type(of_driver).__name__
    what: str | None
    if isinstance(of_driver, MissingFileError):
        what = "there is no such file, and its URL does not say to create one"
    elif isinstance(of_driver, OSError) and of_driver.strerror:
        what = of_driver.strerror
    elif code == sqlite3.SQLITE_READONLY and read_only:
        what = "its URL says mode=ro or immutable=1, so nothing can be written"
    elif code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and path is not None:
        what = _of_file_system(path, to_write=code == sqlite3.SQLITE_READONLY)
    else:
        what = REASONS.get(code) if code is not None else None
    return f"{what} ({name})" if what else name


def _of_file_system(path: str, *, to_write: bool) -> str:
    """Return why a file cannot be opened or written to."""
    folder = os.path.dirname(path)
    try:
        os.stat(os.path.join(folder, "."))
    except FileNotFoundError:
        if os.path.islink(folder):
            return f"the directory {folder} is a link to nowhere"
        return f"there is no directory {folder}"
    except OSError as error:  # Not a directory, or permission denied.
        return f"{folder}: {error.strerror}"
    if os.path.isdir(path):
        return "it is a directory"
    exists = os.path.lexists(path)
    if not os.access(folder, os.X_OK) or (exists and not os.access(path, os.R_OK)):
        return "permission denied"
    if _is_read_only_file_system(folder):
        return "the file system is read-only"
    if exists and to_write and not os.access(path, os.W_OK):
        return "the file is read-only: permission denied"
    if not os.access(folder, os.W_OK):
        return f"permission denied to write to {folder}, where SQLite keeps its log beside the file"
    return "it is read-only" if to_write else "it cannot be opened"


def _is_read_only_file_system(folder: str) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
