"""The recommender's tables. A later release needs a new revision that does the same."""

from alembic import op

import recommender

revision = "0002"
down_revision = "0001"


def upgrade():
    recommender.upgrade(op.get_bind())


def downgrade():
    """Leave the recommender's tables: `recommender db downgrade` would delete its data."""
