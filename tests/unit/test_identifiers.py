from __future__ import annotations

import os
import threading
import uuid
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from sessions.core.identifiers import new_message_id, new_session_id, utc_now, uuid7_time

MILLISECOND = timedelta(milliseconds=1)


def test_a_session_id_is_a_random_uuid_in_canonical_form() -> None:
    made = [new_session_id() for _ in range(1000)]

    assert len(set(made)) == 1000
    assert all(str(uuid.UUID(one)) == one and uuid.UUID(one).version == 4 for one in made)


def test_a_message_id_is_a_uuid7_in_canonical_form() -> None:
    made = new_message_id()

    assert str(uuid.UUID(made)) == made
    assert uuid.UUID(made).version == 7


def test_message_ids_made_one_after_another_sort_in_that_order() -> None:
    # Many to a millisecond.
    made = [new_message_id() for _ in range(50_000)]

    assert all(earlier < later for earlier, later in pairwise(made))


def test_message_ids_sort_in_the_order_they_were_made_in_across_threads() -> None:
    made: list[str] = []
    turn, start = threading.Lock(), threading.Barrier(8)

    def make() -> None:
        start.wait()
        for _ in range(2000):
            with turn:
                made.append(new_message_id())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 16_000
    assert all(earlier < later for earlier, later in pairwise(made))


def test_forked_processes_do_not_make_the_same_message_ids() -> None:
    new_message_id()
    readers = []
    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, "\n".join(new_message_id() for _ in range(1000)).encode())
            finally:
                os._exit(0)
        os.close(writer)
        readers.append((child, reader))
    made: list[str] = []
    for child, reader in readers:
        with os.fdopen(reader) as stream:
            made += stream.read().split()
        os.waitpid(child, 0)

    assert len(made) == len(set(made)) == 3000


def test_the_time_of_a_message_id_is_the_millisecond_it_was_made_in() -> None:
    before = utc_now()
    made = uuid7_time(new_message_id())
    after = utc_now()

    assert before - MILLISECOND < made <= after + MILLISECOND
    assert made.tzinfo is UTC
    assert made.microsecond % 1000 == 0


def test_the_time_is_exact_for_a_known_uuid7() -> None:
    # RFC 9562, appendix A.6.
    made = uuid7_time("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")

    assert made == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


def test_the_time_keeps_every_millisecond() -> None:
    for milliseconds in (0, 1, 999, 1_645_557_742_001, 1_700_000_000_007, 2**47):
        digits = f"{milliseconds:012x}"
        made = uuid7_time(f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000")
        assert made == datetime(1970, 1, 1, tzinfo=UTC) + milliseconds * MILLISECOND


def test_now_is_aware_utc() -> None:
    assert utc_now().tzinfo is UTC
