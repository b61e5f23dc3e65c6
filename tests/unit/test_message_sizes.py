"""A message fits one document of MongoDB with all its values, or is refused before anything is sent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import ObjectId

from sessions.backends.mongodb import mapping
from sessions.core import appending
from sessions.core.identifiers import new_message_id
from sessions.core.port import MessageRow
from tests.unit.test_validation import refused

LIMIT = 10_000
# Of a document with one text.
OBJECT = len(bson.encode({"k": ""}))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "MAX_VALUE_BYTES", LIMIT)


def row(content: str = "", metadata: dict[str, Any] | None = None, payload: str | None = None) -> MessageRow:
    return MessageRow("id", "user", content, None, metadata, payload)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("largest", "argument"),
    [
        (row("x" * LIMIT), "content"),
        (row("\U0001f600" * (LIMIT // 4)), "content"),
        (row(metadata={"k": "x" * (LIMIT - OBJECT)}), "metadata"),
        (row(payload="1" * LIMIT), "payload"),
        (row("x" * 2000, {"k": "x" * (3000 - OBJECT)}, "1" * 5000), "payload"),
        (row("\xe9" * 2500, {"k": "x" * (3000 - OBJECT)}, "1" * 2000), "content"),
        (row("x" * 2000, {"k": "x" * (5000 - OBJECT)}, "1" * 3000), "metadata"),
    ],
    ids=["ascii", "emoji", "metadata", "payload", "all-payload", "all-content", "all-metadata"],
)
def test_the_values_of_a_message_share_the_limit_and_the_largest_is_named(
    largest: MessageRow, argument: str
) -> None:
    mapping.check_message_size(largest)
    mapping.check_batch_size([row(), largest])

    too_large = [
        largest._replace(content=largest.content + "x"),
        largest._replace(payload=(largest.payload or "") + "1"),
    ]
    for found in too_large:
        with refused(argument):
            mapping.check_message_size(found)
        with refused(f"messages[1].{argument}"):
            mapping.check_batch_size([row(), found])


@pytest.mark.usefixtures("small")
def test_a_value_that_is_too_large_alone_is_named_before_larger_ones() -> None:
    with refused("content"):
        mapping.check_message_size(row("x" * (LIMIT + 1), None, "1" * (LIMIT * 2)))
    with refused("payload"):
        mapping.check_message_size(row("x", {"k": "x" * LIMIT * 2}, "1" * (LIMIT + 1)))


def test_the_largest_message_fits_the_servers_limit_with_the_longest_id_of_a_session() -> None:
    third = mapping.MAX_VALUE_BYTES // 3
    largest = MessageRow(
        new_message_id(),
        "assistant",
        "x" * third,
        datetime(2026, 1, 1, tzinfo=UTC),
        {"k": "x" * (third - OBJECT)},
        "1" * third,
    )
    mapping.check_message_size(largest)
    document = mapping.message_document("\U0001f600" * 255, ObjectId(), largest)

    assert len(bson.encode(document)) <= 16 * 1024 * 1024
    assert len(bson.encode(document)) <= mapping.message_bytes(largest)


def test_a_batch_counts_all_that_its_messages_hold() -> None:
    large = "1" * mapping.ATOMIC_BYTES
    assert mapping.is_one_write([row(), row()])
    for message in (row(large), row(metadata={"k": large}), row(payload=large)):
        assert not mapping.is_one_write([message])
        assert mapping.fits_transaction([message])
        assert mapping.message_bytes(message) > len(large)


@pytest.mark.parametrize(
    "metadata",
    [
        {"k": "x" * LIMIT},
        {"x" * LIMIT: None},
        {"k": ["x" * 100] * 100},
        {"k": {"deep": [{str(number): -(2**63)} for number in range(1000)]}},
    ],
)
def test_the_size_of_a_message_in_a_batch_is_that_of_all_it_holds(metadata: dict[str, Any]) -> None:
    text = json.dumps(metadata, separators=(",", ":"))
    assert len(text) <= appending._size(row(metadata=metadata)) <= 2 * len(text)
    assert appending._size(row("x" * LIMIT, metadata, "1" * LIMIT)) >= 2 * LIMIT + len(text)
