"""Users that were merged into other users.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from recommender.database.migrations import committing, kept_rows

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
FOREIGN_KEY = "rec_users_merged_into_fk"
USERS = (
    "id", "key", "language", "country", "device", "created_at", "erased_at", "learned_since",
    "on_sight", "discoverable",
)  # fmt: skip


def upgrade() -> None:
    if is_sqlite():
        rebuild_users(columns=added(), constraints=[foreign_key()])
        index_aliases()
        return
    for column in added():
        op.add_column("rec_users", column, if_not_exists=True)
    op.drop_constraint(FOREIGN_KEY, "rec_users", type_="foreignkey", if_exists=True)
    refer_to_users()
    with committing(op.get_context()) as is_committing:
        op.execute("ALTER TABLE rec_users VALIDATE CONSTRAINT rec_users_merged_into_fk")
        index_aliases(postgresql_concurrently=is_committing)


def downgrade() -> None:
    if is_sqlite():
        rebuild_users(columns=[], constraints=[])
        return
    op.drop_index(op.f("rec_users_merged_into_ix"), "rec_users")
    for column in added():
        op.drop_column("rec_users", column.name)


def is_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def added() -> list[sa.Column[object]]:
    """The columns that users get."""
    return [
        sa.Column("merged_into", sa.BigInteger(), nullable=True),
        sa.Column("merged_at", TIME, nullable=True),
    ]


def foreign_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["merged_into"], ["rec_users.id"], name=op.f(FOREIGN_KEY))


def rebuild_users(
    *, columns: list[sa.Column[object]], constraints: list[sa.ForeignKeyConstraint]
) -> None:
    """Make the table of users again on SQLite, with its rows: it can add no foreign key."""
    with kept_rows("rec_users", USERS):
        op.create_table(
            "rec_users",
            sa.Column("id", ID, sa.Identity(), nullable=False),
            sa.Column("key", KEY, nullable=False),
            *(sa.Column(name, sa.Text(), nullable=True) for name in USERS[2:5]),
            *(sa.Column(name, TIME, nullable=True) for name in USERS[5:8]),
            sa.Column("on_sight", sa.Boolean(), server_default=sa.false(), nullable=False),
            sa.Column("discoverable", sa.Boolean(), server_default=sa.true(), nullable=False),
            *columns,
            *constraints,
            sa.CheckConstraint(
                "length(key) BETWEEN 1 AND 255", name=op.f("rec_users_key_length_ck")
            ),
            sa.PrimaryKeyConstraint("id", name=op.f("rec_users_pk")),
            sa.UniqueConstraint("key", name=op.f("rec_users_key_uq")),
            sqlite_autoincrement=True,
        )


def refer_to_users() -> None:
    """Add the foreign key on PostgreSQL, without reading rows."""
    name = op.f(FOREIGN_KEY)
    columns = ["merged_into"], ["id"]
    op.create_foreign_key(name, "rec_users", "rec_users", *columns, postgresql_not_valid=True)


def index_aliases(**options: bool) -> None:
    name = op.f("rec_users_merged_into_ix")
    op.drop_index(name, "rec_users", if_exists=True, **options)
    where = sa.text("merged_into IS NOT NULL")
    op.create_index(
        name,
        "rec_users",
        ["merged_into"],
        postgresql_where=where,
        sqlite_where=where,
        if_not_exists=True,
        **options,
    )
