"""Explain why a video is shown or not, in words that a person would use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement

from recommender.database.expressions import Statement
from recommender.database.session import Session
from recommender.errors import InvalidValue, UnknownVideo
from recommender.feed.items import CATALOGUE, item_of, outcomes_of, video_key
from recommender.feed.reasons import leading_signals
from recommender.feed.resolve import resolve
from recommender.feed.statements import page_query
from recommender.feed.values import Explanation, FeedItem, FilterOutcome, Words
from recommender.formats import scalars
from recommender.formats.scalars import AnyKey
from recommender.models import (
    Affinity,
    EventRow,
    Hashtag,
    Interaction,
    ServedVideo,
    Video,
    VideoHashtag,
)
from recommender.ranking.additions import check_where
from recommender.ranking.candidates import source_names
from recommender.ranking.filters import FILTERS, HOST_FILTERS
from recommender.ranking.request import DEFAULT_LIMIT, FeedRequest
from recommender.ranking.scoring import (
    ahead_query,
    explain_query,
    sources_query,
)
from recommender.ranking.signals import Signal
from recommender.settings import Settings

MAX_DISPLACING = 3

VIDEO_WORDS = Words()


def explain(
    session: Session,
    user: AnyKey,
    video: AnyKey,
    *,
    profile: str | None = None,
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
        profile: ``name`` or ``name@version``; None for the active one.
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
        UnknownProfile: the profile or version does not exist.
        UnknownVideo: the video does not exist.
    """
    request = resolve(
        session, user, profile, limit=limit, as_of=as_of, where=where, exclude=exclude,
        signals=signals, settings=settings,
    )  # fmt: skip
    check_where(request.where)
    return _explanation(session, request, video_key(video), _checked_words(words or {}))


def _checked_words(words: Mapping[str, Words]) -> Mapping[str, Words]:
    if not isinstance(words, Mapping):
        raise InvalidValue(f"words: {scalars.shown(words)} is no mapping of formats")
    if odd := [name for name, each in words.items() if not isinstance(each, Words)]:
        raise InvalidValue(f"words: {scalars.shown(words[odd[0]])} is no Words")
    return words


def _explanation(
    session: Session, request: FeedRequest, video: str, words: Mapping[str, Words]
) -> Explanation:
    page = page_query(explain_query(request, video), "explain")
    row = session.execute(_with_facts(page, request)).one_or_none()
    if row is None:
        raise UnknownVideo(f"there is no video {scalars.shown(video)}")
    filters = outcomes_of(row)
    sources = _sources_of(session, request, row.video_id)
    is_shown = bool(sources) and all(outcome.passed for outcome in filters)
    ahead = session.execute(ahead_query(request, row)).all() if is_shown else []
    item = item_of(request, 1 + len(ahead) if is_shown else 0, row, sources)
    facts = Facts(*(getattr(row, f"fact_{name}") for name in Facts._fields))
    return Explanation(
        request=request,
        item=item,
        filters=filters,
        rank=item.position or None,
        reason=reason_of(item, filters, facts, words.get(item.format or "", VIDEO_WORDS)),
        displaced_by=tuple(row.key for row in ahead[:MAX_DISPLACING]),
    )


def _sources_of(session: Session, request: FeedRequest, video_id: int) -> tuple[str, ...]:
    if request.profile.is_reference:
        return CATALOGUE
    return source_names(session.scalar(sources_query(request, video_id)) or 0)


MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip

MAX_REASONS = 3


class Facts(NamedTuple):
    """What a sentence about a video may name.

    Attributes:
        hashtag: the viewer's favourite hashtag of the video, None if there is none.
        converted_at, watched_at, seen_at: the last `convert`, watch and impression in the log.
        served_at: the last time that the video was on a page for the viewer.
        last_at, not_interested_at, reports, conversions, plays, impressions: from the viewer's
            state.
        has_reacted: whether the viewer did more than see the video.
    """

    hashtag: str | None
    converted_at: datetime | None
    watched_at: datetime | None
    seen_at: datetime | None
    served_at: datetime | None
    last_at: datetime | None
    not_interested_at: datetime | None
    reports: int | None
    conversions: int | None
    plays: int | None
    impressions: int | None
    has_reacted: bool | None


def _with_facts(page: Statement, request: FeedRequest) -> Statement:
    """Add the facts to a page's columns: in one statement, so that they fit the filters."""
    facts = {
        "hashtag": _favourite(request),
        "converted_at": _latest(request, "convert"),
        "watched_at": _latest(request, "watch"),
        "seen_at": _latest(request, "impression"),
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


def _favourite(request: FeedRequest) -> sa.ScalarSelect[str]:
    """Return the viewer's favourite hashtag of a video, or NULL."""
    return (
        sa.select(Hashtag.name)
        .join(VideoHashtag, VideoHashtag.hashtag_id == Hashtag.id)
        .join(Affinity, Affinity.subject_id == Hashtag.id)
        .where(
            VideoHashtag.video_id == Video.id,
            Affinity.user_id == request.user_id,
            Affinity.subject == "hashtag",
            Affinity.score > 0,
        )
        .order_by(Affinity.score.desc(), Hashtag.name)
        .limit(1)
        .correlate(Video)
        .scalar_subquery()
    )


def _has_reacted() -> sa.ColumnElement[bool]:
    """Return whether the user did more than see the video."""
    # A served page that was pruned leaves a state in which nothing is set.
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
    latest = sa.select(sa.func.max(ServedVideo.served_at)).where(
        ServedVideo.user_id == request.user_id, ServedVideo.video_id == Video.id
    )
    return latest.correlate(Video).scalar_subquery()


def reason_of(
    item: FeedItem, filters: Sequence[FilterOutcome], facts: Facts, words: Words = VIDEO_WORDS
) -> str:
    """Return one sentence that explains a video.

    Args:
        item: the video with its signals; its sources are empty if no source found it.
        filters: every filter with its outcome.
        facts: what the sentence may name.
        words: the words for its format.
    """
    otherwise = {**{rule.name: rule.otherwise for rule in FILTERS}, **HOST_FILTERS}
    for outcome in filters:
        if not outcome.passed:
            cause = _dated_cause(outcome.name, facts, words) or otherwise[outcome.name]
            return f"Not shown: {cause}."
    if not item.sources:
        return f"Not shown: other {words.plural} came before it wherever candidates come from."
    return f"Shown because {because(item, facts.hashtag, words)}."


def _dated_cause(name: str, facts: Facts, words: Words) -> str | None:
    """Return what the viewer did to make a filter fail; None if the filter needs no date."""
    if name == "not_rejected":
        if facts.reports or facts.not_interested_at is None:
            return "you reported it"
        return f"you said on {_day(facts.not_interested_at)} that it does not interest you"
    return _seen_when(facts, words) if name == "not_seen" else None


def _seen_when(facts: Facts, words: Words) -> str:
    # If the log was pruned, only the state is left: what the viewer did, and the last time they
    # did anything with the video.
    causes = {
        f"you {words.converted} it": facts.converted_at or (facts.conversions and facts.last_at),
        f"you {words.watched} it": facts.watched_at or (facts.plays and facts.last_at),
        "you saw it": facts.seen_at or (facts.impressions and facts.last_at),
        "you reacted to it": facts.has_reacted and facts.last_at,
        "it was on a page for you": facts.served_at or facts.last_at,
    }
    cause, moment = next((cause, moment) for cause, moment in causes.items() if moment)
    return f"{cause} on {_day(moment)}"


def _day(moment: datetime) -> str:
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}"


def because(item: FeedItem, hashtag: str | None = None, words: Words = VIDEO_WORDS) -> str:
    """Return up to three reasons for a video, the strongest first, as the end of a sentence.

    `leading_signals` gives their order.

    Args:
        item: the video with its signals.
        hashtag: the viewer's favourite hashtag of the video, None if there is none.
        words: the words for its format.
    """
    signals = leading_signals(item)
    if not signals:
        return "it is published; no signal speaks for it"
    reasons = [_phrase(signal, item, hashtag, words) for signal in signals[:MAX_REASONS]]
    return reasons[0] if len(reasons) == 1 else f"{', '.join(reasons[:-1])} and {reasons[-1]}"


def _phrase(name: str, item: FeedItem, hashtag: str | None, words: Words) -> str:
    value, several = item.signals[name].value, words.plural
    topic = f"#{hashtag} {several}" if hashtag else f"{several} with its hashtags"
    phrases = {
        "completion": f"you {words.watched} {value:.0%} of it",
        "likes": "you like it",
        "shares": "you shared it",
        "follows": f"you follow {item.creator}",
        "hashtags": f"it has {value:.0f} of your interests",
        "sound": f"you like its sound {item.sound}",
        "language": "it is in your language",
        "country": "it is from your country",
        "comments": "you commented on it",
        "saves": "you saved it",
        "device": "it suits your device",
        "creator_affinity": f"you often enjoy {several} by {item.creator}",
        "hashtag_affinity": f"you often enjoy {topic}",
        "lately": f"you enjoyed {several} with its hashtags lately",
        "sound_affinity": f"you often enjoy {several} with the sound {item.sound}",
        "caption": f"its caption is like the captions of {several} that you enjoyed",
        "collaborative": "people who enjoyed what you enjoyed lately enjoyed it too",
        "social": "people whom you follow enjoyed it",
        "quality": f"{value:.0%} of those who see it {words.engage}",
        "trending": "many enjoy it at the moment",
        "freshness": "it is new",
        "exploration": "few have seen it yet",
    }
    return phrases.get(name, f"its {name} is {value:g}")
