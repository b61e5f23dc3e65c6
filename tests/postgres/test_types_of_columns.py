"""Bind and result processors of column types are applied on every path to PostgreSQL."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Dialect, Engine, Text, TypeDecorator, bindparam, create_engine, select
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import ConfigurationError, SessionRepositoryFactory


class Reversed(TypeDecorator[str]):
    """Text that is stored reversed, and returned between brackets."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value[::-1]

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return value and f"[{value}]"


@pytest.mark.parametrize("whose", ["ours", "ours behind a proxy", "a service's"])
async def test_a_type_decorator_is_applied_to_parameters_and_to_rows(postgres_url: str, whose: str) -> None:
    options: dict[str, Any] = {"url": postgres_url, "pgbouncer": whose == "ours behind a proxy"}
    engine = None
    if whose == "a service's":
        engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1))
        options = {"engine": engine}
    repository = SessionRepositoryFactory.create_repository("postgres", **options)
    value = bindparam("p_value", type_=Reversed())
    rows = await repository._connection_manager.fetch(
        select(value, bindparam("p_plain", type_=Text())), {"p_value": "abc", "p_plain": "abc"}
    )
    assert [tuple(row) for row in rows] == [("[cba]", "abc")]
    await repository.aclose()
    if engine is not None:
        await engine.dispose()


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
@pytest.mark.parametrize("given", ["sync", "text", "dict"])
def test_an_engine_that_is_not_async_is_rejected(kind: str, given: str) -> None:
    made: Engine = create_engine("sqlite://")
    engine = {"sync": made, "text": "postgresql://h/d", "dict": {}}[given]
    with pytest.raises(ConfigurationError, match=r"^engine: must be an AsyncEngine"):
        SessionRepositoryFactory.create_repository(kind, engine=engine)
    made.dispose()
