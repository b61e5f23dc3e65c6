"""A fake streaming model, without the network; in its place goes what calls yours."""

import asyncio
import itertools
import os
import re
from collections.abc import AsyncIterator

from sessions.services import AgentContext

SECONDS = float(os.environ.get("FAKE_MODEL_SECONDS", "0.05"))  # For each word.
numbers = itertools.count(1)


async def answer(message: str, context: AgentContext) -> AsyncIterator[str]:
    text = f"Answer {next(numbers)}, having seen {len(context.history)} messages: {message}"
    for word in re.findall(r"\s*\S+", text):
        yield word
        await asyncio.sleep(SECONDS)
