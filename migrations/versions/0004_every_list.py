"""Who may see a video, who blocked whom, and what was served to whom.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql, sqlite

from recommender.database.migrations import committing, kept_rows

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")

VIDEOS = (
    "id", "key", "creator_id", "sound_id", "language", "country", "duration_ms", "orientation",
    "status", "published_at", "impressions", "engaged_views", "trending", "neighbours_views",
    "stats_at", "format",
)  # fmt: skip
STATUSES = ("published", "review", "removed")
FOR_FEWER = ("followers", "undiscoverable", "unlisted")
USERS_AT_ONCE = 1_000
FOR_YOU_MEMORY = 0
VISIBILITY = "visibility BETWEEN 0 AND 5"


def upgrade() -> None:
    if not is_sqlite():
        lock_users()
    add_discoverable()
    create_blocks()
    create_served()
    add_attempts()
    if is_sqlite():
        rebuild_videos(statuses=(*STATUSES, *FOR_FEWER), is_new=True)
        op.execute(fill_served(sa.true()))
        return
    add_visibility()
    with committing(op.get_context()) as is_committing:
        for name in ("status", "visibility"):
            validate("rec_videos", name)
        for users in ranges() if is_committing else [sa.true()]:
            op.execute(fill_served(users))


def downgrade() -> None:
    hide_from_old_code()
    if is_sqlite():
        rebuild_videos(statuses=STATUSES, is_new=False)
    else:
        lock_users()
        op.drop_column("rec_videos", "visibility")
        replace_status(STATUSES)
        validate("rec_videos", "status")
    op.drop_table("rec_blocks")
    op.drop_column("rec_users", "discoverable")
    drop_attempts()
    op.drop_table("rec_served")


def is_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def lock_users() -> None:
    """Lock the users, whose rows every writer locks first, so that no writer is met halfway."""
    op.execute("LOCK TABLE rec_users IN ACCESS EXCLUSIVE MODE")


def add_discoverable() -> None:
    column = sa.Column("discoverable", sa.Boolean(), server_default=sa.true(), nullable=False)
    # SQLite has no IF NOT EXISTS here, and needs none: its migration is one transaction.
    op.add_column("rec_users", column, if_not_exists=not is_sqlite())


def create_blocks() -> None:
    op.create_table(
        "rec_blocks",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("other_id", sa.BigInteger(), nullable=False),
        sa.Column("blocked_at", TIME, nullable=False),
        sa.CheckConstraint("direction IN ('by_me', 'of_me')", name=op.f("rec_blocks_direction_ck")),
        sa.ForeignKeyConstraint(["user_id"], ["rec_users.id"], name=op.f("rec_blocks_user_id_fk")),
        sa.ForeignKeyConstraint(
            ["other_id"], ["rec_users.id"], name=op.f("rec_blocks_other_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "direction", "other_id", name=op.f("rec_blocks_pk")),
        if_not_exists=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("rec_blocks_other_id_ix"), "rec_blocks", ["other_id"], if_not_exists=True)


def add_visibility() -> None:
    """Add the column on PostgreSQL, and let `status` have more words, without reading rows."""
    op.add_column("rec_videos", visibility_column(), if_not_exists=True)
    name = op.f("rec_videos_visibility_ck")
    op.drop_constraint(name, "rec_videos", type_="check", if_exists=True)
    op.create_check_constraint(name, "rec_videos", sa.text(VISIBILITY), postgresql_not_valid=True)
    replace_status((*STATUSES, *FOR_FEWER))


def visibility_column() -> sa.Column[int]:
    return sa.Column("visibility", sa.SmallInteger(), server_default="0", nullable=False)


def replace_status(statuses: tuple[str, ...]) -> None:
    name = op.f("rec_videos_status_ck")
    op.drop_constraint(name, "rec_videos", type_="check", if_exists=True)
    op.create_check_constraint(
        name, "rec_videos", sa.text(status_check(statuses)), postgresql_not_valid=True
    )


def status_check(statuses: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{status}'" for status in statuses)
    return f"status IN ({listed})"


def validate(table: str, name: str) -> None:
    constraint = {"table": table, "name": op.f(f"{table}_{name}_ck")}
    op.execute(sa.DDL("ALTER TABLE %(table)s VALIDATE CONSTRAINT %(name)s", context=constraint))


def hide_from_old_code() -> None:
    """Put the videos under review that old code would show to everyone."""
    videos = sa.table("rec_videos", sa.column("status", sa.Text))
    is_for_fewer = videos.c.status.in_(FOR_FEWER)
    op.execute(videos.update().where(is_for_fewer).values(status="review"))


def rebuild_videos(*, statuses: tuple[str, ...], is_new: bool) -> None:
    """Make the table of videos again on SQLite, with its rows."""
    visibility = [visibility_column()] if is_new else []
    checks = {"visibility": VISIBILITY} if is_new else {}
    with kept_rows("rec_videos", VIDEOS):
        op.create_table(
            "rec_videos",
            sa.Column("id", ID, sa.Identity(), nullable=False),
            sa.Column("key", KEY, nullable=False),
            sa.Column("creator_id", sa.BigInteger(), nullable=True),
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
            sa.Column("format", sa.Text(), nullable=True),
            *visibility,
            *video_constraints({"status": status_check(statuses), **checks}),
            sqlite_autoincrement=True,
        )
    index_videos()


def video_constraints(added: dict[str, str]) -> list[sa.Constraint]:
    checks = {
        "orientation": "orientation IN ('portrait', 'landscape', 'square')",
        "not_negative": (
            "duration_ms >= 0 AND impressions >= 0 AND engaged_views >= 0 AND neighbours_views >= 0"
        ),
        "key_length": "length(key) BETWEEN 1 AND 255",
        "trending": "trending BETWEEN -1e+06 AND 1e+06",
        **added,
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


def index_videos() -> None:
    for columns in VIDEO_INDEXES:
        has_format = columns[0] == "format"
        where = {"sqlite_where": sa.text("format IS NOT NULL")} if has_format else {}
        op.create_index(op.f(f"rec_videos_{'_'.join(columns)}_ix"), "rec_videos", columns, **where)


VIDEO_INDEXES = (
    ["creator_id", "status", "published_at", "id"],
    ["sound_id", "status", "published_at", "id"],
    ["status", "published_at", "id"],
    ["status", "language", "trending", "id"],
    ["status", "country", "trending", "id"],
    ["status", "trending", "id"],
    ["format", "status", "published_at", "id"],
)


def create_served() -> None:
    op.create_table(
        "rec_served",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("memory", sa.SmallInteger(), nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.Uuid(), nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("seen", sa.Boolean(), nullable=False),
        sa.CheckConstraint("attempts >= 0", name=op.f("rec_served_not_negative_ck")),
        sa.PrimaryKeyConstraint("user_id", "memory", "video_id", name=op.f("rec_served_pk")),
        sqlite_with_rowid=False,
        if_not_exists=True,
    )


def served_columns() -> dict[str, list[sa.Column[object]]]:
    """The columns that sessions and their places get."""
    return {
        "rec_feed_sessions": [
            sa.Column("seen_until", sa.Integer(), server_default="0", nullable=False)
        ],
        "rec_feed_items": [
            sa.Column("attempt", sa.Integer(), nullable=True),
            sa.Column("refilled", sa.Boolean(), server_default=sa.false(), nullable=False),
        ],
    }


def add_attempts() -> None:
    for table, columns in served_columns().items():
        for column in columns:
            op.add_column(table, column, if_not_exists=not is_sqlite())


def drop_attempts() -> None:
    for table, columns in served_columns().items():
        for column in columns:
            op.drop_column(table, column.name)


def ranges() -> Iterable[sa.ColumnElement[bool]]:
    """Ranges of users, so that no statement takes long."""
    context, user_id = op.get_context(), sa.column("user_id", sa.BigInteger)
    if context.as_sql or not context.connection:
        return [sa.true()]
    newest = sa.select(sa.func.max(sa.column("id"))).select_from(sa.table("rec_users"))
    last = context.connection.scalar(newest) or 0
    return [
        user_id.between(low, low + USERS_AT_ONCE - 1) for low in range(0, last + 1, USERS_AT_ONCE)
    ]


def fill_served(users: sa.ColumnElement[bool]) -> sa.Executable:
    """Fill the table from the places of some users; what is there already stays.

    A page that was followed by another one in its session counts as looked at.
    """
    served = sa.table(
        "rec_served",
        *map(sa.column, ("user_id", "memory", "video_id", "session")),
        *map(sa.column, ("last_at", "attempts", "seen")),
    )
    place = last_places(users)
    memory = sa.literal(FOR_YOU_MEMORY, sa.SmallInteger())
    rows = sa.select(
        place.c.user_id, memory, place.c.video_id, place.c.session, place.c.last_at,
        place.c.attempts, place.c.times_seen > 0,
    ).where(place.c.number == 1)  # fmt: skip
    insert = (sqlite if is_sqlite() else postgresql).insert(served)
    return insert.from_select(list(served.c.keys()), rows).on_conflict_do_nothing()


def last_places(users: sa.ColumnElement[bool]) -> sa.Subquery:
    """Return the places of users and videos; the last one of a pair has the number 1."""
    names = ("user_id", "session", "position", "video_id", "page", "served_at")
    items = sa.table("rec_feed_items", *map(sa.column, names))
    last_page = sa.func.max(items.c.page).over(partition_by=[items.c.user_id, items.c.session])
    seen = sa.case((items.c.position < last_page, 1), else_=0).label("seen")
    place = sa.select(*items.c, seen).where(users).subquery("places")
    pair = [place.c.user_id, place.c.video_id]
    latest = [place.c.served_at.desc(), place.c.session]
    return sa.select(
        *place.c,
        sa.func.max(place.c.served_at).over(partition_by=pair).label("last_at"),
        sa.func.count().over(partition_by=pair).label("attempts"),
        sa.func.sum(place.c.seen).over(partition_by=pair).label("times_seen"),
        sa.func.row_number().over(partition_by=pair, order_by=latest).label("number"),
    ).subquery("last_places")
