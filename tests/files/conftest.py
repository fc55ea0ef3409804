"""Threads that other tests left behind are no reason to work in one process."""

from __future__ import annotations

import threading

import pytest


@pytest.fixture(autouse=True)
def _only_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not count the threads of asynchronous connections that were cancelled elsewhere."""
    count = threading.active_count
    others = count() - 1
    monkeypatch.setattr(threading, "active_count", lambda: max(1, count() - others))
