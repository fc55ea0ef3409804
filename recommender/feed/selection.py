"""From the order of scores to the order of a page: spacing, damping, and places for trials.

Pure Python over values. A page is filled place by place. A place takes the video of the highest
score, where each further video by one creator counts less, that is neither by the creator nor with
the sound of the video before it; some places are kept for videos on trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

from recommender.feed.items import checked_key
from recommender.ranking.request import FeedRequest
from recommender.ranking.sources import was_on_trial


class Contender(NamedTuple):
    """A candidate for a place.

    Attributes:
        score_key: the score in billionths.
        creator: its creator's row.
        sound: its sound's row, None where it has none.
        on_trial: whether few have seen it.
    """

    score_key: int
    creator: int | None
    sound: int | None
    on_trial: bool = False


class Place(NamedTuple):
    """Who got a place.

    Attributes:
        contender: its number among the contenders.
        explored: whether the place was kept for a video on trial.
        crowded: whether all that were left were by the creator, or with the sound, of the one
            before.
    """

    contender: int
    explored: bool
    crowded: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """How a page is spread.

    Attributes:
        limit: how many places it has.
        position: the first one's place in the session, from 1.
        creator: the creator of the video before it, None where it is the first.
        sound: that video's sound.
        damping: what a creator's next video on the page counts of what the one before it did,
            0 to 1; scores below 0 stay.
        exploration: share of the places that are kept for videos on trial, 0 to 1.
        seed: what chance depends on.
    """

    limit: int
    position: int = 1
    creator: int | None = None
    sound: int | None = None
    damping: float = 1.0
    exploration: float = 0.0
    seed: int = 0


def arrange(
    contenders: Sequence[Contender], spread: Spread, *, unseen: int | None = None
) -> list[Place] | None:
    """Who gets which place of a page.

    Args:
        contenders: all of them, the highest score first; or those of the highest scores and all
            that are on trial.
        spread: how the page is spread.
        unseen: the score key that no contender who is not given exceeds; None where all are given.

    Returns:
        The places in order, as many as there are contenders for; None where it takes those who are
        not given to say.
    """
    left = list(range(len(contenders)))
    by_creator: Counter[int | None] = Counter()
    before = Contender(0, spread.creator, spread.sound)
    places: list[Place] = []
    for position in range(spread.position, spread.position + spread.limit):
        if not left:
            return places if unseen is None else None
        trial = _on_trial(contenders, left, before, spread, position)
        best, key = _best(contenders, left, before, by_creator, spread.damping)
        if trial is None and unseen is not None and (best is None or key <= unseen):
            return None
        chosen = next(each for each in (trial, best, left[0]) if each is not None)
        places.append(Place(chosen, trial is not None, chosen not in {trial, best}))
        left.remove(chosen)
        before = contenders[chosen]
        by_creator[before.creator] += 1
    return places


def rearranged(
    contenders: Sequence[Contender], spread: Spread, held: Mapping[int, int]
) -> list[int]:
    """Who gets which place where all get one, and some have theirs already.

    Args:
        contenders: the highest score first.
        spread: how the page is spread; its limit, exploration and seed have no say.
        held: of some places, counted from 0, whose it is.

    Returns:
        The number of a contender for each place.
    """
    left = [each for each in range(len(contenders)) if each not in set(held.values())]
    by_creator: Counter[int | None] = Counter()
    before = Contender(0, spread.creator, spread.sound)
    order: list[int] = []
    for place in range(len(contenders)):
        chosen = held.get(place)
        if chosen is None:
            best, _ = _best(contenders, left, before, by_creator, spread.damping)
            chosen = left[0] if best is None else best
            left.remove(chosen)
        order.append(chosen)
        before = contenders[chosen]
        by_creator[before.creator] += 1
    return order


def is_exploration(position: int, share: float, seed: int) -> bool:
    """Whether a place of a session is kept for a video on trial.

    Of any places in a row, the share of them is, to within one place.

    Args:
        position: the place in the session, from 1.
        share: 0 to 1.
        seed: what chance depends on: where in the first places the first one is.
    """
    start = _start(seed)
    return int(start + share * position) > int(start + share * (position - 1))


@lru_cache(maxsize=1_000)
def _start(seed: int) -> float:
    return Random(seed).random()  # noqa: S311 - not for secrets


def damped(score_key: int, videos: int, damping: float) -> float:
    """What a score counts after so many videos by the same creator; below 0 it stays.

    Args:
        score_key: in billionths.
        videos: how many videos by the creator the page has already.
        damping: 0 to 1.
    """
    return score_key * damping**videos if score_key > 0 else score_key


def _on_trial(
    contenders: Sequence[Contender],
    left: Sequence[int],
    before: Contender,
    spread: Spread,
    position: int,
) -> int | None:
    """Anyone of those on trial, where the place is kept for one."""
    if not is_exploration(position, spread.exploration, spread.seed):
        return None
    on_trial = [
        each
        for each in left
        if contenders[each].on_trial and not _are_alike(contenders[each], before)
    ]
    chance = Random(f"{spread.seed} {position}")  # noqa: S311 - not for secrets
    return chance.choice(on_trial) if on_trial else None


def _best(
    contenders: Sequence[Contender],
    left: Sequence[int],
    before: Contender,
    by_creator: Counter[int | None],
    damping: float,
) -> tuple[int | None, float]:
    """Who counts most of those who are unlike the one before, and how much."""
    best, most = None, 0.0
    for each in left:
        contender = contenders[each]
        if best is not None and contender.score_key <= most:
            break
        if not _are_alike(contender, before):
            key = damped(contender.score_key, by_creator[contender.creator], damping)
            if best is None or key > most:
                best, most = each, key
    return best, most


def _are_alike(one: Contender, other: Contender) -> bool:
    """Whether two are by one creator or have one sound."""
    is_by_one = one.creator is not None and one.creator == other.creator
    return is_by_one or (one.sound is not None and one.sound == other.sound)


def places_of(
    request: FeedRequest, contenders: Sequence[Contender], pool: int | None = None
) -> list[Place] | None:
    """The places of a page, spread as the settings say.

    Args:
        request: as `resolve` gives it.
        contenders: the candidates, the best first.
        pool: how many of those that are not on trial were asked for; all of them where None.

    Returns:
        None where the contenders do not say enough.
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
    others = [each.score_key for each in contenders if not each.on_trial]
    is_cut = pool is not None and len(others) >= pool
    return arrange(contenders, spread, unseen=others[-1] if is_cut else None)


def contender(request: FeedRequest, row: Any) -> Contender:
    return Contender(
        score_key=checked_key(request, row),
        creator=row.page_creator_id,
        sound=row.page_sound_id,
        on_trial=was_on_trial(row.sources),
    )
