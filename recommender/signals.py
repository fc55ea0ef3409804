"""The signals: what speaks for a video to a viewer, one SQL expression each.

A signal is a number in its declared range, never NULL, and depends on no clock but `as_of`. It
reads a `Candidate`: the row of the video, the viewer's bound values, the viewer's affinities, and
the *facts*, the sums by video over what all other rows say. Facts are gathered in one pass, since a
subquery for each signal costs a walk for each video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Double, FromClause, Subquery, literal
from sqlalchemy.orm import InstrumentedAttribute

from recommender.arithmetic import age_days, bounded, exp2
from recommender.columns import Statement
from recommender.errors import InvalidValue
from recommender.fields import LIST_LENGTH, shown
from recommender.learned import Affinity, RecentEngagement, Term, VideoNeighbour
from recommender.models import (
    Follow,
    Interaction,
    UserHashtag,
    UserSound,
    Video,
    VideoHashtag,
    VideoTerm,
)
from recommender.viewer import Viewer

MOST_OFTEN = 1_000_000
"""How often a share or comment counts at most."""

MOST_TERMS = 200
"""How many words of what the viewer engaged with are looked for, the most frequent first."""

LONGEST_AGE = 1e9
"""Days at most that a video is old."""

LEAST_AFFINITY = 1e-20
"""What is nearer to 0, at the reading time, is no affinity."""

FACTS = (
    "sources", "completion", "likes", "shares", "comments", "saves", "hashtags",
    "hashtag_affinity", "lately", "neighbours", "followed", "terms",
)  # fmt: skip
"""The columns that facts may have, each a sum over the rows of `fact_rows`."""

Number = ColumnElement[float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a signal may read: `Video`'s columns and those given here.

    Attributes:
        facts: the sums by video; read by `fact`, since a statement has those of `FACTS` that it
            needs.
        viewer: the viewer's bound values.
        creator: the viewer's affinity to the video's creator.
        sound: the viewer's affinity to the video's sound.
    """

    facts: Subquery
    viewer: Viewer
    creator: type[Affinity]
    sound: type[Affinity]

    def fact(self, name: str) -> Number:
        """A fact of this video, 0 where the viewer has none, or none was asked for.

        Raises:
            InvalidValue: it is none of `FACTS`.
        """
        if name not in FACTS:
            raise InvalidValue(f"fact: {shown(name)} is not one of {', '.join(FACTS)}")
        gathered = self.facts.c.get(name)
        return number(0) if gathered is None else sa.func.coalesce(gathered, number(0))


@dataclass(frozen=True, slots=True)
class Signal:
    """A named number in a declared range.

    Args:
        name: as profiles name it; a host's own is one word of 63 bytes at most, and no other's in
            any case.
        low: the least value.
        high: the greatest value.
        expression: gives the SQL expression for a `Candidate`.

    Raises:
        InvalidValue: the bounds are not from -1,000,000 to 1,000,000, the least first.
    """

    name: str
    low: float
    high: float
    expression: Callable[[Candidate], Number]

    def __post_init__(self) -> None:
        if not -MOST_OFTEN <= self.low <= self.high <= MOST_OFTEN:
            raise InvalidValue(
                f"signal {shown(self.name)}: {self.low} to {self.high} is no range within"
                f" -{MOST_OFTEN:,} to {MOST_OFTEN:,}"
            )


def number(value: float) -> Number:
    """A literal in double precision, never a decimal."""
    return literal(float(value), Double())


def is_true(condition: ColumnElement[bool]) -> Number:
    """1 where the condition holds, 0 where it does not or is unknown."""
    return sa.case((condition, number(1)), else_=number(0))


def is_now(since: InstrumentedAttribute[object], until: InstrumentedAttribute[object]) -> Number:
    """1 where a switch was last turned on, such as `liked_at` later than `unliked_at`."""
    return is_true(sa.and_(since.is_not(None), sa.or_(until.is_(None), since > until)))


def at_most(value: Number, most: float) -> Number:
    """The value, or the most where it is more."""
    return sa.case((value > number(most), number(most)), else_=value)


def saturated(value: Number, half: Number) -> Number:
    """A number squeezed between -1 and 1, half of that at `half`."""
    return value / (half + sa.func.abs(value))


def gather_facts(
    viewer: Viewer,
    candidates: FromClause | None = None,
    *,
    few: bool = False,
    unseen: bool = False,
) -> Subquery:
    """One row for each video that the viewer's rows, or the candidates, say something about.

    Every source of facts is rows of one UNION ALL with one GROUP BY: joining them would let the
    database multiply rows that it underestimates.

    Args:
        viewer: the viewer.
        candidates: the videos in question, with their `sources`; the reference formula looks at the
            whole catalogue, and so at all that the viewer's rows name.
        few: whether the candidates are fewer than what their neighbours and followers lead to.
        unseen: whether the viewer has done nothing with any candidate.
    """
    if candidates is None:
        return summed(interaction_facts(viewer), hashtag_facts(viewer))
    parts = [
        fact_row(candidates.c.video_id, sources=candidates.c.sources),
        candidate_hashtags(viewer, candidates),
        candidate_terms(viewer, candidates),
        candidate_neighbours(viewer, candidates) if few else neighbour_facts(viewer, candidates),
        candidate_followed(viewer, candidates) if few else followed_among(viewer, candidates),
    ]
    return summed(*parts, *([] if unseen else [candidate_interactions(viewer, candidates)]))


def summed(*parts: Statement) -> Subquery:
    """Rows of facts, added up by video."""
    names = [name for name in FACTS if any(name in part.selected_columns for part in parts)]
    rows = sa.union_all(*(_padded(part, names) for part in parts)).subquery("fact_rows")
    sums = [sa.func.sum(rows.c[name]).label(name) for name in names]
    return sa.select(rows.c.video_id, *sums).group_by(rows.c.video_id).subquery("facts")


def fact_row(video_id: ColumnElement[int], **values: ColumnElement[float]) -> Statement:
    """A row of facts of a video."""
    facts = [value.label(name) for name, value in values.items()]
    return sa.select(video_id.label("video_id"), *facts)


def _padded(rows: Statement, names: Sequence[str]) -> Statement:
    """The same rows with all facts, 0 in those that they do not have."""
    given = rows.selected_columns
    facts = [given[name] if name in given else number(0).label(name) for name in names]
    return rows.with_only_columns(given.video_id, *facts)


def interaction_row(video_id: ColumnElement[int]) -> Statement:
    """What the viewer did with a video."""
    return fact_row(
        video_id,
        completion=Interaction.completion.expression,
        likes=is_now(Interaction.liked_at, Interaction.unliked_at),
        shares=sa.cast(Interaction.shares, Double),
        comments=sa.cast(Interaction.comments, Double),
        saves=is_now(Interaction.saved_at, Interaction.unsaved_at),
    )


def interaction_facts(viewer: Viewer) -> Statement:
    """What the viewer did with each video."""
    facts = interaction_row(Interaction.video_id.expression)
    return facts.where(Interaction.user_id == viewer.user_id)


def hashtag_facts(viewer: Viewer) -> Statement:
    """A row for each hashtag of a video that the viewer declared."""
    return (
        fact_row(VideoHashtag.video_id.expression, hashtags=number(1))
        .join(UserHashtag, UserHashtag.hashtag_id == VideoHashtag.hashtag_id)
        .where(UserHashtag.user_id == viewer.user_id)
    )


def candidate_interactions(viewer: Viewer, candidates: FromClause) -> Statement:
    """What the viewer did with each candidate.

    Here and below, outer joins keep the database from beginning at the viewer's whole history, or
    at all videos of a hashtag; their empty rows add nothing to a sum.
    """
    of_candidate = sa.and_(
        Interaction.user_id == viewer.user_id, Interaction.video_id == candidates.c.video_id
    )
    facts = interaction_row(candidates.c.video_id).select_from(candidates)
    return facts.outerjoin(Interaction, of_candidate)


def candidate_hashtags(viewer: Viewer, candidates: FromClause) -> Statement:
    """For each hashtag of a candidate what it says to the viewer, where it says anything.

    What the viewer learned of many hashtags is probed; the few others are one table, for one join.
    """
    tastes = _hashtag_tastes(viewer)
    learned = sa.and_(
        Affinity.user_id == viewer.user_id,
        Affinity.subject == "hashtag",
        Affinity.subject_id == VideoHashtag.hashtag_id,
    )
    return (
        fact_row(
            candidates.c.video_id,
            hashtags=sa.func.coalesce(tastes.c.hashtags, number(0)),
            hashtag_affinity=sa.func.coalesce(Affinity.score, number(0)),
            lately=sa.func.coalesce(tastes.c.lately, number(0)),
        )
        .select_from(candidates)
        .outerjoin(VideoHashtag, VideoHashtag.video_id == candidates.c.video_id)
        .outerjoin(tastes, tastes.c.hashtag_id == VideoHashtag.hashtag_id)
        .outerjoin(Affinity, learned)
        .where(sa.func.coalesce(tastes.c.hashtag_id, Affinity.subject_id, 0) != 0)
    )


def _hashtag_tastes(viewer: Viewer) -> Subquery:
    """One row for each hashtag that the viewer declared, or saw lately."""
    declared = sa.select(
        UserHashtag.hashtag_id, number(1).label("hashtags"), number(0).label("lately")
    ).where(UserHashtag.user_id == viewer.user_id)
    lately = sa.select(viewer.lately.c.hashtag_id, number(0), viewer.lately.c.surplus)
    rows = sa.union_all(declared, lately).subquery("hashtag_rows")
    sums = [sa.func.sum(rows.c[name]).label(name) for name in ("hashtags", "lately")]
    return sa.select(rows.c.hashtag_id, *sums).group_by(rows.c.hashtag_id).subquery("tastes")


def candidate_declared(viewer: Viewer, candidates: FromClause) -> Statement:
    """For each hashtag of a candidate, whether the viewer declared it."""
    declared = sa.and_(
        UserHashtag.user_id == viewer.user_id, UserHashtag.hashtag_id == VideoHashtag.hashtag_id
    )
    is_declared = is_true(UserHashtag.hashtag_id.is_not(None))
    return (
        fact_row(candidates.c.video_id, hashtags=is_declared)
        .select_from(candidates)
        .outerjoin(VideoHashtag, VideoHashtag.video_id == candidates.c.video_id)
        .outerjoin(UserHashtag, declared)
    )


def neighbour_facts(viewer: Viewer, candidates: FromClause) -> Statement:
    """A row for each candidate that is a neighbour of what the viewer engaged with lately."""
    facts = fact_row(viewer.near.c.video_id, neighbours=viewer.near.c.similarity)
    return facts.where(viewer.near.c.video_id.in_(sa.select(candidates.c.video_id)))


def followed_facts(viewer: Viewer) -> Statement:
    """A row for each of those whom the viewer follows that engaged with a video lately."""
    return (
        fact_row(RecentEngagement.video_id.expression, followed=number(1))
        .join(Follow, Follow.creator_id == RecentEngagement.user_id)
        .where(Follow.user_id == viewer.user_id)
    )


def followed_among(viewer: Viewer, candidates: FromClause) -> Statement:
    """The same of the candidates only; the sum keeps SQLite from looking up each with each."""
    return followed_facts(viewer).where(
        (RecentEngagement.video_id + 0).in_(sa.select(candidates.c.video_id))
    )


def candidate_neighbours(viewer: Viewer, candidates: FromClause) -> Statement:
    """For each candidate, each time that it is near to what the viewer engaged with lately."""
    lately, near = viewer.recent, VideoNeighbour
    is_near = sa.and_(near.source_id == lately.c.video_id, near.video_id == candidates.c.video_id)
    return (
        fact_row(candidates.c.video_id, neighbours=near.similarity * lately.c.weight)
        .select_from(candidates)
        .join(lately, sa.true())
        .outerjoin(near, is_near)
    )


def candidate_followed(viewer: Viewer, candidates: FromClause) -> Statement:
    """A row for each candidate of each of those whom the viewer follows that engaged with it."""
    return followed_facts(viewer).where(
        RecentEngagement.video_id.in_(sa.select(candidates.c.video_id))
    )


def viewer_terms(viewer: Viewer) -> Subquery:
    """The words of what the viewer engaged with lately, each 1 where rare and 0 where common."""
    lately = viewer.recent
    rarity = number(1) - sa.cast(Term.captions, Double) / viewer.common_captions
    return (
        sa.select(VideoTerm.term, sa.func.max(rarity).label("rarity"))
        .select_from(lately)
        .join(VideoTerm, VideoTerm.video_id == lately.c.video_id)
        .join(Term, Term.term == VideoTerm.term)
        .where(rarity > number(0))
        .group_by(VideoTerm.term)
        .order_by(sa.func.sum(lately.c.weight).desc(), VideoTerm.term)
        .limit(MOST_TERMS)
        .subquery("viewer_terms")
    )


def candidate_terms(viewer: Viewer, candidates: FromClause) -> Statement:
    """For each word of a candidate's caption how much it says to the viewer.

    That the words' join says again whose word it is keeps PostgreSQL from looking the words up
    anew for each candidate.
    """
    words = viewer_terms(viewer)
    is_said = sa.and_(words.c.term == VideoTerm.term, VideoTerm.video_id == candidates.c.video_id)
    return (
        fact_row(candidates.c.video_id, terms=words.c.rarity)
        .select_from(candidates)
        .outerjoin(VideoTerm, VideoTerm.video_id == candidates.c.video_id)
        .outerjoin(words, is_said)
        .where(sa.func.coalesce(words.c.rarity, number(0)) > number(0))
    )


def completion(candidate: Candidate) -> Number:
    """The best part of this video that the viewer watched: who watched it to the end wanted it.

    Range: 0 to 1. Reads: interactions.
    """
    return candidate.fact("completion")


def likes(candidate: Candidate) -> Number:
    """The viewer likes the video now: the plainest praise.

    Range: 0 or 1. Reads: interactions.
    """
    return candidate.fact("likes")


def shares(candidate: Candidate) -> Number:
    """How often the viewer shared the video: each time it was worth somebody else's time.

    Range: 0 to 1,000,000. Reads: interactions.
    """
    return at_most(candidate.fact("shares"), MOST_OFTEN)


def follows(candidate: Candidate) -> Number:
    """The viewer follows the video's creator: a standing wish to see more.

    Range: 0 or 1. Reads: follows.
    """
    followed = sa.select(Follow.creator_id).where(Follow.user_id == candidate.viewer.user_id)
    return is_true(Video.creator_id.in_(followed))


def hashtags(candidate: Candidate) -> Number:
    """How many of the video's hashtags are among the viewer's declared interests.

    Range: 0 to 300, the most hashtags that a video has. Reads: user_hashtags, video_hashtags.
    """
    return candidate.fact("hashtags")


def sound(candidate: Candidate) -> Number:
    """The video's sound is among the viewer's declared sounds.

    Range: 0 or 1. Reads: user_sounds.
    """
    declared = sa.select(UserSound.sound_id).where(UserSound.user_id == candidate.viewer.user_id)
    return is_true(Video.sound_id.in_(declared))


def language(candidate: Candidate) -> Number:
    """The video is in the viewer's language, compared as written.

    Range: 0 or 1. Reads: users, videos.
    """
    return is_true(Video.language == candidate.viewer.language)


def country(candidate: Candidate) -> Number:
    """The video is from the viewer's country, compared as written: the weakest of interests.

    Range: 0 or 1. Reads: users, videos.
    """
    return is_true(Video.country == candidate.viewer.country)


def comments(candidate: Candidate) -> Number:
    """How often the viewer commented on the video: it was worth an answer.

    Range: 0 to 1,000,000. Reads: interactions.
    """
    return at_most(candidate.fact("comments"), MOST_OFTEN)


def saves(candidate: Candidate) -> Number:
    """The viewer has saved the video, to see it again.

    Range: 0 or 1. Reads: interactions.
    """
    return candidate.fact("saves")


def device(candidate: Candidate) -> Number:
    """The video's orientation suits the viewer's device: upright on what is held in a hand.

    Range: 0 or 1; a square suits any device that is known. Reads: users, videos.
    """
    viewer = candidate.viewer
    return sa.case(
        (Video.orientation == "square", viewer.suits_square),
        (Video.orientation == "portrait", viewer.suits_portrait),
        (Video.orientation == "landscape", viewer.suits_landscape),
        else_=number(0),
    )


def creator_affinity(candidate: Candidate) -> Number:
    """What the viewer's behaviour says about the creator, good or bad, the latest most.

    Range: -1 to 1. Reads: affinities.
    """
    return faded(candidate.creator.score, candidate.viewer.creator_half)


def hashtag_affinity(candidate: Candidate) -> Number:
    """What the viewer's behaviour says about the video's hashtags together: its topics.

    Range: -1 to 1. Reads: affinities, video_hashtags.
    """
    return faded(candidate.fact("hashtag_affinity"), candidate.viewer.hashtag_half)


def lately(candidate: Candidate) -> Number:
    """Of what the viewer saw last with its hashtags they engaged with more, or less, than usual.

    A share, so that it turns as soon as tastes do; what they rejected counts against.

    Range: -1 to 1. Reads: interactions, video_hashtags, learning_state.
    """
    return bounded(candidate.fact("lately"), -1, 1)


def sound_affinity(candidate: Candidate) -> Number:
    """What the viewer's behaviour says about the video's sound: memes and songs come in waves.

    Range: -1 to 1. Reads: affinities.
    """
    return faded(candidate.sound.score, candidate.viewer.sound_half)


def faded(score: Any, half: Number) -> Number:
    """An affinity at the reading time, squeezed between -1 and 1; 0 where there is none.

    The score is not multiplied, since PostgreSQL raises an error where the product is no double.
    """
    is_some = sa.func.abs(score) > half * number(LEAST_AFFINITY)
    return sa.case((is_some, saturated(score, half)), else_=number(0))


def caption(candidate: Candidate) -> Number:
    """Words of the caption stand in captions that the viewer engaged with lately; rare ones count.

    Range: 0 to 1. Reads: interactions, video_terms, terms.
    """
    return saturated(candidate.fact("terms"), number(1))


def collaborative(candidate: Candidate) -> Number:
    """Who engaged with what the viewer engaged with lately engaged with this one, beyond chance.

    Item-based collaborative filtering (Sarwar and others, 2001); that the newest count most carries
    the session's context. Range: 0 to 1. Reads: interactions, video_neighbours.
    """
    return saturated(candidate.fact("neighbours"), number(1))


def social(candidate: Candidate) -> Number:
    """People whom the viewer follows engaged with the video lately.

    Range: 0 to 1. Reads: follows, recent_engagements.
    """
    return saturated(candidate.fact("followed"), number(1))


def quality(candidate: Candidate) -> Number:
    """The part of its viewers that engaged with the video, begun with some of average interest.

    Range: 0 to 1. Reads: videos, learning_state.
    """
    prior = candidate.viewer.quality_prior
    engaged = sa.cast(Video.engaged_views, Double) + prior * candidate.viewer.engaged_share
    viewers = sa.cast(Video.impressions, Double) + prior
    return at_most(sa.type_coerce(engaged / viewers, Double), 1.0)


def trending(candidate: Candidate) -> Number:
    """Many engaged with the video of late, by forward decay, beside the most trending of all.

    Range: 0 to 1. Reads: videos, learning_state.
    """
    return trend(candidate.viewer)


def trend(viewer: Viewer) -> Number:
    """A video's trend at the reading time, squeezed between 0 and 1; 0 where there is none."""
    now = saturated(exp2(Video.trending - viewer.trend), viewer.trend_scale)
    return sa.case((Video.trending.is_not(None), now), else_=number(0))


def freshness(candidate: Candidate) -> Number:
    """The video is new: 1 when published, half after each half-life.

    Range: 0 to 1. Reads: videos.
    """
    age = age_days(Video.published_at, candidate.viewer.as_of)
    return exp2(-bounded(age, 0, LONGEST_AGE) / candidate.viewer.freshness_half_life)


def exploration(candidate: Candidate) -> Number:
    """Few have seen the video, so that nobody can know yet how good it is.

    Range: 0 to 1. Reads: videos.
    """
    trial = candidate.viewer.trial_viewers
    return trial / (trial + sa.cast(Video.impressions, Double))


SIGNALS = (
    Signal("completion", 0, 1, completion),
    Signal("likes", 0, 1, likes),
    Signal("shares", 0, MOST_OFTEN, shares),
    Signal("follows", 0, 1, follows),
    Signal("hashtags", 0, LIST_LENGTH, hashtags),
    Signal("sound", 0, 1, sound),
    Signal("language", 0, 1, language),
    Signal("country", 0, 1, country),
    Signal("comments", 0, MOST_OFTEN, comments),
    Signal("saves", 0, 1, saves),
    Signal("device", 0, 1, device),
    Signal("creator_affinity", -1, 1, creator_affinity),
    Signal("hashtag_affinity", -1, 1, hashtag_affinity),
    Signal("lately", -1, 1, lately),
    Signal("sound_affinity", -1, 1, sound_affinity),
    Signal("caption", 0, 1, caption),
    Signal("collaborative", 0, 1, collaborative),
    Signal("social", 0, 1, social),
    Signal("quality", 0, 1, quality),
    Signal("trending", 0, 1, trending),
    Signal("freshness", 0, 1, freshness),
    Signal("exploration", 0, 1, exploration),
)
