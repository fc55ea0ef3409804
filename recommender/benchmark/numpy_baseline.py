"""The reference formula over a whole catalogue in memory, with numpy, as a baseline.

A service may keep every video in arrays and score all of them for a page. This is fast, but its
time grows with the catalogue, and it ignores new events until the arrays are made again.
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

ENGAGEMENT_SIGNALS = ("completion", "likes", "shares")
"""The signals of the viewer's own engagements."""


@dataclass(frozen=True)
class Catalogue:
    """The published videos as arrays, the first published first.

    Attributes:
        ids: the videos' rows.
        columns: creator, sound, language, country and publishing time per video, as numbers.
        codes: a number for every language and country.
        tagged: the index in `places` of the first video, by hashtag.
        places: indexes in `ids`, in the order of the hashtags.
        standing: the index in `ids`, by video id; -1 if the video is not published.
    """

    ids: Numbers
    columns: dict[str, Numbers]
    codes: dict[str, int]
    tagged: Numbers
    places: Numbers
    standing: Numbers


def read_catalogue(session: Session) -> Catalogue:
    """Return the catalogue as arrays.

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
    """Return rows as whole numbers: codes of texts, microseconds of times, 0 for NULL."""

    def number(value: Any) -> int:
        if value is None:
            return 0
        if isinstance(value, str):
            return codes.setdefault(value, len(codes) + 1)
        return value if isinstance(value, int) else int(microseconds(value) or 0)

    width = len(statement.selected_columns)
    result = session.execute(statement, execution_options={"yield_per": AT_ONCE})
    parts = [np.array([list(map(number, row)) for row in rows]) for rows in result.partitions()]
    return np.concatenate(parts) if parts else np.zeros((0, width), int)


def best(session: Session, request: FeedRequest, catalogue: Catalogue) -> list[int]:
    """Return the ids of the first videos by the reference formula.

    Args:
        session: the caller's transaction, which reads the viewer's own rows.
        request: a resolved request with the profile `classic`.
        catalogue: the videos when they were read.
    """
    weights = request.profile.weights
    columns = catalogue.columns
    total = np.zeros(len(catalogue.ids))
    engagements = _engagements(session, request, catalogue)
    for position, name in enumerate(ENGAGEMENT_SIGNALS, start=1):
        total[engagements[:, 0].astype(int)] += weights[name] * engagements[:, position]
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
    """Return the ids with the highest score keys; ties go to the newest, then the last row."""
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
    best_ids: list[int] = catalogue.ids[chosen[order]].tolist()
    return best_ids


def _is_any(column: Numbers, wanted: list[int]) -> Numbers:
    """Return which values of a column are wanted."""
    is_wanted = np.zeros(int(max([column.max(initial=0), *wanted])) + 1, bool)
    is_wanted[wanted] = True
    is_member: Numbers = is_wanted[column]
    return is_member


def _mine(session: Session, request: FeedRequest, column: Any) -> list[int]:
    owner = column.class_.user_id
    return list(session.scalars(sa.select(column).where(owner == request.user_id)))


def _engagements(session: Session, request: FeedRequest, catalogue: Catalogue) -> Numbers:
    """Return the index and three signals of the videos that the viewer interacted with."""
    liked = is_now(Interaction.liked_at, Interaction.unliked_at)
    read = (Interaction.video_id, Interaction.completion, liked, Interaction.shares)
    rows = session.execute(sa.select(*read).where(Interaction.user_id == request.user_id)).all()
    engagements = np.array([list(row) for row in rows], float).reshape(len(rows), len(read))
    places = catalogue.standing[
        np.minimum(engagements[:, 0].astype(int), len(catalogue.standing) - 1)
    ]
    engagements[:, 0] = places
    engagements[:, 3] = np.minimum(engagements[:, 3], COUNT_LIMIT)
    known: Numbers = engagements[places >= 0]
    return known
