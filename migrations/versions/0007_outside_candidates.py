"""Candidates that a host computes outside the database.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLE = "rec_outside_candidates"
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("source", KEY, nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.CheckConstraint(
            "length(source) BETWEEN 1 AND 63", name=op.f("rec_outside_candidates_source_length_ck")
        ),
        sa.CheckConstraint("score BETWEEN 0 AND 1", name=op.f("rec_outside_candidates_score_ck")),
        sa.PrimaryKeyConstraint(
            "user_id", "source", "video_id", name=op.f("rec_outside_candidates_pk")
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_outside_candidates_user_id_source_score_video_id_ix"),
        TABLE,
        ["user_id", "source", "score", "video_id"],
    )


def downgrade() -> None:
    op.drop_table(TABLE)
