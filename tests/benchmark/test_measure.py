"""Synthetic worlds straight into the tables, and `bench`, which measures on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy import Engine
from sqlalchemy.orm import Session

import recommender
from recommender import RecommenderError, create_engine
from recommender.benchmark import distributions, measure, numpy_baseline
from recommender.benchmark.distributions import END
from recommender.benchmark.large_world import LEARNED, LargeWorld
from recommender.benchmark.load import load
from recommender.cli import cli
from recommender.database import migrations
from recommender.learning import affinities
from recommender.models import (
    Affinity,
    Follow,
    Interaction,
    LearningState,
    RecentEngagement,
    ServedVideo,
    User,
    Video,
    VideoHashtag,
)
from recommender.models.types import Base
from recommender.ranking.scoring import ranked
from tests.conftest import DATABASES
from tests.support.kinds import slow_on_postgresql

SMALL = LargeWorld(videos=300, users=100, follows=900, interactions=2_000, seen=150)
TABLES = [table for table in Base.metadata.sorted_tables if table.name != "rec_learning_state"]


@pytest.fixture(scope="module")
def made(new_database: Callable[..., str]) -> dict[str, str]:
    """The URLs of databases that hold the small world."""
    urls = {kind: new_database(kind) for kind in DATABASES}
    for url in urls.values():
        engine = create_engine(url)
        assert load(engine, SMALL)
        engine.dispose()
    return urls


@pytest.fixture
def world(made: dict[str, str], kind: str) -> Iterator[Engine]:
    engine = create_engine(made[kind])
    yield engine
    engine.dispose()


def rows(engine: Engine, table: sa.Table) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key))
        return [tuple(row) for row in found]


def count(session: Session, model: Any, *conditions: Any) -> int:
    return session.scalar(sa.select(sa.func.count()).select_from(model).where(*conditions)) or 0


def test_both_databases_hold_the_same_rows(made: dict[str, str]) -> None:
    engines = [create_engine(url) for url in made.values()]
    made_by_migration = {"rec_ranking_profiles", "rec_profile_weights"}
    for table in TABLES:
        if table.name not in made_by_migration:
            one, other = (rows(engine, table) for engine in engines)
            assert one == other, table.name
    for engine in engines:
        engine.dispose()


def test_a_world_has_the_shape_that_was_asked_for(world: Engine) -> None:
    with Session(world) as session:
        assert (count(session, Video), count(session, User)) == (300, 100)
        assert count(session, Follow) == pytest.approx(900, rel=0.2)
        assert count(session, Interaction) == pytest.approx(2_000, rel=0.2)
        assert count(session, VideoHashtag) == pytest.approx(300 * 3.9, rel=0.2)
        assert count(session, Interaction, Interaction.user_id == 1) > 100
        state = session.scalars(sa.select(LearningState)).one()
        assert (state.refreshed_at, state.captions) == (END, 300)
        assert 0.1 < state.engaged_share < 0.7


def test_derived_rows_follow_from_what_they_are_derived_from(world: Engine) -> None:
    with Session(world) as session:
        engaged = (Interaction.user_id == 1, Interaction.engaged_at.is_not(None))
        newest = sa.select(Interaction.video_id).where(*engaged)
        recent = sa.select(RecentEngagement.video_id).where(RecentEngagement.user_id == 1)
        assert set(session.scalars(recent)) == set(session.scalars(newest))
        assert count(session, Interaction, *engaged) > LEARNED
        last = newest.order_by(Interaction.engaged_at.desc()).limit(LEARNED)
        creators = sa.select(Video.creator_id).where(Video.id.in_(last))
        learned = sa.select(Affinity.subject_id).where(
            Affinity.user_id == 1, Affinity.subject == "creator", Affinity.score > 0
        )
        assert set(session.scalars(learned)) == set(session.scalars(creators))
        listed = sa.select(VideoHashtag.listed_at, Video.published_at).join(
            Video, Video.id == VideoHashtag.video_id
        )
        pairs = session.execute(listed.where(Video.status == "published")).all()
        assert all(one == other for one, other in pairs)
        hidden = listed.where(Video.status == "removed")
        assert {row.listed_at for row in session.execute(hidden)} == {None}


def test_a_row_is_the_same_whichever_block_it_is_made_in(session: Session) -> None:
    rules = affinities.read_rules(session)
    users = np.arange(1, 41)
    one = SMALL._affinities(users, rules)
    parts = [SMALL._affinities(users[:13], rules), SMALL._affinities(users[13:], rules)]
    for name, column in one.items():
        assert list(column) == [value for part in parts for value in part[name]]


def test_another_seed_is_another_world_and_the_same_is_the_same() -> None:
    videos = np.arange(1, 50)
    other = replace(SMALL, seed=27)
    assert list(SMALL.creators(videos)) == list(replace(SMALL).creators(videos))
    assert list(SMALL.creators(videos)) != list(other.creators(videos))


@pytest.mark.parametrize("among", [1, 2, 3, 10, 100, 997, 1_000])
def test_each_rank_has_an_id_of_its_own(among: int) -> None:
    ranks = np.arange(1, among + 1)
    ids = distributions.id_of_rank(ranks, among)
    assert sorted(ids) == list(ranks)
    assert list(distributions.rank_of_id(ids, among)) == list(ranks)


def test_loading_leaves_the_schema_as_it_was(world: Engine) -> None:
    migrations.check(world)
    with world.connect() as connection:
        inspector = sa.inspect(connection)
        for table in TABLES:
            there = {each["name"] for each in inspector.get_indexes(table.name)}
            assert {str(index.name) for index in table.indexes} <= there
            keys = {each["name"] for each in inspector.get_foreign_keys(table.name)}
            made = partial(migrations.is_made_on, world.dialect)
            own = filter(made, table.foreign_key_constraints)
            assert {str(key.name) for key in own} == keys


def test_new_rows_come_after_those_of_the_world(world: Engine) -> None:
    def write(session: Session) -> int:
        recommender.upsert_users(session, [{"id": "somebody new"}])
        return session.scalar(sa.select(User.id).where(User.key == "somebody new")) or 0

    with Session(world.execution_options(recommender_write=True)) as session:
        assert write(session) > SMALL.users


def test_a_world_that_is_there_is_kept_and_another_is_refused(world: Engine) -> None:
    assert not load(world, SMALL)
    with pytest.raises(RecommenderError, match=r"this database holds something else, such as rows"):
        load(world, replace(SMALL, seed=1))


def test_a_database_in_use_is_refused(engine: Engine) -> None:
    recommender.run_transaction(engine, lambda s: recommender.upsert_users(s, [{"id": "ana"}]))
    with pytest.raises(RecommenderError, match="rows of rec_users"):
        load(engine, SMALL)
    with Session(engine) as session:
        assert count(session, Video) == 0


@slow_on_postgresql
def test_what_was_interrupted_is_not_taken_for_whole(engine: Engine, kind: str) -> None:
    def interrupted(name: str) -> None:
        if name == "rec_videos":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(engine, SMALL, interrupted)
    if kind == "sqlite":
        with pytest.raises(RecommenderError, match="holds something else"):
            load(engine, SMALL)
    else:
        assert load(engine, SMALL)


def test_numpy_and_the_database_and_classic_agree_for_everybody(world: Engine) -> None:
    with Session(world) as session:
        catalogue = numpy_baseline.read_catalogue(session)
        for user in range(1, 30):
            key = SMALL.user_key(user)
            request = recommender.resolve(session, key, "classic", as_of=END)
            assert numpy_baseline.best(session, request, catalogue) == measure._ids(
                session, request
            ) == measure._classic(session, key)  # fmt: skip


def test_by_hand_are_sent_the_statements_of_a_page(world: Engine) -> None:
    with Session(world) as session:
        connection = session.connection()
        with measure._noted(connection) as sent:
            page = recommender.for_you(session, SMALL.user_key(3), as_of=END, record=False)
        with measure._noted(connection) as others:
            pass
        cursor = connection.connection.cursor()
        found = [cursor.execute(*each) and cursor.fetchall() for each in sent]
    shown = {item.video_id for item in page.items}
    assert (len(found[0]), others) == (len(page.request.profile.weights), [])
    assert shown <= {row[0] for row in found[1]}
    assert len(found) == 3
    assert measure._by_hand(world, [SMALL.user_key(3), SMALL.user_key(4)]) > 0


def test_percentiles_are_those_of_the_measured() -> None:
    times = measure.Times.of([number / 1_000 for number in range(100, 0, -1)])
    assert times == measure.Times(100, 51, 96, 100, 50.5)
    assert measure.Times.of([0.002]) == measure.Times(1, 2, 2, 2, 2)


def test_every_video_is_a_candidate_of_the_exact_answer(world: Engine) -> None:
    with Session(world) as session:
        request = recommender.resolve(session, SMALL.user_key(3), "for_you@1", as_of=END, limit=500)
        every = measure._scores(session, request, measure._every)
        found = measure._scores(session, request, ranked)
        assert found.items() <= every.items()
        unseen = count(session, Video, Video.status == "published") - count(
            session, Interaction, Interaction.user_id == 3
        )
        assert len(every) == pytest.approx(unseen, abs=8)


def run(*arguments: str, url: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--database-url", url], catch_exceptions=False)


SIZES = ("--videos", "300", "--users", "100", "--follows", "900", "--interactions", "2000")
QUICK = ("--clients", "1", "--clients", "2", "--pages", "2", "--seconds", "0.1", "--exact", "1")


def numbers(found: Any) -> Iterator[float]:
    if isinstance(found, dict):
        for value in found.values():
            yield from numbers(value)
    elif isinstance(found, Sequence) and not isinstance(found, str):
        for value in found:
            yield from numbers(value)
    elif isinstance(found, int | float):
        yield found


def as_before_sessions(found: dict[str, Any]) -> dict[str, Any]:
    """Return a run as it was printed when sessions were not measured yet."""
    pages = [
        {name: value for name, value in page.items() if name != "client_share"}
        for page in found["pages"]
        if page["state"] in {"cold", "warm", "warm, seen many"}
    ]
    times = [{name: value for name, value in p["times"].items() if name != "mean"} for p in pages]
    return {**found, "pages": [{**p, "times": t} for p, t in zip(pages, times, strict=True)]}


@pytest.mark.slow
def test_the_command_measures_a_world_that_it_makes(
    new_database: Callable[..., str], kind: str, tmp_path: Path
) -> None:
    url = new_database(kind)
    first = run("bench", *SIZES, *QUICK, "--format", "json", url=url)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert (found["videos"], found["database"]["name"]) == (300, kind)
    states = ("cold", "connected", "warm", "warm, seen many")
    together = "previews" if kind == "sqlite" else "sessions"
    assert [(page["profile"], page["state"], page["clients"]) for page in found["pages"]] == [
        *(("for_you@1", state, 1) for state in states),
        *(("classic", state, 1) for state in states),
        *((name, "warm", 1) for name in ("similar", "people", "reach")),
        *(("for_you@1", f"session, {which}", 1) for which in ("first", "next", "all")),
        *(("for_you@1", together, number) for number in (1, 2)),
    ]  # fmt: skip
    assert {page["client_share"] for page in found["pages"][:-2]} == {None}
    assert found["whole"]["equal"] is True
    assert 0 < found["exact"]["score_share"] <= 1
    assert (found["read"]["read"] is None) == (kind == "sqlite")
    assert {"cold / warm", "connected / warm"} < set(found["ratios"])
    assert min(numbers(found["pages"])) > 0
    engine = create_engine(url)
    with Session(engine) as session:
        assert count(session, ServedVideo) > 0
    engine.dispose()
    (tmp_path / "first.json").write_text(json.dumps(as_before_sessions(found)))
    picture = tmp_path / "pages.png"
    drawn = ("--plot", str(picture), "--with", str(tmp_path / "first.json"))
    shorter = ("--clients", "1", "--pages", "2", "--seconds", "0.1", "--exact", "0")
    again = run("bench", *SIZES, *shorter, *drawn, "--format", "table", url=url)
    assert again.exit_code == 0, again.output
    assert "300 videos in " in again.stdout
    assert "rec_videos" not in again.stderr  # it was there
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "is not what"), ("[1]", "is not what"), ("{", "is not what")]
)
def test_a_file_that_is_no_run_is_refused(
    made: dict[str, str], tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "other.json").write_text(text)
    arguments = ("bench", *SIZES, "--with", str(tmp_path / "other.json"), "--plot", "x.png")
    with pytest.raises(recommender.BadData, match=said):
        run(*arguments, url=made["sqlite"])


def test_a_database_of_ones_own_is_refused_with_a_sentence(database: str) -> None:
    engine = create_engine(database)
    recommender.run_transaction(engine, lambda s: recommender.upsert_users(s, [{"id": "ana"}]))
    engine.dispose()
    with pytest.raises(RecommenderError, match="give the benchmark an empty one"):
        run("bench", *SIZES, url=database)
