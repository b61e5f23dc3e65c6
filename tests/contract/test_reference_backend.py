"""The contract on a backend in memory: a test that fails here contradicts the rules, or itself."""

from __future__ import annotations

import pytest

from sessions.testing import SessionRepositoryContract
from tests.contract.reference_backend import ReferenceRepository


class TestReference(SessionRepositoryContract):
    @pytest.fixture
    def repository(self) -> ReferenceRepository:
        return ReferenceRepository()
