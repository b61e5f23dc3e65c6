"""The part of the contract that applies to a backend of six operations, on two from outside."""

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
