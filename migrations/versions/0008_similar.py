"""The profile `similar`, which weighs videos that are like others.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
NAME, NOTE = "similar", "built in: weighs videos that are like others"
FORMULA = {
    "similarity": 4.0,
    "shared_hashtags": 1.0,
    "shared_words": 0.5,
    "same_sound": 0.3,
    "same_creator": 0.3,
    "language": 0.1,
    "creator_affinity": 0.3,
    "hashtag_affinity": 0.3,
    "lately": 0.5,
    "collaborative": 0.5,
    "quality": 0.5,
    "trending": 0.2,
    "exploration": 0.05,
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
