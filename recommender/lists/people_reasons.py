"""The reasons to follow people: who follows them, and what the viewer enjoyed of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import sqlalchemy as sa

from recommender.database import lookup
from recommender.database.expressions import Statement, constant, materialized, named, opaque
from recommender.database.session import Session
from recommender.feed.reasons import MAX_REASONS
from recommender.feed.statements import MAX_STATEMENTS
from recommender.lists.people_sources import friends_of, given_follows
from recommender.lists.people_values import PeoplePage, Person, PersonReason
from recommender.models import Video
from recommender.models.tables import FOLLOWS, USERS
from recommender.ranking.request import FeedRequest
from recommender.ranking.viewer import Viewer, ViewerParts, values_of

LATELY = 1 / 8
"""The value of the signal `active` from which someone published lately: three half-lives."""

SENTENCES: Mapping[str, str] = {
    "followed_by": "Followed by {subject}.",
    "followed_by_two": "Followed by {subject} and 1 other whom you follow.",
    "followed_by_many": "Followed by {subject} and {others:,} others whom you follow.",
    "enjoyed": "You enjoy their videos.",
    "enjoyed_lately": "You enjoyed {count:,} of their videos lately.",
    "similar_taste": "People who like what you like enjoy their videos.",
    "popular": "Popular now.",
    "popular_in_language": "Popular in your language.",
    "active": "They published lately.",
    "no_signal": "They publish videos.",
}
"""The sentences of the reasons: the kinds, and three forms for two kinds by their count."""

Causes: TypeAlias = Mapping[tuple[int, str], PersonReason]
"""The reasons that name or count something, by the creator and the signal that they explain."""


def with_reasons(
    session: Session, request: FeedRequest, page: PeoplePage, spoken: Sequence[float]
) -> PeoplePage:
    """Return a page whose people tell their reasons: one statement, none for an unknown viewer.

    Args:
        session: the caller's transaction.
        request: the request of the page.
        page: the page.
        spoken: for each person 1 if they are popular in the viewer's language, else 0.
    """
    causes = _read_causes(session, request, [item.creator_id for item in page.items])
    items = tuple(
        _telling(item, causes, is_spoken=bool(is_spoken))
        for item, is_spoken in zip(page.items, spoken, strict=False)
    )
    return replace(page, items=items)


def _telling(item: Person, causes: Causes, *, is_spoken: bool) -> Person:
    """Return a person who tells up to three reasons, the strongest first."""
    found = tuple(_reasons(item, causes, is_spoken=is_spoken))[:MAX_REASONS]
    reasons = found or (PersonReason("active" if _is_active(item) else "no_signal"),)
    return replace(item, reasons=reasons, reason=" ".join(map(sentence_of, reasons)))


def _is_active(item: Person) -> bool:
    """Return whether a person published lately, which is a reason only if there is no other."""
    active = item.signals.get("active")
    return active is not None and active.value >= LATELY


def _reasons(item: Person, causes: Causes, *, is_spoken: bool) -> Iterator[PersonReason]:
    """Yield the reasons for a person; what is the same for all viewers comes last."""
    parts = {n: c.contribution for n, c in item.signals.items() if c.contribution > 0 < c.value}
    for signal in sorted(parts, key=lambda name: (name == "popular", -parts[name])):
        if cause := causes.get((item.creator_id, signal)):
            yield cause
        elif signal == "popular":
            yield PersonReason("popular_in_language" if is_spoken else "popular")
        elif signal in {"enjoyed", "similar_taste"}:
            yield PersonReason(signal)


def sentence_of(reason: PersonReason) -> str:
    """Return the sentence of a reason, such as "Followed by ana and 1 other whom you follow."."""
    kind, others = reason.kind, (reason.count or 1) - 1
    if kind == "followed_by" and others:
        kind = "followed_by_two" if others == 1 else "followed_by_many"
    if kind == "enjoyed" and reason.count:
        kind = "enjoyed_lately"
    return SENTENCES[kind].format(subject=reason.subject, others=others, count=reason.count)


def _read_causes(session: Session, request: FeedRequest, creators: Sequence[int]) -> Causes:
    """Read the reasons that name someone or count something."""
    if not request.known or not creators:
        return {}
    listed = lookup.listed_values(session, 1, [(creator,) for creator in creators])
    has_friends = request.friends is not None
    query = people_cause_query(lookup.is_sqlite(session), has_friends=has_friends)
    rows = lookup.connection(session).execute(query, {**values_of(request), **listed})
    return {
        (row.creator_id, row.signal): PersonReason(row.signal, row.subject, row.number)
        for row in rows
    }


@lru_cache(MAX_STATEMENTS)
def people_cause_query(
    on_sqlite: bool,  # noqa: FBT001 - the cache key
    *,
    has_friends: bool = False,
) -> Statement:
    """Return the statement that reads a row per creator and signal: its subject and its count.

    Execute it with `values_of` a request and `lookup.listed_values` of the creators' row ids.
    """
    viewer = Viewer.named(ViewerParts(has_friends=has_friends))
    listed = lookup.listed(on_sqlite, (USERS.c.id,))
    page = sa.select(listed.c.id.label("creator_id")).cte("page")
    follows = given_follows(viewer) if has_friends else FOLLOWS
    rows = sa.union_all(_followers(viewer, page, follows), _enjoyed(viewer, page)).subquery(
        "causes"
    )
    return named(sa.select(rows), "people_reasons")


def _followers(viewer: Viewer, page: Any, follows: Any) -> Statement:
    """Return the first friend of each creator, and their number."""
    friends = friends_of(viewer)
    # Opaque, so that each pair is looked up, and no friend's follows are read as a whole.
    friend = opaque(friends.c.user_id, page.c.creator_id)
    is_follow = sa.and_(follows.c.user_id == friend, follows.c.creator_id == page.c.creator_id)
    # A subquery for each name, because a join could start at all users.
    name = sa.select(USERS.c.key).where(USERS.c.id == follows.c.user_id).scalar_subquery()
    columns = _cause(page.c.creator_id, "followed_by", sa.func.min(name))
    rows = sa.select(*columns).select_from(page).join(friends, sa.true()).join(follows, is_follow)
    return rows.group_by(page.c.creator_id)


def _enjoyed(viewer: Viewer, page: Any) -> Statement:
    """Return the number of the viewer's recently engaged videos by each creator."""
    # Materialized: PostgreSQL would read all videos of the page's creators.
    recent = sa.select(Video.creator_id).join(viewer.recent, viewer.recent.c.video_id == Video.id)
    enjoyed = materialized(recent.cte("enjoyed"))
    columns = _cause(enjoyed.c.creator_id, "enjoyed", sa.cast(sa.null(), sa.Text()))
    is_on_page = enjoyed.c.creator_id.in_(sa.select(page.c.creator_id))
    return sa.select(*columns).where(is_on_page).group_by(enjoyed.c.creator_id)


def _cause(creator_id: Any, signal: str, subject: Any) -> list[Any]:
    return [
        creator_id.label("creator_id"),
        constant(signal, sa.Text()).label("signal"),
        subject.label("subject"),
        sa.func.count().label("number"),
    ]
