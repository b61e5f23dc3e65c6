"""Compares the package with the raw drivers: medians, their ratio, and its target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import CONTENT, USER, Contender, Ours, RawAiosqlite, raw_client
from benchmarks.tables import milliseconds, table
from benchmarks.timing import Effort, one_caller, rounds_of, timed_awaits, timed_in_thread

__all__ = ["LISTED_USER", "against_raw", "filled_session", "sync_twins"]

HEAD = ("operation", "ours", "raw driver", "ratio", "target")
LISTED_USER = "lister"
DATABASE = "agenthub"


@dataclass(frozen=True)
class Target:
    """The upper or lower limit of the ratio of our median to the raw driver's."""

    value: float
    at_least: bool = False

    def judge(self, ratio: float) -> tuple[str, str]:
        """Return the ratio and the target as cells of the table."""
        reached = ratio >= self.value if self.at_least else ratio <= self.value
        return (
            f"{ratio:.2f}" if reached else f"**{ratio:.2f}**",
            f"{'≥' if self.at_least else '≤'} {self.value}",
        )


BACKENDS = ("postgres", "mongodb", "sqlite", "redis")
READS_AND_OTHER_WRITES = (Target(1.1), Target(1.2), Target(1.3), Target(1.3))
# By operation: the targets of the backends, in their order.
TARGETS = {
    "add_message": (Target(1.0), Target(1.0), Target(1.2), Target(1.3)),
    "add_messages of 10": READS_AND_OTHER_WRITES,
    "history of 100": READS_AND_OTHER_WRITES,
    "history of 1,000": READS_AND_OTHER_WRITES,
    "page of 20 sessions": (*READS_AND_OTHER_WRITES[:3], Target(1.5)),
    "create_session": READS_AND_OTHER_WRITES,
}
SYNC_TARGET = Target(1.35)


async def against_raw(backend: str, url: str, effort: Effort) -> str:
    """Return the table of one backend."""
    ours = Ours(backend, url)
    await ours.repository.count_sessions(USER)
    raw = await raw_client(backend, url)
    try:
        rows = []
        async for operation, measured in _measure(ours, raw, effort):
            ratio = measured["ours"] / measured["raw"]
            judged = (f"{ratio:.2f}", "none")
            if (targets := TARGETS.get(operation)) is not None:
                judged = targets[BACKENDS.index(backend)].judge(ratio)
            shown = [milliseconds(measured[name]) for name in ("ours", "raw")]
            rows.append((operation, *shown, *judged))
        return table(HEAD, rows)
    finally:
        await raw.close()
        await ours.close()


async def _measure(ours: Ours, raw: Any, effort: Effort) -> Any:
    contenders: dict[str, Contender] = {"ours": ours, "raw": raw}
    own = {name: await ours.create() for name in contenders}
    appends = {name: _call(one.append, own[name]) for name, one in contenders.items()}
    yield "add_message", await one_caller(appends, effort)

    batches = {name: _call(one.append_batch, own[name], 10) for name, one in contenders.items()}
    yield "add_messages of 10", await one_caller(batches, effort)

    for size, name in ((100, "history of 100"), (1000, "history of 1,000")):
        filled = await filled_session(ours, size)
        reads = {who: _call(one.history, filled) for who, one in contenders.items()}
        fewer = effort.divided(size // 100 if size > 100 else 1)
        yield name, await one_caller(reads, fewer)
        if isinstance(raw, RawAiosqlite):
            reads["raw"] = _call(raw.at_once().history, filled)
            yield f"{name}, raw: `execute_fetchall`", await one_caller(reads, fewer)

    await _make_list(ours)
    pages = {name: _call(one.page, LISTED_USER) for name, one in contenders.items()}
    yield "page of 20 sessions", await one_caller(pages, effort)
    if isinstance(raw, RawAiosqlite):
        pages["raw"] = _call(raw.at_once().page, LISTED_USER)
        yield "page of 20 sessions, raw: `execute_fetchall`", await one_caller(pages, effort)

    creates = {name: _call(one.create) for name, one in contenders.items()}
    yield "create_session", await one_caller(creates, effort)


def _call(function: Callable[..., Awaitable[object]], *arguments: Any) -> Callable[[], Awaitable[object]]:
    return lambda: function(*arguments)


async def _make_list(ours: Ours) -> None:
    for _ in range(60):
        await ours.create(LISTED_USER)


async def filled_session(ours: Ours, size: int) -> str:
    """Return a session of so many messages."""
    session_id = await ours.create()
    for start in range(0, size, 100):
        await ours.append_batch(session_id, min(100, size - start))
    assert len(await ours.history(session_id)) == size
    return session_id


async def sync_twins(backend: str, url: str, effort: Effort) -> str:
    """Return the table that compares blocking calls from a plain thread with awaited calls."""
    ours = Ours(backend, url)
    repository = ours.repository
    session_id = await ours.create()
    filled = await filled_session(ours, 100)
    await _make_list(ours)
    batch = [("user", CONTENT)] * 10
    pairs: dict[str, tuple[Callable[[], Awaitable[object]], Callable[[], object]]] = {
        "add_message": (
            lambda: ours.append(session_id),
            lambda: repository.add_message_sync(session_id, "user", CONTENT),
        ),
        "add_messages of 10": (
            lambda: ours.append_batch(session_id, len(batch)),
            lambda: repository.add_messages_sync(session_id, batch),
        ),
        "history of 100": (
            lambda: ours.history(filled),
            lambda: repository.get_session_history_sync(USER, filled),
        ),
        "page of 20 sessions": (
            lambda: ours.page(LISTED_USER),
            lambda: repository.list_paginated_sessions(LISTED_USER, 0, 20),
        ),
        "create_session": (ours.create, lambda: repository.create_session(USER)),
        "get_session": (
            lambda: repository.get_session(USER, filled),
            lambda: repository.get_session_sync(USER, filled),
        ),
    }
    rows = []
    for operation, (awaited, blocking) in pairs.items():
        measured = await rounds_of(
            {"async": timed_awaits(awaited), "sync": timed_in_thread(blocking)}, effort
        )
        ratio, wanted = SYNC_TARGET.judge(measured["sync"] / measured["async"])
        shown = [milliseconds(measured[name]) for name in ("sync", "async")]
        rows.append((operation, *shown, ratio, wanted))
    await ours.close()
    return table(("operation", "blocking", "awaited", "ratio", "target"), rows)
