"""The first tables, the profiles `classic` and `for_you`, and the learning state.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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
FOR_YOU = {
    "completion": 0.10,
    "likes": 0.20,
    "shares": 0.10,
    "comments": 0.10,
    "saves": 0.15,
    "follows": 1.00,
    "hashtags": 0.20,
    "sound": 0.15,
    "language": 0.30,
    "country": 0.05,
    "device": 0.05,
    "creator_affinity": 1.00,
    "hashtag_affinity": 0.30,
    "lately": 2.00,
    "sound_affinity": 0.20,
    "caption": 0.15,
    "collaborative": 6.00,
    "social": 0.50,
    "quality": 1.50,
    "trending": 1.00,
    "freshness": 0.20,
    "exploration": 0.05,
}
LEARNING = {
    "creator_half_life_days": 30.0,
    "hashtag_half_life_days": 30.0,
    "sound_half_life_days": 30.0,
    "trend_half_life_days": 2.0,
    "watch_weight": 1.0,
    "like_weight": 0.5,
    "save_weight": 0.5,
    "share_weight": 0.7,
    "comment_weight": 0.4,
    "publish_weight": 1.0,
    "skip_weight": -0.1,
    "not_interested_weight": -1.5,
    "report_weight": -2.0,
    "long_video_ms": 60_000,
    "engaged_share": 0.3,
}


def upgrade() -> None:
    op.create_table(
        "rec_affinities",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.BigInteger(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "subject IN ('creator', 'hashtag', 'sound')", name=op.f("rec_affinities_subject_ck")
        ),
        sa.CheckConstraint(
            "score BETWEEN -1e+300 AND 1e+300", name=op.f("rec_affinities_score_ck")
        ),
        sa.PrimaryKeyConstraint("user_id", "subject", "subject_id", name=op.f("rec_affinities_pk")),
        sqlite_with_rowid=False,
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
            "kind IN ('impression', 'watch', 'like', 'unlike', 'share', 'comment', 'save', "
            "'unsave', 'not_interested', 'report')",
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
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("impressions", sa.Integer(), nullable=False),
        sa.Column("engaged_views", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "impressions >= 0 AND engaged_views >= 0",
            name=op.f("rec_events_pending_not_negative_ck"),
        ),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("rec_events_pending_pk")),
        sqlite_with_rowid=False,
    )
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
        sa.Column("trend_half_life_days", sa.Double(), nullable=False),
        sa.Column("watch_weight", sa.Double(), nullable=False),
        sa.Column("like_weight", sa.Double(), nullable=False),
        sa.Column("save_weight", sa.Double(), nullable=False),
        sa.Column("share_weight", sa.Double(), nullable=False),
        sa.Column("comment_weight", sa.Double(), nullable=False),
        sa.Column("publish_weight", sa.Double(), nullable=False),
        sa.Column("skip_weight", sa.Double(), nullable=False),
        sa.Column("not_interested_weight", sa.Double(), nullable=False),
        sa.Column("report_weight", sa.Double(), nullable=False),
        sa.Column("long_video_ms", sa.BigInteger(), nullable=False),
        sa.Column("hashtag_rule", sa.Integer(), nullable=False),
        sa.Column("events_horizon", TIME, nullable=True),
        sa.Column("engaged_share", sa.Double(), nullable=False),
        sa.Column("trend_peak", sa.Double(), nullable=True),
        sa.Column("captions", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refreshed_at", TIME, nullable=True),
        sa.CheckConstraint("captions >= 0", name=op.f("rec_learning_state_not_negative_ck")),
        sa.CheckConstraint(
            "creator_half_life_days BETWEEN 14 AND 36500"
            " AND hashtag_half_life_days BETWEEN 14 AND 36500"
            " AND sound_half_life_days BETWEEN 14 AND 36500"
            " AND trend_half_life_days BETWEEN 0.1 AND 36500",
            name=op.f("rec_learning_state_half_lives_ck"),
        ),
        sa.CheckConstraint(
            "engaged_share BETWEEN 0 AND 1", name=op.f("rec_learning_state_engaged_share_ck")
        ),
        sa.CheckConstraint("id = 1", name=op.f("rec_learning_state_one_row_ck")),
        sa.CheckConstraint(
            "long_video_ms BETWEEN 1 AND 86400000", name=op.f("rec_learning_state_long_video_ms_ck")
        ),
        sa.CheckConstraint(
            "trend_peak BETWEEN -1e+06 AND 1e+06",
            name=op.f("rec_learning_state_trend_peak_ck"),
        ),
        sa.CheckConstraint(
            "watch_weight BETWEEN 0 AND 100 AND like_weight BETWEEN 0 AND 100"
            " AND save_weight BETWEEN 0 AND 100 AND share_weight BETWEEN 0 AND 100"
            " AND comment_weight BETWEEN 0 AND 100 AND publish_weight BETWEEN 0 AND 100"
            " AND skip_weight BETWEEN -100 AND 0 AND not_interested_weight BETWEEN -100 AND 0"
            " AND report_weight BETWEEN -100 AND 0",
            name=op.f("rec_learning_state_weights_ck"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_learning_state_pk")),
    )
    op.create_table(
        "rec_ranking_profiles",
        sa.Column("id", ID, sa.Identity(), nullable=False),
        sa.Column("name", KEY, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("activated_at", TIME, nullable=True),
        sa.Column("source", sa.Text(), server_default="hand", nullable=False),
        sa.Column("author", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("metrics", sa.JSON(none_as_null=True), nullable=True),
        sa.CheckConstraint(
            "length(author) BETWEEN 1 AND 255", name=op.f("rec_ranking_profiles_author_length_ck")
        ),
        sa.CheckConstraint(
            "length(name) BETWEEN 1 AND 255", name=op.f("rec_ranking_profiles_name_length_ck")
        ),
        sa.CheckConstraint(
            "length(note) BETWEEN 1 AND 10000", name=op.f("rec_ranking_profiles_note_length_ck")
        ),
        sa.CheckConstraint(
            "source IN ('hand', 'fit')", name=op.f("rec_ranking_profiles_source_ck")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("rec_ranking_profiles_version_ck")),
        sa.ForeignKeyConstraint(
            ["parent_id"],
            ["rec_ranking_profiles.id"],
            name=op.f("rec_ranking_profiles_parent_id_fk"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_ranking_profiles_pk")),
        sa.UniqueConstraint("name", "version", name=op.f("rec_ranking_profiles_name_version_uq")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("rec_ranking_profiles_parent_id_ix"),
        "rec_ranking_profiles",
        ["parent_id"],
        unique=False,
    )
    op.create_table(
        "rec_recent_engagements",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "video_id", name=op.f("rec_recent_engagements_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_recent_engagements_video_id_ix"),
        "rec_recent_engagements",
        ["video_id"],
        unique=False,
    )
    op.create_table(
        "rec_terms",
        sa.Column("term", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("captions", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("captions >= 0", name=op.f("rec_terms_not_negative_ck")),
        sa.PrimaryKeyConstraint("term", name=op.f("rec_terms_pk")),
        sqlite_with_rowid=False,
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
        sa.Column("learned_since", TIME, nullable=True),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name=op.f("rec_users_key_length_ck")),
        sa.PrimaryKeyConstraint("id", name=op.f("rec_users_pk")),
        sa.UniqueConstraint("key", name=op.f("rec_users_key_uq")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rec_video_neighbours",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("similarity", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "similarity BETWEEN 0 AND 1", name=op.f("rec_video_neighbours_similarity_ck")
        ),
        sa.PrimaryKeyConstraint(
            "source_id",
            "video_id",
            name=op.f("rec_video_neighbours_pk"),
            postgresql_include=["similarity"],
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_video_neighbours_video_id_ix"), "rec_video_neighbours", ["video_id"], unique=False
    )
    op.create_table(
        "rec_video_terms",
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("video_id", "term", name=op.f("rec_video_terms_pk")),
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
    op.create_index(op.f("rec_follows_creator_id_ix"), "rec_follows", ["creator_id"], unique=False)
    op.create_table(
        "rec_feed_sessions",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.Uuid(), nullable=False),
        sa.Column("next_position", sa.Integer(), nullable=False),
        sa.Column("rewatch", sa.Boolean(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.CheckConstraint("next_position >= 0", name=op.f("rec_feed_sessions_not_negative_ck")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_feed_sessions_user_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "session", name=op.f("rec_feed_sessions_pk")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rec_feed_items",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("video_id", sa.BigInteger(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("served_at", TIME, nullable=False),
        sa.Column("profile_id", sa.BigInteger(), nullable=False),
        sa.Column("score_key", sa.BigInteger(), nullable=False),
        sa.Column("sources", sa.Text(), nullable=False),
        sa.Column("explored", sa.Boolean(), nullable=False),
        sa.Column("crowded", sa.Boolean(), nullable=False),
        sa.Column("signals", sa.JSON(), nullable=False),
        sa.CheckConstraint(
            "position >= 0 AND page >= 0 AND asked >= 0",
            name=op.f("rec_feed_items_not_negative_ck"),
        ),
        sa.ForeignKeyConstraint(
            ["user_id", "session"],
            ["rec_feed_sessions.user_id", "rec_feed_sessions.session"],
            name=op.f("rec_feed_items_user_id_session_fk"),
        ),
        sa.PrimaryKeyConstraint("user_id", "session", "position", name=op.f("rec_feed_items_pk")),
        sa.UniqueConstraint(
            "user_id",
            "session",
            "video_id",
            name=op.f("rec_feed_items_user_id_session_video_id_uq"),
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_feed_items_user_id_video_id_ix"),
        "rec_feed_items",
        ["user_id", "video_id"],
        unique=False,
    )
    op.create_table(
        "rec_muted_creators",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("creator_id", sa.BigInteger(), nullable=False),
        sa.Column("muted_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["rec_users.id"], name=op.f("rec_muted_creators_creator_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_muted_creators_user_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "creator_id", name=op.f("rec_muted_creators_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_muted_creators_creator_id_ix"), "rec_muted_creators", ["creator_id"], unique=False
    )
    op.create_table(
        "rec_muted_hashtags",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("hashtag_id", sa.BigInteger(), nullable=False),
        sa.Column("muted_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["hashtag_id"], ["rec_hashtags.id"], name=op.f("rec_muted_hashtags_hashtag_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_muted_hashtags_user_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "hashtag_id", name=op.f("rec_muted_hashtags_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_muted_hashtags_hashtag_id_ix"), "rec_muted_hashtags", ["hashtag_id"], unique=False
    )
    op.create_table(
        "rec_muted_keywords",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("keyword", KEY, nullable=False),
        sa.Column("muted_at", TIME, nullable=False),
        sa.CheckConstraint(
            "length(keyword) BETWEEN 1 AND 255", name=op.f("rec_muted_keywords_keyword_length_ck")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_muted_keywords_user_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "keyword", name=op.f("rec_muted_keywords_pk")),
        sqlite_with_rowid=False,
    )
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
    op.create_index(op.f("rec_sounds_creator_id_ix"), "rec_sounds", ["creator_id"], unique=False)
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
    op.create_index(
        op.f("rec_user_hashtags_hashtag_id_ix"), "rec_user_hashtags", ["hashtag_id"], unique=False
    )
    op.create_table(
        "rec_muted_sounds",
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("sound_id", sa.BigInteger(), nullable=False),
        sa.Column("muted_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["sound_id"], ["rec_sounds.id"], name=op.f("rec_muted_sounds_sound_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["rec_users.id"], name=op.f("rec_muted_sounds_user_id_fk")
        ),
        sa.PrimaryKeyConstraint("user_id", "sound_id", name=op.f("rec_muted_sounds_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_muted_sounds_sound_id_ix"), "rec_muted_sounds", ["sound_id"], unique=False
    )
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
    op.create_index(
        op.f("rec_user_sounds_sound_id_ix"), "rec_user_sounds", ["sound_id"], unique=False
    )
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
        sa.Column("trending", sa.Double(), nullable=True),
        sa.Column("neighbours_views", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stats_at", TIME, nullable=True),
        sa.CheckConstraint(
            "orientation IN ('portrait', 'landscape', 'square')",
            name=op.f("rec_videos_orientation_ck"),
        ),
        sa.CheckConstraint(
            "status IN ('published', 'review', 'removed')", name=op.f("rec_videos_status_ck")
        ),
        sa.CheckConstraint(
            "duration_ms >= 0 AND impressions >= 0 AND engaged_views >= 0"
            " AND neighbours_views >= 0",
            name=op.f("rec_videos_not_negative_ck"),
        ),
        sa.CheckConstraint("length(key) BETWEEN 1 AND 255", name=op.f("rec_videos_key_length_ck")),
        sa.CheckConstraint(
            "trending BETWEEN -1e+06 AND 1e+06", name=op.f("rec_videos_trending_ck")
        ),
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
        op.f("rec_videos_status_country_trending_id_ix"),
        "rec_videos",
        ["status", "country", "trending", "id"],
        unique=False,
    )
    op.create_index(
        op.f("rec_videos_creator_id_status_published_at_id_ix"),
        "rec_videos",
        ["creator_id", "status", "published_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("rec_videos_status_language_trending_id_ix"),
        "rec_videos",
        ["status", "language", "trending", "id"],
        unique=False,
    )
    op.create_index(
        op.f("rec_videos_sound_id_status_published_at_id_ix"),
        "rec_videos",
        ["sound_id", "status", "published_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("rec_videos_status_published_at_id_ix"),
        "rec_videos",
        ["status", "published_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("rec_videos_status_trending_id_ix"),
        "rec_videos",
        ["status", "trending", "id"],
        unique=False,
    )
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
        sa.Column("engaged_at", TIME, nullable=True),
        sa.Column("first_at", TIME, nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.CheckConstraint(
            "completion BETWEEN 0 AND 1", name=op.f("rec_interactions_completion_ck")
        ),
        sa.CheckConstraint(
            "impressions >= 0 AND plays >= 0 AND engaged_views >= 0 AND watch_ms >= 0"
            " AND shares >= 0 AND comments >= 0 AND reports >= 0",
            name=op.f("rec_interactions_not_negative_ck"),
        ),
        sa.PrimaryKeyConstraint("user_id", "video_id", name=op.f("rec_interactions_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_interactions_user_id_engaged_at_ix"),
        "rec_interactions",
        ["user_id", "engaged_at"],
        unique=False,
        postgresql_where=sa.text("engaged_at IS NOT NULL"),
        sqlite_where=sa.text("engaged_at IS NOT NULL"),
    )
    op.create_index(
        op.f("rec_interactions_user_id_last_at_ix"),
        "rec_interactions",
        ["user_id", "last_at"],
        unique=False,
    )
    op.create_table(
        "rec_video_captions",
        sa.Column("video_id", ID, nullable=False),
        sa.Column("caption", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), server_default="", nullable=False),
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
        sa.PrimaryKeyConstraint("video_id", "hashtag_id", name=op.f("rec_video_hashtags_pk")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("rec_video_hashtags_hashtag_id_listed_at_video_id_ix"),
        "rec_video_hashtags",
        ["hashtag_id", "listed_at", "video_id"],
        unique=False,
    )
    insert_profile("classic", CLASSIC, BEGINNING)
    insert_profile("for_you", FOR_YOU, BEGINNING + timedelta(microseconds=1))
    insert_learning_state()


def insert_profile(name: str, formula: dict[str, float], activated_at: datetime) -> None:
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
    op.execute(
        profiles.insert().values(
            name=name,
            version=1,
            created_at=moment(BEGINNING),
            activated_at=moment(activated_at),
        )
    )
    made = sa.select(profiles.c.id).where(profiles.c.name == name).scalar_subquery()
    for position, (signal, weight) in enumerate(formula.items(), start=1):
        op.execute(
            weights.insert().values(
                profile_id=made, signal=signal, position=position, weight=weight
            )
        )


def insert_learning_state() -> None:
    values = {**LEARNING, "id": 1, "hashtag_rule": 1, "captions": 0}
    columns = [sa.column(name, sa.Double) for name in values]
    state = sa.table("rec_learning_state", sa.column("landmark", TIME), *columns)
    op.execute(state.insert().values(landmark=moment(BEGINNING), **values))


def moment(value: datetime) -> sa.ColumnElement[Any]:
    """The time as a literal that both databases and offline SQL take."""
    if op.get_context().dialect.name == "sqlite":
        return sa.literal(int(value.timestamp() * 1_000_000), sa.BigInteger)
    return sa.cast(sa.literal(value.isoformat(), sa.Text), sa.DateTime(timezone=True))


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # Who writes begins with a user's row: none is met halfway, where each waits for the other.
        op.execute("LOCK TABLE rec_users IN ACCESS EXCLUSIVE MODE")
    op.drop_table("rec_video_hashtags")
    op.drop_table("rec_video_captions")
    op.drop_table("rec_interactions")
    op.drop_table("rec_videos")
    op.drop_table("rec_user_sounds")
    op.drop_table("rec_muted_sounds")
    op.drop_table("rec_user_hashtags")
    op.drop_table("rec_sounds")
    op.drop_table("rec_profile_weights")
    op.drop_table("rec_muted_keywords")
    op.drop_table("rec_muted_hashtags")
    op.drop_table("rec_muted_creators")
    op.drop_table("rec_feed_items")
    op.drop_table("rec_feed_sessions")
    op.drop_table("rec_follows")
    op.drop_table("rec_video_terms")
    op.drop_table("rec_video_neighbours")
    op.drop_table("rec_users")
    op.drop_table("rec_terms")
    op.drop_table("rec_recent_engagements")
    op.drop_table("rec_ranking_profiles")
    op.drop_table("rec_learning_state")
    op.drop_table("rec_hashtags")
    op.drop_table("rec_events_pending")
    op.drop_table("rec_events")
    op.drop_table("rec_affinities")
