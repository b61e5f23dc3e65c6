"""The example of the manual, `docs/examples/chat_service`, served by uvicorn on a port of this host."""

from __future__ import annotations

import importlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import uvicorn

from tests.support.documents import EXAMPLES

__all__ = ["CHAT_SERVICE", "Served", "served"]

CHAT_SERVICE = EXAMPLES / "chat_service"
MODULES = ("app", "model")
# On a busy machine.
SECONDS = 60.0
# Of what the kernel keeps for a client that does not read.
SEND_BUFFER = 64 * 1024


@dataclass(frozen=True)
class Served:
    """A service that is running.

    Attributes:
        port: Of this host.
        model: The module ``model`` of the service.
    """

    port: int
    model: ModuleType

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def served(
    repository_type: str, url: str, *, answer: Any = None, word_seconds: float = 0.0
) -> Iterator[Served]:
    """Serve the example from a thread, with an event loop of its own.

    Args:
        repository_type: Where it stores conversations.
        url: That of the database.
        answer: The agent, in place of the fake model.
        word_seconds: How long the fake model takes for a word.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SESSIONS_DEFAULT_REPOSITORY", repository_type)
        patch.setenv(f"{repository_type.upper()}_URL", url)
        patch.setenv("FAKE_MODEL_SECONDS", str(word_seconds))
        patch.syspath_prepend(CHAT_SERVICE)
        try:
            model = importlib.import_module("model")
            if answer is not None:
                patch.setattr(model, "answer", answer)
            with _running(importlib.import_module("app").app) as port:
                yield Served(port, model)
        finally:
            for name in MODULES:
                sys.modules.pop(name, None)


@contextmanager
def _running(app: Any) -> Iterator[int]:
    server = uvicorn.Server(
        uvicorn.Config(app, lifespan="on", ws="none", log_config=None, timeout_graceful_shutdown=10)
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="chat service")
        thread.start()
        try:
            deadline = time.monotonic() + SECONDS
            while not server.started:
                assert thread.is_alive(), "the service does not start"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive(), "the service does not end"
