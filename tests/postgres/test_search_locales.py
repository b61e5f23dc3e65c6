"""A search finds the same whatever the locale of the database is."""
# Letters that look like others are what is searched for.
# ruff: noqa: RUF001

from __future__ import annotations

import uuid

import asyncpg

from sessions import SessionRepositoryFactory
from tests.support.databases import execute_postgres, in_database

CONTENTS = ("ISTANBUL İzmir ırmak", "Straße", "ΣΊΣΥΦΟΣ", "100 \u212a", "cafe\u0301", "Wachſtube", "æ Æ 100%")
# What finds how many of them.
QUERIES = {
    "istanbul": 1,
    "İZMIR": 1,
    "izmir": 0,
    "IRMAK": 0,
    "ırmak": 1,
    "ISTANBUL": 1,
    "ıstanbul": 0,
    "STRAẞE": 1,
    "strasse": 0,
    "σίσυφος": 1,
    "K": 2,
    "WACHSTUBE": 1,
    "café": 0,
    "CAFE": 1,
    "Æ": 1,
    "ae": 0,
    "%": 1,
    "_": 0,
    "ss": 0,
    "s": 3,
}


async def _locales(server: str) -> dict[str, str]:
    """Return the options of ``CREATE DATABASE`` by locale, as far as this server has them."""
    connection = await asyncpg.connect(server)
    try:
        found = {"C": "LC_COLLATE 'C' LC_CTYPE 'C'"}
        if connection.get_server_version().major >= 17:
            found["builtin"] = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
        if connection.get_server_version().major >= 18:
            found["builtin, all of Unicode"] = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST'"
        if await connection.fetchval("SELECT true FROM pg_collation WHERE collname = 'tr-x-icu'"):
            found["Turkish"] = "LOCALE_PROVIDER icu ICU_LOCALE 'tr' LC_COLLATE 'C' LC_CTYPE 'C'"
            found["English"] = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        for (name,) in await connection.fetch(
            "SELECT min(collcollate) FROM pg_collation WHERE collprovider = 'c' AND collencoding = 6"
            " AND collcollate NOT IN ('C', 'POSIX') GROUP BY collcollate LIMIT 2"
        ):
            found[name] = f"LC_COLLATE '{name}' LC_CTYPE '{name}'"
        return found
    finally:
        await connection.close()


async def test_a_search_does_not_depend_on_the_locale_of_the_database(postgres_server: str) -> None:
    found = {}
    locales = await _locales(postgres_server)
    for locale, options in locales.items():
        name = f"sessions_locale_{uuid.uuid4().hex}"
        execute_postgres(
            postgres_server, f"CREATE DATABASE {name} ENCODING 'UTF8' {options} TEMPLATE template0"
        )
        url = in_database(postgres_server, name)
        async with SessionRepositoryFactory.create_repository("postgres", url=url) as repository:
            session_id = await repository.create_session_async("user")
            await repository.add_messages(session_id, [("user", content) for content in CONTENTS])
            found[locale] = {
                query: len((await repository.search_messages("user", query)).hits) for query in QUERIES
            }
        execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")

    assert found == dict.fromkeys(locales, QUERIES)
