"""The tables of learned data: affinities, rollups and the learning state.

They can be computed again from the tables in `catalog` and `activity`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from recommender.models.types import (
    CLUSTERED,
    CLUSTERED_REFERENCE,
    PREFIX,
    REFERENCE,
    Count,
    Time,
    between,
    is_fraction,
    not_negative,
    one_of,
)
from recommender.models.types import Base as Base  # noqa: PLC0414 - passed on

SUBJECTS = ("creator", "hashtag", "sound")
"""The kinds of things that a user can have an affinity to."""


class Affinity(Base):
    """A user's affinity to a creator, hashtag or sound, with forward decay.

    `score` is a sum of contributions. Each is multiplied by 2 to the power of the half-lives from
    the landmark to its event, so that no row is rewritten as it ages (Cormode, Shkapenyuk,
    Srivastava and Xu, "Forward Decay", 2009).
    """

    # No foreign keys: the rows are derived, and a key costs as much as the rest of the row.

    __tablename__ = f"{PREFIX}affinities"
    __table_args__ = (one_of("subject", SUBJECTS), between("score", -1e300, 1e300), CLUSTERED)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    subject: Mapped[str] = mapped_column(Text, primary_key=True)
    subject_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    score: Mapped[float] = mapped_column(Double)


class VideoNeighbour(Base):
    """The similarity of two videos by common engaged viewers beyond chance, 0 to 1: a rollup.

    `weight` is what an engagement with the source says for the video, 0 to 1, given the video's
    other sources. Rows from before migration 0006 have none; their similarity stands in for it.
    """

    __tablename__ = f"{PREFIX}video_neighbours"
    __table_args__ = (
        PrimaryKeyConstraint("source_id", "video_id", postgresql_include=["similarity", "weight"]),
        is_fraction("similarity"),
        is_fraction("weight"),
        Index(None, "video_id", postgresql_include=["source_id", "similarity"]),
        CLUSTERED_REFERENCE,
    )

    source_id: Mapped[int] = mapped_column(BigInteger)
    video_id: Mapped[int] = mapped_column(BigInteger)
    similarity: Mapped[float] = mapped_column(Double)
    weight: Mapped[float | None] = mapped_column(Double)


class RecentEngagement(Base):
    """One of the latest videos a user engaged with: a rollup that other users' feeds may read."""

    __tablename__ = f"{PREFIX}recent_engagements"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "video_id", postgresql_include=["at"]),
        Index(None, "video_id"),
        CLUSTERED,
    )

    user_id: Mapped[int] = mapped_column(BigInteger)
    video_id: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[Time]


class Term(Base):
    """A term and the number of captions that contain it: a rollup."""

    __tablename__ = f"{PREFIX}terms"
    __table_args__ = (not_negative("captions"), CLUSTERED_REFERENCE)

    term: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    captions: Mapped[Count]


class LearningState(Base):
    """The one row of the learning rules and of the totals that rollups computed.

    Half-lives are in days. A weight is the contribution of one event to an affinity, before decay.
    `watch_weight` is for a full view of a very long video; a full view of a video of
    `long_video_ms` milliseconds counts half. A watch is an engaged view from the part
    `engaged_part` on, or from `engaged_ms` milliseconds on. A changed rule requires a rebuild.
    `rebuilt_at` is the time of the last rebuild of trends. `neighbours_engaged` is the number of
    engaged views when the neighbours of all videos were last computed, `counted_batches` the number
    of transactions that changed statistics or recent engagements. `published_videos` is the number
    of published videos at the last refresh, at most 7,201.
    """

    __tablename__ = f"{PREFIX}learning_state"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint(
            "creator_half_life_days BETWEEN 14 AND 36500"
            " AND hashtag_half_life_days BETWEEN 14 AND 36500"
            " AND sound_half_life_days BETWEEN 14 AND 36500"
            " AND trend_half_life_days BETWEEN 0.1 AND 36500",
            name="half_lives",
        ),
        CheckConstraint(
            "watch_weight BETWEEN 0 AND 100 AND like_weight BETWEEN 0 AND 100"
            " AND save_weight BETWEEN 0 AND 100 AND share_weight BETWEEN 0 AND 100"
            " AND comment_weight BETWEEN 0 AND 100 AND publish_weight BETWEEN 0 AND 100"
            " AND skip_weight BETWEEN -100 AND 0 AND not_interested_weight BETWEEN -100 AND 0"
            " AND report_weight BETWEEN -100 AND 0 AND convert_weight BETWEEN 0 AND 100"
            " AND interested_weight BETWEEN 0 AND 100",
            name="weights",
        ),
        CheckConstraint(
            "engaged_part BETWEEN 0.01 AND 1 AND engaged_ms BETWEEN 1 AND 86400000",
            name="engaged_view",
        ),
        CheckConstraint("long_video_ms BETWEEN 1 AND 86400000", name="long_video_ms"),
        is_fraction("engaged_share"),
        between("trend_peak", -1e6, 1e6),
        not_negative("captions"),
        REFERENCE,
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    landmark: Mapped[Time]
    creator_half_life_days: Mapped[float] = mapped_column(Double)
    hashtag_half_life_days: Mapped[float] = mapped_column(Double)
    sound_half_life_days: Mapped[float] = mapped_column(Double)
    trend_half_life_days: Mapped[float] = mapped_column(Double)
    watch_weight: Mapped[float] = mapped_column(Double)
    like_weight: Mapped[float] = mapped_column(Double)
    save_weight: Mapped[float] = mapped_column(Double)
    share_weight: Mapped[float] = mapped_column(Double)
    comment_weight: Mapped[float] = mapped_column(Double)
    publish_weight: Mapped[float] = mapped_column(Double)
    skip_weight: Mapped[float] = mapped_column(Double)
    not_interested_weight: Mapped[float] = mapped_column(Double)
    report_weight: Mapped[float] = mapped_column(Double)
    long_video_ms: Mapped[int] = mapped_column(BigInteger)
    hashtag_rule: Mapped[int] = mapped_column(Integer)
    events_horizon: Mapped[Time | None]
    engaged_share: Mapped[float] = mapped_column(Double)
    trend_peak: Mapped[float | None] = mapped_column(Double)
    captions: Mapped[Count]
    refreshed_at: Mapped[Time | None]
    convert_weight: Mapped[float] = mapped_column(Double, server_default="1.0")
    interested_weight: Mapped[float] = mapped_column(Double, server_default="0.5")
    engaged_part: Mapped[float] = mapped_column(Double, server_default="0.9")
    engaged_ms: Mapped[int] = mapped_column(BigInteger, server_default="18000")
    rebuilt_at: Mapped[Time | None]
    neighbours_engaged: Mapped[Count]
    counted_batches: Mapped[Count]
    published_videos: Mapped[int | None] = mapped_column(BigInteger)
