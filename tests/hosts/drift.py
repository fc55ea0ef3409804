"""Finds and repairs differences between a host's tables and the recommender's."""

from sqlalchemy import String, cast, except_, select

from recommender import models as ours
from tests.hosts import mirror as host

USERS = (
    select(cast(host.User.id, String).label("key"), host.User.language),
    select(ours.User.key, ours.User.language),
)
VIDEOS = (
    select(
        cast(host.Video.id, String).label("key"),
        cast(host.Video.owner_id, String).label("creator"),
        host.Video.status,
    ).where(host.Video.status != "removed"),
    select(ours.Video.key, ours.User.key.label("creator"), ours.Video.status)
    .join(ours.User, ours.User.id == ours.Video.creator_id)
    .where(ours.Video.status != "removed"),
)


def drift(session, theirs, mirrored):
    """Return the keys that the recommender lacks or has with other values, and those it has alone.

    EXCEPT compares whole rows, in one pass over both tables.
    """
    rows, others = theirs.subquery(), mirrored.subquery()
    stale = session.scalars(except_(select(rows), select(others))).all()
    extra = session.scalars(except_(select(others.c.key), select(rows.c.key))).all()
    return stale, extra


def repair(session):
    """Mirror stale users and videos, remove extra videos, and return what was found."""
    users, videos = drift(session, *USERS), drift(session, *VIDEOS)
    for model, (stale, _) in ((host.User, users), (host.Video, videos)):
        rows = select(model).where(model.id.in_([int(key) for key in stale]))
        host.mirror(session, session.scalars(rows).all())
    host.remove(session, videos[1])
    return users, videos
