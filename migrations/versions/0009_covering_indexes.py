"""Indexes on PostgreSQL that hold all that pages read of neighbours and recent engagements.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import conv

from recommender.database.migrations import committing

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

NEIGHBOURS = "rec_video_neighbours"
OF_VIDEO = conv("rec_video_neighbours_video_id_ix")
OTHER_OF_VIDEO = conv("rec_video_neighbours_other_video_id_ix")

RECENT = "rec_recent_engagements"
KEY = conv("rec_recent_engagements_pk")
OTHER_KEY = conv("rec_recent_engagements_other_pk")


def upgrade() -> None:
    if not is_sqlite():
        with committing(op.get_context()) as is_committing:
            replace_index(["source_id", "similarity"], is_concurrent=is_committing)
            replace_key(["at"], is_concurrent=is_committing)


def downgrade() -> None:
    if not is_sqlite():
        op.execute("LOCK TABLE rec_users IN ACCESS EXCLUSIVE MODE")
        replace_index([], is_concurrent=False)
        replace_key([], is_concurrent=False)


def is_sqlite() -> bool:
    """Return whether rows are stored in the order of their key, so that nothing is needed."""
    return op.get_context().dialect.name == "sqlite"


def replace_index(included: list[str], *, is_concurrent: bool) -> None:
    """Replace the index on the neighbours' video by one with other included columns."""
    # What an interrupted attempt left may be half an index.
    op.drop_index(OTHER_OF_VIDEO, NEIGHBOURS, if_exists=True, postgresql_concurrently=is_concurrent)
    op.create_index(
        OTHER_OF_VIDEO, NEIGHBOURS, ["video_id"],
        postgresql_include=included or None, postgresql_concurrently=is_concurrent,
        if_not_exists=True,
    )  # fmt: skip
    op.drop_index(OF_VIDEO, NEIGHBOURS, if_exists=True, postgresql_concurrently=is_concurrent)
    names = {"other": OTHER_OF_VIDEO, "name": OF_VIDEO}
    op.execute(sa.DDL("ALTER INDEX %(other)s RENAME TO %(name)s", context=names))


def replace_key(included: list[str], *, is_concurrent: bool) -> None:
    """Give the primary key of recent engagements other included columns."""
    op.drop_index(OTHER_KEY, RECENT, if_exists=True, postgresql_concurrently=is_concurrent)
    op.create_index(
        OTHER_KEY, RECENT, ["user_id", "video_id"], unique=True,
        postgresql_include=included or None, postgresql_concurrently=is_concurrent,
        if_not_exists=True,
    )  # fmt: skip
    names = {"table": RECENT, "key": KEY, "other": OTHER_KEY}
    swap = (
        "ALTER TABLE %(table)s DROP CONSTRAINT IF EXISTS %(key)s,"
        " ADD CONSTRAINT %(key)s PRIMARY KEY USING INDEX %(other)s"
    )
    op.execute(sa.DDL(swap, context=names))
