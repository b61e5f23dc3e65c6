"""The operations across users for callers without an event loop, and under a repository's names."""

from __future__ import annotations

from sessions.administration.admin import AsyncAdmin
from sessions.core.twins import blocking, iterating

__all__ = ["Admin", "RepositoryAdmin"]


class RepositoryAdmin(AsyncAdmin):
    """What looks across users; ``admin`` of a repository.

    Each operation is async, with a blocking ``_sync`` twin.
    """

    restore_sync = blocking(AsyncAdmin.restore, "restore_sync")
    restore_many_sync = blocking(AsyncAdmin.restore_many, "restore_many_sync")
    sizes_sync = blocking(AsyncAdmin.sizes, "sizes_sync")
    statistics_sync = blocking(AsyncAdmin.statistics, "statistics_sync")
    iter_users_sync = iterating(AsyncAdmin.iter_users, "iter_users_sync")
    iter_sessions_sync = iterating(AsyncAdmin.iter_sessions, "iter_sessions_sync")
    export_sync = iterating(AsyncAdmin.export, "export_sync")


def _admin(blocking_admin: Admin) -> RepositoryAdmin:
    return blocking_admin._admin


class Admin:
    """What looks across users; ``admin`` of `Chats`.

    The blocking twin of `AsyncAdmin`.

    Args:
        admin: The same of the repository.
    """

    def __init__(self, admin: RepositoryAdmin) -> None:
        self._admin = admin

    restore = blocking(AsyncAdmin.restore, of=_admin)
    restore_many = blocking(AsyncAdmin.restore_many, of=_admin)
    sizes = blocking(AsyncAdmin.sizes, of=_admin)
    statistics = blocking(AsyncAdmin.statistics, of=_admin)
    iter_users = iterating(AsyncAdmin.iter_users, of=_admin)
    iter_sessions = iterating(AsyncAdmin.iter_sessions, of=_admin)
    export = iterating(AsyncAdmin.export, of=_admin)
