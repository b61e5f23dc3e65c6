"""Reads the conversations of a file in one of the formats, in constant memory."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, BinaryIO, cast

import ijson

from sessions.cli.conversation_lines import LINE
from sessions.cli.entries import Entry
from sessions.cli.formats import chatgpt, openai, sharegpt
from sessions.cli.formats.conversations import Identities, finished
from sessions.core.identifiers import utc_now
from sessions.errors import InvalidInputError, SessionsError

__all__ = ["Format", "check_format", "read_entries"]


class Format(StrEnum):
    """The formats of a file to import."""

    SESSIONS = "sessions"
    OPENAI = "openai"
    CHATGPT = "chatgpt"
    SHAREGPT = "sharegpt"


DRAFTS = {Format.OPENAI: openai.drafts, Format.CHATGPT: chatgpt.drafts, Format.SHAREGPT: sharegpt.drafts}
# Enough to see how a file begins.
HEAD_BYTES = 64 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def recognized(value: object) -> Format | None:
    """Return the format of a conversation; None for none of them."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("mapping"), dict):
        return Format.CHATGPT
    if isinstance(value.get("conversations"), list):
        return Format.SHAREGPT
    if isinstance(value.get("messages"), list):
        return Format.SESSIONS if "session_id" in value or "user_id" in value else Format.OPENAI
    return None


def check_format(lines: BinaryIO, expected: Format) -> BinaryIO:
    """Return a file from its beginning, whose first conversation is in the expected format.

    Raises:
        InvalidInputError: It is in another one of the formats; the text names it.
    """
    buffered = cast(Any, lines if hasattr(lines, "peek") else io.BufferedReader(cast(Any, lines), HEAD_BYTES))
    found = _format_of(buffered.peek(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK))
    # The lines of an export have keys of their own, which `parse_exported_line` checks.
    if found is None or found is expected:
        return cast(BinaryIO, buffered)
    raise InvalidInputError(
        "--format", f"is {expected}, but the file looks like {found}: use --format {found}"
    )


def _format_of(head: bytes) -> Format | None:
    """Return the format of the first conversation, from its first keys: it may be cut off."""
    within = "item." if head.lstrip().startswith(b"[") else ""
    keys: dict[str, Any] = {}
    containers: dict[str, Any] = {"start_map": {}, "start_array": []}
    with contextlib.suppress(ijson.JSONError):
        for path, event, _ in ijson.parse(io.BytesIO(head), buf_size=256, multiple_values=True):
            if event == "end_map" and path == within.rstrip("."):
                break
            name = path.removeprefix(within)
            if path.startswith(within) and event not in ("map_key", "end_map", "end_array"):
                keys.setdefault(name, containers.get(event))
    return recognized(keys)


def read_entries(lines: BinaryIO, of: Format, user_id: str, *, forks: bool) -> Iterator[Entry]:
    """Yield the conversations of a file, or why they cannot be stored.

    Args:
        lines: A JSON array of conversations, or one on each line.
        of: The format.
        user_id: The owner of all of them.
        forks: Whether to yield the branches that are not shown, too.

    Raises:
        SessionsError: The file is an array, and no JSON.
    """
    identities, now = Identities(), utc_now()
    for place, value in _values(lines):
        try:
            if isinstance(value, InvalidInputError):
                raise value
            if not isinstance(value, dict):
                raise InvalidInputError(LINE, "must be an object")
            found = list(DRAFTS[of](value, identities, forks=forks))
        except InvalidInputError as error:
            yield Entry(place, fault=error)
            continue
        for draft in found:
            yield Entry(place, given=finished(draft, user_id, str(of), now))


def _values(lines: BinaryIO) -> Iterator[tuple[str, Any]]:
    """Yield each value of a file with its place, or the fault of a line."""
    buffered = cast(io.BufferedReader, lines)
    if buffered.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):
        buffered.read(len(BYTE_ORDER_MARK))
    if not buffered.peek(HEAD_BYTES).lstrip().startswith(b"["):
        yield from _values_of_lines(buffered)
        return
    number = 0
    try:
        for number, value in enumerate(ijson.items(buffered, "item", use_float=True), 1):
            yield f"conversation {number}", value
    except ijson.JSONError:
        failure = SessionsError(f"conversation {number + 1}: is not JSON; nothing after it was read")
    else:
        return
    raise failure


def _values_of_lines(lines: BinaryIO) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError):
            yield f"line {number}", InvalidInputError(LINE, "is not JSON")
