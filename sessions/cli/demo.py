"""``sessions demo``: creates, reads, updates and deletes one conversation, on a real database.

All printed values are read from the repository.
"""

from __future__ import annotations

import contextlib
import uuid

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from sessions.cli.terminal import (
    ROLE_STYLES,
    counted,
    print_session,
    printable,
    printable_lines,
    sessions_table,
)
from sessions.errors import SessionsError
from sessions.models import ChatMessage, ChatSession
from sessions.repositories import AsyncSessionRepository

__all__ = ["run_demo"]

METADATA = {"topic": "coffee", "source": "sessions demo"}
NEW_TITLE = "Coffee for a slow morning"
OPENING = [
    ("user", "Which coffee would you take for a slow morning?"),
    ("assistant", "A flat white: two shots, and milk that takes its time."),
]
QUESTION = "With oat milk, please ☕"
ANSWER = "Good choice. One flat white with oat milk."
PANEL_WIDTH = 64


async def run_demo(repository: AsyncSessionRepository, console: Console, database: str) -> None:
    """Create, read, update and delete one conversation; delete it also after an error.

    Args:
        repository: Stores the conversation.
        console: Prints the steps.
        database: Name of the database in the output.
    """
    # A unique user: the clean-up deletes all sessions of this user.
    user_id = f"demo-{uuid.uuid4().hex[:12]}"
    # Before any output: with an unusable database there is nothing to show.
    await repository.count_sessions(user_id)
    console.print(Text.assemble(("A conversation in ", "bold"), (database, "bold magenta")))
    try:
        await _live(repository, console, user_id)
    except BaseException:
        # Report the first error, not a later one of the clean-up.
        with contextlib.suppress(SessionsError):
            await repository.delete_user(user_id)
        raise


async def _live(repository: AsyncSessionRepository, console: Console, user_id: str) -> None:
    step = _Steps(console)

    step("Create it", "create_session_async(user_id, {'metadata': {...}})")
    session_id = await repository.create_session_async(user_id, {"metadata": METADATA})
    print_session(console, await _get(repository, user_id, session_id))

    step("Append messages", "add_messages(session_id, [...]), add_message(session_id, role, content)")
    await repository.add_messages(session_id, OPENING, user_id=user_id)
    await repository.add_message(session_id, "user", QUESTION, user_id=user_id)
    await repository.add_message(session_id, "assistant", ANSWER, user_id=user_id)
    history = await repository.get_session_history(user_id, session_id)
    console.print(f"stored: {counted(len(history), 'message')}")

    step("Read them back, oldest first", "get_session_history(user_id, session_id)")
    for message in history:
        console.print(_bubble(message))

    step("List the user's sessions", "list_sessions(user_id, limit=10)")
    page = await repository.list_sessions(user_id, limit=10)
    console.print(sessions_table(page.sessions))

    step("Rename it", "update_session_async(user_id, session_id, {'title': ...})")
    before = await _get(repository, user_id, session_id)
    await repository.update_session_async(user_id, session_id, {"title": NEW_TITLE})
    after = await _get(repository, user_id, session_id)
    console.print(
        Text.assemble((printable(before.title), "dim strike"), " → ", (printable(after.title), "bold"))
    )

    step("Delete it, with its messages", "delete_session_async(user_id, session_id)")
    await repository.delete_session_async(user_id, session_id)
    sessions_left = await repository.count_sessions(user_id)
    messages_left = len(await repository.get_session_history(user_id, session_id))
    console.print(f"left: {counted(sessions_left, 'session')}, {counted(messages_left, 'message')}")
    console.print()


class _Steps:
    """Prints the numbered headings."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0

    def __call__(self, what: str, call: str) -> None:
        self._count += 1
        self._console.print()
        self._console.print(Text(f"{self._count}. {what}", style="bold yellow"))
        self._console.print(Text(f"   {call}", style="dim"))


async def _get(repository: AsyncSessionRepository, user_id: str, session_id: str) -> ChatSession:
    chat_session = await repository.get_session(user_id, session_id)
    if chat_session is None:
        raise SessionsError("the session of the demo was deleted by another process")
    return chat_session


def _bubble(message: ChatMessage) -> Padding:
    style = ROLE_STYLES.get(message.role, "bold")
    panel = Panel(
        Text(printable_lines(message.content)),
        title=Text(message.role, style=style),
        title_align="left",
        border_style=style.removeprefix("bold "),
        width=PANEL_WIDTH,
    )
    return Padding(panel, (0, 0, 0, 0 if message.role == "user" else 8), expand=False)
