"""Feeds with names, and the feed of each session.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLE, SESSIONS = "rec_feeds", "rec_feed_sessions"
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")

SERVED = sa.table("rec_served", sa.column("memory", sa.SmallInteger))


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.Column("profile", KEY, nullable=True),
        sa.Column("profile_version", sa.Integer(), nullable=True),
        sa.Column("memory", sa.SmallInteger(), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("formats", sa.JSON(), nullable=False),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 255", name=op.f("rec_feeds_name_length_ck")),
        sa.CheckConstraint("version >= 1", name=op.f("rec_feeds_version_ck")),
        sa.CheckConstraint("memory >= 0", name=op.f("rec_feeds_not_negative_ck")),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_feeds_pk")),
        sa.UniqueConstraint("name", "version", name=op.f("rec_feeds_name_version_uq")),
        sqlite_autoincrement=True,
    )
    op.add_column(SESSIONS, sa.Column("feed_id", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    # A feed that is made later could get the number of a memory.
    op.execute(sa.delete(SERVED).where(SERVED.c.memory > 0))
    op.drop_column(SESSIONS, "feed_id")
    op.drop_table(TABLE)
