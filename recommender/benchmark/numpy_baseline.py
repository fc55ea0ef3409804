"""The reference formula over a whole catalogue in memory, by numpy: what benchmarks compare with.

It is what a service would do that keeps every video in arrays and scores all of them for a page:
fast, growing with the catalogue, and blind to the last swipe until the arrays are made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from recommender.benchmark.distributions import Numbers
from recommender.database.expressions import is_now
from recommender.models import Follow, Interaction, UserHashtag, UserSound, Video, VideoHashtag
from recommender.models.types import microseconds
from recommender.ranking.request import FeedRequest
from recommender.ranking.scoring import KEY_SCALE
from recommender.ranking.signals import COUNT_LIMIT

AT_ONCE = 50_000

DEEDS = ("completion", "likes", "shares")
"""The signals of what the viewer did."""


@dataclass(frozen=True)
class Catalogue:
    """The published videos as arrays, the first published first.

    Attributes:
        ids: the videos' rows.
        columns: creator, sound, language, country and the time of publishing of each, as numbers.
        codes: the number of each language and country.
        tagged: for each hashtag where its videos begin in `places`; the next's beginning ends them.
        places: where the videos of a hashtag stand in `ids`.
        standing: where each video stands, by its row; -1 where it does not.
    """

    ids: Numbers
    columns: dict[str, Numbers]
    codes: dict[str, int]
    tagged: Numbers
    places: Numbers
    standing: Numbers


def read_catalogue(session: Session) -> Catalogue:
    """The catalogue as arrays.

    Args:
        session: the caller's transaction.
    """
    codes: dict[str, int] = {}
    rows = _rows(session, _videos(), codes)
    columns = dict(
        zip(("id", "creator", "sound", "language", "country", "at"), rows.T, strict=True)
    )
    standing = np.full(int(columns["id"].max(initial=0)) + 1, -1)
    standing[columns["id"]] = np.arange(len(columns["id"]))
    hashtag = VideoHashtag.hashtag_id
    tags = _rows(session, sa.select(hashtag, VideoHashtag.video_id), codes)
    places = standing[tags[:, 1]]
    tags, places = tags[places >= 0, 0], places[places >= 0]
    order = np.argsort(tags, kind="stable")
    tagged = np.searchsorted(tags[order], np.arange(tags.max(initial=0) + 2))
    return Catalogue(columns.pop("id"), columns, codes, tagged, places[order], standing)


def _videos() -> sa.Select[*tuple[Any, ...]]:
    read = (Video.id, Video.creator_id, Video.sound_id, Video.language, Video.country)
    statement = sa.select(*read, Video.published_at).where(Video.status == "published")
    return statement.order_by(Video.published_at, Video.id)


def _rows(
    session: Session, statement: sa.Select[*tuple[Any, ...]], codes: dict[str, int]
) -> Numbers:
    """Rows as whole numbers: texts by their codes, 0 where NULL, times in microseconds."""

    def number(value: Any) -> int:
        if value is None:
            return 0
        if isinstance(value, str):
            return codes.setdefault(value, len(codes) + 1)
        return value if isinstance(value, int) else int(microseconds(value) or 0)

    width = len(statement.selected_columns)
    found = session.execute(statement, execution_options={"yield_per": AT_ONCE})
    parts = [np.array([list(map(number, row)) for row in rows]) for rows in found.partitions()]
    return np.concatenate(parts) if parts else np.zeros((0, width), int)


def best(session: Session, request: FeedRequest, catalogue: Catalogue) -> list[int]:
    """The rows of the first videos in the viewer's order, by the reference formula.

    Args:
        session: the caller's transaction; only what the viewer did and wants is read.
        request: as `resolve` gives it, of the profile `classic`.
        catalogue: all videos, as they were when it was read.
    """
    weights = request.profile.weights
    columns = catalogue.columns
    total = np.zeros(len(catalogue.ids))
    deeds = _deeds(session, request, catalogue)
    for position, name in enumerate(DEEDS, start=1):
        total[deeds[:, 0].astype(int)] += weights[name] * deeds[:, position]
    total += weights["follows"] * _is_any(
        columns["creator"], _mine(session, request, Follow.creator_id)
    )
    for tag in _mine(session, request, UserHashtag.hashtag_id):
        if tag + 1 < len(catalogue.tagged):
            first, end = catalogue.tagged[tag : tag + 2]
            total[catalogue.places[first:end]] += weights["hashtags"]
    total += weights["sound"] * _is_any(
        columns["sound"], _mine(session, request, UserSound.sound_id)
    )
    for name, value in (("language", request.language), ("country", request.country)):
        total += weights[name] * (columns[name] == catalogue.codes.get(value or "", -1))
    return _first(request, catalogue, np.trunc(total * KEY_SCALE + 0.5))


def _first(request: FeedRequest, catalogue: Catalogue, keys: Numbers) -> list[int]:
    """By score key, then the newest, then the last row; the arrays are in the order of the two."""
    at = int(microseconds(request.as_of) or 0)
    end = int(np.searchsorted(catalogue.columns["at"], at, side="right"))
    keys, most = keys[:end], min(request.limit, end)
    if not most:
        return []
    least = np.partition(keys, end - most)[end - most]
    above = np.flatnonzero(keys > least)
    level = np.flatnonzero(keys == least)[len(above) - most :]
    chosen = np.concatenate([above, level])
    order = np.lexsort((-chosen, -keys[chosen]))
    found: list[int] = catalogue.ids[chosen[order]].tolist()
    return found


def _is_any(column: Numbers, wanted: list[int]) -> Numbers:
    """Whether each is one of a few: by a table as long as the numbers are high."""
    there = np.zeros(int(max([column.max(initial=0), *wanted])) + 1, bool)
    there[wanted] = True
    found: Numbers = there[column]
    return found


def _mine(session: Session, request: FeedRequest, column: Any) -> list[int]:
    owner = column.class_.user_id
    return list(session.scalars(sa.select(column).where(owner == request.user_id)))


def _deeds(session: Session, request: FeedRequest, catalogue: Catalogue) -> Numbers:
    """Where each video stands with which the viewer did something, and three signals of it."""
    liked = is_now(Interaction.liked_at, Interaction.unliked_at)
    read = (Interaction.video_id, Interaction.completion, liked, Interaction.shares)
    rows = session.execute(sa.select(*read).where(Interaction.user_id == request.user_id)).all()
    deeds = np.array([list(row) for row in rows], float).reshape(len(rows), len(read))
    places = catalogue.standing[np.minimum(deeds[:, 0].astype(int), len(catalogue.standing) - 1)]
    deeds[:, 0] = places
    deeds[:, 3] = np.minimum(deeds[:, 3], COUNT_LIMIT)
    found: Numbers = deeds[places >= 0]
    return found
