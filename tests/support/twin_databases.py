"""Two databases that get the same writes, and what they store, by the names of users and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.orm import Session, aliased

import recommender
from recommender import FeedPage, RecommenderError
from recommender.database.transactions import writing
from recommender.files.batches import ROW_KINDS
from recommender.models import (
    Affinity,
    Hashtag,
    Interaction,
    LearningState,
    OutsideCandidate,
    RecentEngagement,
    RememberedVideo,
    Sound,
    Suggestion,
    User,
    Video,
    VideoNeighbour,
)
from recommender.models.types import Base

KEPT = {"rec_ranking_profiles", "rec_profile_weights", "rec_learning_state"}

ERASED = "erased:"
"""What the random key of an erased user or video begins with."""

STATE = (
    "impressions", "plays", "engaged_views", "shares", "comments", "reports", "conversions",
    "engaged_at", "first_at", "last_at",
)  # fmt: skip

Rows = list[tuple[Any, ...]]


@dataclass
class Twins:
    """A database of each kind, and an empty one of each kind for imports."""

    engines: tuple[Engine, Engine]
    spares: tuple[Engine, Engine]
    folder: Path

    def __post_init__(self) -> None:
        with Session(self.engines[0]) as session:
            row = session.execute(sa.select(*LearningState.__table__.c)).one()
        self.rules: Mapping[str, Any] = row._mapping

    def clear(self) -> None:
        for engine in self.engines:
            self.empty(engine)

    def empty(self, engine: Engine) -> None:
        """Delete all rows; what is learned is as after the migrations."""
        with Session(writing(engine)) as session, session.begin():
            for table in reversed(Base.metadata.sorted_tables):
                if table.name not in KEPT:
                    session.execute(table.delete())
            session.execute(sa.update(LearningState).values(self.rules))

    def both(self, work: Callable[[Session], Any]) -> Any:
        """Run a function in a transaction on both databases; return the one result, or error."""
        return self.each(lambda engine: recommender.run_transaction(engine, work))

    def each(self, work: Callable[[Engine], Any]) -> Any:
        """Run a function on both engines; return the one result, or the class of the error."""
        one, other = (outcome(work, engine) for engine in self.engines)
        assert one == other
        return one

    def exported(self, engine: Engine) -> dict[str, bytes]:
        """Export all rows into files; return their contents by kind."""
        written = {}
        for kind in ROW_KINDS:
            path = self.folder / f"{kind}.csv"
            recommender.export_file(engine, kind, str(path))
            written[kind] = path.read_bytes()
        return written

    def imported(self, number: int) -> Engine:
        """Export one of the two databases into an empty one of the other kind; return that."""
        source, target = self.engines[number], self.spares[1 - number]
        self.empty(target)
        written = self.exported(source)
        for kind in ROW_KINDS:
            report = recommender.import_file(target, kind, str(self.folder / f"{kind}.csv"))
            assert (report.inserted, report.rejected) == (report.read, 0)
        assert self.exported(target) == written
        return target

    def import_again(self, number: int) -> None:
        """Import the files written last into a database that has all of their rows."""
        for kind in ROW_KINDS:
            path = str(self.folder / f"{kind}.csv")
            report = recommender.import_file(self.engines[number], kind, path)
            assert report.unchanged == report.read


def outcome(work: Callable[[Engine], Any], engine: Engine) -> Any:
    """Return the result of a function, or the class of its error."""
    try:
        return work(engine)
    except RecommenderError as error:
        return type(error)


def page_of(page: FeedPage) -> dict[str, Any]:
    """Return a page as it is on every database, without the row ids of videos."""
    return {
        "items": [
            (i.position, i.video, i.creator, i.hashtags, i.sound, i.score, i.sources, i.explored,
             i.refilled, i.crowded)
            for i in page.items
        ],
        "session": page.session,
        "cursor": page.cursor,
        "exhausted": page.exhausted,
        "stale": page.stale,
    }  # fmt: skip


def _named(key: str) -> str:
    return ERASED if key.startswith(ERASED) else key


def _rows(session: Session, statement: Any, names: int) -> Rows:
    """Return rows whose first columns are names; erased ones have one name."""
    found = [(*map(_named, row[:names]), *row[names:]) for row in session.execute(statement)]
    return sorted(found, key=lambda row: [str(value) for value in row])


def states(session: Session) -> Rows:
    """Return user, video and `STATE` of every state."""
    columns = (User.key, Video.key, *(getattr(Interaction, name) for name in STATE))
    joined = sa.select(*columns).select_from(Interaction)
    joined = joined.join(User, User.id == Interaction.user_id)
    return _rows(session, joined.join(Video, Video.id == Interaction.video_id), 2)


def memories(session: Session) -> Rows:
    """Return user, video, attempts and whether it is seen, of every video that was served."""
    served = RememberedVideo
    columns = (User.key, Video.key, served.attempts, served.seen)
    joined = sa.select(*columns).select_from(served).join(User, User.id == served.user_id)
    return _rows(session, joined.join(Video, Video.id == served.video_id), 2)


def candidates(session: Session) -> Rows:
    """Return user, video, source, score and end of every candidate from outside."""
    row = OutsideCandidate
    columns = (User.key, Video.key, row.source, row.score, row.expires_at)
    joined = sa.select(*columns).select_from(row).join(User, User.id == row.user_id)
    return _rows(session, joined.join(Video, Video.id == row.video_id), 2)


def suggestions(session: Session) -> Rows:
    """Return user, creator, days shown, last time and whether dismissed, of every suggestion."""
    row, creator = Suggestion, aliased(User)
    columns = (User.key, creator.key, row.shown, row.shown_at, row.dismissed_at.is_not(None))
    joined = sa.select(*columns).select_from(row).join(User, User.id == row.user_id)
    return _rows(session, joined.join(creator, creator.id == row.creator_id), 2)


def statistics(session: Session) -> Rows:
    """Return video, impressions, engaged views and trend of every video."""
    columns = (Video.key, Video.impressions, Video.engaged_views, Video.trending)
    return _rows(session, sa.select(*columns), 1)


def affinities(session: Session) -> dict[tuple[str, str, str], float]:
    """Return the affinities between names that exist, other than 0."""
    creator = aliased(User)
    found = {}
    for subject, named in (("creator", creator), ("hashtag", Hashtag), ("sound", Sound)):
        name = named.name if named is Hashtag else named.key
        query = sa.select(User.key, name, Affinity.score).select_from(Affinity)
        query = query.join(User, User.id == Affinity.user_id)
        query = query.join(named, named.id == Affinity.subject_id)
        for user, key, score in session.execute(query.where(Affinity.subject == subject)):
            if not key.startswith("erased") and abs(score) > 1e-9:
                found[user, subject, key] = score
    return found


def recent(session: Session) -> Rows:
    """Return user, video and time of the recent engagements."""
    query = sa.select(User.key, Video.key, RecentEngagement.at).select_from(RecentEngagement)
    query = query.join(User, User.id == RecentEngagement.user_id)
    return _rows(session, query.join(Video, Video.id == RecentEngagement.video_id), 2)


def neighbours(session: Session) -> Rows:
    """Return the neighbours of videos with their similarity and their weight."""
    source, other, near = aliased(Video), aliased(Video), VideoNeighbour
    query = sa.select(source.key, other.key, near.similarity, near.weight).select_from(near)
    query = query.join(source, source.id == near.source_id)
    found = _rows(session, query.join(other, other.id == near.video_id), 2)
    return [(*row[:-1], round(row[-1], 6)) for row in found]


LEARNED: Mapping[str, Callable[[Session], Any]] = {
    "states": states,
    "statistics": statistics,
    "affinities": affinities,
    "recent": recent,
    "neighbours": neighbours,
}


def compare(name: str, engines: Iterator[Engine] | tuple[Engine, ...]) -> None:
    """Check that a part of what is learned is the same on two databases."""
    one, other = (_read(engine, LEARNED[name]) for engine in engines)
    if isinstance(one, dict):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9), name
        return
    assert len(one) == len(other), name
    for mine, its in zip(one, other, strict=True):
        assert mine[:-1] == its[:-1], name
        assert mine[-1] == its[-1] or mine[-1] == pytest.approx(its[-1], rel=1e-9), name


def _read(engine: Engine, read: Callable[[Session], Any]) -> Any:
    with Session(engine) as session:
        return read(session)
