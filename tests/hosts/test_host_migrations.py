"""Two Alembic histories in one database."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

from recommender.database.engine import database_url
from tests.support.schemas import tables

pytestmark = pytest.mark.slow
OWN = {"users", "videos", "alembic_version"}


@pytest.fixture
def config(database: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    url = database_url(database).render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "host_migrations"))
    made.set_main_option("path_separator", "os")
    return made


def test_each_history_goes_its_own_way(config: Config, database: str) -> None:
    ours = tables(database)
    command.upgrade(config, "head")
    assert tables(database) == ours | OWN
    command.check(config)  # autogenerate would change nothing: it sees no table of ours
    command.downgrade(config, "base")
    assert tables(database) == ours | {"alembic_version"}
