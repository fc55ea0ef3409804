"""The tables: names, the per-user rule, indexes, times, checks and relationships."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy.orm import Session

import recommender
from recommender import models
from recommender.formats.scalars import EVENT_KINDS, ORIENTATIONS, STATUSES
from recommender.models import (
    EventRow,
    Follow,
    Interaction,
    LearningState,
    OutsideCandidate,
    ProfileVersion,
    ProfileWeight,
    Suggestion,
    User,
    Video,
    VideoCaption,
)
from recommender.models.types import PREFIX, VERSION_TABLE, Base
from tests.support.worlds import NOON, at, follow, make_user, make_video, record

USER_TABLES = (
    "rec_affinities", "rec_events", "rec_events_pending", "rec_feed_items", "rec_feed_sessions",
    "rec_blocks", "rec_follows", "rec_interactions",
    "rec_muted_creators", "rec_muted_hashtags", "rec_muted_keywords", "rec_muted_sounds",
    "rec_outside_candidates", "rec_recent_engagements", "rec_served",
    "rec_suggestions", "rec_user_hashtags", "rec_user_sounds",
)  # fmt: skip


def tables() -> list[Table]:
    return Base.metadata.sorted_tables


def every_name() -> Iterator[str | None]:
    for table in tables():
        yield table.name
        for part in (*table.constraints, *table.indexes):
            yield None if part.name is None else str(part.name)


def test_every_table_index_and_constraint_has_the_prefix() -> None:
    assert [name for name in every_name() if not str(name).startswith(PREFIX)] == []
    assert VERSION_TABLE.startswith(PREFIX)


def test_no_two_constraints_or_indexes_of_the_schema_share_a_name() -> None:
    names = list(every_name())
    assert sorted(set(names), key=str) == sorted(names, key=str)


def test_no_name_is_longer_than_postgresql_keeps() -> None:
    assert [name for name in every_name() if len(str(name)) > 63] == []


def per_user(metadata: MetaData) -> list[Table]:
    return [table for table in metadata.sorted_tables if "user_id" in table.c]


def columns_of(part: Any) -> list[str]:
    return [column.name for column in part.columns]


def misfits(metadata: MetaData) -> list[str]:
    """What in the tables of one user's data could not be distributed by user."""
    found = []
    for table in per_user(metadata):
        unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
        keys = [table.primary_key, *unique, *(each for each in table.indexes if each.unique)]
        found += [f"{table.name}: key" for key in keys if columns_of(key)[:1] != ["user_id"]]
        identities = [column.name for column in table.c if column.identity]
        if identities or table.autoincrement_column is not None:
            found.append(f"{table.name}: identity")
        found += [
            f"{table.name}: reference"
            for key in table.foreign_key_constraints
            if "user_id" in key.referred_table.c
            and ("user_id", "user_id") not in {(e.parent.name, e.column.name) for e in key.elements}
        ]
    return found


def test_a_table_of_one_users_data_can_be_distributed_by_user() -> None:
    assert sorted(table.name for table in per_user(Base.metadata)) == sorted(USER_TABLES)
    assert misfits(Base.metadata) == []


def user_id(**options: Any) -> Column[int]:
    return Column("user_id", BigInteger, primary_key=True, **options)


def number(name: str = "n", **options: Any) -> Column[int]:
    return Column(name, BigInteger, **options)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([user_id(autoincrement=False)], []),
        ([user_id(), number(primary_key=True)], []),
        ([number(primary_key=True), user_id()], ["t: key"]),
        ([user_id(), number(primary_key=True), UniqueConstraint("n", "user_id")], ["t: key"]),
        ([user_id(), number(primary_key=True), Index("i", "n", unique=True)], ["t: key"]),
        ([user_id()], ["t: identity"]),
        ([user_id(), Column("n", BigInteger, Identity(), primary_key=True)], ["t: identity"]),
        (
            [
                user_id(),
                number(primary_key=True),
                ForeignKeyConstraint(["user_id", "n"], ["other.user_id", "other.n"]),
            ],
            [],
        ),
        (
            [
                user_id(),
                number(primary_key=True),
                ForeignKeyConstraint(["n"], ["other.n"]),
            ],
            ["t: reference"],
        ),
    ],
)
def test_the_per_user_rule_finds_what_breaks_it(parts: list[Any], found: list[str]) -> None:
    metadata = MetaData()
    Table("other", metadata, user_id(), number(primary_key=True))
    Table("t", metadata, *parts)
    assert misfits(metadata) == found


def without_index(metadata: MetaData) -> list[str]:
    """The foreign keys whose columns no index and no key begins with."""
    found = []
    for table in metadata.sorted_tables:
        unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
        keys = [columns_of(each) for each in (table.primary_key, *unique, *table.indexes)]
        for foreign in table.foreign_key_constraints:
            wanted = columns_of(foreign)
            if not any(key[: len(wanted)] == wanted for key in keys):
                found.append(f"{table.name}: {', '.join(wanted)}")
    return found


def test_every_foreign_key_has_an_index_that_begins_with_it() -> None:
    assert without_index(Base.metadata) == []


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([number("a", primary_key=True), number("b")], ["t: b"]),
        ([number("a", primary_key=True), number("b", primary_key=True)], ["t: b"]),
        ([number("b", primary_key=True), number("a", primary_key=True)], []),
        ([number("b"), number("a"), Index("i", "a", "b")], ["t: b"]),
        ([number("b"), number("a"), Index("i", "b", "a")], []),
        ([number("b"), UniqueConstraint("b")], []),
    ],
)
def test_a_foreign_key_without_index_is_found(parts: list[Any], found: list[str]) -> None:
    metadata = MetaData()
    Table("other", metadata, number("id", primary_key=True))
    Table("t", metadata, *parts, ForeignKeyConstraint(["b"], ["other.id"]))
    assert without_index(metadata) == found


def user(session: Session, key: str) -> User:
    return session.scalars(sa.select(User).where(User.key == key)).one()


def video(session: Session, key: str) -> Video:
    return session.scalars(sa.select(Video).where(Video.key == key)).one()


def test_a_video_knows_its_creator_sound_caption_and_hashtags(session: Session) -> None:
    make_video(session, "v", creator="star", sound="song", caption="Look", hashtags=["b", "a"])
    make_video(session, "bare", creator="star")
    full, bare = video(session, "v"), video(session, "bare")
    assert full.sound is not None
    assert (full.creator.key, full.sound.key, full.caption) == ("star", "song", "Look")
    assert sorted(tag.name for tag in full.hashtags) == ["a", "b"]
    assert (bare.creator.key, bare.sound, bare.caption, bare.hashtags) == ("star", None, None, [])


def test_a_user_knows_their_videos_follows_hashtags_and_sounds(session: Session) -> None:
    make_user(session, "viewer", interests=["dance", "art"], liked_sounds=["song"])
    make_video(session, "mine", creator="viewer")
    make_video(session, "theirs", creator="star")
    recommender.follow(session, "viewer", "star")
    follow(session, "star", "somebody")
    viewer, star = user(session, "viewer"), user(session, "star")
    assert [each.key for each in viewer.videos] == ["mine"]
    assert [each.creator.key for each in viewer.follows] == ["star"]
    assert [each.user.key for each in star.follows] == ["star"]
    assert sorted(each.name for each in viewer.hashtags) == ["art", "dance"]
    assert [each.key for each in viewer.sounds] == ["song"]
    assert (star.hashtags, star.sounds) == ([], [])


def test_an_interaction_knows_its_user_and_video(session: Session) -> None:
    make_user(session)
    make_video(session, "v")
    record(session, "like", "v")
    (interaction,) = user(session, "viewer").interactions
    assert (interaction.user.key, interaction.video.key) == ("viewer", "v")
    assert user(session, "somebody").interactions == []


def test_a_profiles_weights_are_in_the_order_of_the_formula(session: Session) -> None:
    profile = session.scalars(sa.select(ProfileVersion).filter_by(name="classic")).one()
    assert [(weight.position, weight.signal, weight.weight) for weight in profile.weights] == [
        (1, "completion", 0.4),
        (2, "likes", 0.3),
        (3, "shares", 0.25),
        (4, "follows", 0.35),
        (5, "hashtags", 0.2),
        (6, "sound", 0.15),
        (7, "language", 0.05),
        (8, "country", 0.02),
    ]


def test_objects_that_a_host_adds_are_linked_both_ways(session: Session) -> None:
    star = User(key="star")
    added = Video(key="v", creator=star, published_at=NOON, caption_row=VideoCaption(caption="Hi"))
    session.add(added)
    session.add(Follow(user=User(key="viewer"), creator=star))
    session.flush()
    session.expire_all()
    assert (added.creator, star.videos, added.caption) == (star, [added], "Hi")
    assert (added.status, added.impressions, added.trending) == ("published", 0, None)
    assert [each.creator for each in user(session, "viewer").follows] == [star]


TIMES = (
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1970, 1, 1, microsecond=1, tzinfo=UTC),
    datetime(2026, 7, 1, 12, 30, 15, 999_999, tzinfo=UTC),
    datetime(2026, 1, 1, 0, 0, 0, 123_457, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    datetime(2026, 10, 25, 1, 30, 0, 1, tzinfo=timezone(timedelta(hours=-14))),
    datetime(2099, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
)


def round_trip(session: Session, moment: datetime | None) -> Any:
    added = User(key="timed", created_at=moment)
    session.add(added)
    session.flush()
    session.expire(added)
    return added.created_at


@pytest.mark.parametrize("moment", TIMES)
def test_a_time_comes_back_in_utc_to_the_microsecond(session: Session, moment: datetime) -> None:
    read = round_trip(session, moment)
    assert (read, read.tzinfo) == (moment, UTC)


def test_no_time_comes_back_as_none(session: Session) -> None:
    assert round_trip(session, None) is None


def test_times_compare_in_the_database_as_in_python(session: Session) -> None:
    session.add_all(User(key=f"u{number}", created_at=each) for number, each in enumerate(TIMES))
    session.flush()
    in_order = session.scalars(sa.select(User.created_at).order_by(User.created_at)).all()
    assert list(in_order) == sorted(TIMES)
    later = sa.select(sa.func.count()).where(User.created_at > TIMES[2])
    assert session.scalar(later) == sum(each > TIMES[2] for each in TIMES)


@pytest.mark.parametrize("moment", TIMES)
def test_the_session_time_zone_of_postgresql_changes_no_time(
    kathmandu: sa.Engine, moment: datetime
) -> None:
    with Session(kathmandu) as session:
        assert session.scalar(sa.text("SELECT current_setting('TimeZone')")) == "Asia/Kathmandu"
        read = round_trip(session, moment)
        epoch = session.scalar(sa.text("SELECT extract(epoch FROM created_at) FROM rec_users"))
    assert (read, read.tzinfo) == (moment, UTC)
    assert epoch * 1_000_000 == (moment - TIMES[0]) // timedelta(microseconds=1)


@pytest.fixture(scope="module")
def kathmandu(new_database: Callable[..., str]) -> Iterator[sa.Engine]:
    """A host's own engine on PostgreSQL, whose sessions are in another time zone."""
    url = sa.make_url(new_database("postgresql")).set(drivername="postgresql+psycopg")
    bind = sa.create_engine(url, connect_args={"options": "-c TimeZone=Asia/Kathmandu"})
    yield bind
    bind.dispose()


VALID: dict[type[Base], dict[str, Any]] = {
    User: {"key": "new"},
    models.Sound: {"key": "new"},
    models.Hashtag: {"name": "new"},
    Video: {"key": "new", "creator_id": 1, "published_at": NOON},
    VideoCaption: {"video_id": 1, "caption": "new"},
    Interaction: {"user_id": 1, "video_id": 1, "first_at": NOON, "last_at": NOON},
    EventRow: {
        "user_id": 1, "key": "new", "video_id": 1, "kind": "like", "at": NOON, "engaged": True,
    },
    OutsideCandidate: {"user_id": 1, "source": "new", "video_id": 1, "score": 0.5},
    Suggestion: {"user_id": 1, "creator_id": 2},
    ProfileVersion: {"name": "new", "version": 1, "created_at": NOON},
    ProfileWeight: {"profile_id": 1, "signal": "new", "position": 1, "weight": 1.0},
}  # fmt: skip


def insert(session: Session, model: type[Base], **changed: Any) -> None:
    """Insert one row past the models, as another program would."""
    if model in {Video, Interaction, EventRow, VideoCaption}:
        add(session, User, {"id": 1, "key": "user"})
    if model in {Interaction, EventRow, VideoCaption}:
        add(session, Video, {"id": 1, "key": "v", "creator_id": 1, "published_at": NOON})
    add(session, model, VALID[model] | changed)


def add(session: Session, model: type[Base], values: dict[str, Any]) -> None:
    session.connection().execute(sa.insert(Base.metadata.tables[model.__tablename__]), values)


def refusal(session: Session, act: Callable[[], object]) -> str:
    """The name of the constraint that refused; on SQLite the column where it has no name."""
    with pytest.raises(sa.exc.IntegrityError) as caught, session.begin_nested():
        act()
    error: Any = caught.value.orig
    if hasattr(error, "diag"):
        return str(error.diag.constraint_name)
    return str(error).partition("failed: ")[2]


@pytest.mark.parametrize(
    ("model", "column", "value"),
    [
        (Interaction, "completion", 0.0),
        (Interaction, "completion", 1.0),
        (EventRow, "completion", 1.0),
        (EventRow, "completion", None),
        (EventRow, "key", "x" * 255),
        (EventRow, "key", "\N{PILE OF POO}" * 255),
        (EventRow, "watch_ms", 0),
        (OutsideCandidate, "score", 0.0),
        (OutsideCandidate, "score", 1.0),
        (OutsideCandidate, "expires_at", None),
        (OutsideCandidate, "source", "x" * 63),
        (Suggestion, "shown", 0),
        (Suggestion, "shown_at", None),
        (Suggestion, "dismissed_at", None),
        (Video, "trending", 1e6),
        (Video, "trending", -1e6),
        (Video, "duration_ms", None),
        (Video, "orientation", None),
        (ProfileWeight, "weight", 100.0),
        (ProfileWeight, "weight", -100.0),
        (models.Hashtag, "name", "x" * 100),
        (VideoCaption, "caption", "x" * 10_000),
        *((EventRow, "kind", kind) for kind in EVENT_KINDS),
        *((Video, "status", status) for status in STATUSES),
        *((Video, "orientation", orientation) for orientation in ORIENTATIONS),
    ],
)
def test_values_up_to_their_bounds_are_kept(
    session: Session, model: type[Base], column: str, value: Any
) -> None:
    insert(session, model, **{column: value})
    table = Base.metadata.tables[model.__tablename__]
    assert value in session.scalars(sa.select(table.c[column])).all()


NUMBERS = (
    (Interaction, "completion"),
    (OutsideCandidate, "score"),
    (Video, "trending"),
    (ProfileWeight, "weight"),
)


@pytest.mark.parametrize(("model", "column"), NUMBERS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, 1.1e15, -1e7])
def test_a_number_that_feeds_a_score_is_finite_and_in_range(
    session: Session, model: type[Base], column: str, value: float
) -> None:
    refused_by = refusal(session, lambda: insert(session, model, **{column: value}))
    assert refused_by == f"{model.__tablename__}_{column}_ck"


@pytest.mark.parametrize(("model", "column"), [NUMBERS[0], NUMBERS[1], NUMBERS[3]])
def test_what_is_not_a_number_feeds_no_score(
    session: Session, kind: str, model: type[Base], column: str
) -> None:
    refused_by = refusal(session, lambda: insert(session, model, **{column: math.nan}))
    table = model.__tablename__
    as_null = f"{table}.{column}"  # SQLite reads NaN as NULL
    assert refused_by == (as_null if kind == "sqlite" else f"{table}_{column}_ck")


@pytest.mark.parametrize(
    ("model", "column", "value", "constraint"),
    [
        (Interaction, "completion", 1.0000001, "completion"),
        (Interaction, "completion", -0.0000001, "completion"),
        (Interaction, "shares", -1, "not_negative"),
        (Interaction, "watch_ms", -1, "not_negative"),
        (EventRow, "completion", 1.5, "completion"),
        (EventRow, "completion", math.inf, "completion"),
        (EventRow, "watch_ms", -1, "not_negative"),
        (EventRow, "key", "", "key_length"),
        (EventRow, "key", "x" * 256, "key_length"),
        (EventRow, "kind", "dislike", "kind"),
        (EventRow, "kind", "", "kind"),
        (EventRow, "kind", "Like", "kind"),
        (OutsideCandidate, "source", "", "source_length"),
        (OutsideCandidate, "source", "x" * 64, "source_length"),
        (Suggestion, "shown", -1, "not_negative"),
        (Video, "key", "", "key_length"),
        (Video, "key", "x" * 256, "key_length"),
        (Video, "status", "draft", "status"),
        (Video, "status", "", "status"),
        (Video, "orientation", "diagonal", "orientation"),
        (Video, "duration_ms", -1, "not_negative"),
        (Video, "impressions", -1, "not_negative"),
        (Video, "trending", -1000000.5, "trending"),
        (VideoCaption, "caption", "", "caption_length"),
        (VideoCaption, "caption", "x" * 10_001, "caption_length"),
        (User, "key", "", "key_length"),
        (User, "key", "x" * 256, "key_length"),
        (models.Sound, "key", "", "key_length"),
        (models.Hashtag, "name", "", "name_length"),
        (models.Hashtag, "name", "x" * 101, "name_length"),
        (ProfileVersion, "name", "", "name_length"),
        (ProfileVersion, "version", 0, "version"),
        (ProfileWeight, "weight", 100.0000001, "weight"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused_by_the_database(
    session: Session, model: type[Base], column: str, value: Any, constraint: str
) -> None:
    refused_by = refusal(session, lambda: insert(session, model, **{column: value}))
    assert refused_by == f"{model.__tablename__}_{constraint}_ck"


@pytest.mark.parametrize("column", ["creator", "hashtag", "sound"])
@pytest.mark.parametrize("value", [0.0, 13.999, 36_500.5, math.inf, -math.inf])
def test_a_half_life_is_14_days_to_a_hundred_years(
    session: Session, column: str, value: float
) -> None:
    changed = sa.update(LearningState).values({f"{column}_half_life_days": value})
    refused_by = refusal(session, lambda: session.connection().execute(changed))
    assert refused_by == "rec_learning_state_half_lives_ck"


@pytest.mark.parametrize("column", ["creator", "hashtag", "sound"])
def test_a_half_life_is_a_number(session: Session, kind: str, column: str) -> None:
    name = f"{column}_half_life_days"
    changed = sa.update(LearningState).values({name: math.nan})
    refused_by = refusal(session, lambda: session.connection().execute(changed))
    as_null = f"rec_learning_state.{name}"
    assert refused_by == (as_null if kind == "sqlite" else "rec_learning_state_half_lives_ck")


WEIGHTS = tuple(c.name for c in LearningState.__table__.c if c.name.endswith("_weight"))


@pytest.mark.parametrize("identity", [0, 1, 2])
def test_the_learning_state_is_one_row(session: Session, kind: str, identity: int) -> None:
    def second() -> None:
        add(session, LearningState, {
            "id": identity, "landmark": at(), "creator_half_life_days": 30.0,
            "hashtag_half_life_days": 30.0, "sound_half_life_days": 30.0, "hashtag_rule": 1,
            **dict.fromkeys(WEIGHTS, 0.0), "trend_half_life_days": 2.0, "long_video_ms": 1,
            "engaged_share": 0.3,
        })  # fmt: skip

    same = "rec_learning_state.id" if kind == "sqlite" else "rec_learning_state_pk"
    refused_by = refusal(session, second)
    assert refused_by == (same if identity == 1 else "rec_learning_state_one_row_ck")
    assert session.scalars(sa.select(LearningState.id)).all() == [1]


@pytest.mark.parametrize(
    ("model", "column"),
    [(Video, "creator_id"), (Video, "sound_id"), (ProfileWeight, "profile_id")],
)
def test_a_reference_to_nothing_is_refused(
    session: Session, kind: str, model: type[Base], column: str
) -> None:
    refused_by = refusal(session, lambda: insert(session, model, **{column: 999}))
    name = f"{model.__tablename__}_{column}_fk"
    assert refused_by == ("" if kind == "sqlite" else name)  # SQLite does not say which
