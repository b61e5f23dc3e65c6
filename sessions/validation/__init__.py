"""Validates arguments before any I/O, in the same way for every backend.

Each function returns the value in the plain form that is stored (an exact ``str``, a fresh ``dict``),
or raises `InvalidInputError` naming the argument.
"""

from sessions.validation.messages import (
    CheckedMessage,
    check_history_range,
    check_message_ids,
    check_messages,
    check_new_message,
    check_new_messages,
)
from sessions.validation.metadata import (
    check_merge,
    check_message_metadata,
    check_metadata,
    check_metadata_change,
    check_remove,
    check_where,
)
from sessions.validation.numbers import (
    MAX_LIMIT,
    MAX_PAGE,
    check_count,
    check_cutoff,
    check_expected_version,
    check_flag,
    check_history_limit,
    check_limit,
    check_page,
    check_since,
    check_timestamp,
)
from sessions.validation.payload import decode_payload, decode_payloads, encode_payload
from sessions.validation.searching import check_query
from sessions.validation.session_data import DEFAULT_TITLE, check_session_data, check_update
from sessions.validation.text import (
    check_content,
    check_id,
    check_role,
    check_title,
    check_user_id,
    check_uuid,
    no_such_message,
)

__all__ = [
    "DEFAULT_TITLE",
    "MAX_LIMIT",
    "MAX_PAGE",
    "CheckedMessage",
    "check_content",
    "check_count",
    "check_cutoff",
    "check_expected_version",
    "check_flag",
    "check_history_limit",
    "check_history_range",
    "check_id",
    "check_limit",
    "check_merge",
    "check_message_ids",
    "check_message_metadata",
    "check_messages",
    "check_metadata",
    "check_metadata_change",
    "check_new_message",
    "check_new_messages",
    "check_page",
    "check_query",
    "check_remove",
    "check_role",
    "check_session_data",
    "check_since",
    "check_timestamp",
    "check_title",
    "check_update",
    "check_user_id",
    "check_uuid",
    "check_where",
    "decode_payload",
    "decode_payloads",
    "encode_payload",
    "no_such_message",
]
