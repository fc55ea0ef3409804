"""A page of For You: what it leaves out, what it costs, why, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session, aliased

import recommender
from recommender import (
    FILTERS,
    SIGNALS,
    Explanation,
    FeedPage,
    InvalidValue,
    RecommenderError,
    Signal,
    UnknownProfile,
    UnknownSignal,
    UnknownVideo,
    models,
    run_transaction,
)
from recommender.database.expressions import is_true, number
from recommender.feed.resolve import MAX_EXCLUDED
from recommender.feed.statements import shown_rows as shown_rows_of
from recommender.feed.values import Contribution
from recommender.models import Video
from recommender.models.tables import HASHTAGS, SOUNDS, USERS, VIDEOS
from recommender.ranking.filters import REFERENCE_FILTERS
from recommender.ranking.request import LARGEST_LIMIT
from tests.support.kinds import slow_on_postgresql
from tests.support.oracle import (
    SOURCE_NAMES,
    VIEWERS,
    Oracle,
    ids,
    load,
    put,
    random_weights,
    random_world,
    table,
)
from tests.support.worlds import (
    NOON,
    at,
    counted_statements,
    make_user,
    make_video,
    make_videos,
    names,
    preview,
    record,
    rows_of,
    unspread,
    worked_example,
)

EVERY = {signal.name: 1 for signal in SIGNALS}


HOST_VIDEOS = sa.table("host_videos", sa.column("post", sa.Integer), sa.column("region", sa.Text))


def page(session: Session, user: str = "viewer", **options: Any) -> FeedPage:
    return preview(session, user, **{"as_of": NOON, **options})


def failed(explanation: Explanation) -> list[str]:
    return [each.name for each in explanation.filters if not each.passed]


def own_sound(session: Session, sound: str, owner: str) -> None:
    owned = SOUNDS.update().where(SOUNDS.c.key == sound)
    session.execute(owned.values(creator_id=ids(session, USERS)[owner]))


def mutes(kind: str, value: str) -> Callable[[Session], object]:
    return lambda session: recommender.mute(session, "viewer", kind, value, at=NOON)


def does(kind: str, **body: Any) -> Callable[[Session], object]:
    return lambda session: record(session, kind, "gone", **body)


def blocks(user: str, other: str) -> Callable[[Session], object]:
    return lambda session: recommender.block(session, user, other, at=NOON)


def hides(session: Session) -> None:
    make_user(session, "star", discoverable=False)


def mutes_owner(session: Session) -> None:
    make_user(session, "band")
    own_sound(session, "song", "band")
    recommender.mute(session, "viewer", "creator", "band", at=at(-24 * 60))


def nothing(_session: Session) -> None:
    pass


ABOUT = {"creator": "star", "caption": "Look at THIS spam!", "hashtags": ["cats"], "sound": "song"}
FILTERED: dict[str, tuple[dict[str, Any], Callable[[Session], object], list[str], str]] = {
    "review": ({"status": "review"}, nothing, ["published"], "it is under review or removed"),
    "removed": ({"status": "removed"}, nothing, ["published"], "it is under review or removed"),
    "future": (
        {"published_at": at(0.001)}, nothing, ["not_in_future"],
        "it will be published on 1 January 2026",
    ),
    "blocked": (
        {}, blocks("viewer", "star"), ["creator_not_blocked"],
        "you blocked its creator star on 1 January 2026",
    ),
    "blocked by": ({}, blocks("star", "viewer"), ["available"], "it is not available"),
    "followers": ({"audience": "followers"}, nothing, ["available"], "it is not available"),
    "unlisted": ({"audience": "unlisted"}, nothing, ["available"], "it is not available"),
    "undiscoverable": ({}, hides, ["available"], "it is not available"),
    "own": ({"creator": "viewer"}, nothing, ["not_own"], "it is your own"),
    "watched": (
        {}, does("watch", completion=0.1), ["not_seen"], "you watched it on 1 January 2026"
    ),
    "seen": ({}, does("impression"), ["not_seen"], "you saw it on 1 January 2026"),
    "liked": ({}, does("like"), ["not_seen"], "you reacted to it on 1 January 2026"),
    "rejected": (
        {}, does("not_interested", at=at(-2 * 24 * 60)), ["not_rejected", "not_seen"],
        "you said on 30 December 2025 that it does not interest you",
    ),
    "reported": (
        {}, does("report"), ["not_rejected", "not_seen"],
        "you reported it on 1 January 2026",
    ),
    "creator": (
        {}, mutes("creator", "star"), ["creator_not_muted"],
        "you muted its creator star on 1 January 2026",
    ),
    "sound": (
        {}, mutes("sound", "song"), ["sound_not_muted"],
        "you muted its sound song on 1 January 2026",
    ),
    "owner of sound": (
        {}, mutes_owner, ["sound_not_muted"],
        "you muted band on 31 December 2025, whose sound it is",
    ),
    "hashtag": (
        {}, mutes("hashtag", "#CATS"), ["hashtag_not_muted"],
        "you muted its hashtag #cats on 1 January 2026",
    ),
    "keyword": (
        {}, mutes("keyword", "Spam"), ["keyword_not_muted"],
        "you muted the words spam on 1 January 2026, which its caption has",
    ),
    "phrase": (
        {}, mutes("keyword", "at THIS"), ["keyword_not_muted"],
        "you muted the words at this on 1 January 2026, which its caption has",
    ),
}  # fmt: skip


QUICK = ("review", "blocked by", "followers", "own", "watched", "rejected", "sound", "keyword")
CASES = [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in FILTERED]


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_shown_and_why(session: Session, case: str) -> None:
    columns, set_up, expected, reason = FILTERED[case]
    make_user(session)
    make_video(session, "kept", creator="else", caption="look this spammer at cats", sound="tune")
    make_video(session, "gone", **{**ABOUT, **columns})
    set_up(session)
    assert names(page(session)) == ["kept"]
    explanation = recommender.explain(session, "viewer", "gone", as_of=NOON)
    assert [each.name for each in explanation.filters] == [each.name for each in FILTERS]
    assert failed(explanation) == expected
    assert (explanation.shown, explanation.rank, explanation.displaced_by) == (False, None, ())
    assert explanation.reason == f"Not shown: {reason}."
    assert explanation.item.position == 0
    is_filtered = expected[0] in {rule.name for rule in REFERENCE_FILTERS}
    classic = page(session, profile="classic")
    assert set(names(classic)) == ({"kept"} if is_filtered else {"kept", "gone"})


def test_every_filter_has_a_case() -> None:
    assert {name for _, _, expected, _ in FILTERED.values() for name in expected} == {
        each.name for each in FILTERS
    }


def test_what_another_user_muted_or_saw_is_shown(session: Session) -> None:
    make_user(session)
    make_user(session, "other")
    make_video(session, "v", **ABOUT)
    for kind, value in (("creator", "star"), ("sound", "song"), ("hashtag", "cats"),
                        ("keyword", "spam")):  # fmt: skip
        recommender.mute(session, "other", kind, value)
    record(session, "report", "v", "other")
    assert names(page(session)) == names(page(session, "nobody")) == ["v"]
    assert names(page(session, "other")) == []


@pytest.mark.parametrize(
    ("muted", "gone"),
    [
        ("CAT", {"cat", "cap", "two", "dot"}),
        ("cat dog", {"two", "dot"}),
        pytest.param("cat cat", set(), marks=pytest.mark.slow),
        pytest.param("мир", {"мир"}, marks=pytest.mark.slow),
        ("今天", {"han"}),
        pytest.param("天天", {"han"}, marks=pytest.mark.slow),
        pytest.param("天今", set(), marks=pytest.mark.slow),
        ("STRASSE", {"street"}),
        pytest.param("100%", {"percent"}, marks=pytest.mark.slow),
        ("_", None),
    ],
)
def test_muted_words_match_whole_in_any_case_and_script(
    session: Session, muted: str, gone: set[str] | None
) -> None:
    captions = {
        "cat": "a cat", "cap": "CAT!", "longer": "catalogue concat", "two": "see cat, dog",
        "dot": "Cat.Dog", "мир": "Привет, МИР", "миру": "миру", "han": "今天天气",
        "street": "Straße", "percent": "100 % _ \\ '", "none": None,
    }  # fmt: skip
    make_user(session)
    for key, caption in captions.items():
        make_video(session, key, caption=caption)
    if gone is None:
        with pytest.raises(InvalidValue, match=r"^keyword: "):
            recommender.mute(session, "viewer", "keyword", muted)
        return
    recommender.mute(session, "viewer", "keyword", muted)
    assert captions.keys() - set(names(page(session))) == gone
    recommender.unmute(session, "viewer", "keyword", muted.lower())
    assert set(names(page(session))) == captions.keys()


def test_a_page_is_three_statements_and_writes_nothing(session: Session) -> None:
    load(session, random_world(1))
    for user, limit in (("u0", 1), ("u0", 50), ("u0", 500), ("nobody", 20)):
        with counted_statements(session.connection()) as sent:
            page = preview(session, user, limit=limit, exclude=["v1"])
        assert len(sent) == 3 + (page.exhausted and page.request.known)
        assert all(re.match(r"(SELECT|WITH) ", statement) for statement in sent)
        assert "/* recommender.for_you */" in sent[1]
        assert "/* recommender.shown */" in sent[-1]


def test_a_video_that_goes_while_a_page_is_ranked_is_left_out(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(session, random_world(1))
    whole = preview(session, "u0", limit=5)
    gone, known = whole.items[2].video_id, shown_rows_of

    def shown_rows(session: Session, video_ids: Sequence[int]) -> dict[int, Any]:
        found = known(session, video_ids)
        del found[gone]
        return found

    monkeypatch.setattr("recommender.feed.items.shown_rows", shown_rows)
    page = preview(session, "u0", limit=5)
    assert names(page) == [item.video for item in whole.items if item.video_id != gone]
    assert [item.position for item in page.items] == [1, 2, 3, 4]
    assert not page.exhausted


@pytest.mark.slow
def test_reading_changes_no_row(session: Session) -> None:
    load(session, random_world(2))

    def rows() -> list[list[tuple[Any, ...]]]:
        of_all = models.Base.metadata.tables.values()
        return [sorted(map(repr, session.execute(sa.select(each)))) for each in of_all]

    before = rows()
    for user in ("u0", "nobody"):
        preview(session, user)
        recommender.rank(session, user, ["v1"])
        recommender.explain(session, user, "v1")
    assert not session.new
    assert not session.dirty
    assert rows() == before


def test_a_stranger_is_no_error(session: Session) -> None:
    make_videos(session, "a", "b")
    shown = unspread(session, "nobody", as_of=NOON)
    assert (names(shown), shown.request.known) == (["b", "a"], False)
    assert set(names(page(session, "nobody"))) == {"a", "b"}
    assert recommender.explain(session, "nobody", "a", as_of=NOON).rank == 2


@pytest.mark.slow
def test_explain_agrees_with_the_page(session: Session) -> None:
    world, weights = random_world(11, videos=60), random_weights(11)
    load(session, world)
    recommender.create_profile(session, "mine", weights)
    for user, videos in (("u0", list(world.videos)[::6]), ("nobody", ["v1", "v2"])):
        shown = unspread(session, user, profile="mine", limit=LARGEST_LIMIT, as_of=NOON)
        place = {item.video: item for item in shown.items}
        oracle = Oracle(world, user)
        for video in videos:
            explanation = recommender.explain(
                session, user, video, profile="mine", limit=LARGEST_LIMIT, as_of=NOON
            )
            outcomes = {each.name: each.passed for each in explanation.filters}
            assert outcomes == oracle.filters(video)
            assert explanation.shown == (video in place)
            if item := place.get(video):
                assert explanation.item == item
                assert explanation.displaced_by == tuple(names(shown)[: item.position - 1][:-4:-1])
                assert explanation.rank == item.position


@pytest.mark.slow
def test_explain_of_what_only_a_long_page_shows(session: Session) -> None:
    """It is old, nothing leads to it, and 70 newer ones come first."""
    make_user(session)
    make_video(session, "old", published_at=at(-900))
    make_videos(session, *(f"v{number}" for number in range(70)))
    session.execute(VIDEOS.update().values(impressions=1_000))
    assert recommender.explain(session, "viewer", "old", as_of=NOON).rank is None
    explanation = recommender.explain(session, "viewer", "old", limit=500, as_of=NOON)
    shown = names(unspread(session, limit=500, as_of=NOON))
    assert (explanation.rank, shown.index("old") + 1) == (71, 71)
    assert explanation.item.sources == ("newest",)
    assert explanation.displaced_by == ("v0", "v1", "v2")


def test_explain_of_what_no_page_reaches(session: Session) -> None:
    make_user(session)
    make_video(session, "old", published_at=at(-900))
    rows = [{"id": f"v{n}", "creator": "c", "published_at": at(-60)} for n in range(1_000)]
    recommender.upsert_videos(session, rows)
    explanation = recommender.explain(session, "viewer", "old", as_of=NOON)
    assert (explanation.shown, explanation.rank, explanation.item.sources) == (False, None, ())
    assert all(each.passed for each in explanation.filters)
    assert explanation.reason == (
        "Not shown: other videos came before it wherever candidates come from."
    )


def test_the_strongest_three_reasons_are_named(session: Session) -> None:
    make_user(session, language="en", country="US", interests=["cats"])
    make_video(session, "v", creator="star", language="en", country="US", hashtags=["cats"])
    recommender.follow(session, "viewer", "star")
    weights = {"language": 0.1, "follows": 3, "country": 1, "hashtags": 2, "likes": 99}
    recommender.create_profile(session, "mine", weights)
    explanation = recommender.explain(session, "viewer", "v", profile="mine", as_of=NOON)
    assert explanation.reason == (
        "Because you follow star, you like #cats and it is from your country."
    )


@slow_on_postgresql
def test_the_hashtag_that_the_viewer_likes_best_is_named(session: Session) -> None:
    make_user(session)
    make_video(session, "v", hashtags=["cats", "dogs", "food"])
    user_id, tags = ids(session, USERS)["viewer"], ids(session, HASHTAGS)
    put(session, "affinities", [
        {"user_id": user_id, "subject": "hashtag", "subject_id": tags[tag], "score": score}
        for tag, score in (("cats", 1), ("dogs", 3), ("food", -9))
    ])  # fmt: skip
    recommender.create_profile(session, "mine", {"hashtag_affinity": -1, "freshness": 1})
    explanation = recommender.explain(session, "viewer", "v", profile="mine", as_of=NOON)
    assert explanation.reason == "Because it is new."
    put_food = table("affinities").update().where(table("affinities").c.score < 0)
    session.execute(put_food.values(score=0.5))
    recommender.create_profile(session, "mine", {"hashtag_affinity": 1})
    explanation = recommender.explain(session, "viewer", "v", profile="mine", as_of=NOON)
    assert explanation.reason == "Because you like #dogs."


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    **{
        f"limit {limit}": ({"limit": limit}, InvalidValue, r"^limit: ")
        for limit in (0, -1, 501, 10_000_000, True, 1.5, "20", None)
    },
    "exclude is text": ({"exclude": "v1"}, InvalidValue, r"^exclude: 'v1' is one key"),
    "exclude is too long": (
        {"exclude": [f"v{number}" for number in range(MAX_EXCLUDED + 1)]},
        InvalidValue, r"^exclude: 10,001 keys are more than 10,000",
    ),
    "no offset": ({"as_of": datetime(2026, 1, 1)}, InvalidValue, r"^as_of: "),  # noqa: DTZ001
    "too early": ({"as_of": datetime(1969, 1, 1, tzinfo=UTC)}, InvalidValue, r"^as_of: "),
    "too late": ({"as_of": datetime(2100, 1, 1, tzinfo=UTC)}, InvalidValue, r"^as_of: "),
    "no such profile": ({"profile": "none"}, UnknownProfile, r"^there is no profile 'none'"),
}  # fmt: skip
ONE = Signal("one", 1, 1, lambda _: number(1))
TAKEN = (
    "likes",
    "sources",
    "score_key",
    "video_id",
    "page_video",
    "page_creator",
    "not a word",
    "",
)


def test_bad_input_is_one_clear_error(session: Session) -> None:
    make_videos(session, "v1")
    for options, error, message in BAD.values():
        with pytest.raises(error, match=message):
            page(session, **options)


def test_a_hosts_signal_with_a_taken_name_is_refused(session: Session) -> None:
    for name in TAKEN:
        with pytest.raises(InvalidValue, match=r"^signals: "):
            page(session, signals={replace(ONE, name=name): 1})


def test_a_weight_out_of_bounds_is_refused(session: Session) -> None:
    weights: tuple[Any, ...] = (100.1, -101, float("nan"), float("inf"), "much", None, True)
    for weight in weights:
        with pytest.raises(InvalidValue, match=r"^weight of one: "):
            page(session, signals={ONE: weight})
        with pytest.raises(InvalidValue, match=r"^weight of likes: "):
            recommender.create_profile(session, "mine", {"likes": weight})


def test_a_profile_of_an_unknown_signal_is_refused(session: Session) -> None:
    with pytest.raises(UnknownSignal, match=r"^there is no signal 'liks'"):
        recommender.create_profile(session, "mine", {"liks": 1})
    recommender.create_profile(session, "mine", {"likes": 1})
    weights = table("profile_weights")
    session.execute(weights.update().where(weights.c.signal == "likes").values(signal="gone"))
    with pytest.raises(UnknownSignal, match=r"^there is no signal 'gone'"):
        page(session, profile="mine")


def test_an_unknown_video_is_refused(session: Session) -> None:
    for video in ("none", "", "a\0b"):
        with pytest.raises(UnknownVideo, match=r"^there is no video"):
            recommender.explain(session, "nobody", video)


@pytest.mark.parametrize(
    "name",
    ["é" * 31, *(pytest.param(name, marks=pytest.mark.slow) for name in ("published_at", "key"))],
)
def test_a_hosts_signal_may_have_any_other_name(session: Session, name: str) -> None:
    make_videos(session, "v1")
    signals = {replace(ONE, name=name): 2.0}
    (item,) = page(session, signals=signals).items
    assert item.signals[name] == Contribution(1, 2)
    explanation = recommender.explain(session, "viewer", "v1", signals=signals, as_of=NOON)
    assert (explanation.shown, explanation.item.signals[name]) == (True, Contribution(1, 2))


def test_a_hosts_signal_may_read_what_is_known_of_the_viewer(session: Session) -> None:
    make_user(session, device="phone", language="en", country="US")
    make_videos(session, "v1")
    known = {"device": "phone", "language": "en", "country": "US"}

    def signal(name: str, value: str) -> Signal:
        return Signal(f"on_{name}", 0, 1, lambda each: is_true(getattr(each.viewer, name) == value))

    (item,) = page(session, signals={signal(*each): 1.0 for each in known.items()}).items
    assert [item.signals[f"on_{name}"].value for name in known] == [1, 1, 1]


def test_a_hosts_signal_that_is_null_is_one_clear_error(session: Session) -> None:
    make_videos(session, "v1")
    nameless = {replace(ONE, expression=lambda _: Video.trending): 1.0}
    with pytest.raises(InvalidValue, match=r"^signals: one is NULL for video 'v1'$"):
        page(session, signals=nameless)
    with pytest.raises(InvalidValue, match=r"^signals: one is NULL for video 'v1'$"):
        recommender.explain(session, "viewer", "v1", signals=nameless, as_of=NOON)


@pytest.mark.slow
def test_times_before_any_data_and_far_ahead(session: Session) -> None:
    load(session, random_world(5))
    recommender.create_profile(session, "every", EVERY)
    for user in ("u0", "u1", "nobody"):
        early = datetime(1970, 1, 1, tzinfo=UTC)
        shown = page(session, user, as_of=early, profile="every").items
        assert [item.published_at for item in shown if item.published_at] == []  # only undated ones
        late = datetime(2099, 12, 31, 23, 59, tzinfo=UTC)
        assert len(page(session, user, as_of=late, profile="every", limit=3).items) == 3


def test_as_many_as_may_be_are_left_out(session: Session) -> None:
    make_user(session)
    make_videos(session, "a", "b", "c")
    exclude = ["a", *(f"none{number}" for number in range(MAX_EXCLUDED - 2)), "c"]
    for profile in ("classic", "for_you"):
        assert names(page(session, exclude=exclude, profile=profile)) == ["b"]
    odd = ["a\0b", "", "x" * 999, "\ud800", 7, None, b"a"]
    assert names(page(session, exclude=[*odd, "b"])) == ["c", "a"]
    assert names(page(session, exclude=iter(["a", "b", "b"]))) == ["c"]
    assert names(page(session, exclude=[])) == ["c", "b", "a"]


@pytest.mark.slow
def test_a_huge_condition_is_a_page_or_one_clear_error(session: Session) -> None:
    make_videos(session, "a", "b", "c")
    few = Video.key.in_([f"none{number}" for number in range(1_000)] + ["b"])
    assert names(page(session, where=few)) == ["b"]
    many = Video.key.in_([f"none{number}" for number in range(9_000)] + ["b"])
    try:
        with session.begin_nested():
            assert names(page(session, where=many)) == ["b"]
    except RecommenderError as error:
        assert str(error)  # noqa: PT017 - either will do


def test_a_condition_over_a_hosts_own_table(session: Session) -> None:
    make_videos(session, "a", "b", "c")
    host = sa.Table("host_blocked", sa.MetaData(), sa.Column("video", sa.Text))
    host.create(session.connection())
    session.execute(host.insert().values(video="b"))
    free = ~sa.exists().where(host.c.video == Video.key)
    assert names(page(session, where=free)) == ["c", "a"]
    assert names(page(session, where=free, limit=1)) == ["c"]
    assert names(page(session, where=~free, profile="classic")) == ["b"]


def test_a_page_says_what_the_video_is(session: Session) -> None:
    worked_example(session)
    item = next(i for i in page(session, "nobody").items if i.video == "v1")
    assert (item.creator, item.hashtags, item.sound) == (
        "creator1", ("comedy", "prank"), "sound123",
    )  # fmt: skip
    assert item.sources == ("newest",)
    assert set(item.sources) <= set(SOURCE_NAMES)


def pages(engine: Engine, seed: int) -> list[Any]:
    """What every viewer of a random world is shown, and why."""
    world, weights = random_world(seed, videos=80), random_weights(seed)

    def write(session: Session) -> None:
        load(session, world)
        recommender.create_profile(session, "mine", weights)

    run_transaction(engine, write)
    shown: list[Any] = []
    with Session(engine) as session:
        for user in (*VIEWERS, "nobody"):
            for profile in ("mine", "for_you"):
                for item in page(session, user, profile=profile, limit=40).items:
                    values = [round(each.value, 12) for each in item.signals.values()]
                    shown.append((user, profile, item.video, item.score, item.sources, values))
            explanation = recommender.explain(session, user, "v5", profile="mine", as_of=NOON)
            shown.append((user, explanation.rank, explanation.reason, explanation.displaced_by))
    return shown


@pytest.mark.slow
def test_both_databases_give_the_same_pages(new_database: Callable[..., str]) -> None:
    shown = []
    for kind in ("sqlite", "postgresql"):
        engine = recommender.create_engine(new_database(kind))
        shown.append(pages(engine, 21))
        engine.dispose()
    assert len(shown[0]) > 200
    assert shown[0] == shown[1]


def test_the_learning_state_is_one_row(session: Session) -> None:
    assert len(rows_of(session, table("learning_state"), "id")) == 1


@pytest.mark.parametrize(("given", "kept"), [(7.0, 1.0), (-7.0, 0.0), (1e300, 1.0), (0.5, 0.5)])
def test_a_hosts_signal_is_held_in_its_range(session: Session, given: float, kept: float) -> None:
    make_user(session)
    make_video(session, "v")
    own = recommender.Signal("own", 0, 1, lambda _candidate: number(given))
    shown = page(session, signals={own: 1})
    assert shown.items[0].signals["own"].value == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profile": 5}, "there is no profile 5"),
        ({"as_of": 0}, "as_of: 0 is not a time"),
        ({"exclude": 5}, "exclude: 5 is no list of keys"),
        ({"where": "v1"}, "where: 'v1' is no SQL expression"),
        ({"where": HOST_VIDEOS.c.region == "DE"}, "where: it joins host_videos: use EXISTS, IN or"),
        ({"where": aliased(Video).key == "v1"}, "where: it joins .*: use EXISTS, IN or"),
        ({"signals": [1]}, r"signals: \[1\] gives no weight"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_clear_error(
    session: Session, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecommenderError, match=f"^{message}"):
        preview(session, "viewer", **given)


def test_no_list_of_videos_is_one_clear_error(session: Session) -> None:
    with pytest.raises(InvalidValue, match=r"^videos: None is no list"):
        recommender.rank(session, "viewer", None)  # type: ignore[arg-type]


def test_a_hosts_signal_that_is_no_sql_is_refused(session: Session) -> None:
    own = recommender.Signal("own", 0, 1, lambda _candidate: 3.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidValue, match=r"^signals: own gives 3.0, which is no SQL expression"):
        page(session, signals={own: 1})


def test_a_hosts_signal_of_a_fact_that_there_is_not_is_refused(session: Session) -> None:
    make_user(session)
    make_video(session, "v")
    own = recommender.Signal("own", 0, 1, lambda candidate: candidate.fact("like"))
    for ask in (
        lambda: page(session, signals={own: 1}),
        lambda: recommender.rank(session, "viewer", ["v"], as_of=NOON, signals={own: 1}),
        lambda: page(session, profile="classic", signals={own: 1}),
    ):
        with pytest.raises(InvalidValue, match=r"^fact: 'like' is not one of sources, completion"):
            ask()
