"""Fixtures for tests of the training wing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from recommender.database.engine import create_engine


@pytest.fixture
def shared_engine(
    kind: str, new_database: Callable[..., str], _shared_engines: dict[str, Engine]
) -> Engine:
    """An engine on a database that tests share, for tests that write temporary tables only."""
    if kind not in _shared_engines:
        _shared_engines[kind] = create_engine(new_database(kind))
    return _shared_engines[kind]
