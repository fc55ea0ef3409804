"""Videos that are like some given ones: more like this.

Candidates come from the neighbours of the given videos, the seeds, in both directions, from their
hashtags, sounds and creators, and from what is trending. A profile weighs them, by default
`similar`. Other videos for everyone follow, the newest first, so that the list ends only with the
catalogue. Nothing is recorded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import BigInteger, ColumnElement

from recommender.database import lookup
from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.errors import InvalidValue
from recommender.feed.cursors import decoded, encoded, foreign, time_of
from recommender.feed.items import item_of, video_ids, video_key
from recommender.feed.resolve import reading_time, resolve
from recommender.feed.statements import (
    cached_statement,
    page_query,
    read_scan_end,
    run_cached,
)
from recommender.feed.values import FeedItem, FeedPage, Words, checked_words
from recommender.formats.scalars import EARLIEST, LARGEST_ID, LATEST, UNDATED, AnyKey
from recommender.lists.similar_reasons import with_reasons
from recommender.models import Video
from recommender.models.types import UtcDateTime, microseconds
from recommender.ranking.additions import kept_shape
from recommender.ranking.candidates import candidates, newest_scanned, scanned_after
from recommender.ranking.filters import allowed, keyword_not_muted, listed, remaining
from recommender.ranking.request import (
    DEFAULT_LIMIT,
    SIMILAR,
    FeedRequest,
    Profile,
    ScanPosition,
)
from recommender.ranking.scoring import scored
from recommender.ranking.seeds import MAX_SEEDS
from recommender.ranking.signals import Signal
from recommender.ranking.similar import NEWEST
from recommender.ranking.viewer import Shape, Viewer, values_of
from recommender.settings import Settings
from recommender.telemetry import traced

LARGEST_KEY = 2**63 - 1

_FORM = ">q?qqq"


class SimilarPosition(NamedTuple):
    """The position of a video in the list, as a cursor holds it.

    Attributes:
        as_of: the reading time of the list.
        is_rest: whether the video was found by no source.
        score_key: its score in whole billionths.
        published_at: its publication time.
        video_id: its row id.
    """

    as_of: datetime
    is_rest: bool
    score_key: int
    published_at: datetime
    video_id: int

    @property
    def cursor(self) -> str:
        """The text that asks for the videos below."""
        times = microseconds(self.as_of), microseconds(self.published_at)
        packed = struct.pack(_FORM, times[0], self.is_rest, self.score_key, times[1], self.video_id)
        return encoded(packed)

    @classmethod
    def of(cls, cursor: str) -> SimilarPosition:
        """Return the position that a cursor holds.

        Raises:
            InvalidCursor: the text is not a cursor of this list.
        """
        try:
            as_of, is_rest, key, published_at, video_id = struct.unpack(_FORM, decoded(cursor))
            position = cls(time_of(as_of), is_rest, key, time_of(published_at), video_id)
        except (struct.error, ValueError, OverflowError):
            raise foreign(cursor) from None
        if position.cursor != cursor or not position._is_possible():
            raise foreign(cursor)
        return position

    def _is_possible(self) -> bool:
        """Return whether a video can have the position."""
        are_times = EARLIEST <= self.as_of <= LATEST and UNDATED <= self.published_at <= LATEST
        return are_times and 1 <= self.video_id <= LARGEST_ID

    def values(self) -> dict[str, Any]:
        """Return the bound values of `_is_below`."""
        return {f"after_{name}": value for name, value in self._asdict().items()}


@traced
def similar(
    session: Session,
    videos: AnyKey | Iterable[AnyKey],
    *,
    user: AnyKey | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    profile: str | Profile = SIMILAR,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[AnyKey] = (),
    signals: Mapping[Signal, float] | None = None,
    settings: Settings | None = None,
    reasons: bool = False,
    words: Mapping[str, Words] | None = None,
) -> FeedPage:
    """Return the videos that are most like a video, or like several together: three statements.

    Without a user nothing personal is read. With one, all filters of For You apply, and the order
    leans to their taste as far as the profile weighs it. It writes nothing. The same request gives
    the same list while nothing changes. A page is short only if no more videos are left
    (`exhausted`), or if few of the newest videos fulfil `where` or a registered filter; it is then
    `cut_short`, its cursor goes on, and it takes one statement more.

    Args:
        session: the caller's transaction.
        videos: the key of a video, or the keys of 1 to 50.
        user: the viewer's key, known or not; None for no viewer.
        limit: the maximum number of videos, 1 to 500.
        cursor: the cursor of the page before; None or empty for the first page. Pass the other
            arguments again with it.
        profile: ``name`` or ``name@version``, or a `Profile`.
        as_of: the reading time, with an offset; None for now. A cursor keeps the one of the first
            page, but at most this one.
        where: a condition of the host over `Video`; use EXISTS for the host's tables.
        exclude: the keys of videos to leave out, 10,000 at most.
        signals: the host's own signals with their weights, -100 to 100, added to the profile's.
        settings: the numbers that shape signals and sources; None for the environment's.
        reasons: whether the items tell their reasons: one statement more, two for a known user.
        words: the words for each format in these sentences; another format is called a video.

    Raises:
        InvalidValue: a value has the wrong form.
        InvalidCursor: the cursor does not belong to this list.
        UnknownProfile: the profile or version does not exist.
        UnknownVideo: one of the videos does not exist.
    """
    after = SimilarPosition.of(cursor) if cursor else None
    own_words, seeds = checked_words(words), _seeds(videos)
    request = resolve(
        session, user, profile, limit=limit, as_of=_read_at(after, as_of), where=where,
        exclude=exclude, signals=signals, settings=settings,
    )  # fmt: skip
    if request.profile.is_reference:
        raise InvalidValue(f"profile: {request.profile.name} has no candidates: choose another")
    video_ids(session, seeds)
    request = replace(request, seeds=seeds, session=None, scan_after=_scan_after(after))
    page = _page(session, request, after)
    return with_reasons(session, request, page, own_words) if reasons else page


def _read_at(after: SimilarPosition | None, as_of: datetime | None) -> datetime:
    """Return the reading time of a page.

    A cursor is text of a client: it may not ask for what is published later.
    """
    latest = reading_time(as_of)
    return latest if after is None else min(after.as_of, latest)


def _seeds(videos: AnyKey | Iterable[AnyKey]) -> tuple[str, ...]:
    """Return the keys of the seeds, each once; `InvalidValue` unless there are 1 to 50."""
    listed = [videos] if isinstance(videos, str) or not isinstance(videos, Iterable) else videos
    keys = tuple(dict.fromkeys(map(video_key, listed)))
    if not 1 <= len(keys) <= MAX_SEEDS:
        raise InvalidValue(f"videos: {len(keys):,} are given, not 1 to {MAX_SEEDS}")
    return keys


def _scan_after(after: SimilarPosition | None) -> ScanPosition | None:
    """Return the position after which the newest videos are looked at."""
    if after is None or not after.is_rest:
        return None
    return ScanPosition(after.published_at, after.video_id)


def _page(session: Session, request: FeedRequest, after: SimilarPosition | None) -> FeedPage:
    rows = _rows(session, request, after or top_position(request))
    shown = rows[: request.limit]
    items = tuple(_item(request, place, row) for place, row in enumerate(shown, start=1))
    if len(rows) > len(shown):
        return FeedPage(request, items, cursor=_position(request, shown[-1]).cursor)
    end = read_scan_end(session, request) if request.has_conditions else None
    if end is None:
        return FeedPage(request, items, exhausted=True)
    position = SimilarPosition(request.as_of, True, 0, *end)  # noqa: FBT003 - `is_rest`
    return FeedPage(request, items, cursor=position.cursor, cut_short=True)


def top_position(request: FeedRequest) -> SimilarPosition:
    """Return the position above every video."""
    top = (LARGEST_KEY, request.as_of, LARGEST_ID)
    return SimilarPosition(request.as_of, False, *top)  # noqa: FBT003 - `is_rest`


def _position(request: FeedRequest, row: Any) -> SimilarPosition:
    published_at = row.page_published_at or UNDATED
    return SimilarPosition(
        request.as_of, bool(row.is_rest), row.score_key, published_at, row.video_id
    )


def _item(request: FeedRequest, position: int, row: Any) -> FeedItem:
    every = enumerate(request.registry.similar_sources)
    sources = (each.name for bit, each in every if int(row.sources) >> bit & 1)
    return item_of(request, position, row, tuple(sources) or (NEWEST,))


def _rows(session: Session, request: FeedRequest, after: SimilarPosition) -> Sequence[Any]:
    """Read the videos of a page, and one more if there is one: one statement."""
    connection = lookup.connection(session)
    shape = Shape.of(request)
    kept = kept_shape(shape)
    if kept is None:
        whole = shown_similar(ranked_similar(shape, Viewer.of(request)), SIMILAR)
        return connection.execute(whole, after.values()).all()
    statement = cached_statement(ranked_similar, shown_similar, SIMILAR, kept.shape)
    values = {**values_of(request), **kept.values, **after.values()}
    return run_cached(connection, statement, values).all()


def shown_similar(ranked: Statement, name: str) -> Statement:
    """Return the ranked videos with the columns that a page shows, in the order of the list."""
    shown = page_query(ranked, name)
    return shown.order_by(None).order_by(*_order(shown.selected_columns))


def ranked_similar(shape: Shape, viewer: Viewer) -> Statement:
    """Return the list below a position: `SimilarPosition.values` are bound values."""
    among = _among(shape, viewer)
    rows = scored(shape, viewer, among, unseen=True)
    names = rows.selected_columns.keys()
    # Not from `among`: PostgreSQL would compare every candidate with every other.
    is_found = rows.selected_columns.sources.element != 0
    is_rest = sa.case((is_found, 0), else_=sa.literal(1, BigInteger())).label("is_rest")
    rows = rows.add_columns(is_rest, Video.published_at.label("page_published_at"))
    allowed_rows = rows.where(*remaining(shape, viewer), keyword_not_muted(viewer))
    ranked = allowed_rows.subquery("ranked_similar")
    columns = (ranked.c[name] for name in (*names, "is_rest"))
    below = sa.select(*columns).where(_is_below(ranked.c)).order_by(*_order(ranked.c))
    return below.limit(viewer.limit + sa.literal(1, BigInteger()))


def _among(shape: Shape, viewer: Viewer) -> sa.CTE:
    """Return the candidates, and without a source the newest other videos below the position."""
    found = candidates(shape, viewer)
    is_other = Video.id.not_in(sa.select(found.c.video_id))
    conditions = [is_other, *allowed(shape, viewer)]
    newest = (
        sa.select(Video.id.label("video_id"))
        .where(listed(viewer), scanned_after(viewer), *conditions)
        .order_by(Video.published_at.desc(), Video.id.desc())
    )
    passing = newest_scanned(viewer, conditions) if shape.has_conditions else newest
    rest = passing.limit(viewer.limit + sa.literal(1, BigInteger())).subquery("rest")
    no_source: ColumnElement[float] = sa.literal(0.0, sa.Double())
    both = sa.union_all(
        sa.select(found.c.video_id, found.c.sources),
        sa.select(rest.c.video_id, no_source.label("sources")),
    )
    return both.cte("among")


def _is_below(row: Any) -> ColumnElement[bool]:
    """Return the condition that a video comes after the position in the order of the list."""
    after = {
        name: sa.bindparam(f"after_{name}", type_=type_)
        for name, type_ in (
            ("is_rest", sa.Boolean()), ("score_key", BigInteger()),
            ("published_at", UtcDateTime()), ("video_id", BigInteger()),
        )
    }  # fmt: skip
    place = sa.tuple_(row.page_published_at, row.video_id)
    after_place = sa.tuple_(after["published_at"], after["video_id"])
    key, after_key = row.score_key, after["score_key"]
    is_lower = sa.or_(key < after_key, sa.and_(key == after_key, place < after_place))
    found = sa.and_(row.is_rest == 0, ~after["is_rest"], is_lower)
    return sa.or_(found, sa.and_(row.is_rest == 1, sa.or_(~after["is_rest"], place < after_place)))


def _order(row: Any) -> tuple[ColumnElement[Any], ...]:
    """Return the order of the list: found videos by score, then the others, the newest first."""
    key = sa.case((row.is_rest == 0, row.score_key), else_=sa.literal(0, BigInteger()))
    return row.is_rest, key.desc(), row.page_published_at.desc(), row.video_id.desc()
