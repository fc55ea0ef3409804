"""A session of the host's for the example applications."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database.transactions import writing
from tests.hosts.mirror import Base, HostSession, User


@pytest.fixture
def host(engine: Engine) -> Iterator[Session]:
    """A session of the host, with two users, and its tables beside ours."""
    Base.metadata.create_all(engine)
    with HostSession(writing(engine)) as session:
        session.add_all([User(id=number, language="en") for number in (1, 2)])
        session.flush()
        yield session
