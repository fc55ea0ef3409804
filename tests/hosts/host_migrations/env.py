"""The host's own Alembic history: it leaves the recommender's tables alone."""

import os

from alembic import context
from sqlalchemy import create_engine

from tests.hosts.mirror import Base


def include_name(name, kind, _parents):
    return kind != "table" or not name.startswith("rec_")


engine = create_engine(os.environ["DATABASE_URL"])
with engine.connect() as connection:
    context.configure(connection, target_metadata=Base.metadata, include_name=include_name)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
