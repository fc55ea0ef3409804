"""What a profile would have served: pages that were served, in its order; and its next pages."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import (
    InvalidValue,
    Settings,
    UnknownFeed,
    UnknownProfile,
    activate_profile,
    create_profile,
    get_profile,
    replay_profile,
    run_transaction,
)
from recommender.evaluation.bootstrap import Interval
from recommender.evaluation.metrics import gini
from recommender.evaluation.off_policy import ProfileReplay
from recommender.evaluation.off_policy_pages import LoggedPages
from recommender.models import FeedSession, Interaction, ServedVideo, User, Video
from tests.scenarios.simulation import seeded_sessions
from tests.support.kinds import only_sqlite, slow_on_postgresql
from tests.support.worlds import (
    at,
    counted_statements,
    make_event,
    make_user,
    make_video,
    make_videos,
    record,
)

QUALITY = {"quality": 1.0}
FRESH = {"freshness": 1.0, "quality": 0.0}


@pytest.fixture
def world(engine: Engine) -> Engine:
    """Eight videos of eight creators, two viewers, and two profiles that recorded two signals."""

    def make(session: Session) -> None:
        for key in ("ana", "ben"):
            make_user(session, key)
        for number in range(1, 9):
            make_videos(session, f"v{number}", creator=f"c{number}")
        create_profile(session, "good", {**QUALITY, "freshness": 0.0})
        create_profile(session, "new", FRESH)

    run_transaction(engine, make)
    return engine


def serve(
    engine: Engine,
    videos: Mapping[str, tuple[float, float]],
    wanted: Sequence[str] = (),
    *,
    user: str = "ana",
    number: int = 1,
    profile: str = "good",
    first: int = 1,
    begun: float = 0,
    **changed: Mapping[str, Any],
) -> None:
    """A page of videos with their quality and freshness, all shown, some of them engaged with.

    Columns of single videos may be changed, of what was served and of the state that came of it.
    """

    def write(session: Session) -> None:
        user_id = session.scalars(sa.select(User.id).where(User.key == user)).one()
        ids = {row.key: row.id for row in session.execute(sa.select(Video.key, Video.id))}
        profile_id = get_profile(session, profile).id
        moment, name = at(begun), UUID(int=number)
        if first == 1:
            session.add(
                FeedSession(user_id=user_id, session=name, next_position=99, rewatch=False,
                            started_at=moment, last_at=moment)
            )  # fmt: skip
            session.flush()
        for position, (key, (quality, freshness)) in enumerate(videos.items(), start=first):
            named = changed.get(key, {})
            served = {
                "user_id": user_id, "session": name, "position": position, "video_id": ids[key],
                "page": first, "asked": 9, "served_at": moment, "profile_id": profile_id,
                "score_key": round(quality * 1e9), "sources": "", "explored": False,
                "crowded": False, "signals": {"quality": quality, "freshness": freshness},
            }  # fmt: skip
            state = {
                "user_id": user_id, "video_id": ids[key], "impressions": 1, "first_at": moment,
                "last_at": moment, "engaged_at": moment if key in wanted else None,
                "liked_at": None,
            }  # fmt: skip
            for row in (served, state):
                row.update({name: named[name] for name in row.keys() & named.keys()})
            session.execute(sa.insert(ServedVideo), [served])
            session.execute(sa.insert(Interaction), [state])

    run_transaction(engine, write)


def give(engine: Engine, video: str, creator: str) -> None:
    """Let a video be by another creator."""
    creator_id = sa.select(User.id).where(User.key == creator).scalar_subquery()
    change = sa.update(Video).where(Video.key == video).values(creator_id=creator_id)
    run_transaction(engine, lambda session: session.execute(change))


def replayed(engine: Engine, profile: str = "new", **options: Any) -> ProfileReplay:
    return replay_profile(engine, profile, **{"since": at(), "as_of": at(60), **options})


def value(found: Interval | None) -> float:
    assert found is not None
    return found.value


FOUR = {"v1": (0.9, 0.1), "v2": (0.8, 0.2), "v3": (0.7, 0.3), "v4": (0.6, 0.4)}


def test_a_page_is_put_into_the_candidates_order(world: Engine) -> None:
    serve(world, FOUR, ["v1", "v3", "v4"])
    found = replayed(world)
    assert (found.users, found.pages, found.hindsight.places) == (1, 1, 2)
    assert value(found.hindsight.logged) == 0.5
    assert value(found.hindsight.unweighted) == 1
    assert value(found.hindsight.overlap) == 0
    assert (found.profile, found.active, found.target) == ("new@1", "for_you@1", {"engaged": 1.0})


@pytest.mark.slow
def test_the_profile_that_served_would_have_served_the_same(world: Engine) -> None:
    serve(world, FOUR, ["v1", "v3"])
    serve(world, {"v5": (0.1, 0.1), "v6": (0.9, 0.9)}, ["v5"], first=5)  # as its host cut it
    found = replayed(world, "good").hindsight
    assert found.overlap == (1, 1, 1)
    assert found.unweighted == found.logged


@pytest.mark.slow
def test_a_copy_of_the_profile_that_served_gives_the_same_log(engine: Engine) -> None:
    """Pages of few creators and sounds that For You spread, ranked anew from what they recorded."""

    def live(session: Session) -> None:
        rows = [
            {
                "id": f"v{n}",
                "creator": f"c{n % 7}",
                "sound": f"s{n % 5}",
                "published_at": at(-60 * n),
            }
            for n in range(60)
        ]
        recommender.upsert_videos(session, rows)
        for user in ("ana", "ben"):
            make_user(session, user)
            cursor = None
            for minute in (0, 5):
                page = recommender.for_you(session, user, cursor=cursor, as_of=at(minute))
                cursor = page.cursor
                events = [
                    make_event("watch", item.video, user, at=at(minute + 1), completion=n % 3 / 2)
                    for n, item in enumerate(page.items)
                ]
                recommender.record_many(session, events)
        create_profile(session, "copy", get_profile(session).weights)

    with seeded_sessions():
        run_transaction(engine, live)
    for profile in ("copy", "for_you"):
        found = replayed(engine, profile)
        hindsight = found.hindsight
        assert hindsight.overlap == (1, 1, 1)
        assert hindsight.reordered
        assert hindsight.reordered.expected == pytest.approx(hindsight.logged, abs=1e-12)
        assert hindsight.reordered.change == pytest.approx((0, 0, 0), abs=1e-12)
        assert hindsight.reordered.effective == hindsight.places == 2 * 2 * 9
        assert [each.overlap for each in found.previews] == [(1, 1, 1)] * 2
    assert value(replayed(engine, "classic").hindsight.overlap) < 1


@pytest.mark.slow
def test_a_feeds_pages_are_reordered_within_its_limits_and_replayed_alone(engine: Engine) -> None:
    """A copy of the profile that served gives the same pages, in both versions of the feed."""
    chance = random.Random(4)  # noqa: S311 - not for secrets

    def live(session: Session) -> None:
        make_user(session, "ana")
        create_profile(session, "copy", get_profile(session).weights)
        for number in range(60):
            make_video(
                session, f"v{number}", creator=f"c{chance.randrange(9)}",
                sound=f"s{chance.randrange(9)}", format=chance.choice(["reel", "story"]),
                published_at=at(-60 * number),
            )  # fmt: skip
        for limits in ({"creator": (2, 9), "format": (2, 4)}, {"sound": (1, 6)}):
            recommender.create_feed(session, "reels", profile="for_you", limits=limits)
            watched(session, feed="reels")
        watched(session)

    def watched(session: Session, **asked: Any) -> None:
        cursor = None
        for minute in (0, 5):
            page = recommender.for_you(
                session, "ana", cursor=cursor, as_of=at(minute), limit=8, **asked
            )
            cursor, asked = page.cursor, {}
            for n, item in enumerate(page.items):
                record(session, "watch", item.video, "ana", at=at(minute + 1), completion=n % 2)

    with seeded_sessions():
        run_transaction(engine, live)
    for feed, served in ((None, 2), ("reels", 4)):
        found = replayed(engine, "copy", feed=feed)
        assert (found.feed, found.pages, found.hindsight.overlap) == (feed, served, (1, 1, 1))
    run_transaction(engine, lambda session: recommender.create_feed(session, "mail"))
    with pytest.raises(InvalidValue, match="no page of the feed mail was served"):
        replayed(engine, "copy", feed="mail")


@slow_on_postgresql
def test_limits_of_a_feed_count_the_pages_before(world: Engine) -> None:
    """Three places after v1 no other video of its creator may come, also on the next page."""
    give(world, "v8", "c1")

    def limited(session: Session) -> None:
        feed = recommender.create_feed(session, "reels", limits={"creator": (1, 4)})
        session.execute(sa.update(FeedSession).values(feed_id=feed.id))

    serve(world, {"v1": (0.9, 0.9), "v2": (0.8, 0.8)})
    serve(world, {"v7": (0.7, 0.1), "v8": (0.6, 0.9)}, ["v8"], first=3)
    assert value(replayed(world).hindsight.overlap) == 0.5
    run_transaction(world, limited)
    assert value(replayed(world, feed="reels").hindsight.overlap) == 1


@slow_on_postgresql
def test_the_next_pages_of_a_feed_are_made_by_it(world: Engine) -> None:
    def limited(session: Session) -> None:
        make_video(session, "story", creator="c1", format="story")
        own = {"profile": "good", "formats": ["story"], "memory": "own"}
        feed = recommender.create_feed(session, "stories", **own)
        session.execute(sa.update(FeedSession).values(feed_id=feed.id))

    serve(world, FOUR)
    run_transaction(world, limited)
    found = replayed(world, feed="stories")
    assert (found.active, found.videos) == ("good@1", 1)
    assert [each.coverage for each in found.previews] == [1, 1]
    with pytest.raises(InvalidValue, match="no page of For You was served"):
        replayed(world)
    run_transaction(world, lambda session: recommender.delete_feed(session, "stories"))
    with pytest.raises(UnknownFeed, match="there is no feed 'stories'"):
        replayed(world, feed="stories")


@slow_on_postgresql
def test_what_is_on_trial_keeps_its_place_and_says_what_places_are_worth(world: Engine) -> None:
    videos = {
        "v1": (0.9, 0.1), "v2": (0.8, 0.2), "v3": (0.7, 0.3), "v5": (0.1, 0.9), "v4": (0.6, 0.4),
        "v6": (0.5, 0.5), "v7": (0.2, 0.9),
    }  # fmt: skip
    explored = {key: {"explored": True} for key in ("v2", "v5", "v7")}
    serve(world, videos, ["v5", "v6"], **explored)
    found = replayed(world).hindsight
    assert found.places == 2
    assert value(found.overlap) == 0
    for target in ("engaged", "like"):
        tried = replayed(world, target=target).hindsight.by_exploration
        assert tried
        assert (tried.videos, tried.positives) == (2, 1)  # v2 would have been there by its score


@slow_on_postgresql
def test_what_is_ranked_by_about_one_score_says_what_places_are_worth(world: Engine) -> None:
    """Videos that were not shown do not count, and scores of other pages are not compared."""
    scores = {"v1": 0.9, "v2": 0.89, "v3": 0.88, "v4": 0.4, "v5": 0.5, "v6": 0.88}
    videos = {key: (score, score) for key, score in scores.items()}
    serve(world, videos, ["v1", "v4", "v6"], v6={"impressions": 0, "engaged_at": None})
    serve(world, {"v7": (0.9, 0.9), "v8": (0.89, 0.89)}, ["v7"], first=7)
    found = replayed(world, target="like").hindsight.reordered
    assert found
    assert (found.videos, found.positives) == (3, 1)
    assert value(found.expected) == 0


@slow_on_postgresql
def test_only_what_was_shown_and_new_counts(world: Engine) -> None:
    seen_before, not_shown = {"first_at": at(-6)}, {"impressions": 0, "engaged_at": None}
    serve(world, {**FOUR, "v5": (0.5, 0.9), "v6": (0.4, 0.8)}, ["v5", "v6"],
          v5=seen_before, v6=not_shown)  # fmt: skip
    found = replayed(world).hindsight
    assert (found.places, value(found.logged), value(found.unweighted)) == (2, 0, 0)


@slow_on_postgresql
def test_what_came_before_a_rewatch_is_no_outcome_of_it(world: Engine) -> None:
    """Who rewatches at once has seen it within the minutes that clocks may differ by."""
    minutes_ago, since = {"first_at": at(-2)}, {"first_at": at(1)}
    changed = {"v1": minutes_ago, "v2": minutes_ago, "v3": since, "v4": since}
    serve(world, FOUR, ["v1", "v2", "v3"], **changed)
    assert replayed(world).hindsight.places == 2
    again = sa.update(FeedSession).values(rewatch=True)
    run_transaction(world, lambda session: session.execute(again))
    found = replayed(world).hindsight
    assert (found.places, value(found.logged), value(found.unweighted)) == (1, 1, 0)


@pytest.mark.slow
def test_a_profile_that_begins_to_serve_meanwhile_is_known_or_not_met(world: Engine) -> None:
    serve(world, FOUR, ["v1"])

    def begin(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "rec_feed_" in statement and not made:
            made.append(True)
            weights = {"quality": 0.5, "freshness": 0.5}
            run_transaction(world, lambda session: create_profile(session, "late", weights))
            serve(world, {"v5": (0.1, 0.1), "v6": (0.2, 0.2)}, user="ben", number=2, profile="late")

    made: list[bool] = []
    sa.event.listen(world, "before_cursor_execute", begin)
    try:
        found = replayed(world)
    finally:
        sa.event.remove(world, "before_cursor_execute", begin)
    assert (made, found.pages >= 1) == ([True], True)


@slow_on_postgresql
def test_the_creator_of_the_video_before_counts_over_two_pages(world: Engine) -> None:
    """What would have come first is by the creator of the page before's last, and so comes next."""
    give(world, "v8", "c2")
    serve(world, {"v1": (0.9, 0.9), "v2": (0.8, 0.8)})
    serve(world, {"v7": (0.7, 0.1), "v8": (0.6, 0.9)}, ["v8"], first=3)
    found = replayed(world).hindsight
    assert (found.places, value(found.overlap), value(found.unweighted)) == (2, 1, 0)


@slow_on_postgresql
def test_the_reference_formula_spreads_nothing(world: Engine) -> None:
    give(world, "v2", "c1")
    liked = {"signals": {"likes": 1.0}}
    videos = {each: FOUR[each] for each in ("v3", "v4", "v1", "v2")}
    serve(world, videos, profile="for_you", v1=liked, v2=liked)
    assert value(replayed(world, "classic").hindsight.overlap) == 0


@only_sqlite
def test_pages_of_the_reference_formula_have_no_places(world: Engine) -> None:
    serve(world, FOUR, profile="classic")
    with pytest.raises(InvalidValue, match="of classic"):
        replayed(world, "classic")


@slow_on_postgresql
def test_a_hosts_own_signal_keeps_its_weight(world: Engine) -> None:
    served = {"signals": {"quality": 0.9, "freshness": 0.1, "ours": [0.5, 4.0]}}
    serve(world, FOUR, ["v1"], v1=served)
    found = replayed(world).hindsight
    assert value(found.unweighted) == 0.5
    assert value(found.overlap) == 0.5


@pytest.mark.slow
def test_pages_that_recorded_too_little_are_left_out(world: Engine) -> None:
    weights = {"freshness": 1.0, "social": 2.0, "caption": 0.0}
    run_transaction(world, lambda session: create_profile(session, "social", weights))
    serve(world, FOUR)
    with pytest.raises(
        InvalidValue, match="social@1 weighs what no page was recorded with: social"
    ):
        replayed(world, "social")
    serve(world, {"v5": (0.1, 0.1), "v6": (0.2, 0.2)}, user="ben", number=2, profile="social")
    found = replayed(world, "social")
    assert (found.users, found.pages, found.left_out, found.not_recorded) == (1, 1, 1, ("social",))


@slow_on_postgresql
def test_sessions_that_began_within_two_times_are_whole(world: Engine) -> None:
    for number, begun in enumerate((0, 10, 20), start=1):
        videos = {f"v{2 * number + n}": (0.5, 0.5) for n in (0, 1)}
        serve(world, videos, user="ben", number=number, begun=begun)
    assert replayed(world).pages == 3
    assert replayed(world, since=at(10)).pages == 2
    assert replayed(world, since=at(10), until=at(20)).pages == 1
    with pytest.raises(InvalidValue, match="no page of For You was served"):
        replayed(world, since=at(21))
    with pytest.raises(InvalidValue, match="is not after since"):
        replayed(world, until=at())


@slow_on_postgresql
def test_the_label_is_the_value_of_what_happened(world: Engine) -> None:
    serve(world, FOUR, v1={"liked_at": at()})
    assert value(replayed(world, target="like").hindsight.logged) == 0.5
    assert value(replayed(world, target="share").hindsight.logged) == 0
    assert value(replayed(world, target="engaged=1,like=3").hindsight.logged) == 0.375
    found = replayed(world, target={"engaged": 1, "like": 4})
    assert value(found.hindsight.logged) == 0.4
    assert found.target == {"engaged": 1, "like": 4}


@pytest.mark.slow
def test_next_pages_are_compared_with_those_of_the_active_profile(world: Engine) -> None:
    """Two videos were served to ana, four to ben: six and four are left, out of eight."""

    def prepare(session: Session) -> None:
        make_videos(session, "hidden", creator="c1", status="review")
        make_videos(session, "later", creator="c1", published_at=at(90))
        activate_profile(session, "good")

    run_transaction(world, prepare)
    serve(world, {"v1": (0.5, 0.5), "v2": (0.5, 0.5)})
    serve(world, {f"v{n}": (0.5, 0.5) for n in (1, 2, 3, 4)}, user="ben", number=2)
    found = replayed(world)
    assert (found.active, found.videos, found.preview_users) == ("good@1", 8, 2)
    assert [each.profile for each in found.previews] == ["new@1", "good@1"]
    for each in found.previews:
        assert each.overlap == (1, 1, 1)
        assert each.coverage == 6 / 8
        assert each.creator_gini == pytest.approx(gini([2, 2, 2, 2, 1, 1, 0, 0]))


@pytest.mark.slow
def test_of_pages_that_share_a_part_the_overlap_is_that_part(engine: Engine) -> None:
    def make(session: Session) -> None:
        make_user(session, "ana")
        make_videos(session, *(f"v{n}" for n in range(30)), published_at=at(-1000))
        make_videos(session, *(f"w{n}" for n in range(10)), published_at=at(-10), language="en")
        for name, weight in (("new", 1.0), ("old", -1.0)):
            create_profile(session, name, {"freshness": weight})
        activate_profile(session, "new")
        recommender.for_you(session, "ana", limit=2, as_of=at(), profile="old", settings=settings)

    settings = Settings(exploration_share=0)
    run_transaction(engine, make)
    found = replay_profile(engine, "old", since=at(), as_of=at(1), settings=settings)
    assert value(found.previews[0].overlap) == 10 / 20
    assert value(found.previews[1].overlap) == 1


@pytest.mark.slow
def test_a_sample_of_those_who_came_is_drawn_by_the_seed(world: Engine) -> None:
    """Everybody's page is the same here: who is sampled shows in the statements."""
    keys = [f"user{n}" for n in range(12)]

    def come(session: Session) -> None:
        for key in keys:
            make_user(session, key)

    run_transaction(world, come)
    for number, key in enumerate(keys):
        serve(world, {"v1": (0.5, 0.5), "v2": (0.5, 0.5)}, user=key, number=number)

    def sampled(seed: int) -> list[int]:
        with Session(world) as session:
            log = LoggedPages(session, get_profile(session, "new"), Settings(), 3, seed)
            log.read({"engaged": 1.0}, at(), at(9), lambda *_: None)
            return sorted(log.sampled)

    drawn = {tuple(sampled(seed)) for seed in range(20)}
    assert sampled(1) == sampled(1)
    assert all(len(set(each)) == 3 for each in drawn)
    assert len({user for each in drawn for user in each}) == 12
    assert replayed(world, sample=3).preview_users == 3
    assert replayed(world).preview_users == 12


@pytest.mark.slow
def test_what_the_candidate_learned_from_is_said(world: Engine) -> None:
    serve(world, FOUR)
    learned = {"learned_until": "2026-01-01T12:30:00Z"}
    run_transaction(world, lambda s: create_profile(s, "fitted", QUALITY, metrics=learned))
    serve(world, FOUR, user="ben", number=2, begun=30)
    found = replayed(world, "fitted")
    assert (found.learned_until, found.is_flattered) == (at(30), True)
    assert not replayed(world, "fitted", since=at(30)).is_flattered
    assert replayed(world).learned_until is None


@pytest.mark.slow
def test_it_only_reads_and_in_as_many_statements_for_any_log(world: Engine) -> None:
    serve(world, FOUR)
    with counted_statements(world) as sent:
        replayed(world, sample=1)
    serve(world, FOUR, user="ben", number=2)
    serve(world, {"v5": (0.1, 0.1), "v6": (0.2, 0.2)}, user="ben", number=3)
    with counted_statements(world) as more:
        replayed(world, sample=1)
    assert len(more) == len(sent)
    assert {each.split()[0] for each in more} == {"SELECT", "WITH"}


@only_sqlite
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sample": 0}, "sample: 0 is no whole number of at least 1"),
        ({"sample": "x"}, "sample: 'x' is no whole number of at least 1"),
        ({"sample": 1.5}, "sample: 1.5 is no whole number of at least 1"),
        ({"target": "love"}, "target: 'love' is not one of"),
        ({"since": at().replace(tzinfo=None)}, "has no offset"),
        ({"as_of": at().replace(tzinfo=None)}, "as_of: .* has no offset"),
    ],
)
def test_what_is_not_of_its_form_is_refused(
    world: Engine, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidValue, match=said):
        replayed(world, **options)


@only_sqlite
def test_an_unknown_profile_is_refused(world: Engine) -> None:
    with pytest.raises(UnknownProfile, match="there is no profile 'none'"):
        replayed(world, "none")


@only_sqlite
def test_progress_is_told_of_each_stage(world: Engine) -> None:
    serve(world, FOUR)
    told: list[tuple[str, int, int]] = []
    replayed(world, progress=lambda *each: told.append(each))
    assert told == [
        ("reading", 1, 1), ("reading", 1, 1), ("pages of new@1", 1, 1),
        ("pages of for_you@1", 1, 1),
    ]  # fmt: skip


@only_sqlite
def test_a_replay_is_plain_data(world: Engine) -> None:
    serve(world, FOUR, ["v1", "v3"])
    plain = replayed(world, until=at(9)).as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["since"], plain["until"]) == ("2026-01-01T12:00:00Z", "2026-01-01T12:09:00Z")
    assert plain["hindsight"]["logged"]["value"] == 0.5
    assert plain["previews"][0]["overlap"] == {"value": 1, "low": 1, "high": 1}
