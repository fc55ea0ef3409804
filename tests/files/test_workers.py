"""Items made by a fork of the process, one ahead of the work on them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from recommender.errors import BadData, RecommenderError
from recommender.files.workers import made_ahead


def numbers(count: int) -> Iterator[tuple[int, int]]:
    """Numbers, each with the process that made it."""
    for number in range(count):
        yield number, os.getpid()


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_items_are_the_same_and_one_other_process_made_them() -> None:
    with made_ahead(numbers(1_000)) as items:
        made = list(items)
    assert [number for number, _ in made] == list(range(1_000))
    (process,) = {process for _, process in made}
    assert process != os.getpid()
    assert is_gone(process)


def test_an_error_is_raised_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield os.getpid()
        raise BadData("line 2: broken")

    with made_ahead(broken()) as items:
        process = next(items)
        with pytest.raises(BadData, match="line 2: broken"):
            next(items)
    assert is_gone(process)


def test_who_leaves_early_leaves_no_process() -> None:
    def endless() -> Iterator[tuple[int, bytes]]:
        while True:
            yield os.getpid(), bytes(1_000_000)

    with made_ahead(endless()) as items:
        process, _ = next(items)
    assert is_gone(process)


def test_an_interrupt_is_left_to_the_one_who_works_on_the_items() -> None:
    with made_ahead(numbers(100_000)) as items:
        _, process = next(items)
        os.kill(process, signal.SIGINT)
        assert sum(1 for _ in items) == 99_999


def test_a_process_that_was_killed_is_an_error_and_no_end() -> None:
    with made_ahead(numbers(100_000)) as items:
        _, process = next(items)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(RecommenderError, match="was ended"):
            list(items)


def test_beside_other_threads_the_items_are_made_here() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with made_ahead(numbers(2)) as items:
            assert list(items) == [(0, os.getpid()), (1, os.getpid())]
    finally:
        done.set()
        thread.join()
