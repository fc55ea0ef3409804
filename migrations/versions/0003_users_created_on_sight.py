"""Users that a follow created on sight.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    on_sight = sa.Column("on_sight", sa.Boolean(), server_default=sa.false(), nullable=False)
    op.add_column("rec_users", on_sight)


def downgrade() -> None:
    op.drop_column("rec_users", "on_sight")
