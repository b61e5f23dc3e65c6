"""Every command reads ranges of indexes in their order: nothing is sorted, no collection is scanned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pymongo import MongoClient, monitoring

from sessions import SessionRepositoryFactory
from sessions.backends.mongodb.options import client_class
from tests.support import plans

READING = ("find", "aggregate", "update", "delete", "distinct")
# Fields that the driver adds to a command, and that `explain` does not accept.
ADDED = ("lsid", "txnNumber", "startTransaction", "autocommit", "$db", "$clusterTime", "$readPreference")
NOT_IN_ORDER = {"SORT", "COLLSCAN"}
NUMBER = 2000
# Beyond the keys of returned or skipped documents: the bounds of a range.
SPARE_KEYS = 2

Command = dict[str, Any]


class Commands(monitoring.CommandListener):
    """Records the sent commands."""

    def __init__(self) -> None:
        self.sent: list[Command] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in READING:
            self.sent.append({key: value for key, value in event.command.items() if key not in ADDED})

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def fill(database: Any) -> None:
    """Store sessions, half of them of one user, and messages, half of one session; each a second older."""
    sessions, messages = [], []
    for number in range(1, NUMBER + 1):
        at = plans.NEWEST - timedelta(seconds=number)
        own = number % 2
        sessions.append(
            {"session_id": plans.session_id(number), "user_id": plans.USER if own else f"user{number % 99}"}
            | {"title": "title", "metadata": {}, "created_at": at, "updated_at": at}
        )
        messages.append(
            {"message_id": plans.message_id(number), "role": "user", "content": "Hello", "timestamp": at}
            | {"session_id": plans.BIG_SESSION if own else plans.session_id(number)}
        )
    database["chat_sessions"].insert_many(sessions)
    database["chat_messages"].insert_many(messages)


def stages(plan: object) -> Iterator[str]:
    """Yield the names of the stages anywhere in an explanation's plans."""
    if isinstance(plan, dict):
        if isinstance(plan.get("stage"), str):
            yield plan["stage"]
        for key, value in plan.items():
            if key != "rejectedPlans":
                yield from stages(value)
    elif isinstance(plan, list):
        for value in plan:
            yield from stages(value)


def faults(explanation: Any, skipped: int) -> list[str]:
    """Return the stages of an explanation that are not reads of index ranges."""
    found = sorted(NOT_IN_ORDER & set(stages(explanation)))
    if (stats := explanation.get("executionStats")) and "nReturned" in stats:
        keys, returned = stats["totalKeysExamined"], stats["nReturned"]
        if keys > skipped + returned + SPARE_KEYS:
            found.append(f"{keys} keys for {returned}")
    return found


async def test_every_command_reads_ranges_of_indexes_in_their_order(mongodb_url: str) -> None:
    listener = Commands()
    client = client_class()(mongodb_url, event_listeners=[listener])
    repository = SessionRepositoryFactory.create_repository("mongodb", client=client)
    found: dict[str, list[str]] = {}
    with MongoClient[Any](mongodb_url) as raw:
        database = raw.get_default_database()
        await repository._ensure_connection()
        fill(database)
        for name, operation in (plans.READS | plans.WRITES).items():
            if name in plans.WRITES:
                # Each on the same data, whatever the ones before it deleted.
                for collection in ("chat_sessions", "chat_messages"):
                    database[collection].delete_many({})
                fill(database)
            listener.sent.clear()
            await operation(repository)
            reads = name in plans.READS and name != "count"
            for number, command in enumerate(listener.sent):
                if "updates" in command:  # Of a bulk write, one is explained; the others are alike.
                    command["updates"] = command["updates"][:1]
                explanation = database.command(
                    "explain", command, verbosity="executionStats" if reads else "queryPlanner"
                )
                wrong = faults(explanation, command.get("skip", 0))
                found[f"{name}, {number}: {next(iter(command))}"] = wrong
        for name, operation in plans.SEARCHES.items():
            listener.sent.clear()
            await operation(repository)
            for number, command in enumerate(listener.sent):
                read = set(stages(database.command("explain", command, verbosity="queryPlanner")))
                # The hits of all sessions are sorted. Sessions are read in order, or by their _id.
                wrong_stages = {"COLLSCAN"} | ({"SORT"} if command["find"] == "chat_sessions" else set())
                found[f"{name}, {number}: find"] = sorted(read & wrong_stages)
    closed = client.close()
    if closed is not None:
        await closed

    assert {name: wrong for name, wrong in found.items() if wrong} == {}
