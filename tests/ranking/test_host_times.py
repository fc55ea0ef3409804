"""Times of the application beside the reading time: equal on both databases, or refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import recommender
from recommender import Candidate, InvalidValue, Registry, Signal, Source, as_datetime
from recommender.database.registered import OPTION
from recommender.models import Video
from recommender.ranking.viewer import Viewer
from tests.support.kinds import only_sqlite
from tests.support.worlds import at, make_user, make_video, preview

TABLE = sa.Table(
    "host_picks",
    sa.MetaData(),
    sa.Column("video", sa.Text, primary_key=True),
    sa.Column("since", sa.DateTime(timezone=True)),
    sa.Column("day", sa.Date),
    sa.Column("epoch", sa.BigInteger),
)
picked_at = TABLE.c.since


def picks(*conditions: Any) -> Registry:
    def select(viewer: Viewer, _quota: int) -> sa.Select[Any]:
        wanted = [condition(viewer) for condition in conditions]
        return sa.select(TABLE.c.video).where(*wanted).order_by(picked_at)

    return Registry(sources=[Source("picks", 50, select)])


def test_times_of_the_application_are_compared_alike_on_both_databases(session: Session) -> None:
    """The times of picks are around the reading time, and a week before, to the microsecond."""
    TABLE.create(session.connection())
    make_user(session)
    week, moment = timedelta(days=7), at().replace(microsecond=123_456)
    step = timedelta(microseconds=1)
    moments = [moment - week - step, moment - week, moment - step, moment, moment + step]
    for number, since in enumerate(moments):
        make_video(session, f"v{number}", published_at=moment - week)
        row = {"since": since, "day": since.date(), "epoch": int(since.timestamp())}
        session.execute(TABLE.insert().values(video=f"v{number}", **row))
    for conditions, found in (
        ([lambda v: picked_at <= as_datetime(v.as_of)], "0123"),
        ([lambda v: as_datetime(v.as_of, -week) >= TABLE.c.day], "01"),
        ([lambda v: sa.extract("epoch", as_datetime(v.as_of, -week)) >= TABLE.c.epoch], "01"),
        ([lambda v: as_datetime(v.as_of, -week) < picked_at], "234"),
        ([lambda v: picked_at.between(as_datetime(v.as_of, -week), as_datetime(v.as_of))], "123"),
        ([lambda _: sa.exists().where(Video.key == TABLE.c.video,
                                      as_datetime(Video.published_at) >= picked_at)], "01"),
    ):  # fmt: skip
        session.connection().execution_options(**{OPTION: picks(*conditions)})
        items = preview(session, as_of=moment, limit=10).items
        assert {i.video for i in items if "picks" in i.sources} == {f"v{n}" for n in found}


def test_a_comparison_that_would_differ_is_refused_when_the_registry_is_made() -> None:
    for condition in (
        lambda v: picked_at <= v.as_of,
        lambda v: v.as_of > TABLE.c.day,
        lambda v: v.as_of > TABLE.c.epoch,
        lambda v: picked_at.between(datetime(2026, 1, 1, tzinfo=UTC), v.as_of),
        lambda _: Video.published_at == picked_at,
        lambda v: Video.published_at > v.as_of - timedelta(days=7),
        lambda v: sa.exists().where(TABLE.c.video == Video.key, picked_at < v.as_of),
    ):
        with pytest.raises(InvalidValue, match=r"^source picks: has a time of yours and one of"):
            picks(condition)
    picks(
        lambda v: Video.published_at < v.as_of,
        lambda _: picked_at < datetime(2026, 1, 1, tzinfo=UTC),
    )


@only_sqlite
def test_sql_of_one_request_is_refused_too(session: Session) -> None:
    def recent(candidate: Candidate) -> sa.ColumnElement[float]:
        return sa.case((sa.exists().where(picked_at <= candidate.viewer.as_of), 1.0), else_=0.0)

    make_user(session)
    for options, name in (
        ({"where": sa.exists().where(picked_at > Video.published_at)}, "where"),
        ({"signals": {Signal("recent", 0, 1, recent): 1.0}}, "signal recent"),
    ):
        with pytest.raises(InvalidValue, match=f"^{name}: has a time of yours and one of"):
            preview(session, **options)


def test_only_times_of_this_package_are_converted() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for moment, plus in ((picked_at, timedelta(0)), (now, timedelta(0)), (Video.published_at, 7)):
        with pytest.raises(InvalidValue, match=r"^as_datetime: .* is no time"):
            recommender.as_datetime(moment, plus)  # type: ignore[arg-type]
