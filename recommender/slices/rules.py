"""How each table gets into a slice: which of its rows, and what of them.

Every table is in one of three lists, and every column that holds text has a rule. A test compares
them with the metadata, so that a new table or column fails the test until it has a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeAlias, cast

import sqlalchemy as sa
from sqlalchemy import Table

from recommender.database import lookup
from recommender.database.session import Session
from recommender.models import MutedHashtag, MutedKeyword, MutedSound
from recommender.models.tables import (
    AFFINITIES,
    BLOCKS,
    CAPTIONS,
    EVENTS,
    EXPERIMENTS,
    FEEDS,
    FOLLOWS,
    HASHTAGS,
    INTERACTIONS,
    LEARNING_STATE,
    MUTED_CREATORS,
    NEIGHBOURS,
    OUTSIDE_CANDIDATES,
    PENDING,
    PROFILES,
    RECENT,
    REMEMBERED,
    SERVED,
    SESSIONS,
    SOUNDS,
    SUGGESTIONS,
    TERMS,
    USER_HASHTAGS,
    USER_SOUNDS,
    USERS,
    VIDEO_HASHTAGS,
    VIDEO_TERMS,
    VIDEOS,
    WEIGHTS,
)
from recommender.slices.names import CHUNK, NO_SESSION, Names, words_of
from recommender.slices.page_rows import PageRows

MUTED_HASHTAGS, MUTED_SOUNDS, MUTED_KEYWORDS = (
    cast(Table, model.__table__) for model in (MutedHashtag, MutedSound, MutedKeyword)
)

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rows of a table that a slice holds.

    Attributes:
        table: the table.
        column: the column that chooses rows.
        among: the set of `PageRows` that its value must be in.
        within: other columns, each with the set that its value must be in.
    """

    table: Table
    column: str
    among: str
    within: Mapping[str, str] = field(default_factory=dict)


OF_VIDEO = {"video_id": "videos"}

RULES = (
    Rule(VIDEOS, "id", "videos"),
    Rule(CAPTIONS, "video_id", "videos"),
    Rule(VIDEO_HASHTAGS, "video_id", "videos"),
    Rule(VIDEO_TERMS, "video_id", "videos", {"term": "terms"}),
    Rule(TERMS, "term", "terms"),
    Rule(NEIGHBOURS, "source_id", "recent", OF_VIDEO),
    Rule(RECENT, "user_id", "people", OF_VIDEO),
    Rule(FOLLOWS, "user_id", "users"),
    Rule(USER_HASHTAGS, "user_id", "users"),
    Rule(USER_SOUNDS, "user_id", "users"),
    Rule(MUTED_CREATORS, "user_id", "users"),
    Rule(MUTED_HASHTAGS, "user_id", "users"),
    Rule(MUTED_SOUNDS, "user_id", "users"),
    Rule(MUTED_KEYWORDS, "user_id", "users"),
    Rule(BLOCKS, "user_id", "users"),
    Rule(AFFINITIES, "user_id", "users"),
    Rule(INTERACTIONS, "user_id", "users", OF_VIDEO),
    Rule(OUTSIDE_CANDIDATES, "user_id", "users"),
    Rule(REMEMBERED, "user_id", "users", OF_VIDEO),
    Rule(SESSIONS, "user_id", "users", {"session": "sessions"}),
    Rule(SERVED, "user_id", "users", {"session": "sessions"}),
    # These come last: the rows above name them.
    Rule(HASHTAGS, "id", "hashtags"),
    Rule(SOUNDS, "id", "sounds"),
    Rule(USERS, "id", "members"),
)

WHOLE = (LEARNING_STATE, FEEDS, PROFILES, WEIGHTS, EXPERIMENTS)
"""Tables without anything of a person. They are copied as a whole."""

LEFT_OUT: Mapping[Table, str] = {
    EVENTS: "no page reads the log of events; their sums are in the interactions",
    PENDING: "only a refresh reads them",
    SUGGESTIONS: "only the list of people to follow reads them",
}
"""Tables that a slice leaves empty, with the reason."""

NAMED: Mapping[sa.Column[Any], str] = {
    USERS.c.id: "members",
    VIDEOS.c.creator_id: "members",
    RECENT.c.user_id: "members",
    FOLLOWS.c.creator_id: "members",
    MUTED_CREATORS.c.creator_id: "members",
    BLOCKS.c.other_id: "members",
    VIDEOS.c.sound_id: "sounds",
    USER_SOUNDS.c.sound_id: "sounds",
    MUTED_SOUNDS.c.sound_id: "sounds",
    VIDEO_HASHTAGS.c.hashtag_id: "hashtags",
    USER_HASHTAGS.c.hashtag_id: "hashtags",
    MUTED_HASHTAGS.c.hashtag_id: "hashtags",
}
"""Columns with ids of users, sounds and hashtags, whose rows a slice must then hold."""

SUBJECTS = {"creator": "members", "sound": "sounds", "hashtag": "hashtags"}
"""The same for the subjects of affinities."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the stand-ins of a row depend on: the rows of the slice, the names, and the day."""

    rows: PageRows
    names: Names
    day: date


Replacement: TypeAlias = Callable[[Row, Context], Any]


def _named(kind: str, row_id: str = "id") -> Replacement:
    return lambda row, context: getattr(context.names, kind)[row[row_id]]


def _session(row: Row, context: Context) -> Any:
    return context.names.sessions.get(row["session"], NO_SESSION)


def _term(row: Row, context: Context) -> int:
    return context.names.terms[row["term"]]


def _own(column: str) -> Replacement:
    """Return a column of the chosen users only."""
    return lambda row, context: row[column] if row["id"] in context.rows.users else None


def _caption(row: Row, context: Context) -> str:
    return f"caption of {context.names.videos[row['video_id']]}"


def _words(row: Row, context: Context) -> str:
    return words_of(row["words"], context.names.keywords)


def _owner(row: Row, context: Context) -> int | None:
    """Return the creator of a sound if the slice holds them: a mute may name them."""
    return row["creator_id"] if row["creator_id"] in context.rows.members else None


def _nothing(_row: Row, _context: Context) -> None:
    return None


def _zero(_row: Row, _context: Context) -> int:
    return 0


REPLACED: Mapping[sa.Column[Any], Replacement] = {
    USERS.c.key: _named("users"),
    VIDEOS.c.key: _named("videos"),
    SOUNDS.c.key: _named("sounds"),
    HASHTAGS.c.name: _named("hashtags"),
    CAPTIONS.c.caption: _caption,
    CAPTIONS.c.words: _words,
    VIDEO_TERMS.c.term: _term,
    TERMS.c.term: _term,
    MUTED_KEYWORDS.c.keyword: lambda row, context: context.names.keywords[row["keyword"]],
    SESSIONS.c.session: _session,
    SERVED.c.session: _session,
    REMEMBERED.c.session: _session,
    SOUNDS.c.creator_id: _owner,
    # Of other people a page reads the key only.
    USERS.c.language: _own("language"),
    USERS.c.country: _own("country"),
    USERS.c.device: _own("device"),
    USERS.c.learned_since: _own("learned_since"),
    # No page reads these.
    USERS.c.created_at: _nothing,
    USERS.c.erased_at: _nothing,
    USERS.c.merged_into: _nothing,
    USERS.c.merged_at: _nothing,
    VIDEOS.c.duration_ms: _nothing,
    VIDEOS.c.stats_at: _nothing,
    VIDEOS.c.neighbours_views: _zero,
    FOLLOWS.c.created_at: _nothing,
    SESSIONS.c.contenders: _nothing,
    PROFILES.c.author: _nothing,
    PROFILES.c.note: _nothing,
    PROFILES.c.metrics: _nothing,
}
"""Columns whose values a slice replaces."""

KEPT = frozenset({
    VIDEOS.c.language, VIDEOS.c.country, VIDEOS.c.orientation, VIDEOS.c.status, VIDEOS.c.format,
    BLOCKS.c.direction, AFFINITIES.c.subject, OUTSIDE_CANDIDATES.c.source,
    SERVED.c.sources, SERVED.c.signals,
    FEEDS.c.name, FEEDS.c.profile, FEEDS.c.sources, FEEDS.c.formats, FEEDS.c.limits,
    PROFILES.c.name, PROFILES.c.source, WEIGHTS.c.signal,
    EXPERIMENTS.c.name, EXPERIMENTS.c.feed, EXPERIMENTS.c.arms, EXPERIMENTS.c.metric,
    EXPERIMENTS.c.guardrails, EXPERIMENTS.c.promoted,
})  # fmt: skip
"""Columns of text that stay: labels that many rows share, and names that operators chose."""


def rows_of(session: Session, rule: Rule, context: Context) -> Iterator[Row]:
    """Yield the rows of a table for a slice, and note whom and what they name."""
    column, chosen = rule.table.c[rule.column], sorted(getattr(context.rows, rule.among))
    allowed = {name: getattr(context.rows, among) for name, among in rule.within.items()}
    for first in range(0, len(chosen), CHUNK):
        some = sa.select(rule.table).where(column.in_(chosen[first : first + CHUNK]))
        for row in streamed(session, some):
            if all(row[name] in among for name, among in allowed.items()):
                _note(rule.table, row, context.rows)
                yield replaced(rule.table, row, context)


def streamed(session: Session, statement: sa.Select[*tuple[Any, ...]]) -> Iterator[Row]:
    """Yield the rows of a statement, fetched in batches."""
    result = lookup.run(session, statement.execution_options(yield_per=CHUNK))
    yield from map(dict, result.mappings())


def replaced(table: Table, row: Row, context: Context) -> Row:
    """Return a row with stand-ins."""
    changes = {
        column.name: REPLACED[column](row, context) for column in table.c if column in REPLACED
    }
    return {**row, **changes}


def _note(table: Table, row: Row, rows: PageRows) -> None:
    for column in table.c:
        if column in NAMED and row[column.name] is not None:
            getattr(rows, NAMED[column]).add(row[column.name])
    if table is AFFINITIES:
        getattr(rows, SUBJECTS[row["subject"]]).add(row["subject_id"])
