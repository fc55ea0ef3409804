"""The weights of neighbours, and totals of the last refresh.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations
from sqlalchemy.schema import conv

from recommender.database.migrations import committing

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLE = "rec_video_neighbours"
KEY = conv("rec_video_neighbours_pk")
OTHER_KEY = conv("rec_video_neighbours_other_pk")
CHECK = conv("rec_video_neighbours_weight_ck")
FRACTION = "weight BETWEEN 0 AND 1"


def upgrade() -> None:
    if is_sqlite():
        with rebuilt(neighbours()) as batch:
            batch.add_column(weight_column())
            batch.create_check_constraint(CHECK, sa.text(FRACTION))
        for column in total_columns():
            op.add_column("rec_learning_state", column)
        return
    lock_users()
    op.add_column(TABLE, weight_column(), if_not_exists=True)
    op.drop_constraint(CHECK, TABLE, type_="check", if_exists=True)
    op.create_check_constraint(CHECK, TABLE, sa.text(FRACTION), postgresql_not_valid=True)
    for column in total_columns():
        op.add_column("rec_learning_state", column, if_not_exists=True)
    with committing(op.get_context()) as is_committing:
        names = {"table": TABLE, "name": CHECK}
        op.execute(sa.DDL("ALTER TABLE %(table)s VALIDATE CONSTRAINT %(name)s", context=names))
        replace_key(["similarity", "weight"], is_concurrent=is_committing)


def downgrade() -> None:
    if is_sqlite():
        with rebuilt(neighbours(weight_column(), check())) as batch:
            batch.drop_constraint(CHECK, type_="check")
            batch.drop_column("weight")
    else:
        lock_users()
        replace_key(["similarity"], is_concurrent=False)
        op.drop_column(TABLE, "weight")
    for column in total_columns():
        op.drop_column("rec_learning_state", column.name)


def is_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def lock_users() -> None:
    """Lock the users, whose rows every writer locks first, so that no writer is met halfway."""
    op.execute("LOCK TABLE rec_users IN ACCESS EXCLUSIVE MODE")


def weight_column() -> sa.Column[float]:
    return sa.Column("weight", sa.Double(), nullable=True)


def total_columns() -> list[sa.Column[int]]:
    return [
        sa.Column("neighbours_engaged", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("counted_batches", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("published_videos", sa.BigInteger(), nullable=True),
    ]


def check() -> sa.CheckConstraint:
    return sa.CheckConstraint(FRACTION, name=CHECK)


def replace_key(included: list[str], *, is_concurrent: bool) -> None:
    """Give the primary key on PostgreSQL other included columns; pages read the index alone."""
    # What an interrupted attempt left may be half an index.
    op.drop_index(OTHER_KEY, TABLE, if_exists=True, postgresql_concurrently=is_concurrent)
    op.create_index(
        OTHER_KEY, TABLE, ["source_id", "video_id"], unique=True,
        postgresql_include=included, postgresql_concurrently=is_concurrent, if_not_exists=True,
    )  # fmt: skip
    names = {"table": TABLE, "key": KEY, "other": OTHER_KEY}
    swap = (
        "ALTER TABLE %(table)s DROP CONSTRAINT IF EXISTS %(key)s,"
        " ADD CONSTRAINT %(key)s PRIMARY KEY USING INDEX %(other)s"
    )
    op.execute(sa.DDL(swap, context=names))


def neighbours(*added: sa.schema.SchemaItem) -> sa.Table:
    """The table on SQLite as it is before a change."""
    return sa.Table(
        TABLE,
        sa.MetaData(),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("similarity", sa.Double(), nullable=False),
        *added,
        sa.CheckConstraint(
            "similarity BETWEEN 0 AND 1", name=conv("rec_video_neighbours_similarity_ck")
        ),
        sa.PrimaryKeyConstraint("source_id", "video_id", name=KEY),
        sa.Index(conv("rec_video_neighbours_video_id_ix"), "video_id"),
        sqlite_with_rowid=False,
    )


def rebuilt(table: sa.Table) -> AbstractContextManager[BatchOperations]:
    """Rebuild the table on SQLite."""
    return op.batch_alter_table(TABLE, copy_from=table, recreate="always")
