"""Every setting, with its default and bounds. No other module reads the environment.

The environment name of a setting is `RECOMMENDER_` and its name in capitals. Settings are numbers:
the URL of the database may hold a password, so it is not one of them. Weights are not settings:
they are rows of the database, with versions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, lru_cache
from typing import Any

from recommender.errors import InvalidValue

URL_VARIABLES = ("RECOMMENDER_DATABASE_URL", "DATABASE_URL")
"""The environment variables that may name the database; the first that is set wins."""

LEAST_CANDIDATES, MOST_CANDIDATES = 90, 7_200
"""The bounds of the setting `candidates`."""

DEFAULT_URL = "sqlite:///recommender.db"


def _setting(default: Any, doc: str, *, low: float = 0, high: float) -> Any:
    return field(default=default, metadata={"doc": doc, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of engines, imports, learning, feeds and fits.

    Times are in seconds unless a description names another unit.

    Raises:
        InvalidValue: a setting is out of its bounds; the message names it.
    """

    # Engines
    pool_size: int = _setting(5, "Connections kept open.", low=1, high=1000)
    max_overflow: int = _setting(10, "Connections beyond pool_size.", high=1000)
    pool_timeout: float = _setting(30.0, "Wait for a free connection.", low=0.1, high=3600)
    pool_recycle: int = _setting(
        1_800, "Age at which a connection is replaced.", low=1, high=86_400
    )
    prepare_threshold: int = _setting(
        1, "Runs of a statement before PostgreSQL prepares it; 0 for never, as through a pooler.",
        high=1_000,
    )  # fmt: skip
    durable: int = _setting(
        0, "1 to let each commit on SQLite survive a power failure; writes become slower.", high=1
    )
    connect_timeout: int = _setting(5, "Wait for PostgreSQL to answer.", low=1, high=300)
    statement_timeout: float = _setting(
        15.0, "Longest statement on PostgreSQL.", low=0.01, high=86_400
    )
    lock_timeout: float = _setting(
        10.0, "Longest wait for a row lock on PostgreSQL.", low=0.01, high=86_400
    )
    idle_timeout: float = _setting(
        60.0, "Longest idle transaction on PostgreSQL.", low=1, high=86_400
    )
    busy_timeout: float = _setting(20.0, "Longest wait for another writer on SQLite.", high=3600)
    tries: int = _setting(
        5, "Attempts at a transaction that conflicts with others.", low=1, high=20
    )
    migration_lock_timeout: float = _setting(
        4.0, "Longest wait of a migration for a table on PostgreSQL.", low=0.01, high=3600
    )
    migration_wait: float = _setting(
        300.0, "Longest wait for another upgrade to finish.", high=86_400
    )

    # Imports and refreshes
    batch_size: int = _setting(
        10_000, "Rows per transaction of an import, at most.", low=1, high=50_000
    )
    rollup_batch: int = _setting(
        10_000, "Events per transaction of a refresh.", low=1, high=100_000
    )
    rollup_timeout: float = _setting(
        300.0, "Longest statement of a refresh or an audit on PostgreSQL.", low=0.01, high=86_400
    )
    recent_engagements: int = _setting(
        100, "Latest engagements kept of every user.", low=1, high=1_000
    )
    neighbours: int = _setting(100, "Neighbours kept of every video.", low=1, high=1_000)
    neighbour_shrinkage: float = _setting(
        5.0, "Common viewers beyond chance at which a similarity counts half.", high=1_000
    )
    neighbour_ridge: float = _setting(
        100.0, "Penalty of the regression that weighs neighbours, in viewers.", low=0.01, high=1e6
    )
    neighbour_least_weight: float = _setting(
        0.005, "Least weight of a neighbour that is kept.", high=1
    )
    neighbour_viewers: int = _setting(
        5_000, "Viewers of a video that are counted for its neighbours.", low=10, high=1_000_000
    )
    neighbour_growth: float = _setting(
        1.2, "Growth of a video's viewers after which its neighbours are computed again.",
        low=1, high=100,
    )  # fmt: skip
    terms_growth: float = _setting(
        1.05, "Growth of the captions after which their terms are counted again.",
        low=1, high=100,
    )  # fmt: skip

    # Signals
    share_prior: float = _setting(0.3, "Prior share of engaged views per impression.", high=1)
    share_prior_impressions: float = _setting(
        100.0, "Impressions that share_prior counts as.", high=1_000_000
    )
    quality_prior: float = _setting(
        20.0, "Viewers of average interest that every video starts with.", low=0.1, high=1e6
    )
    affinity_scale: float = _setting(
        3.0, "Affinity at which its signal is one half, in whole views of much longer videos.",
        low=0.01, high=1e6,
    )  # fmt: skip
    collaborative_scale: float = _setting(
        0.1, "Weights of neighbours that make the collaborative signal one half.",
        low=0.001, high=1_000,
    )  # fmt: skip
    trend_scale: float = _setting(
        10.0, "Recent engaged viewers at which a trend counts half.", low=0.01, high=1e9
    )
    trend_peak_share: float = _setting(
        0.25, "Share of the greatest trend at which a trend counts half, if above trend_scale.",
        high=1,
    )  # fmt: skip
    freshness_half_life: float = _setting(
        3.0, "Days in which a video's freshness halves.", low=0.01, high=36_500
    )
    history: int = _setting(
        100, "Latest engagements whose neighbours become candidates.", low=1, high=500
    )
    history_scale: float = _setting(
        10.0, "Engagements after which the history counts half.", low=0.1, high=1e6
    )
    taste_videos: int = _setting(
        50, "Latest engagements whose vectors tell the viewer's taste.", low=1, high=500
    )
    taste_rejection: float = _setting(
        0.3, "Weight of a rejected video against the latest one enjoyed, in vectors.", high=10
    )
    seen_lately: int = _setting(
        50, "Latest videos seen that tell the viewer's current interests.", low=1, high=500
    )
    lately_prior: float = _setting(
        30.0, "Videos of average interest that every hashtag starts with.", low=0.1, high=1e6
    )
    common_term: float = _setting(
        0.02, "Share of captions from which a term is common and ignored.", low=0.00001, high=1
    )

    # Feeds
    trial_viewers: int = _setting(
        100, "Viewers below which a new video is an exploration candidate.",
        low=1, high=1_000_000,
    )  # fmt: skip
    trial_days: float = _setting(
        7.0, "Days after publication in which a video can be an exploration candidate.",
        low=0.01, high=36_500,
    )  # fmt: skip
    exploration_share: float = _setting(
        0.1, "Share of a feed's places kept for exploration candidates.", high=1
    )
    creator_damping: float = _setting(
        0.9, "Factor on the score of a creator's next video on the same page.", low=0.01, high=1
    )
    session_lifetime: float = _setting(
        86_400.0, "Age of a session's last page after which its cursor expires.",
        low=1, high=31_536_000,
    )  # fmt: skip
    served_again_after: float = _setting(
        86_400.0, "Time after which a video that was served but not seen may come again; 0: never.",
        high=315_360_000,
    )  # fmt: skip
    served_attempts: int = _setting(
        3, "Times that a video is served to a viewer who has not seen it.", low=1, high=1_000
    )
    next_page_means_seen: int = _setting(
        1, "1 if a request for the next page says that the pages before were looked at; 0 if not.",
        high=1,
    )  # fmt: skip
    interests: int = _setting(
        20,
        "Strongest hashtags, sounds and creators, and videos enjoyed last, of each kind, that"
        " candidates come from.",
        low=1, high=500,
    )  # fmt: skip
    candidates: int = _setting(
        720,
        "Candidates of a page from all sources; fewer are faster.",
        low=LEAST_CANDIDATES,
        high=MOST_CANDIDATES,
    )

    whole_every: int = _setting(
        5, "Pages of a session, after its first, of which one reads all sources; 1: every page.",
        low=1, high=20,
    )  # fmt: skip
    scan_limit: int = _setting(
        10_000, "Newest videos that a page looks at for a condition of the host.",
        low=100, high=1_000_000_000,
    )  # fmt: skip

    suggestion_days: int = _setting(
        5, "Days on which a list of people shows someone before they come after all others.",
        low=1, high=1_000,
    )  # fmt: skip
    suggestion_memory: int = _setting(
        90, "Days after which it no longer counts that a list of people showed someone.",
        low=1, high=36_500,
    )  # fmt: skip

    # Fits
    fit_ridge: float = _setting(0.1, "Penalty of a fit on the squared weights.", low=1e-6, high=1e6)
    fit_least_deviation: float = _setting(
        0.001, "Standard deviation of a signal below which a fit gives it weight 0.",
        low=1e-9, high=1,
    )  # fmt: skip
    fit_user_prior: float = _setting(
        5.0, "Average impressions that every user's own share of a fit's target starts with.",
        low=0.1, high=1e6,
    )  # fmt: skip
    fit_held_out: float = _setting(
        0.2, "Share of the latest impressions that a fit keeps as its test set.",
        low=0.01, high=0.9,
    )  # fmt: skip
    fit_candidates: int = _setting(
        100, "Candidates without positives that a fit samples per page.", low=1, high=10_000
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            low, high = setting.metadata["low"], setting.metadata["high"]
            value = getattr(self, setting.name)
            if not isinstance(value, int | float):
                raise InvalidValue(f"{setting.name}: is not a number")
            if not low <= value <= high:
                raise InvalidValue(f"{setting.name}: {value} is not between {low:g} and {high:g}")
            if isinstance(setting.default, int) and not isinstance(value, int):
                raise InvalidValue(f"{setting.name}: {value} is not a whole number")

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, **given: Any
    ) -> Settings:
        """Return the given settings, else those in the environment, else the defaults.

        Args:
            environment: variable names and values; None for the environment of the process.
            given: settings by name; None means not given.

        Raises:
            InvalidValue: a variable is not a number, or a setting is out of its bounds; the message
                names it.
        """
        environment = os.environ if environment is None else environment
        values = {name: value for name, value in given.items() if value is not None}
        written = tuple(
            (name, environment[variable])
            for name, variable in _variables().items()
            if environment.get(variable) and name not in values
        )
        settings = _from_texts(written)
        return replace(settings, **values) if values else settings


@cache
def _variables() -> Mapping[str, str]:
    """Return the environment variable of each setting."""
    return {setting.name: variable_of(setting.name) for setting in fields(Settings)}


@lru_cache(maxsize=100)
def _from_texts(written: tuple[tuple[str, str], ...]) -> Settings:
    """Return the settings with some values from the environment; kept, as pages read them."""
    defaults = {setting.name: setting.default for setting in fields(Settings)}
    return Settings(**{
        name: _converted(variable_of(name), text, defaults[name]) for name, text in written
    })  # fmt: skip


REGISTRY_VARIABLE = "RECOMMENDER_REGISTRY"
"""The environment variable that names a registry, as ``package.module:name``."""


def variable_of(setting: str) -> str:
    """Return the environment variable that a setting is read from."""
    return f"RECOMMENDER_{setting.upper()}"


def configured_url(environment: Mapping[str, str] | None = None) -> str:
    """Return the database URL in the environment, else an SQLite file in the working folder.

    Args:
        environment: variable names and values; None for the environment of the process.
    """
    environment = os.environ if environment is None else environment
    urls = [environment[name] for name in URL_VARIABLES if environment.get(name)]
    return urls[0] if urls else DEFAULT_URL


def configured_registry(environment: Mapping[str, str] | None = None) -> str | None:
    """Return the place of the registry in the environment, None if there is none.

    Args:
        environment: variable names and values; None for the environment of the process.
    """
    environment = os.environ if environment is None else environment
    return environment.get(REGISTRY_VARIABLE) or None


def _converted(variable: str, written: str, default: Any) -> Any:
    try:
        return type(default)(written)
    except ValueError:
        kind = "whole number" if isinstance(default, int) else "number"
        raise InvalidValue(f"{variable}: is not a {kind}") from None
