"""Make items in a forked process while this process works on earlier items."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from recommender.database.transactions import uncollected
from recommender.errors import RecommenderError

T = TypeVar("T")


def can_fork() -> bool:
    """Return whether this process can safely be forked."""
    # A fork copies the locks that other threads hold, but not the threads that would release them.
    # A daemon process of `multiprocessing` may not have children.
    is_alone = threading.active_count() == 1 and not multiprocessing.current_process().daemon
    return is_alone and "fork" in multiprocessing.get_all_start_methods()


@contextmanager
def made_ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """Give the same items, made by a fork if this process can be forked.

    Args:
        items: as for `made_apart`; making them must not need the database.
    """
    if can_fork():
        with made_apart(items) as received:
            yield received
    else:
        yield items


@contextmanager
def made_apart(
    items: Iterator[T], begin: Callable[[], object] = gc.disable
) -> Iterator[Iterator[T]]:
    """Give the same items, made by a fork that ends with the context.

    The fork is about one item ahead: it waits when the pipe is full. It ignores interrupts, which
    this process handles.

    Args:
        items: picklable items. An error that they raise is raised here.
        begin: the first call in the fork, for example to let go of inherited connections.

    Raises:
        RecommenderError: from the items, if the fork was killed.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_send_all, args=(items, begin, receiver, sender), daemon=True)
    # `multiprocessing` closes sys.stdin in the fork, which may be what the items are read from.
    stdin, sys.stdin = sys.stdin, None
    try:
        process.start()
    finally:
        sys.stdin = stdin
    sender.close()
    try:
        with receiver:
            yield _received(receiver)
    finally:
        process.kill()
        process.join()
        process.close()


def _received(receiver: Any) -> Iterator[T]:
    while True:
        try:
            with uncollected():
                item, error = receiver.recv()
        except (EOFError, OSError):
            raise RecommenderError("a process that this one needs was ended") from None
        if isinstance(error, StopIteration):
            return
        if error:
            raise error
        yield item


def _send_all(items: Iterator[T], begin: Callable[[], object], receiver: Any, sender: Any) -> None:
    """Send items until none is left or the reader is gone; an error ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    receiver.close()
    begin()
    error = None
    while not error:
        item, error = _next(items)
        try:
            sender.send((item, error))
        except BrokenPipeError:
            return


def _next(items: Iterator[T]) -> tuple[T | None, Exception | None]:
    """Return the next item, or the error that came instead, `StopIteration` at the end."""
    try:
        return next(items), None
    except Exception as error:  # noqa: BLE001 - the reader raises it
        return None, error
