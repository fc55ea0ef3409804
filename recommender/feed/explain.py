"""Explain why a video is shown or not, in words that a person would use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from recommender.database.expressions import Statement, named
from recommender.database.session import Session
from recommender.errors import UnknownVideo
from recommender.feed.items import CATALOGUE, item_of, outcomes_of, video_key
from recommender.feed.places import is_fillable
from recommender.feed.reasons import read_causes, reasons_of
from recommender.feed.resolve import resolve
from recommender.feed.statements import page_query
from recommender.feed.values import Explanation, FeedItem, Reason, Words, checked_words
from recommender.feed.wording import absence_of, sentence_of
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.models import (
    Block,
    EventRow,
    Hashtag,
    Interaction,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    RememberedVideo,
    Sound,
    User,
    Video,
    VideoCaption,
    VideoHashtag,
)
from recommender.ranking.additions import check_where
from recommender.ranking.request import DEFAULT_LIMIT, FeedRequest
from recommender.ranking.scoring import (
    ahead_query,
    explain_query,
    feed_query,
    sources_query,
)
from recommender.ranking.signals import Signal
from recommender.settings import Settings
from recommender.telemetry import traced

MAX_DISPLACING = 3


@traced
def explain(
    session: Session,
    user: AnyKey,
    video: AnyKey,
    *,
    profile: str | None = None,
    feed: str | None = None,
    limit: int = DEFAULT_LIMIT,
    as_of: datetime | None = None,
    where: ColumnElement[bool] | None = None,
    exclude: Iterable[AnyKey] = (),
    signals: Mapping[Signal, float] | None = None,
    words: Mapping[str, Words] | None = None,
    settings: Settings | None = None,
) -> Explanation:
    """Explain a video's rank in the viewer's feed, or its absence.

    Args:
        session: the caller's transaction.
        user: the viewer's key, known or not.
        video: the video's key.
        profile: ``name`` or ``name@version``; None for the one of the viewer's arm in an
            experiment, which is the control if it is interleaved, or of the feed, or the active
            one.
        feed: the name of a feed of `create_feed`; None for For You.
        limit: the limit of the page to explain, 1 to 500; a longer page reads more candidates.
        as_of: the reading time, with an offset; None for now.
        where: a condition of the host over `Video`, as in `for_you`; it is the filter ``where``.
        exclude: the keys of videos that the list leaves out, 10,000 at most; this is the filter
            ``excluded``.
        signals: the host's own signals with their weights, -100 to 100, added to the profile's.
        words: the words for each format in the sentence; another format is called a video.
        settings: the numbers that shape signals and sources; None for the environment's.

    Raises:
        InvalidValue: a value has the wrong form.
        UnknownFeed: there is no such feed, or it was deleted.
        UnknownProfile: the profile or version does not exist.
        UnknownVideo: the video does not exist.
    """
    request = resolve(
        session, user, profile, feed=feed, limit=limit, as_of=as_of, where=where, exclude=exclude,
        signals=signals, settings=settings,
    )  # fmt: skip
    check_where(request.where)
    return explain_in(session, request, video_key(video), checked_words(words))


def explain_in(
    session: Session, request: FeedRequest, video: str, words: Mapping[str, Words]
) -> Explanation:
    """Explain a video's rank in the feed of a resolved request, or its absence.

    Args:
        session: the caller's transaction.
        request: as `resolve` returns it.
        video: the video's key.
        words: the words for each format.

    Raises:
        UnknownVideo: the video does not exist.
    """
    page = page_query(explain_query(request, video), "explain")
    row = session.execute(_with_facts(page, request)).one_or_none()
    if row is None:
        raise UnknownVideo(f"there is no video {scalars.shown(video)}")
    filters = outcomes_of(row)
    request = _as_filled(session, request)
    failed = [outcome.name for outcome in filters if not outcome.passed]
    # The sources would tell a block from an audience.
    is_hidden = "available" in failed
    sources = () if is_hidden else _sources_of(session, request, row.video_id)
    is_shown = bool(sources) and not failed
    ahead = session.execute(ahead_query(request, row)).all() if is_shown else []
    item = item_of(request, 1 + len(ahead) if is_shown else 0, row, sources)
    if is_shown:
        causes = read_causes(session, request, [item.video_id])
        reasons = reasons_of(item, causes, request.sentences)
    else:
        reasons = (_absence(session, request, item, failed, _facts_of(row)),)
    return Explanation(
        request=request,
        item=item,
        filters=filters,
        rank=item.position or None,
        reason=(sentence_of if is_shown else absence_of)(item, reasons, words),
        reasons=reasons,
        displaced_by=tuple(row.key for row in ahead[:MAX_DISPLACING]),
    )


def _as_filled(session: Session, request: FeedRequest) -> FeedRequest:
    """Return the request as its page is ranked: a short page has more videos for followers."""
    if not is_fillable(request):
        return request
    is_short = len(session.execute(feed_query(request)).all()) < request.limit
    return replace(request, fills=is_short)


def _sources_of(session: Session, request: FeedRequest, video_id: int) -> tuple[str, ...]:
    if request.profile.is_reference:
        return CATALOGUE
    found = session.scalar(sources_query(request, video_id)) or 0
    return request.registry.source_names(found)


class Facts(NamedTuple):
    """The viewer's acts with a video, and their times.

    Attributes:
        converted_at, watched_at, seen_at, reported_at: the last `convert`, watch, impression and
            report in the log.
        served_at: the last time that the video was on a page for the viewer.
        last_at, not_interested_at, reports, conversions, plays, impressions: from the viewer's
            state.
        has_reacted: whether the viewer did more than see the video.
    """

    converted_at: datetime | None
    watched_at: datetime | None
    seen_at: datetime | None
    reported_at: datetime | None
    served_at: datetime | None
    last_at: datetime | None
    not_interested_at: datetime | None
    reports: int | None
    conversions: int | None
    plays: int | None
    impressions: int | None
    has_reacted: bool | None


def _facts_of(row: Any) -> Facts:
    return Facts(*(getattr(row, f"fact_{name}") for name in Facts._fields))


def _with_facts(page: Statement, request: FeedRequest) -> Statement:
    """Add the facts to a page's columns: in one statement, so that they fit the filters."""
    facts = {
        "converted_at": _latest(request, "convert"),
        "watched_at": _latest(request, "watch"),
        "seen_at": _latest(request, "impression"),
        "reported_at": _latest(request, "report"),
        "served_at": _served(request),
        "has_reacted": _has_reacted(),
        **{name: getattr(Interaction, name) for name in _FROM_STATE},
    }
    columns = [facts[name].label(f"fact_{name}") for name in Facts._fields]
    state = sa.and_(Interaction.user_id == request.user_id, Interaction.video_id == Video.id)
    return page.add_columns(*columns).outerjoin(Interaction, state)


_FROM_STATE = (
    "last_at", "not_interested_at", "reports", "conversions", "plays", "impressions",
)  # fmt: skip


def _has_reacted() -> sa.ColumnElement[bool]:
    """Return whether the user did more than see the video."""
    # Before `rec_served`, a served page that was pruned left a state in which nothing is set.
    times = (
        "liked_at", "unliked_at", "saved_at", "unsaved_at", "not_interested_at", "interested_at",
    )  # fmt: skip
    return sa.or_(
        *(getattr(Interaction, name).is_not(None) for name in times),
        *(
            getattr(Interaction, name) > 0
            for name in ("shares", "comments", "conversions", "reports")
        ),
    )


def _latest(request: FeedRequest, kind: str) -> sa.ScalarSelect[datetime]:
    latest = sa.select(sa.func.max(EventRow.at)).where(
        EventRow.user_id == request.user_id, EventRow.video_id == Video.id, EventRow.kind == kind
    )
    return latest.correlate(Video).scalar_subquery()


def _served(request: FeedRequest) -> sa.ScalarSelect[datetime]:
    served = RememberedVideo
    latest = sa.select(sa.func.max(served.last_at)).where(
        served.user_id == request.user_id,
        served.memory == request.memory,
        served.video_id == Video.id,
    )
    return latest.correlate(Video).scalar_subquery()


def _absence(
    session: Session, request: FeedRequest, item: FeedItem, failed: Sequence[str], facts: Facts
) -> Reason:
    """Return the reason why a video is left out: the first filter that it fails, or its score.

    Args:
        session: the caller's transaction.
        request: the request.
        item: the video.
        failed: the names of the filters that it fails.
        facts: what the viewer did with it.
    """
    if not failed:
        is_other = bool(request.formats) and item.format not in request.formats
        return Reason("other_format" if is_other else "outranked")
    if failed[0] in MUTES:
        return _mute_reason(session, request, item.video_id, failed[0])
    if failed[0] == "not_in_future":
        return Reason(failed[0], at=item.published_at)
    if failed[0] == "not_rejected":
        return _rejection(facts)
    if failed[0] == "not_seen":
        return _when_seen(facts)
    return Reason(failed[0], text=request.registry.reason_against(failed[0]))


def _rejection(facts: Facts) -> Reason:
    if facts.reports or facts.not_interested_at is None:
        return Reason("reported", at=facts.reported_at or facts.last_at)
    return Reason("not_interested", at=facts.not_interested_at)


def _when_seen(facts: Facts) -> Reason:
    # If the log was pruned, only the state is left: what the viewer did, and the last time they
    # did anything with the video.
    times = {
        "converted": facts.converted_at or (facts.conversions and facts.last_at),
        "watched": facts.watched_at or (facts.plays and facts.last_at),
        "seen": facts.seen_at or (facts.impressions and facts.last_at),
        "reacted": facts.has_reacted and facts.last_at,
        "served": facts.served_at or facts.last_at,
    }
    return next(Reason(kind, at=moment) for kind, moment in times.items() if moment)


def _mute_reason(session: Session, request: FeedRequest, video_id: int, name: str) -> Reason:
    """Return the latest mute that makes a filter fail; just the filter if it was removed since."""
    row = session.execute(mute_query(request.user_id, video_id, name)).first()
    return Reason(name) if row is None else Reason(row.kind, row.subject.strip(), row.muted_at)


def mute_query(user_id: int | None, video_id: int, name: str) -> Statement:
    """Return the mutes that make a filter fail for a video, the latest first.

    Args:
        user_id: the viewer's row id.
        video_id: the video's row id.
        name: the name of a filter in `MUTES`.
    """
    rows = sa.union_all(*(mute.of(user_id, video_id) for mute in MUTES[name])).subquery("rows")
    return named(sa.select(rows).order_by(rows.c.muted_at.desc(), rows.c.subject), "mutes")


class Mute(NamedTuple):
    """The way in which a table of mutes or blocks hides a video.

    Attributes:
        kind: the kind of reason.
        table: the table of mutes.
        subject: the column that names what was muted.
        joins: the tables up to `Video`, each with its condition.
        at: the name of the column of the time.
    """

    kind: str
    table: Any
    subject: Any
    joins: tuple[tuple[Any, ColumnElement[bool]], ...]
    at: str = "muted_at"

    def of(self, user_id: int | None, video_id: int) -> Statement:
        """Return the viewer's mutes that hide the video."""
        kind, subject = sa.literal(self.kind).label("kind"), self.subject.label("subject")
        moment = getattr(self.table, self.at).label("muted_at")
        rows = sa.select(kind, subject, moment).select_from(self.table)
        for joined, condition in self.joins:
            rows = rows.join(joined, condition)
        return rows.where(self.table.user_id == user_id, Video.id == video_id)


_USES_SOUND = (Video, Video.sound_id == Sound.id)

MUTES: Mapping[str, tuple[Mute, ...]] = {
    "creator_not_blocked": (
        Mute("blocked_creator", Block, User.key, (
            (User, sa.and_(User.id == Block.other_id, Block.direction == "by_me")),
            (Video, Video.creator_id == User.id),
        ), at="blocked_at"),
    ),
    "creator_not_muted": (
        Mute("muted_creator", MutedCreator, User.key, (
            (User, User.id == MutedCreator.creator_id), (Video, Video.creator_id == User.id),
        )),
    ),
    "sound_not_muted": (
        Mute("muted_sound", MutedSound, Sound.key, (
            (Sound, Sound.id == MutedSound.sound_id), _USES_SOUND,
        )),
        Mute("muted_sound_creator", MutedCreator, User.key, (
            (User, User.id == MutedCreator.creator_id), (Sound, Sound.creator_id == User.id),
            _USES_SOUND,
        )),
    ),
    "hashtag_not_muted": (
        Mute("muted_hashtag", MutedHashtag, Hashtag.name, (
            (Hashtag, Hashtag.id == MutedHashtag.hashtag_id),
            (VideoHashtag, VideoHashtag.hashtag_id == Hashtag.id),
            (Video, Video.id == VideoHashtag.video_id),
        )),
    ),
    "keyword_not_muted": (
        Mute("muted_keyword", MutedKeyword, MutedKeyword.keyword, (
            (VideoCaption, sa.func.replace(VideoCaption.words, MutedKeyword.keyword, "")
                != VideoCaption.words),
            (Video, Video.id == VideoCaption.video_id),
        )),
    ),
}  # fmt: skip
"""The mutes and blocks that make a filter fail. The user is not told who blocked them."""
