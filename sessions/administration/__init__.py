"""What looks across users: iteration, export, restore, statistics.

A repository, `AsyncChats` and `Chats` offer it as ``admin``, each in its own style.
"""

from sessions.administration.admin import AsyncAdmin
from sessions.administration.twins import Admin, RepositoryAdmin

__all__ = ["Admin", "AsyncAdmin", "RepositoryAdmin"]
