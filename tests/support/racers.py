"""Processes that do something at the same time; run as a program, it reads jobs and prints their results.

One process imports the package, which takes the longest, and forks for each job: they are processes of
their own, with their own pools and clocks, that nothing but the database connects.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sessions import InvalidInputError, NewMessage, SessionNotFoundError
from tests.support.children import child, load_package
from tests.support.databases import Backend
from tests.support.programs import Started

Job = dict[str, Any]
Work = Callable[..., Coroutine[Any, Any, Any]]
START_SECONDS = 60
# Long enough for the busiest machine; what has not happened by then never does.
CEILING_SECONDS = 200.0


class Race:
    """What has happened in all processes together, and whether it has happened often enough.

    Args:
        goals: How often each kind of event has to happen before the race is over.
    """

    def __init__(self, goals: dict[str, int]) -> None:
        self._goals = goals
        processes = multiprocessing.get_context("fork")
        self._counts = {event: processes.Value("q", 0) for event in goals}
        self._ceiling = time.monotonic() + CEILING_SECONDS

    def happened(self, event: str) -> None:
        """Count an event; one without a goal does not count."""
        if (count := self._counts.get(event)) is not None:
            with count:
                count.value += 1

    def count(self, event: str) -> int:
        """Return how often it has happened so far."""
        return int(self._counts[event].value)

    def is_over(self) -> bool:
        """Return whether each goal is reached.

        Raises:
            TimeoutError: Some are still not reached at the ceiling.
        """
        missing = {
            event: f"{self.count(event)} of {goal}"
            for event, goal in self._goals.items()
            if self.count(event) < goal
        }
        if missing and time.monotonic() > self._ceiling:
            raise TimeoutError(f"within {CEILING_SECONDS:g} s there were only {missing}")
        return not missing


class Racers:
    """Runs jobs in processes that start together."""

    def __init__(self, process: Started) -> None:
        self._process = process

    def run(self, backend: Backend, *jobs: Job, goals: dict[str, int] | None = None) -> list[Any]:
        """Run each job in a process of its own and return their results in order.

        Args:
            backend: The database they meet in.
            *jobs: ``work`` is the name of a function here, ``cold`` says not to connect before the
                start, and the rest are its arguments.
            goals: What has to happen how often, in all processes together, before the work that takes a
                `Race` ends. A race is never as long as the clock says: a busy machine takes longer.
        """
        print(json.dumps([asdict(backend), jobs, goals]), file=self._process.stdin, flush=True)
        results = json.loads(self._process.stdout.readline())
        for result in results:
            assert "error" not in result, result["error"]
        return [result["result"] for result in results]


@contextmanager
def racers() -> Iterator[Racers]:
    """Start the process that forks the others."""
    with child(__name__) as process:
        yield Racers(process)


APPENDS_FOR_EACH_DELETE = 20
READS_ON_THE_WAY = 2

# -- What they do ----------------------------------------------------------------------------------


async def _outcome(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returned, or the name of what it raised."""
    try:
        return await call
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def count(repository: Any) -> int:
    """Make a first call."""
    found: int = await repository.count_sessions("user")
    return found


async def ensure(repository: Any, session_ids: list[str], users: list[str]) -> list[list[Any]]:
    """Create each session once for each user at the same time; return each session's outcomes."""
    return [
        await asyncio.gather(
            *[_outcome(repository.ensure_session_exists(session_id, user_id)) for user_id in users]
        )
        for session_id in session_ids
    ]


async def converse(
    repository: Any,
    race: Race,
    kept: list[str],
    doomed: list[str],
    users: list[str],
    seed: int,
    recreate: bool,
) -> dict[str, Any]:
    """Add messages to sessions, read, delete and create them anew, each user with tasks of their own.

    Args:
        kept: Sessions that are not deleted.
        doomed: Sessions that are deleted: once each while messages are added, or again and again if they
            are to ``recreate``.

    Returns:
        ``added``: ``[session_id, user_id, content, start, end]`` of each acknowledged message;
        ``created``: ``[session_id, user_id, start, end]`` of each session created again;
        ``deleted``: how often; ``strange``: what nobody may see, or an error that is no outcome.
    """
    added: list[Any] = []
    created: list[Any] = []
    strange: list[str] = []
    deleted = 0
    session_ids = kept + doomed
    numbers = iter(range(10**9))

    async def write(user_id: str, choice: random.Random) -> None:
        while not race.is_over():
            session_id, start = choice.choice(session_ids), time.monotonic()
            size = choice.choice((1, 1, 1, 1, 1, 3, 3, 80))
            contents = [f"{user_id}:{seed}:{next(numbers)}" for _ in range(size)]
            if len(contents) == 1:
                call = repository.add_message(session_id, "user", contents[0], user_id=user_id)
            else:
                call = repository.add_messages(
                    session_id, [("user", content) for content in contents], user_id=user_id
                )
            outcome = await _outcome(call)
            if isinstance(outcome, str) and ":" in outcome:
                if not outcome.startswith("SessionNotFoundError"):
                    strange.append(outcome)
                await asyncio.sleep(0.005)
            else:
                end = time.monotonic()
                added.extend([session_id, user_id, content, start, end] for content in contents)
                race.happened("append")

    async def read(user_id: str, choice: random.Random) -> None:
        while not race.is_over():
            session_id = choice.choice(session_ids)
            limit = choice.choice((None, 3))
            for message in await repository.get_session_history(user_id, session_id, limit=limit):
                if not message.content.startswith(f"{user_id}:"):
                    strange.append(f"{user_id} saw {message.content}")
            race.happened("read")
            await asyncio.sleep(0.02)  # Most of the time is for those that write.

    async def replace(user_id: str, choice: random.Random) -> None:
        nonlocal deleted
        while not race.is_over():
            if not recreate and race.count("append") < APPENDS_FOR_EACH_DELETE * (race.count("delete") + 1):
                await asyncio.sleep(0.005)
                continue
            session_id = choice.choice(doomed)
            outcome = await _outcome(repository.delete_session_async(user_id, session_id))
            if outcome is True:
                deleted += 1
                race.happened("delete")
            elif outcome is not False:
                strange.append(outcome)
            if recreate:
                start = time.monotonic()
                outcome = await _outcome(repository.ensure_session_exists(session_id, user_id))
                if outcome is True:
                    created.append([session_id, user_id, start, time.monotonic()])
                    race.happened(f"creation by {user_id}")
                elif outcome is not False and not outcome.startswith("SessionConflictError"):
                    strange.append(outcome)
            await asyncio.sleep(choice.random() * 0.02)

    tasks = [
        work(user_id, random.Random(f"{seed} {number} {user_id} {work.__name__}"))
        for user_id in users
        for work in (write, read, replace)
        for number in range(8 if work is write else 3)
    ]
    await asyncio.gather(*tasks)
    return {"added": added, "created": created, "deleted": deleted, "strange": strange, "tasks": len(tasks)}


async def update(
    repository: Any, session_ids: list[str], user_id: str, name: str, tasks: int, times: int
) -> list[str]:
    """Set title and metadata to one state from many tasks; return states that nobody set."""
    mixed: list[str] = []

    async def change(number: int) -> None:
        for time_ in range(times):
            for session_id in session_ids:
                state = f"{name}-{number}-{time_}"
                data = {"title": state, "metadata": {"state": state, state: [state]}}
                assert await repository.update_session_async(user_id, session_id, data)
                found = await repository.get_session(user_id, session_id)
                seen = found.metadata.get("state")
                if found.title != seen or found.metadata != {"state": seen, seen: [seen]}:
                    mixed.append(f"{found.title}: {found.metadata}")

    await asyncio.gather(*[change(number) for number in range(tasks)])
    return mixed


async def churn(
    repository: Any, race: Race, session_ids: list[str], user_id: str, tasks: int, seed: int
) -> None:
    """Create, update, write to and delete sessions, a share of them for each task."""

    async def change(number: int) -> None:
        choice, mine = random.Random(f"{seed} {number}"), session_ids[number::tasks]
        while not race.is_over():
            what = choice.randrange(4)
            if what == 0 or not mine:
                mine.append(await repository.create_session_async(user_id, {"title": "new"}))
            elif what == 1:
                assert await repository.update_session_async(user_id, choice.choice(mine), {"title": "x"})
            elif what == 2:
                await repository.add_message(choice.choice(mine), "user", "Hi", user_id=user_id)
            else:
                gone = mine.pop(choice.randrange(len(mine)))
                assert await repository.delete_session_async(user_id, gone)
            race.happened(f"change by {seed}")

    await asyncio.gather(*[change(number) for number in range(tasks)])


async def page(
    repository: Any, race: Race, user_id: str, limits: list[int], untouched: list[str]
) -> dict[str, int]:
    """Page through a user's sessions again and again; return what was wrong and the most there was."""
    counts = {"twice": 0, "missed": 0, "rows": 0}

    async def run(limit: int) -> None:
        while not race.is_over():
            seen: list[str] = []
            cursor = None
            while True:
                found = await repository.list_sessions(user_id, limit=limit, cursor=cursor)
                seen += [item.session_id for item in found.sessions]
                if (cursor := found.next_cursor) is None:
                    break
            counts["twice"] += len(seen) - len(set(seen))
            counts["missed"] += len(set(untouched) - set(seen))
            counts["rows"] = max(counts["rows"], len(seen))
            race.happened(f"run with {limit}")

    await asyncio.gather(*[run(limit) for limit in limits])
    return counts


async def write(repository: Any, session_id: str, name: str, tasks: int, times: int) -> dict[str, Any]:
    """Write to one session from many tasks, and read it meanwhile.

    Returns:
        ``written``: the message ids of each task in order; ``reads``: those of some histories.
    """
    reads: list[list[str]] = []
    writing = True

    async def add(number: int) -> list[str]:
        ids = []
        for turn in range(times):
            ids.append(await repository.add_message(session_id, "user", f"{name}-{number}-{turn}"))
            while turn == times // 2 and len(reads) < READS_ON_THE_WAY:
                await asyncio.sleep(0.001)
        return ids

    async def look() -> None:
        while writing:
            history = await repository.get_session_history("user", session_id)
            reads.append([message.message_id for message in history])
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    written = await asyncio.gather(*[add(number) for number in range(tasks)])
    writing = False
    await looking
    return {"written": written, "reads": reads}


async def expect(
    repository: Any, session_id: str, message_id: str, versions: list[int], operation: str, tasks: int
) -> list[list[str]]:
    """Write from many tasks that all expect the same version, one version after another.

    Returns:
        For each version the outcomes: ``"done"``, or the name of an error.
    """

    def write(number: int, version: int) -> Coroutine[Any, Any, Any]:
        text = f"{version} {number} {random.random()}"
        return {
            "add_message": lambda: repository.add_message(session_id, "user", text, expected_version=version),
            "add_messages": lambda: repository.add_messages(
                session_id, [("user", text)] * 3, merge_metadata={text: 1}, expected_version=version
            ),
            "update_session": lambda: repository.update_session_async(
                "user", session_id, {"title": text}, expected_version=version
            ),
            "update_message": lambda: repository.update_message(
                "user", session_id, message_id, content=text, expected_version=version
            ),
            "replace_messages": lambda: repository.replace_messages(
                "user", session_id, [("user", text)] * 2, expected_version=version
            ),
        }[operation]()

    found = []
    for version in versions:
        # A process that is ahead waits for the other one's share of this version.
        while (await repository.get_session("user", session_id)).version < version:
            await asyncio.sleep(0.002)
        outcomes = await asyncio.gather(*[_outcome(write(number, version)) for number in range(tasks)])
        found.append([_name(outcome) for outcome in outcomes])
    return found


def _name(outcome: Any) -> str:
    text = outcome if isinstance(outcome, str) else ""
    return text.partition(":")[0] if ":" in text else "done"


async def merge(repository: Any, session_id: str, name: str, tasks: int) -> list[Any]:
    """Merge a key of its own from each task, alone and with a message."""
    return await asyncio.gather(
        *[
            _outcome(repository.update_session_async("user", session_id, merge_metadata={f"{name} {n}": n}))
            if n % 2
            else _outcome(
                repository.add_messages(session_id, [("user", "Hi")], merge_metadata={f"{name} {n}": n})
            )
            for n in range(tasks)
        ]
    )


async def pop(repository: Any, session_id: str, tasks: int) -> list[str]:
    """Pop messages from many tasks until there is none; return their ids, or names of errors."""
    popped: list[str] = []

    async def take() -> None:
        while True:
            outcome = await _outcome(repository.pop_message("user", session_id))
            if outcome is None:
                return
            popped.append(outcome if isinstance(outcome, str) else outcome.message_id)

    await asyncio.gather(*[take() for _ in range(tasks)])
    return popped


async def send(repository: Any, session_id: str, ids: list[str], tasks: int) -> list[Any]:
    """Send the same messages from many tasks, alone and in batches; return what each call returned."""
    batch = [NewMessage("user", message_id, message_id=message_id) for message_id in ids]
    calls = [repository.add_messages(session_id, batch) for _ in range(tasks)]
    calls += [
        repository.add_message(session_id, "user", message_id, message_id=message_id)
        for message_id in ids * tasks
    ]
    return await asyncio.gather(*[_outcome(call) for call in calls])


async def grab(repository: Any, session_ids: list[str], ids: list[str]) -> list[Any]:
    """Store the same ids in different sessions; return the outcomes of each session."""
    return [
        await asyncio.gather(
            *[
                _outcome(repository.add_message(session_id, "user", "Hi", message_id=message_id))
                for message_id in ids
            ]
        )
        for session_id in session_ids
    ]


async def append_and_pop(repository: Any, session_id: str, tasks: int, times: int) -> dict[str, list[str]]:
    """Append to a session and pop from it, from many tasks; return the ids of both."""
    appended: list[str] = []
    popped: list[str] = []

    async def work(number: int) -> None:
        for turn in range(times):
            if (number + turn) % 2:
                appended.append(await repository.add_message(session_id, "user", "Hi"))
            elif (message := await repository.pop_message("user", session_id)) is not None:
                popped.append(message.message_id)

    await asyncio.gather(*[work(number) for number in range(tasks)])
    return {"appended": appended, "popped": popped}


async def replace(repository: Any, session_id: str, name: str, tasks: int, times: int) -> list[list[str]]:
    """Replace all messages from many tasks, and copy the session meanwhile.

    Returns:
        The contents of each copy and of each history read.
    """
    read: list[list[str]] = []

    async def work(number: int) -> None:
        for turn in range(times):
            batch = [("user", f"{name}-{number}-{turn}")] * (3 + number)
            await repository.replace_messages("user", session_id, batch)
            copy = await repository.fork_session("user", session_id)
            for each in (copy, session_id):
                history = await repository.get_session_history("user", each)
                read.append([message.content for message in history])

    await asyncio.gather(*[work(number) for number in range(tasks)])
    return read


async def work_on_messages(
    repository: Any, session_ids: list[str], seed: int, tasks: int, times: int
) -> list[str]:
    """Do anything to the messages of some sessions from many tasks; return the errors."""
    errors: list[str] = []

    async def work(number: int) -> None:
        choice = random.Random(seed * tasks + number)
        for _ in range(times):
            errors.extend(await _work_on(repository, choice.choice(session_ids), choice))

    await asyncio.gather(*[work(number) for number in range(tasks)])
    return errors


async def _work_on(repository: Any, session_id: str, choice: random.Random) -> list[str]:
    """Do one thing to the messages of a session; return its error, unless it is gone or its message is."""
    key = "user", session_id
    try:
        history = await repository.get_session_history(*key)
        some_id = choice.choice(history).message_id if history else session_id
        what = choice.choice(
            [
                lambda: repository.add_messages(session_id, [("user", "Hi")] * 3),
                lambda: repository.pop_message(*key),
                lambda: repository.update_message(*key, some_id, merge_metadata={str(choice.random()): 1}),
                lambda: repository.delete_messages(*key, [some_id]),
                lambda: repository.delete_messages_from(*key, some_id),
                lambda: repository.clear_messages(*key),
                lambda: repository.replace_messages(*key, [("user", "Hi")] * 5),
                lambda: repository.fork_session(*key),
                lambda: repository.delete_session_async(*key),
            ]
        )
        await what()
        await repository.ensure_session_exists(session_id, "user")
    except (SessionNotFoundError, InvalidInputError):
        pass
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return []


# -- In their processes ----------------------------------------------------------------------------


async def _run(backend: Backend, barrier: Any, race: Race | None, job: Job) -> Any:
    work: Work = globals()[job.pop("work")]
    if race:
        job["race"] = race
    cold = job.pop("cold", False)
    async with backend.repository() as repository:
        if not cold:
            await repository.count_sessions("user")
        barrier.wait(START_SECONDS)
        return await work(repository, **job)


def _child(backend: Backend, barrier: Any, results: Any, race: Race | None, number: int, job: Job) -> None:
    try:
        results.put((number, {"result": asyncio.run(_run(backend, barrier, race, job))}))
    except BaseException as error:
        barrier.abort()
        results.put((number, {"error": f"{type(error).__name__}: {error}"}))


def _serve() -> None:
    processes = multiprocessing.get_context("fork")
    for line in sys.stdin:
        database, jobs, goals = json.loads(line)
        backend, race = Backend(**database), Race(goals) if goals else None
        barrier, results = processes.Barrier(len(jobs)), processes.Queue()
        children = [
            processes.Process(target=_child, args=(backend, barrier, results, race, number, job))
            for number, job in enumerate(jobs)
        ]
        for process in children:
            process.start()
        found = dict(results.get() for _ in children)
        for process in children:
            process.join()
        print(json.dumps([found[number] for number in range(len(jobs))]), flush=True)


if __name__ == "__main__":
    load_package()
    _serve()
