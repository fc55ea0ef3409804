"""Items made in a process of their own while the caller works on those before, or on others'."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn, TypeVar

from recommender.database.bulk import uncollected
from recommender.errors import RecommenderError

T = TypeVar("T")


def can_fork() -> bool:
    """Whether this process can be forked: a fork has the locks of other threads and not them."""
    return hasattr(os, "fork") and threading.active_count() == 1


@contextmanager
def made_ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same items, made by a fork of this process that is one item ahead, or here without one.

    Args:
        items: as for `made_apart`, and made without a database.
    """
    if can_fork():
        with made_apart(items) as made:
            yield made
    else:
        yield items


@contextmanager
def made_apart(
    items: Iterator[T], begin: Callable[[], object] = gc.disable
) -> Iterator[Iterator[T]]:
    """The same items, made by a fork of this process, which is killed at the end.

    It is ahead by as many as a pipe holds. An interrupt is this process's to act on.

    Args:
        items: picklable; what they raise is raised here.
        begin: what the fork does first, such as letting go of this process's connections.

    Raises:
        RecommenderError: from the items, where the fork was ended.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        _make(items, begin, read_end, write_end)
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as pipe:
            yield _received(pipe)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _received(pipe: BinaryIO) -> Iterator[T]:
    while True:
        try:
            with uncollected():
                made, error = pickle.load(pipe)  # noqa: S301 - our own fork wrote it
        except (EOFError, pickle.UnpicklingError):
            raise RecommenderError("a process that this one needs was ended") from None
        if isinstance(error, StopIteration):
            return
        if error:
            raise error
        yield made


def _make(
    items: Iterator[T], begin: Callable[[], object], read_end: int, write_end: int
) -> NoReturn:
    """Send items until none is left or nobody reads, and end without cleaning up.

    Connections and buffers are the parent's to close.
    """
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(read_end)
        begin()
        with os.fdopen(write_end, "wb") as pipe:
            while True:
                made = _next(items)
                pipe.write(pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
                pipe.flush()
                if made[1]:
                    break
    finally:
        os._exit(0)


def _next(items: Iterator[T]) -> tuple[T | None, Exception | None]:
    """The next item, or what came instead of it: an error, or `StopIteration`."""
    try:
        return next(items), None
    except Exception as error:  # noqa: BLE001 - raised where the items are wanted
        return None, error
