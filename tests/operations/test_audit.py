"""What an audit finds in pages that were written by hand, and that it finds nothing else."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, MetaData, UniqueConstraint
from sqlalchemy.orm import Session

import recommender
from recommender import InvalidValue, cli, unmute
from recommender.models import (
    Block,
    FeedSession,
    FeedVersion,
    Follow,
    Interaction,
    MutedCreator,
    MutedHashtag,
    MutedKeyword,
    MutedSound,
    ProfileVersion,
    ServedVideo,
    Sound,
    User,
    Video,
)
from recommender.operations.audit import PROMISES, Audit, audit
from tests.support.kinds import slow_on_postgresql
from tests.support.readme import EVERYTHING
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    follow,
    make_user,
    make_video,
    make_videos,
    mute,
    record,
)

pytestmark = slow_on_postgresql

NOTHING = Audit(
    **{each.name: 0 for each in fields(Audit) if "None" not in str(each.type)},
    explored_share=None,
    small_creators_share=None,
    creator_gini=None,
)


def serve(
    session: Session,
    *videos: str,
    user: str = "viewer",
    sitting: int = 1,
    moment: datetime = NOON,
    profile: str = "for_you",
    rewatch: bool = False,
    asked: int | None = None,
    crowded: Iterable[str] = (),
    explored: Iterable[str] = (),
    attempt: int | None = None,
    refilled: Iterable[str] = (),
    feed_id: int | None = None,
) -> FeedSession:
    """Write a page as it is recorded, at the end of a sitting that is begun where it is new."""
    owner = id_of(session, User, user)
    key = {"user_id": owner, "session": UUID(int=sitting)}
    times = {"started_at": moment, "last_at": moment}
    begun = session.get(FeedSession, key)
    own = {"rewatch": rewatch, "feed_id": feed_id}
    begun = begun or FeedSession(**key, next_position=1, **own, **times)
    session.add(begun)
    session.flush()
    version = session.scalars(sa.select(ProfileVersion.id).where(ProfileVersion.name == profile))
    page: dict[str, Any] = {
        **key, "page": begun.next_position, "asked": len(videos) if asked is None else asked,
        "served_at": moment, "profile_id": version.one(), "score_key": 0, "sources": "newest",
        "signals": {},
    }  # fmt: skip
    places = [
        {**page, "position": position, "video_id": id_of(session, Video, video),
         "explored": video in explored, "crowded": video in crowded,
         "refilled": video in refilled, "attempt": attempt}
        for position, video in enumerate(videos, start=begun.next_position)
    ]  # fmt: skip
    session.execute(sa.insert(ServedVideo), places)
    begun.next_position += len(videos)
    begun.last_at = max(moment, begun.last_at)
    session.flush()
    return begun


def id_of(session: Session, table: type[User | Video], key: str) -> int:
    return session.scalars(sa.select(table.id).where(table.key == key)).one()


def make_unlike(session: Session, *keys: str) -> None:
    """A video by a creator of its own for each key."""
    for key in keys:
        make_video(session, key, creator=f"by {key}")


def found(session: Session) -> dict[str, int]:
    """The promises that were broken, and how often."""
    report = audit(session)
    return {name: getattr(report, name) for name in report.broken}


def test_nothing_was_served(session: Session) -> None:
    assert audit(session) == NOTHING
    make_videos(session, "a", "b")
    assert audit(session) == NOTHING
    assert NOTHING.broken == ()


def test_what_there_is_is_counted(session: Session) -> None:
    for user in ("viewer", "other", "nobody"):
        make_user(session, user)
    make_unlike(session, *"abcdefg")
    serve(session, *"abc", explored="b")
    serve(session, *"de", asked=3, explored="de")
    serve(session, *"fg", sitting=2, moment=at(9))
    serve(session, "a", user="other", asked=20)
    report = audit(session)
    assert (report.sessions, report.pages, report.items, report.users) == (3, 4, 8, 2)
    assert (report.explored_share, report.short_pages) == (3 / 8, 2)
    assert report.broken == ()


def test_a_page_longer_than_asked_is_not_short(session: Session) -> None:
    make_user(session)
    make_unlike(session, *"ab")
    serve(session, *"ab", asked=1)
    assert audit(session).short_pages == 0


@pytest.mark.parametrize(
    ("shared", "name"),
    [({"creator": "star"}, "neighbours_creator"), ({"sound": "song"}, "neighbours_sound")],
)
def test_two_neighbours_are_unlike_or_marked_as_crowded(
    session: Session, shared: dict[str, str], name: str
) -> None:
    for user in ("viewer", "other"):
        make_user(session, user)
    for key in "abc":
        make_video(session, key, **{"creator": f"by {key}", **shared})
    make_unlike(session, *"xyz")
    serve(session, "a", "x", "b", "y")
    serve(session, "c", sitting=2, moment=at(1))
    serve(session, "a", user="other")
    serve(session, "b", user="other", crowded="b")
    serve(session, *"ab", user="other", sitting=3, moment=at(2), profile="classic")
    assert (found(session), audit(session).crowded) == ({}, 1)
    serve(session, *"abc", user="other", sitting=4, rewatch=True, moment=at(3), crowded="ac")
    assert (found(session), audit(session).crowded) == ({name: 1}, 3)


def test_neighbours_are_neighbours_across_pages(session: Session) -> None:
    make_user(session)
    make_videos(session, "a", "b", creator="star", sound="song")
    serve(session, "a")
    assert found(session) == {}
    serve(session, "b")
    assert found(session) == {"neighbours_creator": 1, "neighbours_sound": 1}


def test_videos_without_a_sound_share_none(session: Session) -> None:
    make_user(session)
    make_unlike(session, *"ab")
    serve(session, *"ab")
    assert found(session) == {}


def test_nothing_is_served_again(session: Session) -> None:
    for user in ("viewer", "other"):
        make_user(session, user)
    make_unlike(session, *"abc")
    serve(session, *"ab")
    serve(session, "a", user="other", sitting=2, moment=at(1))
    serve(session, "a", sitting=3, moment=at(1), rewatch=True)
    serve(session, "a", sitting=4, moment=at(2), profile="classic")
    serve(session, "c", sitting=4, moment=at(3))
    assert found(session) == {}
    serve(session, *"ac", sitting=5, moment=at(4))
    assert found(session) == {"served_again": 2}


def test_what_a_page_of_classic_served_is_served(session: Session) -> None:
    make_user(session)
    make_unlike(session, "a")
    serve(session, "a", profile="classic")
    serve(session, "a", sitting=2, moment=at(-1))
    assert found(session) == {}
    serve(session, "a", sitting=3, moment=at(1))
    assert found(session) == {"served_again": 1}


def test_what_a_rewatch_page_shows_was_not_served_before_nor_after(session: Session) -> None:
    make_user(session)
    make_unlike(session, "a")
    serve(session, "a", rewatch=True, moment=at(-1))
    serve(session, "a", sitting=2)
    serve(session, "a", sitting=3, rewatch=True, moment=at(1))
    assert found(session) == {}


def test_of_two_at_the_same_moment_one_is_served_again(session: Session) -> None:
    make_user(session)
    make_unlike(session, "a")
    serve(session, "a", sitting=1)
    serve(session, "a", sitting=2)
    assert found(session) == {"served_again": 1}


def test_what_was_seen_before_is_a_figure(session: Session) -> None:
    for user in ("viewer", "other"):
        make_user(session, user)
    make_unlike(session, *"ab")
    record(session, "impression", "a", at=at(10))
    record(session, "impression", "a", user="other", at=at(-10))
    serve(session, *"ab", moment=at(10))
    serve(session, "a", sitting=2, moment=at(20), rewatch=True)
    serve(session, "a", sitting=3, moment=at(30), profile="classic")
    assert (audit(session).seen_before, found(session)) == (0, {})
    record(session, "like", "a", at=at(9))
    record(session, "like", "b", at=at(8))
    assert (audit(session).seen_before, found(session)) == (2, {})


def test_no_video_is_served_to_its_creator(session: Session) -> None:
    make_user(session)
    make_unlike(session, *"abc")
    make_video(session, "mine", creator="viewer")
    serve(session, "a", "mine", profile="classic")
    make_user(session, "by a")
    serve(session, "mine", "b", user="by a")
    assert found(session) == {}
    serve(session, "c", "mine", sitting=2, moment=at(-1), rewatch=True)
    assert found(session) == {"own": 1}


@pytest.mark.parametrize(("blocker", "other"), [("viewer", "by b"), ("by b", "viewer")])
def test_no_video_is_served_across_a_block_made_before(
    session: Session, blocker: str, other: str
) -> None:
    for user in ("viewer", "other"):
        make_user(session, user)
    make_unlike(session, *"ab")
    recommender.block(session, blocker, other, at=at(5))
    serve(session, *"ab", moment=at(5))
    serve(session, *"ab", user="other", moment=at(6))
    serve(session, "a", sitting=2, moment=at(6), rewatch=True)
    assert found(session) == {}
    serve(session, "b", sitting=3, moment=at(6), rewatch=True)
    assert found(session) == {"blocked": 1}
    recommender.unblock(session, blocker, other)
    assert found(session) == {}


MUTES = [
    ("creator", "star"), ("sound", "song"), ("creator", "composer"), ("hashtag", "spam"),
    ("keyword", "bad words"),
]  # fmt: skip


@pytest.fixture
def loud(session: Session) -> Session:
    """A session with a video that can be muted in each way, and one that cannot."""
    for user in ("viewer", "other", "composer"):
        make_user(session, user)
    caption = "so: Bad words! #spam"
    make_video(session, "loud", creator="star", sound="song", caption=caption)
    song = session.scalars(sa.select(Sound).where(Sound.key == "song")).one()
    song.creator_id = id_of(session, User, "composer")
    make_video(session, "calm", creator="poet", sound="birds", caption="bad #words, spam words")
    return session


@pytest.mark.parametrize(("kind_of_mute", "value"), MUTES)
def test_what_was_muted_by_then_is_not_served(loud: Session, kind_of_mute: str, value: str) -> None:
    mute(loud, "viewer", kind_of_mute, value, at=at(5))
    serve(loud, "loud", "calm", moment=at(4))
    serve(loud, "loud", "calm", user="other", moment=at(6))
    serve(loud, "loud", sitting=2, moment=at(6), profile="classic")
    assert found(loud) == {}
    serve(loud, "loud", sitting=3, moment=at(5), rewatch=True)
    assert found(loud) == {}
    serve(loud, "loud", sitting=4, moment=at(5.1), rewatch=True)
    assert found(loud) == {"muted": 1}
    serve(loud, "loud", sitting=5, moment=at(7), rewatch=True)
    assert found(loud) == {"muted": 2}
    unmute(loud, "viewer", kind_of_mute, value)
    assert found(loud) == {}
    mute(loud, "viewer", kind_of_mute, value, at=at(6))
    assert found(loud) == {"muted": 1}


def test_what_was_muted_in_many_ways_is_one(loud: Session) -> None:
    for kind_of_mute, value in (*MUTES, ("keyword", "words"), ("hashtag", "other")):
        mute(loud, "viewer", kind_of_mute, value, at=at(-5))
    serve(loud, "loud")
    assert found(loud) == {"muted": 1}


@pytest.mark.parametrize(
    ("next_position", "moved"), [(4, {}), (2, {}), (1, {}), (0, {}), (3, {2: 3}), (3, {1: 0}),
                                 (4, {2: 3}), (3, {2: 3, 1: 2}), (4, {2: 3, 1: 2})],
)  # fmt: skip
def test_positions_are_in_order_without_a_gap(
    session: Session, next_position: int, moved: dict[int, int]
) -> None:
    make_user(session)
    make_unlike(session, *"abcd")
    begun = serve(session, *"ab")
    serve(session, *"cd", sitting=2, moment=at(1))
    assert found(session) == {}
    begun.next_position = next_position
    for before, after in moved.items():
        place = session.get_one(ServedVideo, (begun.user_id, begun.session, before))
        place.position = after
        session.flush()
    assert found(session) == {"out_of_order": 1}


def test_a_session_that_served_nothing_yet_is_in_order(session: Session) -> None:
    make_user(session)
    make_unlike(session, "a")
    begun = serve(session, "a")
    session.execute(sa.delete(ServedVideo))
    assert found(session) == {"out_of_order": 1}
    begun.next_position = 1
    session.flush()
    assert audit(session) == replace(NOTHING, sessions=1)


def allow_repeats(session: Session) -> None:
    """Make the table anew without the constraint that makes a repeat impossible."""
    table = ServedVideo.__table__
    loose = sa.Table(table.name, MetaData(), *(column._copy() for column in table.c))
    assert not [each for each in loose.constraints if isinstance(each, UniqueConstraint)]
    loose.drop(session.connection())
    loose.create(session.connection())


def test_a_session_repeats_no_video(engine: Engine) -> None:
    with Session(engine.execution_options(recommender_write=True)) as session:
        allow_repeats(session)
        make_user(session)
        make_unlike(session, *"abc")
        serve(session, *"ab")
        serve(session, "a", sitting=2, moment=at(-1))
        serve(session, "b", sitting=3, profile="classic", moment=at(5))
        assert found(session) == {"served_again": 1}
        serve(session, *"acbac", moment=at(1))
        assert found(session) == {"served_again": 1, "repeats": 4}


def test_since_looks_at_whole_sessions_that_went_on(session: Session) -> None:
    make_user(session)
    make_unlike(session, *"abc")
    serve(session, *"ab")
    serve(session, *"a", sitting=2, moment=at(10), asked=2)
    serve(session, *"b", sitting=2, moment=at(20))
    serve(session, *"c", sitting=3, moment=at(30))
    wanted = {at(-1): 3, at(0): 3, at(1): 2, at(20): 2, at(21): 1, at(31): 0}
    assert {since: audit(session, since=since).sessions for since in wanted} == wanted
    late = audit(session, since=at(20))
    assert (late.items, late.pages, late.short_pages, late.served_again) == (3, 3, 1, 2)
    assert audit(session, since=at(21)).broken == ()
    assert audit(session, since=at(31)) == NOTHING


def test_since_has_an_offset(session: Session) -> None:
    with pytest.raises(InvalidValue, match="has no offset"):
        audit(session, since=NOON.replace(tzinfo=None))


def test_places_are_shared_equally_or_not(session: Session) -> None:
    make_user(session)
    for creator in ("one", "two", "three", "four"):
        make_videos(session, *(f"{creator} {n}" for n in range(6)), creator=creator)
    serve(session, "one 0")
    assert audit(session).creator_gini == 0
    serve(session, "two 0")
    assert audit(session).creator_gini == 0
    serve(session, "three 0", "two 1", "three 1", "two 2", "three 2", "two 3", "three 3")
    assert audit(session).creator_gini == pytest.approx(2 * (1 + 8 + 12) / (3 * 9) - 4 / 3)


@pytest.mark.parametrize(
    ("followers", "small"),
    [
        ((0, 1, 2), 3 / 7), ((0, 1, 2, 3), 3 / 15), ((0, 0, 0, 3), 7 / 15), ((0, 2, 2, 3), 7 / 15),
        ((3, 1, 1, 1), 14 / 15), ((2, 1, 0), 6 / 7), ((1, 1), 1), ((5,), 1),
    ],
)  # fmt: skip
def test_the_less_followed_half_has_a_share(
    session: Session, followers: tuple[int, ...], small: float
) -> None:
    make_user(session)
    make_user(session, "star without videos")
    make_video(session, "draft", creator="drafter", status="review")
    for number in range(5):
        follow(session, make_user(session, f"fan {number}"), "star without videos")
    for number, fans in enumerate(followers):
        keys = [f"{number} {each}" for each in range(2**number)]
        make_videos(session, *keys, creator=f"creator {number}")
        serve(session, *keys, sitting=number, moment=at(number), crowded=keys[1:])
        for fan in range(fans):
            follow(session, f"fan {fan}", f"creator {number}")
    assert audit(session).small_creators_share == small


def test_who_has_no_published_video_is_no_creator_but_has_places(session: Session) -> None:
    make_user(session)
    make_unlike(session, *"abc")
    follow(session, "viewer", "by a")
    serve(session, *"abc")
    assert audit(session).small_creators_share == 2 / 3
    make_video(session, "b", creator="by b", status="removed")
    make_video(session, "c", creator="by c", status="review")
    assert audit(session).small_creators_share == 1 / 3
    make_video(session, "a", creator="by a", status="removed")
    assert audit(session).small_creators_share == 0


WORDS = ("cat", "dog", "sun")


def random_world(session: Session, seed: int) -> None:
    """Pages, mutes, events and follows of few users and many coincidences."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    users = [make_user(session, f"u{n}") for n in range(4)]
    videos = [random_video(session, f"v{n}", chance) for n in range(14)]
    for song in session.scalars(sa.select(Sound).order_by(Sound.key)):
        song.creator_id = id_of(session, User, chance.choice(users))
    for user in users:
        random_behaviour(session, user, users, videos, chance)
    limited = recommender.create_feed(session, "reels", memory="own", limits={"creator": (1, 4)})
    feeds = [None, limited.id, recommender.create_feed(session, "mail").id]
    for sitting in range(14):
        left = chance.sample(videos, 10)
        owner, rewatch = chance.choice(users), chance.random() < 0.3
        for page in range(chance.randrange(1, 4)):
            shown = [left.pop() for _ in range(chance.randrange(1, 4))]
            serve(
                session, *shown, user=owner, sitting=sitting, rewatch=rewatch,
                moment=at(chance.randrange(20) + page), asked=chance.randrange(1, 4),
                profile=chance.choice(["for_you", "for_you", "classic"]),
                crowded=chance.sample(shown, 1), explored=chance.sample(shown, 1),
                attempt=chance.choice([None, 1, 3, 4]), refilled=shown[: chance.randrange(2)],
                feed_id=feeds[sitting % 3],
            )  # fmt: skip
    begun = session.scalars(sa.select(FeedSession).order_by(FeedSession.session)).all()
    for each in chance.sample(begun, 3):
        each.next_position += chance.choice([-1, 1])
    for each in begun:
        each.seen_until = chance.randrange(each.next_position)
    session.flush()


def random_video(session: Session, key: str, chance: random.Random) -> str:
    return make_video(
        session, key, creator=f"u{chance.randrange(4)}",
        sound=chance.choice([None, "s0", "s1", "s2", "s3"]),
        hashtags=chance.sample(WORDS, chance.randrange(3)),
        caption=" ".join(chance.sample(WORDS, chance.randrange(1, 4))),
        status=chance.choice(["published", "published", "published", "removed"]),
    )  # fmt: skip


def random_behaviour(
    session: Session, user: str, users: list[str], videos: list[str], chance: random.Random
) -> None:
    others = [each for each in users if each != user]
    for creator in chance.sample(others, chance.randrange(3)):
        follow(session, user, creator)
    for video in chance.sample(videos, 4):
        record(session, "like", video, user, at=at(chance.randrange(20)))
    ways = [("creator", chance.choice(others)), ("sound", "s1"), ("hashtag", "cat"),
            ("keyword", "dog sun")]  # fmt: skip
    for kind_of_mute, value in chance.sample(ways, chance.randrange(3)):
        mute(session, user, kind_of_mute, value, at=at(chance.randrange(20)))
    recommender.block(session, user, chance.choice(others), at=at(chance.randrange(20)))


def audited_in_python(session: Session, since: datetime | None = None) -> Audit:
    """The same, row by row."""
    sessions = {
        (each.user_id, each.session): each
        for each in session.scalars(sa.select(FeedSession))
        if since is None or each.last_at >= since
    }
    every = session.scalars(sa.select(ServedVideo).order_by(*ServedVideo.__table__.primary_key))
    all_places = list(every)
    places = [each for each in all_places if (each.user_id, each.session) in sessions]
    videos = {each.id: each for each in session.scalars(sa.select(Video))}
    classic = session.scalars(
        sa.select(ProfileVersion.id).where(ProfileVersion.name == "classic")
    ).all()
    promising = [each for each in places if each.profile_id not in classic]
    new = [each for each in promising if not sessions[each.user_id, each.session].rewatch]
    is_rewatch = dict(session.execute(sa.select(FeedSession.session, FeedSession.rewatch)).all())
    limited = sa.select(FeedVersion.id).where(FeedVersion.name == "reels").scalar_subquery()
    of_feed = sa.select(FeedSession.session).where(FeedSession.feed_id == limited)
    own = set(session.scalars(of_feed))
    ordinary = [each for each in all_places if not is_rewatch[each.session]]
    pages = Counter((each.user_id, each.session, each.page, each.asked) for each in places)
    pairs = [
        (videos[one.video_id], videos[other.video_id])
        for one, other in pairwise(places)
        if one.session == other.session and not other.crowded and other in promising
    ]
    creators = Counter(videos[each.video_id].creator_id for each in places)
    return Audit(
        sessions=len(sessions),
        pages=len(pages),
        items=len(places),
        users=len({each.user_id for each in places}),
        repeats=len(places) - len({(each.session, each.video_id) for each in places}),
        neighbours_creator=sum(one.creator_id == other.creator_id for one, other in pairs),
        neighbours_sound=sum(
            one.sound_id == other.sound_id for one, other in pairs if one.sound_id is not None
        ),
        beyond_limits=sum(
            each.session in own and not each.crowded and is_beyond(each, places, videos)
            for each in promising
        ),
        crowded=sum(each.crowded for each in places),
        served_again=sum(was_served(each, ordinary, own) for each in new if not each.refilled),
        served_too_often=sum((each.attempt or 0) > 3 for each in new if not each.refilled),
        unseen=sum(
            sessions[each.user_id, each.session].seen_until < each.position
            and not has_outcome(session, each, all_places)
            for each in new
        ),
        seen_before=sum(was_seen(session, each) for each in new),
        muted=sum(was_muted(session, each, videos[each.video_id]) for each in promising),
        blocked=sum(was_blocked(session, each, videos[each.video_id]) for each in places),
        own=sum(videos[each.video_id].creator_id == each.user_id for each in promising),
        out_of_order=sum(
            [place.position for place in places if place.session == each.session]
            != list(range(1, each.next_position))
            for each in sessions.values()
        ),
        explored_share=sum(each.explored for each in places) / len(places),
        short_pages=sum(number < asked for (*_, asked), number in pages.items()),
        small_creators_share=small_share(session, creators, videos.values()),
        creator_gini=gini(list(creators.values())),
    )


def is_beyond(place: ServedVideo, places: list[ServedVideo], videos: dict[int, Video]) -> bool:
    """Whether one of the three places before it is by the same creator."""
    return any(
        each.session == place.session
        and 0 < place.position - each.position < 4
        and videos[each.video_id].creator_id == videos[place.video_id].creator_id
        for each in places
    )


def was_served(place: ServedVideo, places: list[ServedVideo], own: set[UUID]) -> bool:
    """Whether the same memory had the video before; `own` are the sessions of another memory."""
    return any(
        (each.served_at, each.session.int) < (place.served_at, place.session.int)
        for each in places
        if (each.user_id, each.video_id) == (place.user_id, place.video_id)
        and each.session != place.session
        and (each.session in own) == (place.session in own)
    )


def has_outcome(session: Session, place: ServedVideo, places: list[ServedVideo]) -> bool:
    done = session.get(Interaction, (place.user_id, place.video_id))
    last = [
        (each.served_at, each.session.int)
        for each in places
        if (each.user_id, each.video_id) == (place.user_id, place.video_id)
        and done is not None
        and each.served_at <= done.first_at + timedelta(minutes=5)
    ]
    return bool(last) and max(last) == (place.served_at, place.session.int)


def was_seen(session: Session, place: ServedVideo) -> bool:
    done = session.get(Interaction, (place.user_id, place.video_id))
    return done is not None and done.first_at < place.served_at


def was_muted(session: Session, place: ServedVideo, video: Video) -> bool:
    owner = video.sound.creator_id if video.sound else None
    keys: list[tuple[Any, Any]] = [
        (MutedCreator, video.creator_id), (MutedCreator, owner), (MutedSound, video.sound_id),
        *((MutedHashtag, tag.id) for tag in video.hashtags),
        *((MutedKeyword, " dog sun ") for _ in range("dog sun" in str(video.caption))),
    ]  # fmt: skip
    mutes = [session.get(table, (place.user_id, key)) for table, key in keys if key is not None]
    return any(each and each.muted_at < place.served_at for each in mutes)


def was_blocked(session: Session, place: ServedVideo, video: Video) -> bool:
    keys = [(place.user_id, direction, video.creator_id) for direction in ("by_me", "of_me")]
    blocks = [session.get(Block, key) for key in keys]
    return any(each and each.blocked_at < place.served_at for each in blocks)


def small_share(session: Session, served: Counter[int], videos: Iterable[Video]) -> float:
    followers = Counter(session.scalars(sa.select(Follow.creator_id)))
    creators = {each.creator_id for each in videos if each.status == "published"}
    middle = median(followers[each] for each in creators)
    small = [each for each in creators if followers[each] <= middle]
    return sum(served[each] for each in small) / served.total()


def gini(numbers: list[int]) -> float:
    """Half the mean difference of any two, by the mean."""
    differences = sum(abs(one - other) for one in numbers for other in numbers)
    return differences / (2 * len(numbers) * sum(numbers))


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_an_audit_counts_what_plain_python_counts(session: Session, seed: int) -> None:
    random_world(session, seed)
    for since in (None, at(12)):
        expected = asdict(audited_in_python(session, since))
        report = asdict(audit(session, since=since))
        assert report.pop("creator_gini") == pytest.approx(expected.pop("creator_gini"))
        assert report == expected


def test_a_random_world_breaks_every_promise_that_can_be_broken(session: Session) -> None:
    random_world(session, 4)
    assert set(found(session)) == {*PROMISES} - {"repeats"}


def test_however_much_was_served_it_is_the_same_statements(session: Session) -> None:
    recommender.create_feed(session, "reels", memory="own", limits={"creator": (1, 4)})
    with counted_statements(session.connection()) as of_nothing:
        audit(session)
    session.execute(sa.delete(FeedVersion))
    random_world(session, 1)
    with counted_statements(session.connection()) as of_much:
        audit(session)
    assert of_much == of_nothing
    assert len(of_much) == 15
    assert {each.split(" */")[0] for each in of_much} == {"SELECT /* recommender.audit"}


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(engine: Engine, database: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs `audit` on a database where all is well, or one promise or two are broken."""

    def run(*arguments: str, broken: str = "") -> tuple[int, str, str]:
        with Session(engine.execution_options(recommender_write=True)) as session, session.begin():
            make_user(session)
            make_unlike(session, *"abc")
            serve(session, *"ab")
            for number, name in enumerate(broken.split(), start=2):
                if name == "served_again":
                    serve(session, "a", sitting=number, moment=at(number))
                if name == "own":
                    make_video(session, "mine", creator="viewer")
                    serve(session, "mine", sitting=number, moment=at(number))
        code = cli.run(["audit", "--database-url", database, *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_promises_that_were_kept_exit_0(command: Command) -> None:
    code, out, err = command()
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert list(shown) == [*(each.name for each in fields(Audit)), "broken"]
    assert (shown["items"], shown["explored_share"], shown["broken"]) == (2, 0.0, [])


@pytest.mark.parametrize(
    ("form", "broken"),
    [
        ("json", "served_again own"),
        ("table", "served_again"),
        *(
            pytest.param(form, broken, marks=pytest.mark.slow)
            for form in ("json", "jsonl", "csv", "table")
            for broken in ("own", "served_again", "served_again own")
            if (form, broken) not in {("json", "served_again own"), ("table", "served_again")}
        ),
    ],
)
def test_promises_that_were_broken_are_named_and_exit_1(
    command: Command, broken: str, form: str
) -> None:
    code, out, err = command("--format", form, broken=broken)
    names = broken.split()
    assert (code, err) == (1, f"Error: promises were broken: {', '.join(names)}\n")
    if form.startswith("json"):
        assert json.loads(out)["broken"] == names
    if form == "csv":
        assert out.splitlines()[0] == ",".join(each.name for each in fields(Audit))
    if form == "table":
        words = dict(re.findall(r"^(\w+) +\S+ +(kept|broken) *$", out, re.MULTILINE))
        assert words == {name: "broken" if name in names else "kept" for name in PROMISES}


def test_since_leaves_out_what_was_broken_before(command: Command) -> None:
    code, out, _ = command("--since", at(60).isoformat(), broken="own served_again")
    assert (code, json.loads(out)["sessions"]) == (0, 0)


def test_since_without_an_offset_is_usage(command: Command) -> None:
    code, out, err = command("--since", "2026-01-01")
    assert (code, out) == (2, "")
    assert "--since" in err


def test_the_readme_names_every_promise_and_figure() -> None:
    for each in fields(Audit):
        assert f"`{each.name}`" in EVERYTHING, each.name
