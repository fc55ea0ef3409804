"""An erased video leaves no trace of its content, and nothing else changes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, Table
from sqlalchemy.orm import Session

from recommender import (
    InvalidValue,
    UnknownVideo,
    audit,
    erase_video,
    explain,
    for_you,
    record,
    refresh,
    run_transaction,
    set_video_status,
    upsert_users,
    upsert_videos,
)
from recommender.formats import scalars
from recommender.models import FeedSession, Hashtag, ServedVideo, Sound, Video
from recommender.models.tables import AFFINITIES
from recommender.operations.inventory import OF_VIDEOS, PER_USER
from tests.support.catalog_rows import just_before
from tests.support.erasures import MARK, counted, dumped, rows_with
from tests.support.kinds import only_postgresql
from tests.support.refresh_worlds import behave, people, read, statistics, trends, watch
from tests.support.worlds import NOON, at, names, rows_of

VIDEO = f"{MARK}-v"

LOCKS = "SELECT named.key AS given, rec_users.id, rec_users.learned_since"
"""The beginning of the statement that locks creators."""


def make_world(engine: Engine) -> None:
    """Create a marked video with neighbours and viewers, on a served page, and other videos."""
    people(engine, 6, 12)
    behave(engine, 6, 12, 100)

    def make(session: Session) -> None:
        upsert_users(session, [{"id": "star"}])
        upsert_videos(session, [
            {"id": VIDEO, "creator": "star", "published_at": NOON, "language": MARK,
             "country": MARK, "sound": f"{MARK}-s", "hashtags": [f"{MARK}-a", "h1"],
             "caption": f"{MARK} says #{MARK}b", "orientation": "square", "duration_ms": 10_000},
            {"id": "other", "creator": "star", "published_at": NOON, "hashtags": ["h1", "h2"]},
        ])  # fmt: skip
        for_you(session, "u4", limit=20, as_of=at(10))

    run_transaction(engine, make)
    watch(engine, *((f"u{n}", video) for n in range(4) for video in (VIDEO, "v0")), at=at(30))
    refresh(engine, as_of=at(99))
    watch(engine, ("u5", VIDEO), at=at(31))


@pytest.fixture
def world(engine: Engine) -> Engine:
    """An engine on the marked world."""
    return engine


def video_id(engine: Engine) -> int:
    return next(row_id for row_id, key in read(engine, Video.id, Video.key) if key == VIDEO)


def erase(engine: Engine) -> None:
    run_transaction(engine, lambda session: erase_video(session, VIDEO))


def contents(engine: Engine, *tables: Table) -> dict[str, list[Any]]:
    with Session(engine) as session:
        return {
            table.name: sorted(map(repr, session.execute(sa.select(table)))) for table in tables
        }


def test_nothing_of_an_erased_video_is_left(world: Engine) -> None:
    erased = video_id(world)
    with Session(world) as session:
        for column in OF_VIDEOS:
            assert rows_with(session, column, [erased]), column
    assert dumped(world).lower().count(MARK) > 8
    erase(world)
    with Session(world) as session:
        for column in OF_VIDEOS:
            assert rows_with(session, column, [erased]) == 0, column
        row = session.get_one(Video, erased)
        assert re.fullmatch("erased:[0-9a-f]{32}", row.key)
        assert (row.status, row.published_at) == ("removed", scalars.ERASED)
        given = {column.name for column in Video.__table__.c if getattr(row, column.name)}
        assert given <= {
            "id", "key", "creator_id", "status", "published_at", "impressions", "engaged_views",
            "trending", "neighbours_views", "stats_at",
        }  # fmt: skip
    assert MARK not in dumped(world).lower()


def test_what_others_have_stays(world: Engine) -> None:
    others = [table for table in PER_USER if table is not AFFINITIES]
    before = contents(world, *others), statistics(world), trends(world)
    hashtags, sounds = read(world, Hashtag.name), read(world, Sound.key)
    erase(world)
    assert (contents(world, *others), statistics(world), trends(world)) == before
    assert statistics(world) == counted(world)
    for names_before, now in (
        (hashtags, read(world, Hashtag.name)),
        (sounds, read(world, Sound.key)),
    ):
        kept = {name for (name,) in now if not name.startswith("erased|")}
        assert kept == {name for (name,) in names_before if MARK not in name}
        assert len(now) == len(names_before)
    refresh(world, as_of=at(99))
    with Session(world) as session:
        assert audit(session).broken == ()


def test_its_creator_loses_what_a_removed_video_takes_back(world: Engine) -> None:
    def affinities_after(write: Any) -> list[Any]:
        with Session(world.execution_options(recommender_write=True)) as session:
            write(session, VIDEO)
            rows = rows_of(session, AFFINITIES)
            session.rollback()
        return rows

    removed = affinities_after(lambda session, key: set_video_status(session, key, "removed"))
    assert affinities_after(erase_video) == removed
    assert removed != affinities_after(lambda *_: None)


def test_an_erased_video_is_on_no_page_and_its_key_is_free(world: Engine) -> None:
    erased = video_id(world)
    (session_id,) = (row[0] for row in read(world, FeedSession.session))
    with Session(world) as session:
        assert session.scalar(sa.select(ServedVideo).where(ServedVideo.video_id == erased))
    erase(world)

    def serve_again(session: Session) -> None:
        again = for_you(session, "u4", session_id=session_id, as_of=at(100))
        assert len(again.items) > 2
        assert erased not in {item.video_id for item in again.items}
        assert not [name for name in names(again) if name.startswith("erased:")]
        for attempt in (erase_video, lambda s, key: explain(s, "u4", key)):
            with pytest.raises(UnknownVideo, match=f"^there is no video '{VIDEO}'$"):
                attempt(session, VIDEO)
        with pytest.raises(UnknownVideo):
            record(session, "u4", VIDEO, "like")
        with pytest.raises(InvalidValue, match=r"^video: "):
            erase_video(session, "")
        upsert_videos(session, [{"id": VIDEO, "creator": "star", "published_at": NOON}])

    run_transaction(world, serve_again)
    assert video_id(world) != erased


@only_postgresql
@pytest.mark.usefixtures("kind")
def test_a_write_that_found_a_video_before_it_was_erased_makes_no_other(world: Engine) -> None:
    with (
        just_before(
            world,
            LOCKS,
            lambda: erase(world),
        ),
        pytest.raises(UnknownVideo, match=f"^there is no video '{VIDEO}'$"),
    ):
        run_transaction(world, lambda session: set_video_status(session, VIDEO, "review"))
    assert VIDEO not in {key for _, key in read(world, Video.id, Video.key)}
