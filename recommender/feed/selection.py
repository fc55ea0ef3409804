"""Select the videos of a page from scored candidates: diversity, damping, exploration.

Pure Python over values. A page is filled position by position. Each position takes the candidate
with the highest score that is within all limits: it shares neither creator nor sound with the video
before it, and a feed may limit the videos of a creator, sound or format in more places. Further
videos by a creator who is on the page already count less, and some positions are kept for
exploration: new videos with few impressions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple, TypeAlias

from recommender.ranking.request import Feed, FeedRequest, PlacedVideo


class ScoredCandidate(NamedTuple):
    """A candidate for a position on the page.

    Attributes:
        score_key: the score in billionths.
        creator: the row id of the video's creator, None if it has none.
        sound: the row id of its sound, None if it has none.
        on_trial: whether it is new and has few impressions.
        format: its format, None if it is not known or not limited.
    """

    score_key: int
    creator: int | None
    sound: int | None
    on_trial: bool = False
    format: str | None = None


class Limit(NamedTuple):
    """At most `most` videos with one `subject` in any `places` consecutive places of a session.

    The subject is `creator`, `sound` or `format`. Videos without one are not limited.
    """

    subject: str
    most: int
    places: int


APART = (Limit("creator", 1, 2), Limit("sound", 1, 2))
"""The limits of every feed: two videos in a row share neither creator nor sound."""

UsedUp: TypeAlias = Sequence[tuple[str, frozenset[Any]]]
"""The subjects that are limited, each with its values that the next place may not have."""


class Place(NamedTuple):
    """A position of the page, and the candidate that takes it.

    Attributes:
        candidate: the index of the candidate.
        explored: whether the position was kept for exploration.
        crowded: whether every candidate left was beyond a limit, or shared its creator or sound
            with the video before.
        refilled: whether the video comes again because no other was left.
    """

    candidate: int
    explored: bool = False
    crowded: bool = False
    refilled: bool = False


@dataclass(frozen=True, slots=True)
class Spread:
    """The rules of diversity for one page.

    Attributes:
        limit: the number of positions.
        position: the position of the page's first video in the session, from 1.
        before: the last videos before the page, in order; empty if the session begins here.
        limits: the limits.
        damping: the factor on the score of a creator's next video, 0 to 1. It applies once for
            each of their videos that the page has already, and to positive scores only.
        exploration: the share of positions kept for exploration, 0 to 1.
        seed: the random seed.
    """

    limit: int
    position: int = 1
    before: Sequence[PlacedVideo] = ()
    limits: Sequence[Limit] = APART
    damping: float = 1.0
    exploration: float = 0.0
    seed: int = 0


def select_places(
    request: FeedRequest, candidates: Sequence[ScoredCandidate], pool: int | None = None
) -> list[Place] | None:
    """Select the videos of a page by the settings of the request.

    Args:
        request: as `resolve` returns it.
        candidates: the highest score first.
        pool: how many candidates that are not on trial were read; None if all were.

    Returns:
        The places in order; None if candidates that were not read could take one of them.
    """
    settings = request.settings
    spread = Spread(
        limit=request.limit,
        position=request.position,
        before=request.places_before,
        limits=limits_of(request.feed),
        damping=settings.creator_damping,
        exploration=settings.exploration_share,
        seed=request.seed,
    )
    established = [candidate.score_key for candidate in candidates if not candidate.on_trial]
    is_cut = pool is not None and len(established) >= pool
    return arrange(candidates, spread, unseen=established[-1] if is_cut else None)


class Pick(NamedTuple):
    """A position of a page that two teams share.

    Attributes:
        team: the number of the team that picked, 0 or 1.
        place: the place of the video in the team's own page, from 0.
        crowded: as in `Place`.
    """

    team: int
    place: int
    crowded: bool


def draft(
    pages: Sequence[Sequence[int]], videos: Mapping[int, ScoredCandidate], request: FeedRequest
) -> list[Pick]:
    """Return a page on which two teams pick in turn from their own pages (team draft interleaving).

    In each round chance decides which team picks first; each picks the best video of its page that
    is left and within the limits of diversity. If it has none, the other team picks; if neither
    has, the video is crowded.

    Source: Radlinski, Kurup and Joachims, 2008, How does clickthrough data reflect retrieval
    quality?

    Args:
        pages: the videos of the two teams' pages, in order.
        videos: every video of the pages.
        request: the request of the page.
    """
    chance, limits = request.chance(), limits_of(request.feed)
    shown: list[PlacedVideo | ScoredCandidate] = [*request.places_before]
    left = [dict(enumerate(page)) for page in pages]
    picks: list[Pick] = []
    while any(left) and len(picks) < request.limit:
        ahead = sum(1 if pick.team else -1 for pick in picks)  # positive if the second team is
        first = chance.randrange(2) if ahead == 0 else int(ahead < 0)
        order, used = (first, 1 - first), used_up(shown, limits)
        within = (
            Pick(team, place, crowded=False)
            for team in order
            for place, video in left[team].items()
            if is_within(videos[video], used)
        )
        rest = (Pick(team, place, crowded=True) for team in order for place in left[team])
        pick = next(within, None) or next(rest)
        picks.append(pick)
        taken = pages[pick.team][pick.place]
        shown.append(videos[taken])
        left = [{n: video for n, video in team.items() if video != taken} for team in left]
    return picks


def limits_of(feed: Feed | None) -> tuple[Limit, ...]:
    """Return the limits of a feed's pages: the common limits, then the feed's own."""
    own = () if feed is None else feed.limits.items()
    return (*APART, *(Limit(subject, *limit) for subject, limit in own))


def arrange(
    candidates: Sequence[ScoredCandidate], spread: Spread, *, unseen: int | None = None
) -> list[Place] | None:
    """Fill the positions of a page, one after the other.

    Args:
        candidates: the highest score first; all of them, or the best ones and all on trial.
        spread: the rules of diversity.
        unseen: an upper bound on the score keys of candidates that are not given; None if all are.

    Returns:
        The places in order, fewer than the limit if the candidates run out; None if a candidate
        that is not given could take one of them.
    """
    left = list(range(len(candidates)))
    by_creator: Counter[int | None] = Counter()
    shown: list[PlacedVideo | ScoredCandidate] = [*spread.before]
    places: list[Place] = []
    for position in range(spread.position, spread.position + spread.limit):
        if not left:
            return places if unseen is None else None
        used = used_up(shown, spread.limits)
        trial = _trial(candidates, left, used, spread, position)
        best, key = _best(candidates, left, used, by_creator, spread.damping)
        if trial is None and unseen is not None and (best is None or key <= unseen):
            return None
        taken = next(index for index in (trial, best, left[0]) if index is not None)
        places.append(Place(taken, trial is not None, taken not in {trial, best}))
        left.remove(taken)
        shown.append(candidates[taken])
        by_creator[candidates[taken].creator] += candidates[taken].creator is not None
    return places


def rearranged(
    candidates: Sequence[ScoredCandidate], spread: Spread, held: Mapping[int, int]
) -> list[int]:
    """Return an order of all candidates in which some keep the positions that they hold.

    Args:
        candidates: the highest score first.
        spread: the rules of diversity; its limit, exploration and seed are not used.
        held: the index of the candidate at some positions, counted from 0.

    Returns:
        The index of the candidate at each position.
    """
    holders = set(held.values())
    left = [index for index in range(len(candidates)) if index not in holders]
    by_creator: Counter[int | None] = Counter()
    shown: list[PlacedVideo | ScoredCandidate] = [*spread.before]
    order: list[int] = []
    for position in range(len(candidates)):
        taken = held.get(position)
        if taken is None:
            used = used_up(shown, spread.limits)
            best, _ = _best(candidates, left, used, by_creator, spread.damping)
            taken = left[0] if best is None else best
            left.remove(taken)
        order.append(taken)
        shown.append(candidates[taken])
        by_creator[candidates[taken].creator] += candidates[taken].creator is not None
    return order


def is_exploration(position: int, share: float, seed: int) -> bool:
    """Return whether a position of a session is kept for exploration.

    Among any consecutive positions the share of kept ones is exact to within one position.

    Args:
        position: the position in the session, from 1.
        share: the share of positions to keep, 0 to 1.
        seed: the random seed; it decides which of the first positions is kept.
    """
    start = _start(seed)
    return int(start + share * position) > int(start + share * (position - 1))


@lru_cache(maxsize=1_000)
def _start(seed: int) -> float:
    return Random(seed).random()  # noqa: S311 - not for secrets


def damped(score_key: int, videos: int, damping: float) -> float:
    """Return a score key, damped if it is positive.

    Args:
        score_key: the score in billionths.
        videos: how many videos by the same creator the page has already.
        damping: the factor for each of them, 0 to 1.
    """
    return score_key * damping**videos if score_key > 0 else score_key


def _trial(
    candidates: Sequence[ScoredCandidate],
    left: Sequence[int],
    used: UsedUp,
    spread: Spread,
    position: int,
) -> int | None:
    """Return a random candidate on trial if the position is kept for exploration."""
    if not is_exploration(position, spread.exploration, spread.seed):
        return None
    on_trial = [
        index for index in left if candidates[index].on_trial and is_within(candidates[index], used)
    ]
    chance = Random(f"{spread.seed} {position}")  # noqa: S311 - not for secrets
    return chance.choice(on_trial) if on_trial else None


def _best(
    candidates: Sequence[ScoredCandidate],
    left: Sequence[int],
    used: UsedUp,
    by_creator: Counter[int | None],
    damping: float,
) -> tuple[int | None, float]:
    """Return the best candidate that is within the limits, and its damped score key."""
    best, best_key = None, 0.0
    for index in left:
        candidate = candidates[index]
        if best is not None and candidate.score_key <= best_key:
            break
        if is_within(candidate, used):
            key = damped(candidate.score_key, by_creator[candidate.creator], damping)
            if best is None or key > best_key:
                best, best_key = index, key
    return best, best_key


def used_up(shown: Sequence[PlacedVideo | ScoredCandidate], limits: Sequence[Limit]) -> UsedUp:
    """Return the values that the place after some videos may not have.

    Args:
        shown: the videos of the session so far, in order; as many as the limits look at.
        limits: the limits.
    """
    every = ((limit.subject, _used_up(shown, limit)) for limit in limits)
    return [(subject, values) for subject, values in every if values]


def _used_up(shown: Sequence[PlacedVideo | ScoredCandidate], limit: Limit) -> frozenset[Any]:
    values = [getattr(video, limit.subject) for video in shown[1 - limit.places :]]
    if limit.most > 1:
        values = [value for value, times in Counter(values).items() if times >= limit.most]
    return frozenset(values) - {None}


def is_within(video: PlacedVideo | ScoredCandidate, used: UsedUp) -> bool:
    """Return whether a video may take a place: none of its values is used up."""
    for subject, values in used:  # noqa: SIM110 - twice as fast as `all` of a generator
        if getattr(video, subject) in values:
            return False
    return True
