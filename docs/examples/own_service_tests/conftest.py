from collections.abc import Iterator
from pathlib import Path

import pytest

from sessions import Chats


@pytest.fixture
def chats(tmp_path: Path) -> Iterator[Chats]:
    with Chats(f"sqlite:///{tmp_path}/test.db") as chats:
        yield chats
