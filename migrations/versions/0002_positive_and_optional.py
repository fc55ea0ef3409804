"""One definition of positive, events `convert` and `interested`, and videos without creator.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from alembic import op

from recommender.database.migrations import committing, kept_rows
from recommender.errors import RecommenderError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
CLUSTERED = {"sqlite_with_rowid": False}
USERS_AT_ONCE = 1_000
VIDEOS = (
    "id", "key", "creator_id", "sound_id", "language", "country", "duration_ms", "orientation",
    "status", "published_at", "impressions", "engaged_views", "trending", "neighbours_views",
    "stats_at",
)  # fmt: skip

Checks = Mapping[str, str]

# The checks that change, before and after. The names of tables and constraints leave `rec_` out.
KINDS = (
    "kind IN ('impression', 'watch', 'like', 'unlike', 'share', 'comment', 'save', 'unsave', "
    "'not_interested', {}'report'{})"
)
NOT_NEGATIVE = (
    "impressions >= 0 AND plays >= 0 AND engaged_views >= 0 AND watch_ms >= 0"
    " AND shares >= 0 AND comments >= 0 AND reports >= 0"
)
WEIGHTS = (
    "watch_weight BETWEEN 0 AND 100 AND like_weight BETWEEN 0 AND 100"
    " AND save_weight BETWEEN 0 AND 100 AND share_weight BETWEEN 0 AND 100"
    " AND comment_weight BETWEEN 0 AND 100 AND publish_weight BETWEEN 0 AND 100"
    " AND skip_weight BETWEEN -100 AND 0 AND not_interested_weight BETWEEN -100 AND 0"
    " AND report_weight BETWEEN -100 AND 0"
)
BEFORE: Mapping[str, Checks] = {
    "events": {"kind": KINDS.format("", "")},
    "events_pending": {"not_negative": "impressions >= 0 AND engaged_views >= 0"},
    "interactions": {"not_negative": NOT_NEGATIVE},
    "learning_state": {"weights": WEIGHTS},
}
AFTER: Mapping[str, Checks] = {
    "events": {"kind": KINDS.format("'interested', ", ", 'convert'")},
    "events_pending": {
        "impressions": "impressions BETWEEN -1 AND 1",
        "engaged_views": "engaged_views BETWEEN -1 AND 1",
    },
    "interactions": {"not_negative": f"{NOT_NEGATIVE} AND conversions >= 0"},
    "learning_state": {
        "weights": (
            f"{WEIGHTS} AND convert_weight BETWEEN 0 AND 100"
            " AND interested_weight BETWEEN 0 AND 100"
        ),
        "engaged_view": "engaged_part BETWEEN 0.01 AND 1 AND engaged_ms BETWEEN 1 AND 86400000",
    },
}


def added(table: str) -> list[sa.Column[object]]:
    """The columns that a table gets."""

    def filled(name: str, kind: type[sa.types.TypeEngine[object]], value: str) -> sa.Column[object]:
        return sa.Column(name, kind(), server_default=value, nullable=False)

    columns: dict[str, list[sa.Column[object]]] = {
        "events_pending": [
            sa.Column("again", sa.Boolean(), server_default=sa.false(), nullable=False)
        ],
        "interactions": [
            sa.Column("acted_at", TIME, nullable=True),
            sa.Column("interested_at", TIME, nullable=True),
            filled("conversions", sa.BigInteger, "0"),
        ],
        "learning_state": [
            filled("convert_weight", sa.Double, "1.0"),
            filled("interested_weight", sa.Double, "0.5"),
            filled("engaged_part", sa.Double, "0.9"),
            filled("engaged_ms", sa.BigInteger, "18000"),
            sa.Column("rebuilt_at", TIME, nullable=True),
        ],
    }
    return columns.get(table, [])


def upgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        for table in AFTER:
            rebuild(table, before=BEFORE[table], after=AFTER[table], new=added(table))
        op.execute(fill_states())
        rebuild_videos(creator_is_optional=True, added=[format_column()])
        index_formats()
        return
    lock_users()
    for table in AFTER:
        alter(table)
    op.alter_column("rec_videos", "creator_id", existing_type=sa.BigInteger(), nullable=True)
    op.add_column("rec_videos", format_column(), if_not_exists=True)
    with committing(op.get_context()) as is_committing:
        index_formats(postgresql_concurrently=is_committing)
        for table, checks in AFTER.items():
            for name in checks:
                validate(table, name)
        for users in ranges() if is_committing else [sa.true()]:
            op.execute(fill_states().where(users))


def downgrade() -> None:
    check_creators()
    if op.get_context().dialect.name == "postgresql":
        lock_users()
    events = sa.table("rec_events", sa.column("kind", sa.Text))
    op.execute(events.delete().where(events.c.kind.in_(["interested", "convert"])))
    op.execute("DELETE FROM rec_events_pending WHERE impressions < 0 OR engaged_views < 0")
    for table in AFTER:
        if op.get_context().dialect.name == "sqlite":
            rebuild(table, before=AFTER[table], after=BEFORE[table], old=added(table))
        else:
            replace_checks(table, AFTER[table], BEFORE[table])
            for column in added(table):
                op.drop_column(f"rec_{table}", column.name)
    if op.get_context().dialect.name == "sqlite":
        rebuild_videos(creator_is_optional=False)
        return
    op.drop_column("rec_videos", "format")
    op.alter_column("rec_videos", "creator_id", existing_type=sa.BigInteger(), nullable=False)


def lock_users() -> None:
    """Lock the users, whose rows every writer locks first, so that no writer is met halfway."""
    op.execute("LOCK TABLE rec_users IN ACCESS EXCLUSIVE MODE")


def alter(table: str) -> None:
    """Add columns and checks on PostgreSQL, without reading rows; an attempt may be repeated."""
    for column in added(table):
        op.add_column(f"rec_{table}", column, if_not_exists=True)
    replace_checks(table, {**BEFORE[table], **AFTER[table]}, AFTER[table])


def replace_checks(table: str, before: Iterable[str], after: Checks) -> None:
    for name in before:
        op.drop_constraint(check_name(table, name), f"rec_{table}", type_="check", if_exists=True)
    for name, text in after.items():
        op.create_check_constraint(
            check_name(table, name), f"rec_{table}", sa.text(text), postgresql_not_valid=True
        )
    if after == BEFORE[table]:
        for name in after:
            validate(table, name)


def validate(table: str, name: str) -> None:
    constraint = {"table": f"rec_{table}", "name": check_name(table, name)}
    op.execute(sa.DDL("ALTER TABLE %(table)s VALIDATE CONSTRAINT %(name)s", context=constraint))


def check_name(table: str, name: str) -> str:
    return op.f(f"rec_{table}_{name}_ck")


def ranges() -> Iterable[sa.ColumnElement[bool]]:
    """Ranges of users, so that no statement locks many rows for long."""
    context, user_id = op.get_context(), sa.column("user_id", sa.BigInteger)
    if context.as_sql or not context.connection:
        return [sa.true()]
    newest = sa.select(sa.func.max(sa.column("id"))).select_from(sa.table("rec_users"))
    last = context.connection.scalar(newest) or 0
    return [
        user_id.between(low, low + USERS_AT_ONCE - 1) for low in range(0, last + 1, USERS_AT_ONCE)
    ]


def fill_states() -> sa.Update:
    """Fill `acted_at`, and set `engaged_at` to the time since which a state is positive."""
    counts = ("engaged_views", "shares", "comments", "reports")
    times = (
        "liked_at", "unliked_at", "saved_at", "unsaved_at", "not_interested_at", "engaged_at",
        "first_at", "acted_at",
    )  # fmt: skip
    states = sa.table(
        "rec_interactions",
        sa.column("user_id", sa.BigInteger),
        *(sa.column(name, sa.BigInteger) for name in counts),
        *(sa.column(name, TIME) for name in times),
    )
    state = states.c
    # The exact time is known if it is later than the likes and saves, else that it happened.
    is_latest = sa.and_(
        *(later(state.engaged_at, state[name]) for name in ("liked_at", "saved_at"))
    )
    has_acted = sa.or_(state.engaged_views > 0, state.shares > 0, state.comments > 0)
    acted = sa.case(
        (sa.and_(has_acted, is_latest), state.engaged_at), (has_acted, state.first_at), else_=None
    )
    liked = sa.case((later(state.liked_at, state.unliked_at), state.liked_at), else_=None)
    saved = sa.case((later(state.saved_at, state.unsaved_at), state.saved_at), else_=None)
    is_refused = sa.or_(state.reports > 0, state.not_interested_at.is_not(None))
    positive = sa.case((is_refused, None), else_=latest(acted, liked, saved))
    changed = {"acted_at": acted, "engaged_at": positive}
    return states.update().where(state.engaged_at.is_not(None)).values(changed)


def later(
    time: sa.ColumnElement[object], other: sa.ColumnElement[object]
) -> sa.ColumnElement[bool]:
    """Whether a time is later than another one, or the other one is not known."""
    return sa.and_(time.is_not(None), sa.or_(other.is_(None), time > other))


def latest(*times: sa.ColumnElement[object]) -> sa.ColumnElement[object]:
    """The latest of the times that are known."""
    if op.get_context().dialect.name == "postgresql":
        return sa.func.greatest(*times)
    return sa.func.nullif(sa.func.max(*(sa.func.coalesce(time, 0) for time in times)), 0)


def rebuild(
    table: str,
    *,
    before: Checks,
    after: Checks,
    new: Iterable[sa.Column[object]] = (),
    old: Iterable[sa.Column[object]] = (),
) -> None:
    """Rebuild a table on SQLite with other columns and checks."""
    columns = list(old)
    made = sa.Table(
        f"rec_{table}",
        sa.MetaData(),
        *STAYS[table](),
        *columns,
        *(sa.CheckConstraint(text, name=check_name(table, name)) for name, text in before.items()),
        **({} if table == "learning_state" else CLUSTERED),
    )
    for index in INDEXES.get(table, ()):
        index(made)
    with op.batch_alter_table(f"rec_{table}", copy_from=made, recreate="always") as batch:
        for name in before:
            batch.drop_constraint(check_name(table, name), type_="check")
        for column in new:
            batch.add_column(column)
        for column in columns:
            batch.drop_column(column.name)
        for name, text in after.items():
            batch.create_check_constraint(check_name(table, name), sa.text(text))


def events() -> Iterable[sa.schema.SchemaItem]:
    yield sa.Column("user_id", sa.BigInteger(), nullable=False)
    yield sa.Column("key", KEY, nullable=False)
    yield sa.Column("video_id", sa.BigInteger(), nullable=False)
    yield sa.Column("kind", sa.Text(), nullable=False)
    yield sa.Column("at", TIME, nullable=False)
    yield sa.Column("watch_ms", sa.BigInteger(), nullable=True)
    yield sa.Column("completion", sa.Double(), nullable=True)
    yield sa.Column("engaged", sa.Boolean(), nullable=False)
    yield sa.CheckConstraint("completion BETWEEN 0 AND 1", name="rec_events_completion_ck")
    yield sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name="rec_events_key_length_ck")
    yield sa.CheckConstraint("watch_ms >= 0", name="rec_events_not_negative_ck")
    yield sa.PrimaryKeyConstraint("user_id", "key", name="rec_events_pk")


def events_pending() -> Iterable[sa.schema.SchemaItem]:
    yield sa.Column("user_id", sa.BigInteger(), nullable=False)
    yield sa.Column("key", KEY, nullable=False)
    yield sa.Column("video_id", sa.BigInteger(), nullable=False)
    yield sa.Column("at", TIME, nullable=False)
    yield sa.Column("impressions", sa.Integer(), nullable=False)
    yield sa.Column("engaged_views", sa.Integer(), nullable=False)
    yield sa.PrimaryKeyConstraint("user_id", "key", name="rec_events_pending_pk")


def interactions() -> Iterable[sa.schema.SchemaItem]:
    yield sa.Column("user_id", sa.BigInteger(), nullable=False)
    yield sa.Column("video_id", sa.BigInteger(), nullable=False)
    for name in ("impressions", "plays", "engaged_views"):
        yield sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
    yield sa.Column("completion", sa.Double(), server_default="0", nullable=False)
    for name in ("watch_ms", "shares", "comments", "reports"):
        yield sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
    for name in ("liked_at", "unliked_at", "saved_at", "unsaved_at", "not_interested_at"):
        yield sa.Column(name, TIME, nullable=True)
    yield sa.Column("engaged_at", TIME, nullable=True)
    yield sa.Column("first_at", TIME, nullable=False)
    yield sa.Column("last_at", TIME, nullable=False)
    yield sa.CheckConstraint("completion BETWEEN 0 AND 1", name="rec_interactions_completion_ck")
    yield sa.PrimaryKeyConstraint("user_id", "video_id", name="rec_interactions_pk")


def learning_state() -> Iterable[sa.schema.SchemaItem]:
    yield sa.Column("id", sa.Integer(), autoincrement=False, nullable=False)
    yield sa.Column("landmark", TIME, nullable=False)
    for name in ("creator", "hashtag", "sound", "trend"):
        yield sa.Column(f"{name}_half_life_days", sa.Double(), nullable=False)
    for name in (
        "watch", "like", "save", "share", "comment", "publish", "skip", "not_interested", "report",
    ):  # fmt: skip
        yield sa.Column(f"{name}_weight", sa.Double(), nullable=False)
    yield sa.Column("long_video_ms", sa.BigInteger(), nullable=False)
    yield sa.Column("hashtag_rule", sa.Integer(), nullable=False)
    yield sa.Column("events_horizon", TIME, nullable=True)
    yield sa.Column("engaged_share", sa.Double(), nullable=False)
    yield sa.Column("trend_peak", sa.Double(), nullable=True)
    yield sa.Column("captions", sa.BigInteger(), server_default="0", nullable=False)
    yield sa.Column("refreshed_at", TIME, nullable=True)
    for name, text in LEARNING_CHECKS.items():
        yield sa.CheckConstraint(text, name=f"rec_learning_state_{name}_ck")
    yield sa.PrimaryKeyConstraint("id", name="rec_learning_state_pk")


LEARNING_CHECKS = {
    "not_negative": "captions >= 0",
    "half_lives": (
        "creator_half_life_days BETWEEN 14 AND 36500"
        " AND hashtag_half_life_days BETWEEN 14 AND 36500"
        " AND sound_half_life_days BETWEEN 14 AND 36500"
        " AND trend_half_life_days BETWEEN 0.1 AND 36500"
    ),
    "engaged_share": "engaged_share BETWEEN 0 AND 1",
    "one_row": "id = 1",
    "long_video_ms": "long_video_ms BETWEEN 1 AND 86400000",
    "trend_peak": "trend_peak BETWEEN -1e+06 AND 1e+06",
}


def engaged_index(table: sa.Table) -> None:
    sa.Index(
        "rec_interactions_user_id_engaged_at_ix",
        table.c.user_id,
        table.c.engaged_at,
        sqlite_where=sa.text("engaged_at IS NOT NULL"),
    )


def last_index(table: sa.Table) -> None:
    sa.Index("rec_interactions_user_id_last_at_ix", table.c.user_id, table.c.last_at)


STAYS = {
    "events": events,
    "events_pending": events_pending,
    "interactions": interactions,
    "learning_state": learning_state,
}
"""The columns and constraints that stay, by table, for SQLite."""

INDEXES = {"interactions": (engaged_index, last_index)}


def format_column() -> sa.Column[str]:
    return sa.Column("format", sa.Text(), nullable=True)


def index_formats(**options: bool) -> None:
    name = op.f("rec_videos_format_status_published_at_id_ix")
    op.drop_index(name, "rec_videos", if_exists=True, **options)
    op.create_index(
        name,
        "rec_videos",
        ["format", "status", "published_at", "id"],
        postgresql_where=sa.text("format IS NOT NULL"),
        sqlite_where=sa.text("format IS NOT NULL"),
        if_not_exists=True,
        **options,
    )


def check_creators() -> None:
    """Raise an error if videos have no creator, which the revision before requires."""
    videos = sa.table("rec_videos", sa.column("creator_id"))
    without = sa.select(sa.func.count()).select_from(videos).where(videos.c.creator_id.is_(None))
    context = op.get_context()
    if context.as_sql or not context.connection:
        return
    if count := context.connection.scalar(without):
        raise RecommenderError(
            f"{count:,} videos have no creator, which revision {down_revision} requires: give them"
            " one first"
        )


def rebuild_videos(*, creator_is_optional: bool, added: list[sa.Column[str]] | None = None) -> None:
    """Make the table of videos again on SQLite, with its rows."""
    with kept_rows("rec_videos", VIDEOS):
        op.create_table(
            "rec_videos",
            sa.Column("id", ID, sa.Identity(), nullable=False),
            sa.Column("key", KEY, nullable=False),
            sa.Column("creator_id", sa.BigInteger(), nullable=creator_is_optional),
            sa.Column("sound_id", sa.BigInteger(), nullable=True),
            sa.Column("language", sa.Text(), nullable=True),
            sa.Column("country", sa.Text(), nullable=True),
            sa.Column("duration_ms", sa.BigInteger(), nullable=True),
            sa.Column("orientation", sa.Text(), nullable=True),
            sa.Column("status", sa.Text(), server_default="published", nullable=False),
            sa.Column("published_at", TIME, nullable=False),
            sa.Column("impressions", sa.BigInteger(), server_default="0", nullable=False),
            sa.Column("engaged_views", sa.BigInteger(), server_default="0", nullable=False),
            sa.Column("trending", sa.Double(), nullable=True),
            sa.Column("neighbours_views", sa.BigInteger(), server_default="0", nullable=False),
            sa.Column("stats_at", TIME, nullable=True),
            *(added or []),
            *video_constraints(),
            sqlite_autoincrement=True,
        )
    for columns in VIDEO_INDEXES:
        op.create_index(op.f(f"rec_videos_{'_'.join(columns)}_ix"), "rec_videos", columns)


def video_constraints() -> list[sa.Constraint]:
    checks = {
        "orientation": "orientation IN ('portrait', 'landscape', 'square')",
        "status": "status IN ('published', 'review', 'removed')",
        "not_negative": (
            "duration_ms >= 0 AND impressions >= 0 AND engaged_views >= 0 AND neighbours_views >= 0"
        ),
        "key_length": "length(key) BETWEEN 1 AND 255",
        "trending": "trending BETWEEN -1e+06 AND 1e+06",
    }
    referred = {"creator_id": "rec_users.id", "sound_id": "rec_sounds.id"}
    return [
        *(
            sa.CheckConstraint(text, name=op.f(f"rec_videos_{name}_ck"))
            for name, text in checks.items()
        ),
        *(
            sa.ForeignKeyConstraint([name], [parent], name=op.f(f"rec_videos_{name}_fk"))
            for name, parent in referred.items()
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_videos_pk")),
        sa.UniqueConstraint("key", name=op.f("rec_videos_key_uq")),
    ]


VIDEO_INDEXES = (
    ["creator_id", "status", "published_at", "id"],
    ["sound_id", "status", "published_at", "id"],
    ["status", "published_at", "id"],
    ["status", "language", "trending", "id"],
    ["status", "country", "trending", "id"],
    ["status", "trending", "id"],
)
