"""Of two writers that read the same session of ADK one is refused, in one process and in two."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event, EventActions
from google.adk.sessions import InMemorySessionService, Session, State
from google.adk.sessions.base_session_service import ListSessionsResponse

from sessions.integrations.adk import SessionService, state
from sessions.integrations.common import derived_id
from tests.integrations.racing import ROUNDS, Race
from tests.support.databases import Backend

APPENDS = 6


def changing(delta: dict[str, Any], **fields: Any) -> Event:
    return Event(author="agent", actions=EventActions(state_delta=delta), **fields)


async def opened(repository: Any, session_id: str = "one") -> tuple[SessionService, Session]:
    service = SessionService(repository)
    return service, await service.create_session(app_name="app", user_id="alice", session_id=session_id)


async def has_transactions(repository: Any) -> bool:
    try:
        await repository.run_in_transaction(lambda inside: inside.count_sessions("alice"))
    except NotImplementedError:
        return False  # Redis, and a standalone MongoDB server.
    return True


async def read(service: SessionService, session_id: str = "one") -> Session:
    found = await service.get_session(app_name="app", user_id="alice", session_id=session_id)
    assert found is not None
    return found


@pytest.mark.parametrize("prefix", ["", "user:", "app:"])
async def test_a_stale_session_changes_nothing(repository: Any, prefix: str) -> None:
    service, first = await opened(repository)
    second = await read(service)
    await service.append_event(first, changing({f"{prefix}a": 1}))
    with pytest.raises(StaleSessionError):
        await service.append_event(second, changing({f"{prefix}a": 2, "b": 3}))
    assert second.events == []
    assert await read(service) == first
    assert first.state == {f"{prefix}a": 1}
    fresh = await read(service)
    await service.append_event(fresh, changing({f"{prefix}a": 2}))
    assert (await read(service)).state == {f"{prefix}a": 2}


async def test_a_copy_of_a_session_is_as_stale_as_the_session(repository: Any) -> None:
    service, session = await opened(repository)
    await service.append_event(session, changing({"a": 1}))
    copies = [session.model_copy(deep=True), session.model_copy()]
    await service.append_event(session, changing({"a": 2}))
    for copy in copies:
        with pytest.raises(StaleSessionError):
            await service.append_event(copy, changing({"a": 3}))


@pytest.mark.parametrize("prefix", ["", "user:"])
@pytest.mark.parametrize("appended", [0, 1])
async def test_a_session_that_is_created_again_is_another_one(
    repository: Any, appended: int, prefix: str
) -> None:
    service, old = await opened(repository)
    for number in range(appended):
        await service.append_event(old, changing({"n": number}))
    await service.delete_session(app_name="app", user_id="alice", session_id="one")
    _, new = await opened(repository)
    for number in range(appended):
        await service.append_event(new, changing({"n": number}))
    with pytest.raises(StaleSessionError):
        await service.append_event(old, changing({f"{prefix}old": 1}))
    assert await read(service) == new
    await service.append_event(new, changing({f"{prefix}new": 1}))
    assert await read(service) == new


async def test_an_event_that_is_appended_again_changes_nothing(repository: Any) -> None:
    service, session = await opened(repository)
    before = session.model_copy(deep=True)
    event = changing({"a": 1, "user:a": 1, "app:a": 1})
    await service.append_event(session, event)
    await service.append_event(session, changing({"a": 2, "user:a": 2, "app:a": 2}))
    for again in (event, event.model_copy(deep=True)):
        await service.append_event(session, again)
        assert await read(service) == session
    assert session.state == {"a": 2, "user:a": 2, "app:a": 2}
    assert len(session.events) == 2
    # The session still knows the last event.
    await service.append_event(session, changing({"b": 1}))
    if await has_transactions(repository):
        # Without them the first append may have ended before it had changed the state of the user.
        await service.append_event(before, event.model_copy(deep=True))
        assert await read(service) == session
        with pytest.raises(StaleSessionError):
            await service.append_event(before, changing({"b": 2}))


async def test_a_service_in_a_transaction_reads_what_it_has_written(repository: Any) -> None:
    async def work(inside: Any) -> None:
        service, session = await opened(inside)
        await service.append_event(session, changing({"a": 1, "user:a": 1, "app:a": 1}))
        assert await read(service) == session
        listed = (await service.list_sessions(app_name="app", user_id="alice")).sessions
        assert [each.state for each in listed] == [session.state]
        assert await SessionService(repository).list_sessions(app_name="app") == ListSessionsResponse()

    if await has_transactions(repository):
        await repository.run_in_transaction(work)
        assert (await read(SessionService(repository))).state == {"a": 1, "user:a": 1, "app:a": 1}


async def test_a_new_title_does_not_make_a_session_stale(repository: Any) -> None:
    service, session = await opened(repository)
    stored_id = derived_id("adk", "app", "alice", "one")
    for title in ("Mine", "Ours"):
        await repository.update_session_async(
            "alice", stored_id, {"title": title}, merge_metadata={"t": title}
        )
        await service.append_event(session, changing({"title": title, "user:title": title}))
    assert await read(service) == session


async def test_a_session_that_is_not_from_the_repository(repository: Any) -> None:
    """As one that came over the network: it is stale if the last event is unknown to it."""
    service, session = await opened(repository)
    await service.append_event(session, changing({"a": 1}))

    def plain(of: Session, **changes: Any) -> Session:
        return Session(**of.model_dump(exclude={"events"}), events=of.events).model_copy(update=changes)

    sent = plain(session)
    await service.append_event(sent, changing({"a": 2}))
    assert await read(service) == sent
    with pytest.raises(StaleSessionError):
        await service.append_event(plain(session), changing({"a": 3}))
    with pytest.raises(StaleSessionError):
        await service.append_event(plain(sent, events=[], last_update_time=0.0), changing({"a": 3}))
    # It knows the last event, though not its time.
    await service.append_event(plain(sent, last_update_time=0.0), changing({"a": 4}))
    in_memory = await InMemorySessionService().create_session(
        app_name="app", user_id="alice", session_id="new"
    )
    with pytest.raises(SessionNotFoundError):
        await service.append_event(in_memory, changing({"a": 1}))


async def test_appends_to_one_session_object_take_turns(repository: Any) -> None:
    service, session = await opened(repository)
    await asyncio.gather(
        *(service.append_event(session, changing({f"user:{n}": n, str(n): n})) for n in range(8))
    )
    assert len(session.events) == 8
    assert await read(service) == session


async def test_a_cancelled_append_leaves_the_session_as_it_is_stored(repository: Any) -> None:
    service, session = await opened(repository)
    for number in range(3):
        appending = asyncio.create_task(service.append_event(session, changing({"user:n": number})))
        await asyncio.sleep(0.0005 * number)
        appending.cancel()
        with contextlib.suppress(asyncio.CancelledError):  # Unless it has ended.
            await appending
        assert await read(service) == session
    await service.append_event(session, changing({"n": "after"}))
    assert await read(service) == session


async def test_an_event_is_undone_with_the_state_that_cannot_be_stored(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, session = await opened(repository)
    if not await has_transactions(repository):
        return
    with monkeypatch.context() as patched:

        async def fail(*_: Any) -> None:
            raise KeyError

        patched.setattr(state.Holder, "merge", fail)
        with pytest.raises(KeyError):
            await service.append_event(session, changing({"user:a": 1, "b": 2}))
        with pytest.raises(KeyError):
            await service.create_session(
                app_name="app", user_id="alice", session_id="two", state={"user:a": 1}
            )
    assert await read(service) == session
    assert await service.get_session(app_name="app", user_id="alice", session_id="two") is None


def test_the_prefixes_of_the_scopes_are_those_of_adk() -> None:
    assert (state.APP, state.USER, state.TEMP) == (State.APP_PREFIX, State.USER_PREFIX, State.TEMP_PREFIX)


def test_a_session_has_the_private_attribute_that_copies_carry() -> None:
    session = Session(id="1", app_name="app", user_id="alice")
    assert session._storage_update_marker is None
    session._storage_update_marker = "x"
    assert session.model_copy(deep=True)._storage_update_marker == "x"


# -- Two processes ---------------------------------------------------------------------------------


async def append_once(repository: Any, *, number: int, name: str) -> str:
    """Append one event to a session that both have read."""
    service = SessionService(repository)
    session = await service.get_session(app_name="app", user_id="alice", session_id=str(number))
    assert session is not None
    if session.events:  # The other one was that fast.
        return "late"
    try:
        await service.append_event(session, changing({"user:by": name, "app:by": name, "by": name, name: 1}))
    except StaleSessionError:
        return "stale"
    return name


@ROUNDS
async def test_of_two_processes_one_appends(backend: Backend, race: Race, rounds: int) -> None:
    async with backend.repository() as repository:
        for number in range(rounds):
            await opened(repository, str(number))
        results = race.run(backend, f"{__name__}:append_once", {"name": "a"}, {"name": "b"}, times=rounds)
        service, winners = SessionService(repository), list[str]()
        for number, result in enumerate(results):
            [winner] = {"a", "b"} & set(result)
            winners.append(winner)
            session = await read(service, str(number))
            assert [event.actions.state_delta["by"] for event in session.events] == [winner]
            assert session.state["by"] == winner
            assert not ({"a", "b"} - {winner}) & session.state.keys()
        # The rounds follow one another; of the shared state the last one counts.
        last = await read(service, str(rounds - 1))
        assert last.state["user:by"] == last.state["app:by"] == winners[-1]


async def append_all(repository: Any, *, number: int, name: str) -> int:
    """Append events to the same session, reading it again after each refusal."""
    service, refused = SessionService(repository), 0
    for part in range(APPENDS):
        while True:
            session = await service.get_session(app_name="app", user_id="alice", session_id=str(number))
            assert session is not None
            delta = {f"user:{name}": part, f"app:{name}": part, f"{name}{part}": number}
            try:
                await service.append_event(session, changing(delta))
                break
            except StaleSessionError:
                refused += 1
    return refused


@ROUNDS
async def test_two_processes_lose_nothing(backend: Backend, race: Race, rounds: int) -> None:
    async with backend.repository() as repository:
        for number in range(rounds):
            await opened(repository, str(number))
        race.run(backend, f"{__name__}:append_all", {"name": "a"}, {"name": "b"}, times=rounds)
        service = SessionService(repository)
        for number in range(rounds):
            session = await read(service, str(number))
            own = {f"{name}{part}": number for name in "ab" for part in range(APPENDS)}
            assert session.state == own | {
                f"{scope}:{name}": APPENDS - 1 for scope in ("user", "app") for name in "ab"
            }
            assert len(session.events) == 2 * APPENDS
            # Each has seen all before its own: the state is that of the events, one after another.
            assert session._storage_update_marker is not None


async def create(repository: Any, *, number: int, name: str) -> str | None:
    try:
        state = {"by": name, f"user:{name}": 1, f"app:{name}": 1}
        await SessionService(repository).create_session(
            app_name=f"app{number}", user_id="alice", session_id="one", state=state
        )
    except Exception as error:
        return type(error).__name__
    return None


@ROUNDS
async def test_of_two_processes_one_creates(backend: Backend, race: Race, rounds: int) -> None:
    results = race.run(backend, f"{__name__}:create", {"name": "a"}, {"name": "b"}, times=rounds)
    async with backend.repository() as repository:
        service = SessionService(repository)
        for number, result in enumerate(results):
            assert set(result) == {None, "AlreadyExistsError"}
            winner = "ab"[result.index(None)]
            session = await service.get_session(app_name=f"app{number}", user_id="alice", session_id="one")
            assert session is not None
            expected = {"by": winner, f"user:{winner}": 1, f"app:{winner}": 1}
            assert session.state == expected
