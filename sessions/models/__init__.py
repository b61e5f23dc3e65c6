"""The dataclasses that callers see, and the records and documents in the databases.

The record and document modules are not imported here: each loads its own database library.
"""

from sessions.models.message import UNSET, ChatMessage, NewMessage, Role, Unset
from sessions.models.pages import PreviewPage, SearchHit, SearchPage, SessionPreview
from sessions.models.session import ChatSession, SessionData, SessionPage
from sessions.models.statistics import Bucket, ModelUse, Spread, Statistics, UserActivity

__all__ = [
    "UNSET",
    "Bucket",
    "ChatMessage",
    "ChatSession",
    "ModelUse",
    "NewMessage",
    "PreviewPage",
    "Role",
    "SearchHit",
    "SearchPage",
    "SessionData",
    "SessionPage",
    "SessionPreview",
    "Spread",
    "Statistics",
    "Unset",
    "UserActivity",
]
