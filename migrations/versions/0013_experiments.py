"""Experiments; sessions get an arm, and counters of their pages.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLE, SESSIONS = "rec_experiments", "rec_feed_sessions"
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
COUNTERS = ("pages", "asked", "exhausted", "milliseconds")


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("feed", KEY, nullable=False),
        sa.Column("arms", sa.JSON(), nullable=False),
        sa.Column("interleaved", sa.Boolean(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("guardrails", sa.JSON(), nullable=False),
        sa.Column("least_effect", sa.Double(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("stopped_at", TIME, nullable=True),
        sa.Column("promoted", KEY, nullable=True),
        sa.CheckConstraint(
            "length(name) BETWEEN 1 AND 255", name=op.f("rec_experiments_name_length_ck")
        ),
        sa.CheckConstraint(
            "least_effect > 0 AND least_effect <= 1", name=op.f("rec_experiments_least_effect_ck")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_experiments_pk")),
        sa.UniqueConstraint("name", name=op.f("rec_experiments_name_uq")),
        sqlite_autoincrement=True,
    )
    running = sa.text("stopped_at IS NULL")
    op.create_index(
        op.f("rec_experiments_feed_ix"),
        TABLE,
        ["feed"],
        unique=True,
        sqlite_where=running,
        postgresql_where=running,
    )
    op.add_column(SESSIONS, sa.Column("experiment_id", sa.BigInteger(), nullable=True))
    op.add_column(SESSIONS, sa.Column("arm", sa.SmallInteger(), nullable=True))
    for name in COUNTERS:
        counter = sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
        op.add_column(SESSIONS, counter)


def downgrade() -> None:
    for name in (*reversed(COUNTERS), "arm", "experiment_id"):
        op.drop_column(SESSIONS, name)
    op.drop_table(TABLE)
