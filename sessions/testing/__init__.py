"""The contract of every session repository, as pytest classes for authors of backends.

It needs ``pytest`` and ``pytest-asyncio``, in auto or strict mode; the package itself imports neither.
Subclass one of the two classes and provide one fixture, ``repository``, a fresh repository on an empty
database; in the class, its module or a ``conftest.py``, sync or async::

    import pytest
    from sessions.testing import BaseRepositoryContract

    class TestMyRepository(BaseRepositoryContract):
        @pytest.fixture
        def repository(self):
            return MyRepository()

`BaseRepositoryContract` is for a backend that implements `BaseSessionRepository` alone. It calls the six
operations by name, and awaits what is awaitable, so each of them may be sync or async.

`SessionRepositoryContract` is for a backend with all operations of the built-in ones, as an
`AsyncSessionRepository`. It runs each test twice: with the async and with the blocking operations.

Each test ends with `RepositoryContract.assert_nothing_left_open`, which a backend with a pool of its own
overrides. Where a backend differs by design, set the class attributes ``takes_only_uuids`` and
``clock_resolution``.
"""

import pytest

_MODULES = (
    *("base", "conditions", "creating", "deleting", "editing", "forking", "lifecycle", "listing", "messages"),
    *("new_messages", "reading", "searching", "shared", "updating", "versions"),
)
# Before the imports, so that a failing assert shows its values although these are no test modules.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from sessions.testing.base import BaseRepositoryContract  # noqa: E402
from sessions.testing.callers import AsyncCaller, Caller, MixedCaller, SyncCaller  # noqa: E402
from sessions.testing.complete import SessionRepositoryContract  # noqa: E402
from sessions.testing.open_connections import count_checked_out  # noqa: E402
from sessions.testing.shared import RepositoryContract  # noqa: E402
from sessions.testing.twins import find_twin_mismatches  # noqa: E402

__all__ = [
    "AsyncCaller",
    "BaseRepositoryContract",
    "Caller",
    "MixedCaller",
    "RepositoryContract",
    "SessionRepositoryContract",
    "SyncCaller",
    "count_checked_out",
    "find_twin_mismatches",
]
