"""Select the videos of a page from scored candidates: diversity, damping, exploration.

Pure Python over values. A page is filled position by position. Each position takes the candidate
with the highest score that shares neither creator nor sound with the video before it. Further
videos by a creator who is on the page already count less, and some positions are kept for
exploration: new videos with few impressions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple

from recommender.ranking.request import FeedRequest


class ScoredCandidate(NamedTuple):
    """A candidate for a position on the page.

    Attributes:
        score_key: the score in billionths.
        creator: the row id of the video's creator, None if it has none.
        sound: the row id of its sound, None if it has none.
        on_trial: whether it is new and has few impressions.
    """

    score_key: int
    creator: int | None
    sound: int | None
    on_trial: bool = False


class Place(NamedTuple):
    """A position of the page, and the candidate that takes it.

    Attributes:
        candidate: the index of the candidate.
        explored: whether the position was kept for exploration.
        crowded: whether every candidate left shared its creator or sound with the video before.
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
        creator: the creator of the video before the page, None if the session begins here.
        sound: the sound of that video.
        damping: the factor on the score of a creator's next video, 0 to 1. It applies once for
            each of their videos that the page has already, and to positive scores only.
        exploration: the share of positions kept for exploration, 0 to 1.
        seed: the random seed.
    """

    limit: int
    position: int = 1
    creator: int | None = None
    sound: int | None = None
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
        creator=request.last_creator,
        sound=request.last_sound,
        damping=settings.creator_damping,
        exploration=settings.exploration_share,
        seed=request.seed,
    )
    established = [candidate.score_key for candidate in candidates if not candidate.on_trial]
    is_cut = pool is not None and len(established) >= pool
    return arrange(candidates, spread, unseen=established[-1] if is_cut else None)


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
    before = ScoredCandidate(0, spread.creator, spread.sound)
    places: list[Place] = []
    for position in range(spread.position, spread.position + spread.limit):
        if not left:
            return places if unseen is None else None
        trial = _trial(candidates, left, before, spread, position)
        best, key = _best(candidates, left, before, by_creator, spread.damping)
        if trial is None and unseen is not None and (best is None or key <= unseen):
            return None
        taken = next(index for index in (trial, best, left[0]) if index is not None)
        places.append(Place(taken, trial is not None, taken not in {trial, best}))
        left.remove(taken)
        before = candidates[taken]
        by_creator[before.creator] += before.creator is not None
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
    before = ScoredCandidate(0, spread.creator, spread.sound)
    order: list[int] = []
    for position in range(len(candidates)):
        taken = held.get(position)
        if taken is None:
            best, _ = _best(candidates, left, before, by_creator, spread.damping)
            taken = left[0] if best is None else best
            left.remove(taken)
        order.append(taken)
        before = candidates[taken]
        by_creator[before.creator] += before.creator is not None
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
    before: ScoredCandidate,
    spread: Spread,
    position: int,
) -> int | None:
    """Return a random candidate on trial if the position is kept for exploration."""
    if not is_exploration(position, spread.exploration, spread.seed):
        return None
    on_trial = [
        index
        for index in left
        if candidates[index].on_trial and not _are_alike(candidates[index], before)
    ]
    chance = Random(f"{spread.seed} {position}")  # noqa: S311 - not for secrets
    return chance.choice(on_trial) if on_trial else None


def _best(
    candidates: Sequence[ScoredCandidate],
    left: Sequence[int],
    before: ScoredCandidate,
    by_creator: Counter[int | None],
    damping: float,
) -> tuple[int | None, float]:
    """Return the best candidate that is unlike the video before, and its damped score key."""
    best, best_key = None, 0.0
    for index in left:
        candidate = candidates[index]
        if best is not None and candidate.score_key <= best_key:
            break
        if not _are_alike(candidate, before):
            key = damped(candidate.score_key, by_creator[candidate.creator], damping)
            if best is None or key > best_key:
                best, best_key = index, key
    return best, best_key


def _are_alike(one: ScoredCandidate, other: ScoredCandidate) -> bool:
    """Return whether two videos share their creator or their sound."""
    is_by_one = one.creator is not None and one.creator == other.creator
    return is_by_one or (one.sound is not None and one.sound == other.sound)
