"""The complete contract."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.testing.base import BaseRepositoryContract
from sessions.testing.callers import AsyncCaller, Caller, SyncCaller
from sessions.testing.conditions import ConditionsContract
from sessions.testing.creating import CreatingContract
from sessions.testing.deleting import DeletingContract
from sessions.testing.editing import EditingContract
from sessions.testing.forking import ForkingContract
from sessions.testing.lifecycle import LifecycleContract
from sessions.testing.listing import ListingContract
from sessions.testing.messages import MessagesContract
from sessions.testing.new_messages import NewMessagesContract
from sessions.testing.reading import ReadingContract
from sessions.testing.searching import SearchingContract
from sessions.testing.updating import UpdatingContract
from sessions.testing.versions import VersionsContract

__all__ = ["SessionRepositoryContract"]


class SessionRepositoryContract(
    BaseRepositoryContract,
    CreatingContract,
    MessagesContract,
    NewMessagesContract,
    ReadingContract,
    EditingContract,
    ForkingContract,
    VersionsContract,
    UpdatingContract,
    ListingContract,
    ConditionsContract,
    SearchingContract,
    DeletingContract,
    LifecycleContract,
):
    """The behaviour of a repository with all operations, async and blocking."""

    @pytest.fixture(params=[AsyncCaller, SyncCaller], ids=["async", "sync"])
    def chats(self, request: pytest.FixtureRequest, repository: Any) -> Caller:
        """The repository, called async and then blocking."""
        caller: Caller = request.param(repository)
        return caller
