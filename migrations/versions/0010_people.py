"""People to follow: who was suggested to whom, and who was dismissed.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLE = "rec_suggestions"
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("creator_id", sa.BigInteger(), nullable=False),
        sa.Column("shown", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("shown_at", TIME, nullable=True),
        sa.Column("dismissed_at", TIME, nullable=True),
        sa.CheckConstraint("shown >= 0", name=op.f("rec_suggestions_not_negative_ck")),
        sa.PrimaryKeyConstraint("user_id", "creator_id", name=op.f("rec_suggestions_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("rec_suggestions_creator_id_ix"), TABLE, ["creator_id"])


def downgrade() -> None:
    op.drop_table(TABLE)
