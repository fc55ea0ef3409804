"""What a caption says: its words, its terms, its hashtags, and what publishing it teaches."""

# ruff: noqa: RUF001 - captions in many scripts

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from time import process_time
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from recommender import Counts, InvalidValue, reset_user, upsert_videos
from recommender import set_video_status as set_status
from recommender.errors import UnknownVideo
from recommender.formats import scalars, text
from recommender.learning.affinities import read_rules
from recommender.models import Affinity
from recommender.models.tables import (
    AFFINITIES,
    CAPTIONS,
    HASHTAGS,
    SOUNDS,
    USERS,
    VIDEO_TERMS,
    VIDEOS,
)
from tests.support.catalog_rows import videos, writes
from tests.support.kinds import slow_on_postgresql
from tests.support.worlds import NOON, at, counted_statements, make_user, make_video, rows_of

CAPTIONS_IN_USE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", ""),
        (" .*!? ", ""),
        ("❤️ 👩‍👩‍👧", ""),
        ("Look at THIS!", " look at this "),
        ("don't snake_case", " don t snake case "),
        ("❤️love 1️⃣st", " love 1st "),
        ("sp\u00adam spa\u200bm", " spam spam "),
        ("ＦＵＬＬ ½ Ⅳ ﬁ", " full 1 2 iv fi "),
        ("Straße STRASSE", " strasse strasse "),
        ("e\u0301 \u00c9 \u0301x", " \u00e9 \u00e9 x "),
        ("Привет, МИР", " привет мир "),
        ("مرحبا بالعالم", " مرحبا بالعالم "),
        ("שלום!", " שלום "),
        ("हिन्दी में", " हिन्दी में "),
        ("한국어 좋아", " 한국어 좋아 "),
        ("今天 天气abc好", " 今 天 天 气 abc 好 "),
        ("ﾊﾟﾝが・ー", " パ ン が ー "),
        ("ที่นี่สวย", " ที่ นี่ ส ว ย "),
        ("abcที่def", " abc ที่ def "),
        ("ລາວ ខ្មែរ မြန်", " ລ າ ວ ខ្ មែ រ မြ န် "),
    ],
)
def test_the_words_of_a_caption(caption: str, words: str) -> None:
    assert text.words(caption) == words


@pytest.mark.parametrize(
    ("caption", "hashtags"),
    [
        (None, ()),
        ("no hashtag", ()),
        ("# alone #", ()),
        ("#Fyp #fyp #FYP", ("fyp",)),
        ("#a#b ##c ###", ("a", "b", "c")),
        ("(#a),#b.#c!#d-e", ("a", "b", "c", "d")),
        ("x#a 1#b _#c é#d e\u0301#f", ()),
        ("x#a#b #c", ("c",)),
        ("a#", ()),
        ("http://x.com/#top https://x.com/a#b?c=#d www.x.com/#e x.com/#f #ok", ("ok",)),
        ("HTTPS://X.COM/#TOP", ()),
        ("&#39;tis R&#B", ()),
        ("＃full ﹟small ♯sharp", ("full", "small")),
        ("#Ｆｕｌｌ", ("full",)),
        ("❤️#fun 😂#joy#😂", ("fun", "joy")),
        ("#️⃣ #1️⃣ #❤️", ("1",)),
        ("#_ #a_b #2024", ("_", "a_b", "2024")),
        ("#cafe\u0301 #CAFÉ #\u0301x", ("café",)),
        ("#русский#теги", ("русский", "теги")),
        ("#مرحبا_بك \u200f#שלום", ("مرحبا_بك", "שלום")),
        ("#می\u200cخواهم #x\u200d", ("می\u200cخواهم", "x")),
        ("#हिन्दी", ("हिन्दी",)),
        ("今天#搞笑 好看#日常#生活", ("搞笑", "日常", "生活")),
        ("ที่#ไทย ไป#เที่ยว", ("ไทย", "เที่ยว")),
        ("#カワイイ・#東京", ("カワイイ", "東京")),
        (f"#{'x' * 100} #{'y' * 101} #z", ("x" * 100, "z")),
        ("#" * 10_000, ()),
    ],
)
def test_the_hashtags_of_a_caption(caption: str | None, hashtags: tuple[str, ...]) -> None:
    assert text.caption_hashtags(caption) == hashtags


def test_a_caption_has_300_hashtags_at_most() -> None:
    caption = " ".join(f"#t{number}" for number in range(400))
    assert text.caption_hashtags(caption) == tuple(f"t{number}" for number in range(300))


@pytest.mark.parametrize(
    "caption", ["#" * 10_000, "#a" * 5_000, "x." * 5_000, "http://" * 1_400, "ﷺ" * 10_000]
)
def test_a_hostile_caption_holds_nobody_up(caption: str) -> None:
    started = process_time()
    text.caption_hashtags(caption)
    text.terms(text.words(caption))
    assert process_time() - started < 10  # processor seconds, where steps without end take minutes


@given(CAPTIONS_IN_USE)
def test_the_words_of_words_are_the_same(caption: str) -> None:
    words = text.words(caption)
    assert text.words(words) == words
    assert words == "" or (words[0] == words[-1] == " " and "  " not in words)


@given(CAPTIONS_IN_USE, CAPTIONS_IN_USE, CAPTIONS_IN_USE)
def test_a_phrase_is_in_a_caption_that_has_it(before: str, phrase: str, after: str) -> None:
    assert text.words(phrase) in text.words(f"{before} {phrase.swapcase()} {after}") or (
        text.words(phrase) != text.words(phrase.swapcase())
    )


@given(CAPTIONS_IN_USE)
def test_hashtags_and_terms_of_any_caption_are_of_their_form(caption: str) -> None:
    for name in text.caption_hashtags(caption):
        assert text.hashtag(name) == name
    terms = text.terms(text.words(caption))
    assert len(set(terms)) == len(terms) <= text.MOST_TERMS
    assert all(0 <= term < 2**63 for term in terms)


@given(st.lists(st.sampled_from(["a", "b1", "é", "漢", "ไ"]), min_size=1).map("".join))
def test_a_hashtag_written_in_a_caption_is_found(name: str) -> None:
    assert text.caption_hashtags(f"look: #{name}!") == (text.hashtag(name),)


def test_terms_stay_what_they_are() -> None:
    assert text.terms(" cat 漢 字 ") == (1843079001574132759, 8823356464630237605)


@pytest.mark.parametrize(
    ("caption", "same"),
    [
        ("a cat 42 I CAT", "cat"),
        ("cats", "Cats!"),
        ("東京タワー", "東京 京タ タワ ワー"),
        ("1 22 333", ""),
        ("漢", ""),
    ],
)
def test_the_terms_of_a_caption(caption: str, same: str) -> None:
    wanted = {term for part in same.split() for term in text.terms(text.words(part))}
    assert set(text.terms(text.words(caption))) == wanted


def stored(session: Session) -> tuple[list[Any], list[Any]]:
    return rows_of(session, CAPTIONS, "caption", "words"), rows_of(session, VIDEO_TERMS)


def test_words_and_terms_are_stored_with_the_caption(session: Session) -> None:
    make_video(session, "v", caption="Look: cats")
    video_id = rows_of(session, VIDEOS, "id")[0][0]
    for caption in ("Look: cats", "cats and dogs", "!!!", "東京", "", "Look", None):
        make_video(session, "v", caption=caption)
        words = text.words(caption or "")
        assert stored(session) == (
            [(caption, words)] if caption else [],
            sorted((video_id, term) for term in text.terms(words)),
        )
    make_video(session, "v", language="en")
    assert stored(session) == ([], [])


def test_a_term_that_stays_is_not_written_again(session: Session) -> None:
    make_video(session, "v", caption="one two three")
    with counted_statements(session.connection()) as sent:
        make_video(session, "v", caption="one two three four")
    about_terms = [sql for sql in writes(sent) if "rec_video_terms" in sql]
    assert [sql.split()[0] for sql in about_terms] == ["INSERT"]


def hashtags(session: Session, key: str = "v") -> set[str]:
    found: set[str] = videos(session)[key]["hashtags"]
    return found


@pytest.mark.parametrize(
    ("first", "then", "names"),
    [
        ({"caption": "#a", "hashtags": ["b"]}, {}, "ab"),
        ({"caption": "#a"}, {}, "a"),
        ({"caption": "#a #b"}, {"caption": "#b #c"}, "bc"),
        ({"caption": "#a", "hashtags": ["b"]}, {"caption": "#c"}, "bc"),
        ({"caption": "#a", "hashtags": ["a"]}, {"caption": "none"}, ""),
        ({"caption": "#a", "hashtags": ["b"]}, {"caption": None}, "b"),
        ({"caption": "#a", "hashtags": ["b"]}, {"hashtags": ["c"]}, "ac"),
        ({"caption": "#a", "hashtags": ["b"]}, {"hashtags": []}, "a"),
        ({"caption": "#a", "hashtags": ["b"]}, {"caption": "#c", "hashtags": ["d"]}, "cd"),
        ({"caption": "#a", "hashtags": ["b"]}, {"caption": None, "hashtags": None}, ""),
        ({"hashtags": ["b"]}, {"caption": "#a"}, "ab"),
        ({"caption": "#a", "hashtags": ["b"]}, {"language": "en"}, "ab"),
        ({"caption": "#a", "hashtags": ["b"]}, {"status": "removed"}, "ab"),
    ],
)
def test_a_video_has_the_hashtags_given_and_those_written(
    session: Session, first: dict[str, Any], then: dict[str, Any], names: str
) -> None:
    make_video(session, "v", published_at=NOON, **first)
    make_video(session, "v", published_at=NOON, **then)
    video = videos(session)["v"]
    assert video["hashtags"] == set(names)
    listed_at = None if "status" in then else NOON
    assert video["listed_at"] == ({listed_at} if names else set())


def test_written_hashtags_beyond_300_are_left_out(session: Session) -> None:
    given = [f"given{number}" for number in range(299)]
    row = {"id": "v", "creator": "c", "published_at": NOON, "hashtags": given, "caption": "#x #y"}
    upsert_videos(session, [row])
    assert hashtags(session) == {*given, "x"}
    with counted_statements(session.connection()) as sent:
        assert upsert_videos(session, [row]) == Counts(unchanged=1)
        del row["hashtags"]
        assert upsert_videos(session, [row]) == Counts(unchanged=1)
    assert writes(sent) == []


TAGS = st.lists(st.sampled_from("abc"), max_size=2)
ROW = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["v", "w"]),
        "creator": st.sampled_from(["c", "d", None]),
        "published_at": st.sampled_from([NOON, at(60 * 24 * 40), None]),
    },
    optional={
        "caption": TAGS.map(lambda tags: " ".join(f"#{tag}" for tag in tags)),
        "hashtags": TAGS,
        "sound": st.sampled_from([None, "s", "t"]),
        "status": st.sampled_from([None, *scalars.STATUSES]),
    },
)


def remember(model: dict[str, dict[str, Any]], row: Mapping[str, Any]) -> None:
    """The rules of hashtags in plain Python."""
    before = model.get(row["id"], {"caption": "", "tags": set()})
    after = {**before, **row}
    old, new = (set(video["caption"].replace("#", "").split()) for video in (before, after))
    if "hashtags" in row:
        after["tags"] = set(row["hashtags"]) | new
    elif "caption" in row and old != new:
        after["tags"] = (before["tags"] - old) | new
    model[row["id"]] = after


def published(session: Session) -> dict[tuple[str, str, str], float]:
    """What all videos say of their creators, computed anew."""
    state, found = read_rules(session), {}
    for video in videos(session).values():
        since = session.scalar(
            sa.select(USERS.c.learned_since).where(USERS.c.key == video["creator"])
        )
        moment, creator = video["published_at"], video["creator"]
        if video["status"] != "published" or not moment or not creator:
            continue
        if since and moment <= since:
            continue
        parts = [("hashtag", tag, 1 / len(video["hashtags"])) for tag in video["hashtags"]]
        parts += [("sound", video["sound"], 1.0)] if video["sound"] else []
        for subject, name, part in parts:
            days = getattr(state, f"{subject}_half_life_days")
            age = (moment - state.landmark).total_seconds() / 86_400 / days
            key = (video["creator"], subject, name)
            found[key] = found.get(key, 0.0) + state.publish_weight * part * 2**age
    return found


def learned(session: Session) -> dict[tuple[str, str, str], float]:
    """The affinities that are not 0."""
    names = {
        subject: {row.id: row[1] for row in session.execute(sa.select(table.c.id, column))}
        for subject, table, column in (
            ("hashtag", HASHTAGS, HASHTAGS.c.name),
            ("sound", SOUNDS, SOUNDS.c.key),
            ("creator", USERS, USERS.c.key),
        )
    }
    return {
        (names["creator"][user], subject, names[subject][member]): score
        for user, subject, member, score in session.execute(sa.select(AFFINITIES))
        if abs(score) > 1e-9
    }


@slow_on_postgresql
def test_hashtags_and_what_publishing_teaches_follow_any_updates(session: Session) -> None:
    @settings(max_examples=30)
    @given(batches=st.lists(st.lists(ROW, max_size=3), max_size=5))
    def compare(batches: list[list[dict[str, Any]]]) -> None:
        model: dict[str, dict[str, Any]] = {}
        sent: list[str] = []
        with session.begin_nested() as savepoint:
            for batch in batches:
                for row in batch:
                    remember(model, row)
                upsert_videos(session, batch)
                if len({row["id"] for row in batch}) == len(batch):
                    with counted_statements(session.connection()) as sent:
                        upsert_videos(session, batch)
            found = {key: video["hashtags"] for key, video in videos(session).items()}
            expected, affinities = published(session), learned(session)
            savepoint.rollback()
        assert writes(sent) == []
        assert found == {key: video["tags"] for key, video in model.items()}
        assert affinities == pytest.approx(expected)

    compare()


@pytest.mark.parametrize(
    "change",
    [
        {}, {"creator": "d"}, {"sound": "t"}, {"sound": None}, {"hashtags": ["c"]},
        {"caption": "#z"}, {"status": "removed"}, {"published_at": at(5)}, {"creator": "star"},
        {"published_at": at(60 * 24 * 30)},
    ],
)  # fmt: skip
def test_a_reset_creator_learns_only_from_later_videos(
    session: Session, change: dict[str, Any]
) -> None:
    row = {"published_at": at(-5), "creator": "star", "sound": "s", "hashtags": ["a", "b"]}
    make_video(session, "v", **row)
    assert learned(session) == pytest.approx(published(session))
    assert len(learned(session)) == 3
    reset_user(session, "star", at=NOON)
    assert learned(session) == {}
    make_video(session, "v", **{**row, **change})
    make_video(session, "later", **{**row, "published_at": at(1)})
    assert learned(session) == pytest.approx(published(session))


def test_a_video_of_next_year_teaches_no_more_than_one_of_now(session: Session) -> None:
    row = {"creator": "star", "sound": "s"}
    make_video(session, "now", published_at=scalars.now(), **row)
    (one,) = learned(session).values()
    make_video(session, "later", published_at=scalars.now() + timedelta(days=365), **row)
    (both,) = learned(session).values()
    assert both == pytest.approx(2 * one, rel=1e-4)


def test_publishing_without_hashtags_and_sound_teaches_nothing(session: Session) -> None:
    with counted_statements(session.connection()) as sent:
        make_video(session, "v", caption="plain")
    assert not any("rec_affinities" in sql for sql in sent)
    assert session.scalars(sa.select(Affinity)).all() == []


def test_an_unchanged_batch_is_a_few_reads(session: Session) -> None:
    row = {"caption": "#a cats", "hashtags": ["b"], "sound": "s", "published_at": NOON}
    make_video(session, "v", **row)
    with counted_statements(session.connection()) as sent:
        make_video(session, "v", **row)
    assert (len(sent), writes(sent)) == (7, [])


def test_a_status_is_set_and_hashtags_are_listed_so(session: Session) -> None:
    make_video(session, "v", published_at=NOON, hashtags=["a"], sound="s", caption="#b")
    assert not set_status(session, "v", "published").updated
    before = learned(session)
    for status, listed_at in (("removed", None), ("review", None), ("published", NOON)):
        assert set_status(session, "v", status).updated == 1
        assert not set_status(session, "v", status).updated
        video = videos(session)["v"]
        assert (video["status"], video["listed_at"]) == (status, {listed_at})
        assert (video["published_at"], video["hashtags"]) == (NOON, {"a", "b"})
        assert learned(session) == pytest.approx(before if listed_at else {})


def test_a_status_of_what_is_not_there_is_refused(session: Session) -> None:
    make_user(session)
    with pytest.raises(UnknownVideo, match=r"^there is no video 'v'$"):
        set_status(session, "v", "removed")
    with pytest.raises(InvalidValue, match=r"^status: 'gone' is not one of published"):
        set_status(session, "v", "gone")
    with pytest.raises(InvalidValue, match=r"^video: is empty"):
        set_status(session, "", "removed")
