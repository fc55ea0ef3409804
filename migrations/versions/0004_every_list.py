"""Who may see a video, and who blocked whom.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

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
VISIBILITY = "visibility BETWEEN 0 AND 5"


def upgrade() -> None:
    if not is_sqlite():
        lock_users()
    add_discoverable()
    create_blocks()
    if is_sqlite():
        rebuild_videos(statuses=(*STATUSES, *FOR_FEWER), is_new=True)
        return
    add_visibility()
    with committing(op.get_context()):
        for name in ("status", "visibility"):
            validate("rec_videos", name)


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
