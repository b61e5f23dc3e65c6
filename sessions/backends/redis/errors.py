"""Classifies errors of redis-py by class, and by the code that a server's error begins with."""

from __future__ import annotations

from redis import exceptions

from sessions.backends.redis.commands import (
    NoAnswerError,
    NotAClusterError,
    NotReplicatedError,
    NotSentError,
    PoolTimeoutError,
)
from sessions.core.failures import Place, without_values
from sessions.errors import SessionsError

__all__ = ["READS_ONLY", "code_of", "driver_error", "is_transient", "outcome_is_unknown", "translate"]

# The server rejects the command, and another one, or the same a little later, does not.
TRANSIENT = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.MasterDownError,
    exceptions.ReadOnlyError,
    exceptions.TryAgainError,
)
TRANSIENT_CODES = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN", "UNBLOCKED"}
)
# The server rejects writes, and not reads.
READS_ONLY = frozenset({"MISCONF", "NOREPLICAS", "OOM", "READONLY"})
LOST = (exceptions.ConnectionError, exceptions.TimeoutError, OSError)
WITH_CAUSE = (NotSentError, NoAnswerError, NotAClusterError, PoolTimeoutError)
REFUSED = (exceptions.AuthenticationError, exceptions.AuthorizationError)
REASONS = {
    "BUSY": "a script of another client keeps it busy",
    "CLUSTERDOWN": "the cluster does not serve all slots",
    "LOADING": "it loads its data",
    "MISCONF": "it cannot write to its disk, and so accepts no writes",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write",
    "OOM": "it has reached maxmemory",
    "READONLY": "it is a replica, which accepts no writes",
    "TRYAGAIN": "the keys are moving to another node",
}
CODES = {
    exceptions.OutOfMemoryError: "OOM",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.NoPermissionError: "NOPERM",
}
REFUSAL_CODES = frozenset({"NOAUTH", "NOPERM", "WRONGPASS"})
# Others are not told from a text: redis-py removes "ERR", the code of most errors.
KNOWN_CODES = REFUSAL_CODES | TRANSIENT_CODES | REASONS.keys()


def driver_error(error: BaseException) -> BaseException:
    """Return redis-py's error."""
    if isinstance(error, WITH_CAUSE) and error.__cause__ is not None:
        return error.__cause__
    return error


def code_of(error: BaseException) -> str | None:
    """Return the code of a server's error, which its text begins with: ``MISCONF``."""
    for kind, code in CODES.items():
        if isinstance(error, kind):
            return code
    if not isinstance(error, exceptions.ResponseError):
        return None
    code = str(error).partition(" ")[0]
    return code if code in KNOWN_CODES else None


def is_transient(error: BaseException) -> bool:
    """Return whether a call that failed with this error may be retried."""
    if isinstance(error, PoolTimeoutError):
        return False  # It took the whole `pool_timeout`; a retry would double it.
    if isinstance(error, NoAnswerError | NotReplicatedError):
        return True
    of_driver = driver_error(error)
    if isinstance(of_driver, REFUSED):
        return False
    return isinstance(of_driver, TRANSIENT + LOST) or code_of(of_driver) in TRANSIENT_CODES


def outcome_is_unknown(error: BaseException) -> bool:
    """Return whether the connection was lost, or the server was silent, after a command was sent."""
    if isinstance(error, NotSentError | PoolTimeoutError):
        return False
    if isinstance(error, NoAnswerError | NotReplicatedError):
        return True
    return isinstance(error, LOST) and not isinstance(error, TRANSIENT)


def translate(error: BaseException, place: Place, *, by_url: bool) -> SessionsError | None:
    """Return the package's error for an error of redis-py.

    Args:
        error: Not modified.
        place: The server, as the text names it.
        by_url: Whether the user and the password were given in a URL.
    """
    failure = _failure(error, place, by_url)
    if failure is not None:
        # The server's text may quote arguments, and so the conversation.
        failure.__cause__ = without_values(driver_error(error), text=lambda text: text.partition(" ")[0])
    return failure


def _failure(error: BaseException, place: Place, by_url: bool) -> SessionsError | None:
    of_driver = driver_error(error)
    name, code = type(of_driver).__name__, code_of(of_driver)
    if isinstance(error, PoolTimeoutError):
        return place.unusable("no connection of the pool is free within pool_timeout")
    if isinstance(error, NoAnswerError):
        return place.unusable("no answer within timeout")
    if isinstance(error, NotReplicatedError):
        return place.unusable(
            "fewer replicas than db.redis.wait_replicas received the write, which it stored"
        )
    if isinstance(error, NotAClusterError):
        return place.refused("db.redis.cluster", "it is not a node of a cluster")
    if isinstance(of_driver, REFUSED) or code in ("NOAUTH", "WRONGPASS"):
        key = "db.redis.url" if by_url else "db.redis.password"
        return place.refused(key, f"the server refuses the user or the password ({name})")
    if code == "NOPERM":
        key = "db.redis.url" if by_url else "db.redis.username"
        return place.refused(key, "the user may not run this command, or not on these keys (NOPERM)")
    if code is not None:
        return place.unusable(f"{REASONS.get(code, 'it does not accept the command now')} ({code})")
    if isinstance(of_driver, exceptions.TimeoutError | TimeoutError):
        return place.unreachable(f"no answer within connect_timeout ({name})")
    if isinstance(of_driver, LOST):
        return place.unreachable(f"the connection was lost or refused ({name})")
    if isinstance(of_driver, exceptions.RedisError):
        return place.unusable(f"the server, or the driver, reports an error ({name})")
    return None
