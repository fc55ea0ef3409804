"""The first tables, the profile `classic` and the learning state.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
CLASSIC = {
    "completion": 0.40,
    "likes": 0.30,
    "shares": 0.25,
    "follows": 0.35,
    "hashtags": 0.20,
    "sound": 0.15,
    "language": 0.05,
    "country": 0.02,
}


def upgrade() -> None:
    op.create_table(
        "rec_hashtags",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.CheckConstraint(
            "length(name) BETWEEN 1 AND 100", name=op.f("rec_hashtags_name_length_ck")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_hashtags_pk")),
        sa.UniqueConstraint("name", name=op.f("rec_hashtags_name_uq")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rec_learning_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("landmark", TIME, nullable=False),
        sa.Column("creator_half_life_days", sa.Double(), nullable=False),
        sa.Column("hashtag_half_life_days", sa.Double(), nullable=False),
        sa.Column("sound_half_life_days", sa.Double(), nullable=False),
        sa.Column("hashtag_rule", sa.Integer(), nullable=False),
        sa.Column("events_horizon", TIME, nullable=True),
        sa.CheckConstraint(
            "creator_half_life_days BETWEEN 14 AND 36500"
            " AND hashtag_half_life_days BETWEEN 14 AND 36500"
            " AND sound_half_life_days BETWEEN 14 AND 36500",
            name=op.f("rec_learning_state_half_lives_ck"),
        ),
        sa.CheckConstraint("id = 1", name=op.f("rec_learning_state_one_row_ck")),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_learning_state_pk")),
    )
    op.create_table(
        "rec_ranking_profiles",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("activated_at", TIME, nullable=True),
        sa.CheckConstraint(
            "length(name) BETWEEN 1 AND 255", name=op.f("rec_ranking_profiles_name_length_ck")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("rec_ranking_profiles_version_ck")),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_ranking_profiles_pk")),
        sa.UniqueConstraint("name", "version", name=op.f("rec_ranking_profiles_name_version_uq")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rec_users",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("country", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, nullable=True),
        sa.Column("erased_at", TIME, nullable=True),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name=op.f("rec_users_key_length_ck")),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_users_pk")),
        sa.UniqueConstraint("key", name=op.f("rec_users_key_uq")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rec_events",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("watch_ms", sa.BigInteger(), nullable=True),
        sa.Column("completion", sa.Double(), nullable=True),
        sa.Column("engaged", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('impression', 'watch', 'like', 'unlike', 'share', 'comment', "
            "'save', 'unsave', 'not_interested', 'report')",
            name=op.f("rec_events_kind_ck"),
        ),
        sa.CheckConstraint("completion BETWEEN 0 AND 1", name=op.f("rec_events_completion_ck")),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name=op.f("rec_events_key_length_ck")),
        sa.CheckConstraint("watch_ms >= 0", name=op.f("rec_events_not_negative_ck")),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("rec_events_pk")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rec_events_pending",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("rec_events_pending_pk")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rec_follows",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("creator_id", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["rec_users.id"], name=op.f("rec_follows_creator_id_fk")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["rec_users.id"], name=op.f("rec_follows_user_id_fk")),
        sa.PrimaryKeyConstraint("user_id", "creator_id", name=op.f("rec_follows_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index("rec_follows_creator_id_ix", "rec_follows", ["creator_id"])
    op.create_table(
        "rec_profile_weights",
        sa.Column("profile_id", sa.BigInteger(), nullable=False),
        sa.Column("signal", KEY, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "length(signal) BETWEEN 1 AND 255", name=op.f("rec_profile_weights_signal_length_ck")
        ),
        sa.CheckConstraint(
            "weight BETWEEN -100 AND 100", name=op.f("rec_profile_weights_weight_ck")
        ),
        sa.ForeignKeyConstraint(
            ["profile_id"],
            ["rec_ranking_profiles.id"],
            name=op.f("rec_profile_weights_profile_id_fk"),
        ),
        sa.PrimaryKeyConstraint("profile_id", "signal", name=op.f("rec_profile_weights_pk")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rec_sounds",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("creator_id", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name=op.f("rec_sounds_key_length_ck")),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["rec_users.id"], name=op.f("rec_sounds_creator_id_fk")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_sounds_pk")),
        sa.UniqueConstraint("key", name=op.f("rec_sounds_key_uq")),
        sqlite_autoincrement=True,
    )
    op.create_index("rec_sounds_creator_id_ix", "rec_sounds", ["creator_id"])
    op.create_table(
        "rec_user_hashtags",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("hashtag_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["hashtag_id"], ["rec_hashtags.id"], name=op.f("rec_user_hashtags_hashtag_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_user_hashtags_user_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "hashtag_id", name=op.f("rec_user_hashtags_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index("rec_user_hashtags_hashtag_id_ix", "rec_user_hashtags", ["hashtag_id"])
    op.create_table(
        "rec_user_sounds",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("sound_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sound_id"], ["rec_sounds.id"], name=op.f("rec_user_sounds_sound_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_user_sounds_user_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "sound_id", name=op.f("rec_user_sounds_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index("rec_user_sounds_sound_id_ix", "rec_user_sounds", ["sound_id"])
    op.create_table(
        "rec_videos",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("creator_id", sa.BigInteger(), nullable=False),
        sa.Column("sound_id", sa.BigInteger(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("country", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("orientation", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="published", nullable=False),
        sa.Column("published_at", TIME, nullable=False),
        sa.Column("impressions", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("engaged_views", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("trending", sa.Double(), server_default="0", nullable=False),
        sa.Column("stats_at", TIME, nullable=True),
        sa.CheckConstraint(
            "orientation IN ('portrait', 'landscape', 'square')",
            name=op.f("rec_videos_orientation_ck"),
        ),
        sa.CheckConstraint(
            "status IN ('published', 'review', 'removed')", name=op.f("rec_videos_status_ck")
        ),
        sa.CheckConstraint(
            "duration_ms >= 0 AND impressions >= 0 AND engaged_views >= 0",
            name=op.f("rec_videos_not_negative_ck"),
        ),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name=op.f("rec_videos_key_length_ck")),
        sa.CheckConstraint("trending BETWEEN 0 AND 1e15", name=op.f("rec_videos_trending_ck")),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["rec_users.id"], name=op.f("rec_videos_creator_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["sound_id"], ["rec_sounds.id"], name=op.f("rec_videos_sound_id_fk")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_videos_pk")),
        sa.UniqueConstraint("key", name=op.f("rec_videos_key_uq")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "rec_videos_creator_id_published_at_ix", "rec_videos", ["creator_id", "published_at"]
    )
    op.create_index(
        "rec_videos_sound_id_published_at_ix", "rec_videos", ["sound_id", "published_at"]
    )
    op.create_index("rec_videos_status_published_at_ix", "rec_videos", ["status", "published_at"])
    op.create_table(
        "rec_interactions",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("impressions", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("plays", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("engaged_views", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completion", sa.Double(), server_default="0", nullable=False),
        sa.Column("watch_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("shares", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("comments", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reports", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("liked_at", TIME, nullable=True),
        sa.Column("unliked_at", TIME, nullable=True),
        sa.Column("saved_at", TIME, nullable=True),
        sa.Column("unsaved_at", TIME, nullable=True),
        sa.Column("not_interested_at", TIME, nullable=True),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.CheckConstraint(
            "completion BETWEEN 0 AND 1", name=op.f("rec_interactions_completion_ck")
        ),
        sa.CheckConstraint(
            "impressions >= 0 AND plays >= 0 AND engaged_views >= 0"
            " AND watch_ms >= 0 AND shares >= 0 AND comments >= 0 AND reports >= 0",
            name=op.f("rec_interactions_not_negative_ck"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_interactions_user_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["video_id"], ["rec_videos.id"], name=op.f("rec_interactions_video_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "video_id", name=op.f("rec_interactions_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index("rec_interactions_video_id_ix", "rec_interactions", ["video_id"])
    op.create_table(
        "rec_video_captions",
        sa.Column("video_id", ID, nullable=False),
        sa.Column("caption", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "length(caption) BETWEEN 1 AND 10000", name=op.f("rec_video_captions_caption_length_ck")
        ),
        sa.ForeignKeyConstraint(
            ["video_id"], ["rec_videos.id"], name=op.f("rec_video_captions_video_id_fk")
        ),
        sa.PrimaryKeyConstraint("video_id", name=op.f("rec_video_captions_pk")),
    )
    op.create_table(
        "rec_video_hashtags",
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("hashtag_id", sa.BigInteger(), nullable=False),
        sa.Column("listed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["hashtag_id"], ["rec_hashtags.id"], name=op.f("rec_video_hashtags_hashtag_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["video_id"], ["rec_videos.id"], name=op.f("rec_video_hashtags_video_id_fk")
        ),
        sa.PrimaryKeyConstraint("video_id", "hashtag_id", name=op.f("rec_video_hashtags_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "rec_video_hashtags_hashtag_id_listed_at_video_id_ix",
        "rec_video_hashtags",
        ["hashtag_id", "listed_at", "video_id"],
    )
    insert_classic()
    insert_learning_state()


def insert_classic() -> None:
    profiles = sa.table(
        "rec_ranking_profiles",
        sa.column("id", sa.BigInteger),
        sa.column("name", sa.Text),
        sa.column("version", sa.Integer),
        sa.column("created_at", TIME),
        sa.column("activated_at", TIME),
    )
    weights = sa.table(
        "rec_profile_weights",
        sa.column("profile_id", sa.BigInteger),
        sa.column("signal", sa.Text),
        sa.column("position", sa.Integer),
        sa.column("weight", sa.Double),
    )
    now = moment(BEGINNING)
    classic = sa.select(profiles.c.id).where(profiles.c.name == "classic").scalar_subquery()
    op.execute(
        profiles.insert().values(name="classic", version=1, created_at=now, activated_at=now)
    )
    for position, (signal, weight) in enumerate(CLASSIC.items(), start=1):
        op.execute(
            weights.insert().values(
                profile_id=classic, signal=signal, position=position, weight=weight
            )
        )


def insert_learning_state() -> None:
    state = sa.table(
        "rec_learning_state",
        sa.column("id", sa.Integer),
        sa.column("landmark", TIME),
        sa.column("creator_half_life_days", sa.Double),
        sa.column("hashtag_half_life_days", sa.Double),
        sa.column("sound_half_life_days", sa.Double),
        sa.column("hashtag_rule", sa.Integer),
    )
    op.execute(
        state.insert().values(
            id=1,
            landmark=moment(BEGINNING),
            creator_half_life_days=30.0,
            hashtag_half_life_days=30.0,
            sound_half_life_days=30.0,
            hashtag_rule=1,
        )
    )


def moment(value: datetime) -> sa.ColumnElement[Any]:
    """The time as a literal that both databases and offline SQL take."""
    if op.get_context().dialect.name == "sqlite":
        return sa.literal(int(value.timestamp()) * 1_000_000, sa.BigInteger)
    return sa.cast(sa.literal(value.isoformat(), sa.Text), sa.DateTime(timezone=True))


def downgrade() -> None:
    op.drop_table("rec_video_hashtags")
    op.drop_table("rec_video_captions")
    op.drop_table("rec_interactions")
    op.drop_table("rec_videos")
    op.drop_table("rec_user_sounds")
    op.drop_table("rec_user_hashtags")
    op.drop_table("rec_sounds")
    op.drop_table("rec_profile_weights")
    op.drop_table("rec_follows")
    op.drop_table("rec_events_pending")
    op.drop_table("rec_events")
    op.drop_table("rec_users")
    op.drop_table("rec_ranking_profiles")
    op.drop_table("rec_learning_state")
    op.drop_table("rec_hashtags")
