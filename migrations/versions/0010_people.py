"""People to follow: who was suggested to whom, who was dismissed, and the profile `people`.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TABLE = "rec_suggestions"
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
NAME, NOTE = "people", "built in: weighs people to follow"
FORMULA = {
    "followed_by": 2.0,
    "enjoyed": 2.0,
    "similar_taste": 1.5,
    "popular": 0.3,
    "active": 0.1,
    "shown": -1.0,
}
PROFILES = sa.table(
    "rec_ranking_profiles",
    sa.column("id", sa.BigInteger),
    sa.column("name", sa.Text),
    sa.column("version", sa.Integer),
    sa.column("created_at", TIME),
    sa.column("note", sa.Text),
    sa.column("parent_id", sa.BigInteger),
)
WEIGHTS = sa.table(
    "rec_profile_weights",
    sa.column("profile_id", sa.BigInteger),
    sa.column("signal", sa.Text),
    sa.column("position", sa.Integer),
    sa.column("weight", sa.Double),
)
OURS = sa.and_(PROFILES.c.name == NAME, PROFILES.c.note == NOTE)


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
    # A host may have made a profile of that name: ours is its newest version then.
    last = sa.select(sa.func.coalesce(sa.func.max(PROFILES.c.version), 0))
    version = last.where(PROFILES.c.name == NAME).scalar_subquery() + 1
    op.execute(
        PROFILES.insert().values(
            name=NAME, version=version, note=NOTE, created_at=moment(BEGINNING)
        )
    )
    made = sa.select(PROFILES.c.id).where(OURS).scalar_subquery()
    for position, (signal, weight) in enumerate(FORMULA.items(), start=1):
        op.execute(
            WEIGHTS.insert().values(
                profile_id=made, signal=signal, position=position, weight=weight
            )
        )


def moment(value: datetime) -> sa.ColumnElement[Any]:
    """The time as a literal that both databases and offline SQL take."""
    if op.get_context().dialect.name == "sqlite":
        return sa.literal(int(value.timestamp() * 1_000_000), sa.BigInteger)
    return sa.cast(sa.literal(value.isoformat(), sa.Text), sa.DateTime(timezone=True))


def downgrade() -> None:
    made = sa.select(PROFILES.c.id).where(OURS).scalar_subquery()
    op.execute(PROFILES.update().where(PROFILES.c.parent_id == made).values(parent_id=None))
    op.execute(WEIGHTS.delete().where(WEIGHTS.c.profile_id == made))
    op.execute(PROFILES.delete().where(OURS))
    op.drop_table(TABLE)
