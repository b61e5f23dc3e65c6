"""The contract that every session repository keeps, as pytest classes for the author of a backend.

It needs ``pytest`` and ``pytest-asyncio``, in auto or strict mode; the package itself loads neither.
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

`SessionRepositoryContract` is for a backend that offers everything that the built-in ones do, as an
`AsyncSessionRepository`. It runs each test twice, through the async names and through the sync names.

Each test ends with `RepositoryContract.assert_nothing_left_open`, which a backend with a pool of its own
overrides. Where a backend differs by design, set the class attributes ``takes_only_uuids`` and
``clock_resolution``.
"""

import pytest

_MODULES = ("base", "creating", "deleting", "lifecycle", "listing", "messages", "shared")
# Before they are imported, so that a failing assert shows its values also outside of a test module.
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
