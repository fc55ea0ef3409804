"""Every setting, with its default, bounds and environment name. The only reader of the environment.

Weights are not here: they are rows of the database, with versions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from recommender.errors import InvalidValue


def _setting(default: Any, doc: str, *names: str, low: float = 0, high: float = 0) -> Any:
    metadata = {"doc": doc, "names": names, "low": low, "high": high}
    return field(default=default, metadata=metadata, repr=high > 0)  # a URL may hold a password


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of engines and imports; seconds unless a name says otherwise.

    Raises:
        InvalidValue: a setting is out of its bounds; the message names it.
    """

    database_url: str = _setting(
        "sqlite:///recommender.db",
        "The database, as an SQLAlchemy URL; postgres:// and postgresql:// mean psycopg.",
        "RECOMMENDER_DATABASE_URL",
        "DATABASE_URL",
    )
    pool_size: int = _setting(
        5, "Connections kept open.", "RECOMMENDER_POOL_SIZE", low=1, high=1000
    )
    max_overflow: int = _setting(
        10, "Connections beyond them.", "RECOMMENDER_MAX_OVERFLOW", high=1000
    )
    pool_timeout: float = _setting(
        30.0, "Wait for a free connection.", "RECOMMENDER_POOL_TIMEOUT", low=0.1, high=3600
    )
    pool_recycle: int = _setting(
        1_800, "Age at which a connection is renewed.", "RECOMMENDER_POOL_RECYCLE",
        low=1, high=86_400,
    )  # fmt: skip
    prepare_threshold: int = _setting(
        1, "Runs of a statement before PostgreSQL prepares it; 0 for never, as PgBouncer wants it.",
        "RECOMMENDER_PREPARE_THRESHOLD", high=1_000,
    )  # fmt: skip
    durable: int = _setting(
        0, "1 to let each commit on SQLite survive a power failure, at a price.",
        "RECOMMENDER_DURABLE", high=1,
    )  # fmt: skip
    connect_timeout: int = _setting(
        5, "Wait for PostgreSQL to answer.", "RECOMMENDER_CONNECT_TIMEOUT", low=1, high=300
    )
    statement_timeout: float = _setting(
        15.0, "Longest statement on PostgreSQL.", "RECOMMENDER_STATEMENT_TIMEOUT",
        low=0.01, high=86_400,
    )  # fmt: skip
    lock_timeout: float = _setting(
        10.0, "Longest wait for a row on PostgreSQL.", "RECOMMENDER_LOCK_TIMEOUT",
        low=0.01, high=86_400,
    )  # fmt: skip
    idle_timeout: float = _setting(
        60.0, "Longest idle transaction on PostgreSQL.", "RECOMMENDER_IDLE_TIMEOUT",
        low=1, high=86_400,
    )  # fmt: skip
    busy_timeout: float = _setting(
        20.0, "Longest wait for another writer on SQLite.", "RECOMMENDER_BUSY_TIMEOUT", high=3600
    )
    migration_lock_timeout: float = _setting(
        4.0, "Longest wait of a migration for a table on PostgreSQL.",
        "RECOMMENDER_MIGRATION_LOCK_TIMEOUT", low=0.01, high=3600,
    )  # fmt: skip
    migration_wait: float = _setting(
        300.0, "Longest wait for another upgrade to finish.", "RECOMMENDER_MIGRATION_WAIT",
        high=86_400,
    )  # fmt: skip
    batch_size: int = _setting(
        10_000,
        "Rows per transaction of an import, at most.",
        "RECOMMENDER_BATCH_SIZE",
        low=1,
        high=50_000,
    )
    rollup_batch: int = _setting(
        10_000, "Events per transaction of a refresh.", "RECOMMENDER_ROLLUP_BATCH",
        low=1, high=100_000,
    )  # fmt: skip
    rollup_timeout: float = _setting(
        300.0, "Longest statement of a refresh or an audit on PostgreSQL.",
        "RECOMMENDER_ROLLUP_TIMEOUT", low=0.01, high=86_400,
    )  # fmt: skip
    recent_engagements: int = _setting(
        50, "Videos kept of what each user engaged with last.", "RECOMMENDER_RECENT_ENGAGEMENTS",
        low=1, high=1_000,
    )  # fmt: skip
    neighbours: int = _setting(
        100, "Neighbours kept of each video.", "RECOMMENDER_NEIGHBOURS", low=1, high=1_000
    )
    neighbour_shrinkage: float = _setting(
        5.0, "Common viewers beyond chance at which a similarity counts half.",
        "RECOMMENDER_NEIGHBOUR_SHRINKAGE", high=1_000,
    )  # fmt: skip
    neighbour_growth: float = _setting(
        1.2, "Growth of a video's viewers after which its neighbours are found anew.",
        "RECOMMENDER_NEIGHBOUR_GROWTH", low=1, high=100,
    )  # fmt: skip
    terms_growth: float = _setting(
        1.05, "Growth of the captions after which terms are counted anew.",
        "RECOMMENDER_TERMS_GROWTH", low=1, high=100,
    )  # fmt: skip
    share_prior: float = _setting(
        0.3, "Engaged views per impression before any are known.", "RECOMMENDER_SHARE_PRIOR",
        high=1,
    )  # fmt: skip
    share_prior_impressions: float = _setting(
        100.0, "Impressions that this counts as.", "RECOMMENDER_SHARE_PRIOR_IMPRESSIONS",
        high=1_000_000,
    )  # fmt: skip
    quality_prior: float = _setting(
        20.0, "Viewers of average interest that every video starts with.",
        "RECOMMENDER_QUALITY_PRIOR", low=0.1, high=1e6,
    )  # fmt: skip
    affinity_scale: float = _setting(
        3.0, "Affinity at which its signal is half: so many whole views of much longer videos.",
        "RECOMMENDER_AFFINITY_SCALE", low=0.01, high=1e6,
    )  # fmt: skip
    trend_scale: float = _setting(
        10.0, "Engaged viewers of late at which a trend counts half.",
        "RECOMMENDER_TREND_SCALE", low=0.01, high=1e9,
    )  # fmt: skip
    trend_peak_share: float = _setting(
        0.25, "Part of the greatest trend at which one counts half, where that is more.",
        "RECOMMENDER_TREND_PEAK_SHARE", high=1,
    )  # fmt: skip
    freshness_half_life: float = _setting(
        3.0, "Days in which a video's freshness halves.",
        "RECOMMENDER_FRESHNESS_HALF_LIFE", low=0.01, high=36_500,
    )  # fmt: skip
    trial_viewers: int = _setting(
        100, "Viewers below which a video is on trial.",
        "RECOMMENDER_TRIAL_VIEWERS", low=1, high=1_000_000,
    )  # fmt: skip
    trial_days: float = _setting(
        7.0, "Days after its publishing in which a video that few have seen is on trial.",
        "RECOMMENDER_TRIAL_DAYS", low=0.01, high=36_500,
    )  # fmt: skip
    exploration_share: float = _setting(
        0.1, "Share of a feed's places that are kept for videos on trial.",
        "RECOMMENDER_EXPLORATION_SHARE", high=1,
    )  # fmt: skip
    creator_damping: float = _setting(
        0.9, "What a creator's next video on a page counts of what the one before it did.",
        "RECOMMENDER_CREATOR_DAMPING", low=0.01, high=1,
    )  # fmt: skip
    session_lifetime: float = _setting(
        86_400.0, "Age of a session's last page after which its cursor has expired.",
        "RECOMMENDER_SESSION_LIFETIME", low=1, high=31_536_000,
    )  # fmt: skip
    history: int = _setting(
        50, "Videos engaged with last that speak for their neighbours.",
        "RECOMMENDER_HISTORY", low=1, high=500,
    )  # fmt: skip
    history_scale: float = _setting(
        10.0, "Videos after which the history counts half.",
        "RECOMMENDER_HISTORY_SCALE", low=0.1, high=1e6,
    )  # fmt: skip
    seen_lately: int = _setting(
        50, "Videos seen last that say what the viewer likes lately.",
        "RECOMMENDER_SEEN_LATELY", low=1, high=500,
    )  # fmt: skip
    lately_prior: float = _setting(
        10.0, "Videos of average interest that are added to those of each hashtag.",
        "RECOMMENDER_LATELY_PRIOR", low=0.1, high=1e6,
    )  # fmt: skip
    interests: int = _setting(
        20, "Hashtags, sounds and creators, each, of most affinity that candidates come from.",
        "RECOMMENDER_INTERESTS", low=1, high=500,
    )  # fmt: skip
    candidates: int = _setting(
        720, "Candidates of a page, of all sources together; the fewer, the sooner it is there.",
        "RECOMMENDER_CANDIDATES", low=90, high=7_200,
    )  # fmt: skip
    common_term: float = _setting(
        0.02, "Share of captions from which a word of them is common and says nothing.",
        "RECOMMENDER_COMMON_TERM", low=0.00001, high=1,
    )  # fmt: skip
    fit_ridge: float = _setting(
        1.0, "Penalty of a fit on the squared weight of each signal by its standard deviation.",
        "RECOMMENDER_FIT_RIDGE", low=1e-6, high=1e6,
    )  # fmt: skip
    fit_user_prior: float = _setting(
        5.0, "Average impressions that each user's own share of a fit's target starts with.",
        "RECOMMENDER_FIT_USER_PRIOR", low=0.1, high=1e6,
    )  # fmt: skip
    fit_held_out: float = _setting(
        0.2, "Share of the impressions, the last, that a fit keeps to measure itself by.",
        "RECOMMENDER_FIT_HELD_OUT", low=0.01, high=0.9,
    )  # fmt: skip
    fit_candidates: int = _setting(
        100, "Candidates of a page that a fit draws of those that nothing came of.",
        "RECOMMENDER_FIT_CANDIDATES", low=1, high=10_000,
    )  # fmt: skip
    tries: int = _setting(
        5, "Tries of a transaction that clashes with others.", "RECOMMENDER_TRIES", low=1, high=20
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            low, high = setting.metadata["low"], setting.metadata["high"]
            value = getattr(self, setting.name)
            if high and not low <= value <= high:
                raise InvalidValue(f"{setting.name}: {value} is not between {low:g} and {high:g}")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **given: Any
    ) -> Settings:
        """The settings that are given, else those of the environment, else the defaults.

        Args:
            environment: variable names and values; the process's own where None.
            given: settings by name; None means not given.

        Raises:
            InvalidValue: a value is not a number, the message names the variable; or it is out of
                its bounds, the message names the setting.
        """
        environment = os.environ if environment is None else environment
        values = {name: value for name, value in given.items() if value is not None}
        for setting in fields(cls):
            for name in setting.metadata["names"]:
                if environment.get(name) and setting.name not in values:
                    values[setting.name] = _converted(name, environment[name], setting.default)
        return cls(**values)


def _converted(name: str, written: str, default: Any) -> Any:
    try:
        return type(default)(written)
    except ValueError:
        raise InvalidValue(f"{name}: {written!r} is not a number") from None
