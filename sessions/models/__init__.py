"""The dataclasses that callers see, and the records and documents in the databases.

The record and document modules are not imported here: each loads its own database library.
"""

from sessions.models.message import ChatMessage
from sessions.models.session import ChatSession, SessionPage

__all__ = ["ChatMessage", "ChatSession", "SessionPage"]
