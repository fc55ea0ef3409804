"""What the shop adds to its feed: local videos first, editors' picks, and a rule for members."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from recommender import Filter, Registry, Signal, Source, as_datetime
from recommender.models import Video


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "shop_customers"
    id: Mapped[str] = mapped_column(primary_key=True)  # the recommender knows it as the user's key
    email: Mapped[str]
    town: Mapped[str | None]
    is_member: Mapped[bool] = mapped_column(default=False)


class Clip(Base):
    __tablename__ = "shop_clips"
    id: Mapped[str] = mapped_column(primary_key=True)  # and this one as the video's
    town: Mapped[str | None]
    members_only: Mapped[bool] = mapped_column(default=False)


class Pick(Base):
    __tablename__ = "shop_picks"
    clip_id: Mapped[str] = mapped_column(sa.ForeignKey(Clip.id), primary_key=True)
    since: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), index=True)


def local(candidate):
    town = sa.select(Customer.town).where(Customer.id == candidate.viewer.key).scalar_subquery()
    return sa.case((sa.exists().where(Clip.id == Video.key, Clip.town == town), 1.0), else_=0.0)


def latest_picks(viewer, _quota):
    is_due = Pick.since <= as_datetime(viewer.as_of)  # an evaluation reads the past
    return sa.select(Pick.clip_id).where(is_due).order_by(Pick.since.desc(), Pick.clip_id)


def for_members(viewer):
    is_reserved = sa.exists().where(Clip.id == Video.key, Clip.members_only)
    is_member = sa.exists().where(Customer.id == viewer.key, Customer.is_member)
    return sa.or_(~is_reserved, is_member)


registry = Registry(
    signals=[Signal("local", 0, 1, local, "it was made in your town")],
    sources=[Source("picks", 20, latest_picks)],
    filters=[Filter("members", for_members, "it is for members")],
    name="the shop",
)
