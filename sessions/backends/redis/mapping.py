"""Converts between values and what the server stores; `sessions.backends.redis.repository` describes it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

from sessions import validation
from sessions.core.values import MessageRow, Position, StoredMessage, Where
from sessions.models import ChatMessage, ChatSession

__all__ = [
    "conditions",
    "content_of",
    "decode_moment",
    "encode_moment",
    "given_ids",
    "index_place",
    "pairs",
    "place",
    "place_of",
    "position_of",
    "rows_of",
    "stored_row",
    "tag_of",
    "to_message",
    "to_messages",
    "to_payloads",
    "to_session",
    "user_of",
]

YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# From the year 1 to 1970.
SECONDS_BEFORE_EPOCH = 62_135_596_800
MICROSECONDS_BEFORE_EPOCH = SECONDS_BEFORE_EPOCH * 1_000_000
NUL = "\0"
# Messages whose texts are copied to decode them together.
DECODED_AT_ONCE = 100
NO_TOKENS: Mapping[str, str] = {}
_decoder = json.JSONDecoder()
_decode, _decode_at = _decoder.decode, _decoder.raw_decode
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


@functools.lru_cache(maxsize=4096)
def tag_of(user_id: str) -> str:
    """Return the part of a user's keys that chooses their slot: reversible, and without braces."""
    return quote(user_id, safe="")


def user_of(tag: str) -> str:
    """Return the user of `tag_of`."""
    return unquote(tag)


def encode_moment(moment: datetime) -> str:
    """Return a datetime as 18 digits: seconds since the year 1, microseconds."""
    since = moment - YEAR_1
    return f"{since.days * 86400 + since.seconds:012d}{since.microseconds:06d}"


def decode_moment(text: str) -> datetime:
    """Return the datetime of 18 digits, in UTC."""
    return YEAR_1 + timedelta(0, 0, int(text[:18]))


def index_place(updated_at: datetime, session_id: str = "") -> str:
    """Return the place of a session in its user's index, which begins with the last changed one."""
    moment = encode_moment(updated_at)
    return f"{999_999_999_999 - int(moment[:12]):012d}{999_999 - int(moment[12:]):06d}{session_id}"


def place(position: Position) -> str:
    """Return the place of a message in its session's order."""
    timestamp, write_order, message_id = position
    return encode_moment(timestamp) + _encode_order(write_order) + message_id


def _encode_order(write_order: int) -> str:
    return f"1{write_order + MICROSECONDS_BEFORE_EPOCH:019d}" if write_order else "0"


def _split(member: str) -> tuple[str, str, str]:
    """Return the write order, the id and the body of a member."""
    head, _, body = member.partition(NUL)
    return ("0", head[19:], body) if head[18] == "0" else (head[18:38], head[38:], body)


def position_of(member: str) -> Position:
    """Return the position of a message."""
    order, message_id, _ = _split(member)
    write_order = 0 if order == "0" else int(order[1:]) - MICROSECONDS_BEFORE_EPOCH
    return decode_moment(member), write_order, message_id


def place_of(member: str) -> str:
    """Return the place of a message: its member without the body."""
    return member.partition(NUL)[0]


# -- JSON ------------------------------------------------------------------------------------------


def _canonical(value: Any) -> Any:
    """Return a value with each float that is an integer as that one: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return value


def _encode(value: Any) -> str:
    """Return JSON text, and after NUL the text to compare it by, if that is another one."""
    text = _dumps(value)
    if type(value) in (str, int, bool):
        return text
    canonical = _dumps(_canonical(value))
    return text if canonical == text else f"{text}{NUL}{canonical}"


def _decode_value(text: str) -> Any:
    return _decode(text.partition(NUL)[0])


def pairs(metadata: dict[str, Any] | None) -> Iterator[str]:
    """Yield the top-level keys of metadata and the text of their values, in turn."""
    for key, value in (metadata or {}).items():
        yield key
        yield _encode(value)


def conditions(where: Where | None) -> list[str]:
    """Return conditions as arguments: how many keys, then each key, how many values, and their texts."""
    arguments = [str(len(where or {}))]
    for key, accepted in (where or {}).items():
        arguments += [key, str(len(accepted)), *(_dumps(_canonical(value)) for value in accepted)]
    return arguments


# -- Messages --------------------------------------------------------------------------------------


def _body(row: MessageRow | StoredMessage) -> str:
    """Return role, content, keys and values of the metadata as a JSON list; then NUL and the payload."""
    body = _dumps([row.role, row.content, *pairs(row.metadata)])
    return f"{body}{NUL}{row.payload}" if row.payload else body


def rows_of(rows: Iterable[MessageRow], tokens: Mapping[str, str] = NO_TOKENS) -> Iterator[str]:
    """Yield the arguments of new messages, four each.

    Args:
        rows: The messages.
        tokens: The tokens of the claims of their ids, on a cluster.
    """
    for row in rows:
        yield row.message_id
        yield "" if row.timestamp is None else encode_moment(row.timestamp)
        yield _body(row)
        yield "1" if row.has_new_id else f"0{tokens.get(row.message_id, '')}"


def given_ids(rows: Iterable[MessageRow]) -> list[str]:
    """Return the ids that callers gave."""
    return [row.message_id for row in rows if not row.has_new_id]


def stored_row(row: StoredMessage) -> tuple[str, str, str]:
    """Return the arguments of a message to restore."""
    return encode_moment(row.timestamp) + _encode_order(row.write_order), row.message_id, _body(row)


def to_message(session_id: str, member: str) -> ChatMessage:
    """Return the message of a member of the order."""
    return to_messages(session_id, [member])[0]


def to_messages(session_id: str, members: Sequence[str]) -> list[ChatMessage]:
    """Return the messages of members of the order."""
    # Most of the time of a read is spent here. One call of the decoder takes less than one for each member.
    messages: list[ChatMessage] = []
    for start in range(0, len(members), DECODED_AT_ONCE):
        messages += _to_messages(session_id, members[start : start + DECODED_AT_ONCE])
    return messages


def _to_messages(session_id: str, members: Sequence[str]) -> list[ChatMessage]:
    parts = [member.split(NUL, 2) for member in members]
    bodies = _decode(f"[{','.join([part[1] for part in parts])}]")
    payloads = iter(validation.decode_payloads([part[2] for part in parts if len(part) == 3]))
    messages = []
    for part, body in zip(parts, bodies, strict=True):
        head = part[0]
        messages.append(
            ChatMessage(
                head[19 if head[18] == "0" else 38 :],
                session_id,
                body[0],
                body[1],
                # Of all digits as microseconds: one conversion, and not two.
                YEAR_1 + timedelta(0, 0, int(head[:18])),
                _metadata(body[2:]) if len(body) > 2 else {},
                next(payloads) if len(part) == 3 else None,
            )
        )
    return messages


def to_payloads(session_id: str, members: Sequence[str]) -> list[Any]:
    """Return the payloads of members of the order; of one without a payload the message."""
    found: list[Any] = []
    for start in range(0, len(members), DECODED_AT_ONCE):
        some = members[start : start + DECODED_AT_ONCE]
        # No JSON text contains NUL.
        parts = [member.split(NUL, 2) for member in some]
        payloads = iter(validation.decode_payloads([part[2] for part in parts if len(part) == 3]))
        found += [
            next(payloads) if len(part) == 3 else to_message(session_id, member)
            for part, member in zip(parts, some, strict=True)
        ]
    return found


def content_of(member: str) -> str:
    """Return the content of a message."""
    content: str = _decode_at(member, member.index(NUL) + 1)[0][1]
    return content


def _metadata(texts: Sequence[str]) -> dict[str, Any]:
    return {key: _decode_value(value) for key, value in zip(texts[::2], texts[1::2], strict=True)}


# -- Sessions --------------------------------------------------------------------------------------


def to_session(session_id: str, user_id: str, fields: Sequence[str]) -> ChatSession:
    """Return the session of the fields and values of its hash, in turn."""
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return ChatSession(
        session_id,
        found["t"],
        user_id,
        decode_moment(found["c"]),
        decode_moment(found["u"]),
        {key[1:]: _decode_value(value) for key, value in found.items() if key[0] == "m"},
        int(found["v"]),
    )
