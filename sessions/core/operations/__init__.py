"""The operations on conversations: each checks its arguments, then calls the backend with retries.

Ids and times are generated once, before the first attempt, so every attempt is idempotent.
"""

from sessions.core.operations.plain import Operations
from sessions.core.operations.shared import SharedOperations

__all__ = ["Operations", "SharedOperations"]
