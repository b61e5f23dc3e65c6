"""What a write is refused with."""

from __future__ import annotations

from typing import Any

import pytest

SECRET = "hunter2-Zq9"
CONTENT = "a very private thing to say"


async def refusal(repository: Any, error: type[Exception]) -> str:
    """Return what a write is refused with; it has a cause, and shows no secret."""
    with pytest.raises(error) as caught:
        await repository.create_session_async("alice", {"title": CONTENT})
    assert caught.value.__cause__ is not None
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert SECRET not in shown
    assert CONTENT not in shown
    return str(caught.value)
