"""Classifies errors of PyMongo by class, code and label, never by message text."""

from __future__ import annotations

from pymongo import errors

from sessions.backends.mongodb.client import ServerRefusesError
from sessions.backends.mongodb.schema import COLLECTION_UUID_MISMATCH
from sessions.core.failures import Place, shown, without_values
from sessions.errors import InvalidInputError, SessionsError

__all__ = [
    "TOO_LARGE_CODES",
    "is_lost",
    "is_transient",
    "outcome_is_unknown",
    "took_its_timeout",
    "translate",
]

# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
TRANSIENT_CODES = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        112,  # WriteConflict
        134,  # ReadConcernMajorityNotAvailableYet
        175,  # QueryPlanKilled: the index in use was dropped, as an upgrade of this package does.
        189,  # PrimarySteppedDown
        262,  # ExceededTimeLimit
        COLLECTION_UUID_MISMATCH,  # Dropped again while it was made ready.
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
TRANSIENT_LABELS = ("RetryableWriteError", "TransientTransactionError")
TOO_LARGE_CODES = frozenset({10334, 17419})  # BSONObjectTooLarge, also as the result of an update
# The setting at fault, and what is wrong with it.
SETTINGS = {
    11: ("username", "there is no such user"),  # UserNotFound
    13: ("username", "the user may not do this"),  # Unauthorized
    18: (  # AuthenticationFailed
        "password",
        "the server does not let the user in: no such user in auth_source, or another password",
    ),
}


def is_transient(error: BaseException) -> bool:
    """Return whether the driver's error is transient, by its class, code or label."""
    if took_its_timeout(error):
        return False
    if isinstance(error, errors.ConnectionFailure | errors.InvalidOperation):
        return True  # InvalidOperation: another thread closed the client; the next attempt opens a new one.
    if isinstance(error, errors.PyMongoError) and any(map(error.has_error_label, TRANSIENT_LABELS)):
        return True
    return isinstance(error, errors.OperationFailure) and error.code in TRANSIENT_CODES


def took_its_timeout(error: BaseException) -> bool:
    """Return whether an operation took the whole timeout of a setting: a retry would double it."""
    return isinstance(error, errors.WaitQueueTimeoutError | ServerRefusesError)


def is_lost(error: BaseException) -> bool:
    """Return whether the connection was lost, and the operation has time to repeat the command.

    The driver itself repeats a write once, but not on a standalone server, and no plain command.
    """
    waited = errors.ServerSelectionTimeoutError | errors.WaitQueueTimeoutError
    return isinstance(error, errors.ConnectionFailure) and not error.timeout and not isinstance(error, waited)


def outcome_is_unknown(error: BaseException) -> bool:
    """Return whether the connection was lost after a command was sent on it."""
    refused = errors.ServerSelectionTimeoutError | errors.WaitQueueTimeoutError | errors.NotPrimaryError
    return (isinstance(error, errors.ConnectionFailure) and not isinstance(error, refused)) or (
        isinstance(error, errors.PyMongoError) and error.has_error_label("UnknownTransactionCommitResult")
    )


def translate(error: BaseException, place: Place, *, by_url: bool) -> SessionsError | None:
    """Return the package's error for an error of PyMongo.

    Args:
        error: Not modified.
        place: The database, as the text names it.
        by_url: Whether the user and the password were given in a URL.

    Returns:
        The error, whose cause is the driver's error without the document that the server's report quotes.
    """
    failure = _failure(error, place, by_url)
    if failure is not None:
        failure.__cause__ = without_values(error, text=lambda text: text.partition(", full error: ")[0])
    return failure


def _failure(error: BaseException, place: Place, by_url: bool) -> SessionsError | None:
    name = type(error).__name__
    code = error.code if isinstance(error, errors.OperationFailure) else None
    if code in TOO_LARGE_CODES or isinstance(error, errors.DocumentTooLarge):
        return InvalidInputError("content", "is larger than MongoDB stores in one document (16 MB)")
    if code in SETTINGS:
        key, reason = SETTINGS[code]
        return place.refused(f"db.mongodb.{'url' if by_url else key}", f"{reason} (code {code})")
    if isinstance(error, errors.ConfigurationError):
        return place.refused("db.mongodb.url", f"the driver refuses it: {shown(_reason(error))} ({name})")
    if isinstance(error, ServerRefusesError):
        return place.unreachable(f"no server accepted a connection within refused_timeout{_quoted(error)}")
    if isinstance(error, errors.ServerSelectionTimeoutError):
        return place.unreachable(f"no server to write to was found within connect_timeout{_quoted(error)}")
    if isinstance(error, errors.WaitQueueTimeoutError):
        return place.unusable(f"no connection of the pool is free within pool_timeout ({name})")
    if isinstance(error, errors.PyMongoError) and error.timeout:
        return place.unusable(f"no answer within timeout ({name})")
    if code is not None:
        return place.unusable(f"the server reports an error ({name}, code {code})")
    if isinstance(error, errors.ConnectionFailure | OSError):
        return place.unreachable(f"the connection was lost or refused ({name})")
    if isinstance(error, errors.PyMongoError):
        return place.unusable(f"the driver reports an error ({name})")
    return None


def _quoted(error: BaseException) -> str:
    reason = _reason(error)
    return f": {shown(reason)}" if reason else ""


def _reason(error: BaseException) -> str:
    """Return the driver's text on servers: their addresses, and the error of each.

    Without its settings and the topology description.
    """
    return str(error).partition(", Timeout: ")[0].partition(" (configured timeouts")[0]
