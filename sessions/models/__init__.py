"""What callers see (dataclasses) and what the databases hold (records, documents).

The record and document modules are not imported here: each loads its own database library.
"""

from sessions.models.message import ChatMessage
from sessions.models.session import ChatSession, SessionPage

__all__ = ["ChatMessage", "ChatSession", "SessionPage"]
