"""Reads of payloads alone in MongoDB.

Messages without a payload are wanted whole. A projection that leaves out fields of some messages takes the
server longer than it saves, so whole messages are read until all of a session's had a payload.
"""

from __future__ import annotations

from typing import Any

from sessions.backends.mongodb.mapping import to_messages
from sessions.backends.mongodb.reading import ONLY_NEEDED, ONLY_PAYLOAD, MongoReading
from sessions.core.port import payloads_of
from sessions.core.values import HistoryRange
from sessions.validation import decode_payloads

__all__ = ["MongoPayloads"]


class MongoPayloads(MongoReading):
    """Reads the payloads of messages."""

    async def payloads(self, session_id: str, user_id: str, limit: int | None) -> list[Any]:
        known = self.manager.known
        is_whole = not known.had_payloads(session_id)
        fields = ONLY_NEEDED if is_whole else ONLY_PAYLOAD
        documents = await self._range(session_id, user_id, HistoryRange(limit), fields)
        texts: list[Any] = [document.get("payload") for document in documents]
        if all(texts) and None not in (payloads := decode_payloads(texts)):
            known.note_payloads(session_id, all_have=bool(documents))
            return payloads
        known.note_payloads(session_id, all_have=False)
        if is_whole:
            return payloads_of(to_messages(documents, session_id))
        return await super().payloads(session_id, user_id, limit)
