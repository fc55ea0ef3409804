"""A shop's own tables, and its registry: a boost, picks of editors, videos for members."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender import Candidate, Filter, Registry, Signal, Source
from recommender.models import Video
from recommender.ranking.viewer import Viewer

METADATA = sa.MetaData()
BOOSTS = sa.Table(
    "host_boosts", METADATA, sa.Column("video", sa.Text), sa.Column("strength", sa.Float)
)
PICKS = sa.Table(
    "host_picks", METADATA, sa.Column("video", sa.Text), sa.Column("place", sa.Integer)
)
MEMBERS = sa.Table("host_members", METADATA, sa.Column("member", sa.Text))


def boosted(_candidate: Candidate) -> sa.ColumnElement[float]:
    strength = sa.select(BOOSTS.c.strength).where(BOOSTS.c.video == Video.key)
    return sa.func.coalesce(strength.scalar_subquery(), 0.0)


def picked(_viewer: Viewer, _quota: int) -> sa.Select[Any]:
    return sa.select(PICKS.c.video).order_by(PICKS.c.place)


def for_members(viewer: Viewer) -> sa.ColumnElement[bool]:
    is_member = sa.exists().where(MEMBERS.c.member == viewer.key)
    return sa.or_(Video.format.is_distinct_from("premium"), is_member)


BOOST = Signal("boost", 0, 1, boosted, "the shop recommends it")
PICK = Source("picks", 10, picked)
MEMBER = Filter("members", for_members, "it is for members")
SHOP = Registry(signals=[BOOST], sources=[PICK], filters=[MEMBER], name="shop")


def make_index(session: Session, column: sa.Column[Any]) -> None:
    """Make an index on a column; if it holds keys, for comparisons with our keys."""
    # On PostgreSQL our keys have the collation C, and an index serves one collation.
    is_text = session.get_bind().dialect.name == "postgresql" and isinstance(column.type, sa.Text)
    name, collation = column.table.name, ' COLLATE "C"' if is_text else ""
    session.execute(sa.text(f"CREATE INDEX {name}_ix ON {name} ({column.name}{collation})"))
