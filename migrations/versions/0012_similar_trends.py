"""A second version of the profile `similar`, in which trends count more.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
NAME, TREND = "similar", 0.5
FIRST_NOTE = "built in: weighs videos that are like others"
NOTE = "built in: trends count more than in the first version"
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
    # The newest version serves. A host that made its own keeps it.
    newest = sa.select(sa.func.max(PROFILES.c.version)).where(PROFILES.c.name == NAME)
    first = sa.and_(
        PROFILES.c.name == NAME,
        PROFILES.c.note == FIRST_NOTE,
        PROFILES.c.version == newest.scalar_subquery(),
    )
    columns = ["name", "version", "note", "created_at", "parent_id"]
    version, made_at = PROFILES.c.version + 1, moment(BEGINNING)
    second = sa.select(PROFILES.c.name, version, sa.literal(NOTE, sa.Text), made_at, PROFILES.c.id)
    op.execute(PROFILES.insert().from_select(columns, second.where(first)))
    made = sa.select(PROFILES.c.id).where(OURS).scalar_subquery()
    parent = sa.select(PROFILES.c.parent_id).where(OURS).scalar_subquery()
    weight = sa.case((WEIGHTS.c.signal == "trending", TREND), else_=WEIGHTS.c.weight)
    weights = sa.select(made, WEIGHTS.c.signal, WEIGHTS.c.position, weight)
    op.execute(
        WEIGHTS.insert().from_select(
            ["profile_id", "signal", "position", "weight"],
            weights.where(WEIGHTS.c.profile_id == parent),
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
