"""Rows that need converting are kept by column, and are rows for whoever wants rows."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from sqlalchemy import Text, Uuid, column, select
from sqlalchemy.dialects import sqlite

from sessions.backends.sql.compiled import CompiledStatements, DriverStatement, columns_of
from sessions.backends.sqlite.executing import compiled

IDS = [uuid.uuid4() for _ in range(200)]


def statement(*types: Any) -> DriverStatement:
    return compiled(select(*(column(f"c{place}", each) for place, each in enumerate(types))))


@pytest.mark.parametrize("number", [0, 1, 2, 79, 80, 200])
def test_rows_have_the_texts_of_their_ids_in_order(number: int) -> None:
    rows = statement(Uuid, Text).rows([(each.hex, str(place)) for place, each in enumerate(IDS[:number])])
    expected = [(str(each), str(place)) for place, each in enumerate(IDS[:number])]
    assert (len(rows), bool(rows)) == (number, number > 0)
    assert [tuple(row) for row in rows] == expected
    assert [tuple(row) for row in rows[:3]] == expected[:3]
    assert [tuple(columns) for columns in columns_of(rows)] == list(zip(*expected, strict=True))
    if rows:
        assert (tuple(rows[0]), tuple(rows[-1])) == (expected[0], expected[-1])


def test_an_id_may_be_null() -> None:
    rows = statement(Uuid).rows([(each.hex,) for each in IDS] + [(None,)])
    assert [value for (value,) in rows] == [*map(str, IDS), None]


def test_rows_that_need_no_converting_are_those_of_the_driver() -> None:
    records = [("a",), ("b",)]
    assert CompiledStatements(sqlite.dialect())(select(column("c", Text))).rows(records) is records
