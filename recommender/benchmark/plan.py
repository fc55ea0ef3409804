"""Plan a deployment: rows, bytes, processors, servers and cost, from what was measured.

Pure arithmetic on named constants. Each constant says where it was measured; the README says which
results lie beyond all measured sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from recommender.errors import InvalidValue
from recommender.models.types import PREFIX, Base

DAY_S = 86_400

VIDEOS_A_PAGE = 20
"""The videos of a page, as in `bench`."""

BYTES_A_ROW: Mapping[str, float] = {
    "users": 314,
    "user_hashtags": 86,
    "user_sounds": 90,
    "follows": 83,
    "affinities": 102,
    "recent_engagements": 106,
    "interactions": 221,
    "served": 152,
    "events": 243,
    "feed_items": 659,
    "videos": 563,
    "video_captions": 157,
    "video_terms": 76,
    "video_hashtags": 124,
    "video_neighbours": 203,
    "hashtags": 136,
    "sounds": 160,
}
"""Bytes of a row with its indexes, by table: `pg_total_relation_size` on PostgreSQL 18.

Measured on the world of `bench` with 1 million videos. `video_neighbours` was measured on 100
thousand videos after a refresh had found all neighbours, because `bench` loads them packed (151).
"""

NEGLIGIBLE = frozenset({
    "blocks", "events_pending", "experiments", "feed_sessions", "feeds", "learning_state",
    "muted_creators", "muted_hashtags", "muted_keywords", "muted_sounds", "outside_candidates",
    "profile_weights", "ranking_profiles", "suggestions", "terms",
})  # fmt: skip
"""The tables that a plan leaves out: few rows, or rows that only some hosts write."""

ROWS_A_USER: Mapping[str, float] = {
    "users": 1,
    "user_hashtags": 3,
    "user_sounds": 2,
    "follows": 50,
    "affinities": 100,
    "recent_engagements": 50,
}
"""Rows of a user, by table, as in the worlds of `bench`; of recent engagements the maximum."""

ROWS_A_VIDEO: Mapping[str, float] = {
    "videos": 1,
    "video_captions": 1,
    "video_terms": 4.9,
    "video_hashtags": 3.9,
    "hashtags": 0.1,
    "sounds": 0.05,
}
"""Rows of a video, by table, as in the worlds of `bench`."""

NEIGHBOURS_A_VIDEO = 100
"""The default of the setting `neighbours`: videos with 10 viewers or more had all 100."""

PAGE_MS, PAGE_APPLICATION_MS = 24.4, 13.7
"""Processor time of a recorded page: of primary and standby together, and of the application.

Measured with 100 thousand videos and pages ranked on a standby, see the README of `feed`: the
standby 21.8 ms, the primary 2.6. With 1 million videos all on one server a page took 29 ms in all.
"""

EVENT_MS, EVENT_APPLICATION_MS = 0.17, 0.19
"""Processor time of an event, 20 in one transaction: of the server, and of the application."""

REPLAY_MS = 0.8
"""Processor time in which a standby replays a page and its 20 events."""

COUNT_MS = 0.048
"""Processor time in which a refresh counts an event, client and server together."""

NEIGHBOURS_MS, VIEWER_MS = 5.0, 0.1
"""Processor time to find the neighbours of a video: a fixed part, and a part for each viewer.

Measured on 100 thousand videos: 2.8 ms with one viewer, 11 with 40, 32 with 207, 117 with 1,133 and
237 with 3,629. Each of these is between half and twice what the two numbers give.
"""

COUNTED_VIEWERS, GROWTH = 5_000, 1.2
"""The defaults of the settings `neighbour_viewers` and `neighbour_growth`."""

ENGAGED_SHARE = 0.21
"""The part of events that make a state positive, as in the worlds of `bench`."""

BUSY, FULL = 0.5, 0.7
"""The parts of a server's processors and disk that a plan uses; an assumption."""


@dataclass(frozen=True, slots=True)
class Server:
    """A machine that is rented.

    Attributes:
        cores: its processor cores.
        terabytes: the size of its disk in 10^12 bytes.
        price: its price a month, in any currency.
    """

    cores: int
    terabytes: float
    price: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """The expected sizes of an application. All numbers are above 0.

    Attributes:
        users: the number of users.
        daily_users: the users who open the feed on a day.
        videos: the number of videos.
        videos_a_day: the videos that are published on a day.
        pages_a_day: the pages of a daily user.
        events_a_page: the events of a page.
        days_kept: the days for which the logs of events and of places are kept; see `prune`.
        days_remembered: the days of behaviour in the database. No prune deletes the state of a user
            with a video, or that it was served.
        peak: the pages of the busiest second, divided by the mean.
        copies: the servers that hold the same rows, the primary among them.
    """

    users: int
    daily_users: int
    videos: int
    videos_a_day: int
    pages_a_day: float = 10
    events_a_page: float = VIDEOS_A_PAGE
    days_kept: float = 30
    days_remembered: float = 365
    peak: float = 25 / 15
    copies: int = 2

    @property
    def events_a_day(self) -> float:
        """The number of events on a day."""
        return self.daily_users * self.pages_a_day * self.events_a_page

    def rows(self) -> dict[str, float]:
        """Return the rows of each table, by its name without the prefix."""
        places = self.daily_users * self.pages_a_day * VIDEOS_A_PAGE
        pairs = self.users * self.videos
        states = min(places, self.events_a_day) * self.days_remembered
        return {
            **{name: self.users * rows for name, rows in ROWS_A_USER.items()},
            **{name: self.videos * rows for name, rows in ROWS_A_VIDEO.items()},
            "video_neighbours": self.videos * min(NEIGHBOURS_A_VIDEO, self.videos - 1),
            "interactions": min(states, pairs),
            "served": min(places * self.days_remembered, pairs),
            "events": self.events_a_day * self.days_kept,
            "feed_items": places * self.days_kept,
        }


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table of a plan.

    Attributes:
        name: the name of the table.
        rows: its rows.
        bytes: its bytes with indexes.
        on_every_server: whether every server has the whole table; otherwise the users are divided
            among the servers, and the table with them.
    """

    name: str
    rows: int
    bytes: int
    on_every_server: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment needs; `as_dict` returns plain values.

    Attributes:
        tables: the tables, the largest first.
        catalogue_bytes: bytes of the tables that every server has.
        user_bytes: bytes of all other tables, once.
        pages_a_second: mean pages a second.
        peak_pages_a_second: pages in the busiest second.
        peak_events_a_second: events in that second.
        database_cores: cores that work for the databases in that second.
        application_cores: cores that work for the package in the application in that second.
        refresh_cores: cores that refreshes need all day. One refresh uses one core at a time, so
            above 1 it does not keep up.
        neighbours_a_second: rows of neighbours that refreshes replace a second, on every server.
        servers_for_bytes: database servers that hold all bytes, with their copies.
        servers_for_cores: database servers that do the work of the busiest second.
        servers: database servers: the larger of these two numbers.
        application_servers: servers of the application.
        price: the price of all servers a month.
    """

    tables: tuple[TablePlan, ...]
    catalogue_bytes: int
    user_bytes: int
    pages_a_second: float
    peak_pages_a_second: float
    peak_events_a_second: float
    database_cores: float
    application_cores: float
    refresh_cores: float
    neighbours_a_second: float
    servers_for_bytes: int
    servers_for_cores: int
    servers: int
    application_servers: int
    price: float

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as nested plain values."""
        return asdict(self)


def plan_of(deployment: Deployment, server: Server) -> Plan:
    """Return what a deployment needs on servers of one kind.

    Pages are ranked on primaries and standbys alike. Each server has the whole catalogue, and the
    rows of its part of the users.

    Raises:
        InvalidValue: a number is not above 0, there are more daily users than users, or the
            catalogue does not fit on a server.
    """
    _check(deployment, server)
    tables = _tables(deployment)
    catalogue = sum(table.bytes for table in tables if table.on_every_server)
    own = sum(table.bytes for table in tables if not table.on_every_server)
    pages = deployment.daily_users * deployment.pages_a_day / DAY_S
    peak, events = pages * deployment.peak, deployment.peak * deployment.events_a_day / DAY_S
    replay = REPLAY_MS * (deployment.copies - 1)
    database = (peak * (PAGE_MS + replay) + events * EVENT_MS) / 1_000
    application = (peak * PAGE_APPLICATION_MS + events * EVENT_APPLICATION_MS) / 1_000
    found, viewers = _found_neighbours(deployment)
    learning = deployment.events_a_day * COUNT_MS + found * NEIGHBOURS_MS + viewers * VIEWER_MS
    for_bytes = deployment.copies * _servers_of(own, catalogue, server)
    for_cores = math.ceil(database / (server.cores * BUSY))
    servers = max(for_bytes, for_cores)
    applications = math.ceil(application / (server.cores * BUSY))
    return Plan(
        tables=tables,
        catalogue_bytes=catalogue,
        user_bytes=own,
        pages_a_second=pages,
        peak_pages_a_second=peak,
        peak_events_a_second=events,
        database_cores=database,
        application_cores=application,
        refresh_cores=learning / 1_000 / DAY_S,
        neighbours_a_second=found * NEIGHBOURS_A_VIDEO / DAY_S,
        servers_for_bytes=for_bytes,
        servers_for_cores=for_cores,
        servers=servers,
        application_servers=applications,
        price=(servers + applications) * server.price,
    )


def _check(deployment: Deployment, server: Server) -> None:
    given = [
        (each.name, getattr(of, each.name)) for of in (deployment, server) for each in fields(of)
    ]
    for name, value in given:
        if not (isinstance(value, int | float) and 0 < value < math.inf):
            raise InvalidValue(f"{name}: {value} is not a number above 0")
    if deployment.daily_users > deployment.users:
        raise InvalidValue(
            f"daily_users: {deployment.daily_users:,} are more than the {deployment.users:,} users"
        )


def _tables(deployment: Deployment) -> tuple[TablePlan, ...]:
    """Return the tables of a plan, the largest first."""
    tables = [
        TablePlan(
            f"{PREFIX}{name}", round(rows), round(rows * BYTES_A_ROW[name]), not is_of_user(name)
        )
        for name, rows in deployment.rows().items()
    ]
    return tuple(sorted(tables, key=lambda table: (-table.bytes, table.name)))


def is_of_user(name: str) -> bool:
    """Return whether a table, by its name without the prefix, is divided by users."""
    return next(iter(Base.metadata.tables[f"{PREFIX}{name}"].primary_key)).name == "user_id"


def _found_neighbours(deployment: Deployment) -> tuple[float, float]:
    """Return how often a day neighbours of a video are found, and the viewers counted for it.

    A new video's neighbours are found again each time its viewers have grown by `GROWTH`. All new
    videos have the mean number of viewers here: an upper bound, because the work grows less than
    the number of viewers.
    """
    viewers = deployment.events_a_day * ENGAGED_SHARE / deployment.videos_a_day
    viewers = max(1.0, min(viewers, deployment.users))
    counted = min(viewers, COUNTED_VIEWERS)
    times = 1 + math.log(viewers, GROWTH)
    beyond = math.log(viewers / counted, GROWTH)
    sums = counted * GROWTH / (GROWTH - 1) + beyond * COUNTED_VIEWERS
    return deployment.videos_a_day * times, deployment.videos_a_day * sums


def _servers_of(own: int, catalogue: int, server: Server) -> int:
    """Return how many servers hold the rows of all users, each with the whole catalogue."""
    room = server.terabytes * 1e12 * FULL - catalogue
    if room <= 0:
        raise InvalidValue(
            f"terabytes: the catalogue takes {catalogue / 1e12:.1f} TB on every server, and"
            f" {FULL:.0%} of {server.terabytes:g} TB may be full: choose larger disks or fewer"
            " neighbours"
        )
    return math.ceil(own / room)
