"""Collect the figures of a report; read-only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recommender.database import lookup
from recommender.database.expressions import named
from recommender.database.schema import check_schema
from recommender.database.transactions import translate_errors
from recommender.errors import InvalidValue, RecommenderError
from recommender.experiments.experiments import list_experiments
from recommender.experiments.report import ExperimentReport, experiment_report
from recommender.feed.for_you import for_you
from recommender.feed.values import FeedPage
from recommender.formats import scalars
from recommender.formats.scalars import LIST_SEPARATOR
from recommender.models import FeedSession, FeedVersion, ProfileVersion, ServedVideo, User, Video
from recommender.models.tables import LEARNING_STATE
from recommender.operations.audit import Audit, audit
from recommender.operations.doctor import diagnose
from recommender.ranking.profiles import profile_history
from recommender.reports.places import beginning_of, every_sum, page_times
from recommender.reports.report import Report
from recommender.reports.sample import sampled
from recommender.reports.values import (
    Day,
    Exposure,
    Outcomes,
    PageTimes,
    Positions,
    ProfileShare,
    SourceShare,
    share_of,
)
from recommender.settings import Settings
from recommender.telemetry import traced

DEFAULT_LENGTH = timedelta(days=30)
"""The time that a report covers by default."""

SHOWN_PAGES = 10
"""The number of pages that a report shows."""

MAX_LENGTH = timedelta(days=366)
"""The longest time of a report: it has a figure for each day."""

LORENZ_POINTS = 50
"""The number of points of a Lorenz curve, at most."""

MAX_EXPERIMENTS = 5
"""The number of experiments that a report shows, the latest first."""

MAX_AUDITED = 1_000_000
"""The number of places above which a report has no audit, which would take most of its time."""

SESSIONS_EACH = 20
"""The number of latest sessions that are read for each page shown: some users have several."""

Sums = Mapping[str, Sequence[Any]]
"""The rows of `every_sum`, by part."""


@traced
def report(
    engine: Engine,
    *,
    since: datetime | None = None,
    as_of: datetime | None = None,
    pages: int = SHOWN_PAGES,
    settings: Settings | None = None,
) -> Report:
    """Return the figures of a time, compared with the time of equal length before it.

    The log of places is read twice, and by `audit` if it has a million places at most. For many
    millions of places, allow minutes in PostgreSQL's `statement_timeout`. Nothing is written.

    Args:
        engine: a prepared engine.
        since: the start of the time, with an offset; None for 30 days before its end.
        as_of: the end of the time, with an offset; None for now.
        pages: the number of latest pages to show, with their reasons; 0 for none.
        settings: the settings that the pages were served with; None for the environment's.

    Raises:
        InvalidValue: a time is malformed or has no offset, or the time is empty or above 366 days.
        SchemaOutOfDate: the schema is not at the migration that this package needs.
        RecommenderError: the database reported an error.
    """
    until = scalars.now() if as_of is None else scalars.parse_named("as_of", scalars.time, as_of)
    since = until - DEFAULT_LENGTH if since is None else scalars.time(since)
    if not timedelta(0) < until - since <= MAX_LENGTH:
        raise InvalidValue("since: the time of a report is above 0 and at most 366 days")
    with translate_errors(), Session(engine) as session:
        check_schema(lookup.connection(session))
        return _collected(engine, session, since, until, pages, settings)


def _collected(
    engine: Engine,
    session: Session,
    since: datetime,
    until: datetime,
    pages: int,
    settings: Settings | None,
) -> Report:
    before = since - (until - since)
    sums = _sums(session, since, until, before)
    periods = {row.number: _outcomes(row) for row in sums["period"]}
    trials = {row.number: _outcomes(row) for row in sums["trial"]}
    now, then = periods.get(1, Outcomes()), periods.get(0, Outcomes())
    refreshed = lookup.run(session, sa.select(LEARNING_STATE.c.refreshed_at))
    return Report(
        since=since,
        until=until,
        before=before,
        now=now,
        then=then,
        days=_days(sums["day"], before),
        sources=_sources(sums["sources"]),
        trials=trials.get(1, Outcomes()),
        others=trials.get(0, Outcomes()),
        positions=_positions(sums["position"]),
        times=_times(session, since, until),
        experiments=_experiments(session, since, until),
        profiles=_profiles(session, sums["profile"]),
        exposure=_exposure(session, sums, since),
        sample=sampled(session, since, until, now.places),
        refreshed_at=refreshed.scalar_one(),
        history=tuple(profile_history(session)),
        audit=_audit(session, since, now.places + then.places, settings),
        findings=diagnose(engine),
        pages=_pages(session, since, until, pages, settings),
    )


def _sums(session: Session, since: datetime, until: datetime, before: datetime) -> Sums:
    sums: dict[str, list[Any]] = defaultdict(list)
    for row in lookup.run(session, every_sum(since, until, before)):
        sums[row.part].append(row)
    return sums


def _outcomes(row: Any) -> Outcomes:
    counts = {name: int(getattr(row, name) or 0) for name in _COUNTS}
    squares = (row.looked_squared, row.enjoyed_squared, row.enjoyed_looked)
    share = None
    if None not in squares:
        share = share_of(counts["users"], counts["looked"], counts["enjoyed"], squares)
    return Outcomes(**counts, share=share)


_COUNTS = ("places", "pages", "users", "judged", "looked", "enjoyed")


def _days(rows: Iterable[Any], before: datetime) -> tuple[Day, ...]:
    days = [Day(beginning_of(row.number, before), _outcomes(row)) for row in rows]
    return tuple(sorted(days, key=lambda day: day.day))


def _audit(
    session: Session, since: datetime, places: int, settings: Settings | None
) -> Audit | None:
    """Return the audit, or None if the log has too many places: an audit reads it many times."""
    return audit(session, since=since, settings=settings) if places <= MAX_AUDITED else None


def _times(session: Session, since: datetime, until: datetime) -> tuple[PageTimes, ...]:
    times = [
        PageTimes(
            beginning_of(row.number, since), *map(int, (row.pages, row.exhausted, row.milliseconds))
        )
        for row in lookup.run(session, page_times(since, until))
    ]
    return tuple(sorted(times, key=lambda each: each.day))


def _experiments(
    session: Session, since: datetime, until: datetime
) -> tuple[ExperimentReport, ...]:
    """Return the reports of the latest experiments that ran in a time."""
    found = [
        each
        for each in list_experiments(session)
        if each.started_at < until
        if each.stopped_at is None or each.stopped_at > since
    ]
    latest = sorted(found, key=lambda each: each.started_at, reverse=True)[:MAX_EXPERIMENTS]
    return tuple(experiment_report(session, each.name, as_of=until) for each in latest)


def _positions(rows: Iterable[Any]) -> tuple[Positions, ...]:
    groups = [Positions(row.number, _outcomes(row)) for row in rows]
    return tuple(sorted(groups, key=lambda group: group.first))


def _sources(rows: Iterable[Any]) -> tuple[SourceShare, ...]:
    """Return the sums of each source, from the sums of each list of sources."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * 4)
    for row in rows:
        names = row.name.split(LIST_SEPARATOR) if row.name else []
        alone = row.enjoyed if len(names) == 1 else 0
        for name in names:
            own = (row.places, row.looked, row.enjoyed, alone)
            sums[name] = [total + int(value) for total, value in zip(sums[name], own, strict=True)]
    shares = [SourceShare(name, *values) for name, values in sums.items()]
    return tuple(sorted(shares, key=lambda share: (-share.enjoyed, -share.places, share.source)))


def _profiles(session: Session, rows: Sequence[Any]) -> tuple[ProfileShare, ...]:
    columns = (ProfileVersion.id, ProfileVersion.name, ProfileVersion.version)
    versions = lookup.run(session, named(sa.select(*columns), "report"))
    labels = {row.id: f"{row.name}@{row.version}" for row in versions}
    named_feeds = lookup.run(session, named(sa.select(FeedVersion.id, FeedVersion.name), "report"))
    feeds = {row.id: row.name for row in named_feeds}
    shares = [
        ProfileShare(labels[row.number], feeds.get(row.other), _outcomes(row)) for row in rows
    ]
    return tuple(sorted(shares, key=lambda share: (-share.outcomes.places, share.profile)))


def _exposure(session: Session, sums: Sums, since: datetime) -> Exposure:
    is_published = Video.status == "published"
    published = sa.select(
        sa.func.count(), sa.func.count().filter(Video.published_at >= since)
    ).where(is_published)
    videos, new = lookup.run(session, named(published, "report")).one()
    served = {row.number: int(row.users) for row in sums["videos"]}
    groups = sorted((int(row.number), int(row.users)) for row in sums["creators"])
    gini, lorenz = _lorenz(groups)
    return Exposure(
        published=videos,
        served=served[0],
        new=new,
        new_served=served[2],
        tried=served[1],
        creators=sum(creators for _, creators in groups),
        gini=gini,
        lorenz=lorenz,
    )


def _lorenz(
    groups: Sequence[tuple[int, int]],
) -> tuple[float | None, tuple[tuple[float, float], ...]]:
    """Return the Gini coefficient and the Lorenz curve of groups with equal numbers of places."""
    creators = sum(count for _, count in groups)
    places = sum(each * count for each, count in groups)
    if not places:
        return None, ()
    points, below = [(0.0, 0.0)], 0.0
    done = [0, 0]
    for each, count in groups:
        done = [done[0] + count, done[1] + each * count]
        points.append((done[0] / creators, done[1] / places))
        (x_0, y_0), (x_1, y_1) = points[-2:]
        below += (x_1 - x_0) * (y_0 + y_1)
    # As a sample: equal shares give 0, and all places of one among n creators give (n - 1) / n.
    every = max(1, len(points) // LORENZ_POINTS)
    return 1 - below, (*points[:-1:every], points[-1])


def _pages(
    session: Session, since: datetime, until: datetime, count: int, settings: Settings | None
) -> tuple[FeedPage, ...]:
    """Return the first pages of the latest sessions, each of another user."""
    first = sa.and_(
        ServedVideo.user_id == FeedSession.user_id,
        ServedVideo.session == FeedSession.session,
        ServedVideo.position == 1,
    )
    sessions = (
        sa.select(User.key, FeedSession.session, ServedVideo.served_at)
        .join(FeedSession, FeedSession.user_id == User.id)
        .join(ServedVideo, first)
        .where(FeedSession.started_at >= since, FeedSession.started_at < until)
        .where(User.erased_at.is_(None), User.merged_into.is_(None))
        .order_by(FeedSession.started_at.desc(), FeedSession.session)
        .limit(SESSIONS_EACH * count)
    )
    latest: dict[str, Any] = {}
    for row in lookup.run(session, named(sessions, "report")) if count else ():
        latest.setdefault(row.key, row)
    found = [_page(session, row, settings) for row in list(latest.values())[:count]]
    return tuple(page for page in found if page is not None and page.items)


def _page(session: Session, row: Any, settings: Settings | None) -> FeedPage | None:
    """Return a page as it was served, with reasons; None if it can no longer be shown."""
    try:
        return for_you(
            session, row.key, session_id=row.session, as_of=row.served_at, record=False,
            reasons=True, settings=settings,
        )  # fmt: skip
    except RecommenderError:
        return None
