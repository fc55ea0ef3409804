"""The log of served places is partitioned by time on PostgreSQL.

The table of before becomes the default partition, so no row is read or copied.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

LOG = "rec_feed_items"
DEFAULT = "rec_feed_items_default"

NAMES = {
    "rec_feed_items_pk": "rec_feed_items_default_pk",
    "rec_feed_items_user_id_session_video_id_uq": "rec_feed_items_default_uq",
    "rec_feed_items_user_id_video_id_ix": "rec_feed_items_default_user_id_video_id_idx",
}
"""The names of the table's indexes, and those of the default partition."""

COPY_RIGHTS = """
DO $$ DECLARE owner regrole; granted record;
BEGIN
SELECT relowner INTO owner FROM pg_class WHERE oid = '%(source)s'::regclass;
EXECUTE 'ALTER TABLE %(target)s OWNER TO ' || owner;
FOR granted IN
SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS role
FROM pg_class, aclexplode(relacl) WHERE oid = '%(source)s'::regclass AND grantee != relowner
LOOP
EXECUTE 'GRANT ' || granted.privilege_type || ' ON %(target)s TO ' || granted.role;
END LOOP;
END $$"""

UNITE = """
DO $$ DECLARE part regclass;
BEGIN
FOR part IN SELECT inhrelid FROM pg_inherits
WHERE inhparent = 'rec_feed_items'::regclass AND inhrelid != 'rec_feed_items_default'::regclass
LOOP
EXECUTE 'ALTER TABLE rec_feed_items DETACH PARTITION ' || part;
EXECUTE 'INSERT INTO rec_feed_items_default SELECT * FROM ' || part;
EXECUTE 'DROP TABLE ' || part;
END LOOP;
END $$"""
"""Move the rows of all other partitions to the default one."""


def upgrade() -> None:
    if is_sqlite():
        return
    lock()
    op.drop_constraint(op.f("rec_feed_items_user_id_session_fk"), LOG, type_="foreignkey")
    op.rename_table(LOG, DEFAULT)
    rename_indexes(NAMES)
    op.execute(
        "CREATE TABLE rec_feed_items (LIKE rec_feed_items_default INCLUDING DEFAULTS"
        " INCLUDING CONSTRAINTS) PARTITION BY RANGE (served_at)"
    )
    op.create_index(op.f("rec_feed_items_user_id_video_id_ix"), LOG, ["user_id", "video_id"])
    op.execute("ALTER TABLE rec_feed_items ATTACH PARTITION rec_feed_items_default DEFAULT")
    copy_rights(DEFAULT, LOG)


def downgrade() -> None:
    if is_sqlite():
        return
    lock()
    op.execute(UNITE)
    op.execute("ALTER TABLE rec_feed_items DETACH PARTITION rec_feed_items_default")
    copy_rights(LOG, DEFAULT)
    op.drop_table(LOG)
    op.rename_table(DEFAULT, LOG)
    rename_indexes({new: old for old, new in NAMES.items()})
    # What an interrupted prune left of sessions that it deleted.
    op.execute(
        "DELETE FROM rec_feed_items place WHERE NOT EXISTS (SELECT FROM rec_feed_sessions own"
        " WHERE own.user_id = place.user_id AND own.session = place.session)"
    )
    op.create_foreign_key(
        op.f("rec_feed_items_user_id_session_fk"), LOG, "rec_feed_sessions",
        ["user_id", "session"], ["user_id", "session"],
    )  # fmt: skip


def is_sqlite() -> bool:
    """Return whether the table stays as it is."""
    return op.get_context().dialect.name == "sqlite"


def lock() -> None:
    """Lock the users, whose rows every writer locks first, so that no writer is met halfway."""
    op.execute("LOCK TABLE rec_users IN ACCESS EXCLUSIVE MODE")


def rename_indexes(names: dict[str, str]) -> None:
    for old, new in names.items():
        op.execute(
            sa.DDL("ALTER INDEX %(old)s RENAME TO %(new)s", context={"old": old, "new": new})
        )


def copy_rights(source: str, target: str) -> None:
    """Give a table the owner and the granted rights of another one."""
    op.execute(sa.DDL(COPY_RIGHTS, context={"source": source, "target": target}))
