"""Two Alembic histories in one database."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy.orm import Session

import recommender
from recommender import create_engine
from recommender.database.engine import database_url
from recommender.database.partitions import is_partition
from recommender.models import Base
from tests.support.schemas import tables

pytestmark = pytest.mark.slow
OWN = {"users", "videos", "alembic_version"}


@pytest.fixture
def config(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    url = database_url(empty_database).render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "host_migrations"))
    made.set_main_option("path_separator", "os")
    return made


def test_each_history_goes_its_own_way(config: Config, empty_database: str) -> None:
    command.upgrade(config, "0001")
    assert tables(empty_database) == OWN
    command.upgrade(config, "head")  # a revision of the host's makes the recommender's tables
    ours = tables(empty_database) - OWN
    made = {*Base.metadata.tables, "rec_alembic_version"}
    assert {table for table in ours if not is_partition(table)} == made
    engine = create_engine(empty_database)
    with Session(engine) as session:
        recommender.upsert_users(session, [{"id": "ana"}])
    engine.dispose()
    command.check(config)  # autogenerate would change nothing: it sees no table of ours
    command.downgrade(config, "base")
    assert tables(empty_database) == ours | {"alembic_version"}
