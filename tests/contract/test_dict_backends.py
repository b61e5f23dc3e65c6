"""The contract of the six operations, on two backends of another package."""

from __future__ import annotations

import pytest

from sessions.testing import BaseRepositoryContract
from tests.contract.dict_backends import AsyncDictSessionRepository, DictSessionRepository


class TestDict(BaseRepositoryContract):
    @pytest.fixture
    def repository(self) -> DictSessionRepository:
        return DictSessionRepository()


class TestAsyncDict(BaseRepositoryContract):
    @pytest.fixture
    def repository(self) -> AsyncDictSessionRepository:
        return AsyncDictSessionRepository()

    def assert_nothing_left_open(self, repository: AsyncDictSessionRepository) -> None:
        assert repository._connection_manager.taken == 0
