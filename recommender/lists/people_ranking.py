"""The statement of the list of people to follow: candidates, filters, score, order."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CTE, BigInteger, ColumnElement, Double, literal
from sqlalchemy.orm import aliased

from recommender.database.expressions import Statement, fence, json_texts, number, opaque
from recommender.formats.scalars import EARLIEST
from recommender.lists.people_signals import PEOPLE_SIGNALS, Facts
from recommender.lists.people_sources import PEOPLE_SOURCES, Circle, PeopleSource
from recommender.models import Affinity, User, Video
from recommender.models.tables import FOLLOWS, MUTED_CREATORS, SUGGESTIONS, USERS
from recommender.models.types import UtcDateTime
from recommender.ranking.audience import blocked_users
from recommender.ranking.history import none
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import score_key
from recommender.ranking.sources import SCAN_FACTOR
from recommender.ranking.viewer import Shape, Viewer, values_of


def day_of(as_of: datetime) -> datetime:
    """Return the time at which the day of the reading time began, in UTC."""
    return as_of.replace(hour=0, minute=0, second=0, microsecond=0)


def counted_since(request: FeedRequest) -> datetime:
    """Return the time up to which a suggestion that was shown no longer counts."""
    memory = timedelta(days=request.settings.suggestion_memory)
    return max(EARLIEST, request.as_of - memory)


def people_values(request: FeedRequest) -> dict[str, Any]:
    """Return the bound values of `ranked_people`, but for the position."""
    return {
        **values_of(request),
        "day": day_of(request.as_of),
        "counted_since": counted_since(request),
        "most_days": float(request.settings.suggestion_days),
    }


def ranked_people(shape: Shape, viewer: Viewer) -> Statement:
    """Return the list below a position: `after_worn`, `after_key` and `after_id` are bound values.

    The others are `people_values`.
    """
    circle = Circle.of(viewer, has_friends=shape.has_friends)
    valued = fence(_valued(shape, circle, _candidates(shape, circle))).subquery("valued")
    key = score_key({name: valued.c[name] for name in shape.signals}, viewer)
    scored = sa.select(*valued.c, key).subquery("scored")
    below = sa.select(*scored.c).where(_is_below(scored.c)).order_by(*_order(scored.c))
    page = below.limit(viewer.limit + literal(1, BigInteger())).subquery("page")
    creator = USERS.alias("shown_user")
    shown = sa.select(*page.c, creator.c.key.label("creator"))
    return shown.join(creator, creator.c.id == page.c.creator_id).order_by(*_order(page.c))


def _candidates(shape: Shape, circle: Circle) -> CTE:
    """Return the creators who may be suggested: `sources` is a sum of powers of 2."""
    scanned = sa.union_all(*(_scanned(circle, n, each) for n, each in enumerate(PEOPLE_SOURCES)))
    rows = scanned.subquery("scanned_people")
    newest_at = _newest_at(circle.viewer, User.id).label("newest_at")
    allowed = (
        sa.select(*rows.c, newest_at)
        .join(User, User.id == rows.c.creator_id)
        .where(*_may_be_suggested(shape, circle.viewer))
    )
    known = fence(allowed).subquery("allowed_people")
    best_first = known.c.value.desc(), known.c.creator_id.desc()
    place = sa.func.row_number().over(partition_by=known.c.source, order_by=best_first)
    placed = sa.select(*known.c, place.label("place")).where(known.c.newest_at.is_not(None))
    each = placed.subquery("placed_people")
    sources = sa.cast(sa.func.sum(each.c.source), Double).label("sources")
    columns = (each.c.creator_id, sources, sa.func.max(each.c.newest_at).label("newest_at"))
    within = sa.select(*columns).where(each.c.place <= each.c.quota)
    return within.group_by(each.c.creator_id).cte("candidates_of_people")


def _scanned(circle: Circle, number_of_source: int, source: PeopleSource) -> Statement:
    """Return the best creators of a source, some for each place of its quota."""
    rows = source.select(circle).subquery(f"{source.name}_people")
    power = literal(1 << number_of_source, BigInteger()).label("source")
    quota = literal(source.quota, BigInteger()).label("quota")
    known = sa.select(rows.c.creator_id, rows.c.value).where(rows.c.creator_id.is_not(None))
    best = known.order_by(rows.c.value.desc(), rows.c.creator_id.desc())
    top = best.limit(SCAN_FACTOR * source.quota).subquery(f"best_{source.name}_people")
    return sa.select(top.c.creator_id, top.c.value, power, quota)


def _newest_at(viewer: Viewer, creator_id: Any) -> sa.ScalarSelect[Any]:
    """Return the publication time of a creator's newest video for everyone; NULL for none."""
    video = aliased(Video)
    is_found = video.status == "published", video.published_at <= viewer.as_of
    newest = sa.select(sa.type_coerce(video.published_at, UtcDateTime()))
    newest = newest.where(video.creator_id == creator_id, *is_found)
    return newest.order_by(video.published_at.desc()).limit(1).scalar_subquery()


def _may_be_suggested(shape: Shape, viewer: Viewer) -> list[ColumnElement[bool]]:
    """Return the conditions that a user may be suggested to the viewer."""
    muted, suggestion = MUTED_CREATORS.c, SUGGESTIONS.c
    follows = sa.select(FOLLOWS.c.creator_id).where(
        FOLLOWS.c.user_id == viewer.user_id, FOLLOWS.c.creator_id == User.id
    )
    dismissed = sa.select(suggestion.creator_id).where(
        suggestion.user_id == viewer.user_id,
        suggestion.creator_id == User.id,
        suggestion.dismissed_at.is_not(None),
    )
    return [
        User.discoverable.is_(True),
        User.erased_at.is_(None),
        User.merged_into.is_(None),
        User.id.is_distinct_from(viewer.user_id),
        User.id.not_in(blocked_users(viewer)),
        User.id.not_in(sa.select(muted.creator_id).where(muted.user_id == viewer.user_id)),
        none(follows),
        none(dismissed),
        *_requested(shape, viewer),
    ]


def _requested(shape: Shape, viewer: Viewer) -> list[ColumnElement[bool]]:
    """Return the conditions of the host."""
    conditions = [] if shape.where is None else [shape.where]
    if shape.has_excluded:
        keys = json_texts(viewer.excluded_keys).table_valued("value", name="excluded_people")
        target = sa.func.coalesce(USERS.c.merged_into, USERS.c.id)
        excluded = sa.select(target).where(USERS.c.key.in_(sa.select(keys.c.value)))
        conditions.append(User.id.not_in(excluded))
    return conditions


def _valued(shape: Shape, circle: Circle, among: CTE) -> Statement:
    """Return the candidates with their signals, and whether they were suggested often enough."""
    viewer, row = circle.viewer, SUGGESTIONS.c
    followed, tastes, trends = circle.followed.c, circle.tastes.c, circle.trends.c
    creator_id = among.c.creator_id
    affinity = sa.and_(
        Affinity.user_id == opaque(viewer.user_id, creator_id),
        Affinity.subject == "creator",
        Affinity.subject_id == creator_id,
    )
    suggestion = sa.and_(
        row.user_id == opaque(viewer.user_id, creator_id), row.creator_id == creator_id
    )
    is_today = sa.case((row.shown_at >= sa.bindparam("day", type_=UtcDateTime()), 1), else_=0)
    is_counted = row.shown_at > sa.bindparam("counted_since", type_=UtcDateTime())
    days = sa.case((is_counted, sa.cast(row.shown - is_today, Double)), else_=number(0))
    facts = Facts(
        people=sa.func.coalesce(sa.cast(followed.people, Double), number(0)),
        affinity=Affinity.score,
        taste=sa.func.coalesce(tastes.weight, number(0)),
        trend=trends.trend,
        newest_at=among.c.newest_at,
        days=days,
        most_days=sa.bindparam("most_days", type_=Double()),
    )
    values = {signal.name: signal.expression(viewer, facts) for signal in PEOPLE_SIGNALS}
    is_worn = sa.case((facts.days >= facts.most_days, 1), else_=0).label("is_worn")
    is_spoken = sa.func.coalesce(trends.is_spoken, number(0)).label("is_spoken")
    labels = [values[name].label(name) for name in shape.signals]
    return (
        sa.select(creator_id, among.c.sources, is_worn, is_spoken, *labels)
        .select_from(among)
        .outerjoin(circle.followed, followed.creator_id == creator_id)
        .outerjoin(circle.tastes, tastes.creator_id == creator_id)
        .outerjoin(circle.trends, trends.creator_id == creator_id)
        .outerjoin(Affinity, affinity)
        .outerjoin(SUGGESTIONS, suggestion)
    )


def _is_below(row: Any) -> ColumnElement[bool]:
    """Return the condition that a creator comes after the position in the order of the list."""
    worn, key, row_id = (
        sa.bindparam(f"after_{name}", type_=BigInteger()) for name in ("worn", "key", "id")
    )
    is_lower = sa.tuple_(row.score_key, row.creator_id) < sa.tuple_(key, row_id)
    return sa.or_(row.is_worn > worn, sa.and_(row.is_worn == worn, is_lower))


def _order(row: Any) -> tuple[ColumnElement[Any], ...]:
    """Return the order of the list; who was suggested often enough comes last."""
    return row.is_worn, row.score_key.desc(), row.creator_id.desc()
