"""Items made in a process of their own while the caller works on those before."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NoReturn, TypeVar

T = TypeVar("T")


@contextmanager
def made_ahead(items: Iterator[T]) -> Iterator[Iterator[T]]:
    """The same items, made by a fork of this process that is one item ahead.

    They are made here where the system cannot fork, and where other threads run: a fork would have
    their locks and not them.

    Args:
        items: picklable, and made without a database; what they raise is raised here.
    """
    if not hasattr(os, "fork") or threading.active_count() > 1:
        yield items
        return
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        _make(items, read_end, write_end)
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
            made, error = pickle.load(pipe)  # noqa: S301 - our own fork wrote it
        except (EOFError, pickle.UnpicklingError):
            raise RuntimeError("the process that reads ahead was ended") from None
        if isinstance(error, StopIteration):
            return
        if error:
            raise error
        yield made


def _make(items: Iterator[T], read_end: int, write_end: int) -> NoReturn:
    """Send items until none is left or nobody reads, and end without cleaning up.

    Connections and buffers are the parent's to close.
    """
    try:
        gc.disable()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(read_end)
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
