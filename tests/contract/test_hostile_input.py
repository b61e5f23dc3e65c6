"""Any value of an argument is rejected by its name with nothing stored, or returned unchanged.

Which values are valid is defined here once for all backends, by the design and not by the code.
"""

from __future__ import annotations

import enum
import math
import re
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from sessions import InvalidInputError, SessionNotFoundError
from sessions.backends.mongodb import mapping
from sessions.testing import AsyncCaller
from sessions.testing.values import nested, same_json
from tests.support import raw_rows
from tests.support.databases import Backend

USER = "user-1"
HEBREW, COMBINING, EMOJI = (
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c",
    "e\u0301\u0323 a\u030a",
    "\U0001f468\u200d\U0001f680",
)


class Text(str):
    """A subclass that lies about itself."""

    def __str__(self) -> str:
        return "other"

    def __repr__(self) -> str:
        return "other"


class Role(str, enum.Enum):  # noqa: UP042
    USER = "user"


def cycle(kind: type) -> Any:
    value: Any = kind()
    value.append(value) if kind is list else value.update(a=value)
    return value


INJECTIONS = [
    "'; DROP TABLE chat_messages; --",
    "' OR '1'='1",
    "\\'; DELETE FROM chat_sessions WHERE 'a'='a",
    '{"$ne": ""}',
    '{"$gt": ""}',
    "$where: '1 == 1'",
    "'; return true; var a='",
    "%",
    "_" * 6,
    ".*",
    "$$ROOT",
    "${jndi:ldap://x}",
    ":p_user_id %(p_user_id)s $1 ?1 {0}",
]
GOOD_TEXTS = [
    *INJECTIONS,
    HEBREW,
    COMBINING,
    EMOJI,
    unicodedata.normalize("NFC", COMBINING),
    unicodedata.normalize("NFD", "\xc5\u212b\ufb01"),
    "\ufb01 \u212b \xc5 A\u030a",
    "\x01\x1f\x7f\x85\u2028\ufeff\ufffe\U0010ffff",
    " \t\r\n ",
    "\\x00 \\u0000 %00",
    Text("held"),
]
NOT_TEXT: list[Any] = [
    *({"$ne": ""}, {"$gt": ""}, {}, [], ["text"], ("text",), b"text", bytearray(b"text"), None),
    *(0, 1, True, False, 1.5, math.nan, math.inf, datetime(2024, 1, 1, tzinfo=UTC), uuid.uuid4(), object()),
    re.compile(".*"),
    str,
]
UNSTORABLE_CHARACTER = re.compile("[\0\ud800-\udfff]")
UNSTORABLE = ["\0", "a\0b", "\ud800", "a\udfff", "\udc80" * 3]
CYCLES = [cycle(dict), cycle(list)]
CYCLIC = set(map(id, CYCLES))
EVERY_VALUE: list[Any] = [
    *NOT_TEXT,
    *UNSTORABLE,
    *GOOD_TEXTS,
    *("", "x" * 255, "x" * 256, EMOJI[0] * 255, EMOJI[0] * 256, "e\u0301" * 128, "x" * 1_000_000),
    *(-1, 2, 1000, 1001, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400),
    *("user", "assistant", "User", "user ", Text("user"), Role.USER, "function"),
    *(datetime(2024, 1, 1), date(2024, 1, 1), datetime.min.replace(tzinfo=UTC)),
    *("ffffffff-ffff-7fff-bfff-ffffffffffff", "00000000-0000-0000-0000-000000000000", "\uff11" * 36),
    "6f1c7c2a95b14f0c8a860d6b0a1f3c55",
    "6F1C7C2A-95B1-4F0C-8A86-0D6B0A1F3C55",
    [("user", "Hi"), ("assistant", "")],
    [["user", "Hi"]],
    [("user", "Hi"), ("function", "Hi")],
    [("user", "Hi"), ("user", "\0")],
    [("user", "Hi"), ("user", {"$ne": ""})],
    [("user",)],
    {"title": "T", "metadata": {"a": 1}},
    {"title": {"$ne": ""}},
    {"title": "T", "$set": {"user_id": "me"}},
    {"title": "T", "user_id": "me"},
    {"metadata": CYCLES[0]},
    {"metadata": {"a": CYCLES[1]}},
]
ROLES = ("user", "assistant", "system", "developer", "tool")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    return UNSTORABLE_CHARACTER.search(str.__str__(value)) is None


def is_name(value: object) -> bool:
    return is_text(value) and 1 <= len(value) <= 255  # type: ignore[arg-type]


def is_integer(value: object, least: int, greatest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= greatest


def is_good(argument: str, value: Any, backend: Backend) -> bool:
    """Return whether a value is valid, by the design."""
    if argument in ("session_id", "message_id", "before", "after", "through", "new_id"):
        if value is None:
            return argument in ("before", "after", "through", "new_id")
        if isinstance(value, uuid.UUID):
            return True
        return is_name(value) and (
            backend.repository_type in ("mongodb", "redis") or UUID.fullmatch(str.__str__(value)) is not None
        )
    if argument == "user_id":
        return is_name(value)
    if argument == "searched":
        return value is None or is_good("session_id", value, backend)
    if argument == "query":
        return is_text(value) and bool(str.__str__(value).strip()) and len(value) <= 1000  # type: ignore
    if argument == "owner":
        return value is None or is_name(value)
    if argument == "role":
        return isinstance(value, str) and str.__str__(value) in ROLES
    if argument == "content":
        return is_text(value)
    if argument == "new_content":
        return value is None or is_text(value)
    if argument == "if_title":
        return value is None or is_name(value)
    if argument in ("touch", "inclusive"):
        return value is True or value is False
    if argument == "expected_version":
        return value is None or is_integer(value, 0, 2**63 - 1)
    if argument in ("timestamp", "since"):
        # The last day at each end of Python's datetimes is taken by no database.
        return value is None or (type(value) is datetime and value.tzinfo is not None and value.year > 1)
    if argument == "payload":
        return is_payload(value)
    if argument in ("metadata", "merge_metadata"):
        return value is None or (isinstance(value, dict) and is_metadata(value))
    if argument == "remove_metadata":
        return isinstance(value, list | tuple) and all(map(is_text, value))
    if argument == "where":
        return value is None or (isinstance(value, dict) and all(map(is_condition, value.values())))
    if argument == "message_ids":
        return isinstance(value, list | tuple) and all(is_good("session_id", item, backend) for item in value)
    if argument == "messages":
        return isinstance(value, list | tuple) and all(
            isinstance(item, list | tuple)
            and len(item) == 2
            and is_good("role", item[0], backend)
            and is_text(item[1])
            for item in value
        )
    if argument in ("page", "limit", "keep_last_n", "history_limit"):
        least, greatest = {"page": (0, (2**63 - 1) // 1000), "keep_last_n": (0, 2**63 - 1)}.get(
            argument, (1, 1000)
        )
        if argument == "history_limit":
            # 0 is none of the messages, None all of them; there is no upper bound.
            return value is None or is_integer(value, 0, 10**500)
        return is_integer(value, least, greatest)
    if argument == "cutoff":
        return type(value) is datetime and value.tzinfo is not None
    if argument == "cursor":
        return value is None
    assert argument in ("session_data", "data")
    if value is None:
        return True
    if not isinstance(value, dict) or not value.keys() <= {"title", "metadata"}:
        return False
    # The only valid metadata among these values.
    metadata = value.get("metadata")
    return ("title" not in value or is_name(value["title"])) and (
        metadata is None or (set(metadata) == {"a"} and metadata["a"] == 1)
    )


def is_metadata(value: object) -> bool:
    """Return whether one of these values is JSON with finite numbers and integers of 64 bits."""
    if isinstance(value, dict):
        return (
            id(value) not in CYCLIC
            and all(isinstance(key, str) and is_text(key) for key in value)
            and all(map(is_metadata, value.values()))
        )
    if isinstance(value, list):
        return id(value) not in CYCLIC and all(map(is_metadata, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return isinstance(value, bool) or is_integer(value, -(2**63), 2**63 - 1)
    return value is None or is_text(value)


def is_payload(value: object) -> bool:
    """Return whether one of these values is what ``json.dumps`` can express."""
    if id(value) in CYCLIC:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_payload, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_payload, value))
    return value is None or isinstance(value, str | int | float)


def is_condition(value: object) -> bool:
    several = isinstance(value, list | tuple | set | frozenset)
    return all(
        not isinstance(item, dict | list) and is_metadata(item)
        for item in (value if several else [value])  # type: ignore[union-attr]
    )


# The kind of each argument, unless its name tells it.
CALLS: dict[str, dict[str, str]] = {
    "create_session": {"user_id": "", "session_data": "", "messages": ""},
    "ensure_session_exists": {"session_id": "", "user_id": "", "session_data": ""},
    "get_session": {"user_id": "", "session_id": ""},
    "update_session": {
        "user_id": "",
        "session_id": "",
        "data": "",
        "merge_metadata": "",
        "remove_metadata": "",
        "touch": "",
        "if_title": "",
        "expected_version": "",
    },
    "list_paginated_sessions": {"user_id": "", "page": "", "limit": ""},
    "list_sessions": {"user_id": "", "limit": "", "cursor": "", "where": ""},
    "list_session_previews": {"user_id": "", "limit": "", "cursor": "", "where": ""},
    "count_sessions": {"user_id": "", "where": ""},
    "add_message": {
        "session_id": "",
        "role": "",
        "content": "",
        "user_id": "owner",
        "message_id": "new_id",
        "timestamp": "",
        "metadata": "",
        "payload": "",
        "expected_version": "",
    },
    "add_messages": {
        "session_id": "",
        "messages": "",
        "user_id": "owner",
        "merge_metadata": "",
        "expected_version": "",
    },
    "get_session_history": {
        "user_id": "",
        "session_id": "",
        "limit": "history_limit",
        "before": "",
        "after": "",
        "since": "",
    },
    "get_message": {"user_id": "", "session_id": "", "message_id": ""},
    "count_messages": {"user_id": "", "session_id": ""},
    "get_session_payloads": {"user_id": "", "session_id": ""},
    "update_message": {
        "user_id": "",
        "session_id": "",
        "message_id": "",
        "content": "new_content",
        "metadata": "",
        "merge_metadata": "",
        "payload": "",
        "expected_version": "",
    },
    "pop_message": {"user_id": "", "session_id": ""},
    "delete_messages": {"user_id": "", "session_id": "", "message_ids": ""},
    "delete_messages_from": {"user_id": "", "session_id": "", "message_id": "", "inclusive": ""},
    "clear_messages": {"user_id": "", "session_id": "", "expected_version": ""},
    "replace_messages": {"user_id": "", "session_id": "", "messages": "", "expected_version": ""},
    "fork_session": {"user_id": "", "session_id": "", "through": "", "session_data": ""},
    "delete_session": {"user_id": "", "session_id": "", "expected_version": ""},
    "keep_latest_sessions": {"user_id": "", "keep_last_n": ""},
    "delete_sessions_older_than": {"cutoff": "", "user_id": "owner", "where": ""},
    "search_messages": {"user_id": "", "query": "", "session_id": "searched", "limit": "", "cursor": ""},
    "delete_user": {"user_id": ""},
    "export_user": {"user_id": ""},
}


def good_arguments(operation: str, session_id: str) -> dict[str, Any]:
    usable = {
        "user_id": "somebody else",
        "session_id": session_id,
        "session_data": {"title": "T"},
        "data": {},
        "page": 0,
        "limit": 10,
        "cursor": None,
        "role": "user",
        "content": "Hi",
        "messages": [],
        "before": None,
        "keep_last_n": 1,
        "cutoff": datetime(1970, 1, 2, tzinfo=UTC),
        "message_id": str(uuid.uuid4()),
        "message_ids": [],
        "remove_metadata": [],
        "query": "text",
        "touch": True,
        "inclusive": True,
    }
    usable |= dict.fromkeys(("merge_metadata", "metadata", "payload", "expected_version", "if_title"))
    usable |= dict.fromkeys(("timestamp", "where", "after", "since", "through"))
    return {argument: usable[argument] for argument in CALLS[operation]}


async def call(repository: Any, operation: str, arguments: dict[str, Any]) -> Any:
    chats = AsyncCaller(repository)
    if operation == "export_user":
        return [item async for item in chats.export_user(**arguments)]
    return await getattr(chats, operation)(**arguments)


async def refuse(
    repository: Any, operation: str, arguments: dict[str, Any], names: set[str], value: object
) -> None:
    """Make an invalid call; fail unless the error has one of these names."""
    try:
        await call(repository, operation, arguments)
    except InvalidInputError as error:
        refused = error
    else:
        pytest.fail(f"taken: {operation}, {shown(value)}")
    # Of "metadata.tags[2]", the argument.
    assert re.split(r"\W", refused.argument, maxsplit=1)[0] in names, f"{operation}, {shown(value)}"
    # Short: it shows no conversation.
    assert len(str(refused)) < 300


@contextmanager
def nothing_stored(backend: Backend) -> Iterator[None]:
    before = raw_rows.everything(backend)
    yield
    assert raw_rows.everything(backend) == before


def shown(value: object) -> str:
    return ascii(value)[:80]


async def test_invalid_values_are_rejected_by_the_arguments_name_and_valid_ones_accepted(
    backend: Backend, repository: Any
) -> None:
    session_id = await repository.create_session_async(USER, {"title": "T", "metadata": {"a": 1}})
    await repository.add_message(session_id, "user", "Hi")
    taken: list[tuple[str, dict[str, Any]]] = []
    with nothing_stored(backend):
        for operation, kinds in CALLS.items():
            for argument, kind in kinds.items():
                inside = {"title", "metadata"} if argument in ("session_data", "data") else set()
                for value in EVERY_VALUE:
                    arguments = good_arguments(operation, session_id) | {argument: value}
                    if is_good(kind or argument, value, backend):
                        taken.append((operation, arguments))
                    else:
                        await refuse(repository, operation, arguments, {argument, *inside}, value)
    for operation, arguments in taken:
        if operation.startswith("add_message"):
            with pytest.raises(SessionNotFoundError):
                await call(repository, operation, arguments | {"session_id": str(uuid.uuid4())})
            continue
        if operation in ("replace_messages", "fork_session"):
            # Of a session that this user does not have.
            with pytest.raises(SessionNotFoundError):
                await call(repository, operation, arguments)
            continue
        if operation == "ensure_session_exists":
            arguments["session_id"] = str(uuid.uuid4())
        await call(repository, operation, arguments)
    # No call reached the first user's session.
    chat_session = await repository.get_session(USER, session_id)
    assert (chat_session.title, chat_session.metadata) == ("T", {"a": 1})
    assert [item.content for item in await repository.get_session_history(USER, session_id)] == ["Hi"]


async def test_hostile_text_is_returned_unchanged_wherever_text_is_accepted(repository: Any) -> None:
    owner = await repository.create_session_async(USER)
    for text in [*GOOD_TEXTS, "x" * 255, EMOJI[0] * 255]:
        plain = str.__str__(text)
        session_id = await repository.create_session_async(text, {"title": text, "metadata": {text: [text]}})
        await repository.add_message(session_id, "user", text, user_id=text)
        await repository.add_messages(session_id, [("assistant", text), (Role.USER, text)], user_id=text)
        assert await repository.update_session_async(
            text, session_id, {"title": text, "metadata": {text: text}}
        )
        [found] = await repository.list_paginated_sessions_async(text)
        assert (found.session_id, found.user_id, found.title) == (session_id, plain, plain)
        assert found.metadata == {plain: plain}
        assert {type(item) for item in (found.user_id, found.title, *found.metadata)} == {str}
        history = await repository.get_session_history(text, session_id)
        assert [(item.role, item.content) for item in history] == [
            ("user", plain),
            ("assistant", plain),
            ("user", plain),
        ]
        assert {type(value) for item in history for value in (item.role, item.content)} == {str}
        assert await repository.count_sessions(text) == 1
        # Text that looks like a pattern or an operator is not interpreted as one.
        assert await repository.delete_session_async(text, owner) is False
        assert await repository.get_session(text, owner) is None
        assert await repository.delete_user(text) == 1
    assert await repository.count_sessions(USER) == 1


async def test_ids_that_look_like_queries_are_ordinary_ids_where_any_text_is_one(
    backend: Backend, repository: Any
) -> None:
    if backend.repository_type not in ("mongodb", "redis"):
        for session_id in INJECTIONS:
            with pytest.raises(InvalidInputError, match="session_id"):
                await repository.ensure_session_exists(session_id, USER)
        return
    texts = [text for text in GOOD_TEXTS if type(text) is str]
    for text in texts:
        assert await repository.ensure_session_exists(text, USER, {"title": text})
        await repository.add_message(text, "user", text, user_id=USER)
    for text in texts:
        assert (await repository.get_session(USER, text)).title == text
        assert [item.content for item in await repository.get_session_history(USER, text)] == [text]
    for number, text in enumerate(texts, 1):
        assert await repository.delete_session_async(USER, text)
        assert await repository.count_sessions(USER) == len(texts) - number


async def test_a_megabyte_of_content_is_returned_alone_and_in_a_batch(repository: Any) -> None:
    session_id = await repository.create_session_async(USER)
    texts = ["x" * 1_000_000, EMOJI * 100_000, HEBREW * 80_000, "'\"\\\n\t$" * 170_000]
    await repository.add_message(session_id, "user", texts[0])
    await repository.add_messages(session_id, [("user", text) for text in texts])
    found = [item.content for item in await repository.get_session_history(USER, session_id)]
    # Not compared in an assert, whose report would be megabytes long.
    same = found == [texts[0], *texts]
    assert same


GOOD_METADATA: list[dict[str, Any]] = [
    {"$set": {"user_id": "me"}, "$where": "1", "$": 0, "$unset": {"title": ""}},
    {"a.b": {"c.d": 1, "": {"": None}}, "": "", ".": 1, "a": {"b": 2}, "..": [{"$": "."}]},
    {"\xe9": 1, "e\u0301": 2, "\ufb01": 3, "fi": 4, "\u212b": 5, "\xc5": 6, "A\u030a": 7},
    {"least": -(2**63), "greatest": 2**63 - 1, "floats": [1e308, 5e-324, -0.0, 1e22, 0.1, 2.0**63]},
    {"bools": [True, False, 1, 0, 1.5], "none": None},
    {"$ref": "a", "$id": "b", "$db": None, "in": [{"$id": 1, "$ref": "x"}, {"$ref": 5, "$id": None}]},
    {"$ref": "a", "$db": None},
    {"in": {"$ref": "a", "$id": {"$ref": "b", "$id": 1, "$db": None, "c": None}, "$db": "d"}},
    {"$oid": "0" * 24, "$numberLong": "1", "$date": "2024-01-01", "$binary": "", "$minKey": 1},
    {"_id": {"$ne": ""}, "session_id": "x", "user_id": "x", "__proto__": {}, "constructor": "x"},
    {"k" * 5000: "v" * 1_000_000},
    {HEBREW: COMBINING, EMOJI: [EMOJI]},
    {text: text for text in GOOD_TEXTS if type(text) is str},
    nested(100),
]
BAD_METADATA: list[Any] = [
    *({"a": value} for value in (2**63, -(2**63) - 1, 10**400, math.nan, math.inf, -math.inf)),
    *(
        {"a": [{"b": value}]}
        for value in (b"x", datetime.now(UTC), date(2024, 1, 1), uuid.uuid4(), {1}, (1,))
    ),
    *({"a": value} for value in (object(), 1j, str, timedelta(1), bytearray(), re.compile(""), iter([]))),
    *({"a": {"b": value}} for value in UNSTORABLE),
    *({key: 1} for key in (1, None, True, 1.5, b"a", ("a",), *UNSTORABLE)),
    *({"a": [{key: 1}]} for key in (1, "\0", "\ud800")),
    cycle(dict),
    {"a": cycle(list)},
    {"a": [cycle(dict)]},
    nested(101),
    {"a": nested(100)},
    *([], "{}", b"{}", 1, True, [("a", 1)], Text("{}")),
]


async def test_odd_metadata_is_returned_equal_by_each_operation_that_stores_it(repository: Any) -> None:
    for metadata in GOOD_METADATA:
        made = await repository.create_session_async(USER, {"metadata": metadata})
        ensured, changed = str(uuid.uuid4()), await repository.create_session_async(USER)
        assert await repository.ensure_session_exists(ensured, USER, {"metadata": metadata})
        assert await repository.update_session_async(USER, changed, {"metadata": metadata})
        listed = {item.session_id: item for item in (await repository.list_sessions(USER, limit=3)).sessions}
        for session_id in (made, ensured, changed):
            one = await repository.get_session(USER, session_id)
            for found in (one.metadata, listed[session_id].metadata):
                if not same_json(metadata, found):
                    pytest.fail(f"{shown(metadata)} came back as {shown(found)}")
        assert await repository.delete_user(USER) == 3


async def test_metadata_that_is_no_json_is_refused_by_name_and_stores_nothing(
    backend: Backend, repository: Any
) -> None:
    session_id = await repository.create_session_async(USER, {"metadata": {"kept": True}})
    with nothing_stored(backend):
        for metadata in BAD_METADATA:
            for operation, arguments in (
                ("create_session", {"session_data": {"metadata": metadata}}),
                (
                    "ensure_session_exists",
                    {"session_id": str(uuid.uuid4()), "session_data": {"metadata": metadata}},
                ),
                (
                    "update_session",
                    {"session_id": session_id, "data": {"title": "New", "metadata": metadata}},
                ),
            ):
                await refuse(repository, operation, {"user_id": USER} | arguments, {"metadata"}, metadata)


# -- What BSON's 16 MB do not hold -----------------------------------------------------------------

LARGEST = mapping.MAX_VALUE_BYTES


@pytest.fixture(params=["mongodb-replica-set", "mongodb-standalone"])
def mongodb(request: pytest.FixtureRequest) -> Backend:
    fixture = "mongodb_url" if request.param == "mongodb-replica-set" else "mongodb_standalone_url"
    return Backend(request.param, "mongodb", request.getfixturevalue(fixture))


async def test_a_message_that_mongodb_cannot_hold_is_refused_with_nothing_stored(mongodb: Backend) -> None:
    too_large = ["x" * (LARGEST + 1), EMOJI[0] * (LARGEST // 4 + 1), "x" * (17 * 2**20)]
    async with mongodb.repository() as repository:
        session_id = await repository.create_session_async(USER)
        await repository.add_message(session_id, "user", "before")
        with nothing_stored(mongodb):
            for content in too_large:
                with pytest.raises(InvalidInputError, match=r"^content: .*16 MB") as caught:
                    await repository.add_message(session_id, "user", content)
                assert len(str(caught.value)) < 200
                with pytest.raises(InvalidInputError, match=r"^messages\[1\]\.content: .*16 MB"):
                    await repository.add_messages(session_id, [("user", "small"), ("user", content)])


async def test_the_largest_message_and_a_large_batch_are_stored_whole(mongodb: Backend) -> None:
    async with mongodb.repository() as repository:
        session_id = "\U0001f600" * 255
        assert await repository.ensure_session_exists(session_id, session_id, {"title": session_id})
        await repository.add_message(session_id, "assistant", "x" * LARGEST)
        await repository.add_messages(session_id, [("assistant", "y" * (13 * 2**20))] * 6)
        history = await repository.get_session_history(session_id, session_id)
        assert [(item.content[0], len(item.content)) for item in history] == [("x", LARGEST)] + [
            ("y", 13 * 2**20)
        ] * 6
        assert await repository.delete_session_async(session_id, session_id)
    assert raw_rows.everything(mongodb) == ([], [])


async def test_metadata_that_mongodb_cannot_hold_is_refused_and_the_largest_is_stored(
    mongodb: Backend,
) -> None:
    name = "\U0001f600" * 255
    async with mongodb.repository() as repository:
        session_id = await repository.create_session_async(name, {"metadata": {"kept": True}})
        with nothing_stored(mongodb):
            for metadata in ({"k": "x" * LARGEST}, {"k": ["x" * 2**20] * 17}, {"x" * LARGEST: 1}):
                for work in (
                    repository.create_session_async(USER, {"metadata": metadata}),
                    repository.ensure_session_exists(str(uuid.uuid4()), USER, {"metadata": metadata}),
                    repository.update_session_async(name, session_id, {"title": "T", "metadata": metadata}),
                ):
                    with pytest.raises(InvalidInputError, match=r"^metadata: .*16 MB"):
                        await work
        largest = {"k": "x" * (LARGEST - 13)}
        assert await repository.update_session_async(name, session_id, {"title": name, "metadata": largest})
        same = (await repository.get_session(name, session_id)).metadata == largest
        assert same


async def test_a_value_that_only_the_driver_finds_too_large_is_the_same_error(
    mongodb: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "MAX_VALUE_BYTES", 2**30)
    async with mongodb.repository() as repository:
        session_id = await repository.create_session_async(USER)
        with nothing_stored(mongodb):
            with pytest.raises(InvalidInputError, match=r"^content: .*16 MB"):
                await repository.add_message(session_id, "user", "x" * (17 * 2**20))
            with pytest.raises(InvalidInputError, match=r"^content: .*16 MB"):
                await repository.add_messages(session_id, [("user", "small"), ("user", "x" * (17 * 2**20))])
