"""The application behind PgBouncer: many clients, its role's settings, upgrades through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from recommender import QueryTimeout, upgrade, upsert_users, upsert_videos
from tests.conftest import drop_database
from tests.hosts.pgbouncer_app import make_engine, prepare_role, transaction, watch
from tests.support.pgbouncer import pgbouncer
from tests.support.worlds import at

pytestmark = pytest.mark.slow

ROLE = "behind_pgbouncer"


@pytest.fixture
def app(new_database: Callable[..., str]) -> Iterator[Engine]:
    """An engine of the application, as a role of its own, with two connections to the server."""
    owned = sa.make_url(new_database("postgresql", migrated=False))
    owner = sa.create_engine(owned.set(drivername="postgresql+psycopg"))
    with owner.begin() as connection:
        connection.execute(sa.text(f"DROP ROLE IF EXISTS {ROLE}"))
        connection.execute(sa.text(f"CREATE ROLE {ROLE} LOGIN"))
        connection.execute(sa.text(f"GRANT ALL ON SCHEMA public TO {ROLE}"))
    url = owned.set(drivername="postgresql+psycopg", username=ROLE)
    direct = sa.create_engine(url)
    prepare_role(direct)
    direct.dispose()
    with pgbouncer(url.render_as_string(), "default_pool_size = 2") as through:
        engine = make_engine(through)
        yield engine
        engine.dispose()
    drop_database(owned.render_as_string())
    admin = sa.create_engine(owner.url.set(database="postgres"))
    with admin.begin() as connection:
        connection.execute(sa.text(f"DROP ROLE {ROLE}"))
    admin.dispose()
    owner.dispose()


def test_many_clients_are_served_and_limited(app: Engine) -> None:
    upgrade(app)
    users, videos = [f"u{n}" for n in range(8)], [f"v{n}" for n in range(90)]
    with transaction(app) as session:
        upsert_users(session, [{"id": key} for key in users])
        rows = [{"id": key, "creator": "maker", "published_at": at(-60)} for key in videos]
        upsert_videos(session, rows)
    with ThreadPoolExecutor(8) as threads:
        pages = list(threads.map(lambda user: watch(app, user, "v1"), users * 3))
    assert all(page and "v1" not in page for page in pages)
    with transaction(app) as session:
        assert session.scalar(sa.text("SHOW timezone")) == "UTC"
        assert session.scalar(sa.text("SHOW statement_timeout")) == "15s"
        session.execute(sa.text("SET LOCAL statement_timeout = 50"))
        with pytest.raises(QueryTimeout), transaction(app) as other:
            other.execute(sa.text("SET LOCAL statement_timeout = 50"))
            other.execute(sa.text("SELECT pg_sleep(5)"))
