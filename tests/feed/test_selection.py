"""Diversity, damping and exploration, as properties of random pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.feed.selection import (
    APART,
    Limit,
    Place,
    ScoredCandidate,
    Spread,
    arrange,
    damped,
    is_exploration,
    rearranged,
)
from recommender.ranking.request import PlacedVideo

CANDIDATES = st.lists(
    st.builds(
        ScoredCandidate,
        score_key=st.integers(-3, 12),
        creator=st.sampled_from([1, 1, 1, 2, 3]),
        sound=st.sampled_from([None, None, 7, 8]),
        on_trial=st.booleans(),
        format=st.sampled_from([None, "reel", "post"]),
    ),
    max_size=25,
).map(lambda found: sorted(found, key=lambda each: -each.score_key))
LIMITS = st.sampled_from(["creator", "sound", "format"]).flatmap(
    lambda subject: st.integers(1, 3).flatmap(
        lambda most: st.builds(
            Limit, st.just(subject), st.just(most), st.integers(most + 1, most + 4)
        )
    )
)
SPREADS = st.builds(
    Spread,
    limit=st.integers(1, 30),
    position=st.integers(1, 60),
    before=st.lists(
        st.builds(
            PlacedVideo,
            creator=st.sampled_from([None, 1, 2]),
            sound=st.sampled_from([None, 7]),
            format=st.sampled_from([None, "reel"]),
        ),
        max_size=5,
    ),
    limits=st.lists(LIMITS, max_size=3).map(lambda own: (*APART, *own)),
    damping=st.sampled_from([0.01, 0.5, 0.9, 1.0]),
    exploration=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 50),
)


def is_over(
    shown: Sequence[PlacedVideo | ScoredCandidate], each: ScoredCandidate, spread: Spread
) -> bool:
    """Return whether a place after the shown videos is beyond a limit, by counting."""
    return any(
        value is not None
        and sum(getattr(before, subject) == value for before in list(shown)[1 - places :]) >= most
        for subject, most, places in spread.limits
        for value in (getattr(each, subject),)
    )


def arranged(candidates: Sequence[ScoredCandidate], spread: Spread) -> list[Place]:
    places = arrange(candidates, spread)
    assert places is not None
    return places


@given(CANDIDATES, SPREADS)
def test_a_page_is_full_and_has_no_video_twice(
    candidates: list[ScoredCandidate], spread: Spread
) -> None:
    places = arranged(candidates, spread)
    assert len(places) == min(spread.limit, len(candidates))
    assert len({place.candidate for place in places}) == len(places)
    assert places == arranged(candidates, spread)


@given(CANDIDATES, SPREADS)
def test_a_place_is_beyond_a_limit_only_if_all_that_are_left_are(
    candidates: list[ScoredCandidate], spread: Spread
) -> None:
    shown, left = [*spread.before], set(range(len(candidates)))
    for place in arranged(candidates, spread):
        alternatives = [each for each in left if not is_over(shown, candidates[each], spread)]
        assert place.crowded == (not alternatives)
        assert place.crowded or place.candidate in alternatives
        shown.append(candidates[place.candidate])
        left.remove(place.candidate)


@given(CANDIDATES, SPREADS)
def test_every_place_takes_the_best_candidate(
    candidates: list[ScoredCandidate], spread: Spread
) -> None:
    """Among equals it is the one with the higher score, then the earlier one."""
    shown, left = [*spread.before], list(range(len(candidates)))
    by_creator: Counter[int | None] = Counter()
    for place in arranged(candidates, spread):
        within = [each for each in left if not is_over(shown, candidates[each], spread)]
        counts = {
            each: damped(
                candidates[each].score_key, by_creator[candidates[each].creator], spread.damping
            )
            for each in within or left
        }
        if place.explored:
            assert candidates[place.candidate].on_trial
        elif within:
            assert place.candidate == max(within, key=lambda each: (counts[each], -each))
        else:
            assert place.candidate == left[0]
        shown.append(candidates[place.candidate])
        by_creator[candidates[place.candidate].creator] += 1
        left.remove(place.candidate)


@given(CANDIDATES, SPREADS, st.integers(0, 25))
def test_the_best_and_those_on_trial_give_the_same_page_or_none(
    candidates: list[ScoredCandidate], spread: Spread, size: int
) -> None:
    best = [each for each in candidates if not each.on_trial][:size]
    given_ones = [each for each in candidates if each.on_trial or each in best]
    unseen = [each.score_key for each in candidates if each not in given_ones]
    if not unseen:
        return
    places = arrange(given_ones, spread, unseen=max(unseen))
    if places is not None:
        chosen = [given_ones[place.candidate] for place in places]
        everyone = arranged(candidates, spread)
        assert chosen == [candidates[place.candidate] for place in everyone]
        assert [place[1:] for place in places] == [place[1:] for place in everyone]


@given(CANDIDATES, SPREADS)
def test_a_page_put_into_its_own_order_stays_as_it_is(
    candidates: list[ScoredCandidate], spread: Spread
) -> None:
    places = arranged(candidates, spread)
    best = sorted(place.candidate for place in places)
    held = {n: best.index(each.candidate) for n, each in enumerate(places) if each.explored}
    order = rearranged([candidates[number] for number in best], spread, held)
    assert [best[number] for number in order] == [place.candidate for place in places]


def test_a_held_place_is_kept_and_counts_for_the_places_after_it() -> None:
    candidates = [
        ScoredCandidate(9, 1, None),
        ScoredCandidate(8, 2, None),
        ScoredCandidate(1, 1, None),
    ]
    assert rearranged(candidates, Spread(limit=3), {}) == [0, 1, 2]
    assert rearranged(candidates, Spread(limit=3), {0: 2}) == [2, 1, 0]
    assert rearranged(candidates, Spread(limit=3, before=[PlacedVideo(1, None)]), {2: 1}) == [
        0,
        2,
        1,
    ]


def test_the_best_are_enough_if_no_other_candidate_could_count_more() -> None:
    candidates = [ScoredCandidate(10 - number, number, None) for number in range(9)]
    places = arrange(candidates[:4], Spread(limit=3), unseen=6)
    assert places is not None
    assert [place.candidate for place in places] == [0, 1, 2]
    assert arrange(candidates[:3], Spread(limit=3), unseen=8) is None


@given(st.integers(-(10**12), 10**12), st.integers(0, 30), st.floats(0.01, 1))
def test_damping_is_monotone_and_never_promotes(key: int, videos: int, damping: float) -> None:
    counts = [damped(key, number, damping) for number in range(videos + 1)]
    assert counts[0] == key
    assert counts == sorted(counts, reverse=True)
    assert key > 0 or set(counts) == {key}
    assert key <= 0 or min(counts) >= 0


def test_the_next_video_of_a_creator_counts_less() -> None:
    keys_and_creators = [(10, 1), (9, 1), (8, 2), (7, 3)]
    candidates = [ScoredCandidate(key, creator, None) for key, creator in keys_and_creators]
    orders = {
        damping: [p.candidate for p in arranged(candidates, Spread(limit=4, damping=damping))]
        for damping in (1.0, 0.75)
    }
    assert orders == {1.0: [0, 2, 1, 3], 0.75: [0, 2, 3, 1]}


@given(st.integers(1, 400), st.integers(1, 300), st.floats(0, 1), st.integers(0, 2**31))
@settings(max_examples=30)
def test_exploration_has_its_share_of_any_places_in_a_row(
    first: int, places: int, share: float, seed: int
) -> None:
    kept = sum(is_exploration(each, share, seed) for each in range(first, first + places))
    assert abs(kept - share * places) <= 1


@given(CANDIDATES, SPREADS)
def test_places_are_kept_for_those_on_trial(
    candidates: list[ScoredCandidate], spread: Spread
) -> None:
    places = arranged(candidates, spread)
    kept = {
        number
        for number in range(len(places))
        if is_exploration(spread.position + number, spread.exploration, spread.seed)
    }
    assert {number for number, place in enumerate(places) if place.explored} <= kept
    all_on_trial = [replace_trial(each) for each in candidates]
    explored = {
        number
        for number, place in enumerate(arranged(all_on_trial, spread))
        if place.explored or place.crowded
    }
    assert kept <= explored


def replace_trial(candidate: ScoredCandidate) -> ScoredCandidate:
    return candidate._replace(on_trial=True)


def test_chance_depends_on_the_seed_and_the_place() -> None:
    candidates = [ScoredCandidate(0, number, None, on_trial=True) for number in range(50)]
    spread = Spread(limit=10, exploration=1.0)
    orders = {
        seed: tuple(p.candidate for p in arranged(candidates, replace(spread, seed=seed)))
        for seed in range(20)
    }
    assert len(set(orders.values())) == 20
    first = Counter(
        arranged(candidates, replace(spread, seed=seed))[0].candidate for seed in range(1_000)
    )
    assert len(first) == 50
    assert max(first.values()) < 60
