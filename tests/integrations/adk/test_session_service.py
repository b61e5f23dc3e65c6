"""Sessions, state and lists of ADK's session service, on each backend."""

from __future__ import annotations

import asyncio
import math
import uuid
from typing import Any

import pytest
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event, EventActions
from google.adk.sessions import Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types

from sessions.integrations.adk import APP_STATE_OWNER, SessionService
from sessions.integrations.common import derived_id


@pytest.fixture
def service(repository: Any) -> SessionService:
    return SessionService(repository)


def said(text: str, *, author: str = "user", **fields: Any) -> Event:
    role = "user" if author == "user" else "model"
    content = types.Content(role=role, parts=[types.Part(text=text)])
    return Event(author=author, content=content, **fields)


def changing(**state: Any) -> Event:
    delta = {key.replace("_", ":", 1): value for key, value in state.items()}
    return Event(author="agent", actions=EventActions(state_delta=delta))


async def created(service: SessionService, session_id: str | None = None, **options: Any) -> Session:
    options = {"app_name": "app", "user_id": "alice"} | options
    return await service.create_session(session_id=session_id, **options)


async def read(service: SessionService, session_id: str, **options: Any) -> Session | None:
    options = {"app_name": "app", "user_id": "alice"} | options
    return await service.get_session(session_id=session_id, **options)


async def test_a_session_is_created_and_read_back_equal(service: SessionService) -> None:
    session = await created(service, state={"city": "Rome", "nested": {"a": [1, 2.5, None]}})
    assert uuid.UUID(session.id)
    assert (session.app_name, session.user_id, session.events) == ("app", "alice", [])
    assert session.state == {"city": "Rome", "nested": {"a": [1, 2.5, None]}}
    assert session.last_update_time > 0
    assert await read(service, session.id) == session
    for other in ({"user_id": "bob"}, {"app_name": "other"}):
        assert await read(service, session.id, **other) is None
    assert await read(service, "none") is None
    assert await read(service, "") is None


async def test_a_service_that_is_closed_leaves_the_repository_open(service: SessionService) -> None:
    async with service as same:
        assert same is service
        session = await created(service)
    await service.close()
    assert await read(service, session.id) == session


async def test_ids_are_unique_for_each_app_and_user(service: SessionService, repository: Any) -> None:
    for options in ({}, {"user_id": "bob"}, {"app_name": "other"}):
        session = await created(service, " mine ", state={"of": str(options)}, **options)
        assert session.id == "mine"
        with pytest.raises(AlreadyExistsError):
            await created(service, "mine", state={"of": "again"}, **options)
    for options in ({}, {"user_id": "bob"}, {"app_name": "other"}):
        found = await read(service, "mine", **options)
        assert found is not None
        assert found.state == {"of": str(options)}
    # A UUID is no exception.
    same = str(uuid.uuid4())
    assert (await created(service, same)).id == (await created(service, same, user_id="bob")).id == same
    stored = await repository.get_session("alice", derived_id("adk", "app", "alice", "mine"))
    assert stored is not None
    assert stored.metadata["framework_session_id"] == "mine"


async def test_of_concurrent_creations_one_succeeds(service: SessionService) -> None:
    results = await asyncio.gather(
        *(created(service, "one", state={"number": number, "user:n": number}) for number in range(5)),
        return_exceptions=True,
    )
    [session] = [each for each in results if isinstance(each, Session)]
    assert all(isinstance(each, Session | AlreadyExistsError) for each in results), results
    assert await read(service, "one") == session


async def test_state_is_of_the_app_the_user_or_the_session(service: SessionService) -> None:
    state = {"app:a": 1, "user:u": 2, "s": 3, "temp:t": 4}
    first = await created(service, "first", state=state)
    assert first.state == {"app:a": 1, "user:u": 2, "s": 3}
    await service.append_event(first, changing(app_a=10, user_v=20, s=30))
    assert first.state == {"app:a": 10, "user:u": 2, "user:v": 20, "s": 30}

    assert (await created(service, "second")).state == {"app:a": 10, "user:u": 2, "user:v": 20}
    assert (await created(service, "third", user_id="bob")).state == {"app:a": 10}
    assert (await created(service, "fourth", app_name="other")).state == {}
    assert (await read(service, "first")) == first
    assert await service.get_user_state(app_name="app", user_id="alice") == {"u": 2, "v": 20}
    assert await service.get_user_state(app_name="app", user_id="bob") == {}
    assert await service.get_user_state(app_name="other", user_id="alice") == {}


async def test_temporary_state_is_seen_and_not_stored(service: SessionService) -> None:
    session = await created(service, "one")
    event = changing(temp_t="now", kept="yes")
    assert await service.append_event(session, event) is event
    assert session.state == {"temp:t": "now", "kept": "yes"}
    assert event.actions.state_delta == {"kept": "yes"}
    found = await read(service, "one")
    assert found is not None
    assert found.state == {"kept": "yes"}
    assert found.events[0].actions.state_delta == {"kept": "yes"}


VALUES: dict[str, Any] = {
    "big": 2**80,
    "float": 0.1 + 0.2,
    "infinity": -math.inf,
    "nul": "a\0b",
    "half": "\ud800",
    "none": None,
    "wrapper": {"$json": "1"},
    "keys": {"$set": 1, "a.b": [{"": True}]},
    "": "empty",
    "a\0": "key",
    "é" * 300: "long",
}


async def test_every_value_of_the_state_comes_back_equal(service: SessionService) -> None:
    session = await created(
        service, "one", state={f"{scope}{k}": v for scope in ("", "user:") for k, v in VALUES.items()}
    )
    again = {f"{scope}{k}": [v] for scope in ("", "user:", "app:") for k, v in VALUES.items()}
    await service.append_event(session, Event(author="agent", actions=EventActions(state_delta=again)))
    found = await read(service, "one")
    assert found is not None
    assert found.state == session.state == again
    nan = await created(service, "nan", state={"nan": math.nan})
    found = await read(service, nan.id)
    assert found is not None
    assert math.isnan(found.state["nan"])


async def test_a_caller_does_not_share_its_state(service: SessionService) -> None:
    state: dict[str, Any] = {"list": [1], "app:list": [1]}
    session = await created(service, "one", state=state)
    state["list"].append(2)
    session.state["app:list"].append(3)
    found = await read(service, "one")
    assert found is not None
    assert found.state == {"list": [1], "app:list": [1]}


async def test_what_is_no_json_is_stored_as_text(service: SessionService) -> None:
    session = await created(service, "one", state={"when": uuid.UUID(int=1), "call": print})
    assert session.state["when"] == str(uuid.UUID(int=1))
    assert "print" in session.state["call"]
    assert await read(service, "one") == session


async def test_the_newest_events_and_those_after_a_time(service: SessionService) -> None:
    session = await created(service, "one")
    times = [1000.0, 1000.0000004, 1000.0004, 1000.0004, 2000.25]
    for number, timestamp in enumerate(times):
        await service.append_event(session, said(str(number), timestamp=timestamp))

    async def numbers(**config: Any) -> list[str]:
        found = await read(service, "one", config=GetSessionConfig(**config))
        assert found is not None
        assert found.last_update_time == 2000.25
        assert [event.timestamp for event in found.events] == [
            times[int(text(event))] for event in found.events
        ]
        return [text(event) for event in found.events]

    assert await numbers() == list("01234")
    assert await numbers(num_recent_events=0) == []
    assert await numbers(num_recent_events=2) == list("34")
    assert await numbers(num_recent_events=9) == list("01234")
    assert await numbers(after_timestamp=0) == list("01234")
    assert await numbers(after_timestamp=1000.0) == list("01234")
    assert await numbers(after_timestamp=math.nextafter(1000.0, 2000)) == list("1234")
    assert await numbers(after_timestamp=1000.0004) == list("234")
    assert await numbers(after_timestamp=math.nextafter(1000.0004, 2000)) == ["4"]
    assert await numbers(after_timestamp=2000.25) == ["4"]
    assert await numbers(after_timestamp=2001) == []
    assert await numbers(after_timestamp=1000.0004, num_recent_events=2) == list("34")
    assert await numbers(after_timestamp=2000, num_recent_events=3) == ["4"]
    # Without events it is not stale.
    bare = await read(service, "one", config=GetSessionConfig(num_recent_events=0))
    assert bare is not None
    await service.append_event(bare, said("5", timestamp=2000.25))
    found = await read(service, "one")
    assert found is not None
    assert [text(event) for event in found.events] == list("012345")


def text(event: Event) -> str:
    assert event.content is not None
    assert event.content.parts is not None
    return str(event.content.parts[0].text)


@pytest.mark.parametrize("timestamp", [-1.5, 0.0, -1e12, 1e15, 123456789.123456789])
async def test_any_time_comes_back_exactly(service: SessionService, timestamp: float) -> None:
    session = await created(service, "one")
    await service.append_event(session, said("Hello", timestamp=timestamp))
    assert await read(service, "one") == session
    assert session.last_update_time == timestamp


async def test_lists_are_of_a_user_or_of_all_the_least_recent_first(
    service: SessionService, repository: Any
) -> None:
    assert (await service.list_sessions(app_name="app")).sessions == []
    sessions = {}
    for name, options in {"a": {}, "b": {"user_id": "bob"}, "c": {}, "other": {"app_name": "other"}}.items():
        state = {"name": name, f"user:{name}": 1, f"app:{name}": 2}
        sessions[name] = await created(service, name, state=state, **options)
    last = said("Hello")
    await service.append_event(sessions["a"], last)
    # Of other programs.
    await repository.create_session_async("alice", {"metadata": {"app_name": "app"}})
    await repository.create_session_async("alice")

    async def listed(**options: Any) -> dict[str, Session]:
        found = (await service.list_sessions(app_name="app", **options)).sessions
        assert [each.events for each in found] == [[] for _ in found]
        return {each.id: each for each in found}

    everyone, mine = await listed(), await listed(user_id="alice")
    assert list(everyone) == ["b", "c", "a"]
    assert list(mine) == ["c", "a"]
    assert list(await listed(user_id="bob")) == ["b"]
    assert await listed(user_id="nobody") == {}
    of_app = {f"app:{name}": 2 for name in "abc"}
    of_alice = {"user:a": 1, "user:c": 1}
    assert mine["a"].state == everyone["a"].state == {"name": "a"} | of_app | of_alice
    assert everyone["b"].state == {"name": "b", "user:b": 1} | of_app
    assert mine["a"].last_update_time == last.timestamp
    # What was listed may be appended to.
    await service.append_event(mine["c"], said("Hello"))


async def test_more_sessions_than_a_page_are_listed(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.integrations.adk.service.PAGE", 2)
    ids = [(await created(service, str(number))).id for number in range(5)]
    assert [
        each.id for each in (await service.list_sessions(app_name="app", user_id="alice")).sessions
    ] == ids


async def test_a_deleted_session_is_gone_and_the_state_of_others_stays(service: SessionService) -> None:
    session = await created(service, "one", state={"user:u": 1, "s": 2})
    await service.append_event(session, said("Hello"))
    await service.delete_session(app_name="app", user_id="bob", session_id="one")
    assert await read(service, "one") == session
    await service.delete_session(app_name="app", user_id="alice", session_id="one")
    await service.delete_session(app_name="app", user_id="alice", session_id="one")
    assert await read(service, "one") is None
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, said("Too late"))
    assert (await created(service, "one")).state == {"user:u": 1}
    found = await read(service, "one")
    assert found is not None
    assert found.events == []


async def test_delete_user_erases_the_state_of_the_user_too(service: SessionService, repository: Any) -> None:
    await created(service, "one", state={"user:u": 1, "app:a": 2})
    await created(service, "two", user_id="bob", state={"user:u": 3})
    assert await repository.delete_user("alice") == 2
    assert await service.get_user_state(app_name="app", user_id="alice") == {}
    assert (await created(service, "one")).state == {"app:a": 2}
    assert await service.get_user_state(app_name="app", user_id="bob") == {"u": 3}


async def test_a_session_reads_well_in_the_repository(service: SessionService, repository: Any) -> None:
    session = await created(service, "one")
    page = await repository.list_sessions("alice", where={"framework": "adk"})
    assert [each.title for each in page.sessions] == ["New Chat"]
    await service.append_event(
        session, said("What should I see first in Rome, if I have but a single day there?")
    )
    await service.append_event(session, said("The Pantheon.", author="guide"))
    await service.append_event(session, said("And then?"))
    [stored] = (await repository.list_sessions("alice")).sessions
    assert stored.title == "What should I see first in Rome, if I have but a single day…"
    assert {key: stored.metadata[key] for key in ("framework", "framework_session_id", "app_name")} == {
        "framework": "adk",
        "framework_session_id": "one",
        "app_name": "app",
    }
    history = await repository.get_session_history("alice", stored.session_id)
    assert [(each.role, each.content) for each in history][1:] == [
        ("assistant", "The Pantheon."),
        ("user", "And then?"),
    ]
    assert [hit.message.content for hit in (await repository.search_messages("alice", "pantheon")).hits] == [
        "The Pantheon."
    ]
    # What holds a state is no conversation.
    await service.append_event(session, changing(user_u=1, app_a=1))
    assert await repository.count_sessions("alice", where={"framework": "adk"}) == 1
    holders = (await repository.list_sessions("alice", where={"state_of": "user"})).sessions
    assert [each.title for each in holders] == ["State of the user in app"]
    holders = (await repository.list_sessions(APP_STATE_OWNER)).sessions
    assert [(each.title, each.metadata["state:a"]) for each in holders] == [("State of the app in app", 1)]


async def test_a_title_of_the_users_own_stays(service: SessionService, repository: Any) -> None:
    session = await created(service, "one")
    stored_id = derived_id("adk", "app", "alice", "one")
    await repository.update_session_async("alice", stored_id, {"title": "Mine"})
    await service.append_event(session, said("Hello"))
    await service.append_event(session, said("Hello again"))
    stored = await repository.get_session("alice", stored_id)
    assert stored is not None
    assert stored.title == "Mine"


async def test_a_message_of_another_program_is_an_event(service: SessionService, repository: Any) -> None:
    await created(service, "one")
    stored_id = derived_id("adk", "app", "alice", "one")
    await repository.add_messages(stored_id, [("user", "By hand"), ("assistant", "Indeed")])
    found = await read(service, "one")
    assert found is not None
    assert [(event.author, text(event)) for event in found.events] == [
        ("user", "By hand"),
        ("model", "Indeed"),
    ]
    await service.append_event(found, said("More"))
